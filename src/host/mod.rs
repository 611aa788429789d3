//! A daemon as a program: flags, configuration, logs, signals, exit codes. Behind the feature `cli`.

mod flags;
pub(crate) mod report;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use invoked_transport::{
    Address, AddressOptions, AppName, BindError, BindFault, ChosenAddress, Listener, Scope, choose_address,
    process_env,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::authority::load::{DirectoryContents, PolicyDirectory};
use crate::authority::{Instance, TauriFiles};
use crate::builder::{Builder, Named, listen};
use crate::config::Config;
use crate::context::Context;
use crate::daemon::DaemonHandle;
use crate::error::BuildError;
use crate::ipc::Wry;
use flags::Flags;
use report::Report;

/// Descriptors kept for everything but connections: files that are read, the loop, the policy.
const RESERVED_DESCRIPTORS: u64 = 256;

/// How the program ends; `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Stopped = 0,
    Failed = 1,
    Usage = 2,
    Unsound = 3,
    InUse = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Builder<Wry, Named> {
    /// Runs the daemon as this program: reads the flags of `invoked` from the command line, sets up logs, listens,
    /// serves, drains on SIGTERM and SIGINT, reloads on SIGHUP.
    ///
    /// Returns when the daemon has stopped; `main` returns what this returns.
    pub fn run(self) -> ExitCode {
        self.run_with(std::env::args_os())
    }
}

impl Builder {
    /// Runs the daemon as this program, with the identifier of the context: what `run` does for a builder that was made by
    /// [`new`](Builder::new), in the form that programs written for Tauri have.
    ///
    /// What the flags alone answer (`--help`, a wrong flag) ends the process.
    ///
    /// ```no_run
    /// #[invoked::command]
    /// fn greet(name: &str) -> String { format!("Hello, {name}!") }
    ///
    /// fn main() {
    ///     invoked::Builder::default()
    ///         .invoke_handler(invoked::generate_handler![greet])
    ///         .run(invoked::generate_context!())
    ///         .expect("error while running the application");
    /// }
    /// ```
    ///
    /// # Errors
    /// What kept the daemon from starting, or ended it; it was reported to standard error by then.
    pub fn run(self, context: Context) -> crate::Result<()> {
        let named = self.named(context);
        let flags = named.flags(std::env::args_os()).unwrap_or_else(|early| early.exit());
        named.run_flags(flags).map(|_| ()).map_err(|error| {
            Report::of(&error).print();
            error.into()
        })
    }
}

impl<N> Builder<Wry, N> {
    /// Runs the daemon as this program, with the command line given; the first word is the program's name.
    pub fn run_with(self, args: impl IntoIterator<Item = OsString>) -> ExitCode {
        let flags = match self.flags(args) {
            Ok(flags) => flags,
            Err(error) => {
                drop(error.print());
                return if error.use_stderr() { Exit::Usage.into() } else { Exit::Stopped.into() };
            }
        };
        let exit = self.run_flags(flags).unwrap_or_else(|error| {
            Report::of(&error).print();
            match error {
                BuildError::Policy(_) | BuildError::Config { .. } | BuildError::Dev(_) => Exit::Unsound,
                BuildError::Bind(BindError { fault: BindFault::InUse { .. }, .. }) => Exit::InUse,
                _ => Exit::Failed,
            }
        });
        exit.into()
    }

    fn flags(&self, args: impl IntoIterator<Item = OsString>) -> Result<Flags, clap::Error> {
        let command = Flags::command().version(env!("CARGO_PKG_VERSION"));
        let command = match &self.app {
            Some(app) => command.name(app.clone()),
            None => command.name("invoked"),
        };
        command.try_get_matches_from(args).and_then(|matches| Flags::from_arg_matches(&matches))
    }

