//! Between a handler and the loop: the items of one channel that the loop has not taken yet.
//!
//! The handler's end may be on any thread; the loop's end never waits. What waits here is bounded by [`QUEUE_MAX`] for
//! each channel and by the [`Budget`] of the uid that is to receive it. A channel stands in the [`Ready`] list at most
//! once, so that list is bounded by the number of channels.
//!
//! Where there is no room the handler's end of a channel that blocks waits. One that may leave items out never does: its
//! oldest items make room, and how many were left out is counted with the item before which they are missing.

mod lossy;

use std::collections::VecDeque;

use invoked_proto::body::Message;
use invoked_proto::registry::{ErrorCode, Overflow, limits};
use tokio::sync::Notify;

use super::budget::Budget;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What items of one channel may cost that wait for the loop; a single one may cost more.
const QUEUE_MAX: u64 = limits::FRAGMENT as u64;

/// Names a channel while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PipeId(pub(crate) u64);

/// Channels that have something for the loop.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    list: Mutex<Vec<PipeId>>,
    notify: Notify,
}

/// One channel between its handler and the loop.
#[derive(Debug)]
pub(crate) struct Pipe {
    id: PipeId,
    ready: Arc<Ready>,
    budget: Arc<Budget>,
    overflow: Overflow,
    state: Mutex<State>,
    /// For threads that wait; [`Pipe::changed`] is for tasks.
    room: Condvar,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    items: VecDeque<Waiting>,
    /// How many items were left out behind those that wait.
    lagged: u64,
    /// What is charged for items that wait, here or in the loop's hands.
    cost: u64,
    /// How the channel ends once its items are taken.
    end: Option<End>,
    /// Why it takes no more items.
    closed: Option<ErrorCode>,
    /// It stands in the ready list.
    is_listed: bool,
    /// The loop waits for credit, and looks again when it comes.
    is_parked: bool,
    /// The budget had no room for an item; it says when it may have.
    is_starved: bool,
    /// Threads that wait for room.
    waiting: usize,
}

/// An item that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) message: Message,
    /// How many items were left out right before it.
    pub(crate) lagged: u64,
}

/// How a channel ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// `None` if it ends well.
    pub(crate) code: Option<ErrorCode>,
    /// Why, for people.
    pub(crate) message: String,
    /// How many items were left out since the last one.
    pub(crate) lagged: u64,
}

impl End {
    pub(crate) fn new(code: Option<ErrorCode>, message: String) -> Self {
        End { code, message, lagged: 0 }
    }
}

/// Why an item was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no room now; here it is back.
    Full(Message),
    /// The channel takes no more items.
    Closed(ErrorCode),
}

impl Ready {
    /// Waits until channels are ready. Cancel safe.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// The channels that are ready now.
    pub(crate) fn take(&self) -> Vec<PipeId> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(&self, id: PipeId) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(id);
        let is_first = list.len() == 1;
        drop(list);
        if is_first {
            self.notify.notify_one();
        }
    }
}

impl Pipe {
    pub(crate) fn new(id: PipeId, ready: Arc<Ready>, budget: Arc<Budget>, overflow: Overflow) -> Arc<Self> {
        let state = State {
            items: VecDeque::new(),
            lagged: 0,
            cost: 0,
            end: None,
            closed: None,
            is_listed: false,
            is_parked: false,
            is_starved: false,
            waiting: 0,
        };
        Arc::new(Pipe {
            id,
            ready,
            budget,
            overflow,
            state: Mutex::new(state),
            room: Condvar::new(),
            changed: Notify::new(),
        })
    }

    /// What it does where there is no room.
    pub(crate) fn overflow(&self) -> Overflow {
        self.overflow
    }

    // The handler's end.

    /// Queues an item if there is room, or it may make some.
    pub(super) fn push(self: &Arc<Self>, message: Message) -> Result<(), Refused> {
        let cost = cost(&message);
        let mut state = self.lock();
        if let Some(code) = state.closed {
            return Err(Refused::Closed(code));
        }
        if self.overflow != Overflow::Block {
            return self.push_over(state, message);
        }
        let has_room = state.cost == 0 || state.cost + cost <= QUEUE_MAX;
        if !has_room || state.is_starved {
            return Err(Refused::Full(message));
        }
        if !self.budget.charge(cost) {
            state.is_starved = true;
            self.budget.note_starved(self);
            // It may have been given back before it knew of us.
            if !self.budget.charge(cost) {
                return Err(Refused::Full(message));
            }
            state.is_starved = false;
        }
        state.cost += cost;
        state.items.push_back(Waiting { message, lagged: 0 });
        self.list(state);
        Ok(())
    }

