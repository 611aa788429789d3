//! Instead of connecting: the socket that a test has made.

use std::cell::RefCell;

use invoked_proto::metadata::Welcome;

use crate::error::Error;
use crate::options::Options;
use crate::socket::Stream;

thread_local! {
    // All threads of a schedule run on one of the system's.
    static NEXT: RefCell<Option<Stream>> = const { RefCell::new(None) };
}

/// What the next client connects to.
pub(crate) fn connect_to(stream: Stream) {
    NEXT.set(Some(stream));
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub generation: u64,
    pub daemon_instance: u64,
}

#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: Stream,
}

impl ConnectionInfo {
    pub(crate) fn new(_: &Dialled, generation: u64) -> Self {
        ConnectionInfo { generation, daemon_instance: 0 }
    }

    pub(crate) fn complete(&mut self, instance: u64, _: &Welcome) {
        self.daemon_instance = instance;
    }
}

pub(crate) fn dial(_: &Options) -> Result<Dialled, Error> {
    Ok(Dialled { stream: NEXT.take().expect("a test says where to connect") })
}
