//! The commands of a plugin or of an application, and handlers that pick calls by themselves.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use invoked_proto::registry::ErrorCode;

use super::command::Command;
use super::error::Fault;
use super::invoke::{Invoke, InvokeMessage};
use super::resolver::{InvokeResolver, ReplySink};

/// A handler that is a function: it says whether it has taken the call.
pub(crate) type Offered = Arc<dyn Fn(Invoke) -> bool + Send + Sync>;

/// What answers calls: a table of commands, as [`generate_handler!`](crate::generate_handler) gives it, or a function
/// that picks its calls by itself.
///
/// Handlers compose: a builder takes several. A call goes to the command of its name; a name that no table has goes to
/// the functions, in the order in which they were given, until one takes it. A function takes a call by returning true; if it
/// returns false and has let go of the [`Invoke`], the next one is asked.
///
/// ```
/// use invoked::ipc::Invoke;
/// use invoked::{command, generate_handler};
///
/// #[command]
/// fn version() -> &'static str { "1" }
///
/// let plugin = invoked::plugin::Builder::<invoked::Wry>::new("clock")
///     .invoke_handler(generate_handler![version])
///     .invoke_handler(|invoke: Invoke| match invoke.message.command() {
///         "zone" => { invoke.resolver.resolve("UTC"); true }
///         _ => false,
///     })
///     // Nobody could grant what a function takes, if its names stood nowhere.
///     .commands(&["zone"])
///     .build();
/// # assert_eq!(plugin.manifest()?.commands.len(), 2);
/// # Ok::<(), invoked::BuildError>(())
/// ```
#[derive(Clone, Default)]
pub struct InvokeHandler {
    pub(crate) commands: Vec<Command>,
    pub(crate) functions: Vec<Offered>,
    /// Names of commands that the functions take.
    pub(crate) names: Vec<&'static str>,
}

impl InvokeHandler {
    /// A handler of `commands`.
    #[must_use]
    pub fn new(commands: Vec<Command>) -> Self {
        InvokeHandler { commands, ..Self::default() }
    }

    /// Adds what another handler has.
    pub(crate) fn extend(&mut self, other: InvokeHandler) {
        self.commands.extend(other.commands);
        self.functions.extend(other.functions);
        self.names.extend(other.names);
    }

    /// All commands: those of the tables, and one for each name that the functions take.
    ///
    /// # Errors
    /// A text, if there are functions without names or names without functions.
    pub(crate) fn into_commands(self) -> Result<Vec<Command>, String> {
        let InvokeHandler { mut commands, functions, names } = self;
        let missing: Vec<&str> =
            names.into_iter().filter(|name| !commands.iter().any(|command| command.name == *name)).collect();
        match (functions.is_empty(), missing.is_empty()) {
            (true, true) => return Ok(commands),
            (true, false) => {
                return Err(format!("nothing handles the command {:?}, which `commands` names", missing[0]));
            }
            (false, true) => {
                let text =
                    "a handler that is a function would get no calls: name its commands by `commands(&[…])`";
                return Err(text.to_owned());
            }
            (false, false) => {}
        }
        let functions: Arc<[Offered]> = functions.into();
        for name in missing {
            let functions = Arc::clone(&functions);
            commands.push(Command::deferred(name, move |invoke| offer(&functions, invoke)));
        }
        Ok(commands)
    }
}

impl fmt::Debug for InvokeHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvokeHandler")
            .field("commands", &self.commands)
            .field("functions", &self.functions.len())
            .field("names", &self.names)
            .finish()
    }
}

impl From<Vec<Command>> for InvokeHandler {
    fn from(commands: Vec<Command>) -> Self {
        InvokeHandler::new(commands)
    }
}

impl<F: Fn(Invoke) -> bool + Send + Sync + 'static> From<F> for InvokeHandler {
    fn from(function: F) -> Self {
        InvokeHandler { functions: vec![Arc::new(function)], ..Self::default() }
    }
}

/// Offers a call to functions until one takes it.
fn offer(functions: &[Offered], invoke: Invoke) {
    let Invoke { message, mut resolver } = invoke;
    for function in functions {
        let returned = Returned::default();
        let offered = Invoke { message: message.share(), resolver: resolver.returning_to(&returned) };
        let taken = function(offered);
        match returned.close() {
            // It has answered, or will: whoever holds the resolver does.
            None => return,
            Some(sink) => resolver = InvokeResolver::new(sink, message.cancellation().clone()),
        }
        if taken {
            // Dropping the resolver says that it was taken and not answered.
            return;
        }
    }
    not_handled(&message, resolver);
}

fn not_handled(message: &InvokeMessage, resolver: InvokeResolver) {
    let text = format!("no handler of this daemon takes {}", message.name());
    resolver.finish(Err(Fault::refusal(ErrorCode::NotFound, text).into()));
}

/// Where a resolver that is dropped unanswered puts the means to answer, while a function is offered the call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Returned(Arc<Mutex<Place>>);

#[derive(Debug, Default)]
enum Place {
    /// The function still runs.
    #[default]
    Open,
    /// It let go of the call.
    Returned(ReplySink),
    /// It has returned.
    Closed,
}

impl Returned {
    /// Puts the means to answer back; returns them if the function has returned already.
    pub(crate) fn put(&self, sink: ReplySink) -> Option<ReplySink> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Open = *place {
            *place = Place::Returned(sink);
            return None;
        }
        Some(sink)
    }

    /// Takes nothing back from now on; what came back so far.
    fn close(&self) -> Option<ReplySink> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::Closed) {
            Place::Returned(sink) => Some(sink),
            Place::Open | Place::Closed => None,
        }
    }
}
