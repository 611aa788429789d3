//! Why there are no figures, or why they fail.

use std::path::PathBuf;
use std::process::ExitStatus;

use invoked::ctl::bench::BenchError;
use invoked_client::AddressError;

/// Why there are no figures, or why they fail.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The programs could not be built.
    #[error("cargo build --release failed with {0}")]
    Build(ExitStatus),
    /// A program is not where it is built.
    #[error("{} is not there: cargo build --release --bin invoked --bin invokectl", .0.display())]
    Missing(PathBuf),
    /// The temporary directory has too long a name.
    #[error("{0}; set TMPDIR to a shorter path")]
    Address(#[from] AddressError),
    /// The daemon ended before it could be measured.
    #[error("the daemon ended with {status}: {log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said.
        log: String,
    },
    /// The daemon does not answer.
    #[error("{0}")]
    Connect(#[from] invoked_client::Error),
    /// A measurement failed.
    #[error("{0}")]
    Bench(#[from] BenchError),
    /// A target is missed.
    #[error("{what} is {best:.2}, not {bound}, in each of {attempts} attempts")]
    Missed {
        /// What has a target.
        what: String,
        /// The best of the attempts.
        best: f64,
        /// The target.
        bound: String,
        /// How many there were.
        attempts: u32,
    },
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Failure::Io { what, source }
    }
}
