//! For whom the daemon calls: which of them are known, and whose each stream is.
//!
//! The daemon does not say that a process has left. One all of whose grants were taken back is forgotten, and of those that
//! have nothing open the one that called longest ago, where there are too many.

use std::collections::BTreeSet;

use foldhash::HashMap;
use invoked_proto::metadata::OriginStamp;

use crate::authority::{PeerFacts, UserDirectory};
use crate::ipc::PeerId;

/// Origins that are kept while nothing of theirs is open.
const ORIGINS_MAX: usize = 1024;

/// Streams are looked through for those that have ended when there are twice as many as were left the last time, and not before
/// there are so many.
const SWEEP_MIN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Origins {
    known: HashMap<PeerId, Known>,
    streams: HashMap<u64, PeerId>,
    sweep_at: usize,
    calls: u64,
}

#[derive(Debug)]
struct Known {
    uid: u32,
    pid: Option<u32>,
    grants: BTreeSet<u64>,
    /// The number of its last call, among all.
    last: u64,
}

/// What the kernel said of the process to the daemon. Its groups are not told.
pub(super) fn facts(stamp: &OriginStamp, users: &dyn UserDirectory) -> PeerFacts {
    let mut facts = PeerFacts::new(stamp.uid, stamp.gid, []);
    facts.pid = stamp.pid;
    // Not its home, which would be looked for on the disk, and which the daemon has put into the scopes.
    facts.user_name = users.name_of(stamp.uid);
    facts
}

impl Origins {
    /// Whose stream it is.
    pub(super) fn of(&self, stream: u64) -> Option<PeerId> {
        self.streams.get(&stream).copied()
    }

    /// Whether the process of this stamp is known by this number.
    pub(super) fn knows(&self, peer: PeerId, stamp: &OriginStamp) -> bool {
        self.known.get(&peer).is_some_and(|known| known.uid == stamp.uid && known.pid == stamp.pid)
    }

    pub(super) fn add(&mut self, peer: PeerId, stamp: &OriginStamp) {
        let known = Known { uid: stamp.uid, pid: stamp.pid, grants: BTreeSet::new(), last: self.calls };
        self.known.insert(peer, known);
    }

    /// Makes room for one more; those who are to be forgotten for it.
    pub(super) fn make_room(&mut self, peer: PeerId, is_idle: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let mut forgotten = Vec::new();
        if self.known.remove(&peer).is_some() {
            // The daemon never gives a number twice: whoever had it here is gone.
            forgotten.push(peer);
        }
        if self.known.len() >= ORIGINS_MAX {
            let idle = self.known.iter().filter(|(peer, _)| is_idle(**peer));
            let oldest = idle.min_by_key(|(_, known)| known.last).map(|(peer, _)| *peer);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
                forgotten.push(oldest);
            }
        }
        forgotten
    }

    /// Notes a call. `is_open` says whether a stream lives.
    pub(super) fn note_call(
        &mut self,
        stream: u64,
        peer: PeerId,
        grant: u64,
        is_open: impl Fn(PeerId, u64) -> bool,
    ) {
        self.calls += 1;
        if let Some(known) = self.known.get_mut(&peer) {
            known.last = self.calls;
            known.grants.insert(grant);
        }
        if self.streams.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.streams.retain(|stream, peer| is_open(*peer, *stream));
            self.sweep_at = 2 * self.streams.len();
        }
        self.streams.insert(stream, peer);
    }

    /// A grant was taken back; those who have no other and nothing open.
    pub(super) fn ungrant(&mut self, grant: u64, is_idle: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let mut unused = Vec::new();
        self.known.retain(|peer, known| {
            let had = known.grants.remove(&grant);
            let goes = had && known.grants.is_empty() && is_idle(*peer);
            if goes {
                unused.push(*peer);
            }
            !goes
        });
        unused
    }

    pub(super) fn take_all(&mut self) -> Vec<PeerId> {
        self.streams.clear();
        self.known.drain().map(|(peer, _)| peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(peer: u64, uid: u32) -> OriginStamp {
        OriginStamp { uid, gid: uid, peer, pid: Some(1), grant: 1 }
    }

    fn with(count: u64) -> Origins {
        let mut origins = Origins::default();
        for peer in 1..=count {
            origins.add(PeerId(peer), &stamp(peer, 1000));
            origins.note_call(2 * peer, PeerId(peer), peer, |_, _| true);
        }
        origins
    }

    #[test]
    fn the_one_that_called_longest_ago_and_has_nothing_open_makes_room() {
        let mut origins = with(ORIGINS_MAX as u64 - 1);
        assert_eq!(origins.make_room(PeerId(5000), |_| true), []);
        origins.add(PeerId(5000), &stamp(5000, 1));
        assert_eq!(origins.make_room(PeerId(5001), |peer| peer.0 > 2), [PeerId(3)]);
        origins.add(PeerId(5001), &stamp(5001, 1));
        assert_eq!(origins.make_room(PeerId(5002), |_| false), [], "what is open is kept");
    }

    #[test]
    fn a_number_that_names_another_process_is_somebody_else() {
        let mut origins = with(2);
        assert!(origins.knows(PeerId(1), &stamp(1, 1000)));
        assert!(!origins.knows(PeerId(1), &stamp(1, 0)));
        assert_eq!(origins.make_room(PeerId(1), |_| false), [PeerId(1)]);
    }

    #[test]
    fn whoever_has_no_grant_left_is_forgotten_unless_something_is_open() {
        let mut origins = with(3);
        origins.note_call(20, PeerId(1), 9, |_, _| true);
        assert_eq!(origins.ungrant(1, |_| true), [], "it has another");
        assert_eq!(origins.ungrant(9, |_| true), [PeerId(1)]);
        assert_eq!(origins.ungrant(2, |_| false), [], "it has something open");
        assert_eq!(origins.ungrant(77, |_| true), [], "nobody had it");
    }

    #[test]
    fn streams_that_have_ended_are_not_kept() {
        let mut origins = Origins::default();
        origins.add(PeerId(1), &stamp(1, 1000));
        for stream in 1..10_000 {
            origins.note_call(2 * stream, PeerId(1), 1, |_, of| of >= 2 * stream - 8);
        }
        assert!(origins.streams.len() <= SWEEP_MIN, "{}", origins.streams.len());
        assert_eq!(origins.of(2 * 9_999), Some(PeerId(1)));
    }
}
