//! Providers that the daemon starts itself: at the first call, again when they have died, not any more when nobody calls.
//!
//! Owns their processes. That they register is their own affair, and the policy's whether they may; who waits for one is let
//! go on at a gate of `session::activation`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use invoked_proto::name::PluginName;
use invoked_transport::{Address, User};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::task::{JoinHandle, JoinSet};

use crate::config::ProviderProcess;
use crate::error::BuildError;
use crate::session::{Gate, Hub};

/// Pauses after failures: the first, and the longest. Each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Callers wait for the end of a pause up to this long; through a longer one they are answered at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// A provider that lived for so long has not failed when it ends.
const STEADY: Duration = Duration::from_secs(10);

/// How long a provider has from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// One provider.
pub(super) struct Supervised {
    plugin: String,
    process: ProviderProcess,
    address: Address,
    hub: Rc<Hub>,
    gate: Rc<Gate>,
}

/// Whether processes can be started as the configuration says.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(processes: &BTreeMap<String, ProviderProcess>) -> Result<(), BuildError> {
    for (plugin, process) in processes {
        let wrong = |text: &str| Err(BuildError::Commands(format!("[providers.{plugin}]: {text}")));
        if let Err(error) = PluginName::parse(plugin) {
            return wrong(&format!("no plugin can have this name: {error}"));
        }
        if process.command.first().is_none_or(String::is_empty) {
            return wrong("command names no program");
        }
        if process.user.is_some() && !rustix::process::geteuid().is_root() {
            return wrong("a daemon that is not root can't start a process of another user");
        }
    }
    Ok(())
}

/// Starts to look after all providers of the configuration.
pub(super) fn supervise(
    hub: &Rc<Hub>,
    processes: &BTreeMap<String, ProviderProcess>,
    address: &Address,
    tasks: &mut JoinSet<()>,
) {
    for (plugin, process) in processes {
        let gate = hub.activation().add(plugin.clone());
        let is_known = hub.with_broker(|broker| broker.policy().registry().has_plugin(plugin));
        if !is_known {
            // Nobody can be granted a command that nobody knows, so nobody would ever ask.
            gate.ask();
        }
        let supervised = Supervised {
            plugin: plugin.clone(),
            process: process.clone(),
            address: address.clone(),
            hub: Rc::clone(hub),
            gate,
        };
        tasks.spawn_local(supervised.run());
    }
}

/// How the life of a process went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Failed,
    Useful,
}

impl Supervised {
    async fn run(self) {
        let mut failures = 0;
        loop {
            self.gate.asked().await;
            if self.is_provided() {
                // Somebody else was quicker.
                self.gate.open();
                continue;
            }
            let life = match self.start() {
                Ok(process) => self.attend(process).await,
                Err(error) => {
                    let program = self.process.command.first().map_or("", String::as_str);
                    tracing::error!(plugin = self.plugin, program, %error, "can not start a provider");
                    Life::Failed
                }
            };
            failures = if life == Life::Failed { failures + 1 } else { 0 };
            if failures == 0 {
                continue;
            }
            let pause = pause(failures);
            if pause > PATIENCE {
                self.gate.shut_until(Some(Instant::now() + pause));
                self.gate.open();
            }
            tokio::time::sleep(pause).await;
            self.gate.shut_until(None);
            if self.gate.is_awaited() {
                self.gate.ask();
            }
        }
    }

    fn is_provided(&self) -> bool {
        self.hub.with_broker(|broker| broker.provision(&self.plugin).is_some())
    }

    fn start(&self) -> io::Result<Process> {
        let (program, args) = self.process.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(args).process_group(0).stdin(Stdio::null());
        // What it prints is for whoever reads the daemon's log.
        command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        command.env("INVOKED_ADDRESS", self.address.to_string());
        if let Some(name) = &self.process.user {
            let missing = || io::Error::other(format!("there is no user {name:?}"));
            let user = User::by_name(name)?.ok_or_else(missing)?;
            // Of a daemon that is root the groups are given up with it; any other can't take another user.
            command.uid(user.uid).gid(user.gid).current_dir("/");
        }
        let child = command.spawn()?;
        tracing::info!(plugin = self.plugin, pid = child.id(), "a provider is started");
        Ok(Process::new(child))
    }

    /// From the start of a process to its end.
    async fn attend(&self, mut process: Process) -> Life {
        let began = Instant::now();
        let limit = Duration::from_millis(self.process.start_timeout_ms);
        let ended = tokio::select! {
            () = self.provided() => None,
            status = process.ended() => Some(status),
            () = tokio::time::sleep(limit) => {
                tracing::error!(plugin = self.plugin, ?limit, "a provider did not register in time");
                // They have waited long enough.
                self.gate.open();
                process.end().await;
                return Life::Failed;
            }
        };
        if let Some(status) = ended {
            tracing::error!(plugin = self.plugin, %status, "a provider ended before it registered");
            return Life::Failed;
        }
        self.gate.open();
        tokio::select! {
            status = process.ended() => {
                tracing::warn!(plugin = self.plugin, %status, "a provider ended");
                if began.elapsed() < STEADY { Life::Failed } else { Life::Useful }
            }
            () = self.idle() => {
                tracing::info!(plugin = self.plugin, "a provider is stopped, as nobody calls it");
                self.hub.with_broker_mut(|broker| broker.retire(&self.plugin));
                process.end().await;
                Life::Useful
            }
        }
    }

    /// Waits until somebody provides the plugin.
    async fn provided(&self) {
        let mut changes = self.hub.activation().watch_provided();
        while !self.is_provided() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until nothing was called for as long as the configuration says.
    async fn idle(&self) {
        let limit = Duration::from_millis(self.process.idle_timeout_ms);
        if limit.is_zero() {
            return std::future::pending().await;
        }
        let look = || self.hub.with_broker(|broker| broker.provision(&self.plugin));
        let (mut since, mut before) = (Instant::now(), look());
        loop {
            tokio::time::sleep(limit.saturating_sub(since.elapsed()).max(Duration::from_millis(1))).await;
            let now = look();
            let is_used = now != before || now.is_some_and(|provision| provision.open > 0);
            before = now;
            if is_used {
                since = Instant::now();
            } else if since.elapsed() >= limit {
                return;
            }
        }
    }
}

/// A process in a group of its own, which ends when this is dropped.
struct Process {
    group: Option<Pid>,
    waiting: JoinHandle<io::Result<ExitStatus>>,
    has_ended: bool,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Process { group, waiting: tokio::task::spawn_blocking(move || child.wait()), has_ended: false }
    }

    /// Waits for its end.
    async fn ended(&mut self) -> ExitStatus {
        if self.has_ended {
            return std::future::pending().await;
        }
        let status = (&mut self.waiting).await;
        self.has_ended = true;
        match status {
            Ok(Ok(status)) => status,
            // Somebody else has waited for it, so that nobody knows.
            _ => ExitStatus::from_raw(0),
        }
    }

    /// Asks it to end, and ends it.
    async fn end(&mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.ended()).await.is_err() {
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It fails if all of it has ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whoever has registered is told by its connection, and anybody else by this.
        self.signal(if self.has_ended { Signal::KILL } else { Signal::TERM });
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u128> = (1..=5).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600]);
        assert_eq!((pause(10), pause(u32::MAX)), (LONGEST_PAUSE, LONGEST_PAUSE));
    }
}
