//! Peers with a client that sends and receives, without tasks: one thread keeps a number of calls open.

use std::time::Instant;

use invoked::ctl::bench::{Amount, Done, Load};

use crate::asynchronous::nanoseconds_since;
use crate::request::Fault;

/// A client that sends on any of its connections, and receives from whichever is answered.
pub(crate) trait Window {
    fn send(&mut self, connection: usize, size: u32) -> Result<(), Fault>;

    /// Waits for a reply of `size` bytes, and tells on which connection it came.
    fn receive(&mut self, size: u32) -> Result<usize, Fault>;
}

/// Keeps as many calls open as `load` says.
pub(crate) fn carry(window: &mut impl Window, load: Load, amount: Amount) -> Result<Done, Fault> {
    let begin = Instant::now();
    let (mut done, mut sent) = (Done::default(), 0);
    let may_send = |sent: u64| match amount {
        Amount::Count(count) => sent < count,
        Amount::Time(time) => sent == 0 || begin.elapsed() < time,
    };
    // When each open call was sent is known where there is one on a connection.
    let mut starts = vec![begin; load.connections as usize];
    for _ in 0..load.in_flight {
        for (connection, start) in starts.iter_mut().enumerate() {
            if may_send(sent) {
                *start = Instant::now();
                window.send(connection, load.size)?;
                sent += 1;
            }
        }
    }
    while done.units < sent {
        let connection = window.receive(load.size)?;
        done.units += 1;
        if load.in_flight == 1 {
            done.times.push(nanoseconds_since(starts[connection]));
        }
        if may_send(sent) {
            starts[connection] = Instant::now();
            window.send(connection, load.size)?;
            sent += 1;
        }
    }
    if load.in_flight > 1 && done.units > 0 {
        // By Little's law: what is open, times the time for one.
        let open = u64::from(load.in_flight) * u64::from(load.connections);
        done.times.push(nanoseconds_since(begin) / done.units * open);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use invoked::ctl::bench::{Amount, Load};

    use super::{Window, carry};
    use crate::request::Fault;

    #[derive(Default)]
    struct Queue {
        open: VecDeque<usize>,
        most: usize,
    }

    impl Window for Queue {
        fn send(&mut self, connection: usize, _size: u32) -> Result<(), Fault> {
            self.open.push_back(connection);
            self.most = self.most.max(self.open.len());
            Ok(())
        }

        fn receive(&mut self, _size: u32) -> Result<usize, Fault> {
            Ok(self.open.pop_front().ok_or("nothing is open")?)
        }
    }

    #[test]
    fn so_many_calls_are_open_and_all_are_answered() {
        for (load, amount, units) in [
            (Load { size: 1, in_flight: 64, connections: 1 }, Amount::Count(1000), 1000),
            (Load { size: 1, in_flight: 1, connections: 8 }, Amount::Count(20), 20),
            (Load { size: 1, in_flight: 4, connections: 2 }, Amount::Count(3), 3),
        ] {
            let mut queue = Queue::default();
            let done = carry(&mut queue, load, amount).expect("carried");
            assert_eq!((done.units, queue.open.len()), (units, 0));
            let open = u64::from(load.in_flight * load.connections).min(units);
            assert_eq!(queue.most as u64, open);
            assert!(!done.times.is_empty());
        }
        let load = Load { size: 1, in_flight: 2, connections: 1 };
        let done = carry(&mut Queue::default(), load, Amount::Time(Duration::ZERO)).expect("carried");
        assert!(done.units >= 1);
    }
}