    fn run_flags(self, flags: Flags) -> Result<Exit, BuildError> {
        start_logs(flags.log.as_deref());
        invoked_transport::bound_kept_memory();
        Host { flags, builder: self }.run()
    }
}

/// A builder and what the command line says on top.
struct Host<N> {
    flags: Flags,
    builder: Builder<Wry, N>,
}

impl<N> Host<N> {
    fn run(mut self) -> Result<Exit, BuildError> {
        if self.flags.print_default_config {
            say(&Config::default_text());
            return Ok(Exit::Stopped);
        }
        self.configure()?;
        self.fit_descriptors();
        let chosen = self.address()?;
        let access = self.builder.config.listen.access.clone();
        let name = self.builder.app.clone().unwrap_or_else(|| "invoked".to_owned());
        let (dev, app) = (self.builder.dev.is_some(), self.builder.app.clone());
        let (daemon, warnings) = self.builder.build()?;
        for warning in &warnings {
            Report::warning(warning).print();
        }
        let embedded = daemon.policy.embedded_policy();
        if self.flags.print_policy {
            say(&embedded);
            return Ok(Exit::Stopped);
        }
        if self.flags.check_config {
            say(&format!("{name}: configuration and policy are sound ({} warnings)\n", warnings.len()));
            return Ok(Exit::Stopped);
        }
        let listener = match Listener::inherited(&process_env)
            .map_err(BuildError::io("taking the socket from systemd"))?
        {
            Some(listener) => listener,
            None => listen(&chosen.address, &access)?,
        };
        let address = listener.address().clone();
        let ready = move || announce(&name, app.as_deref(), &address, dev.then_some(&embedded));
        let (handle, asks) = DaemonHandle::new(Arc::clone(&daemon.source), Arc::clone(&daemon.policy));
        daemon.run(listener, handle, asks, |handle| signals(handle, ready))?;
        drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
        Ok(Exit::Stopped)
    }

    /// Flag, environment, file, default: the first that says something holds.
    fn configure(&mut self) -> Result<(), BuildError> {
        let directory = self.config_directory();
        let file = match (&self.flags.config, &directory) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(directory)) => Some(directory.join("invoked.toml")).filter(|file| file.exists()),
            (None, None) => None,
        };
        if let Some(file) = file {
            self.builder.config = Config::read(&file)?;
        }
        self.builder.instance = if self.is_system() { Instance::System } else { Instance::User };
        if let Some(access) = self.flags.access.clone() {
            self.builder.config.listen.access = access;
        }
        if self.flags.dev {
            let here = std::env::current_dir().map_err(BuildError::io("finding the current directory"))?;
            self.builder.dev = Some(here);
        }
        if self.flags.tauri_compat || self.builder.config.policy.tauri_compat {
            self.builder.tauri = TauriFiles::Lenient;
        }
        let policy = self.builder.config.policy.clone();
        let directory = self.policy_directory(directory);
        for (flags, file, name, contents) in [
            (
                &self.flags.capabilities,
                policy.capabilities,
                "capabilities.d",
                DirectoryContents::Capabilities,
            ),
            (&self.flags.permissions, policy.permissions, "permissions.d", DirectoryContents::Permissions),
            (&self.flags.interfaces, policy.interfaces, "interfaces.d", DirectoryContents::Interfaces),
        ] {
            let named = if flags.is_empty() { file.unwrap_or_default() } else { flags.clone() };
            let default =
                directory.as_ref().filter(|_| named.is_empty()).map(|directory| directory.join(name));
            let named = named.into_iter().map(PolicyDirectory::required);
            let all = named.chain(default.map(PolicyDirectory::optional));
            self.builder.directories.extend(all.map(|directory| directory.of(contents)));
        }
        Ok(())
    }

    /// Takes as many descriptors as the machine gives, and lets no quota promise more connections than they allow.
    fn fit_descriptors(&mut self) {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current < limit.maximum {
            let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
            match setrlimit(Resource::Nofile, raised) {
                Ok(()) => limit = raised,
                Err(error) => tracing::warn!(%error, "can not raise the limit of open files"),
            }
        }
        let Some(descriptors) = limit.current else { return };
        let quotas = &mut self.builder.config.quotas;
        let room = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1);
        // So that one uid can not keep all others out: a peer of whose process a rule asks takes three.
        let (all, of_one) = (quotas.connections.min(room), quotas.connections_per_uid.min((room / 4).max(1)));
        if (all, of_one) != (quotas.connections, quotas.connections_per_uid) {
            tracing::info!(
                descriptors,
                connections = all,
                per_uid = of_one,
                "connections are bounded by open files"
            );
            (quotas.connections, quotas.connections_per_uid) = (all, of_one);
        }
    }

    fn address(&self) -> Result<ChosenAddress, BuildError> {
        let explicit = match (&self.flags.address, &self.builder.config.listen.address) {
            (Some(address), _) => Some(address.clone()),
            (None, Some(text)) if std::env::var_os("INVOKED_ADDRESS").is_none() => {
                Some(text.parse::<Address>()?)
            }
            (None, _) => None,
        };
        let scope = match (self.flags.system, self.flags.user) {
            (true, _) => Scope::System,
            (_, true) => Scope::User,
            _ => Scope::Auto,
        };
        let app = self.builder.app.clone().map(AppName::new).transpose()?;
        Ok(choose_address(&AddressOptions { explicit, scope, app }, &process_env)?)
    }

    fn is_system(&self) -> bool {
        self.flags.system || (!self.flags.user && rustix::process::geteuid().is_root())
    }

    /// Where `capabilities.d` and the others are: beside the configuration file that a flag names, else where configuration is looked for.
    fn policy_directory(&self, default: Option<PathBuf>) -> Option<PathBuf> {
        match self.flags.config.as_deref().and_then(std::path::Path::parent) {
            Some(beside) => Some(beside.to_owned()),
            None => default,
        }
    }

    /// Where configuration is looked for when no flag says so.
    fn config_directory(&self) -> Option<PathBuf> {
        let name = self.builder.app.as_deref().unwrap_or("invoked");
        if self.is_system() {
            return Some(PathBuf::from("/etc").join(name));
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
        Some(base.join(name))
    }
}