    /// Queues an item, and blocks the thread until there is room.
    pub(super) fn push_blocking(self: &Arc<Self>, mut message: Message) -> Result<(), ErrorCode> {
        loop {
            message = match self.push(message) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed(code)) => return Err(code),
                Err(Refused::Full(message)) => message,
            };
            let cost = cost(&message);
            let mut state = self.lock();
            state.waiting += 1;
            let mut state = self
                .room
                .wait_while(state, |state| !state.may_take(cost))
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Queues an item once there is room. Cancel safe: an item that is not taken is dropped.
    pub(super) async fn push_async(self: &Arc<Self>, mut message: Message) -> Result<(), ErrorCode> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the state is read, so a change in between is not missed.
            changed.as_mut().enable();
            message = match self.push(message) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed(code)) => return Err(code),
                Err(Refused::Full(message)) => message,
            };
            changed.await;
        }
    }

    /// Ends the channel after the items that wait; only the first end counts.
    pub(super) fn end(&self, end: End) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(end.code.unwrap_or(ErrorCode::Cancelled));
        state.end = Some(end);
        self.list(state);
        self.wake();
    }

    /// Why the channel takes no more items, if it doesn't.
    pub(super) fn closed_by(&self) -> Option<ErrorCode> {
        self.lock().closed
    }

    /// Waits until the channel takes no more items. Cancel safe.
    pub(super) async fn closed(&self) -> ErrorCode {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(code) = self.closed_by() {
                return code;
            }
            changed.await;
        }
    }

    // The loop's end.

    /// Gives the items that wait to `take`, in order, until it gives one back; then the rest waits until the loop looks
    /// again. The end, if they were the last.
    pub(crate) fn drain(&self, mut take: impl FnMut(Waiting) -> Option<Waiting>) -> Option<End> {
        let mut state = self.lock();
        (state.is_listed, state.is_parked) = (false, false);
        let mut items = std::mem::take(&mut state.items);
        drop(state);
        let mut taken = 0;
        let mut given_back = None;
        while let Some(item) = items.pop_front() {
            let cost = cost(&item.message);
            if let Some(item) = take(item) {
                given_back = Some(item);
                break;
            }
            taken += cost;
        }
        let mut state = self.lock();
        if let Some(item) = given_back {
            items.push_front(item);
            // What was queued meanwhile stands behind.
            items.append(&mut state.items);
            state.items = items;
            state.is_parked = true;
            taken += self.trim(&mut state);
        }
        let mut end = if state.items.is_empty() { state.end.take() } else { None };
        if let Some(end) = &mut end {
            end.lagged = std::mem::take(&mut state.lagged);
        }
        self.give_back(state, taken);
        end
    }

    /// The receiver wants no more, or the channel is gone: what waits is dropped, and the handler is told.
    pub(crate) fn close(&self, code: ErrorCode) {
        let mut state = self.lock();
        state.closed.get_or_insert(code);
        state.end = None;
        let items = std::mem::take(&mut state.items);
        let dropped = items.iter().map(|item| cost(&item.message)).sum();
        self.give_back(state, dropped);
        self.wake();
    }

    /// Takes no more items; those that wait are sent, and then it ends with `code`.
    pub(crate) fn finish(&self, code: ErrorCode, message: &str) {
        self.end(End::new(Some(code), message.to_owned()));
    }

    /// There may be room in the budget again.
    pub(super) fn feed(&self) {
        self.lock().is_starved = false;
        self.wake();
    }

    fn give_back(&self, mut state: MutexGuard<'_, State>, cost: u64) {
        state.cost -= cost;
        // Who sends small items is not woken for each.
        let wakes = state.waiting > 0 && state.cost <= QUEUE_MAX / 2;
        let is_roomy = state.cost <= QUEUE_MAX / 2;
        drop(state);
        self.budget.give_back(cost);
        if cost > 0 && is_roomy {
            self.changed.notify_waiters();
        }
        if wakes {
            self.room.notify_all();
        }
    }

    fn wake(&self) {
        self.changed.notify_waiters();
        self.room.notify_all();
    }

    fn list(&self, mut state: MutexGuard<'_, State>) {
        if !state.is_parked && !std::mem::replace(&mut state.is_listed, true) {
            drop(state);
            self.ready.add(self.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, and each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether it is of use to try an item again.
    fn may_take(&self, cost: u64) -> bool {
        let has_room = self.cost == 0 || self.cost + cost <= QUEUE_MAX;
        self.closed.is_some() || has_room && !self.is_starved
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(std::mem::take(&mut state.cost));
    }
}

/// What an item costs while it waits, as on the wire.
fn cost(message: &Message) -> u64 {
    (message.len() as u64).max(limits::ITEM_COST_MIN as u64)
}
