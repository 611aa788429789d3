//! Denials by id: the last of them are kept, so that an operator can ask why.
//!
//! Owns ids, how long a denial is kept, and when it is explained. An explanation costs more than a denial, so it is made
//! when somebody reads it: for the log, for an operator, or because the policy that it is about goes out of force, a few
//! at a time then.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use invoked_proto::Text;

use super::Holder;
use crate::authority::{Explanation, Judged, PolicySnapshot, ScopeRefusal};
use crate::ipc::PeerId;

/// Uids that can have denials at once; more than denials are kept.
const BLOCKS: u16 = 1 << 12;

/// Names a denial: three hexadecimal digits that its uid has by chance, then the how manieth of this uid's it is. So ids are
/// short, none is used twice as long as any of the uid's is kept, and a uid's ids tell nothing about other uids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DecisionId {
    block: u16,
    number: u64,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03x}{:x}", self.block, self.number)
    }
}

impl DecisionId {
    /// The id that `text` shows, in either case; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        let (block, number) = text.split_at_checked(3).filter(|_| digits)?;
        let block = u16::from_str_radix(block, 16).ok()?;
        let number = Some(number).filter(|number| *number == "0" || !number.starts_with('0'))?;
        Some(DecisionId { block, number: u64::from_str_radix(number, 16).ok()? })
    }
}

/// What was denied to whom.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) at: Instant,
    pub(crate) peer: PeerId,
    pub(crate) holder: Holder,
    /// The command's name as the peer sent it, which the wire keeps short.
    pub(crate) command: Text,
    /// Why, if the command is allowed and its argument is not.
    pub(crate) refusal: Option<Arc<ScopeRefusal>>,
    pub(crate) policy: Arc<PolicySnapshot>,
}

/// A denial that is kept.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) id: DecisionId,
    /// Higher for a later one, without gaps; for operators only, as it tells how many there were.
    pub(crate) sequence: u64,
    pub(crate) at: Instant,
    pub(crate) peer: PeerId,
    pub(crate) holder: Holder,
    pub(crate) command: Text,
    pub(crate) argument: Option<Judged>,
    pub(crate) revision: u64,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Asked { refusal: Option<Arc<ScopeRefusal>>, policy: Arc<PolicySnapshot> },
    Known(Arc<Explanation>),
}

impl Decision {
    /// The explanation, made now if it has not been before.
    pub(crate) fn explanation(&mut self) -> Arc<Explanation> {
        let (refusal, policy) = match &self.why {
            Why::Known(explanation) => return Arc::clone(explanation),
            Why::Asked { refusal, policy } => (refusal, policy),
        };
        let explanation = match refusal {
            Some(refusal) => policy.explain_scope(self.holder.asking(), refusal),
            None => policy.explain(self.holder.asking(), &self.command, None),
        };
        let explanation = Arc::new(explanation.with_decision(self.id.to_string()));
        // From here on neither policy nor grant is kept by it.
        self.why = Why::Known(Arc::clone(&explanation));
        explanation
    }
}

/// The denials of one uid.
#[derive(Debug)]
struct Share {
    block: u16,
    next: u64,
    /// Numbered without gaps, up to `next`.
    kept: VecDeque<Decision>,
}

/// The denials that are kept.
#[derive(Debug)]
pub(crate) struct Decisions {
    capacity: usize,
    seed: u64,
    shares: HashMap<u32, Share>,
    blocks: HashMap<u16, u32>,
    /// The shares by how many they keep, among equals by how old their oldest is: the last is to give one away.
    by_size: BTreeSet<(usize, Reverse<u64>, u32)>,
    kept: usize,
    sequence: u64,
    /// Denials under policies that are not in force any more, still to be explained.
    backlog: VecDeque<DecisionId>,
}

impl Decisions {
    /// Keeps up to `capacity`; `seed` is chance, as ids are made of it.
    pub(crate) fn new(capacity: usize, seed: u64) -> Self {
        Decisions {
            capacity: capacity.clamp(1, usize::from(BLOCKS) / 2),
            seed,
            shares: HashMap::new(),
            blocks: HashMap::new(),
            by_size: BTreeSet::new(),
            kept: 0,
            sequence: 0,
            backlog: VecDeque::new(),
        }
    }

