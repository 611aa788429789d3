//! What can go wrong before a daemon runs.

use std::io;
use std::path::PathBuf;

use crate::authority::PolicyError;

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
