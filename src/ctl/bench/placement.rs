//! On which processors the two processes of a measurement run.
//!
//! It owns the affinity of the calling thread, which children inherit, and gives it back in the end.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use super::BenchError;

/// Which processors the client and the server get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// As the kernel likes.
    None,
    /// Both the same one.
    One,
    /// Each its own.
    Two,
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pin::None => "none",
            Pin::One => "one",
            Pin::Two => "two",
        })
    }
}

/// The calling thread on its processor, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Placement {
    before: CpuSet,
    client: CpuSet,
    server: CpuSet,
}

impl Placement {
    /// Moves the calling thread to the client's processor.
    ///
    /// # Errors
    /// [`BenchError::Processors`] if this process may not use enough of them; [`BenchError::Io`] from the system.
    pub fn new(pin: Pin) -> Result<Self, BenchError> {
        let before = sched_getaffinity(None)
            .map_err(|error| BenchError::io("can't read the processors of this process")(error.into()))?;
        let (client, server) = choose(pin, &before)?;
        set(&client)?;
        Ok(Placement { before, client, server })
    }

    /// Runs `start` on the server's processor: a process that it starts stays there.
    ///
    /// # Errors
    /// [`BenchError::Io`] from the system.
    pub fn on_server<T>(&self, start: impl FnOnce() -> T) -> Result<T, BenchError> {
        set(&self.server)?;
        let started = start();
        set(&self.client)?;
        Ok(started)
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        // It was allowed before, so it is allowed now.
        drop(set(&self.before));
    }
}

fn choose(pin: Pin, allowed: &CpuSet) -> Result<(CpuSet, CpuSet), BenchError> {
    let mut processors = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let too_few = |wanted| {
        let available = usize::try_from(allowed.count()).unwrap_or(usize::MAX);
        BenchError::Processors { wanted, available }
    };
    match pin {
        Pin::None => Ok((*allowed, *allowed)),
        Pin::One => {
            let only = only(processors.next().ok_or_else(|| too_few(1))?);
            Ok((only, only))
        }
        Pin::Two => match (processors.next(), processors.next()) {
            (Some(client), Some(server)) => Ok((only(client), only(server))),
            _ => Err(too_few(2)),
        },
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

fn set(set: &CpuSet) -> Result<(), BenchError> {
    sched_setaffinity(None, set)
        .map_err(|error| BenchError::io("can't move to the chosen processors")(error.into()))
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity};

    use super::{Pin, Placement, choose};
    use crate::ctl::bench::BenchError;

    #[test]
    fn processors_are_those_that_may_be_used() {
        let mut allowed = CpuSet::new();
        allowed.set(3);
        allowed.set(5);
        let (client, server) = choose(Pin::Two, &allowed).expect("two");
        assert!(client.is_set(3) && client.count() == 1 && server.is_set(5) && server.count() == 1);
        let (client, server) = choose(Pin::One, &allowed).expect("one");
        assert!(client.is_set(3) && server.is_set(3) && server.count() == 1);
        assert_eq!(choose(Pin::None, &allowed).expect("any").0.count(), 2);
        allowed.unset(5);
        let refused = choose(Pin::Two, &allowed).expect_err("one only");
        assert!(matches!(refused, BenchError::Processors { wanted: 2, available: 1 }), "{refused}");
    }

    #[test]
    fn a_placement_is_given_back() {
        let now = || sched_getaffinity(None).expect("readable");
        let before = now();
        let placement = Placement::new(Pin::One).expect("one processor");
        assert_eq!(now().count(), 1);
        let server = placement.on_server(now).expect("moved");
        assert!(server == now(), "both on one");
        drop(placement);
        assert!(before == now());
    }
}
