//! What a uid may hold at once. Check the bound, charge, then reserve; a charge gives back when it is dropped.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use invoked_proto::registry::quotas;

use super::given::{Given, Held};
use crate::authority::PeerLimits;
use crate::ipc::{Budget, Common, is_fair};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Resource {
    /// Connections.
    Connections,
    /// Calls whose callee has not ended.
    Calls,
    /// Bytes of messages on their way in, or held by a call.
    MessageBytes,
    /// Bytes of replies that wait for their peer to read them.
    ReplyBytes,
}

const RESOURCES: usize = 4;

/// What is counted by others than this, from any thread, and is bounded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Elsewhere {
    /// Memory that peers are written to.
    Segments,
    /// File descriptors that peers have not confirmed: the kernel counts them as the daemon's.
    Unconfirmed,
    /// Memory of peers that is held, by its size.
    MemoryFiles,
    /// File descriptors of peers that are held, or not closed yet.
    Received,
}

const ELSEWHERE: usize = 4;

impl Elsewhere {
    const ALL: [Elsewhere; ELSEWHERE] =
        [Elsewhere::Segments, Elsewhere::Unconfirmed, Elsewhere::MemoryFiles, Elsewhere::Received];

    /// What capabilities call the most of it for one uid.
    fn limit(self) -> &'static str {
        match self {
            Elsewhere::Segments => "segment_bytes_per_uid",
            Elsewhere::Unconfirmed => "unconfirmed_fds_per_uid",
            Elsewhere::MemoryFiles => "memory_file_bytes_per_uid",
            Elsewhere::Received => "received_fds_per_uid",
        }
    }
}

/// All that capabilities may say of an account, in this order.
const SAID: usize = RESOURCES + ELSEWHERE;

fn said_limits() -> [&'static str; SAID] {
    std::array::from_fn(|at| match Resource::ALL.get(at) {
        Some(resource) => resource.limit(),
        None => Elsewhere::ALL[at - RESOURCES].limit(),
    })
}

impl Resource {
    const ALL: [Resource; RESOURCES] =
        [Resource::Connections, Resource::Calls, Resource::MessageBytes, Resource::ReplyBytes];

    /// What capabilities call the most of it for one uid.
    fn limit(self) -> &'static str {
        match self {
            Resource::Connections => "connections_per_uid",
            Resource::Calls => "calls_per_uid",
            Resource::MessageBytes => "reassembly_bytes_per_uid",
            Resource::ReplyBytes => "reply_bytes_per_uid",
        }
    }
}

/// The most of one resource: for one uid and for all together, of which each uid may have its fair share ([`is_fair`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// For one uid.
    pub(crate) per_uid: u64,
    /// For all.
    pub(crate) total: u64,
}

/// The bounds in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Connections.
    pub(crate) connections: Bound,
    /// Calls in flight.
    pub(crate) calls: Bound,
    /// Message bytes.
    pub(crate) message_bytes: Bound,
    /// Reply bytes.
    pub(crate) reply_bytes: Bound,
    /// Items of channels that wait for the loop.
    pub(crate) item_bytes: Bound,
    /// Memory that peers are written to.
    pub(crate) segment_bytes: Bound,
    /// File descriptors that peers have not confirmed.
    pub(crate) fds: Bound,
    /// Memory of peers that is held.
    pub(crate) memory_files: Bound,
    /// File descriptors of peers that are held.
    pub(crate) received_fds: Bound,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: Bound { per_uid: quotas::CONNECTIONS_PER_UID, total: quotas::CONNECTIONS },
            calls: Bound { per_uid: quotas::CALLS_PER_UID, total: u64::MAX },
            message_bytes: Bound {
                per_uid: quotas::REASSEMBLY_BYTES_PER_UID,
                total: quotas::REASSEMBLY_BYTES,
            },
            reply_bytes: Bound { per_uid: quotas::REPLY_BYTES_PER_UID, total: quotas::REPLY_BYTES },
            item_bytes: Bound { per_uid: quotas::ITEM_BYTES_PER_UID, total: quotas::ITEM_BYTES },
            segment_bytes: Bound { per_uid: quotas::SEGMENT_BYTES_PER_UID, total: quotas::SEGMENT_BYTES },
            fds: Bound { per_uid: quotas::UNCONFIRMED_FDS_PER_UID, total: quotas::UNCONFIRMED_FDS },
            memory_files: Bound {
                per_uid: quotas::MEMORY_FILE_BYTES_PER_UID,
                total: quotas::MEMORY_FILE_BYTES,
            },
            received_fds: Bound { per_uid: quotas::RECEIVED_FDS_PER_UID, total: quotas::RECEIVED_FDS },
        }
    }
}

