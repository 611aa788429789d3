//! A process that serves plugins at somebody else's daemon: it connects out in place of listening.
//!
//! Its commands are those that a daemon would host, run by the same runner with the same arguments. Who calls, and what they
//! may do, is the daemon's word; so a provider makes sure, as a client does, that its daemon runs as root or as its own user.
//!
//! ```no_run
//! # async fn run() -> Result<(), invoked::provider::ProvideError> {
//! /// Writes it in capitals.
//! #[invoked::command]
//! fn upper(text: String) -> String {
//!     text.to_uppercase()
//! }
//!
//! let provider = invoked::Builder::new("text")
//!     .invoke_handler(invoked::generate_handler![upper])
//!     .provide(invoked::provider::ProvideOptions::new())
//!     .await?;
//! provider.stopped().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Callers call `text.upper`. The daemon lets this process do so if a capability that matches it says `provide = ["text"]`.
//!
//! What differs from a daemon of one's own: the groups of a caller are not known ([`Peer::groups`](crate::ipc::Peer::groups) is
//! empty); a call that a command makes through its [`AppHandle`](crate::AppHandle) goes to the daemon, where it may do what both
//! the caller and this process may; and the policy can't be added to from here.

mod build;
mod bus;
mod error;
mod interface;
mod options;
mod serve;

use std::thread;

use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};

pub use error::ProvideError;
pub use invoked_transport::Server;
pub use options::{ProvideOptions, Reconnect};

use crate::error::BuildError;
use bus::Ask;

/// Questions that wait for the provider's loop, at most.
const ASKS_MAX: usize = 256;

/// A plugin as the daemon registered it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Provided {
    /// Its name.
    pub plugin: String,
    /// The major version of its interface.
    pub major: u64,
    /// Its commands, by their full names.
    pub commands: Vec<String>,
    /// Whether something that its policy needs is still to come.
    #[serde(default)]
    pub pending: bool,
}

/// A handle of a running provider; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct ProviderHandle {
    asks: mpsc::Sender<Ask>,
    /// True once it is to stop.
    stop: watch::Sender<bool>,
}

impl ProviderHandle {
    fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        (ProviderHandle { asks, stop: watch::Sender::new(false) }, asked)
    }

    /// Takes no more calls, lets those that are open end, and leaves. Returns at once.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// A provider that serves on a thread of its own.
///
/// Dropping it stops it and waits until its open calls have ended, for as long as `drain_timeout_ms` of its configuration.
#[derive(Debug)]
pub struct Provider {
    handle: ProviderHandle,
    provided: Vec<Provided>,
    /// True once the thread has nothing more to do.
    has_stopped: watch::Receiver<bool>,
    thread: Option<thread::JoinHandle<Result<(), ProvideError>>>,
}

/// A provider that is on its way to its first registration.
struct Starting {
    provider: Provider,
    ready: oneshot::Receiver<Result<Vec<Provided>, ProvideError>>,
}

impl Starting {
    /// Waits for the first registration.
    async fn ready(mut self) -> Result<Provider, ProvideError> {
        match self.ready.await {
            Ok(provided) => {
                self.provider.provided = provided?;
                Ok(self.provider)
            }
            // Its thread has ended without a word, and says why itself.
            Err(_) => Err(self.provider.join().err().unwrap_or(ProvideError::Lost)),
        }
    }

    fn ready_blocking(mut self) -> Result<Provider, ProvideError> {
        match self.ready.blocking_recv() {
            Ok(provided) => {
                self.provider.provided = provided?;
                Ok(self.provider)
            }
            Err(_) => Err(self.provider.join().err().unwrap_or(ProvideError::Lost)),
        }
    }
}

impl Provider {
    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> &ProviderHandle {
        &self.handle
    }

    /// What was registered, when it first was.
    #[must_use]
    pub fn provided(&self) -> &[Provided] {
        &self.provided
    }

    /// Takes no more calls, lets those that are open end, and leaves. Returns at once; [`stopped`](Self::stopped) and
    /// [`wait`](Self::wait) wait for it.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// Waits until it has stopped: because it was told to, or because the connection was lost and it is not to connect again.
    ///
    /// Dropping the future stops the provider, as dropping the provider does.
    ///
    /// # Errors
    /// What ended it, unless it was told to stop.
    pub async fn stopped(mut self) -> Result<(), ProvideError> {
        // It fails when the thread is gone, which is the same.
        drop(self.has_stopped.wait_for(|stopped| *stopped).await);
        self.join()
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`stopped`](Self::stopped).
    pub fn wait(mut self) -> Result<(), ProvideError> {
        self.join()
    }

    /// Stops, and waits until it has.
    ///
    /// # Errors
    /// What ended it before it was told to stop.
    pub fn shutdown(mut self) -> Result<(), ProvideError> {
        self.handle.stop();
        self.join()
    }

    fn join(&mut self) -> Result<(), ProvideError> {
        match self.thread.take().map(thread::JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                let source = std::io::Error::other("it panicked");
                Err(BuildError::Io { what: "running the provider".to_owned(), source }.into())
            }
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.handle.stop();
        drop(self.join());
    }
}
