//! Commands that call commands.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::body::{Body, Message};
use invoked_proto::metadata::HeaderField;
use invoked_proto::name::canonical;
use invoked_proto::registry::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::AppHandle;
use crate::authority::AddedCapability;
use crate::ipc::{CallError, CancellationToken, Fault, Outcome, Peer, PeerId, Runtime};

/// What runs calls: the daemon.
pub(crate) trait Bus: Send + Sync {
    /// Calls; dropping the future cancels the call.
    fn call(&self, call: BusCall) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

    /// Lets open calls end, then stops.
    fn stop(&self);

    /// Adds to the policy; blocks.
    fn add_capability(&self, capability: AddedCapability) -> crate::Result<()>;
}

/// A call that a command makes.
#[derive(Debug)]
pub(crate) struct BusCall {
    /// Whose rights it has; the daemon's own if nobody's.
    pub(crate) caller: Option<PeerId>,
    pub(crate) command: Text,
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) message: Message,
    pub(crate) deadline: Option<Instant>,
    pub(crate) depth: u8,
    /// For whom it is made, besides whose rights it has.
    pub(crate) behalf: Arc<[PeerId]>,
    /// The stream of the call whose command makes it, if one does.
    pub(crate) parent: Option<u64>,
}

/// The call whose command holds a handle.
#[derive(Debug)]
pub(crate) struct Calling {
    pub(crate) peer: Arc<Peer>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) depth: u8,
    /// For whom it is made, besides its peer.
    pub(crate) behalf: Arc<[PeerId]>,
    pub(crate) stream: u64,
    pub(crate) cancellation: CancellationToken,
}

/// Whose rights a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Daemon,
    Caller,
}

/// A call that a command, or other code of the daemon, makes; [`AppHandle::call`] begins one.
///
/// It is authorized as any other call. In a command it ends no later than the command's own call does: at its
/// deadline, or when its caller cancels or leaves. Calls nest 16 deep.
#[must_use = "a call is made by `send`"]
pub struct AppCall<'a, R: Runtime> {
    app: &'a AppHandle<R>,
    rights: Rights,
    command: Text,
    headers: Vec<HeaderField>,
    message: Message,
    timeout: Option<Duration>,
}

impl<R: Runtime> fmt::Debug for AppCall<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppCall").field("command", &self.command).field("rights", &self.rights).finish()
    }
}

impl<R: Runtime> AppHandle<R> {
    /// Begins a call of another command, by its name (`fs.read_file`, or Tauri's `plugin:fs|read_file`), with the daemon's own
    /// rights: what the policy grants the daemon's uid.
    ///
    /// ```
    /// use invoked::AppHandle;
    /// use invoked::ipc::CallError;
    ///
    /// #[invoked::command]
    /// async fn first_line(path: String, app: AppHandle) -> Result<String, CallError> {
    ///     // With the rights of whoever called this one, not with the daemon's.
    ///     let call = app.call("fs.read_file").for_caller()?;
    ///     let reply = call.args(&serde_json::json!({ "path": path }))?.send().await?;
    ///     let text = String::from_utf8_lossy(reply.as_body().bytes()).into_owned();
    ///     Ok(text.lines().next().unwrap_or_default().to_owned())
    /// }
    /// # let _handler = invoked::generate_handler![first_line];
    /// ```
    pub fn call(&self, command: impl Into<String>) -> AppCall<'_, R> {
        AppCall {
            app: self,
            rights: Rights::Daemon,
            command: Text::from(&*canonical(&command.into())),
            headers: Vec::new(),
            message: Message::default(),
            timeout: None,
        }
    }

    /// Calls another command with the daemon's own rights, and reads its result. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The command's, or the framework's; `internal` if the result is not a `T`.
    pub async fn invoke<T: DeserializeOwned>(
        &self,
        command: impl Into<String>,
        args: &(impl Serialize + ?Sized),
    ) -> Result<T, CallError> {
        let command = command.into();
        let reply = self.call(command.clone()).args(args)?.send().await?;
        serde_json::from_slice(reply.as_body().bytes()).map_err(|error| {
            let text = format!("the result of {command} is not what was expected: {error}");
            Fault::new(ErrorCode::Internal, text).into()
        })
    }

    /// The same handle, belonging to no call: for a task that outlives the command. Its calls end at deadlines of their own.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.with_calling(None)
    }
}

impl<R: Runtime> AppCall<'_, R> {
    /// Gives it the rights of whoever called the command that holds this handle, and no others. It counts as a call of
    /// theirs, and the command sees them as its caller.
    ///
    /// # Errors
    /// `internal` if the handle belongs to no call: it is a setup hook's, or detached.
    pub fn for_caller(mut self) -> Result<Self, Fault> {
        if self.app.calling().is_none() {
            let text =
                format!("{}: the handle belongs to no call, so there is no caller", self.command.as_str());
            return Err(Fault::new(ErrorCode::Internal, text));
        }
        self.rights = Rights::Caller;
        Ok(self)
    }

    /// Sets the arguments.
    ///
    /// # Errors
    /// `internal` if they can not be written as JSON.
    pub fn args<T: Serialize + ?Sized>(mut self, args: &T) -> Result<Self, Fault> {
        let json = serde_json::to_vec(args).map_err(|error| {
            let text =
                format!("the arguments of {} can not be written as JSON: {error}", self.command.as_str());
            Fault::new(ErrorCode::Internal, text)
        })?;
        self.message.body = Body::Json(json.into());
        Ok(self)
    }

    /// Sets a raw body.
    pub fn raw(mut self, bytes: impl Into<Bytes>) -> Self {
        self.message.body = Body::Raw(bytes.into());
        self
    }

    /// Adds an attachment.
    pub fn attach(mut self, bytes: impl Into<Bytes>) -> Self {
        self.message.attachments.push(bytes.into());
        self
    }

    /// Adds a header; the key must be lower case.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((Text::from(key.into()), Text::from(value.into())));
        self
    }

    /// Gives up after this long, if the command's own call leaves it so much.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The command's, or the framework's.
    pub async fn send(self) -> Outcome {
        let calling = self.app.calling().cloned();
        let Some(bus) = self.app.bus() else {
            return Err(Fault::refusal(ErrorCode::Unavailable, "the daemon does not run yet").into());
        };
        let own = self.timeout.map(|timeout| Instant::now() + timeout);
        let inherited = calling.as_ref().and_then(|calling| calling.deadline);
        let behalf = match (self.rights, &calling) {
            (Rights::Caller, Some(calling)) => Arc::clone(&calling.behalf),
            _ => Arc::default(),
        };
        let call = BusCall {
            behalf,
            caller: match self.rights {
                Rights::Daemon => None,
                Rights::Caller => calling.as_ref().map(|calling| calling.peer.id),
            },
            command: self.command,
            headers: self.headers,
            message: self.message,
            deadline: [own, inherited].into_iter().flatten().min(),
            depth: calling.as_ref().map_or(0, |calling| calling.depth.saturating_add(1)),
            parent: calling.as_ref().map(|calling| calling.stream),
        };
        let Some(calling) = calling else { return bus.call(call).await };
        tokio::select! {
            biased;
            () = calling.cancellation.cancelled() => {
                let text = "the call that this one was made for has ended";
                Err(Fault::midway(ErrorCode::Cancelled, text).into())
            }
            outcome = bus.call(call) => outcome,
        }
    }
}
