//! Peers with an asynchronous client: each on a runtime of one thread, the caller's.
//!
//! It owns the loops, which are the same for all of them: one call after the other, or as many tasks as calls are in flight,
//! each of which calls again as soon as it is answered.

use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use invoked::ctl::bench::{Amount, Done, Load};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::JoinSet;

use crate::peer::{Peer, wrong};
use crate::request::Fault;

/// One of so many calls is timed, and the clock looked at then.
const TIMED: u64 = 16;

/// A connection of a peer's client, shared by the tasks that call through it.
pub(crate) trait Connection: Clone + 'static {
    /// Whether calls that are in flight together are sent by one task, as [`batch`](Self::batch) does.
    const BATCHES: bool = false;

    fn connect(address: &Path) -> impl Future<Output = Result<Self, Fault>>;

    /// As [`Peer::call`].
    fn call(&self, size: u32) -> impl Future<Output = Result<usize, Fault>>;

    /// Sends so many requests before it takes their replies.
    fn batch(&self, size: u32, count: u32) -> impl Future<Output = Result<(), Fault>> {
        async move {
            for _ in 0..count {
                self.call(size).await?;
            }
            Ok(())
        }
    }
}

/// A peer whose client is asynchronous. `S` is what has to live as long as it is called.
pub(crate) struct Asynchronous<C, S> {
    // They end before what runs their tasks.
    connections: Vec<C>,
    runtime: LocalRuntime,
    _server: S,
    address: std::path::PathBuf,
    servers: Vec<u32>,
}

impl<C: Connection, S> Asynchronous<C, S> {
    /// Connects to `server`, which listens at `address` and consists of the processes `servers`.
    pub(crate) fn new(server: S, address: &Path, servers: Vec<u32>) -> Result<Self, Fault> {
        let runtime = runtime()?;
        let connection = runtime.block_on(C::connect(address))?;
        Ok(Asynchronous {
            connections: vec![connection],
            runtime,
            _server: server,
            address: address.to_owned(),
            servers,
        })
    }
}

/// A runtime on the calling thread, for both ends.
pub(crate) fn runtime() -> Result<LocalRuntime, Fault> {
    Ok(Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?)
}

impl<C: Connection, S> Peer for Asynchronous<C, S> {
    fn call(&mut self, size: u32) -> Result<usize, Fault> {
        let connection = &self.connections[0];
        self.runtime.block_on(connection.call(size))
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, Fault> {
        let (connections, wanted) = (&mut self.connections, load.connections as usize);
        self.runtime.block_on(async {
            while connections.len() < wanted {
                connections.push(C::connect(&self.address).await?);
            }
            let (tasks, at_once) = if C::BATCHES { (1, load.in_flight) } else { (load.in_flight, 1) };
            let goal = Goal::new(amount, u64::from(load.connections) * u64::from(tasks));
            let callers =
                connections[..wanted].iter().flat_map(|connection| (0..tasks).map(move |_| connection));
            let mut working = JoinSet::new();
            for (connection, index) in callers.zip(0..) {
                working.spawn_local(work(connection.clone(), load.size, at_once, goal.clone(), index));
            }
            let mut sum = Done::default();
            while let Some(done) = working.join_next().await {
                let done = done??;
                sum.units += done.units;
                sum.times.extend(done.times);
            }
            Ok(sum)
        })
    }

    fn servers(&self) -> Vec<u32> {
        self.servers.clone()
    }
}

/// When the tasks of a turn are done.
#[derive(Clone)]
struct Goal {
    amount: Amount,
    tasks: u64,
    begin: Instant,
    over: Rc<Cell<bool>>,
}

impl Goal {
    fn new(amount: Amount, tasks: u64) -> Self {
        Goal { amount, tasks, begin: Instant::now(), over: Rc::default() }
    }

    /// Whether a task with this index that has done so much is done. `looks` if it may look at the clock.
    fn is_reached(&self, index: u64, units: u64, looks: bool) -> bool {
        match self.amount {
            Amount::Count(count) => units >= count / self.tasks + u64::from(index < count % self.tasks),
            // At least one, however slow.
            Amount::Time(time) => {
                if looks && self.begin.elapsed() >= time {
                    self.over.set(true);
                }
                units > 0 && self.over.get()
            }
        }
    }
}

/// Calls again and again, `at_once` calls at a time.
async fn work<C: Connection>(
    connection: C,
    size: u32,
    at_once: u32,
    goal: Goal,
    index: u64,
) -> Result<Done, Fault> {
    let mut done = Done::default();
    let mut turns = index;
    loop {
        // Each task begins elsewhere, so that one of them looks at the clock every so many calls of all.
        let looks = at_once > 1 || turns.is_multiple_of(TIMED);
        if goal.is_reached(index, done.units, looks) {
            return Ok(done);
        }
        let start = looks.then(Instant::now);
        if at_once > 1 {
            connection.batch(size, at_once).await?;
        } else {
            let got = connection.call(size).await?;
            if u32::try_from(got) != Ok(size) {
                return Err(wrong(got, size));
            }
        }
        done.times.extend(start.map(nanoseconds_since));
        done.units += u64::from(at_once);
        turns += 1;
    }
}

pub(crate) fn nanoseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Duration;

    use invoked::ctl::bench::{Amount, Load};

    use super::{Asynchronous, Connection};
    use crate::peer::Peer;
    use crate::request::Fault;

    /// Counts the calls that are open at once.
    #[derive(Clone, Default)]
    struct Counted {
        open: Rc<Cell<u32>>,
        most: Rc<Cell<u32>>,
    }

    impl Connection for Counted {
        async fn connect(_: &Path) -> Result<Self, Fault> {
            Ok(Counted::default())
        }

        async fn call(&self, size: u32) -> Result<usize, Fault> {
            self.open.set(self.open.get() + 1);
            self.most.set(self.most.get().max(self.open.get()));
            tokio::task::yield_now().await;
            self.open.set(self.open.get() - 1);
            if size == 13 { Err("unlucky".into()) } else { Ok(size as usize) }
        }
    }

    fn peer() -> Asynchronous<Counted, ()> {
        Asynchronous::new((), Path::new("nowhere"), Vec::new()).expect("a runtime")
    }

    #[test]
    fn as_many_calls_are_open_as_the_load_says() {
        let mut peer = peer();
        let load = Load { size: 64, in_flight: 5, connections: 2 };
        let done = peer.carry(load, Amount::Count(103)).expect("carried");
        assert_eq!(done.units, 103);
        assert!(!done.times.is_empty());
        assert_eq!(peer.connections.iter().map(|one| one.most.get()).collect::<Vec<_>>(), [5, 5]);
        let done = peer.carry(load, Amount::Time(Duration::ZERO)).expect("carried");
        assert!(done.units >= 10, "each at least one, {}", done.units);
        assert_eq!(peer.call(7).expect("answered"), 7);
    }

    #[test]
    fn a_call_that_fails_ends_the_turn() {
        let load = Load { size: 13, in_flight: 2, connections: 1 };
        assert_eq!(peer().carry(load, Amount::Count(10)).expect_err("unlucky").to_string(), "unlucky");
    }
}
