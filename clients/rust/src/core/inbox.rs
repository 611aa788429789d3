//! The channels of calls that items come on: what has come and was not taken.
//!
//! What waits here is bounded by the credit that each channel was given, and by one item, which may be larger. Of a
//! channel of which only the latest item is wanted, no more than that waits here.

use std::collections::VecDeque;

use bytes::Bytes;
use invoked_proto::body::{Assembly, Message};
use invoked_proto::connection::More;
use invoked_proto::error::PeerError;
use invoked_proto::lossy::overflow_of;
use invoked_proto::metadata::{ChannelDeclaration, Extensions, Item};
use invoked_proto::registry::{Direction, Overflow};

use super::{Core, StreamId};
use crate::error::Error;

/// What a call declares.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) channels: Vec<ChannelDeclaration>,
    pub(super) extensions: Extensions,
}

/// A channel of an open stream.
pub(crate) type ChannelKey = (StreamId, u32);

/// One channel.
#[derive(Debug)]
pub(super) struct Inbox<W> {
    overflow: Overflow,
    items: VecDeque<Held>,
    /// The item that is on its way, its credit, and how many were left out before it.
    growing: Option<(Assembly, u64, u64)>,
    /// How many were left out since the last item, for its end.
    lagged: u64,
    /// How it ended; taken once, after the items.
    end: Option<Result<(), Error>>,
    waiter: Option<W>,
}

/// An item that was not taken.
#[derive(Debug)]
struct Held {
    message: Message,
    credit: u64,
    /// How many were left out right before it.
    lagged: u64,
}

/// What comes on a channel.
#[derive(Debug)]
pub(crate) enum Next {
    Item(Message),
    /// Here so many items were left out.
    Lagged(u64),
}

impl<W> Inbox<W> {
    fn new(overflow: Overflow) -> Self {
        Inbox { overflow, items: VecDeque::new(), growing: None, lagged: 0, end: None, waiter: None }
    }

    /// How many items were left out here, if any; told once.
    fn take_lagged(&mut self) -> Option<u64> {
        let lagged = match self.items.front_mut() {
            Some(held) => &mut held.lagged,
            None if self.end.is_some() => &mut self.lagged,
            None => return None,
        };
        Some(std::mem::take(lagged)).filter(|lagged| *lagged > 0)
    }

    /// Keeps an item; the credit of those that are left out for it.
    fn keep(&mut self, mut item: Held) -> u64 {
        let mut left_out = 0;
        if self.overflow == Overflow::Latest {
            for held in self.items.drain(..) {
                item.lagged = item.lagged.saturating_add(held.lagged).saturating_add(1);
                left_out += held.credit;
            }
        }
        self.items.push_back(item);
        left_out
    }
}

impl<A, W> Core<A, W> {
    /// Notes the channels of a call that was opened.
    pub(super) fn open_inboxes(&mut self, stream: StreamId, declared: &Declared) {
        for channel in declared.channels.iter().filter(|channel| channel.direction == Direction::Down) {
            let overflow = overflow_of(&declared.extensions, &declared.channels, channel.index);
            self.inboxes.insert((stream, channel.index), Inbox::new(overflow));
        }
    }

    /// Takes the next item of a channel, or its end; `None` while nothing is there. `waiter` is woken when that changes.
    /// Its credit goes back to the daemon, if that is worth a frame. That items were left out is told only for channels that
    /// were opened so.
    pub(crate) fn take_item(
        &mut self,
        key: ChannelKey,
        waiter: impl FnOnce() -> W,
    ) -> Option<Option<Result<Next, Error>>> {
        let Some(inbox) = self.inboxes.get_mut(&key) else { return Some(None) };
        if inbox.overflow != Overflow::Block
            && let Some(lagged) = inbox.take_lagged()
        {
            return Some(Some(Ok(Next::Lagged(lagged))));
        }
        if let Some(Held { message, credit, .. }) = inbox.items.pop_front() {
            self.connection.give_credit(key.0, key.1, credit);
            return Some(Some(Ok(Next::Item(message))));
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
            // Another thread may wait for what will not come.
            self.woken.extend(inbox.waiter);
            self.connection.stop_channel(key.0, key.1);
        }
    }

    pub(super) fn begin_item(
        &mut self,
        key: ChannelKey,
        item: Item,
        payload: Bytes,
        more: More,
        credit: u64,
        capacity: usize,
    ) -> Result<(), PeerError> {
        let Some(inbox) = self.inboxes.get_mut(&key) else {
            self.connection.release_parts(&item.parts);
            return Ok(());
        };
        let lagged = item.lagged();
        let assembly = Assembly::begin_with(item.parts, payload, |part| self.segments.find(part))?;
        inbox.growing = Some((assembly, credit, lagged));
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
        let Some((assembly, sum, _)) = &mut inbox.growing else { return Ok(()) };
        assembly.push(payload)?;
        *sum += credit;
        // Fragments were copied together, so the read buffer is not shared.
        self.settle_item(key, more, 0)
    }

    fn settle_item(&mut self, key: ChannelKey, more: More, capacity: usize) -> Result<(), PeerError> {
        let Some(inbox) = self.inboxes.get_mut(&key).filter(|_| more == More::Whole) else { return Ok(()) };
        if let Some((assembly, credit, lagged)) = inbox.growing.take() {
            let message = assembly.finish_detached(capacity)?;
            let left_out = inbox.keep(Held { message, credit, lagged });
            self.woken.extend(inbox.waiter.take());
            if left_out > 0 {
                self.connection.give_credit(key.0, key.1, left_out);
            }
        }
        Ok(())
    }

    /// A channel has ended.
    pub(super) fn end_inbox(&mut self, key: ChannelKey, end: Result<(), Error>, lagged: u64) {
        if let Some(inbox) = self.inboxes.get_mut(&key) {
            inbox.growing = None;
            inbox.lagged = lagged;
            inbox.end.get_or_insert(end);
            self.woken.extend(inbox.waiter.take());
        }
    }

    /// All channels that have not ended, or only those of a stream.
    pub(super) fn end_inboxes(&mut self, of: Option<StreamId>, end: impl Fn() -> Error) {
        let all: Vec<ChannelKey> =
            self.inboxes.keys().filter(|key| of.is_none_or(|stream| stream == key.0)).copied().collect();
        all.into_iter().for_each(|key| self.end_inbox(key, Err(end()), 0));
    }
}
