//! The floors of throughput: bare Unix sockets that carry the same bytes, without any protocol.
//!
//! Servers are processes as those of the other floors. A request is as theirs: 64 bytes, of which the first four are the
//! size; for items the next eight are their number.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::floor::{LONGEST, REQUEST, Served, reply_len};
use super::rounds::portion;
use super::{Amount, BenchError, Carrier, Done, Load, UDS};

/// How much is read or written at once, where more than one unit is.
const CHUNK: usize = 64 << 10;

/// Bare blocking sockets whose ends read and write as many calls at once as there are: `in_flight` requests in one write,
/// then their replies. Each connection has a thread here and a process there.
#[derive(Debug)]
pub struct BatchedFloor {
    invokectl: PathBuf,
    connections: Vec<Served>,
}

impl BatchedFloor {
    /// `invokectl` is the program to start servers with, as connections are wanted; they run where the calling thread
    /// does.
    ///
    /// # Errors
    /// [`BenchError::Io`] if a process can't be started.
    pub fn start(invokectl: &Path, connections: u32) -> Result<Self, BenchError> {
        let connections = (0..connections).map(|_| Served::start("uds-batched", invokectl));
        Ok(BatchedFloor {
            invokectl: invokectl.to_owned(),
            connections: connections.collect::<Result<_, _>>()?,
        })
    }
}

impl Carrier for BatchedFloor {
    fn system(&self) -> &'static str {
        UDS
    }

    fn mode(&self, _: Load) -> &'static str {
        "batched"
    }

    fn servers(&self) -> Option<Vec<u32>> {
        Some(self.connections.iter().map(Served::pid).collect())
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
        let wanted = load.connections as usize;
        while self.connections.len() < wanted {
            self.connections.push(Served::start("uds-batched", &self.invokectl)?);
        }
        let shares = (0_u64..).map(|index| amount.portion(index, load.connections.into()));
        let mut connections = self.connections[..wanted].iter_mut().zip(shares);
        if wanted == 1 {
            let (connection, share) = connections.next().expect("there is one");
            return batches(&mut connection.socket, load, share).map_err(BenchError::io(UDS));
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = connections
                .map(|(connection, share)| scope.spawn(move || batches(&mut connection.socket, load, share)))
                .collect();
            let mut sum = Done::default();
            for thread in threads {
                let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                sum.add(done.map_err(BenchError::io(UDS))?);
            }
            Ok(sum)
        })
    }
}

/// One connection's calls.
fn batches(socket: &mut UnixStream, load: Load, amount: Amount) -> io::Result<Done> {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&load.size.to_le_bytes());
    let requests = request.repeat(load.in_flight as usize);
    let size = usize::try_from(load.size).unwrap_or(usize::MAX).min(LONGEST);
    let mut buffer = vec![0; CHUNK];
    let mut done = Done::default();
    let begin = Instant::now();
    loop {
        let count = match amount {
            Amount::Count(count) => count.saturating_sub(done.units).min(load.in_flight.into()),
            Amount::Time(time) if done.units > 0 && begin.elapsed() >= time => 0,
            Amount::Time(_) => load.in_flight.into(),
        };
        if count == 0 {
            return Ok(done);
        }
        let batch = usize::try_from(count).unwrap_or(usize::MAX);
        let start = Instant::now();
        socket.write_all(&requests[..batch * REQUEST])?;
        take(socket, batch * size, &mut buffer)?;
        done.times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        done.units += count;
    }
}

/// Reads so many bytes, as they come.
fn take(socket: &mut UnixStream, mut left: usize, buffer: &mut [u8]) -> io::Result<()> {
    while left > 0 {
        let room = left.min(buffer.len());
        match socket.read(&mut buffer[..room])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read,
        }
    }
    Ok(())
}

/// Answers as many requests as come at once, in as few writes.
pub(super) fn serve_batched(mut socket: UnixStream) -> io::Result<()> {
    let mut input = vec![0; CHUNK];
    let mut output = Vec::new();
    let mut len = 0;
    loop {
        match socket.read(&mut input[len..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => len += read,
        }
        let whole = len - len % REQUEST;
        for request in input[..whole].chunks_exact(REQUEST) {
            output.resize(output.len() + reply_len(request)?, 0);
            if output.len() >= CHUNK {
                socket.write_all(&output)?;
                output.clear();
            }
        }
        socket.write_all(&output)?;
        output.clear();
        input.copy_within(whole..len, 0);
        len -= whole;
    }
}

/// A bare blocking socket whose server writes items, each in a write of its own or as many at once as fit 64 KiB; the reader
/// takes what is there.
#[derive(Debug)]
pub struct ItemsFloor {
    served: Served,
    writes: Writes,
    buffer: Vec<u8>,
}

/// How the server of a floor writes items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Each item by itself.
    Single,
    /// As many as fit.
    Batched,
}

impl ItemsFloor {
    /// Starts the server; `invokectl` is the program to start it with.
    ///
    /// # Errors
    /// [`BenchError::Io`] if the process can't be started.
    pub fn start(invokectl: &Path, writes: Writes) -> Result<Self, BenchError> {
        let served = Served::start("uds-items", invokectl)?;
        Ok(ItemsFloor { served, writes, buffer: vec![0; CHUNK] })
    }

    fn items(&mut self, size: u32, items: u64) -> io::Result<()> {
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&size.to_le_bytes());
        request[4..12].copy_from_slice(&items.to_le_bytes());
        request[12] = u8::from(self.writes == Writes::Batched);
        self.served.socket.write_all(&request)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let bytes = usize::try_from(items).ok().and_then(|items| items.checked_mul(size));
        let bytes = bytes.ok_or_else(|| io::Error::other("more bytes than there are numbers for"))?;
        take(&mut self.served.socket, bytes, &mut self.buffer)
    }
}

