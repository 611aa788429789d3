//! The provider's loop: connect, register, serve, and again if the connection was lost.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use invoked_proto::Text;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Request, Settings};
use invoked_proto::metadata::Hello;
use invoked_proto::registry::{ErrorCode, features};
use invoked_transport::AsyncStream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::build::{Interface, Parts};
use super::bus::{Ask, Called};
use super::options::ProvideOptions;
use super::{ProvideError, Provided, ProviderHandle};
use crate::app::Manager;
use crate::async_runtime::Workers;
use crate::authority::Policy;
use crate::authority::load::PasswdFiles;
use crate::broker::Broker;
use crate::daemon::{Loop, attend};
use crate::error::BuildError;
use crate::ipc::{CallError, Fault, LoopThread, Outcome, OwnedInvokeResponder};
use crate::runner::{Completion, Runner};
use crate::session::{Ended, Hub, Session, Upstream};

/// What the loop and those who ask it have in common.
pub(super) struct Desk {
    hub: Rc<Hub>,
    upstream: RefCell<Option<Rc<Upstream>>>,
    /// Counts the connections.
    connection: Cell<u64>,
}

impl Desk {
    /// Calls a command at the daemon, on behalf of the call on the stream `parent` if there is one.
    pub(super) fn call(
        &self,
        request: Request,
        parent: Option<u64>,
        waiter: Box<OwnedInvokeResponder>,
    ) -> Result<Called, Fault> {
        let upstream = self.upstream.borrow().clone();
        let upstream = upstream.ok_or_else(|| {
            Fault::refusal(ErrorCode::Unavailable, "there is no connection to the daemon now")
        })?;
        if parent.is_some_and(|parent| !upstream.is_inbound(parent)) {
            let text = "the call that this one was made for has ended";
            return Err(Fault::refusal(ErrorCode::Cancelled, text));
        }
        let stream = upstream.call(request, waiter)?;
        Ok(Called { connection: self.connection.get(), stream })
    }

    pub(super) fn cancel(&self, called: Called) {
        if called.connection == self.connection.get()
            && let Some(upstream) = &*self.upstream.borrow()
        {
            upstream.cancel(called.stream);
        }
    }
}

/// A connection on which everything is registered.
struct Connected {
    upstream: Rc<Upstream>,
    session: SessionTask,
    provided: Vec<Provided>,
}

/// The session's task; it ends when this is dropped.
struct SessionTask(JoinHandle<Ended>);

impl Drop for SessionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Told once, how the first registration went.
type Ready = oneshot::Sender<Result<Vec<Provided>, ProvideError>>;

/// The loop.
pub(super) struct Serving {
    desk: Rc<Desk>,
    options: ProvideOptions,
    interfaces: Arc<[Interface]>,
    settings: Settings,
    hello: Hello,
    grace: Duration,
    stopping: watch::Receiver<bool>,
}

