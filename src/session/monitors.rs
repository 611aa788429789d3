//! Who is told of each call, once its answer is written.
//!
//! Nothing here waits for anybody, and while nobody monitors there is nothing to look at. A record whose answer is on its way
//! belongs to a call that holds one of its connection's slots, so there are no more of them than of these.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use invoked_proto::registry::Lane;

use super::Hub;
use crate::broker::{CallRecord, is_local};
use crate::ipc::PeerId;

/// Monitors at once.
const MONITORS_MAX: usize = 16;

/// Takes a record; false once it wants no more. It is called on the loop and must not wait.
pub(crate) type Monitor = Box<dyn FnMut(&CallRecord) -> bool + Send>;

/// Who monitors.
pub(crate) struct Watcher {
    pub(crate) peer: PeerId,
    /// Whether it wants bodies, for whose memory it is charged.
    pub(crate) bodies: bool,
    pub(crate) tell: Monitor,
}

/// By which a monitor is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MonitorId(u64);

/// All of them, and the calls of which they are to be told.
#[derive(Default)]
pub(super) struct Monitors {
    all: RefCell<Vec<(MonitorId, Watcher)>>,
    next: Cell<u64>,
    /// Calls that have ended and whose answers are not written.
    unwritten: RefCell<HashMap<PeerId, Vec<CallRecord>>>,
}

impl fmt::Debug for Monitors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} monitors", self.all.borrow().len())
    }
}

impl Hub {
    /// Tells each call to `watcher` from now on; `None` if there are too many. While there is none, calls are not recorded.
    pub(crate) fn monitor(&self, watcher: Watcher) -> Option<MonitorId> {
        let mut all = self.monitors.all.borrow_mut();
        if all.len() >= MONITORS_MAX {
            return None;
        }
        let id = MonitorId(self.monitors.next.get());
        self.monitors.next.set(id.0 + 1);
        all.push((id, watcher));
        self.count_monitors(&all);
        Some(id)
    }

    /// A monitor has left.
    pub(crate) fn unmonitor(&self, id: MonitorId) {
        let mut all = self.monitors.all.borrow_mut();
        all.retain(|(other, _)| *other != id);
        self.count_monitors(&all);
    }

    /// A call has ended; its answer may be on its way.
    pub(super) fn call_ended(&self, mut record: CallRecord) {
        if is_local(record.stream) {
            record.transfer = Some(Duration::ZERO);
        } else if self.links.borrow().contains_key(&record.peer.id) {
            let mut unwritten = self.monitors.unwritten.borrow_mut();
            return unwritten.entry(record.peer.id).or_default().push(record);
        }
        self.tell_monitors(&[record]);
    }

    /// Parts of a call's answer lie in shared memory, or its body in a file.
    pub(super) fn answer_is_placed(&self, peer: PeerId, stream: u64, lane: Lane) {
        let mut unwritten = self.monitors.unwritten.borrow_mut();
        let record = unwritten.get_mut(&peer).and_then(|all| all.iter_mut().rfind(|r| r.stream == stream));
        if let Some(record) = record {
            record.lane = lane;
        }
    }

    /// The socket of a peer took bytes, or the peer is gone: tells of the calls whose answers are written.
    pub(super) fn tell_written(&self, peer: PeerId) {
        let mut unwritten = self.monitors.unwritten.borrow_mut();
        if unwritten.is_empty() {
            return;
        }
        let Some(records) = unwritten.get_mut(&peer) else { return };
        let now = Instant::now();
        let link = self.links.borrow().get(&peer).cloned();
        let told: Vec<CallRecord> = match link {
            Some(link) => {
                let connection = link.connection.borrow();
                let mut told: Vec<_> =
                    records.extract_if(.., |record| !connection.is_unwritten(record.stream)).collect();
                told.iter_mut().for_each(|record| record.written(now));
                told
            }
            None => std::mem::take(records),
        };
        if records.is_empty() {
            unwritten.remove(&peer);
        }
        drop(unwritten);
        if !told.is_empty() {
            self.tell_monitors(&told);
        }
    }

    fn tell_monitors(&self, records: &[CallRecord]) {
        let mut all = self.monitors.all.borrow_mut();
        let before = all.len();
        for record in records {
            all.retain_mut(|(_, watcher)| (watcher.tell)(record));
        }
        if all.len() != before {
            self.count_monitors(&all);
        }
    }

    fn count_monitors(&self, all: &[(MonitorId, Watcher)]) {
        let bodies = all.iter().find(|(_, watcher)| watcher.bodies).map(|(_, watcher)| watcher.peer);
        self.broker.borrow_mut().monitor(all.len(), bodies);
        if all.is_empty() {
            self.monitors.unwritten.borrow_mut().clear();
        }
    }
}
