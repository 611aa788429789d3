//! The channels of calls that items go on: who waits for credit, and what ended them.

use invoked_proto::body::Message;
use invoked_proto::connection::Sent;
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::{Delivery, Direction, ErrorCode};

use super::inbox::ChannelKey;
use super::{Core, StreamId};
use crate::channel::Farewell;
use crate::error::Error;

/// One channel.
#[derive(Debug)]
pub(super) struct Outlet<W> {
    end: Option<Error>,
    waiter: Option<W>,
}

impl<A, W> Core<A, W> {
    /// Notes the channels of a call that was opened.
    pub(super) fn open_outlets(&mut self, stream: StreamId, declared: &[ChannelDeclaration]) {
        for channel in declared.iter().filter(|channel| channel.direction == Direction::Up) {
            self.outlets.insert((stream, channel.index), Outlet { end: None, waiter: None });
        }
    }

    /// Sends the item in `message`, which is taken then; `None` while the daemon gives no credit for it, or much waits.
    /// `waiter` is woken when that changes.
    ///
    /// # Errors
    /// Why the channel takes no items, or what is wrong with this one.
    pub(crate) fn send_item(
        &mut self,
        key: ChannelKey,
        message: &mut Option<Message>,
        waiter: impl FnOnce() -> W,
    ) -> Option<Result<(), Error>> {
        let Some(outlet) = self.outlets.get(&key) else { return Some(Err(Error::channel_closed())) };
        if let Some(end) = &outlet.end {
            return Some(Err(end.copy()));
        }
        let item = message.take()?;
        let placement = self.place(&item);
        match self.connection.send_item_placed(key.0, key.1, None, item, &placement) {
            Ok(Sent::Queued) => Some(Ok(())),
            Ok(Sent::NeedsCredit(item)) => {
                *message = Some(item);
                if let Some(outlet) = self.outlets.get_mut(&key) {
                    outlet.waiter = Some(waiter());
                }
                None
            }
            Ok(Sent::Ended) => Some(Err(Error::channel_closed())),
            Err(error) => Some(Err(Error::misuse(error))),
        }
    }

    /// Whoever used a channel has left.
    pub(crate) fn say(&mut self, key: ChannelKey, farewell: Farewell) {
        match farewell {
            Farewell::Stop => self.drop_inbox(key),
            Farewell::End(code, message) => self.end_outlet(key, code, &message),
        }
    }

    fn end_outlet(&mut self, key: ChannelKey, code: Option<ErrorCode>, message: &str) {
        if self.outlets.remove(&key).is_some_and(|outlet| outlet.end.is_none()) {
            self.connection.end_channel(key.0, key.1, code, message);
        }
    }

    /// A channel takes items again.
    pub(super) fn wake_outlet(&mut self, key: ChannelKey) {
        if let Some(outlet) = self.outlets.get_mut(&key) {
            self.woken.extend(outlet.waiter.take());
        }
    }

    /// The command wants no more, or its call failed.
    pub(super) fn stop_outlet(&mut self, key: ChannelKey, end: Error) {
        if let Some(outlet) = self.outlets.get_mut(&key) {
            outlet.end.get_or_insert(end);
            self.woken.extend(outlet.waiter.take());
        }
    }

    /// All of a stream, or all there are.
    pub(super) fn stop_outlets(&mut self, of: Option<StreamId>, end: impl Fn() -> Error) {
        let all = self.outlets.keys().filter(|key| of.is_none_or(|stream| stream == key.0));
        for key in all.copied().collect::<Vec<_>>() {
            self.stop_outlet(key, end());
        }
    }
}

impl Error {
    /// The channel takes no items.
    pub(crate) fn channel_closed() -> Self {
        Self::channel_ended(ErrorCode::Cancelled, "the command takes no more on this channel")
    }

    /// The call of a channel was not sent.
    pub(crate) fn not_sent() -> Self {
        Self::channel_ended(ErrorCode::Cancelled, "the call of this channel was not sent")
            .with_delivery(Delivery::NotDelivered)
    }
}
