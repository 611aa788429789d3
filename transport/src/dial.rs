//! From what a program says of its daemon's address to a connected stream whose server may be trusted.
//!
//! Owns the choice of whom to accept at the other end, for whoever connects: callers and providers. What is said on the
//! stream is theirs.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::address::Address;
use crate::choose::{AddressOptions, ChosenAddress, choose_address, default_addresses, process_env};
use crate::connect::{ConnectError, ConnectFault};
use crate::stream::Stream;
use crate::users::describe_uid;

/// Whom a program accepts at the other end of its socket. The kernel says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Server {
    /// Root, or the uid of this process. At an address that nobody named, also the owner of a directory that only root or
    /// that owner could have made, as for a system daemon with a user of its own.
    #[default]
    Trusted,
    /// This uid, besides root and the uid of this process.
    Uid(u32),
    /// Whoever listens there. For an address that its user trusts for another reason.
    Anyone,
}

/// A connected socket, and to whom.
#[derive(Debug)]
pub struct Dialled {
    /// The socket; nothing was said on it.
    pub stream: Stream,
    /// Where its server listens.
    pub address: Address,
    /// The uid of whoever listens there, from the kernel.
    pub server_uid: u32,
}

/// Why there is no connection: where to, what is there, and what to do.
#[derive(Debug)]
pub struct DialError {
    message: String,
    source: Option<io::Error>,
    may_pass: bool,
}

impl DialError {
    /// Whether trying again later may help: nobody listens there now, or the one who does is busy.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// The text, and what the machine said if it refused something.
    #[must_use]
    pub fn into_parts(self) -> (String, Option<io::Error>) {
        (self.message, self.source)
    }

    fn useless(message: String, source: Option<io::Error>) -> Self {
        DialError { message, source, may_pass: false }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

/// Connects, and makes sure that the server is one that `server` accepts. It blocks the thread while the queue of new
/// connections there is full, for up to `limit`.
///
/// # Errors
/// [`DialError`]; nothing was sent to anybody then.
pub fn dial(options: &AddressOptions, server: Server, limit: Duration) -> Result<Dialled, DialError> {
    let chosen = choose_address(options, &process_env)
        .map_err(|error| DialError::useless(with_sources(&error), None))?;
    let stream = connect(&chosen, server, limit).map_err(|error| explain(error, options))?;
    let credentials = stream.credentials().map_err(|error| {
        let message = format!("the kernel does not say who listens on {}", chosen.address);
        DialError::useless(message, Some(error))
    })?;
    check_server(credentials.uid, &chosen, server)?;
    Ok(Dialled { stream, address: chosen.address, server_uid: credentials.uid })
}

fn connect(chosen: &ChosenAddress, server: Server, limit: Duration) -> Result<Stream, ConnectError> {
    if is_checked_by_place(chosen, server) {
        return Stream::connect_chosen(chosen);
    }
    Stream::connect_within(&chosen.address, limit)
        .map_err(|error| ConnectError { chosen_by: Some(chosen.source), ..error })
}

/// Whether the place of an address says who may serve it: only an address that nobody named follows from a rule.
fn is_checked_by_place(chosen: &ChosenAddress, server: Server) -> bool {
    server == Server::Trusted && !chosen.source.is_explicit()
}

fn check_server(uid: u32, chosen: &ChosenAddress, server: Server) -> Result<(), DialError> {
    let own = rustix::process::geteuid().as_raw();
    let trusted = match server {
        Server::Anyone => true,
        Server::Trusted if is_checked_by_place(chosen, server) => true,
        Server::Trusted => uid == 0 || uid == own,
        Server::Uid(expected) => uid == 0 || uid == own || uid == expected,
    };
    if trusted {
        return Ok(());
    }
    let expected = match server {
        Server::Uid(expected) => format!("root, {} or {}", describe_uid(own), describe_uid(expected)),
        Server::Trusted | Server::Anyone => format!("root or {}", describe_uid(own)),
    };
    let message = format!(
        "{} is served by {}, and this client trusts {expected} only: name the server's uid if it is the right one",
        chosen.address,
        describe_uid(uid)
    );
    Err(DialError::useless(message, None))
}

fn explain(error: ConnectError, options: &AddressOptions) -> DialError {
    let absent = matches!(error.fault, ConnectFault::NotFound | ConnectFault::NotListening { .. });
    let by_rule = error.chosen_by.is_some_and(|source| !source.is_explicit());
    let error = if absent && by_rule {
        // The daemon may run for the user while the system's was asked, or the other way round.
        error.look_elsewhere(&default_addresses(options.app.as_ref(), &process_env))
    } else {
        error
    };
    let may_pass = absent || matches!(error.fault, ConnectFault::Busy { .. });
    let message = error.to_string();
    let source = match error.fault {
        ConnectFault::Io(source) => Some(source),
        _ => None,
    };
    DialError { message, source, may_pass }
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