impl Bounds {
    fn of(&self, resource: Resource) -> Bound {
        match resource {
            Resource::Connections => self.connections,
            Resource::Calls => self.calls,
            Resource::MessageBytes => self.message_bytes,
            Resource::ReplyBytes => self.reply_bytes,
        }
    }

    fn elsewhere(&self, what: Elsewhere) -> Bound {
        match what {
            Elsewhere::Segments => self.segment_bytes,
            Elsewhere::Unconfirmed => self.fds,
            Elsewhere::MemoryFiles => self.memory_files,
            Elsewhere::Received => self.received_fds,
        }
    }
}

/// The accounts of all uids.
#[derive(Debug)]
pub(crate) struct Ledger {
    bounds: Bounds,
    total: Rc<Total>,
    accounts: HashMap<u32, Weak<Account>>,
    items: Arc<Common>,
    given: [Arc<Given>; ELSEWHERE],
}

#[derive(Debug, Default)]
struct Used([Cell<u64>; RESOURCES]);

/// What all accounts have together.
#[derive(Debug, Default)]
struct Total {
    used: Used,
    /// How many accounts there are.
    uids: Cell<u64>,
}

/// The account of one uid; it lives as long as something is charged to it or a peer of the uid is connected.
#[derive(Debug)]
pub(crate) struct Account {
    bounds: Bounds,
    /// The most for this uid: the largest of what capabilities of its peers say, else that of `bounds`.
    per_uid: [Cell<u64>; RESOURCES],
    /// What the capabilities of its peers say, and of how many of them.
    said: RefCell<[BTreeMap<u64, usize>; SAID]>,
    used: Used,
    total: Rc<Total>,
    /// What handlers charge from other threads; it lives on with their channels.
    items: Arc<Budget>,
    /// The same for what is counted elsewhere.
    given: [Arc<Given>; ELSEWHERE],
}

/// What the capabilities of one peer say of its uid's account; it holds as long as this lives.
#[derive(Debug)]
#[must_use = "dropping an allowance takes it back"]
pub(crate) struct Allowance {
    account: Rc<Account>,
    said: [Option<u64>; SAID],
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.account.said_by(&self.said, |count| count.saturating_sub(1));
    }
}

/// Something charged; dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping a charge gives it back"]
pub(crate) struct Charge {
    account: Rc<Account>,
    resource: Resource,
    amount: u64,
}

impl Ledger {
    /// Empty accounts under `bounds`.
    #[must_use]
    pub(crate) fn new(bounds: Bounds) -> Self {
        let items = Common::new(bounds.item_bytes.total);
        let given = Elsewhere::ALL.map(|what| Given::in_all(bounds.elsewhere(what).total));
        Ledger { bounds, total: Rc::default(), accounts: HashMap::new(), items, given }
    }

    /// What items of channels are charged in all.
    pub(crate) fn items(&self) -> u64 {
        self.items.used()
    }

    /// Memory that replies are written to, in all.
    pub(crate) fn segments(&self) -> u64 {
        self.given[Elsewhere::Segments as usize].used()
    }

    /// Memory of peers that is held, in all.
    pub(crate) fn memory_files(&self) -> u64 {
        self.given[Elsewhere::MemoryFiles as usize].used()
    }

    /// File descriptors of peers that are held, in all.
    pub(crate) fn received_fds(&self) -> u64 {
        self.given[Elsewhere::Received as usize].used()
    }

    /// The account of `uid`.
    pub(crate) fn account(&mut self, uid: u32) -> Rc<Account> {
        if let Some(account) = self.accounts.get(&uid).and_then(Weak::upgrade) {
            return account;
        }
        // Uids come and go; those with nothing charged leave nothing behind.
        self.accounts.retain(|_, account| account.strong_count() > 0);
        self.total.uids.set(self.total.uids.get() + 1);
        let account = Rc::new(Account {
            bounds: self.bounds,
            per_uid: Resource::ALL.map(|resource| Cell::new(self.bounds.of(resource).per_uid)),
            said: RefCell::default(),
            used: Used::default(),
            total: Rc::clone(&self.total),
            items: Budget::new(self.bounds.item_bytes.per_uid, &self.items),
            given: Elsewhere::ALL.map(|what| {
                let per_uid = self.bounds.elsewhere(what).per_uid;
                Given::of_uid(per_uid, &self.given[what as usize])
            }),
        });
        self.accounts.insert(uid, Rc::downgrade(&account));
        account
    }

    /// The account of `uid`, if there is one.
    #[cfg(test)]
    pub(crate) fn find(&self, uid: u32) -> Option<Rc<Account>> {
        self.accounts.get(&uid).and_then(Weak::upgrade)
    }

