//! iceoryx2: its request-response, in shared memory; busy, or with its events. The server copies each reply in once.
//!
//! There are two services, each with a server process: one for a call at a time, whose memory grows with the replies, and
//! one for many small calls. A server that looks without end would disturb all other peers, so between turns it waits for an
//! event.

use std::collections::VecDeque;
use std::path::Path;

use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::{Listener, ListenerWaitError};
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::server::Server as Responder;
use iceoryx2::prelude::{
    AllocationStrategy, Config, FileName, Node, NodeBuilder, SemanticString as _, ipc, set_log_level,
};
use iceoryx2::prelude::{LogLevel, Path as IoxPath, ServiceName};
use iceoryx2::service::port_factory::request_response::PortFactory;
use invoked::ctl::bench::{Amount, Done, Load};

use crate::peer::{Peer, wrong};
use crate::request::{Fault, REQUEST, answer, request, touch};
use crate::server::{Place, Server, ready};
use crate::window::{Window, carry};

/// The names of its servers: how they wait, and what for.
pub(crate) const SERVERS: [&str; 4] =
    ["iceoryx2-busy", "iceoryx2-event", "iceoryx2-busy-many", "iceoryx2-event-many"];

/// Instead of a size: the server has nothing to do until the next event.
const REST: u32 = u32::MAX;

/// Where the kernel has named shared memory.
const MEMORY: &str = "/dev/shm";

/// Most connections, and most open calls on one, where there are many.
const CONNECTIONS: usize = 8;
const OPEN: usize = 64;

type Slices = PortFactory<ipc::Service, [u8], (), [u8], ()>;
type Open = PendingResponse<ipc::Service, [u8], (), [u8], ()>;

type Asks = Client<ipc::Service, [u8], (), [u8], ()>;
type Answers = Responder<ipc::Service, [u8], (), [u8], ()>;

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Busy,
    Event,
}

/// What the names of a service's shared memory begin with.
fn prefix(directory: &Path) -> String {
    let own = directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    format!("invoked{}_", own.replace('.', ""))
}

/// Which events an end sends and waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What an end opens: the service, and an event for each direction.
struct End {
    service: Slices,
    says: Notifier<ipc::Service>,
    hears: Listener<ipc::Service>,
    _node: Node<ipc::Service>,
}

/// Shared memory whose names begin with this, removed in the end: what a killed process leaves, and what outlives all.
struct Traces(String);

impl Drop for Traces {
    fn drop(&mut self) {
        for file in std::fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(&self.0) {
                // Nobody uses it any more, and a run of its own has names of its own.
                drop(std::fs::remove_file(file.path()));
            }
        }
    }
}

fn text(error: impl std::fmt::Debug) -> Fault {
    format!("{error:?}").into()
}

impl End {
    /// `directory` is where this service is known, and part of the names of its shared memory.
    fn open(address: &Path, side: Side, many: bool) -> Result<Self, Fault> {
        set_log_level(LogLevel::Error);
        let directory = address.parent().ok_or("an address without a directory")?;
        let mut config = Config::default();
        let root = directory.join("iox").to_string_lossy().into_owned();
        config.global.set_root_path(&IoxPath::new(root.as_bytes()).map_err(text)?);
        let prefix = prefix(directory);
        config.global.prefix = FileName::new(prefix.as_bytes()).map_err(text)?;
        let node = NodeBuilder::new().config(&config).create::<ipc::Service>().map_err(text)?;
        let name = |what: &str| ServiceName::new(what).map_err(text);
        let (connections, open) = if many { (CONNECTIONS, OPEN) } else { (1, 1) };
        let service = node
            .service_builder(&name("bench")?)
            .request_response::<[u8], [u8]>()
            .max_clients(connections)
            .max_servers(1)
            .max_active_requests_per_client(open)
            .max_loaned_requests(1)
            .max_response_buffer_size(1)
            .max_borrowed_responses_per_pending_response(1)
            .open_or_create()
            .map_err(text)?;
        let (asked, answered) = ("asked", "answered");
        let (says, hears) = if side == Side::Client { (asked, answered) } else { (answered, asked) };
        let event = |what| node.service_builder(&name(what)?).event().open_or_create().map_err(text);
        let says = event(says)?.notifier_builder().create().map_err(text)?;
        let hears = event(hears)?.listener_builder().create().map_err(text)?;
        Ok(End { service, says, hears, _node: node })
    }
}

/// Waits for an event; which one doesn't matter.
fn wait(listener: &Listener<ipc::Service>) -> Result<(), Fault> {
    loop {
        match listener.blocking_wait(|_| {}) {
            // A process that is stopped and goes on, or is traced, has its waits interrupted.
            Err(ListenerWaitError::InterruptSignal) => {}
            other => return other.map(drop).map_err(text),
        }
    }
}

/// The client of one of the two services.
struct Half {
    clients: Vec<Asks>,
    /// The oldest first: it is answered first.
    open: VecDeque<(usize, Open)>,
    unsaid: bool,
    end: End,
    waits: Waits,
    server: Server,
    // The last.
    _traces: Traces,
}

impl Half {
    fn start(place: &Place<'_>, waits: Waits, name: &'static str, many: bool) -> Result<Self, Fault> {
        let server = Server::start(place, name)?;
        let traces = Traces(prefix(server.address().parent().ok_or("an address without a directory")?));
        let end = End::open(server.address(), Side::Client, many)?;
        let mut half = Half {
            clients: Vec::new(),
            open: VecDeque::new(),
            unsaid: false,
            end,
            waits,
            server,
            _traces: traces,
        };
        half.connect()?;
        Ok(half)
    }

