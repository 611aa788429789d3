//! How to connect, and as whom.
//!
//! It holds choices and connects nothing.

use std::time::Duration;

use invoked_proto::Text;
use invoked_proto::connection::Settings;
use invoked_proto::metadata::Hello;
use invoked_proto::registry::{Lane, features, limits};
pub use invoked_transport::Server;
use invoked_transport::{Address, AddressOptions, BusyPoll};

use crate::outgoing::Outgoing;

/// How long [`Options::connect_timeout`] is unless it is set.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits unless it, or [`Options::timeout`], says otherwise: as long as a daemon that is told nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(limits::DEFAULT_DEADLINE_MS);

/// How a client connects: where to, as whom, and what it does when the connection is lost.
///
/// ```
/// use std::time::Duration;
/// use invoked_client::{Options, Reconnect};
///
/// let options = Options::new()
///     .address("unix:/run/invoked/invoked.sock".parse()?)
///     .name("thumbnailer", "1.4.0")
///     .timeout(Duration::from_secs(5))
///     .reconnect(Reconnect::Automatic);
/// # drop(options);
/// # Ok::<(), invoked_client::AddressError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) address: AddressOptions,
    pub(crate) server: Server,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) reconnect: Reconnect,
    pub(crate) busy_poll: Duration,
    pub(crate) shared_memory: bool,
    pub(crate) files: bool,
    name: Option<String>,
    version: String,
    narrow: Option<Vec<String>>,
}

/// What a client does about a lost connection. It never reconnects while nobody calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reconnect {
    /// Nothing: calls fail with `unavailable` until `reconnect` is called.
    #[default]
    Explicit,
    /// The next call connects anew first. The calls that were lost fail.
    Automatic,
    /// As [`Automatic`](Self::Automatic), and a call that was lost is sent again, once, if that is safe: if it is marked
    /// idempotent, or certainly was not delivered.
    AutomaticResend,
}

impl Options {
    /// The defaults: the address from the environment, the program's own name, 5 s to connect, 30 s a call, no reconnecting.
    #[must_use]
    pub fn new() -> Self {
        Options {
            address: AddressOptions::default(),
            server: Server::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            timeout: Some(DEFAULT_TIMEOUT),
            reconnect: Reconnect::default(),
            busy_poll: BusyPoll::DEFAULT,
            shared_memory: true,
            files: false,
            name: None,
            version: String::new(),
            narrow: None,
        }
    }

    /// Connects to this address and no other.
    #[must_use]
    pub fn address(mut self, address: Address) -> Self {
        self.address.explicit = Some(address);
        self
    }

    /// Says by which rules the address is chosen: `--system`, `--user`, `--app`.
    #[must_use]
    pub fn address_options(mut self, address: AddressOptions) -> Self {
        self.address = address;
        self
    }

    /// The program's name and version, which the daemon shows to people. Nothing is decided by them.
    #[must_use]
    pub fn name(mut self, name: &str, version: &str) -> Self {
        self.name = Some(name.to_owned());
        self.version = version.to_owned();
        self
    }

    /// Keeps, of the capabilities that this process has at the daemon, only these. It can't be undone on the connection.
    #[must_use]
    pub fn narrow<S: Into<String>>(mut self, capabilities: impl IntoIterator<Item = S>) -> Self {
        self.narrow = Some(capabilities.into_iter().map(Into::into).collect());
        self
    }

    /// How long connecting may take, the handshake included.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call waits for its answer, unless it says otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets calls wait without end, unless they say otherwise. The daemon allows it for few commands only.
    #[must_use]
    pub fn no_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Whom to accept at the other end.
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.server = server;
        self
    }

    /// What to do about a lost connection.
    #[must_use]
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// How long a thread of the blocking client that waits for an answer looks for it, giving the processor away meanwhile,
    /// before it sleeps: 50 us unless set, at most 1 ms, zero for never. Where looking does not pay it stops by itself.
    #[must_use]
    pub fn busy_poll(mut self, length: Duration) -> Self {
        self.busy_poll = length;
        self
    }

    /// Whether large results may be read where the daemon wrote them, in memory that both processes have, and large bodies of calls
    /// and items written where the daemon reads them: results without a copy, bodies with one. Each side keeps that memory for
    /// this connection, as large as what was sent at once, until it is long not used. True unless set; otherwise all bytes go
    /// through the socket. They are the same.
    #[must_use]
    pub fn shared_memory(mut self, shared: bool) -> Self {
        self.shared_memory = shared;
        self
    }

    /// Whether a result that is a large regular file may come as the open file itself ([`Reply::file`](crate::Reply::file)): of
    /// any size, and without a byte through the daemon. False unless set: then its bytes come, as many as a message may have.
    #[must_use]
    pub fn files(mut self, files: bool) -> Self {
        self.files = files;
        self
    }

    /// The memory of a new connection.
    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing::new(self.shared_memory)
    }

    /// Whether file descriptors may come.
    pub(crate) fn takes_fds(&self) -> bool {
        self.shared_memory || self.files
    }

    /// What this client says of itself.
    pub(crate) fn hello(&self) -> Hello {
        let name = self.name.clone().unwrap_or_else(program_name);
        Hello {
            name: Text::from(name),
            version: Text::from(self.version.as_str()),
            lanes: self.lanes().map(|(lane, _)| lane as u8).collect(),
            library: Text::from_static(concat!("invoked-client/", env!("CARGO_PKG_VERSION"), " rust")),
            narrow: self
                .narrow
                .as_ref()
                .map(|names| names.iter().map(|name| Text::from(name.as_str())).collect()),
            ..Hello::default()
        }
    }

    /// The lanes that results may come on besides the frames, and the features that these need.
    fn lanes(&self) -> impl Iterator<Item = (Lane, u64)> {
        let pool = (self.shared_memory, Lane::Pool, features::POOL);
        let file = (self.files, Lane::File, features::FILE);
        let wanted = [pool, file].into_iter().filter(|(wanted, ..)| *wanted);
        wanted.map(|(_, lane, feature)| (lane, feature | features::ATTACHED_FDS))
    }

    /// What this client holds the protocol to.
    pub(crate) fn settings(&self) -> Settings {
        let handshake = u64::try_from(self.connect_timeout.as_millis()).unwrap_or(u64::MAX);
        // A day is as good as no limit, and far from what would overflow a clock.
        let handshake_timeout_ms = handshake.min(86_400_000);
        let received = self.lanes().fold(0, |all, (_, features)| all | features);
        // Files may be sent by whoever may send descriptors at all.
        let lanes = if received == 0 { 0 } else { received | features::FILE };
        Settings { features: features::CHANNELS | lanes, handshake_timeout_ms, ..Settings::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// The file name of the running program, as its user started it.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or_default();
    name.to_string_lossy().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Options;

    #[test]
    fn the_hello_says_who_connects() {
        let hello = Options::new().name("thumbs", "1.2").narrow(["read-photos"]).hello();
        assert_eq!((hello.name.as_str(), hello.version.as_str()), ("thumbs", "1.2"));
        assert!(hello.library.starts_with("invoked-client/"));
        assert_eq!(hello.narrow.expect("narrowed")[0], "read-photos");
        let hello = Options::new().hello();
        assert!(!hello.name.is_empty(), "the program has a name");
        assert!(hello.narrow.is_none());
    }

    #[test]
    fn a_timeout_without_end_overflows_nothing() {
        let settings = Options::new().connect_timeout(Duration::MAX).settings();
        assert_eq!(settings.handshake_timeout_ms, 86_400_000);
    }
}
