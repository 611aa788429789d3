//! A peer without a socket: both ends of its connection are here, and bytes go from one to the other in memory.
//!
//! For tests of programs. Everything but the socket is what any peer meets: frames, credit, the broker, the runner.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use invoked_proto::body::{Assembly, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Transmit};
use invoked_proto::error::{MisuseError, PeerError};
use invoked_proto::metadata::{Failure, Hello, Part, Reply};
use invoked_proto::registry::ErrorCode;
use invoked_transport::Attachment;
use tokio::sync::mpsc;

use super::local::{failed, replied};
use super::{Hub, Link};
use crate::authority::PeerFacts;
use crate::ipc::{Fault, Outcome, PeerId};

/// What its owner wants of a peer.
#[derive(Debug)]
pub(crate) enum LoopbackAsk {
    /// Call, and tell in the call what becomes of it.
    Call(Box<Request>, Arc<LoopbackCall>),
    /// Cancel.
    Cancel(Arc<LoopbackCall>),
    /// An item of a channel was taken; its credit goes back.
    Taken(Arc<LoopbackCall>, u32, u64),
    /// No more items of a channel are wanted.
    Stop(Arc<LoopbackCall>, u32),
}

/// A call of a peer without a socket, shared by the peer and whoever waits for it.
#[derive(Debug, Default)]
pub(crate) struct LoopbackCall {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    stream: Option<u64>,
    growing: Option<(Answer, Assembly)>,
    outcome: Option<Outcome>,
    channels: BTreeMap<u32, Inbox>,
}

#[derive(Debug)]
enum Answer {
    Result(Reply),
    Error(ErrorCode, Failure),
}

/// Items that came and were not taken; the credit of the channel bounds them.
#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<(Message, u64)>,
    growing: Option<(Assembly, u64)>,
    end: Option<Result<(), Fault>>,
}

impl LoopbackCall {
    /// A call with these channels.
    pub(crate) fn new(channels: impl IntoIterator<Item = u32>) -> Self {
        let channels = channels.into_iter().map(|index| (index, Inbox::default())).collect();
        LoopbackCall {
            progress: Mutex::new(Progress { channels, ..Progress::default() }),
            changed: Condvar::new(),
        }
    }

    /// Waits for the end of the call.
    pub(crate) fn wait(&self) -> Outcome {
        let is_open = |progress: &mut Progress| progress.outcome.is_none();
        let waited = self.changed.wait_while(self.locked(), is_open);
        waited.unwrap_or_else(PoisonError::into_inner).outcome.clone().expect("waited for")
    }

    /// Waits for the next item of a channel, with the credit to give back; `None` after the last one of a channel that ended
    /// well.
    pub(crate) fn next_item(&self, channel: u32) -> Result<Option<(Message, u64)>, Fault> {
        let nothing = |progress: &mut Progress| {
            let inbox = progress.channels.get(&channel);
            inbox.is_some_and(|inbox| inbox.items.is_empty() && inbox.end.is_none())
        };
        let waited = self.changed.wait_while(self.locked(), nothing);
        let mut progress = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(inbox) = progress.channels.get_mut(&channel) else { return Ok(None) };
        match inbox.items.pop_front() {
            Some(item) => Ok(Some(item)),
            None => inbox.end.clone().unwrap_or(Ok(())).map(|()| None),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.locked());
        self.changed.notify_all();
    }

    /// Ends what has not ended.
    pub(crate) fn lose(&self, fault: &Fault) {
        self.change(|progress| {
            progress.outcome.get_or_insert_with(|| Err(fault.clone().into()));
            for inbox in progress.channels.values_mut() {
                inbox.end.get_or_insert_with(|| Err(fault.clone()));
            }
        });
    }

    fn settle_answer(&self, more: More) -> Result<(), PeerError> {
        if more == More::Follows {
            return Ok(());
        }
        let Some((answer, assembly)) = self.locked().growing.take() else { return Ok(()) };
        let message = assembly.finish()?;
        let outcome = match answer {
            Answer::Result(reply) => replied(reply.headers, message),
            Answer::Error(code, failure) => failed(code, &failure, message),
        };
        self.change(|progress| {
            progress.outcome.get_or_insert(outcome);
        });
        Ok(())
    }

    fn settle_item(&self, channel: u32, more: More) -> Result<(), PeerError> {
        if more == More::Follows {
            return Ok(());
        }
        let growing = self.locked().channels.get_mut(&channel).and_then(|inbox| inbox.growing.take());
        let Some((assembly, credit)) = growing else { return Ok(()) };
        let message = assembly.finish()?;
        self.change(|progress| {
            if let Some(inbox) = progress.channels.get_mut(&channel) {
                inbox.items.push_back((message, credit));
            }
        });
        Ok(())
    }
}

