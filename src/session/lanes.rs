//! Replies on other lanes than the frames, at the hub: which parts lie where the peer reads them, and whether it was told of
//! that memory.

use std::io;
use std::os::fd::OwnedFd;

use invoked_proto::body::Message;
use invoked_proto::connection::{Connection, Placement};
use invoked_proto::metadata::{Hello, Lease, Segment};
use invoked_proto::registry::Lane;
use invoked_transport::{Attachment, PlacedAt};

use super::Hub;
use crate::ipc::{FileBody, Lanes, PeerId, ReplyLanes};

impl Hub {
    /// Lets large replies be written to memory that the peer reads, if it says that it can.
    pub(super) fn open_lanes(&self, peer: PeerId, hello: &Hello) {
        let takes = |lane: Lane| {
            let has = self.with_connection(peer, |connection| connection.has_lane(lane));
            has == Some(true) && hello.lanes.contains(&(lane as u8))
        };
        let lanes = Lanes {
            pool_from: self.lanes.pool_from.filter(|_| takes(Lane::Pool)),
            file_from: self.lanes.file_from.filter(|_| takes(Lane::File)),
        };
        if lanes != Lanes::default() {
            self.broker.borrow_mut().open_lanes(peer, lanes);
        }
    }

    /// Where the parts of a reply go.
    pub(super) fn place(
        &self,
        peer: PeerId,
        connection: &mut Connection<Attachment>,
        message: &Message,
        file: Option<&FileBody>,
    ) -> io::Result<Placement<Attachment>> {
        let mut placement = Placement::default();
        let lanes = self.broker.borrow().lanes(peer);
        let Some(lanes) = lanes else { return Ok(placement) };
        if let Some(file) = file {
            let sent = file.file().try_clone()?;
            // What was charged when the handler made it, unless it is sent a second time.
            let charge = file.take_charge().or_else(|| lanes.charge_fd());
            let charge =
                charge.ok_or_else(|| io::Error::other("too many file descriptors are on their way"))?;
            self.broker.borrow_mut().keep_fd(peer, charge);
            let (offset, len) = file.range();
            placement.in_file(offset, len, OwnedFd::from(sent).into());
            lanes.counters().note_file();
        }
        let parts = std::iter::once(message.body.bytes()).chain(message.attachments.iter().map(|a| &a[..]));
        for (part, bytes) in parts.enumerate() {
            let Some(at) = lanes.find(bytes) else { continue };
            if self.introduce(peer, connection, &lanes, at) {
                let lease = Lease { segment: at.segment, generation: at.generation, offset: at.offset };
                placement.in_segment(part, lease, bytes.len() as u64);
            } else {
                lanes.counters().note_fallback();
            }
        }
        Ok(placement)
    }

    /// Counts what was sent in memory.
    pub(super) fn note_pooled(&self, placement: &Placement<Attachment>) {
        if !placement.is_empty() {
            self.broker.borrow().note_pooled(placement.in_segments());
        }
    }

    /// Sees to it that the peer knows a segment; false if it can't be told now.
    fn introduce(
        &self,
        peer: PeerId,
        connection: &mut Connection<Attachment>,
        lanes: &ReplyLanes,
        at: PlacedAt,
    ) -> bool {
        if connection.has_introduced(at.segment, at.generation) {
            return true;
        }
        // The kernel counts it as the daemon's until the peer has taken it, so it is charged before it is made.
        let Some(charge) = lanes.charge_fd() else { return false };
        let Some((file, len)) = lanes.pool().take_file(at.segment, at.generation) else { return false };
        let segment = Segment { segment: at.segment, generation: at.generation, len, ..Segment::default() };
        let is_introduced = connection.introduce(segment, file).is_ok();
        if is_introduced {
            self.broker.borrow_mut().keep_fd(peer, charge);
            self.lanes_used.notify_one();
        }
        is_introduced
    }

    /// Gives memory of peers back that was long not used, for ever. While none has any, nothing wakes this.
    pub(crate) async fn watch_lanes(&self) {
        let pause = self.trim_after();
        if pause.is_zero() {
            return;
        }
        loop {
            self.lanes_used.notified().await;
            loop {
                tokio::time::sleep(pause).await;
                if !self.trim_lanes() {
                    break;
                }
            }
        }
    }

    /// Whether some is left.
    fn trim_lanes(&self) -> bool {
        let all = self.broker.borrow().all_lanes();
        let mut is_left = false;
        for (peer, lanes) in all {
            let trimmed = lanes.pool().trim();
            is_left |= lanes.pool().bytes() > 0;
            if trimmed.is_empty() {
                continue;
            }
            self.with_connection(peer, |connection| {
                for (segment, generation) in trimmed.iter() {
                    // It has no used slot, so nothing of it is lent.
                    if let Err(error) = connection.give_up_segment(segment, generation) {
                        tracing::debug!(%peer, segment, %error, "a segment can't be given up");
                    }
                }
            });
            // Giving memory back to the system takes its time.
            self.runner.drop_elsewhere(trimmed);
        }
        is_left
    }

    /// Gives back what a peer that is gone was written to, where that may take its time.
    pub(super) fn close_lanes(&self, peer: PeerId) {
        let lanes = self.broker.borrow_mut().take_lanes(peer);
        if let Some(lanes) = lanes.filter(|lanes| lanes.pool().bytes() > 0) {
            self.runner.drop_elsewhere(lanes);
        }
    }
}
