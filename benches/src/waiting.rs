//! A hosted command where neither end looks before it waits.

use std::time::Duration;

use invoked::ctl::bench::{BenchError, HOSTED, Hosted, Subject};
use invoked_client::blocking::Client;

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::programs::Programs;

/// [`Hosted`], with a daemon of its own and a client that wait at once: what compares with `tokio-uds`, whose ends do too.
#[derive(Debug)]
pub(crate) struct Waiting {
    hosted: Hosted,
    // It ends after the client.
    _daemon: Daemon,
}

impl Waiting {
    pub(crate) fn start(programs: &Programs) -> Result<Self, Failure> {
        let mut daemon = Daemon::start_as(&programs.invoked, "[runtime]\nbusy_poll_us = 0\n")?;
        drop(daemon.connect()?);
        let client = Client::connect(daemon.options().busy_poll(Duration::ZERO))?;
        Ok(Waiting { hosted: Hosted::new(client), _daemon: daemon })
    }
}

impl Subject for Waiting {
    fn system(&self) -> &'static str {
        HOSTED
    }

    fn mode(&self, _: u32) -> &'static str {
        "waiting"
    }

    fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
        self.hosted.round_trip(size)
    }
}
