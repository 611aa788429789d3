//! A call whose body comes back.

use invoked::ctl::bench::{BenchError, Subject};
use invoked_client::blocking::Client;

/// The daemon's `bench.echo`, called by the blocking Rust client: as many bytes there as back.
#[derive(Debug)]
pub(crate) struct Echo {
    client: Client,
    body: Vec<u8>,
}

impl Echo {
    pub(crate) const SYSTEM: &str = "hosted-echo";

    /// Measures through `client`, whose daemon has the plugin `bench`.
    pub(crate) fn new(client: Client) -> Self {
        Echo { client, body: Vec::new() }
    }
}

impl Subject for Echo {
    fn system(&self) -> &'static str {
        Self::SYSTEM
    }

    fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
        self.body.resize(usize::try_from(size).unwrap_or(usize::MAX), 7);
        let reply = self.client.call("bench.echo").raw(self.body.clone()).send();
        let reply = reply.map_err(|error| BenchError::Call(Box::new(error)))?;
        if reply.bytes() == self.body {
            Ok(())
        } else {
            Err(BenchError::WrongReply { system: Self::SYSTEM, got: reply.bytes().len(), expected: size })
        }
    }
}
