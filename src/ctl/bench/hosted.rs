//! A hosted command, called by the blocking client.

use invoked_client::blocking::Client;
use invoked_proto::registry::limits;

use super::{BenchError, HOSTED, Subject};

/// The daemon's `bench.bytes`, called by the blocking Rust client.
#[derive(Debug)]
pub struct Hosted {
    client: Client,
}

impl Hosted {
    /// Measures through `client`, whose daemon has the plugin `bench`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Hosted { client }
    }
}

impl Subject for Hosted {
    fn system(&self) -> &'static str {
        HOSTED
    }

    fn mode(&self, size: u32) -> &'static str {
        lane(size)
    }

    fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
        let reply = self.client.call("bench.bytes").arg("len", size).send();
        let reply = reply.map_err(|error| BenchError::Call(Box::new(error)))?;
        let got = reply.bytes().len();
        if u32::try_from(got) == Ok(size) {
            Ok(())
        } else {
            Err(BenchError::WrongReply { system: HOSTED, got, expected: size })
        }
    }
}

/// The lane of a reply of so many bytes, from a daemon that is told nothing else.
pub(super) fn lane(size: u32) -> &'static str {
    if u64::from(size) < limits::POOL_FROM as u64 { "inline" } else { "pool" }
}
