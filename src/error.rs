//! What can go wrong before a daemon runs, and what application code gets from this crate while it does.

use std::io;
use std::path::PathBuf;

use crate::authority::PolicyError;

/// An error of any type.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Why a daemon could not be built or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A name is not a legal one.
    #[error("name {name:?}: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The commands contradict each other.
    #[error("{0}")]
    Commands(String),
    /// A setup hook failed.
    #[error("{}: {message}", .plugin.as_ref().map_or_else(|| "setup".to_owned(), |name| format!("setup of plugin {name}")))]
    Setup {
        /// The plugin whose hook it is; `None` for the application's own.
        plugin: Option<String>,
        /// Why it failed, with its causes.
        message: String,
    },
    /// The policy is not sound; nothing is in force of it.
    #[error("the policy has {} error{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Policy(Vec<PolicyError>),
    /// The configuration file is not sound.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// No address can be chosen.
    #[error(transparent)]
    Address(#[from] invoked_transport::AddressError),
    /// The daemon can not listen.
    #[error(transparent)]
    Bind(#[from] invoked_transport::BindError),
    /// `--dev` at a place where it would grant too much.
    #[error("{0}")]
    Dev(String),
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl BuildError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| BuildError::Io { what, source }
    }
}

/// What application code gets from this crate. A command may return it: its caller gets the text, as the application's
/// own error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// JSON could not be read or written.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The daemon could not be built or started.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The policy was not changed.
    #[error(transparent)]
    Change(#[from] crate::daemon::ChangeError),
    /// A task panicked or was cancelled.
    #[error(transparent)]
    JoinError(#[from] tokio::task::JoinError),
    /// The framework refused or could not do something.
    #[error(transparent)]
    Fault(#[from] crate::ipc::Fault),
    /// An item could not be sent on a channel.
    #[error(transparent)]
    Channel(#[from] crate::ipc::SendError),
    /// The environment doesn't tell where this directory is.
    #[error("where {0} is can't be told from the environment")]
    UnknownPath(&'static str),
    /// A path would leave the directory that it is resolved against.
    #[error("{} leaves the directory that it is resolved against", .0.display())]
    PathEscapes(PathBuf),
    /// Whatever else a command or a hook wants to say.
    #[error(transparent)]
    Other(#[from] AnyError),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
