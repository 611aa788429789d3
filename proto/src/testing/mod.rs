//! A client and a daemon joined in memory, with a virtual clock and counted file descriptors, for tests without
//! sockets and without sleeps.

mod records;
mod witness;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::connection::{Connection, Event, Settings, Transmit};
use crate::error::PeerError;
use crate::metadata::{Hello, Welcome};
use crate::registry::LIMITS;

pub use records::{AnyRecord, frame};
pub use witness::{CreditWitness, Seen};

/// Stands for a file descriptor; the counter says how many are open.
#[derive(Debug)]
pub struct Token(Rc<Cell<usize>>);

impl Token {
    /// Opens a token under `counter`.
    #[must_use]
    pub fn open(counter: &Rc<Cell<usize>>) -> Self {
        counter.set(counter.get() + 1);
        Token(Rc::clone(counter))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Two connections and the bytes between them.
#[derive(Debug)]
pub struct Pair {
    /// The connecting side.
    pub client: Connection<Token>,
    /// The accepting side.
    pub daemon: Connection<Token>,
    /// The time that both are told.
    pub now: Instant,
    /// Bytes handed over at once: 1 splits everywhere.
    pub read_size: usize,
}

impl Pair {
    /// Both sides with default settings, nothing exchanged yet.
    ///
    /// # Panics
    /// If the default HELLO is refused, which would be a bug.
    #[must_use]
    pub fn new() -> Self {
        Self::with_settings(Settings::default(), Settings::default())
    }

    /// Both sides with settings of their own.
    ///
    /// # Panics
    /// If the default HELLO is refused, which would be a bug.
    #[must_use]
    pub fn with_settings(client: Settings, daemon: Settings) -> Self {
        let now = start();
        Pair {
            client: Connection::client(client, &Hello::default(), now).expect("a default HELLO is legal"),
            daemon: Connection::daemon(daemon, now),
            now,
            read_size: usize::MAX,
        }
    }

    /// Both sides after the handshake, their events taken.
    ///
    /// # Panics
    /// If the handshake fails.
    #[must_use]
    pub fn open() -> Self {
        Self::open_with(Settings::default(), Settings::default())
    }

    /// Both sides with settings of their own after the handshake; the daemon has announced its windows.
    ///
    /// # Panics
    /// If the handshake fails.
    #[must_use]
    pub fn open_with(client: Settings, daemon: Settings) -> Self {
        let mut pair = Self::with_settings(client, daemon);
        pair.to_daemon().expect("the client's handshake is legal");
        let greeted = pair.daemon.poll_event();
        assert!(matches!(greeted, Some(Event::Greeted(_))), "{greeted:?}");
        let announced = LIMITS.iter().filter_map(|limit| match limit.name {
            "open_channels" => Some((limit.id?, daemon.open_channels as u64)),
            "channel_window" => Some((limit.id?, daemon.channel_window)),
            "connection_window" => Some((limit.id?, daemon.connection_window)),
            _ => None,
        });
        let welcome = Welcome { limits: announced.collect(), ..Welcome::default() };
        pair.daemon.welcome(&welcome).expect("a HELLO waits");
        pair.to_client().expect("the daemon's handshake is legal");
        let welcomed = pair.client.poll_event();
        assert!(matches!(welcomed, Some(Event::Welcomed(_))), "{welcomed:?}");
        pair
    }

    /// Carries all output of the client to the daemon.
    ///
    /// # Errors
    /// What the daemon found wrong.
    pub fn to_daemon(&mut self) -> Result<(), PeerError> {
        carry(&mut self.client, &mut self.daemon, self.now, self.read_size)
    }

    /// Carries all output of the daemon to the client.
    ///
    /// # Errors
    /// What the client found wrong.
    pub fn to_client(&mut self) -> Result<(), PeerError> {
        carry(&mut self.daemon, &mut self.client, self.now, self.read_size)
    }

    /// Moves the clock.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// Where virtual time starts. Only differences to it mean anything.
#[must_use]
pub fn start() -> Instant {
    Instant::now()
}

/// All output of `connection`, as one run of bytes; its file descriptors are closed.
#[must_use]
pub fn output<A>(connection: &mut Connection<A>) -> Bytes {
    let mut bytes = BytesMut::new();
    while let Some((more, _)) = next_output(connection) {
        bytes.extend_from_slice(&more);
    }
    bytes.freeze()
}

/// The next bytes of `connection` that are written at once, and the file descriptors that ride the first of them.
pub fn next_output<A>(connection: &mut Connection<A>) -> Option<(Bytes, Vec<A>)> {
    let mut transmit = Transmit::default();
    if !connection.poll_transmit(&mut transmit) {
        return None;
    }
    let fds = transmit.take_fds();
    let mut bytes = BytesMut::new();
    while !transmit.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 64];
        let filled = transmit.slices(&mut slices);
        let before = bytes.len();
        for slice in &slices[..filled] {
            bytes.extend_from_slice(slice);
        }
        transmit.advance(bytes.len() - before);
    }
    Some((bytes.freeze(), fds))
}

fn carry(
    from: &mut Connection<Token>,
    to: &mut Connection<Token>,
    now: Instant,
    read_size: usize,
) -> Result<(), PeerError> {
    while let Some((mut bytes, mut fds)) = next_output(from) {
        while !bytes.is_empty() {
            let read = bytes.split_to(read_size.min(bytes.len()));
            to.handle_input(now, read, std::mem::take(&mut fds))?;
        }
    }
    Ok(())
}
