//! What all sessions of the loop share: the broker, the runner, the connections, the buffers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use invoked_proto::body::Message;
use invoked_proto::connection::{Connection, Event, Placement, Settings, Transmit};
use invoked_proto::error::MisuseError;
use invoked_proto::metadata::Failure;
use invoked_proto::registry::{Delivery, ErrorCode, Lane};
use invoked_transport::Attachment;
use tokio::sync::{Notify, mpsc, watch};

use super::aside::Aside;
use super::local::{self, LocalWaiter};
use super::monitors::Monitors;
use super::{Activation, Link};
use crate::authority::{PeerFacts, PeerGrants, PolicySnapshot};
use crate::broker::{
    AnswerHead, Broker, CallId, FirstOfCall, FirstOfItem, Narrowing, Observed, Output, Served, Swept,
    held_to, is_local, serve,
};
use crate::ipc::{Fault, Lanes, PeerId, Ready};
use crate::runner::{Completion, Runner};

/// The loop's read buffer. Reads go here; what a frame needs longer is kept by its connection.
const READ_BUFFER: usize = 256 * 1024;

/// A read is offered at least this much room, so that a large message costs few reads.
const READ_MIN: usize = 64 * 1024;

/// From the end of a burst of large messages until its memory is given back.
const RELIEF_PAUSE: Duration = Duration::from_millis(500);

/// How long sessions wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// For a peer that takes nothing.
    pub(crate) slow_consumer: Duration,
    /// For the next call of a peer, looking for it; zero is never.
    pub(crate) busy_poll: Duration,
    /// For memory of peers to be used again; zero is for ever.
    pub(crate) trim: Duration,
}

/// Shared by the tasks of one loop; never borrowed across an await.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(super) broker: RefCell<Broker>,
    pub(super) runner: Runner,
    /// Of the connections of peers of which no capability says otherwise.
    settings: Settings,
    pub(super) links: RefCell<HashMap<PeerId, Rc<Link>>>,
    /// Who waits for answers of calls that came from no connection, by their streams.
    pub(super) waiters: RefCell<HashMap<u64, LocalWaiter>>,
    /// The peer that stands for the daemon itself.
    pub(super) own_peer: Cell<Option<PeerId>>,
    read_buffer: RefCell<BytesMut>,
    transmit: RefCell<Option<Transmit<Attachment>>>,
    waits: Waits,
    /// From which size on what goes otherwise than in the frames.
    pub(super) lanes: Lanes,
    /// Whose connection was read last.
    last_reader: Cell<Option<PeerId>>,
    /// When the deadline task will look next.
    armed: Cell<Option<Instant>>,
    rearm: Notify,
    /// Memory is to be given back.
    relief: Notify,
    /// Another policy is in force.
    policy_changed: Notify,
    /// Peers that wait for what is left to them: at most one entry a peer, so as many as there may be connections.
    narrowing: RefCell<VecDeque<Narrowing>>,
    narrowing_asked: Notify,
    /// The number of the latest denial, for those who follow them.
    denied: watch::Sender<u64>,
    /// What `denied` says, to be compared without its lock.
    told: Cell<u64>,
    pub(super) monitors: Monitors,
    /// Peers were given memory.
    pub(super) lanes_used: Notify,
    pub(super) aside: Aside,
    /// Where what was read by `aside` arrives.
    pub(super) fetches: mpsc::Sender<Fetched>,
    pub(super) fetched: RefCell<Option<mpsc::Receiver<Fetched>>>,
    pub(super) activation: Activation,
}

/// What was read of a call's message, or why it can't be.
pub(super) type Fetched = (CallId, Result<Vec<Bytes>, Fault>);

/// Calls of which something is read elsewhere, at most; each holds a place, so that ending never waits.
const FETCHES_MAX: usize = 4096;

impl Hub {
    pub(crate) fn new(
        mut broker: Broker,
        runner: Runner,
        settings: Settings,
        waits: Waits,
        lanes: Lanes,
    ) -> Self {
        broker.watch(tracing::enabled!(tracing::Level::DEBUG));
        let (fetches, fetched) = mpsc::channel(FETCHES_MAX);
        Hub {
            broker: RefCell::new(broker),
            runner,
            settings,
            links: RefCell::default(),
            waiters: RefCell::default(),
            own_peer: Cell::new(None),
            read_buffer: RefCell::default(),
            transmit: RefCell::default(),
            waits,
            lanes,
            last_reader: Cell::new(None),
            armed: Cell::new(None),
            rearm: Notify::new(),
            relief: Notify::new(),
            policy_changed: Notify::new(),
            narrowing: RefCell::default(),
            narrowing_asked: Notify::new(),
            denied: watch::Sender::new(0),
            told: Cell::new(0),
            monitors: Monitors::default(),
            lanes_used: Notify::new(),
            aside: Aside::new(),
            fetches,
            fetched: RefCell::new(Some(fetched)),
            activation: Activation::default(),
        }
    }

