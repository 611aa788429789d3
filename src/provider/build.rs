//! Putting a provider together from what a builder has.

use std::sync::Arc;
use std::thread;

use invoked_proto::name::PluginName;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::interface::document;
use super::options::ProvideOptions;
use super::serve::Serving;
use super::{ProvideError, Provider, ProviderHandle, Starting};
use crate::app::{AppHandle, Manager, PackageInfo};
use crate::async_runtime::Workers;
use crate::builder::{Builder, hooks};
use crate::commands::CommandTable;
use crate::config::Config;
use crate::daemon::SetupHook;
use crate::error::BuildError;
use crate::ipc::{Runtime, Wry};
use crate::plugin::Assembled;

/// A plugin to register.
#[derive(Debug, Clone)]
pub(super) struct Interface {
    pub(super) plugin: String,
    pub(super) document: Value,
}

/// Everything that a provider needs but its connection.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) options: ProvideOptions,
    pub(super) commands: Arc<CommandTable>,
    pub(super) interfaces: Arc<[Interface]>,
    pub(super) app: AppHandle,
    pub(super) workers: Workers,
}

impl<R: Runtime, N> Builder<R, N> {
    /// Names the plugin under which the application's own commands are [`provide`](Self::provide)d, those of
    /// [`invoke_handler`](Self::invoke_handler); the identifier of the application unless it is named. Without effect where
    /// they are hosted.
    pub fn provide_as(mut self, plugin: impl Into<String>) -> Self {
        self.provide_as = Some(plugin.into());
        self
    }
}

impl<N> Builder<Wry, N> {
    /// Connects to a daemon and serves the builder's plugins there, on a thread of its own; `options` is an
    /// [`Address`](crate::transport::Address), or [`ProvideOptions`]. When this returns, all are registered and may be called.
    ///
    /// The application's own commands are served as a plugin, which [`provide_as`](Self::provide_as) names. The builder's
    /// policy and its address are without effect: both are the daemon's.
    ///
    /// Dropping the future stops what was begun.
    ///
    /// # Errors
    /// What is wrong with the commands; why the daemon can't be reached or may not be trusted; what it refuses.
    pub async fn provide(self, options: impl Into<ProvideOptions>) -> Result<Provider, ProvideError> {
        self.start_providing(options.into())?.ready().await
    }

    /// The same for a program without a runtime.
    ///
    /// # Errors
    /// As [`provide`](Self::provide).
    pub fn provide_blocking(self, options: impl Into<ProvideOptions>) -> Result<Provider, ProvideError> {
        self.start_providing(options.into())?.ready_blocking()
    }

    fn start_providing(self, options: ProvideOptions) -> Result<Starting, ProvideError> {
        let (handle, asks) = ProviderHandle::new();
        let parts = self.provider_parts(options, &handle)?;
        let (told, ready) = oneshot::channel();
        let (stopped, has_stopped) = watch::channel(false);
        let of_loop = handle.clone();
        let thread = thread::Builder::new()
            .name("invoked-provider".to_owned())
            .spawn(move || {
                let result = Serving::run(parts, &of_loop, asks, told);
                stopped.send_replace(true);
                result
            })
            .map_err(BuildError::io("starting the provider's thread"))?;
        let provider = Provider { handle, provided: Vec::new(), has_stopped, thread: Some(thread) };
        Ok(Starting { provider, ready })
    }

    fn provider_parts(self, options: ProvideOptions, handle: &ProviderHandle) -> Result<Parts, BuildError> {
        let mut package = PackageInfo::default();
        let own_name = self.provide_as.clone().or_else(|| self.app.clone());
        package.name = self.app.unwrap_or(package.name);
        package.version = self.version.unwrap_or(package.version);
        let mut all = self.plugins.into_iter().collect::<Result<Vec<_>, _>>()?;
        let own = self.handler.into_commands().map_err(BuildError::Commands)?;
        let mut own_plugin = None;
        if !own.is_empty() {
            let name = own_name.ok_or_else(|| {
                let text = "a provider's commands belong to a plugin: name it by provide_as(\"…\")";
                BuildError::Commands(text.to_owned())
            })?;
            let name = PluginName::parse(&name)
                .map_err(|error| BuildError::Name { name: name.clone(), reason: error.to_string() })?;
            own_plugin = Some(name.clone());
            all.push(Assembled::application(own).named(name));
        }
        let names = options.plugins.clone();
        let is_wanted = select(&all, names.as_deref())?;
        let wanted: Vec<&Assembled> = all.iter().filter(|plugin| is_wanted(plugin)).collect();
        let commands = CommandTable::new(wanted.iter().copied()).map_err(BuildError::Commands)?;
        let interfaces = wanted.iter().map(|plugin| interface(plugin, &package.version));
        let interfaces = interfaces.collect::<Result<Vec<_>, _>>()?.into();
        let app = AppHandle::new(self.state, package, self.instance, self.responder);
        let workers = Workers::start(self.config.runtime.workers.get().into())
            .map_err(BuildError::io("starting the worker runtime"))?;
        app.run_by(Box::new(handle.for_own(own_plugin.as_ref())));
        app.manage(handle.clone());
        let setup = hooks(all, self.setup, &self.config, self.plugin_config);
        SetupHook::run_all(setup, &app, &workers)?;
        let commands = Arc::new(commands);
        Ok(Parts { config: self.config, options, commands, interfaces, app, workers })
    }
}

/// Which plugins are provided, checked.
fn select<'a>(
    all: &[Assembled],
    names: Option<&'a [String]>,
) -> Result<impl Fn(&Assembled) -> bool + use<'a>, BuildError> {
    let refuse = |text: String| Err(BuildError::Commands(text));
    let of = |plugin: &Assembled| plugin.name().map_or(String::new(), |name| name.as_str().to_owned());
    for (at, plugin) in all.iter().enumerate() {
        if all[..at].iter().any(|other| of(other) == of(plugin)) {
            return refuse(format!("plugin {} is there twice", of(plugin)));
        }
    }
    if let Some(name) = names.into_iter().flatten().find(|name| all.iter().all(|plugin| of(plugin) != **name))
    {
        return refuse(format!("there is no plugin {name} to provide"));
    }
    let is_wanted = move |plugin: &Assembled| {
        !plugin.commands().is_empty() && names.is_none_or(|names| names.contains(&of(plugin)))
    };
    if !all.iter().any(&is_wanted) {
        return refuse("there is no command to provide".to_owned());
    }
    Ok(is_wanted)
}

fn interface(plugin: &Assembled, version: &str) -> Result<Interface, BuildError> {
    let name = plugin.name().ok_or_else(|| BuildError::Commands("a plugin without a name".to_owned()))?;
    let document =
        document(name, version, plugin.commands(), plugin.manifest()).map_err(BuildError::Commands)?;
    Ok(Interface { plugin: name.as_str().to_owned(), document })
}