    /// Keeps a denial. Where that is one too many, the uid that has the most loses its oldest: a flood of one uid pushes out
    /// its own.
    pub(crate) fn keep(&mut self, question: Question) -> DecisionId {
        let Question { at, peer, holder, command, refusal, policy } = question;
        let uid = holder.facts.uid;
        self.sequence += 1;
        if !self.shares.contains_key(&uid) {
            let block = self.free_block(uid);
            self.blocks.insert(block, uid);
            self.shares.insert(uid, Share { block, next: 0, kept: VecDeque::new() });
        }
        let share = self.shares.get_mut(&uid).expect("it was just made sure of");
        self.by_size.remove(&share.place(uid));
        let id = DecisionId { block: share.block, number: share.next };
        share.next += 1;
        share.kept.push_back(Decision {
            id,
            sequence: self.sequence,
            at,
            peer,
            command,
            argument: refusal.as_ref().map(|refusal| refusal.argument.clone()),
            revision: policy.revision(),
            holder,
            why: Why::Asked { refusal, policy },
        });
        self.by_size.insert(share.place(uid));
        self.kept += 1;
        if self.kept > self.capacity {
            self.drop_one();
        }
        id
    }

    /// The denial of this id, if it is kept still.
    pub(crate) fn find(&mut self, id: DecisionId) -> Option<&mut Decision> {
        let share = self.shares.get_mut(self.blocks.get(&id.block)?)?;
        let first = share.kept.front()?.id.number;
        share.kept.get_mut(usize::try_from(id.number.checked_sub(first)?).ok()?)
    }

    /// The newest denials that came after the one with the number `sequence`, up to `most`, in their order.
    pub(crate) fn after(&self, sequence: u64, most: usize) -> Vec<&Decision> {
        let mut found: Vec<&Decision> = self
            .shares
            .values()
            .flat_map(|share| share.kept.iter().rev().take_while(|decision| decision.sequence > sequence))
            .collect();
        found.sort_unstable_by_key(|decision| decision.sequence);
        found.split_off(found.len().saturating_sub(most))
    }

    /// The number of the latest denial; 0 before the first.
    pub(crate) fn latest(&self) -> u64 {
        self.sequence
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept
    }

    /// Another policy is in force: what is not explained yet must be, before the old one can be forgotten.
    pub(crate) fn handle_policy(&mut self) {
        let kept = self.shares.values().flat_map(|share| &share.kept);
        self.backlog =
            kept.filter(|kept| matches!(kept.why, Why::Asked { .. })).map(|kept| kept.id).collect();
    }

    /// Whether some are to be explained by [`explain_some`](Self::explain_some).
    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Explains up to `most` of the backlog.
    pub(crate) fn explain_some(&mut self, most: usize) {
        for _ in 0..most {
            let Some(id) = self.backlog.pop_front() else { return };
            if let Some(decision) = self.find(id) {
                decision.explanation();
            }
        }
    }

    fn drop_one(&mut self) {
        let Some((_, _, uid)) = self.by_size.pop_last() else { return };
        let Some(share) = self.shares.get_mut(&uid) else { return };
        share.kept.pop_front();
        self.kept -= 1;
        if share.kept.is_empty() {
            self.blocks.remove(&share.block);
            self.shares.remove(&uid);
        } else {
            self.by_size.insert(share.place(uid));
        }
    }

    /// A block that no uid has: there are more than uids, as each has a denial at least.
    fn free_block(&self, uid: u32) -> u16 {
        let start = mixed(self.seed ^ (u64::from(uid) << 32) ^ self.sequence);
        let block = |attempt| u16::try_from(mixed(start.wrapping_add(attempt)) % u64::from(BLOCKS));
        let mut blocks = (0_u64..).map(|attempt| block(attempt).expect("below the number of blocks"));
        blocks.find(|block| !self.blocks.contains_key(block)).expect("most blocks are free")
    }
}

impl Share {
    fn place(&self, uid: u32) -> (usize, Reverse<u64>, u32) {
        (self.kept.len(), Reverse(self.kept.front().map_or(0, |oldest| oldest.sequence)), uid)
    }
}