impl Serving {
    /// Serves until the handle says stop, or the connection is lost for good.
    pub(super) fn run(
        parts: Parts,
        handle: &ProviderHandle,
        asks: mpsc::Receiver<Ask>,
        ready: Ready,
    ) -> Result<(), ProvideError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .map_err(BuildError::io("starting the loop"))?;
        let _adopted = Workers::adopt_this_thread(parts.workers.handle());
        let settings = Loop::of(&parts.config);
        let (runner, completions) =
            Runner::new(settings.runner, parts.workers.handle().clone(), parts.app.clone());
        let _loop_thread = LoopThread::enter();
        runtime.block_on(Self::serve(parts, settings, runner, completions, handle, asks, ready))
    }

    async fn serve(
        parts: Parts,
        settings: Loop,
        runner: Runner,
        completions: mpsc::Receiver<Completion>,
        handle: &ProviderHandle,
        mut asks: mpsc::Receiver<Ask>,
        ready: Ready,
    ) -> Result<(), ProvideError> {
        // Nobody is judged here: each call brings what allows it.
        let policy = Policy::new(rustix::process::geteuid().as_raw(), &PasswdFiles::default()).compile();
        let policy = Arc::new(policy.map_err(BuildError::Policy)?.snapshot);
        let broker = Broker::new(settings.broker, policy, Arc::clone(&parts.commands));
        let connection = Settings { features: features::CHANNELS | features::PROVIDE, ..settings.connection };
        let hub = Rc::new(Hub::new(broker, runner, connection, settings.waits, Default::default()));
        let mut attending = attend(&hub, completions);
        let desk =
            Rc::new(Desk { hub: Rc::clone(&hub), upstream: RefCell::default(), connection: Cell::new(0) });
        let package = parts.app.package_info().clone();
        let serving = Serving {
            desk: Rc::clone(&desk),
            options: parts.options,
            interfaces: parts.interfaces,
            settings: connection,
            hello: Hello {
                name: Text::from(package.name),
                version: Text::from(package.version),
                library: Text::from(concat!("invoked ", env!("CARGO_PKG_VERSION"))),
                ..Hello::default()
            },
            grace: Duration::from_millis(parts.config.runtime.drain_timeout_ms),
            stopping: handle.stop.subscribe(),
        };
        attending.spawn_local(async move {
            while let Some(ask) = asks.recv().await {
                ask(&desk);
            }
        });
        let result = serving.go_on(ready).await;
        attending.shutdown().await;
        result
    }

    async fn go_on(self, ready: Ready) -> Result<(), ProvideError> {
        let mut ready = Some(ready);
        let mut stopping = self.stopping.clone();
        let mut tries = 0;
        loop {
            let connected = tokio::select! {
                // Who is registered withdraws and lets its calls end, also if it is told to stop before it has seen that.
                biased;
                connected = self.connect() => connected,
                _ = stopping.wait_for(|stop| *stop) => return Ok(()),
            };
            match connected {
                Ok(connected) => {
                    tries = 0;
                    tell(ready.take(), &connected.provided);
                    if self.attend_to(connected).await == Left::Stopped {
                        return Ok(());
                    }
                    if self.options.reconnect.is_none() {
                        return Err(ProvideError::Lost);
                    }
                    tracing::warn!("the connection to the daemon was lost");
                }
                Err(error) => match ready.take() {
                    Some(ready) => {
                        // Whoever asked may have left, and then nobody needs to know.
                        drop(ready.send(Err(error)));
                        return Ok(());
                    }
                    None => tracing::warn!(%error, "can not provide; trying again"),
                },
            }
            let Some(reconnect) = self.options.reconnect else { return Err(ProvideError::Lost) };
            tokio::select! {
                () = tokio::time::sleep(reconnect.pause(tries)) => {}
                _ = stopping.wait_for(|stop| *stop) => return Ok(()),
            }
            tries = tries.saturating_add(1);
        }
    }

    /// Connects, says who it is, and registers everything.
    async fn connect(&self) -> Result<Connected, ProvideError> {
        let (address, server, limit) =
            (self.options.address.clone(), self.options.server, self.options.connect_timeout);
        let dialling = tokio::task::spawn_blocking(move || {
            let dialled = invoked_transport::dial(&address, server, limit);
            // Names of users are for people; without them numbers are shown.
            dialled.map(|dialled| (dialled, PasswdFiles::system().unwrap_or_default()))
        });
        let (dialled, users) = dialling.await.map_err(|_| ProvideError::Lost)?.map_err(|error| {
            let may_pass = error.may_pass();
            let (message, source) = error.into_parts();
            let message = source.map_or_else(|| message.clone(), |source| format!("{message}: {source}"));
            ProvideError::Connect { message, may_pass }
        })?;
        // No lane that needs descriptors is offered, so none need come in.
        let _ = dialled.stream.refuse_fds();
        let stream = AsyncStream::new(dialled.stream).map_err(BuildError::io("watching the socket"))?;
        let (told, welcomed) = oneshot::channel();
        let hub = &self.desk.hub;
        let upstream = Upstream::begin(hub, self.settings, &self.hello, Arc::new(users), told);
        let upstream = upstream.map_err(|error| refused(error.wire_code(), error.to_string()))?;
        let session = Session::with_daemon(Rc::clone(hub), Rc::clone(&upstream), stream);
        let session = SessionTask(tokio::task::spawn_local(session.run()));
        let welcomed = welcomed.await.map_err(|_| ProvideError::Lost)?;
        welcomed.map_err(|fault| refused(fault.code, fault.message))?;
        if !upstream.provides() {
            return Err(ProvideError::Unsupported);
        }
        self.desk.connection.set(self.desk.connection.get() + 1);
        *self.desk.upstream.borrow_mut() = Some(Rc::clone(&upstream));
        let mut provided = Vec::new();
        for interface in &*self.interfaces {
            provided.push(self.register(&upstream, interface).await?);
        }
        Ok(Connected { upstream, session, provided })
    }

    async fn register(&self, upstream: &Upstream, interface: &Interface) -> Result<Provided, ProvideError> {
        let args = json!({ "interface": interface.document, "takeOver": self.options.take_over });
        let failed = |fault: Fault| ProvideError::Registration {
            plugin: interface.plugin.clone(),
            code: fault.code,
            message: fault.message,
            decision: fault.decision,
        };
        let outcome = ask(upstream, "core.provide", &args, self.options.connect_timeout).await;
        let reply = outcome.map_err(|error| match error {
            CallError::Framework(fault) => failed(fault),
            CallError::Application(error) => {
                failed(Fault::new(ErrorCode::InvalidArgument, String::from_utf8_lossy(error.body().bytes())))
            }
        })?;
        serde_json::from_slice(reply.as_body().bytes()).map_err(|error| {
            let text = format!("the daemon's answer can't be read: {error}");
            failed(Fault::new(ErrorCode::Internal, text))
        })
    }

    /// Serves until the connection ends, or it is to be left.
    async fn attend_to(&self, connected: Connected) -> Left {
        let Connected { upstream, mut session, provided } = connected;
        let mut stopping = self.stopping.clone();
        let left = tokio::select! {
            // How it ended is the daemon's affair; that it did is what counts.
            _ = &mut session.0 => Left::Lost,
            _ = stopping.wait_for(|stop| *stop) => Left::Stopped,
        };
        if left == Left::Stopped {
            let leaving = async {
                for plugin in &provided {
                    let args = json!({ "plugin": plugin.plugin, "major": plugin.major });
                    // A daemon that can't be told sees the connection end.
                    drop(ask(&upstream, "core.withdraw", &args, self.grace).await);
                }
                upstream.drain("the provider is stopping");
                drop((&mut session.0).await);
            };
            if tokio::time::timeout(self.grace, leaving).await.is_err() {
                tracing::warn!(calls = upstream.open_calls(), "stopping while calls are open");
            }
        }
        *self.desk.upstream.borrow_mut() = None;
        left
    }
}

/// Why a connection is served no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Stopped,
    Lost,
}

fn tell(ready: Option<Ready>, provided: &[Provided]) {
    if let Some(ready) = ready {
        // Whoever asked may have left.
        drop(ready.send(Ok(provided.to_vec())));
    }
}

fn refused(code: ErrorCode, message: String) -> ProvideError {
    ProvideError::Refused { code, message }
}

/// Calls a command of the daemon's for the provider itself.
async fn ask(upstream: &Upstream, command: &'static str, args: &Value, limit: Duration) -> Outcome {
    let (answer, answered) = oneshot::channel();
    let request = Request {
        command: Text::from_static(command),
        deadline_us: Some(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)),
        message: Message::from(Body::Json(args.to_string().into())),
        ..Request::default()
    };
    upstream.call(request, Box::new(move |outcome| drop(answer.send(outcome))))?;
    let lost = |_| Fault::midway(ErrorCode::Unavailable, "the connection to the daemon was lost");
    answered.await.map_err(lost)?
}