    /// Size of the buffer that received bytes share.
    pub(crate) const fn read_buffer_size() -> usize {
        READ_BUFFER
    }

    /// What connections are held to where no capability says otherwise.
    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    /// A process connected; `None` if there are too many connections.
    pub(crate) fn admit(&self, facts: PeerFacts) -> Option<PeerId> {
        let id = self.broker.borrow_mut().handle_connection(facts)?;
        self.runner.open_resources(id);
        Some(id)
    }

    /// Makes the connection of an admitted peer, whose session begins.
    pub(crate) fn attach(&self, id: PeerId, now: Instant) {
        let grants = self.broker.borrow().grants(id);
        let settings = grants.map_or(self.settings, |grants| held_to(self.settings, grants.limits()));
        let connection = Connection::daemon(settings, now);
        self.links.borrow_mut().insert(id, Rc::new(Link::new(connection)));
    }

    /// Reads something of the broker.
    pub(crate) fn with_broker<R>(&self, read: impl FnOnce(&Broker) -> R) -> R {
        read(&self.broker.borrow())
    }

    /// The same, where reading finds out something that is kept then.
    pub(crate) fn with_broker_mut<R>(&self, read: impl FnOnce(&mut Broker) -> R) -> R {
        read(&mut self.broker.borrow_mut())
    }

    /// Tells the number of the latest denial, each time that it has changed.
    pub(crate) fn watch_denials(&self) -> watch::Receiver<u64> {
        self.denied.subscribe()
    }

    /// Puts another policy in force; `prepared` is what it gives the peers that are there.
    pub(crate) fn set_policy(&self, policy: Arc<PolicySnapshot>, prepared: Vec<Arc<PeerGrants>>) {
        self.broker.borrow_mut().handle_policy(policy, prepared);
        self.policy_changed.notify_one();
    }

    /// Tells every peer to go.
    pub(crate) fn drain(&self) {
        self.broker.borrow_mut().drain();
        self.pump(Instant::now());
    }

    /// Handlers that run elsewhere ended.
    pub(crate) fn complete(&self, completions: impl IntoIterator<Item = Completion>) {
        let now = Instant::now();
        for Completion { call, outcome, place } in completions {
            self.runner.ended(call);
            self.broker.borrow_mut().handle_completion(now, call, outcome);
            drop(place);
        }
        self.pump(now);
        self.poll_relief();
    }

    /// Sends what handlers have put into their channels, for ever.
    pub(crate) async fn watch_channels(&self) {
        let ready: Arc<Ready> = self.broker.borrow().ready_channels();
        loop {
            ready.wait().await;
            let now = Instant::now();
            self.broker.borrow_mut().handle_ready(now);
            self.pump(now);
        }
    }

    /// Ends calls at their deadlines, for ever.
    pub(crate) async fn watch_deadlines(&self) {
        loop {
            let next = self.broker.borrow().poll_timeout();
            self.armed.set(next);
            let rearmed = self.rearm.notified();
            match next {
                None => rearmed.await,
                Some(at) => {
                    tokio::select! {
                        () = rearmed => {}
                        () = tokio::time::sleep_until(at.into()) => {
                            let now = Instant::now();
                            self.broker.borrow_mut().handle_timeout(now);
                            self.pump(now);
                        }
                    }
                }
            }
        }
    }

    /// Ends what changes of the policy no longer grant, for ever; the sessions have their turns in between.
    pub(crate) async fn watch_policy(&self) {
        loop {
            self.policy_changed.notified().await;
            let retired = loop {
                let now = Instant::now();
                let swept = self.broker.borrow_mut().sweep(now);
                self.pump(now);
                match swept {
                    Swept::Partly { looked_at } => {
                        tracing::trace!(
                            looked_at,
                            "a slice of calls and peers, after a change of the policy"
                        );
                        tokio::task::yield_now().await;
                    }
                    Swept::Wholly(retired) => break retired,
                }
            };
            // It fails only when the runtime ends, and this task with it.
            drop(tokio::task::spawn_blocking(move || drop(retired)).await);
        }
    }