/// A peer without a socket.
pub(crate) struct Loopback {
    hub: Rc<Hub>,
    id: PeerId,
    link: Rc<Link>,
    client: Connection<Attachment>,
    asks: mpsc::Receiver<LoopbackAsk>,
    calls: HashMap<u64, Arc<LoopbackCall>>,
    /// Told once, whether the daemon took it.
    welcomed: Option<SyncSender<Result<PeerId, Fault>>>,
}

impl Loopback {
    /// Connects a peer with these facts; how that ends goes to `welcomed`.
    pub(crate) fn connect(
        hub: &Rc<Hub>,
        facts: PeerFacts,
        hello: &Hello,
        asks: mpsc::Receiver<LoopbackAsk>,
        welcomed: SyncSender<Result<PeerId, Fault>>,
    ) -> Option<Self> {
        let now = Instant::now();
        let refuse = |code, text: &str| {
            drop(welcomed.send(Err(Fault::refusal(code, text))));
            None
        };
        let client = match Connection::client(hub.settings(), hello, now) {
            Ok(client) => client,
            Err(error) => return refuse(error.wire_code(), &error.to_string()),
        };
        let Some(id) = hub.admit(facts) else {
            return refuse(ErrorCode::ResourceExhausted, "too many connections");
        };
        hub.attach(id, now);
        let (link, hub) = (hub.link(id), Rc::clone(hub));
        let (calls, welcomed) = (HashMap::new(), Some(welcomed));
        Some(Loopback { hub, id, link, client, asks, calls, welcomed })
    }