    /// How much of `resource` is charged in all.
    #[must_use]
    pub(crate) fn total(&self, resource: Resource) -> u64 {
        self.total.used.0[resource as usize].get()
    }
}

impl Account {
    /// Lets what a peer's capabilities say hold for its uid, besides what those of its other peers say.
    pub(crate) fn allow(self: &Rc<Self>, limits: &PeerLimits) -> Allowance {
        let said = said_limits().map(|limit| limits.get(limit));
        self.said_by(&said, |count| count + 1);
        Allowance { account: Rc::clone(self), said }
    }

    fn said_by(&self, amounts: &[Option<u64>; SAID], count: impl Fn(usize) -> usize) {
        let mut said = self.said.borrow_mut();
        for (at, (said, amount)) in said.iter_mut().zip(amounts).enumerate() {
            let Some(amount) = *amount else { continue };
            match count(said.get(&amount).copied().unwrap_or(0)) {
                0 => drop(said.remove(&amount)),
                peers => drop(said.insert(amount, peers)),
            }
            let largest = said.last_key_value().map(|(amount, _)| *amount);
            match Resource::ALL.get(at) {
                Some(resource) => {
                    self.per_uid[at].set(largest.unwrap_or(self.bounds.of(*resource).per_uid));
                }
                None => {
                    let what = Elsewhere::ALL[at - RESOURCES];
                    let bound = largest.unwrap_or(self.bounds.elsewhere(what).per_uid);
                    self.given[what as usize].set_bound(bound);
                }
            }
        }
    }

    /// The most of each resource that this uid may hold, by the names that capabilities use.
    pub(crate) fn per_uid(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let of_own = Resource::ALL
            .into_iter()
            .map(|resource| (resource.limit(), self.per_uid[resource as usize].get()));
        let elsewhere =
            Elsewhere::ALL.into_iter().map(|what| (what.limit(), self.given[what as usize].bound()));
        of_own.chain(elsewhere)
    }

    /// Charges `amount`, or nothing if that would pass the uid's bound or its fair share of the common one.
    #[must_use]
    pub(crate) fn charge(self: &Rc<Self>, resource: Resource, amount: u64) -> Option<Charge> {
        if !self.has_room(resource, amount) {
            return None;
        }
        self.add(resource, amount);
        Some(Charge { account: Rc::clone(self), resource, amount })
    }

    /// A charge of nothing, to be settled to what is there: it is made also where the bound is passed.
    pub(crate) fn charge_nothing(self: &Rc<Self>, resource: Resource) -> Charge {
        Charge { account: Rc::clone(self), resource, amount: 0 }
    }

    /// What items of channels to this uid may cost while they wait for the loop.
    pub(crate) fn items(&self) -> Arc<Budget> {
        Arc::clone(&self.items)
    }

    /// What memory this uid may be written to.
    pub(super) fn segments(&self) -> Arc<Given> {
        Arc::clone(&self.given[Elsewhere::Segments as usize])
    }

    /// How many file descriptors may be on their way to this uid.
    pub(super) fn fds(&self) -> Arc<Given> {
        Arc::clone(&self.given[Elsewhere::Unconfirmed as usize])
    }

    /// What memory of this uid's may be held.
    pub(super) fn memory_files(&self) -> Arc<Given> {
        Arc::clone(&self.given[Elsewhere::MemoryFiles as usize])
    }

    /// The file descriptors of this uid's that are held.
    pub(super) fn received_fds(&self) -> Held {
        Held(Arc::clone(&self.given[Elsewhere::Received as usize]))
    }

    /// Whether [`charge`](Self::charge) would succeed.
    #[must_use]
    pub(crate) fn has_room(&self, resource: Resource, amount: u64) -> bool {
        let (share, used) = (&self.used.0[resource as usize], &self.total.used.0[resource as usize]);
        let per_uid = self.per_uid[resource as usize].get();
        share.get().checked_add(amount).is_some_and(|sum| sum <= per_uid)
            && is_fair(amount, share.get(), used.get(), self.bounds.of(resource).total, self.total.uids.get())
    }

    /// How much of `resource` is charged to this uid.
    #[cfg(test)]
    pub(crate) fn used(&self, resource: Resource) -> u64 {
        self.used.0[resource as usize].get()
    }

    fn add(&self, resource: Resource, amount: u64) {
        for used in [&self.used, &self.total.used] {
            let cell = &used.0[resource as usize];
            cell.set(cell.get().saturating_add(amount));
        }
        self.note_unread(resource);
    }