    /// Finds what is left to peers that narrow themselves, for ever. One after the other: whoever makes many connections for
    /// it takes one thread, not all.
    pub(crate) async fn watch_narrowing(&self) {
        loop {
            let next = self.narrowing.borrow_mut().pop_front();
            let Some(narrowing) = next else {
                self.narrowing_asked.notified().await;
                continue;
            };
            let answering = tokio::task::spawn_blocking(move || (narrowing.answer(), narrowing));
            // It fails only when the runtime ends, and this task with it.
            let Ok((narrowed, asked)) = answering.await else { return };
            let now = Instant::now();
            self.broker.borrow_mut().handle_narrowed(now, &asked, narrowed);
            self.pump(now);
        }
    }

    /// Gives memory back after bursts of large messages, for ever.
    pub(crate) async fn watch_memory(&self) {
        loop {
            self.relief.notified().await;
            // What ends together is given back together.
            tokio::time::sleep(RELIEF_PAUSE).await;
            // It fails only when the runtime ends, and this task with it.
            drop(tokio::task::spawn_blocking(invoked_transport::give_back_memory).await);
        }
    }

    /// Handlers that run elsewhere now.
    pub(crate) fn running(&self) -> usize {
        self.runner.running()
    }

    /// Connected peers.
    pub(crate) fn peers(&self) -> usize {
        self.links.borrow().len()
    }

    pub(super) fn link(&self, id: PeerId) -> Rc<Link> {
        Rc::clone(self.links.borrow().get(&id).expect("a session is made for an attached peer"))
    }

    pub(super) fn slow_consumer_timeout(&self) -> Duration {
        self.waits.slow_consumer
    }

    /// A peer's process is not what it was when it connected.
    pub(super) fn forget_process(&self, now: Instant, peer: PeerId) {
        self.broker.borrow_mut().handle_process_change(now, peer);
        self.pump(now);
    }

    pub(super) fn handle_event(&self, now: Instant, peer: PeerId, event: Event<Attachment>) {
        if let Event::Greeted(hello) = &event {
            self.open_lanes(peer, hello);
        }
        let (outside, event) = match self.handle_lanes(peer, event) {
            Some(rest) => rest,
            None => return,
        };
        let mut broker = self.broker.borrow_mut();
        match event {
            Event::Greeted(hello) => broker.handle_hello(peer, &hello),
            Event::Called { stream, flags, call, payload, more, .. } => {
                let first = FirstOfCall { flags, payload, more, outside };
                broker.handle_call(now, peer, stream, call, first);
            }
            Event::Continued { stream, payload, more } if is_own(stream) => {
                broker.handle_answer_continuation(now, (peer, stream), &payload, more);
            }
            Event::Continued { stream, payload, more } => {
                broker.handle_continuation(now, peer, stream, &payload, more);
            }
            Event::Replied { stream, reply, payload, more, .. } => {
                broker.handle_answer(now, (peer, stream), AnswerHead::Reply(reply), payload, more);
            }
            Event::Failed { stream, code, failure, payload, more, .. } => {
                broker.handle_answer(now, (peer, stream), AnswerHead::Fail(code, failure), payload, more);
            }
            Event::CreditCame { stream, channel, bytes } => {
                broker.handle_credit(peer, stream, channel, bytes);
            }
            Event::Cancelled { stream } => broker.handle_cancel(now, peer, stream),
            Event::ChannelStopped { stream, channel } => broker.handle_channel_end(peer, stream, channel),
            Event::ChannelCredited { stream, channel } => {
                broker.handle_channel_credited(now, peer, stream, channel);
            }
            Event::ItemCame { stream, channel, item, payload, more, credit, .. } => {
                let lagged = item.lagged();
                let first = FirstOfItem { parts: item.parts, payload, more, credit, lagged, outside };
                broker.handle_item(now, peer, (stream, channel), first);
            }
            Event::ItemContinued { stream, channel, payload, more, credit } => {
                broker.handle_item_continuation(peer, (stream, channel), &payload, more, credit);
            }
            Event::ChannelEnded { stream, channel, code, message, lagged } => {
                broker.handle_upload_end(peer, (stream, channel), code, &message, lagged);
            }
            // A provider that says GOAWAY ends its open calls; those that it did not take come as failed.
            _ => {}
        }
    }

