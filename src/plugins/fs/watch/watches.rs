//! The watches of all callers on one watcher of the kernel's.
//!
//! Each file or directory is watched once, by the handle under which it was found and judged: what its path leads to by
//! now is of no concern. Only what is in a directory is watched, not what is deeper: a link that is put there meanwhile
//! could lead out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::super::located::Located;
use super::queue::{Queue, Raw};
use crate::ipc::{Peer, PeerId};

/// Watches of one connection.
const PER_PEER: usize = 64;

/// Watches of one uid.
const PER_UID: usize = 256;

/// All watches.
#[derive(Debug, Default)]
pub(in crate::plugins::fs) struct Watches {
    /// Held while the watcher is asked for something; its thread may wait for `places` meanwhile, so that is not.
    watcher: Mutex<Option<RecommendedWatcher>>,
    places: Arc<Places>,
}

/// What is watched, by the path under which the watcher knows it.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<PathBuf, Place>>);

#[derive(Debug)]
struct Place {
    /// Under its handle the watcher knows it.
    located: Arc<Located>,
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    peer: PeerId,
    uid: u32,
    queue: Arc<Queue>,
}

/// One watch; its drop ends it.
#[derive(Debug)]
pub(super) struct Watch {
    watches: Arc<Watches>,
    key: PathBuf,
    located: Arc<Located>,
    queue: Arc<Queue>,
}

impl Watches {
    /// Begins to watch what was found, for a peer.
    ///
    /// # Errors
    /// Which limit is reached, ours or the system's.
    pub(super) fn begin(self: &Arc<Self>, peer: &Peer, located: Located) -> Result<Watch, String> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = Arc::new(Queue::default());
        let holder = Holder { peer: peer.id, uid: peer.uid, queue: Arc::clone(&queue) };
        let located = Arc::new(located);
        let (key, is_new) = self.places.add(holder, &located)?;
        let watch = Watch { watches: Arc::clone(self), key, located, queue };
        if is_new && let Err(error) = self.ask(&mut watcher, &watch.key) {
            // Its drop takes the watcher too.
            drop(watcher);
            return Err(format!("the system watches no more: {error}"));
        }
        drop(watcher);
        Ok(watch)
    }

    fn ask(&self, watcher: &mut Option<RecommendedWatcher>, key: &Path) -> notify::Result<()> {
        let watcher = match watcher {
            Some(watcher) => watcher,
            None => {
                let places = Arc::clone(&self.places);
                watcher.insert(notify::recommended_watcher(move |event| places.note(event))?)
            }
        };
        watcher.watch(key, RecursiveMode::NonRecursive)
    }

    fn end(&self, key: &Path, queue: &Arc<Queue>) {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = self.places.lock();
        let Some(place) = places.get_mut(key) else { return };
        place.holders.retain(|holder| !Arc::ptr_eq(&holder.queue, queue));
        if !place.holders.is_empty() {
            return;
        }
        // Its handle is closed last: the watcher knows it by the handle's number.
        let place = places.remove(key);
        let is_last = places.is_empty();
        drop(places);
        if is_last {
            *watcher = None;
        } else if let Some(watcher) = watcher.as_mut() {
            // It may be gone already, and the watch with it.
            let _ = watcher.unwatch(key);
        }
        drop(place);
    }
}

impl Places {
    /// Notes who watches what was found; how the watcher knows it, and whether it is to be asked to.
    fn add(&self, holder: Holder, located: &Arc<Located>) -> Result<(PathBuf, bool), String> {
        let mut places = self.lock();
        let holders = || places.values().flat_map(|place| &place.holders);
        if holders().filter(|other| other.peer == holder.peer).count() >= PER_PEER {
            return Err(format!("this connection watches {PER_PEER} paths already"));
        }
        if holders().filter(|other| other.uid == holder.uid).count() >= PER_UID {
            return Err(format!("the processes of this user watch {PER_UID} paths already"));
        }
        // The kernel has one watch for each file, whatever the path.
        if let Some((key, place)) = places.iter_mut().find(|(_, place)| place.located.is_same(located)) {
            place.holders.push(holder);
            return Ok((key.clone(), false));
        }
        let key = located.handle_path();
        places.insert(key.clone(), Place { located: Arc::clone(located), holders: vec![holder] });
        Ok((key, true))
    }

    /// Takes what the watcher tells, on its thread.
    fn note(&self, event: notify::Result<Event>) {
        let now = Instant::now();
        let places = self.lock();
        let Ok(event) = event else { return all(&places).for_each(|queue| queue.add(Raw::Lost)) };
        if event.need_rescan() {
            return all(&places).for_each(|queue| queue.add(Raw::Lost));
        }
        let Some(path) = event.paths.first() else { return };
        let found = path.ancestors().take(2).find_map(|key| Some((key, places.get(key)?)));
        let Some((key, place)) = found else { return };
        let name = path.strip_prefix(key).unwrap_or(Path::new("")).as_os_str().to_owned();
        let number = event.tracker();
        for Holder { queue, .. } in &place.holders {
            match (event.kind, number) {
                (EventKind::Create(_), _) => queue.add(Raw::Created(name.clone())),
                (EventKind::Remove(_), _) => queue.add(Raw::Removed(name.clone())),
                (EventKind::Modify(ModifyKind::Name(RenameMode::From)), Some(number)) => {
                    queue.add(Raw::MovedAway(name.clone(), number, now));
                }
                (EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(number)) => {
                    queue.add(Raw::MovedHere(name.clone(), number));
                }
                (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), Some(number)) => queue.join(number),
                // What is watched was moved itself: that is seen by looking.
                (EventKind::Modify(ModifyKind::Name(_)), _) => queue.wake(),
                (EventKind::Modify(_), _) => queue.add(Raw::Modified(name.clone())),
                _ => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Place>> {
        // No code of others runs under the lock, and each change is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all(places: &HashMap<PathBuf, Place>) -> impl Iterator<Item = &Arc<Queue>> {
    places.values().flat_map(|place| &place.holders).map(|holder| &holder.queue)
}

impl Watch {
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The path of what is watched, links resolved, as it was judged.
    pub(super) fn real(&self) -> &Path {
        &self.located.real
    }

    /// Whether what is watched is still there.
    pub(super) fn is_there(&self) -> bool {
        self.located.is_there()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.end(&self.key, &self.queue);
    }
}
