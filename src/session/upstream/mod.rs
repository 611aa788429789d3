//! In a provider: its connection to the daemon whose calls it answers.
//!
//! Calls come on even streams, each for an [origin](origins): a process that the daemon names, with the grant that allows the
//! call. They go the same way through the broker as calls of a daemon's own peers. Calls of this process, on odd streams, are
//! in [`outgoing`].

mod origins;
mod outgoing;
mod sharing;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap;
use invoked_proto::body::Message;
use invoked_proto::connection::{Connection, Event, Request, Settings};
use invoked_proto::error::{MisuseError, PeerError};
use invoked_proto::metadata::{Call, Failure, Grant as GrantRecord, Hello, OriginStamp};
use invoked_proto::registry::{Delivery, ErrorCode, tags};
use invoked_transport::Attachment;
use tokio::sync::oneshot;

use super::{Hub, Link};
use crate::authority::{Grant, UserDirectory, granted};
use crate::broker::FirstOfCall;
use crate::ipc::{Fault, OwnedInvokeResponder, PeerId};
use origins::Origins;
use outgoing::Outgoing;

/// The number of the daemon among the peers of a provider. No process for whom it calls has it: streams and peers are
/// numbered below 2^53.
const DAEMON: PeerId = PeerId(u64::MAX);

/// Grants that a daemon may give. It gives one for each command and each kind of caller, so more is a fault of the daemon's.
const GRANTS_MAX: usize = 64 * 1024;

/// How the daemon took the connection.
pub(crate) type Welcomed = Result<(), Fault>;

/// The connection to the daemon.
pub(crate) struct Upstream {
    hub: Rc<Hub>,
    link: Rc<Link>,
    users: Arc<dyn UserDirectory + Send + Sync>,
    grants: RefCell<HashMap<u64, Given>>,
    origins: RefCell<Origins>,
    outgoing: RefCell<Outgoing>,
    welcomed: RefCell<Option<oneshot::Sender<Welcomed>>>,
    /// Whether either side has said that it takes no more.
    leaving: Cell<bool>,
}

/// A grant and how new it is.
#[derive(Debug)]
struct Given {
    generation: u64,
    grant: Arc<Grant>,
}

impl Upstream {
    /// Begins the connection; what becomes of the handshake goes to `welcomed`.
    ///
    /// # Errors
    /// What is wrong with `hello`.
    pub(crate) fn begin(
        hub: &Rc<Hub>,
        settings: Settings,
        hello: &Hello,
        users: Arc<dyn UserDirectory + Send + Sync>,
        welcomed: oneshot::Sender<Welcomed>,
    ) -> Result<Rc<Self>, MisuseError> {
        let connection = Connection::client(settings, hello, Instant::now())?;
        let link = Rc::new(Link::new(connection));
        Ok(Rc::new(Upstream {
            hub: Rc::clone(hub),
            link,
            users,
            grants: RefCell::default(),
            origins: RefCell::default(),
            outgoing: RefCell::default(),
            welcomed: RefCell::new(Some(welcomed)),
            leaving: Cell::new(false),
        }))
    }

    /// The number that stands for the daemon.
    pub(super) fn peer(&self) -> PeerId {
        DAEMON
    }

    pub(super) fn link(&self) -> Rc<Link> {
        Rc::clone(&self.link)
    }

    /// Calls a command of the daemon's, or of another provider. The answer goes to `waiter`, once, also if there is none.
    ///
    /// # Errors
    /// Why nothing was sent; `waiter` is not asked then.
    pub(crate) fn call(&self, request: Request, waiter: Box<OwnedInvokeResponder>) -> Result<u64, Fault> {
        if self.leaving.get() {
            return Err(Fault::refusal(ErrorCode::Unavailable, "the connection to the daemon is ending"));
        }
        let called = self.link.connection.borrow_mut().call(request);
        let stream = called.map_err(|error| Fault::refusal(error.wire_code(), error.to_string()))?;
        self.outgoing.borrow_mut().begin(stream, waiter);
        self.link.wake();
        Ok(stream)
    }