    /// Does what the broker wants done, until it wants nothing.
    pub(super) fn pump(&self, now: Instant) {
        self.runner.note_clock(now);
        loop {
            let Some(output) = self.broker.borrow_mut().poll_output() else { break };
            match output {
                Output::Run(run) => {
                    let call = run.call;
                    if let Some(outcome) = self.runner.run(run) {
                        self.broker.borrow_mut().handle_completion(now, call, outcome);
                    }
                }
                Output::Fetch { call, uid, outside } => self.fetch(now, call, uid, outside),
                Output::TellLanes(peer) => self.tell_lanes_again(peer),
                Output::FetchItem { item, outside } => self.fetch_item(item, outside),
                Output::Reply { stream, headers, message, .. } if is_local(stream) => {
                    self.answer_local(stream, local::replied(headers, message));
                }
                Output::Fail { stream, code, failure, message, .. } if is_local(stream) => {
                    self.answer_local(stream, local::failed(code, &failure, message));
                }
                Output::Reply { peer, stream, headers, extensions, message, file } => {
                    self.answer(peer, stream, |connection| {
                        let lane = if file.is_some() { Lane::File } else { Lane::Pool };
                        let placement = self.place(peer, connection, &message, file.as_ref());
                        // The command counted on a file that can't be sent now: it ran, and its caller is told.
                        let placement = placement.map_err(|_| MisuseError::NotPlaced)?;
                        if !placement.is_empty() {
                            self.answer_is_placed(peer, stream, lane);
                        }
                        self.note_pooled(&placement);
                        connection.reply_extended(stream, headers, extensions, message, placement)
                    });
                }
                Output::Fail { peer, stream, code, failure, message } => {
                    self.answer(peer, stream, |connection| {
                        connection.fail_call(stream, code, failure, message)
                    });
                }
                Output::ServeChannel { peer, stream, channel, pipe } => {
                    let place = |connection: &mut Connection<_>, message: &Message| {
                        self.place(peer, connection, message, None).unwrap_or_default()
                    };
                    let sent = |placement: &Placement<_>| self.note_pooled(placement);
                    let serve = |connection: &mut Connection<_>| {
                        serve(connection, stream, channel, &pipe, place, sent)
                    };
                    if let Some(Served::Ended) = self.with_connection(peer, serve) {
                        self.broker.borrow_mut().handle_channel_end(peer, stream, channel);
                    }
                }
                Output::StopChannel { peer, stream, channel } => {
                    self.with_connection(peer, |connection| connection.stop_channel(stream, channel));
                }
                Output::GiveCredit { peer, stream, channel, credit } => {
                    self.with_connection(peer, |connection| {
                        connection.give_credit(stream, channel, credit);
                    });
                }
                Output::CutChannel { peer, stream, channel, code, message } => {
                    self.with_connection(peer, |connection| {
                        connection.cut_channel(stream, channel, code, message)
                    });
                }
                Output::Welcome { peer, welcome } => {
                    self.with_connection(peer, |connection| {
                        if let Err(error) = connection.welcome(&welcome) {
                            tracing::error!(%peer, %error, "can not welcome a peer");
                        }
                    });
                }
                Output::Narrow(narrowing) => {
                    self.narrowing.borrow_mut().push_back(narrowing);
                    self.narrowing_asked.notify_one();
                }
                Output::Bound { peer, limits } => {
                    let settings = held_to(self.settings, &limits);
                    self.with_connection(peer, |connection| connection.hold_to(settings));
                }
                Output::Refuse { peer, code, message } => {
                    self.with_connection(peer, |connection| connection.refuse(code, &message));
                }
                Output::Drain(peer) => {
                    self.with_connection(peer, |connection| connection.drain("the daemon is stopping"));
                }
                Output::Forward(call) => self.forward(now, *call),
                Output::CancelRouted(cancel) => self.cancel_routed(*cancel),
                Output::Grant { peer, grant } => self.give_grant(peer, &grant),
                Output::Ungrant { peer, grant } => self.take_grant(peer, grant),
                Output::RelayChannels { peer, stream } => {
                    self.with_connection(peer, |connection| connection.relay_channels(stream));
                }
                Output::ServeRelay { peer, relay } => {
                    self.with_connection(peer, |connection| {
                        self.broker.borrow_mut().serve_relay(relay, connection);
                    });
                }
                Output::PassCredit { peer, stream, channel, credit } => {
                    self.with_connection(peer, |connection| {
                        connection.pass_credit(stream, channel, credit);
                    });
                }
                Output::CancelHandler(call) => self.runner.cancel(call),
                Output::Observed(Observed::Called(record)) => self.call_ended(*record),
                Output::Observed(observed) => note(&observed),
            }
        }
        let (next, latest) = {
            let broker = self.broker.borrow();
            (broker.poll_timeout(), broker.decisions().latest())
        };
        if latest != self.told.replace(latest) {
            self.denied.send_replace(latest);
        }
        let armed = self.armed.get();
        if next.is_some_and(|next| armed.is_none_or(|armed| next < armed)) {
            self.rearm.notify_one();
        }
    }

