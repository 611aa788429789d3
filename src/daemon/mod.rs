//! The daemon: it listens, admits, reloads, drains, and stops.

mod admission;
mod authority;
#[cfg(feature = "watch")]
mod footprint;
mod handle;
mod local;
mod loopback;
mod policy_source;
mod process;
mod providing;
mod supervisor;
#[cfg(feature = "watch")]
mod watch;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use invoked_proto::connection::Settings;
use invoked_proto::registry::features;
use invoked_transport::{AsyncListener, Listener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use authority::{ChangeError, RuntimeAuthority};
pub use handle::{DaemonHandle, ReloadError, Reloaded};
pub(crate) use loopback::LoopbackPeer;
pub(crate) use policy_source::{PolicySource, SourceState};
pub(crate) use providing::InterfaceBounds;
pub(crate) use supervisor::check as check_processes;

use crate::app::{AppHandle, Manager};
use crate::async_runtime::Workers;
use crate::authority::load::PasswdFiles;
use crate::authority::{PeerFacts, PolicySnapshot};
use crate::broker::{Broker, BrokerSettings};
use crate::commands::CommandTable;
use crate::config::Config;
use crate::error::BuildError;
use crate::ipc::LoopThread;
use crate::runner::{Completion, Runner, RunnerSettings};
use crate::session::{Hub, Waits};
use admission::Admission;
use handle::Ask;

/// Completions taken at once.
const COMPLETIONS_BATCH: usize = 256;

/// Everything a daemon needs but its socket.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) config: Config,
    pub(crate) commands: Arc<CommandTable>,
    pub(crate) policy: Arc<PolicySnapshot>,
    pub(crate) source: Arc<PolicySource>,
    pub(crate) app: AppHandle,
    /// What is done before the first call, in order.
    pub(crate) setup: Vec<SetupHook>,
}

/// Something that is done once, before the first call.
pub(crate) struct SetupHook {
    /// The plugin whose hook it is; `None` for the application's own.
    pub(crate) plugin: Option<String>,
    pub(crate) run: SetupFn,
}

type SetupFn = Box<dyn FnOnce(&AppHandle) -> Result<(), Box<dyn std::error::Error>> + Send>;

impl SetupHook {
    /// Runs the hooks in order on this thread, as on one of the workers.
    pub(crate) fn run_all(hooks: Vec<Self>, app: &AppHandle, workers: &Workers) -> Result<(), BuildError> {
        let _adopted = Workers::adopt_this_thread(workers.handle());
        let _entered = workers.handle().enter();
        for SetupHook { plugin, run } in hooks {
            run(app).map_err(|error| BuildError::Setup { plugin, message: with_causes(&*error) })?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for SetupHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetupHook").field("plugin", &self.plugin).finish()
    }
}

/// A daemon that runs on a thread of its own.
///
/// Dropping it stops the daemon and waits for it.
#[derive(Debug)]
pub struct Running {
    handle: DaemonHandle,
    thread: Option<thread::JoinHandle<Result<(), BuildError>>>,
}

impl Running {
    /// The daemon's handle.
    #[must_use]
    pub fn handle(&self) -> &DaemonHandle {
        &self.handle
    }

    /// Lets open calls end, then stops, and waits until it has.
    ///
    /// # Errors
    /// What ended the daemon before it was asked to stop.
    pub fn shutdown(mut self) -> Result<(), BuildError> {
        self.handle.shutdown();
        self.join()
    }

    /// Waits until something else stops the daemon.
    ///
    /// # Errors
    /// What ended it.
    pub fn wait(mut self) -> Result<(), BuildError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), BuildError> {
        match self.thread.take().map(thread::JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                let panicked = std::io::Error::other("it panicked");
                Err(BuildError::Io { what: "running the daemon".to_owned(), source: panicked })
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        drop(self.join());
    }
}

impl Daemon {
    /// Serves `listener`, if there is one, on a thread of its own.
    pub(crate) fn spawn(mut self, listener: Option<Listener>) -> Result<Running, BuildError> {
        let (handle, asks) = DaemonHandle::new(Arc::clone(&self.source), Arc::clone(&self.policy));
        let of_daemon = handle.clone();
        let workers = self.set_up(&handle)?;
        let thread = thread::Builder::new()
            .name("invoked".to_owned())
            .spawn(move || self.run_set_up(listener, workers, of_daemon, asks, |_| std::future::pending()))
            .map_err(BuildError::io("starting the daemon's thread"))?;
        Ok(Running { handle, thread: Some(thread) })
    }

