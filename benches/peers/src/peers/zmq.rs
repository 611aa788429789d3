//! ZeroMQ: a DEALER and a ROUTER over `ipc`, so that many calls may be open. Libzmq is built from source; its I/O thread on
//! each side is how it works.

use std::path::Path;

use invoked::ctl::bench::{Amount, Done, Load};
use zmq::{Context, DEALER, Message, POLLIN, ROUTER, Socket};

use crate::peer::{Peer, wrong};
use crate::request::{Fault, answer, request, touch};
use crate::server::{Server, ready};
use crate::window::{Window, carry};

pub(crate) struct Zmq {
    // Sockets end before their context.
    sockets: Vec<Socket>,
    context: Context,
    server: Server,
    /// Where the last reply came, for the next to be looked for behind it.
    last: usize,
}

impl Zmq {
    pub(crate) fn start(server: Server) -> Result<Self, Fault> {
        let mut zmq = Zmq { sockets: Vec::new(), context: Context::new(), server, last: 0 };
        zmq.connect()?;
        Ok(zmq)
    }

    fn connect(&mut self) -> Result<(), Fault> {
        let socket = self.context.socket(DEALER)?;
        socket.set_linger(0)?;
        socket.connect(&endpoint(self.server.address()))?;
        self.sockets.push(socket);
        Ok(())
    }
}

impl Peer for Zmq {
    fn call(&mut self, size: u32) -> Result<usize, Fault> {
        let socket = &self.sockets[0];
        socket.send(request(size).as_slice(), 0)?;
        Ok(touch(&socket.recv_msg(0)?))
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, Fault> {
        while self.sockets.len() < load.connections as usize {
            self.connect()?;
        }
        carry(self, load, amount)
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.id()]
    }
}

impl Window for Zmq {
    fn send(&mut self, connection: usize, size: u32) -> Result<(), Fault> {
        Ok(self.sockets[connection].send(request(size).as_slice(), 0)?)
    }

    fn receive(&mut self, size: u32) -> Result<usize, Fault> {
        let count = self.sockets.len();
        loop {
            for next in (1..=count).map(|step| (self.last + step) % count) {
                let socket = &self.sockets[next];
                if socket.get_events()?.contains(POLLIN) {
                    let got = touch(&socket.recv_msg(0)?);
                    self.last = next;
                    return if u32::try_from(got) == Ok(size) { Ok(next) } else { Err(wrong(got, size)) };
                }
            }
            let mut items: Vec<_> = self.sockets.iter().map(|socket| socket.as_poll_item(POLLIN)).collect();
            zmq::poll(&mut items, -1)?;
        }
    }
}

pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    let context = Context::new();
    let socket = context.socket(ROUTER)?;
    socket.bind(&endpoint(address))?;
    ready()?;
    loop {
        // Who asks, and what.
        let (client, request) = (socket.recv_msg(0)?, socket.recv_msg(0)?);
        socket.send(client, zmq::SNDMORE)?;
        socket.send(Message::from(answer(&request)?.to_vec()), 0)?;
    }
}

fn endpoint(address: &Path) -> String {
    format!("ipc://{}", address.display())
}
