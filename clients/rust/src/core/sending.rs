//! What is sent on other lanes than the frames: the daemon is asked for them, told of memory, and tells what it has.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use invoked_proto::body::Message;
use invoked_proto::connection::{LaneSet, Placement};
use invoked_proto::metadata::Segment;
use invoked_proto::registry::Lane;

use super::Core;
use crate::error::Error;
use crate::file::FileBody;
use crate::outgoing::Outgoing;

/// How long memory that is not used is kept, at least; at most twice as long, and as long as nothing is read.
const TRIM_AFTER: Duration = Duration::from_secs(30);

/// How long to wait before asking a daemon again that has no room for more memory.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Whether the daemon was asked if it takes files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilesAsked {
    No,
    Asked,
    Answered,
}

/// The sending side of one connection's lanes.
#[derive(Debug)]
pub(super) struct Sending<W> {
    files: FilesAsked,
    /// Whoever waits for the answer.
    waiters: Vec<W>,
    pub(super) outgoing: Outgoing,
    /// When the daemon may be asked; `None` while it was and has not answered, or has said yes.
    may_ask: Option<Instant>,
    /// What was sent in file descriptors and is not confirmed: segments, and files.
    unconfirmed: VecDeque<Option<(u32, u32)>>,
    /// When memory was last looked through.
    trimmed: Instant,
    now: Instant,
}

impl<W> Sending<W> {
    pub(super) fn new(outgoing: Outgoing, now: Instant) -> Self {
        Sending {
            files: FilesAsked::No,
            waiters: Vec::new(),
            outgoing,
            may_ask: Some(now),
            unconfirmed: VecDeque::new(),
            trimmed: now,
            now,
        }
    }
}

impl<A, W> Core<A, W> {
    /// Where the parts of a message go.
    pub(super) fn place(&self, message: &Message) -> Placement<A> {
        let mut placement = Placement::default();
        if !self.connection.may_send(Lane::Pool) {
            return placement;
        }
        let parts = std::iter::once(message.body.bytes()).chain(message.attachments.iter().map(|a| &a[..]));
        for (part, bytes) in parts.enumerate() {
            let known = |segment, generation| self.connection.has_introduced(segment, generation);
            if let Some(at) = self.sending.outgoing.find(bytes).filter(|at| known(at.segment, at.generation))
            {
                placement.in_segment(part, at, bytes.len() as u64);
            }
        }
        placement
    }

    /// Puts an open file in the place of the body.
    pub(super) fn place_file(&self, placement: &mut Placement<A>, file: &FileBody) -> Result<(), Error> {
        let part = file.part();
        let sent = part.as_file().try_clone().map_err(|error| Error::bad_file(&error))?;
        let sent = (self.files.own)(OwnedFd::from(sent).into());
        placement.in_file(part.offset(), part.len(), sent);
        Ok(())
    }

    /// Notes files that were sent with a call.
    pub(super) fn note_files(&mut self, files: usize) {
        self.sending.unconfirmed.extend(std::iter::repeat_n(None, files));
    }

    /// Whether the daemon takes files from this client; `None` until it has said so, of which `waiter` is told. It is asked once
    /// a connection.
    pub(crate) fn poll_files(&mut self, waiter: impl FnOnce() -> W) -> Option<bool> {
        if self.connection.may_send(Lane::File) {
            return Some(true);
        }
        if self.closed().is_some() || self.sending.files == FilesAsked::Answered {
            return Some(false);
        }
        if self.sending.files == FilesAsked::No {
            if self.connection.ask_for_lanes(LaneSet::of([Lane::File])).is_err() {
                return Some(false);
            }
            self.sending.files = FilesAsked::Asked;
        }
        self.sending.waiters.push(waiter());
        None
    }

    /// The connection is lost: nobody waits for an answer.
    pub(super) fn stop_asking(&mut self) {
        self.sending.files = FilesAsked::Answered;
        self.woken.extend(self.sending.waiters.drain(..));
    }

    /// Says, before anything else is written, what the daemon is to know of memory.
    pub(super) fn say_lanes(&mut self) {
        let may_ask = self.welcome.is_some() && self.sending.may_ask.is_some_and(|at| at <= self.sending.now);
        if may_ask && self.sending.outgoing.is_wanted() {
            // A daemon without the feature takes nothing, and there is nothing to be asked.
            let wanted = LaneSet::of([Lane::Pool]);
            let _ = self.connection.ask_for_lanes(wanted);
            self.sending.may_ask = None;
        }
        for (segment, generation, len, file) in self.sending.outgoing.take_unknown() {
            let record = Segment { segment, generation, len, ..Segment::default() };
            // What can't be introduced now is never confirmed, and given up when it is looked through.
            if self.connection.introduce(record, (self.files.own)(file)).is_ok() {
                self.sending.unconfirmed.push_back(Some((segment, generation)));
            }
        }
    }

    /// The daemon said which lanes it takes.
    pub(super) fn hear_lanes(&mut self, lanes: LaneSet) {
        if self.sending.files == FilesAsked::Asked {
            self.stop_asking();
        }
        let takes = lanes.contains(Lane::Pool);
        self.sending.outgoing.tell(takes);
        self.sending.may_ask = if takes { None } else { self.sending.now.checked_add(ASK_AGAIN) };
    }

    /// Notes what the daemon has confirmed, and gives up what was long not used.
    pub(super) fn settle_lanes(&mut self, now: Instant) {
        self.sending.now = now;
        while self.sending.unconfirmed.len() > self.connection.unconfirmed_fds() {
            if let Some(Some((segment, generation))) = self.sending.unconfirmed.pop_front()
                && !self.sending.outgoing.confirm(segment, generation)
            {
                self.give_up(segment, generation);
            }
        }
        if now.duration_since(self.sending.trimmed) >= TRIM_AFTER {
            self.sending.trimmed = now;
            for (segment, generation) in self.sending.outgoing.trim() {
                self.give_up(segment, generation);
            }
        }
    }

    fn give_up(&mut self, segment: u32, generation: u32) {
        // It has no used slot, so nothing of it is lent; a connection that is closed has nobody to tell.
        let _ = self.connection.give_up_segment(segment, generation);
    }
}