    /// Serves `listener` on this thread until `until` ends or the handle says so. `until` runs on the daemon's loop.
    #[cfg(feature = "cli")]
    pub(crate) fn run<F: Future<Output = ()>>(
        mut self,
        listener: Listener,
        handle: DaemonHandle,
        asks: mpsc::Receiver<Ask>,
        until: impl FnOnce(DaemonHandle) -> F,
    ) -> Result<(), BuildError> {
        let workers = self.set_up(&handle)?;
        self.run_set_up(Some(listener), workers, handle, asks, until)
    }

    /// Starts the workers and runs the setup hooks on this thread.
    fn set_up(&mut self, handle: &DaemonHandle) -> Result<Workers, BuildError> {
        let workers = Workers::start(self.config.runtime.workers.get().into())
            .map_err(BuildError::io("starting the worker runtime"))?;
        self.app.run_by(Box::new(handle.clone()));
        self.app.manage(handle.clone());
        SetupHook::run_all(std::mem::take(&mut self.setup), &self.app, &workers)?;
        Ok(workers)
    }

    fn run_set_up<F: Future<Output = ()>>(
        self,
        listener: Option<Listener>,
        workers: Workers,
        handle: DaemonHandle,
        asks: mpsc::Receiver<Ask>,
        until: impl FnOnce(DaemonHandle) -> F,
    ) -> Result<(), BuildError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .map_err(BuildError::io("starting the loop"))?;
        let settings = Loop::of(&self.config);
        let _adopted = Workers::adopt_this_thread(workers.handle());
        let _on_loop = authority::enter_loop();
        let runner = Runner::new(settings.runner, workers.handle().clone(), self.app.clone());
        let until = until(handle.clone());
        let _loop_thread = LoopThread::enter();
        runtime.block_on(self.serve(listener, settings, runner, handle, asks, until))
    }

    async fn serve(
        self,
        listener: Option<Listener>,
        settings: Loop,
        (runner, completions): (Runner, mpsc::Receiver<Completion>),
        handle: DaemonHandle,
        mut asks: mpsc::Receiver<Ask>,
        until: impl Future<Output = ()>,
    ) -> Result<(), BuildError> {
        let lanes = self.config.lanes.sizes();
        let broker = Broker::new(settings.broker, handle.in_force().begin(), self.commands);
        let hub = Rc::new(Hub::new(broker, runner, settings.connection, settings.waits, lanes));
        hub.set_own_peer(hub.admit_local(own_facts(self.source.own_uid)));
        let listener =
            listener.map(AsyncListener::new).transpose().map_err(BuildError::io("watching the socket"))?;
        let admission = Rc::new(Admission::new(Rc::clone(&hub), &self.config));
        let address = listener.as_ref().map(|listener| listener.listener().address().clone());
        let accepting = listener.map(|listener| tokio::task::spawn_local(accept(listener, admission)));
        let mut attending = attend(&hub, completions);
        if let Some(address) = &address {
            supervisor::supervise(&hub, &self.config.providers, address, &mut attending);
        }
        #[cfg(feature = "watch")]
        if self.config.policy.watch {
            attending.spawn_local(watch::watch(handle.clone(), Arc::clone(&self.source)));
        }
        let mut stopping = handle.stopping();
        tokio::pin!(until);
        loop {
            tokio::select! {
                Some(ask) = asks.recv() => ask(&hub),
                _ = stopping.wait_for(|stop| *stop) => break,
                () = &mut until => break,
            }
        }
        // The socket's name goes first, so that whoever connects from now on is told that nobody listens.
        if let Some(accepting) = accepting {
            accepting.abort();
            drop(accepting.await);
        }
        let grace = Duration::from_millis(self.config.runtime.drain_timeout_ms);
        drain(&hub, &mut asks, grace).await;
        attending.shutdown().await;
        Ok(())
    }
}

/// What a configuration says of a loop and what is below it.
pub(crate) struct Loop {
    pub(crate) runner: RunnerSettings,
    pub(crate) broker: BrokerSettings,
    pub(crate) connection: Settings,
    pub(crate) waits: Waits,
}

