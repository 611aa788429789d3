//! Values that the daemon holds for a peer, by a number: open files, cursors, sessions.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use invoked_proto::registry::{ErrorCode, quotas};

use crate::ipc::{Fault, PeerId};

/// The number of a resource, within its table. It is never 0 and never used twice there.
pub type ResourceId = u32;

/// Something that is held for a peer until the peer, or the command, closes it or the peer's connection ends.
pub trait Resource: Any + Send + Sync {
    /// What it is, for people.
    fn name(&self) -> Cow<'_, str> {
        std::any::type_name::<Self>().into()
    }

    /// Called once when it is closed, on a thread that may block. Whoever still holds it may go on using it.
    fn close(self: Arc<Self>) {}
}

/// The resources of one peer, or of the application.
///
/// In a command, [`Manager::resources_table`](crate::Manager::resources_table) is that of the calling peer's connection: other
/// peers can't name what is in it, and it is closed when the connection ends. Elsewhere it is the application's own.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use invoked::{AppHandle, Manager, Resource, ResourceId};
///
/// struct Counter(Mutex<u32>);
/// impl Resource for Counter {}
///
/// #[invoked::command]
/// fn open(app: AppHandle) -> ResourceId {
///     app.resources_table().add(Counter(Mutex::new(0)))
/// }
///
/// #[invoked::command]
/// fn next(rid: ResourceId, app: AppHandle) -> invoked::Result<u32> {
///     let counter: Arc<Counter> = app.resources_table().get(rid)?;
///     let mut count = counter.0.lock().unwrap();
///     *count += 1;
///     Ok(*count)
/// }
/// # let _handler = invoked::generate_handler![open, next];
/// ```
///
/// Callers close one by `core.close_resource` with its `rid`.
#[derive(Default)]
pub struct ResourceTable {
    resources: BTreeMap<ResourceId, Entry>,
    last: ResourceId,
    /// Whether nobody will ever ask for what is added.
    closed: bool,
}

struct Entry {
    resource: Arc<dyn AnyResource>,
}

/// A resource whose type is forgotten.
trait AnyResource: Send + Sync {
    fn name(&self) -> Cow<'_, str>;
    fn close(self: Arc<Self>);
    fn type_id(&self) -> TypeId;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Resource> AnyResource for T {
    fn name(&self) -> Cow<'_, str> {
        Resource::name(self)
    }

    fn close(self: Arc<Self>) {
        Resource::close(self);
    }

    fn type_id(&self) -> TypeId {
        TypeId::of::<T>()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl fmt::Debug for ResourceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.names()).finish()
    }
}

impl ResourceTable {
    /// Adds a resource; its number.
    ///
    /// A table holds at most `resources_per_connection` (see `core.limits`). One more, and one for a peer that is gone, is
    /// closed at once, and the number is one that names nothing; [`try_add`](Self::try_add) says so.
    pub fn add<T: Resource>(&mut self, resource: T) -> ResourceId {
        self.add_arc(Arc::new(resource))
    }

    /// Adds a resource that is shared already; its number.
    pub fn add_arc<T: Resource>(&mut self, resource: Arc<T>) -> ResourceId {
        self.try_add(Arc::clone(&resource)).unwrap_or_else(|_| {
            Resource::close(resource);
            0
        })
    }

    /// Adds a resource; its number.
    ///
    /// # Errors
    /// `resource_exhausted` if the table is full, `unavailable` if the peer is gone. The resource is not closed then.
    pub fn try_add<T: Resource>(&mut self, resource: Arc<T>) -> Result<ResourceId, Fault> {
        if self.closed {
            return Err(Fault::new(ErrorCode::Unavailable, "the peer is gone, and its resources with it"));
        }
        let max = quotas::RESOURCES_PER_CONNECTION;
        if self.resources.len() as u64 >= max || self.last == ResourceId::MAX {
            let text = format!("a connection has at most {max} resources; close some");
            return Err(Fault::new(ErrorCode::ResourceExhausted, text));
        }
        self.last += 1;
        self.resources.insert(self.last, Entry { resource });
        Ok(self.last)
    }

