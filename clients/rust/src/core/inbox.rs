//! The channels of calls that items come on: what has come and was not taken.
//!
//! What waits here is bounded by the credit that each channel was given, and by one item, which may be larger.

use std::collections::VecDeque;

use bytes::Bytes;
use invoked_proto::body::{Assembly, Message};
use invoked_proto::connection::More;
use invoked_proto::error::PeerError;
use invoked_proto::metadata::{ChannelDeclaration, Part};
use invoked_proto::registry::Direction;

use super::{Core, StreamId};
use crate::error::Error;

/// A channel of an open stream.
pub(crate) type ChannelKey = (StreamId, u32);

/// One channel.
#[derive(Debug)]
pub(super) struct Inbox<W> {
    items: VecDeque<(Message, u64)>,
    growing: Option<(Assembly, u64)>,
    /// How it ended; taken once, after the items.
    end: Option<Result<(), Error>>,
    waiter: Option<W>,
}

impl<W> Inbox<W> {
    fn new() -> Self {
        Inbox { items: VecDeque::new(), growing: None, end: None, waiter: None }
    }
}

impl<A, W> Core<A, W> {
    /// Notes the channels of a call that was opened.
    pub(super) fn open_inboxes(&mut self, stream: StreamId, declared: &[ChannelDeclaration]) {
        for channel in declared.iter().filter(|channel| channel.direction == Direction::Down) {
            self.inboxes.insert((stream, channel.index), Inbox::new());
        }
    }

    /// Takes the next item of a channel, or its end; `None` while nothing is there. `waiter` is woken when that changes.
    /// Its credit goes back to the daemon, if that is worth a frame.
    pub(crate) fn take_item(
        &mut self,
        key: ChannelKey,
        waiter: impl FnOnce() -> W,
    ) -> Option<Option<Result<Message, Error>>> {
        let Some(inbox) = self.inboxes.get_mut(&key) else { return Some(None) };
        if let Some((message, credit)) = inbox.items.pop_front() {
            self.connection.give_credit(key.0, key.1, credit);
            return Some(Some(Ok(message)));
        }
        if inbox.end.is_none() {
            inbox.waiter = Some(waiter());
            return None;
        }
        let end = self.inboxes.remove(&key).and_then(|inbox| inbox.end);
        Some(end.and_then(Result::err).map(Err))
    }

    /// Nobody takes the items of a channel any more: its sender is asked to stop.
    pub(super) fn drop_inbox(&mut self, key: ChannelKey) {
        if let Some(inbox) = self.inboxes.remove(&key)
            && inbox.end.is_none()
        {
            self.connection.stop_channel(key.0, key.1);
        }
    }

    pub(super) fn begin_item(
        &mut self,
        key: ChannelKey,
        parts: Vec<Part>,
        payload: Bytes,
        more: More,
        credit: u64,
        capacity: usize,
    ) -> Result<(), PeerError> {
        let Some(inbox) = self.inboxes.get_mut(&key) else { return Ok(()) };
        let assembly = Assembly::begin(parts, payload)?;
        inbox.growing = Some((assembly, credit));
        self.settle_item(key, more, capacity)
    }

    pub(super) fn go_on_with_item(
        &mut self,
        key: ChannelKey,
        payload: &[u8],
        more: More,
        credit: u64,
    ) -> Result<(), PeerError> {
        let Some(inbox) = self.inboxes.get_mut(&key) else { return Ok(()) };
        let Some((assembly, sum)) = &mut inbox.growing else { return Ok(()) };
        assembly.push(payload)?;
        *sum += credit;
        // Fragments were copied together, so the read buffer is not shared.
        self.settle_item(key, more, 0)
    }

    fn settle_item(&mut self, key: ChannelKey, more: More, capacity: usize) -> Result<(), PeerError> {
        let Some(inbox) = self.inboxes.get_mut(&key).filter(|_| more == More::Whole) else { return Ok(()) };
        if let Some((assembly, credit)) = inbox.growing.take() {
            inbox.items.push_back((assembly.finish()?.detach(capacity), credit));
            self.woken.extend(inbox.waiter.take());
        }
        Ok(())
    }

    /// A channel has ended.
    pub(super) fn end_inbox(&mut self, key: ChannelKey, end: Result<(), Error>) {
        if let Some(inbox) = self.inboxes.get_mut(&key) {
            inbox.growing = None;
            inbox.end.get_or_insert(end);
            self.woken.extend(inbox.waiter.take());
        }
    }

    /// All channels that have not ended, or only those of a stream.
    pub(super) fn end_inboxes(&mut self, of: Option<StreamId>, end: impl Fn() -> Error) {
        let all: Vec<ChannelKey> =
            self.inboxes.keys().filter(|key| of.is_none_or(|stream| stream == key.0)).copied().collect();
        all.into_iter().for_each(|key| self.end_inbox(key, Err(end())));
    }
}
