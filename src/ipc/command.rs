//! Commands and how they are registered.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::invoke::{Invoke, InvokeMessage};
use super::response::Outcome;
use crate::authority::InputError;

/// A future of an outcome.
pub type OutcomeFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Where a command runs.
#[derive(Clone)]
#[non_exhaustive]
pub enum Execution {
    /// In place, on the daemon's loop: it must not wait. For requests of up to 16 KiB; a larger one runs on the pool.
    Inline(Arc<dyn Fn(&InvokeMessage) -> Outcome + Send + Sync>),
    /// On the pool of blocking threads.
    Blocking(Arc<dyn Fn(&InvokeMessage) -> Outcome + Send + Sync>),
    /// On the worker runtime.
    Async(Arc<dyn Fn(InvokeMessage) -> OutcomeFuture + Send + Sync>),
    /// Polled once in place; if it is not ready then, it goes on on the worker runtime.
    InlineAsync(Arc<dyn Fn(InvokeMessage) -> OutcomeFuture + Send + Sync>),
    /// Called on the pool with the means to answer, now or later, from any thread.
    Deferred(Arc<dyn Fn(Invoke) + Send + Sync>),
}

impl Execution {
    /// Its name, as `describe` prints it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Execution::Inline(_) => "inline",
            Execution::Blocking(_) => "blocking",
            Execution::Async(_) => "async",
            Execution::InlineAsync(_) => "inline async",
            Execution::Deferred(_) => "deferred",
        }
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An argument of a command, for `describe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The key on the wire.
    pub key: &'static str,
    /// The Rust type, as it stands in the source.
    pub kind: &'static str,
    /// Whether a call may leave it out.
    pub optional: bool,
}

/// What of a call's arguments a command asks its scopes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeQuestion {
    /// This value.
    Judge(Value),
    /// Nothing: what the arguments name may be judged by no scope, so the call is denied.
    Refuse(Value, InputError),
}

/// Gives the question that a call with these arguments asks its scopes. It may block.
///
/// # Errors
/// What is wrong with the arguments.
pub type ScopeQuestioner = fn(&Map<String, Value>) -> Result<ScopeQuestion, String>;

/// A command: its name within its plugin, how it runs, and what is told of it.
///
/// `#[command]` makes one of a function; [`generate_handler!`](crate::generate_handler) collects them.
#[derive(Debug, Clone)]
pub struct Command {
    pub(crate) name: &'static str,
    pub(crate) execution: Execution,
    pub(crate) docs: &'static str,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) takes_raw: bool,
    pub(crate) scoped: bool,
    pub(crate) questioner: Option<ScopeQuestioner>,
}

impl Command {
    /// A command that runs as `execution` says.
    #[must_use]
    pub fn new(name: &'static str, execution: Execution) -> Self {
        Command {
            name,
            execution,
            docs: "",
            arguments: Vec::new(),
            takes_raw: false,
            scoped: false,
            questioner: None,
        }
    }

    /// A command that runs in place.
    pub fn inline(
        name: &'static str,
        run: impl Fn(&InvokeMessage) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Command::new(name, Execution::Inline(Arc::new(run)))
    }

    /// A command that runs on the pool.
    pub fn blocking(
        name: &'static str,
        run: impl Fn(&InvokeMessage) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Command::new(name, Execution::Blocking(Arc::new(run)))
    }

    /// A command that runs on the worker runtime.
    pub fn future<F>(name: &'static str, run: impl Fn(InvokeMessage) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Command::new(name, Execution::Async(Arc::new(move |message| Box::pin(run(message)))))
    }

    /// A command that is polled once in place.
    pub fn inline_future<F>(
        name: &'static str,
        run: impl Fn(InvokeMessage) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Command::new(name, Execution::InlineAsync(Arc::new(move |message| Box::pin(run(message)))))
    }

    /// A command that answers by itself, now or later.
    pub fn deferred(name: &'static str, run: impl Fn(Invoke) + Send + Sync + 'static) -> Self {
        Command::new(name, Execution::Deferred(Arc::new(run)))
    }

    /// Sets the text that `describe` prints; its first line is the summary.
    #[must_use]
    pub fn docs(mut self, docs: &'static str) -> Self {
        self.docs = docs;
        self
    }

    /// Tells of an argument.
    #[must_use]
    pub fn argument(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Tells that the body is raw, not an object of arguments.
    #[must_use]
    pub fn takes_raw(mut self) -> Self {
        self.takes_raw = true;
        self
    }

    /// Tells that the command checks the scopes of its grant.
    #[must_use]
    pub fn scoped(mut self) -> Self {
        self.scoped = true;
        self
    }

    /// Whether it checks the scopes of its grant.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.scoped
    }

    /// Tells what the command asks its scopes about, so that `explain` can ask the same without a call. The command is
    /// [`scoped`](Self::scoped) then.
    #[must_use]
    pub fn asks_scopes(self, questioner: ScopeQuestioner) -> Self {
        Command { questioner: Some(questioner), ..self.scoped() }
    }

    /// The name within its plugin.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }
}