    /// Whether there is a resource of this number.
    #[must_use]
    pub fn has(&self, rid: ResourceId) -> bool {
        self.resources.contains_key(&rid)
    }

    /// The resource of this number.
    ///
    /// # Errors
    /// `not_found` if there is none, or one of another type.
    pub fn get<T: Resource>(&self, rid: ResourceId) -> crate::Result<Arc<T>> {
        let found = self.resources.get(&rid).ok_or_else(|| missing(rid))?;
        typed(rid, &found.resource)
    }

    /// Takes the resource of this number out, without closing it.
    ///
    /// # Errors
    /// As for [`get`](Self::get); the resource stays then.
    pub fn take<T: Resource>(&mut self, rid: ResourceId) -> crate::Result<Arc<T>> {
        let resource = self.get(rid)?;
        self.resources.remove(&rid);
        Ok(resource)
    }

    /// Puts another resource in the place of the one of this number, which is not closed.
    pub fn replace<T: Resource>(&mut self, rid: ResourceId, resource: T) -> crate::Result<()> {
        let entry = self.resources.get_mut(&rid).ok_or_else(|| missing(rid))?;
        entry.resource = Arc::new(resource);
        Ok(())
    }

    /// Closes the resource of this number. It may block, as the resource's `close` may.
    ///
    /// # Errors
    /// `not_found` if there is none.
    pub fn close(&mut self, rid: ResourceId) -> crate::Result<()> {
        let entry = self.resources.remove(&rid).ok_or_else(|| missing(rid))?;
        entry.resource.close();
        Ok(())
    }

    /// Takes a resource out, whatever it is; to be closed without the table.
    pub(crate) fn take_any(&mut self, rid: ResourceId) -> Result<TakenResource, Fault> {
        self.resources.remove(&rid).map(TakenResource).ok_or_else(|| no_resource(rid))
    }

    /// What there is, by number.
    pub fn names(&self) -> impl Iterator<Item = (ResourceId, Cow<'_, str>)> {
        self.resources.iter().map(|(rid, entry)| (*rid, entry.resource.name()))
    }
}

/// A resource that was taken out of its table.
pub(crate) struct TakenResource(Entry);

impl TakenResource {
    /// Closes it; may block.
    pub(crate) fn close(self) {
        self.0.resource.close();
    }
}

fn no_resource(rid: ResourceId) -> Fault {
    Fault::new(ErrorCode::NotFound, format!("there is no resource {rid}"))
}

fn missing(rid: ResourceId) -> crate::Error {
    no_resource(rid).into()
}

fn typed<T: Resource>(rid: ResourceId, resource: &Arc<dyn AnyResource>) -> crate::Result<Arc<T>> {
    let found = (**resource).type_id() == TypeId::of::<T>();
    let any = found.then(|| Arc::clone(resource).into_any().downcast().ok()).flatten();
    any.ok_or_else(|| missing(rid))
}

/// A table that several hold.
pub(crate) type SharedTable = Arc<Mutex<ResourceTable>>;

/// The tables of all peers, and the application's own.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    own: SharedTable,
    /// Of each peer that is there; the table itself once it is asked for.
    peers: Mutex<HashMap<PeerId, Option<SharedTable>>>,
}

impl Resources {
    pub(crate) fn own(&self) -> &SharedTable {
        &self.own
    }

    /// A peer is there from now on.
    pub(crate) fn open(&self, peer: PeerId) {
        lock(&self.peers).insert(peer, None);
    }

    /// The table of a peer; one that takes nothing if the peer is gone.
    pub(crate) fn of(&self, peer: PeerId) -> SharedTable {
        match lock(&self.peers).get_mut(&peer) {
            Some(table) => Arc::clone(table.get_or_insert_default()),
            None => Arc::new(Mutex::new(ResourceTable { closed: true, ..ResourceTable::default() })),
        }
    }

