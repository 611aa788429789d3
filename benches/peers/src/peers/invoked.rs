//! The daemon of this repository, with both Rust clients. 64 bytes go there and back through `bench.echo`, as a raw body; a
//! longer reply is that of `bench.bytes`, which is asked for it in JSON.

use std::path::Path;
use std::time::Instant;

use invoked::ctl::bench::{Amount, Done, Load};
use invoked_benches::Daemon;
use invoked_client::{Address, Client, Options, Reply, blocking};

use crate::asynchronous::{Asynchronous, Connection, nanoseconds_since};
use crate::peer::{Peer, wrong};
use crate::request::{Fault, REQUEST, request, touch};
use crate::server::Place;

const ECHO: &str = "bench.echo";
const BYTES: &str = "bench.bytes";

/// The blocking client, with a thread for each connection.
pub(crate) struct Blocking {
    clients: Vec<blocking::Client>,
    daemon: Daemon,
}

/// Starts a daemon that answers.
fn daemon(place: &Place<'_>) -> Result<(Daemon, blocking::Client), Fault> {
    let mut daemon = place.placement.on_server(|| Daemon::start(&place.programs.invoked))??;
    let client = daemon.connect()?;
    Ok((daemon, client))
}

fn is_echo(size: u32) -> bool {
    usize::try_from(size) == Ok(REQUEST)
}

fn touched(reply: &Reply) -> usize {
    touch(reply.bytes())
}

impl Blocking {
    pub(crate) fn start(place: &Place<'_>) -> Result<Self, Fault> {
        let (daemon, client) = daemon(place)?;
        Ok(Blocking { clients: vec![client], daemon })
    }
}

fn call(client: &blocking::Client, size: u32) -> Result<usize, Fault> {
    let reply = if is_echo(size) {
        client.call(ECHO).raw(request(size).to_vec()).send()?
    } else {
        client.call(BYTES).arg("len", size).send()?
    };
    Ok(touched(&reply))
}

/// One thread's calls, one after the other.
fn calls(client: &blocking::Client, size: u32, amount: Amount) -> Result<Done, Fault> {
    let (begin, mut done) = (Instant::now(), Done::default());
    loop {
        let over = match amount {
            Amount::Count(count) => done.units >= count,
            Amount::Time(time) => done.units > 0 && begin.elapsed() >= time,
        };
        if over {
            return Ok(done);
        }
        let start = Instant::now();
        let got = call(client, size)?;
        if u32::try_from(got) != Ok(size) {
            return Err(wrong(got, size));
        }
        done.times.push(nanoseconds_since(start));
        done.units += 1;
    }
}

impl Peer for Blocking {
    fn call(&mut self, size: u32) -> Result<usize, Fault> {
        call(&self.clients[0], size)
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, Fault> {
        while self.clients.len() < load.connections as usize {
            self.clients.push(self.daemon.connect()?);
        }
        let of = u64::from(load.connections);
        let share = |index: u64| match amount {
            Amount::Count(count) => Amount::Count(count / of + u64::from(index < count % of)),
            time @ Amount::Time(_) => time,
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..of)
                .zip(&self.clients)
                .map(|(index, client)| scope.spawn(move || calls(client, load.size, share(index))))
                .collect();
            let mut sum = Done::default();
            for thread in threads {
                let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                sum.units += done.units;
                sum.times.extend(done.times);
            }
            Ok(sum)
        })
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.daemon.pid()]
    }
}

/// A connection of the asynchronous client.
#[derive(Clone)]
pub(crate) struct Calls(Client);

impl Connection for Calls {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        let address = Address::unix(address)?;
        Ok(Calls(Client::connect(Options::new().address(address).name("bench", "")).await?))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let reply = if is_echo(size) {
            self.0.call(ECHO).raw(request(size).to_vec()).send().await?
        } else {
            self.0.call(BYTES).arg("len", size).send().await?
        };
        Ok(touched(&reply))
    }
}

/// The asynchronous client, on one thread.
pub(crate) fn start_async(place: &Place<'_>) -> Result<Asynchronous<Calls, Daemon>, Fault> {
    let (daemon, _) = daemon(place)?;
    let (address, id) = (daemon.socket(), daemon.pid());
    Asynchronous::new(daemon, &address, vec![id])
}
