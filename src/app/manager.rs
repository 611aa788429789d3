//! What can be done with an application, by whatever names it.

use std::collections::HashMap;
use std::sync::MutexGuard;

use super::absent::{HasWindows, WebviewWindow, Window};
use super::handle::{App, AppHandle, PackageInfo};
use super::path::PathResolver;
use super::resources::{ResourceTable, lock};
use crate::authority::RuntimeCapability;
use crate::daemon::ChangeError;
use crate::ipc::{Runtime, State, StateManager};

/// State, paths and facts of the application, for [`AppHandle`] and [`App`].
///
/// ```
/// use invoked::{AppHandle, Manager, Runtime};
///
/// struct Limit(u32);
///
/// #[invoked::command]
/// fn limit<R: Runtime>(app: AppHandle<R>) -> u32 {
///     app.try_state::<Limit>().map_or(10, |limit| limit.0)
/// }
/// # let _handler = invoked::generate_handler![limit];
/// ```
pub trait Manager<R: Runtime>: sealed::HasHandle<R> {
    /// The application's handle.
    fn app_handle(&self) -> &AppHandle<R> {
        self.handle()
    }

    /// Manages `value`; false if a value of its type is managed already, which stays. A managed value stays for as long
    /// as the application.
    fn manage<T: Send + Sync + 'static>(&self, value: T) -> bool {
        self.handle().shared().state.manage(value)
    }

    /// The managed value of type `T`.
    ///
    /// # Panics
    /// If there is none, as in Tauri; in a command that answers the call with `internal`. [`try_state`](Self::try_state)
    /// doesn't.
    fn state<T: Send + Sync + 'static>(&self) -> State<'_, T> {
        self.try_state().unwrap_or_else(|| panic!("{}", StateManager::missing::<T>()))
    }

    /// The managed value of type `T`, if there is one.
    fn try_state<T: Send + Sync + 'static>(&self) -> Option<State<'_, T>> {
        self.handle().shared().state.find()
    }

    /// The directories of the user and of the application.
    fn path(&self) -> &PathResolver<R> {
        &self.handle().shared().paths
    }

    /// The resources of the peer whose call this handle belongs to, or the application's own; locked while the answer lives.
    /// Nothing that waits may be done meanwhile.
    fn resources_table(&self) -> MutexGuard<'_, ResourceTable> {
        lock(self.handle().table())
    }

    /// Adds a capability to the policy: the text of a capability file, or a
    /// [`CapabilityBuilder`](crate::authority::CapabilityBuilder). It is in force when this returns, and stays until the daemon ends.
    ///
    /// # Errors
    /// What is wrong with it; also in an inline command, which must not wait.
    fn add_capability(&self, capability: impl RuntimeCapability) -> crate::Result<()> {
        let capability =
            capability.build().map_err(|errors| crate::Error::from(ChangeError::Policy(errors)))?;
        match self.handle().bus() {
            Some(bus) => bus.add_capability(capability),
            None => Err(ChangeError::Stopped.into()),
        }
    }

    /// Not here: a daemon has no windows. Send to the caller by a `Channel`.
    fn get_webview_window(&self, _label: &str) -> Option<WebviewWindow<R>>
    where
        Self: HasWindows,
    {
        None
    }

    /// Not here: a daemon has no windows. Send to the caller by a `Channel`.
    fn get_window(&self, _label: &str) -> Option<Window<R>>
    where
        Self: HasWindows,
    {
        None
    }

    /// Not here: a daemon has no windows.
    fn webview_windows(&self) -> HashMap<String, WebviewWindow<R>>
    where
        Self: HasWindows,
    {
        HashMap::new()
    }

    /// Name and version of the application.
    fn package_info(&self) -> &PackageInfo {
        &self.handle().shared().package
    }
}

impl<R: Runtime> Manager<R> for AppHandle<R> {}
impl<R: Runtime> Manager<R> for App<R> {}

mod sealed {
    use super::{App, AppHandle, Runtime};

    pub trait HasHandle<R: Runtime> {
        fn handle(&self) -> &AppHandle<R>;
    }

    impl<R: Runtime> HasHandle<R> for AppHandle<R> {
        fn handle(&self) -> &AppHandle<R> {
            self
        }
    }

    impl<R: Runtime> HasHandle<R> for App<R> {
        fn handle(&self) -> &AppHandle<R> {
            App::handle(self)
        }
    }
}