    /// A peer is gone; what it had is to be closed by the answer, if there is something, where that may block.
    pub(crate) fn forget(&self, peer: PeerId) -> Option<impl FnOnce() + Send + use<>> {
        let table = lock(&self.peers).remove(&peer)??;
        let mut locked = lock(&table);
        locked.closed = true;
        let resources = std::mem::take(&mut locked.resources);
        if resources.is_empty() {
            return None;
        }
        Some(move || resources.into_values().for_each(|entry| entry.resource.close()))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use invoked_proto::registry::quotas;

    use super::{Resource, ResourceTable, Resources, lock};
    use crate::ipc::PeerId;

    /// Counts how often it was closed.
    struct Door(Arc<AtomicUsize>);

    impl Resource for Door {
        fn name(&self) -> std::borrow::Cow<'_, str> {
            "door".into()
        }
        fn close(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Window;
    impl Resource for Window {}

    #[test]
    fn a_resource_is_found_by_its_number_and_type() {
        let closed = Arc::new(AtomicUsize::new(0));
        let mut table = ResourceTable::default();
        let (door, window) = (table.add(Door(Arc::clone(&closed))), table.add(Window));
        assert_eq!((door, window), (1, 2));
        assert!(table.get::<Door>(door).is_ok() && table.get::<Window>(window).is_ok());
        assert_eq!(table.get::<Window>(door).err().unwrap().to_string(), "not_found: there is no resource 1");
        assert!(table.get::<Door>(9).is_err());
        assert_eq!(
            table.names().map(|(rid, name)| (rid, name.into_owned())).next(),
            Some((1, "door".to_owned()))
        );
        assert!(table.close(door).is_ok() && table.close(door).is_err());
        assert_eq!(closed.load(Ordering::SeqCst), 1);
        // A number is not used again.
        assert_eq!(table.add(Window), 3);
        assert!(table.replace(3, Door(Arc::clone(&closed))).is_ok() && table.replace(1, Window).is_err());
        assert!(table.take::<Door>(3).is_ok() && !table.has(3));
        assert_eq!(closed.load(Ordering::SeqCst), 1, "what is taken is not closed");
    }

    #[test]
    fn a_table_is_bounded() {
        let closed = Arc::new(AtomicUsize::new(0));
        let mut table = ResourceTable::default();
        for _ in 0..quotas::RESOURCES_PER_CONNECTION {
            assert_ne!(table.add(Window), 0);
        }
        assert_eq!(table.add(Door(Arc::clone(&closed))), 0);
        assert_eq!(closed.load(Ordering::SeqCst), 1);
        assert!(table.try_add(Arc::new(Window)).is_err());
        table.close(1).unwrap();
        assert!(table.try_add(Arc::new(Window)).is_ok());
    }

    #[test]
    fn what_a_peer_leaves_is_closed_and_nothing_is_added_later() {
        let closed = Arc::new(AtomicUsize::new(0));
        let resources = Resources::default();
        let (ann, bob) = (PeerId(1), PeerId(2));
        resources.open(ann);
        resources.open(bob);
        let table = resources.of(ann);
        assert_ne!(lock(&table).add(Door(Arc::clone(&closed))), 0);
        assert!(lock(&resources.of(bob)).get::<Door>(1).is_err(), "another peer does not see it");
        let close = resources.forget(ann).expect("there is something to close");
        close();
        assert_eq!(closed.load(Ordering::SeqCst), 1);
        // A task that goes on after its peer left.
        assert_eq!(lock(&table).add(Door(Arc::clone(&closed))), 0);
        assert_eq!(lock(&resources.of(ann)).add(Door(Arc::clone(&closed))), 0);
        assert_eq!(closed.load(Ordering::SeqCst), 3);
        assert!(resources.forget(bob).is_none() && resources.forget(ann).is_none());
        let _: &Mutex<ResourceTable> = resources.own();
    }
}