impl Loop {
    pub(crate) fn of(config: &Config) -> Self {
        let limits = config.limits_in_force();
        Loop {
            runner: RunnerSettings {
                pool_threads: config.runtime.pool_threads.get().into(),
                pool_queue: config.runtime.pool_queue.get().into(),
            },
            broker: BrokerSettings {
                bounds: config.quotas.bounds(),
                default_deadline: Duration::from_millis(config.runtime.default_deadline_ms),
                max_deadline: Duration::from_millis(config.runtime.max_deadline_ms),
                announced: limits.filter_map(|(limit, value)| Some((limit.id?, value))).collect(),
                read_buffer: Hub::read_buffer_size(),
                seed: chance(),
                providers: config.quotas.provider_bounds(),
            },
            connection: connection_settings(config),
            waits: Waits {
                slow_consumer: Duration::from_millis(config.runtime.slow_consumer_timeout_ms),
                busy_poll: Duration::from_micros(config.runtime.busy_poll_us.into()),
                trim: Duration::from_millis(config.lanes.trim_after_ms),
            },
        }
    }
}

/// What the daemon is to itself.
fn own_facts(uid: u32) -> PeerFacts {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let groups: Vec<u32> = groups.into_iter().map(|group| group.as_raw()).collect();
    let facts = PeerFacts::new(uid, rustix::process::getegid().as_raw(), groups).with_pid(std::process::id());
    match PasswdFiles::system() {
        Ok(users) => facts.with_names(&users),
        // Then $PEER_HOME has no value for the daemon's own calls.
        Err(_) => facts,
    }
}

/// An error and what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What goes on beside the sessions until the daemon has stopped.
pub(crate) fn attend(hub: &Rc<Hub>, completions: mpsc::Receiver<Completion>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let [channels, deadlines, memory, policy, narrowing, fetches, lanes] =
        std::array::from_fn(|_| Rc::clone(hub));
    tasks.spawn_local(complete(Rc::clone(hub), completions));
    tasks.spawn_local(async move { channels.watch_channels().await });
    tasks.spawn_local(async move { deadlines.watch_deadlines().await });
    tasks.spawn_local(async move { memory.watch_memory().await });
    tasks.spawn_local(async move { policy.watch_policy().await });
    tasks.spawn_local(async move { lanes.watch_lanes().await });
    tasks.spawn_local(async move { fetches.watch_fetches().await });
    tasks.spawn_local(async move { narrowing.watch_narrowing().await });
    tasks
}

/// What connections are held to where no capability says otherwise.
fn connection_settings(config: &Config) -> Settings {
    let sizes = config.lanes.sizes();
    let pool = sizes.pool_from.map_or(0, |_| features::ATTACHED_FDS | features::POOL);
    let file = sizes.file_from.map_or(0, |_| features::ATTACHED_FDS | features::FILE | features::SEALED);
    Settings {
        features: features::CHANNELS | features::PROVIDE | pool | file,
        // It lets a client notice another daemon.
        instance: chance(),
        max_message: config.quotas.max_message,
        open_calls: config.quotas.calls_per_connection,
        handshake_timeout_ms: config.runtime.handshake_timeout_ms,
        frame_timeout_ms: config.runtime.frame_timeout_ms,
        ..Settings::default()
    }
}

/// Takes connections for ever.
async fn accept(listener: AsyncListener, admission: Rc<Admission>) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                tokio::task::spawn_local(Rc::clone(&admission).serve(stream));
            }
            Err(error) => {
                // Out of descriptors or memory: the connection waits in the kernel's queue, and others may end.
                tracing::error!(%error, "can not accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Brings the ends of handlers to the broker.
async fn complete(hub: Rc<Hub>, mut completions: mpsc::Receiver<Completion>) {
    let mut batch = Vec::with_capacity(16);
    while completions.recv_many(&mut batch, COMPLETIONS_BATCH).await > 0 {
        hub.complete(batch.drain(..));
    }
}

/// Lets open calls end, for as long as `grace`.
async fn drain(hub: &Rc<Hub>, asks: &mut mpsc::Receiver<Ask>, grace: Duration) {
    hub.drain();
    let end = Instant::now() + grace;
    while hub.peers() > 0 && Instant::now() < end {
        tokio::select! {
            Some(ask) = asks.recv() => ask(hub),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    if hub.peers() > 0 {
        tracing::warn!(peers = hub.peers(), handlers = hub.running(), "stopping while calls are open");
    }
}

/// A number that differs from start to start.
fn chance() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
