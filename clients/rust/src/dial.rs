//! From options to a connected socket whose server may be trusted.
//!
//! It owns what a client knows of its connection; the handshake is the clients'. It blocks the thread for as long as a
//! daemon's queue of new connections is full.

use invoked_proto::metadata::Welcome;
use invoked_transport::Address;
pub(crate) use invoked_transport::Dialled;

use crate::error::{Error, Retry};
use crate::options::Options;

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
    let dialled = invoked_transport::dial(&options.address, options.server, options.connect_timeout)
        .map_err(|error| {
            let retry = if error.may_pass() { Retry::MayHelp } else { Retry::Useless };
            let (message, source) = error.into_parts();
            Error::no_connection(message, retry, source)
        })?;
    if !options.takes_fds() {
        // No lane that needs descriptors is offered, so none need come in. An old kernel can't keep them out; then the protocol
        // connection refuses what comes.
        let _ = dialled.stream.refuse_fds();
    }
    Ok(dialled)
}
