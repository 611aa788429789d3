//! Channels on which callers send: assembled, charged to the caller, handed to the handler.
//!
//! An item is charged with all its bytes before one of them is kept, and given back when the handler has taken it, or
//! nobody will.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use invoked_proto::body::{Assembly, whole_len};
use invoked_proto::connection::More;
use invoked_proto::metadata::Part;
use invoked_proto::registry::{ErrorCode, limits};

use super::channels::Way;
use super::output::{ItemOf, Output};
use super::quota::{Account, Charge, Resource};
use super::relays::RelayEnd;
use super::{Broker, PeerState};
use crate::ipc::{End, Fault, Inlet, Outside, PeerId, PipeId, Taken};

/// A channel on which a caller sends.
#[derive(Debug)]
pub(super) struct Upload {
    inlet: Arc<Inlet>,
    /// The item that is on its way, and what it is.
    growing: Option<(Assembly, Taken)>,
    /// What its items cost that the handler has not taken.
    pub(super) memory: Charge,
    /// The caller sends no more.
    has_ended: bool,
}

impl Upload {
    pub(super) fn new(inlet: Arc<Inlet>, account: &Rc<Account>) -> Self {
        let memory = account.charge_nothing(Resource::MessageBytes);
        Upload { inlet, growing: None, memory, has_ended: false }
    }

    /// Bytes that are there of its items, the one on its way with all its bytes; `None` once its handler has left.
    #[cfg(test)]
    pub(super) fn held(&self) -> Option<u64> {
        let growing = self.growing.as_ref().map_or(0, |(_, cost)| cost.bytes);
        self.inlet.held().map(|held| held + growing)
    }

    /// Ends it at its handler after the items that came.
    pub(super) fn end(&self, code: Option<ErrorCode>, message: &str) {
        self.inlet.end(End::new(code, message.to_owned()));
    }

    /// Ends it at its handler at once.
    pub(super) fn cut(&self, code: ErrorCode, message: &str) {
        self.inlet.cut(code, message);
    }

    /// Takes a part of an item; the item, if it is whole.
    fn take(&mut self, more: More, read_buffer: usize) {
        if more == More::Follows {
            return;
        }
        if let Some((assembly, cost)) = self.growing.take()
            && let Ok(message) = assembly.finish()
        {
            // What outlives this wake-up must not keep the loop's read buffer for a few bytes.
            if !self.inlet.push(message.detach(read_buffer), cost) {
                self.give_back(cost.bytes);
            }
        }
    }

    /// So many bytes are held no more.
    fn give_back(&mut self, bytes: u64) {
        self.memory.settle(self.memory.amount().saturating_sub(bytes));
    }
}

/// What an item of a channel brings with its first frame.
#[derive(Debug)]
pub(crate) struct FirstOfItem {
    pub(crate) parts: Vec<Part>,
    pub(crate) payload: Bytes,
    pub(crate) more: More,
    pub(crate) credit: u64,
    /// How many items were left out before it.
    pub(crate) lagged: u64,
    /// The parts that are elsewhere than in the frames, or why they are not taken.
    pub(crate) outside: Option<Result<Outside, Fault>>,
}

/// Why an item with parts elsewhere is not taken, if it is not.
pub(super) fn refusal(state: Option<&PeerState>, outside: Option<&Result<Outside, Fault>>) -> Option<Fault> {
    match outside? {
        Err(fault) => Some(fault.clone()),
        Ok(outside) if outside.len() > limits::POOLED_ITEM_MAX as u64 => {
            let text = format!("an item has more than {} bytes in segments", limits::POOLED_ITEM_MAX);
            Some(Fault::refusal(ErrorCode::TooLarge, text))
        }
        Ok(outside) => state?.check_lanes(outside).err(),
    }
}

/// Gives an item what was read of it, and tells whether it is whole.
pub(super) fn give_outside(
    assembly: &mut Assembly,
    fetched: Result<Vec<Bytes>, Fault>,
) -> Result<More, Fault> {
    assembly.give_outside(fetched?).map_err(|error| Fault::refusal(error.wire_code(), error.to_string()))?;
    Ok(if assembly.is_complete() { More::Whole } else { More::Follows })
}