impl Carrier for ItemsFloor {
    fn system(&self) -> &'static str {
        UDS
    }

    fn mode(&self, _: Load) -> &'static str {
        match self.writes {
            Writes::Single => "single",
            Writes::Batched => "batched",
        }
    }

    fn servers(&self) -> Option<Vec<u32>> {
        Some(vec![self.served.pid()])
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
        in_chunks(load.size, amount, |items| self.items(load.size, items).map_err(BenchError::io(UDS)))
    }
}

/// Carries items in chunks of some MiB, so that a time can be kept.
pub(super) fn in_chunks(
    size: u32,
    amount: Amount,
    mut carry: impl FnMut(u64) -> Result<(), BenchError>,
) -> Result<Done, BenchError> {
    let most = (8_u64 << 20).checked_div(size.into()).unwrap_or(u64::MAX).clamp(4, 10_000);
    let mut done = Done::default();
    let begin = Instant::now();
    loop {
        let items = match amount {
            Amount::Count(count) => count.saturating_sub(done.units).min(most),
            Amount::Time(time) if done.units > 0 && begin.elapsed() >= time => 0,
            Amount::Time(_) => most,
        };
        if items == 0 {
            return Ok(done);
        }
        carry(items)?;
        done.units += items;
    }
}

/// Writes items as asked.
pub(super) fn serve_items(mut socket: UnixStream) -> io::Result<()> {
    let mut output = Vec::new();
    loop {
        let mut request = [0; REQUEST];
        socket.read_exact(&mut request)?;
        let size = reply_len(&request)?;
        let [_, _, _, _, a, b, c, d, e, f, g, h, batched, ..] = request;
        let mut items = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let at_once = if batched == 1 { (CHUNK / size.max(1)).max(1) } else { 1 };
        output.clear();
        output.resize(size * at_once, 0);
        while items > 0 {
            let count = items.min(at_once as u64);
            socket.write_all(&output[..size * usize::try_from(count).unwrap_or(at_once)])?;
            items -= count;
        }
    }
}

impl Amount {
    /// The part of one worker of so many, who work at once.
    pub(super) fn portion(self, index: u64, of: u64) -> Self {
        match self {
            Amount::Count(count) => Amount::Count(portion(count, index, of)),
            Amount::Time(time) => Amount::Time(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::{REQUEST, batches, in_chunks, serve_batched, serve_items};
    use crate::ctl::bench::{Amount, BenchError, Load};

    fn request(size: u32, items: u64, batched: u8) -> [u8; REQUEST] {
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&size.to_le_bytes());
        request[4..12].copy_from_slice(&items.to_le_bytes());
        request[12] = batched;
        request
    }

    #[test]
    fn every_request_of_a_batch_is_answered_wherever_it_is_cut() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || serve_batched(theirs));
        let requests =
            [request(5, 0, 0), request(0, 0, 0), request(100_000, 0, 0), request(1, 0, 0)].concat();
        for part in requests.chunks(50) {
            ours.write_all(part).expect("sent");
        }
        ours.read_exact(&mut [0; 100_006]).expect("answered");
        for in_flight in [1, 3, 64] {
            let load = Load { size: 10, in_flight, connections: 1 };
            let done = batches(&mut ours, load, Amount::Count(100)).expect("done");
            assert_eq!((done.units, done.times.len()), (100, 100_usize.div_ceil(in_flight as usize)));
            let done = batches(&mut ours, load, Amount::Time(Duration::ZERO)).expect("done");
            assert_eq!(done.units, u64::from(in_flight), "at least one batch");
        }
        drop(ours);
        assert_eq!(server.join().expect("no panic").expect_err("ends").kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn items_are_as_many_and_as_long_as_asked() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || serve_items(theirs));
        for (size, items) in [(64, 3000_u64), (0, 10), (70_000, 3), (1, 65_537)] {
            for batched in [0, 1] {
                ours.write_all(&request(size, items, batched)).expect("sent");
                let mut bytes = vec![1; size as usize * usize::try_from(items).expect("few")];
                ours.read_exact(&mut bytes).expect("they come");
                assert!(bytes.iter().all(|byte| *byte == 0));
            }
        }
        ours.set_nonblocking(true).expect("set");
        assert_eq!(ours.read(&mut [0]).expect_err("no more").kind(), ErrorKind::WouldBlock);
        ours.set_nonblocking(false).expect("set");
        ours.write_all(&[0xff; REQUEST]).expect("sent");
        assert_eq!(server.join().expect("no panic").expect_err("refused").kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn an_amount_is_carried_in_chunks_and_never_exceeded() {
        let mut chunks = Vec::new();
        let mut carry = |items| {
            chunks.push(items);
            Ok::<_, BenchError>(())
        };
        assert_eq!(in_chunks(1 << 20, Amount::Count(21), &mut carry).expect("carried").units, 21);
        assert_eq!(in_chunks(64, Amount::Time(Duration::ZERO), &mut carry).expect("carried").units, 10_000);
        assert_eq!(in_chunks(0, Amount::Count(0), &mut carry).expect("carried").units, 0);
        assert_eq!(chunks, [8, 8, 5, 10_000]);
        let parts = [0, 1, 2].map(|index| Amount::Count(11).portion(index, 3));
        assert_eq!(parts, [4, 4, 3].map(Amount::Count));
    }
}