    /// Nobody waits any more for a call of this process.
    pub(crate) fn cancel(&self, stream: u64) {
        self.link.connection.borrow_mut().cancel(stream);
        self.outgoing.borrow_mut().forget(stream);
        self.link.wake();
    }

    /// Whether a call that came on this stream waits for its answer.
    pub(crate) fn is_inbound(&self, stream: u64) -> bool {
        let origins = self.origins.borrow();
        origins.of(stream).is_some_and(|peer| self.hub.with_broker(|broker| broker.has_stream(peer, stream)))
    }

    /// Takes no more calls; ends when those that are open have.
    pub(crate) fn drain(&self, why: &str) {
        self.leaving.set(true);
        self.link.connection.borrow_mut().drain(why);
        self.link.wake();
    }

    /// Whether the daemon takes providers.
    pub(crate) fn provides(&self) -> bool {
        self.link.connection.borrow().may_provide()
    }

    /// Calls of the daemon that are open.
    pub(crate) fn open_calls(&self) -> usize {
        self.link.connection.borrow().open_inbound()
    }

    pub(super) fn handle_event(&self, now: Instant, event: Event<Attachment>) -> Result<(), PeerError> {
        match event {
            Event::Welcomed(_) => self.tell_welcomed(Ok(())),
            Event::Refused { code, reason } => self.tell_welcomed(Err(Fault::refusal(code, reason))),
            Event::WentAway { code, notice } => self.handle_goaway(code, notice.message.as_str()),
            Event::Granted(record) => self.handle_grant(&record),
            Event::Ungranted(ungrant) => self.handle_ungrant(now, ungrant.grant),
            Event::Called { stream, flags, call, payload, more, .. } => {
                self.handle_call(now, stream, call, FirstOfCall { flags, payload, more, outside: None });
            }
            Event::Replied { stream, reply, payload, more, .. } => {
                return self.outgoing.borrow_mut().handle_reply(stream, reply, payload, more);
            }
            Event::Failed { stream, code, failure, payload, more, .. } => {
                return self.outgoing.borrow_mut().handle_failure(stream, (code, failure), payload, more);
            }
            Event::Continued { stream, payload, more } if is_own(stream) => {
                return self.outgoing.borrow_mut().handle_continuation(stream, &payload, more);
            }
            Event::Continued { stream, payload, more } => {
                let peer = self.origins.borrow().of(stream);
                if let Some(peer) = peer {
                    self.hub.handle_continuation(now, (peer, stream), &payload, more);
                }
            }
            Event::Cancelled { stream }
            | Event::ItemCame { stream, .. }
            | Event::ItemContinued { stream, .. }
            | Event::ChannelEnded { stream, .. }
            | Event::ChannelStopped { stream, .. }
            | Event::ChannelCredited { stream, .. } => {
                let peer = self.origins.borrow().of(stream);
                if let Some(peer) = peer {
                    self.hub.handle_event(now, peer, event);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_goaway(&self, code: Option<ErrorCode>, message: &str) {
        self.leaving.set(true);
        let code = match code {
            Some(code) => code,
            None => {
                self.link.connection.borrow_mut().drain("the daemon goes");
                ErrorCode::Unavailable
            }
        };
        self.tell_welcomed(Err(Fault::refusal(code, message)));
    }

    /// A grant that can't be read is as good as none: its calls are refused.
    fn handle_grant(&self, record: &GrantRecord) {
        let mut grants = self.grants.borrow_mut();
        let is_newer = grants.get(&record.grant).is_none_or(|known| known.generation < record.generation);
        if !is_newer {
            return;
        }
        let commands = self.hub.with_broker(|broker| Arc::clone(broker.commands()));
        let is_scoped = |name: &invoked_proto::name::CommandName| {
            commands.find(name.as_str()).is_some_and(|command| command.is_scoped())
        };
        match granted::read(record.grant, &record.scopes.0, is_scoped) {
            Ok(grant) if grants.len() < GRANTS_MAX || grants.contains_key(&record.grant) => {
                let given = Given { generation: record.generation, grant: Arc::new(grant) };
                grants.insert(record.grant, given);
            }
            Ok(_) => tracing::error!("the daemon gives more than {GRANTS_MAX} grants; one is left out"),
            Err(error) => {
                grants.remove(&record.grant);
                tracing::error!(%error, "a grant of the daemon's can't be read");
            }
        }
    }

    fn handle_ungrant(&self, now: Instant, grant: u64) {
        self.grants.borrow_mut().remove(&grant);
        let unused = self.origins.borrow_mut().ungrant(grant, |peer| self.is_idle(peer));
        unused.into_iter().for_each(|peer| self.hub.forget_origin(now, peer));
    }

    fn handle_call(&self, now: Instant, stream: u64, call: Call, first: FirstOfCall) {
        let stamp = call.extensions.find(tags::ORIGIN).and_then(|value| OriginStamp::decode(value).ok());
        let Some(stamp) = stamp else {
            return self.refuse(stream, ErrorCode::Internal, "the daemon did not say for whom it calls");
        };
        let grant = self.grants.borrow().get(&stamp.grant).map(|given| Arc::clone(&given.grant));
        let Some(grant) = grant else {
            let text = "the grant of this call was not given, or was taken back";
            return self.refuse(stream, ErrorCode::PermissionDenied, text);
        };
        if grant.command().as_str() != call.command.as_str() {
            return self.refuse(stream, ErrorCode::Internal, "the grant of this call is for another command");
        }
        let Some(peer) = self.origin(now, &stamp) else {
            return self.refuse(stream, ErrorCode::Unavailable, "the provider is stopping");
        };
        let is_open = |peer, stream| self.hub.with_broker(|broker| broker.has_stream(peer, stream));
        self.origins.borrow_mut().note_call(stream, peer, stamp.grant, is_open);
        self.hub.handle_granted_call(now, (peer, stream), call, first, grant);
    }

    /// The peer that stands for the process that calls; made when it calls first.
    fn origin(&self, now: Instant, stamp: &OriginStamp) -> Option<PeerId> {
        let peer = PeerId(stamp.peer);
        let mut origins = self.origins.borrow_mut();
        if origins.knows(peer, stamp) {
            return Some(peer);
        }
        let forgotten = origins.make_room(peer, |peer| self.is_idle(peer));
        drop(origins);
        forgotten.into_iter().for_each(|peer| self.hub.forget_origin(now, peer));
        if peer == DAEMON || !self.hub.admit_origin(peer, origins::facts(stamp, &*self.users)) {
            return None;
        }
        self.hub.share_link(peer, &self.link);
        self.origins.borrow_mut().add(peer, stamp);
        Some(peer)
    }

    fn is_idle(&self, peer: PeerId) -> bool {
        self.hub.with_broker(|broker| broker.is_idle(peer))
    }

    fn refuse(&self, stream: u64, code: ErrorCode, text: &str) {
        let failure = Failure::framework(code, text, Delivery::NotDelivered);
        let refused = self.link.connection.borrow_mut().fail_call(stream, code, failure, Message::default());
        if let Err(error) = refused {
            tracing::debug!(stream, %error, "a call that is refused has ended already");
        }
        self.link.wake();
    }

    fn tell_welcomed(&self, welcomed: Welcomed) {
        if let Some(waiting) = self.welcomed.borrow_mut().take() {
            // Whoever asked may have left.
            drop(waiting.send(welcomed));
        }
    }

    /// `bytes` wait for the daemon to read them.
    pub(super) fn note_unread(&self, bytes: usize) {
        self.hub.note_unread_of_origins(bytes);
    }

    /// The connection is over: whoever called is gone, and no answer comes any more.
    pub(super) fn lost(&self, now: Instant) {
        self.leaving.set(true);
        self.link.lose();
        let lost = self.link.lost.take();
        self.outgoing.borrow_mut().lose(&lost);
        let peers = self.origins.borrow_mut().take_all();
        peers.into_iter().for_each(|peer| self.hub.forget_origin(now, peer));
        let text = "the daemon ended the connection";
        self.tell_welcomed(Err(Fault::refusal(ErrorCode::Unavailable, text)));
    }
}

/// Whether a stream is one that this side opened.
fn is_own(stream: u64) -> bool {
    stream % 2 == 1
}