    pub(super) fn note_unread(&self, peer: PeerId, bytes: usize, unconfirmed_fds: usize) {
        let mut broker = self.broker.borrow_mut();
        broker.note_unread(peer, bytes);
        broker.note_unconfirmed(peer, unconfirmed_fds);
        drop(broker);
        self.tell_written(peer);
        self.poll_relief();
    }

    pub(crate) fn forget(&self, peer: PeerId, now: Instant) {
        let link = self.links.borrow_mut().remove(&peer);
        let lost = link.map(|link| {
            // What the peer was lent goes back first, so that the memory has one owner.
            link.lose();
            link.lost.take()
        });
        self.close_lanes(peer);
        self.broker.borrow_mut().handle_loss(now, peer, &lost.unwrap_or_default());
        self.pump(now);
        self.tell_written(peer);
        self.runner.close_resources(peer);
        self.poll_relief();
    }

    pub(super) fn with_read_buffer<R>(
        &self,
        read: impl FnOnce(&mut BytesMut) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut buffer = self.read_buffer.borrow_mut();
        if buffer.capacity() < READ_MIN {
            // Takes the old memory back if nothing refers to it any more, which is the steady state.
            buffer.reserve(READ_BUFFER);
        }
        read(&mut buffer)
    }

    /// How long memory of peers is kept unused.
    pub(super) fn trim_after(&self) -> Duration {
        self.waits.trim
    }

    /// How long a session looks for the next call before it waits for it.
    pub(super) fn busy_poll(&self) -> Duration {
        self.waits.busy_poll
    }

    /// The time as the loop knows it without reading the clock: that of the last pump, or the end of the inline handler that ran
    /// since. What runs no handler takes microseconds.
    pub(super) fn clock(&self) -> Instant {
        self.runner.clock()
    }

    /// Notes who is read from; true if it is the same as at the last read.
    pub(super) fn note_reader(&self, id: PeerId) -> bool {
        self.last_reader.replace(Some(id)) == Some(id)
    }

    pub(super) fn spare_transmit(&self) -> Transmit<Attachment> {
        self.transmit.borrow_mut().take().unwrap_or_default()
    }

    pub(super) fn keep_transmit(&self, transmit: Transmit<Attachment>) {
        *self.transmit.borrow_mut() = Some(transmit);
    }

    fn poll_relief(&self) {
        if self.broker.borrow_mut().poll_relief() {
            self.relief.notify_one();
        }
    }

    /// Answers a call. An answer that can't be sent as it is becomes an error that can.
    fn answer(
        &self,
        peer: PeerId,
        stream: u64,
        say: impl FnOnce(&mut Connection<Attachment>) -> Result<(), MisuseError>,
    ) {
        let refused = self.with_connection(peer, |connection| {
            let error = say(connection).err()?;
            let code = match error.wire_code() {
                // It is the command's fault, not its caller's.
                ErrorCode::InvalidArgument => ErrorCode::Internal,
                code => code,
            };
            let text = format!("the command's answer can't be sent: {error}");
            let failure = Failure::framework(code, &text, Delivery::Completed);
            if connection.fail_call(stream, code, failure, Message::default()).is_err() {
                // The stream is gone, and with it whoever waited.
                tracing::trace!(stream, "an answer found no stream");
            }
            Some(code)
        });
        if let Some(code) = refused.flatten() {
            self.broker.borrow_mut().handle_failed_answer(peer, stream, code);
        }
    }

    pub(super) fn with_connection<R>(
        &self,
        peer: PeerId,
        act: impl FnOnce(&mut Connection<Attachment>) -> R,
    ) -> Option<R> {
        let link = self.links.borrow().get(&peer).map(Rc::clone)?;
        let result = act(&mut link.connection.borrow_mut());
        link.wake();
        Some(result)
    }
}

/// Whether the daemon opened a stream.
fn is_own(stream: u64) -> bool {
    stream.is_multiple_of(2)
}

fn note(observed: &Observed) {
    match observed {
        Observed::Denied { decision, peer, command, explanation, suppressed } => {
            // The fields on a line of their own: what stands before them is there to be pasted into a file.
            let (peer, uid, pid) = (peer.id, peer.uid, peer.pid);
            let command = command.as_str();
            tracing::warn!(%decision, %peer, uid, pid, command, suppressed, "{explanation}\n ");
        }
        // It is for monitors.
        Observed::Called(_) => {}
        Observed::Started { call, peer, command, bytes, received_in } => {
            tracing::debug!(?call, peer = %peer.id, command = command.as_str(), bytes, ?received_in, "call");
        }
        Observed::Ended { call, code, bytes, took } => {
            tracing::debug!(?call, ?code, bytes, ?took, "ended");
        }
    }
}
