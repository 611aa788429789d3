//! The floors: bare sockets. `uds` is that of `invokectl bench`, blocking on both sides; `tokio` has a runtime of one
//! thread on both.

use std::path::Path;
use std::rc::Rc;

use invoked::ctl::bench::{Amount, BatchedFloor, Carrier as _, Done, Floor, Load, Subject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use crate::asynchronous::{Connection, runtime};
use crate::peer::Peer;
use crate::request::{Fault, LONGEST, REQUEST, answer, request, touch};
use crate::server::{Place, ready};

/// How much is read or written at once, where more than one call is.
const CHUNK: usize = 64 << 10;

/// Bare blocking sockets.
pub(crate) struct Uds {
    floor: Floor,
    batched: BatchedFloor,
}

impl Uds {
    /// `connections` are the most that will be wanted.
    pub(crate) fn start(place: &Place<'_>, connections: u32) -> Result<Self, Fault> {
        let program = &place.programs.invokectl;
        let floor = place.placement.on_server(|| Floor::blocking(program))??;
        let batched = place.placement.on_server(|| BatchedFloor::start(program, connections))??;
        Ok(Uds { floor, batched })
    }
}

impl Peer for Uds {
    fn call(&mut self, size: u32) -> Result<usize, Fault> {
        self.floor.round_trip(size)?;
        let reply = self.floor.buffer().get(..usize::try_from(size)?);
        Ok(touch(reply.ok_or("the floor read less than it was asked for")?))
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, Fault> {
        Ok(self.batched.carry(load, amount)?)
    }

    fn servers(&self) -> Vec<u32> {
        self.batched.servers().unwrap_or_default()
    }
}

/// A bare socket under tokio. One task at a time uses it.
#[derive(Clone)]
pub(crate) struct Tokio(Rc<Mutex<(UnixStream, Vec<u8>)>>);

impl Connection for Tokio {
    const BATCHES: bool = true;

    async fn connect(address: &Path) -> Result<Self, Fault> {
        let socket = UnixStream::connect(address).await?;
        Ok(Tokio(Rc::new(Mutex::new((socket, vec![0; LONGEST])))))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let mut guard = self.0.lock().await;
        let (socket, buffer) = &mut *guard;
        socket.write_all(&request(size)).await?;
        let reply = &mut buffer[..usize::try_from(size)?.min(LONGEST)];
        socket.read_exact(reply).await?;
        Ok(touch(reply))
    }

    async fn batch(&self, size: u32, count: u32) -> Result<(), Fault> {
        let mut guard = self.0.lock().await;
        let (socket, buffer) = &mut *guard;
        socket.write_all(&request(size).repeat(count as usize)).await?;
        let mut left = usize::try_from(size)? * count as usize;
        while left > 0 {
            let room = left.min(CHUNK);
            match socket.read(&mut buffer[..room]).await? {
                0 => return Err("the server closed the socket".into()),
                read => left -= read,
            }
        }
        Ok(())
    }
}

/// Serves `tokio`.
pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let listener = UnixListener::bind(address)?;
        ready()?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::task::spawn_local(answer_all(socket));
        }
    })
}

/// Answers as many requests as come at once in one write.
async fn answer_all(mut socket: UnixStream) -> Result<(), Fault> {
    let (mut input, mut output, mut len) = (vec![0; CHUNK], Vec::new(), 0);
    loop {
        match socket.read(&mut input[len..]).await? {
            0 => return Ok(()),
            read => len += read,
        }
        let whole = len - len % REQUEST;
        if whole == REQUEST {
            socket.write_all(&answer(&input[..REQUEST])?).await?;
        } else {
            for request in input[..whole].chunks_exact(REQUEST) {
                output.extend_from_slice(&answer(request)?);
            }
            socket.write_all(&output).await?;
            output.clear();
        }
        input.copy_within(whole..len, 0);
        len -= whole;
    }
}