    fn connect(&mut self) -> Result<(), Fault> {
        let client = self.end.service.client_builder().initial_max_slice_len(REQUEST);
        self.clients.push(client.create().map_err(text)?);
        Ok(())
    }

    fn say(&mut self) -> Result<(), Fault> {
        self.unsaid = false;
        self.end.says.notify().map_err(text)?;
        Ok(())
    }

    /// The server begins to look, if it is one that does.
    fn wake(&mut self) -> Result<(), Fault> {
        if self.waits == Waits::Busy { self.say() } else { Ok(()) }
    }

    fn rest(&mut self) -> Result<(), Fault> {
        if self.waits == Waits::Busy {
            drop(self.ask(0, REST)?)
        }
        Ok(())
    }

    fn ask(&self, connection: usize, size: u32) -> Result<Open, Fault> {
        let loan = self.clients[connection].loan_slice_uninit(REQUEST).map_err(text)?;
        loan.write_from_slice(&request(size)).send().map_err(text)
    }

    /// Waits for one of the open calls, and tells which it is and how long the reply is. The server is told of new calls
    /// when none of the old ones is answered yet, so once for all that are sent meanwhile.
    fn take(&mut self) -> Result<(usize, usize), Fault> {
        loop {
            for index in 0..self.open.len() {
                if let Some(reply) = self.open[index].1.receive().map_err(text)? {
                    let got = touch(reply.payload());
                    drop(reply);
                    let connection = self.open.remove(index).map_or(0, |open| open.0);
                    return Ok((connection, got));
                }
            }
            match self.waits {
                Waits::Busy => std::hint::spin_loop(),
                Waits::Event => {
                    if self.unsaid {
                        self.say()?;
                    }
                    wait(&self.end.hears)?;
                }
            }
        }
    }
}

impl Window for Half {
    fn send(&mut self, connection: usize, size: u32) -> Result<(), Fault> {
        let open = self.ask(connection, size)?;
        self.open.push_back((connection, open));
        self.unsaid = true;
        Ok(())
    }

    fn receive(&mut self, size: u32) -> Result<usize, Fault> {
        let (connection, got) = self.take()?;
        if u32::try_from(got) == Ok(size) { Ok(connection) } else { Err(wrong(got, size)) }
    }
}

/// Both services.
pub(crate) struct Iceoryx2 {
    one: Half,
    many: Half,
    /// Which of them is awake.
    is_many: bool,
}

impl Iceoryx2 {
    pub(crate) fn start(place: &Place<'_>, waits: Waits) -> Result<Self, Fault> {
        let [one, many] = match waits {
            Waits::Busy => [SERVERS[0], SERVERS[2]],
            Waits::Event => [SERVERS[1], SERVERS[3]],
        };
        let (one, many) = (Half::start(place, waits, one, false)?, Half::start(place, waits, many, true)?);
        Ok(Iceoryx2 { one, many, is_many: false })
    }

    fn change(&mut self, is_many: bool) -> Result<(), Fault> {
        if self.is_many != is_many {
            self.rest()?;
            self.is_many = is_many;
            self.wake()?;
        }
        Ok(())
    }

    fn awake(&mut self) -> &mut Half {
        if self.is_many { &mut self.many } else { &mut self.one }
    }
}

impl Peer for Iceoryx2 {
    fn call(&mut self, size: u32) -> Result<usize, Fault> {
        self.change(false)?;
        self.one.send(0, size)?;
        Ok(self.one.take()?.1)
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, Fault> {
        self.change(true)?;
        while self.many.clients.len() < load.connections as usize {
            self.many.connect()?;
        }
        carry(&mut self.many, load, amount)
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.one.server.id(), self.many.server.id()]
    }

    fn wake(&mut self) -> Result<(), Fault> {
        self.awake().wake()
    }

    fn rest(&mut self) -> Result<(), Fault> {
        self.awake().rest()
    }
}

/// Serves one of [`SERVERS`].
pub(crate) fn serve(name: &str, address: &Path) -> Result<(), Fault> {
    let end = End::open(address, Side::Server, name.ends_with("-many"))?;
    let server = end.service.server_builder().initial_max_slice_len(REQUEST);
    let server = server.allocation_strategy(AllocationStrategy::PowerOfTwo).create().map_err(text)?;
    ready()?;
    let is_busy = name.contains("-busy");
    let mut rests = true;
    loop {
        if rests || !is_busy {
            wait(&end.hears)?;
            rests = false;
        }
        let answered = answer_all(&server, &mut rests)?;
        if !is_busy && answered {
            end.says.notify().map_err(text)?;
        }
        std::hint::spin_loop();
    }
}

/// Answers what was asked, and tells whether there was something.
fn answer_all(server: &Answers, rests: &mut bool) -> Result<bool, Fault> {
    let mut answered = false;
    while let Some(call) = server.receive().map_err(text)? {
        if call.payload().first_chunk() == Some(&REST.to_le_bytes()) {
            *rests = true;
            continue;
        }
        let reply = answer(call.payload())?;
        let loan = call.loan_slice_uninit(reply.len()).map_err(text)?;
        loan.write_from_slice(&reply).send().map_err(text)?;
        answered = true;
    }
    Ok(answered)
}