/// Says that the daemon is ready, and what to type next.
fn announce(name: &str, app: Option<&str>, address: &Address, dev: Option<&String>) {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("{name} {version} listening on {address}\n");
    let here = app.map_or(String::new(), |app| format!(" --app {app}"));
    text.push_str(&format!("try: invokectl{here} -a {address} list\n"));
    if let Some(policy) = dev {
        text.push_str("\nunder --dev, this policy is in force; save it to keep it:\n\n");
        text.push_str(policy);
    }
    say(&text);
    // Without systemd there is nobody to tell.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
}

/// Writes to standard output; a reader that is gone is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn start_logs(filter: Option<&str>) {
    let filter = tracing_subscriber::EnvFilter::new(filter.unwrap_or("info"));
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(colours).with_target(false);
    // A host that has set up logs of its own keeps them.
    drop(logs.try_init());
}

/// Serves the signals; ends when the daemon is to stop.
async fn signals(handle: DaemonHandle, ready: impl FnOnce()) {
    let streams = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = streams else {
        tracing::error!("can not watch signals; stop the daemon with invokectl call core.shutdown");
        ready();
        return std::future::pending().await;
    };
    outlive_file_limits();
    ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Beside the loop, so that a slow disk does not keep the daemon from being stopped.
            _ = hangup.recv() => drop(tokio::task::spawn_local({
                let handle = handle.clone();
                async move { handle.reload_in_turn().await }
            })),
        }
    }
    tracing::info!("stopping; open calls may end");
    // Whoever asks twice does not want to wait.
    tokio::task::spawn_local(async move {
        interrupt.recv().await;
        std::process::exit(130);
    });
}

/// Takes SIGXFSZ, by which a limit on the size of files (RLIMIT_FSIZE) would end the daemon when a peer's call of
/// `fs.write_file` exceeds it. The write fails then, and the caller is told.
fn outlive_file_limits() {
    // Dropping the stream does not restore the default, which is what is wanted.
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    if let Err(error) = signal(kind) {
        tracing::warn!(%error, "can not take SIGXFSZ: a file above RLIMIT_FSIZE ends the daemon");
    }
}