impl Broker {
    /// An item began on a channel on which a peer sends.
    pub(crate) fn handle_item(
        &mut self,
        now: Instant,
        peer: PeerId,
        (stream, channel): (u64, u32),
        first: FirstOfItem,
    ) {
        if let Some(relay) = self.find_relay(peer, (stream, channel)) {
            return self.relay_item(now, relay, first);
        }
        let FirstOfItem { parts, payload, more, credit, outside, .. } = first;
        // A channel that was closed here is stopped, or has ended with its call.
        let Some(id) = self.find_channel(peer, (stream, channel)) else { return };
        if self.revoke_channel_if_gone(now, id) {
            return;
        }
        let len = whole_len(&parts).unwrap_or(u64::MAX);
        let bytes = len.max(limits::ITEM_COST_MIN as u64);
        let read_buffer = self.settings.read_buffer;
        let refused = refusal(self.peers.get(&peer), outside.as_ref());
        let Some(upload) = self.upload_mut(id) else { return };
        if let Some(fault) = refused {
            upload.end(Some(fault.code), &fault.message);
            return self.stop_upload(id);
        }
        if !upload.memory.grow(bytes) {
            let text = "too many bytes of this uid's messages are held";
            upload.end(Some(ErrorCode::ResourceExhausted), text);
            return self.stop_upload(id);
        }
        // The connection checks lengths before it gives an event; this is a second lock on the same door.
        if let Ok(assembly) = Assembly::begin(parts, payload) {
            upload.growing = Some((assembly, Taken { credit, bytes }));
            match outside {
                // Nothing else of the channel is handled before it is read.
                Some(Ok(outside)) => {
                    self.outputs.push_back(Output::FetchItem { item: ItemOf::Upload(id), outside })
                }
                _ => upload.take(more, read_buffer),
            }
        }
        self.note_held(0);
        self.stats.bytes_in += len;
    }

    /// What is elsewhere of an item was read, or can't be.
    pub(crate) fn handle_item_fetched(&mut self, item: ItemOf, fetched: Result<Vec<Bytes>, Fault>) {
        let id = match item {
            ItemOf::Upload(id) => id,
            ItemOf::Relay(id) => return self.relay_fetched(id, fetched),
        };
        let read_buffer = self.settings.read_buffer;
        let Some(upload) = self.upload_mut(id) else { return };
        let Some((assembly, _)) = &mut upload.growing else { return };
        match give_outside(assembly, fetched) {
            Ok(more) => upload.take(more, read_buffer),
            Err(fault) => {
                if let Some((_, cost)) = upload.growing.take() {
                    upload.give_back(cost.bytes);
                }
                upload.end(Some(fault.code), &fault.message);
                self.stop_upload(id);
            }
        }
    }

    /// More bytes of an item came.
    pub(crate) fn handle_item_continuation(
        &mut self,
        peer: PeerId,
        (stream, channel): (u64, u32),
        fragment: &[u8],
        more: More,
        credit: u64,
    ) {
        if let Some(relay) = self.find_relay(peer, (stream, channel)) {
            return self.relay_continuation(relay, fragment, more, credit);
        }
        let Some(id) = self.find_channel(peer, (stream, channel)) else { return };
        let read_buffer = self.settings.read_buffer;
        let Some(upload) = self.upload_mut(id) else { return };
        if let Some((assembly, cost)) = &mut upload.growing
            && assembly.push(fragment).is_ok()
        {
            cost.credit += credit;
            upload.take(more, read_buffer);
        }
    }

    /// A peer ended a channel on which it sends.
    pub(crate) fn handle_upload_end(
        &mut self,
        peer: PeerId,
        (stream, channel): (u64, u32),
        code: Option<ErrorCode>,
        message: &str,
        lagged: u64,
    ) {
        if let Some(relay) = self.find_relay(peer, (stream, channel)) {
            return self.end_relay(relay, RelayEnd { code, message: message.to_owned(), lagged });
        }
        let Some(id) = self.find_channel(peer, (stream, channel)) else { return };
        if let Some(upload) = self.upload_mut(id) {
            if let Some((_, cost)) = upload.growing.take() {
                // The rest of it will not come.
                upload.give_back(cost.bytes);
            }
            upload.has_ended = true;
            upload.end(code, message);
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.channels.remove(&(stream, channel));
        }
        self.settle_upload(id);
    }

    /// A handler took items, or takes no more.
    pub(super) fn settle_upload(&mut self, id: PipeId) {
        let Some(open) = self.channels.open.get_mut(&id) else { return };
        let (peer, stream, channel) = (open.peer, open.stream, open.channel);
        let Way::Up(upload) = &mut open.way else { return };
        let (Taken { credit, bytes }, is_left) = upload.inlet.settle();
        upload.give_back(bytes);
        if upload.has_ended {
            if is_left || upload.memory.amount() == 0 {
                self.channels.open.remove(&id);
            }
        } else if is_left {
            self.stop_upload(id);
        } else if credit > 0 {
            self.outputs.push_back(Output::GiveCredit { peer, stream, channel, credit });
        }
    }

    /// Asks a peer to send no more on a channel, and forgets it.
    fn stop_upload(&mut self, id: PipeId) {
        let Some(open) = self.channels.open.remove(&id) else { return };
        let (peer, stream, channel) = (open.peer, open.stream, open.channel);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.channels.remove(&(stream, channel));
        }
        self.outputs.push_back(Output::StopChannel { peer, stream, channel });
    }

    /// Whether its caller has ended a channel of which items may still wait for the handler.
    pub(super) fn has_ended_upload(&self, id: PipeId) -> bool {
        let way = self.channels.open.get(&id).map(|open| &open.way);
        matches!(way, Some(Way::Up(upload)) if upload.has_ended)
    }

    fn upload_mut(&mut self, id: PipeId) -> Option<&mut Upload> {
        match &mut self.channels.open.get_mut(&id)?.way {
            Way::Up(upload) => Some(upload),
            Way::Down(_) => None,
        }
    }
}
