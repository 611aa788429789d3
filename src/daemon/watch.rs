//! Files of the policy that change are read again by themselves. Behind the feature `watch`.
//!
//! Owns when: after a change that concerns the policy, once the files are at rest. What the kernel says only wakes it;
//! whether there is something to read is told by the files' attributes ([`Footprint`]), so that neither reading nor an
//! event too many leads to another reading.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::footprint::Footprint;
use super::{DaemonHandle, PolicySource};

/// How long nothing must have changed.
const QUIET: Duration = Duration::from_millis(100);

/// A file that is open for writing is waited for so long: whoever holds it may never close it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files that are waited for, at most.
const OPEN_MAX: usize = 1024;

/// When to try again to watch, after the kernel refused.
const RETRY: Duration = Duration::from_secs(60);

/// Times that the places to watch are looked for before the next event is waited for: they may change meanwhile.
const LOOKS: usize = 3;

/// Reads the policy again when its files change, for ever.
pub(super) async fn watch(handle: DaemonHandle, source: Arc<PolicySource>) {
    let changes = Arc::new(Changes::default());
    let mut watching = Watching::default();
    loop {
        let looking = {
            let (changes, source) = (Arc::clone(&changes), Arc::clone(&source));
            tokio::task::spawn_blocking(move || {
                let changed = watching.look(&source, &changes);
                (watching, changed)
            })
        };
        // It fails only when the runtime ends, and this task with it.
        let Ok((looked, changed)) = looking.await else { return };
        watching = looked;
        if changed {
            handle.reload_in_turn().await;
        }
        if watching.watcher.is_some() {
            changes.settled().await;
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The watcher, and what it was set up for.
#[derive(Default)]
struct Watching {
    watcher: Option<RecommendedWatcher>,
    places: BTreeMap<PathBuf, (u64, u64)>,
    /// Why it could not be set up, as it was logged last.
    complaint: String,
}

impl Watching {
    /// Watches what is to be watched now, and tells whether the policy's files are others than when they were last read.
    /// Blocks.
    fn look(&mut self, source: &PolicySource, changes: &Arc<Changes>) -> bool {
        let mut footprint = Footprint::of(source.directories());
        for _ in 0..LOOKS {
            let places = footprint.watched();
            changes.lock().footprint = footprint.clone();
            if self.watcher.is_some() && places == self.places {
                break;
            }
            self.set_up(places, changes);
            // What changed before the watcher was there shows now.
            footprint = Footprint::of(source.directories());
        }
        !source.is_read_from(&footprint)
    }

    /// A new watcher for `places`: one that is told of changes keeps what it knew of directories that are others now.
    fn set_up(&mut self, places: BTreeMap<PathBuf, (u64, u64)>, changes: &Arc<Changes>) {
        let told = Arc::clone(changes);
        let watcher = notify::recommended_watcher(move |event| told.note(Instant::now(), event));
        let watcher = watcher.and_then(|mut watcher| {
            for place in places.keys() {
                match watcher.watch(place, RecursiveMode::NonRecursive) {
                    // Gone meanwhile: the next look sees it.
                    Err(notify::Error { kind: notify::ErrorKind::PathNotFound, .. }) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                tracing::debug!(places = ?places.keys(), "watching the policy's files");
                (self.watcher, self.places) = (Some(watcher), places);
                self.complaint.clear();
            }
            Err(error) => {
                self.watcher = None;
                let complaint = error.to_string();
                if complaint != self.complaint {
                    tracing::warn!(
                        error = complaint,
                        "the policy's files are not watched; SIGHUP and core.reload read them all the same"
                    );
                    self.complaint = complaint;
                }
            }
        }
    }
}

/// What happened since the policy's files were last looked at; shared with the watcher's thread.
#[derive(Debug, Default)]
struct Changes {
    state: Mutex<Pending>,
    /// Something that concerns the policy happened.
    happened: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    footprint: Footprint,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Files that somebody writes to and has not closed.
    open: HashSet<PathBuf>,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A panic while it is held leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, now: Instant, event: notify::Result<Event>) {
        let concerns = match event {
            Ok(event) => self.lock().note(now, &event),
            Err(error) => {
                tracing::warn!(%error, "watching the policy's files");
                self.lock().touch(now);
                true
            }
        };
        if concerns {
            self.happened.notify_one();
        }
    }

    /// Waits for a change, and then until the files are at rest.
    async fn settled(&self) {
        loop {
            let due = self.lock().due();
            match due {
                None => self.happened.notified().await,
                Some(due) if due <= Instant::now() => break,
                Some(due) => {
                    tokio::select! {
                        () = self.happened.notified() => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
            }
        }
        self.lock().take();
    }
}

impl Pending {
    /// Notes an event; false if it is of no concern.
    fn note(&mut self, now: Instant, event: &Event) -> bool {
        if event.need_rescan() {
            // Events were lost.
            self.touch(now);
            return true;
        }
        let concern: Vec<&PathBuf> =
            event.paths.iter().filter(|path| self.footprint.concerns(path)).collect();
        if concern.is_empty() || !is_change(&event.kind) {
            return false;
        }
        for path in concern {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => self.opened(path),
                EventKind::Create(CreateKind::File) if awaits_content(path) => self.opened(path),
                EventKind::Access(_)
                | EventKind::Remove(RemoveKind::File)
                | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                    self.open.remove(path);
                }
                _ => {}
            }
        }
        self.touch(now);
        true
    }

    fn opened(&mut self, path: &Path) {
        if self.open.len() < OPEN_MAX {
            self.open.insert(path.to_owned());
        }
    }

    fn touch(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// When to look at the files, if something happened.
    fn due(&self) -> Option<Instant> {
        let latest = self.first? + PATIENCE;
        let quiet = self.last? + QUIET;
        Some(if self.open.is_empty() { quiet.min(latest) } else { latest })
    }

    fn take(&mut self) {
        (self.first, self.last) = (None, None);
        self.open.clear();
    }
}

/// Whether something may have changed: to open and to read, as this daemon does itself, changes nothing.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Whether a file that was just created is going to be written: not if it is a link, hard or symbolic.
fn awaits_content(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.nlink() == 1)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use notify::event::{DataChange, Flag, MetadataKind};

    use super::{
        AccessKind, AccessMode, CreateKind, Event, EventKind, Footprint, ModifyKind, PATIENCE, Pending,
        QUIET, RemoveKind, RenameMode,
    };
    use crate::authority::load::PolicyDirectory;

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    struct Script {
        pending: Pending,
        now: Instant,
        folder: std::path::PathBuf,
        _guard: tempfile::TempDir,
    }

    impl Script {
        fn new() -> Self {
            let guard = tempfile::tempdir().unwrap();
            let folder = guard.path().canonicalize().unwrap();
            let footprint = Footprint::of(&[PolicyDirectory::required(&folder)]);
            let pending = Pending { footprint, ..Pending::default() };
            Script { pending, now: Instant::now(), folder, _guard: guard }
        }

        /// Whether the event is of concern.
        fn event(&mut self, kind: EventKind, name: &str) -> bool {
            let event = Event::new(kind).add_path(self.folder.join(name));
            self.pending.note(self.now, &event)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn is_due(&self) -> bool {
            self.pending.due().is_some_and(|due| due <= self.now)
        }
    }

    #[test]
    fn reading_is_no_change() {
        let mut script = Script::new();
        for access in
            [AccessKind::Open(AccessMode::Any), AccessKind::Close(AccessMode::Read), AccessKind::Read]
        {
            assert!(!script.event(EventKind::Access(access), "a.toml"), "{access:?}");
        }
        assert_eq!(script.pending.due(), None);
    }

    #[test]
    fn files_that_are_no_files_of_the_policy_are_of_no_concern() {
        let mut script = Script::new();
        for name in [".a.toml.swp", "a.toml~", "../beside.toml"] {
            assert!(!script.event(WRITTEN, name), "{name}");
        }
        for name in ["a.toml", "README", ""] {
            assert!(script.event(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), name), "{name}");
        }
    }

    #[test]
    fn many_changes_are_one_and_the_last_counts() {
        let mut script = Script::new();
        for _ in 0..10 {
            script.event(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "a.toml");
            script.pass(QUIET / 2);
            assert!(!script.is_due());
        }
        script.pass(QUIET / 2);
        assert!(script.is_due());
        script.pending.take();
        assert_eq!(script.pending.due(), None, "told once");
    }

    #[test]
    fn half_a_file_is_not_read_while_its_writer_has_it_open() {
        let mut script = Script::new();
        std::fs::write(script.folder.join("a.toml"), "").unwrap();
        script.event(EventKind::Create(CreateKind::File), "a.toml");
        script.pass(QUIET * 2);
        assert!(!script.is_due(), "an empty file would be read");
        script.event(WRITTEN, "a.toml");
        script.pass(QUIET * 5);
        assert!(!script.is_due(), "half a file would be read");
        script.event(CLOSED, "a.toml");
        assert!(!script.is_due());
        script.pass(QUIET);
        assert!(script.is_due());
    }

    #[test]
    fn a_file_that_stays_open_is_read_in_the_end() {
        let mut script = Script::new();
        script.event(WRITTEN, "a.toml");
        script.pass(PATIENCE);
        assert!(script.is_due());
        // Changes without a pause don't put it off for ever either.
        script.pending.take();
        script.event(CLOSED, "b.toml");
        script.pass(PATIENCE);
        script.event(CLOSED, "b.toml");
        assert!(script.is_due());
    }

    #[test]
    fn a_link_and_what_is_removed_are_not_waited_for() {
        let mut script = Script::new();
        std::os::unix::fs::symlink("x", script.folder.join("link.toml")).unwrap();
        script.event(EventKind::Create(CreateKind::File), "link.toml");
        script.event(WRITTEN, "a.toml");
        script.event(EventKind::Remove(RemoveKind::File), "a.toml");
        script.event(WRITTEN, "b.toml");
        script.event(EventKind::Modify(ModifyKind::Name(RenameMode::From)), "b.toml");
        script.pass(QUIET);
        assert!(script.is_due());
    }

    #[test]
    fn lost_events_are_a_change() {
        let mut script = Script::new();
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(script.pending.note(script.now, &lost));
        script.pass(QUIET);
        assert!(script.is_due());
    }
}
