//! The handle of an application.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::call::{Bus, Calling};
use super::path::PathResolver;
use super::resources::{Resources, SharedTable};
use crate::authority::Instance;
use crate::ipc::{InvokeResponder, Runtime, StateManager, Wry};

/// What is told of the application; the program's own crate where it uses [`generate_context!`](crate::generate_context),
/// else what its builder says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackageInfo {
    /// The application's identifier: `org.acme.photos`; `invoked` for a daemon without one.
    pub name: String,
    /// Its version; that of `invoked` where the program says nothing.
    pub version: String,
}

impl Default for PackageInfo {
    fn default() -> Self {
        PackageInfo { name: "invoked".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// What all handles of one application share.
pub(crate) struct Shared<R: Runtime> {
    pub(crate) state: StateManager,
    pub(crate) package: PackageInfo,
    pub(crate) paths: PathResolver<R>,
    /// Who watches replies.
    responder: Option<Arc<InvokeResponder<R>>>,
    pub(crate) resources: Resources,
    /// Set when the daemon runs.
    bus: OnceLock<Box<dyn Bus>>,
}

impl<R: Runtime> Shared<R> {
    pub(crate) fn responder(&self) -> Option<&Arc<InvokeResponder<R>>> {
        self.responder.as_ref()
    }
}

/// A handle of the application; cheap to clone, usable from any thread.
///
/// A command takes it as an argument, and a setup hook is given one. [`Manager`](crate::Manager) has what it can do.
pub struct AppHandle<R: Runtime = Wry> {
    shared: Arc<Shared<R>>,
    /// The call whose command holds it.
    calling: Option<Arc<Calling>>,
    /// The resources of the peer that called; found when they are asked for.
    table: OnceLock<SharedTable>,
}

impl<R: Runtime> Clone for AppHandle<R> {
    fn clone(&self) -> Self {
        self.with_calling(self.calling.clone())
    }
}

impl<R: Runtime> fmt::Debug for AppHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.shared;
        f.debug_struct("AppHandle").field("package", &shared.package).field("state", &shared.state).finish()
    }
}

impl<R: Runtime> AppHandle<R> {
    pub(crate) fn new(
        state: StateManager,
        package: PackageInfo,
        instance: Instance,
        responder: Option<Arc<InvokeResponder<R>>>,
    ) -> Self {
        let paths = PathResolver::new(&package.name, instance);
        let (resources, bus) = (Resources::default(), OnceLock::new());
        let shared = Shared { state, package, paths, responder, resources, bus };
        AppHandle { shared: Arc::new(shared), calling: None, table: OnceLock::new() }
    }

    /// Lets open calls end, then stops the daemon. Returns at once, without effect before the daemon runs.
    ///
    /// The code is Tauri's; the daemon decides on its exit code itself.
    pub fn exit(&self, _code: i32) {
        if let Some(bus) = self.bus() {
            bus.stop();
        }
    }

    /// Says what runs calls; the first that is said holds.
    pub(crate) fn run_by(&self, bus: Box<dyn Bus>) {
        drop(self.shared.bus.set(bus));
    }

    pub(super) fn bus(&self) -> Option<&dyn Bus> {
        self.shared.bus.get().map(|bus| &**bus)
    }

    /// The same handle, of this call.
    pub(crate) fn with_calling(&self, calling: Option<Arc<Calling>>) -> Self {
        AppHandle { shared: Arc::clone(&self.shared), calling, table: OnceLock::new() }
    }

    pub(super) fn calling(&self) -> Option<&Arc<Calling>> {
        self.calling.as_ref()
    }

    /// The resources of the peer that called, or the application's own.
    pub(super) fn table(&self) -> &SharedTable {
        let resources = &self.shared.resources;
        match &self.calling {
            None => resources.own(),
            Some(calling) => self.table.get_or_init(|| resources.of(calling.peer.id)),
        }
    }

    pub(crate) fn shared(&self) -> &Shared<R> {
        &self.shared
    }
}

/// The application while it is set up; what a setup hook is given.
#[derive(Debug)]
pub struct App<R: Runtime = Wry> {
    handle: AppHandle<R>,
}

impl<R: Runtime> App<R> {
    pub(crate) fn new(handle: AppHandle<R>) -> Self {
        App { handle }
    }

    /// A handle to keep.
    #[must_use]
    pub fn handle(&self) -> &AppHandle<R> {
        &self.handle
    }
}