    /// Carries bytes until the owner is gone, or the connection is over.
    pub(crate) async fn run(mut self) {
        loop {
            self.link.woken.set(false);
            if let Err(error) = self.carry(Instant::now()) {
                return self.lose(error.wire_code(), &error.to_string());
            }
            if self.link.connection.borrow().is_closed() || self.link.connection.borrow().is_drained() {
                return self.lose(ErrorCode::Unavailable, "the daemon ended the connection");
            }
            let timeouts = [self.client.poll_timeout(), self.link.connection.borrow().poll_timeout()];
            let until = timeouts.into_iter().flatten().min();
            let link = Rc::clone(&self.link);
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.handle_ask(ask),
                    None => return,
                },
                () = woken(&link) => {}
                () = passed(until) => {
                    let now = Instant::now();
                    let theirs = self.link.connection.borrow_mut().handle_timeout(now);
                    if let Err(error) = self.client.handle_timeout(now).and(theirs) {
                        return self.lose(error.wire_code(), &error.to_string());
                    }
                }
            }
        }
    }

    fn handle_ask(&mut self, ask: LoopbackAsk) {
        match ask {
            LoopbackAsk::Call(request, call) => match self.client.call(*request) {
                Ok(stream) => {
                    call.change(|progress| progress.stream = Some(stream));
                    self.calls.insert(stream, call);
                }
                Err(error) => call.lose(&misuse(&error)),
            },
            LoopbackAsk::Cancel(call) => {
                let stream = call.locked().stream;
                if let Some(stream) = stream {
                    self.client.cancel(stream);
                }
            }
            LoopbackAsk::Taken(call, channel, credit) => {
                let stream = call.locked().stream;
                if let Some(stream) = stream {
                    self.client.give_credit(stream, channel, credit);
                }
            }
            LoopbackAsk::Stop(call, channel) => {
                let stream = call.locked().stream;
                if let Some(stream) = stream {
                    self.client.stop_channel(stream, channel);
                }
            }
        }
    }

    /// Carries bytes both ways until nothing moves.
    fn carry(&mut self, now: Instant) -> Result<(), PeerError> {
        loop {
            let to_daemon = output(&mut self.client);
            if !to_daemon.is_empty() {
                self.link.connection.borrow_mut().handle_input(now, to_daemon.clone(), [])?;
            }
            self.handle_daemon_events(now);
            let to_client = output(&mut self.link.connection.borrow_mut());
            self.hub.note_unread(self.id, 0, 0);
            if !to_client.is_empty() {
                self.client.handle_input(now, to_client.clone(), [])?;
            }
            self.handle_client_events()?;
            if to_daemon.is_empty() && to_client.is_empty() {
                return Ok(());
            }
        }
    }

    fn handle_daemon_events(&mut self, now: Instant) {
        loop {
            let mut connection = self.link.connection.borrow_mut();
            let Some(event) = connection.poll_event() else { return };
            connection.release(event.payload_len());
            drop(connection);
            self.hub.handle_event(now, self.id, event);
            self.hub.pump(now);
        }
    }

    fn handle_client_events(&mut self) -> Result<(), PeerError> {
        while let Some(event) = self.client.poll_event() {
            self.client.release(event.payload_len());
            self.handle_client_event(event)?;
        }
        Ok(())
    }

    fn handle_client_event(&mut self, event: Event<Attachment>) -> Result<(), PeerError> {
        match event {
            Event::Welcomed(_) => self.answer_welcome(Ok(self.id)),
            Event::Refused { code, reason } => self.answer_welcome(Err(Fault::refusal(code, reason))),
            Event::WentAway { code: Some(code), notice } => {
                self.answer_welcome(Err(Fault::refusal(code, notice.message.as_str())));
            }
            Event::Replied { stream, reply, payload, more, .. } => {
                let parts = reply.parts.clone();
                return self.begin(stream, Answer::Result(reply), parts, payload, more);
            }
            Event::Failed { stream, code, failure, payload, more, .. } => {
                let parts = failure.parts.clone();
                return self.begin(stream, Answer::Error(code, failure), parts, payload, more);
            }
            Event::Continued { stream, payload, more } => {
                let Some(call) = self.calls.get(&stream) else { return Ok(()) };
                if let Some((_, assembly)) = &mut call.locked().growing {
                    assembly.push(&payload)?;
                }
                return call.settle_answer(more);
            }
            Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                let Some(call) = self.calls.get(&stream) else { return Ok(()) };
                let assembly = Assembly::begin(item.parts, payload)?;
                if let Some(inbox) = call.locked().channels.get_mut(&channel) {
                    inbox.growing = Some((assembly, credit));
                }
                return call.settle_item(channel, more);
            }
            Event::ItemContinued { stream, channel, payload, more, credit } => {
                let Some(call) = self.calls.get(&stream) else { return Ok(()) };
                let mut progress = call.locked();
                let growing = progress.channels.get_mut(&channel).and_then(|inbox| inbox.growing.as_mut());
                if let Some((assembly, sum)) = growing {
                    assembly.push(&payload)?;
                    *sum += credit;
                }
                drop(progress);
                return call.settle_item(channel, more);
            }
            Event::ChannelEnded { stream, channel, code, message, .. } => {
                let end = code.map_or(Ok(()), |code| Err(Fault::new(code, message.as_str())));
                if let Some(call) = self.calls.get(&stream) {
                    call.change(|progress| {
                        if let Some(inbox) = progress.channels.get_mut(&channel) {
                            inbox.end.get_or_insert(end);
                        }
                    });
                }
            }
            _ => {}
        }
        self.forget_ended();
        Ok(())
    }

    fn begin(
        &mut self,
        stream: u64,
        answer: Answer,
        parts: Vec<Part>,
        payload: Bytes,
        more: More,
    ) -> Result<(), PeerError> {
        let Some(call) = self.calls.get(&stream) else { return Ok(()) };
        call.locked().growing = Some((answer, Assembly::begin(parts, payload)?));
        call.settle_answer(more)
    }

    /// Calls that ended, and all of whose channels did, need no events any more.
    fn forget_ended(&mut self) {
        self.calls.retain(|_, call| {
            let progress = call.locked();
            progress.outcome.is_none() || progress.channels.values().any(|inbox| inbox.end.is_none())
        });
    }

    fn answer_welcome(&mut self, answer: Result<PeerId, Fault>) {
        if let Some(welcomed) = self.welcomed.take() {
            // Whoever asked may have left.
            drop(welcomed.send(answer));
        }
    }

    fn lose(mut self, code: ErrorCode, text: &str) {
        let fault = Fault::midway(code, text);
        self.answer_welcome(Err(fault.clone()));
        for call in std::mem::take(&mut self.calls).into_values() {
            call.lose(&fault);
        }
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let fault = Fault::midway(ErrorCode::Unavailable, "the connection has ended");
        for call in self.calls.values() {
            call.lose(&fault);
        }
        // What was asked and not begun.
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            if let LoopbackAsk::Call(_, call) = ask {
                call.lose(&Fault::refusal(ErrorCode::Unavailable, "the connection has ended"));
            }
        }
        self.hub.forget(self.id, Instant::now());
    }
}

fn misuse(error: &MisuseError) -> Fault {
    Fault::refusal(error.wire_code(), error.to_string())
}

/// Waits until somebody wants the owner of a connection to look at it.
pub(super) async fn woken(link: &Link) {
    poll_fn(|context| {
        if link.woken.replace(false) {
            return Poll::Ready(());
        }
        link.await_wake(context);
        Poll::Pending
    })
    .await;
}

async fn passed(until: Option<Instant>) {
    match until {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Everything that a connection has to send now.
fn output(connection: &mut Connection<Attachment>) -> Bytes {
    let mut transmit = Transmit::default();
    let mut bytes = BytesMut::new();
    while connection.poll_transmit(&mut transmit) {
        while !transmit.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = transmit.slices(&mut slices);
            let before = bytes.len();
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            transmit.advance(bytes.len() - before);
        }
    }
    bytes.freeze()
}