    /// Lets no item of a channel follow while too much waits to be read. The uid's own bound alone: what is left unread in all
    /// falls with what others read, which nobody would tell this uid.
    fn note_unread(&self, resource: Resource) {
        if resource == Resource::ReplyBytes {
            let (unread, most) =
                (self.used.0[resource as usize].get(), self.per_uid[resource as usize].get());
            self.items.hold_back(unread > most);
        }
    }

    fn give_back(&self, resource: Resource, amount: u64) {
        for used in [&self.used, &self.total.used] {
            let cell = &used.0[resource as usize];
            debug_assert!(cell.get() >= amount, "more given back than charged");
            cell.set(cell.get().saturating_sub(amount));
        }
        self.note_unread(resource);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.total.uids.set(self.total.uids.get() - 1);
    }
}

impl Charge {
    /// What is charged.
    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }

    /// Charges `amount` more, or nothing if that would pass a bound.
    #[must_use]
    pub(crate) fn grow(&mut self, amount: u64) -> bool {
        let fits = self.account.has_room(self.resource, amount);
        if fits {
            self.account.add(self.resource, amount);
            self.amount += amount;
        }
        fits
    }

    /// Changes the amount to what is there now, also past the bound: for what exists already and is only counted.
    pub(crate) fn settle(&mut self, amount: u64) {
        if amount > self.amount {
            self.account.add(self.resource, amount - self.amount);
        } else {
            self.account.give_back(self.resource, self.amount - amount);
        }
        self.amount = amount;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give_back(self.resource, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(per_uid: u64, total: u64) -> Bounds {
        Bounds { calls: Bound { per_uid, total }, ..Bounds::default() }
    }

    #[test]
    fn a_charge_is_refused_above_its_bound_and_given_back_on_drop() {
        let mut ledger = Ledger::new(bounds(2, 100));
        let ana = ledger.account(1);
        let one = ana.charge(Resource::Calls, 1);
        let two = ana.charge(Resource::Calls, 1);
        assert!(one.is_some() && two.is_some());
        assert!(ana.charge(Resource::Calls, 1).is_none(), "n + 1 of a uid");
        drop((one, two));
        assert_eq!((ana.used(Resource::Calls), ledger.total(Resource::Calls)), (0, 0));
    }

    #[test]
    fn uids_share_what_is_for_all_and_a_newcomer_finds_something() {
        let mut ledger = Ledger::new(bounds(u64::MAX, 1200));
        let ana = ledger.account(1);
        let mut of_ana = ana.charge(Resource::Calls, 600).expect("half of all for who is alone");
        assert!(!of_ana.grow(1), "n + 1");
        let bob = ledger.account(2);
        assert!(bob.charge(Resource::Calls, 201).is_none(), "n + 1");
        let of_bob = bob.charge(Resource::Calls, 200).expect("a third of what is left");
        let eve = ledger.account(3);
        let of_eve = eve.charge(Resource::Calls, 100).expect("a quarter of what is left");
        assert_eq!(ledger.total(Resource::Calls), 900);
        // Those who leave give their shares up, and their places.
        drop((of_ana, of_eve, ana, eve));
        let more = bob.charge(Resource::Calls, 400).expect("half of all for who is alone now");
        assert!(bob.charge(Resource::Calls, 1).is_none(), "n + 1");
        drop((of_bob, more));
        assert_eq!(ledger.total(Resource::Calls), 0);
    }

    #[test]
    fn an_overflowing_charge_is_refused() {
        let mut ledger = Ledger::new(bounds(u64::MAX, u64::MAX - 1));
        let ana = ledger.account(1);
        let held = ana.charge(Resource::Calls, 1);
        assert!(held.is_some());
        assert!(ana.charge(Resource::Calls, u64::MAX).is_none());
    }

    #[test]
    fn an_account_outlives_its_peers_while_something_is_charged() {
        let mut ledger = Ledger::new(bounds(1, 9));
        let held = ledger.account(1).charge(Resource::Calls, 1);
        assert!(ledger.account(1).charge(Resource::Calls, 1).is_none());
        drop(held);
        assert!(ledger.account(1).charge(Resource::Calls, 1).is_some());
    }

    #[test]
    fn settling_follows_what_is_there() {
        let mut ledger = Ledger::new(bounds(10, 10));
        let ana = ledger.account(1);
        let mut charge = ana.charge_nothing(Resource::Calls);
        charge.settle(25);
        assert_eq!((ana.used(Resource::Calls), charge.amount()), (25, 25));
        drop(ana.charge_nothing(Resource::Calls));
        assert_eq!(ana.used(Resource::Calls), 25, "also past the bound");
        charge.settle(3);
        assert_eq!(ledger.total(Resource::Calls), 3);
        drop(charge);
        assert_eq!(ledger.total(Resource::Calls), 0);
    }
}
