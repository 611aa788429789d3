//! From options to a connected socket whose server may be trusted.
//!
//! It owns the choice of the address and the check of who listens; the handshake is the clients'. It blocks the thread for
//! as long as a daemon's queue of new connections is full.

use invoked_proto::metadata::Welcome;
use invoked_transport::{
    Address, ChosenAddress, ConnectError, ConnectFault, Stream, choose_address, default_addresses,
    describe_uid, process_env,
};

use crate::error::{Error, Retry};
use crate::options::{Options, Server};

/// What a client knows of the connection it has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Where the daemon listens.
    pub address: Address,
    /// The uid of whoever listens there, from the kernel.
    pub server_uid: u32,
    /// Changes with each start of the daemon.
    pub daemon_instance: u64,
    /// The id that the daemon gave this connection.
    pub peer: u64,
    /// 1 for the client's first connection, one more with each later one.
    pub generation: u64,
    /// What the daemon has to say to this program's author.
    pub warnings: Vec<String>,
    /// Limits in force, by their id in the registry.
    pub limits: Vec<(u16, u64)>,
}

/// A connected socket, and to whom.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: Stream,
    pub(crate) address: Address,
    pub(crate) server_uid: u32,
}

impl ConnectionInfo {
    /// What is known before the handshake.
    pub(crate) fn new(dialled: &Dialled, generation: u64) -> Self {
        ConnectionInfo {
            address: dialled.address.clone(),
            server_uid: dialled.server_uid,
            daemon_instance: 0,
            peer: 0,
            generation,
            warnings: Vec::new(),
            limits: Vec::new(),
        }
    }

    /// Adds what the daemon said in the handshake.
    pub(crate) fn complete(&mut self, instance: u64, welcome: &Welcome) {
        self.daemon_instance = instance;
        self.peer = welcome.peer;
        self.warnings = welcome.warnings.iter().map(ToString::to_string).collect();
        self.limits.clone_from(&welcome.limits);
    }
}

/// Connects.
pub(crate) fn dial(options: &Options) -> Result<Dialled, Error> {
    let chosen = choose_address(&options.address, &process_env)
        .map_err(|error| Error::no_connection(with_sources(&error), Retry::Useless, None))?;
    let stream = connect(&chosen, options)?;
    let server_uid = stream.credentials().map_err(|error| {
        let message = format!("the kernel does not say who listens on {}", chosen.address);
        Error::no_connection(message, Retry::Useless, Some(error))
    })?;
    if !options.takes_fds() {
        // No lane that needs descriptors is offered, so none need come in. An old kernel can't keep them out; then the protocol
        // connection refuses what comes.
        let _ = stream.refuse_fds();
    }
    let dialled = Dialled { stream, address: chosen.address.clone(), server_uid: server_uid.uid };
    check_server(&dialled, &chosen, options.server)?;
    Ok(dialled)
}

fn connect(chosen: &ChosenAddress, options: &Options) -> Result<Stream, Error> {
    let result = if is_checked_by_place(chosen, options.server) {
        Stream::connect_chosen(chosen)
    } else {
        Stream::connect_within(&chosen.address, options.connect_timeout)
            .map_err(|error| ConnectError { chosen_by: Some(chosen.source), ..error })
    };
    result.map_err(|error| explain(error, options))
}

/// Whether the place of an address says who may serve it: only an address that nobody named follows from a rule.
fn is_checked_by_place(chosen: &ChosenAddress, server: Server) -> bool {
    server == Server::Trusted && !chosen.source.is_explicit()
}

fn check_server(dialled: &Dialled, chosen: &ChosenAddress, server: Server) -> Result<(), Error> {
    let uid = dialled.server_uid;
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
    Err(Error::no_connection(message, Retry::Useless, None))
}

fn explain(error: ConnectError, options: &Options) -> Error {
    let absent = matches!(error.fault, ConnectFault::NotFound | ConnectFault::NotListening { .. });
    let by_rule = error.chosen_by.is_some_and(|source| !source.is_explicit());
    let error = if absent && by_rule {
        // The daemon may run for the user while the system's was asked, or the other way round.
        error.look_elsewhere(&default_addresses(options.address.app.as_ref(), &process_env))
    } else {
        error
    };
    let retry = if absent || matches!(error.fault, ConnectFault::Busy { .. }) {
        Retry::MayHelp
    } else {
        Retry::Useless
    };
    let message = error.to_string();
    let source = match error.fault {
        ConnectFault::Io(source) => Some(source),
        _ => None,
    };
    Error::no_connection(message, retry, source)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