/// SplitMix64: every bit of the seed reaches every bit of the block.
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::authority::PeerFacts;
    use crate::broker::tests::policy;

    fn keep(decisions: &mut Decisions, policy: &Arc<PolicySnapshot>, at: Instant, uid: u32) -> DecisionId {
        decisions.keep(Question {
            at,
            peer: PeerId(7),
            holder: Holder { facts: Arc::new(PeerFacts::new(uid, uid, [])), kept: None },
            command: Text::from_static("t.slow"),
            refusal: None,
            policy: Arc::clone(policy),
        })
    }

    #[test]
    fn an_id_reads_as_it_is_shown() {
        for (text, id) in [
            ("7f30", DecisionId { block: 0x7f3, number: 0 }),
            ("000a", DecisionId { block: 0, number: 10 }),
            ("FFF10", DecisionId { block: 0xfff, number: 16 }),
        ] {
            assert_eq!(DecisionId::parse(text), Some(id));
            assert_eq!(id.to_string(), text.to_lowercase());
        }
        for wrong in ["", "7f3", "7f300", "7f3g", "+7f3", "7f3a ", "é7f3", &"f".repeat(20), "7f3+1"] {
            assert_eq!(DecisionId::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_flood_pushes_out_its_own_uids_denials_only() {
        let (policy, now) = (policy("[]"), Instant::now());
        let mut decisions = Decisions::new(10, 1);
        let calm: Vec<_> = (0..3).map(|_| keep(&mut decisions, &policy, now, 1)).collect();
        let flood: Vec<_> = (0..100).map(|_| keep(&mut decisions, &policy, now, 2)).collect();
        assert_eq!(decisions.len(), 10);
        assert!(calm.iter().all(|id| decisions.find(*id).is_some()));
        let kept: Vec<_> = flood.iter().filter(|id| decisions.find(**id).is_some()).collect();
        assert_eq!(kept, flood[93..].iter().collect::<Vec<_>>(), "the latest of the flood");
        // The calm one may take from the flood what it needs, up to as much as that has.
        for _ in 0..10 {
            keep(&mut decisions, &policy, now, 1);
        }
        let of = |decisions: &Decisions, uid| {
            decisions.after(0, 100).iter().filter(|decision| decision.holder.facts.uid == uid).count()
        };
        assert_eq!((of(&decisions, 1), of(&decisions, 2)), (5, 5));
    }

    #[test]
    fn of_many_uids_the_oldest_goes() {
        let (policy, now) = (policy("[]"), Instant::now());
        let mut decisions = Decisions::new(10, 1);
        let ids: Vec<_> = (0..25).map(|uid| keep(&mut decisions, &policy, now, uid)).collect();
        let kept: Vec<bool> = ids.iter().map(|id| decisions.find(*id).is_some()).collect();
        assert_eq!(kept, (0..25).map(|uid| uid >= 15).collect::<Vec<_>>());
        assert_eq!((decisions.shares.len(), decisions.blocks.len(), decisions.by_size.len()), (10, 10, 10));
    }

    #[test]
    fn an_id_is_not_used_twice() {
        let (policy, now) = (policy("[]"), Instant::now());
        let mut decisions = Decisions::new(1000, 5);
        let ids: HashSet<String> =
            (0..20_000).map(|i| keep(&mut decisions, &policy, now, i % 700).to_string()).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(ids.iter().all(|id| (4..=6).contains(&id.len())));
    }

    /// What a uid sees of ids is the same whether others are denied or not.
    #[test]
    fn ids_tell_nothing_of_other_uids() {
        let (policy, now) = (policy("[]"), Instant::now());
        let numbers = |others: u32| {
            let mut decisions = Decisions::new(1000, 5);
            let mut seen = Vec::new();
            for round in 0..40 {
                for _ in 0..others {
                    keep(&mut decisions, &policy, now, 2);
                }
                let id = keep(&mut decisions, &policy, now, 1);
                assert_eq!(id.number, round);
                seen.push(id.to_string().len());
            }
            seen
        };
        assert_eq!(numbers(0), numbers(50));
        // And the block is chance: it differs from daemon to daemon.
        let block = |seed| keep(&mut Decisions::new(10, seed), &policy, now, 1).block;
        assert!((0..20).map(block).collect::<HashSet<_>>().len() > 15);
    }

    #[test]
    fn the_latest_are_listed_in_their_order() {
        let (policy, now) = (policy("[]"), Instant::now());
        let mut decisions = Decisions::new(10, 1);
        for uid in [1, 2, 1, 3, 1] {
            keep(&mut decisions, &policy, now, uid);
        }
        let list = |after, most| decisions.after(after, most).iter().map(|d| d.sequence).collect::<Vec<_>>();
        assert_eq!(list(0, 100), [1, 2, 3, 4, 5]);
        assert_eq!((list(3, 100), list(0, 2), list(5, 100)), (vec![4, 5], vec![4, 5], vec![]));
        assert_eq!(decisions.latest(), 5);
    }

    #[test]
    fn a_policy_is_let_go_when_its_denials_are_explained() {
        let (old, now) = (policy("[]"), Instant::now());
        let mut decisions = Decisions::new(100, 1);
        let ids: Vec<_> = (0..25).map(|_| keep(&mut decisions, &old, now, 1)).collect();
        decisions.handle_policy();
        assert_eq!(Arc::strong_count(&old), 26);
        for left in [15, 5, 0] {
            decisions.explain_some(10);
            assert_eq!((Arc::strong_count(&old), decisions.has_backlog()), (1 + left, left > 0));
        }
        let explanation = decisions.find(ids[3]).expect("kept").explanation();
        assert_eq!(explanation.revision(), old.revision());
        assert!(explanation.to_string().ends_with(&format!("invokectl explain {}", ids[3])), "{explanation}");
    }
}
