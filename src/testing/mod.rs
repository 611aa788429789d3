//! Commands under test: an application without a socket, and peers of any identity that call it.
//!
//! Everything but the socket is the daemon's own: frames, credit, the broker, the authority, the runner. So a test sees
//! what a caller would: denials, limits, deadlines, raw bodies, channels.
//!
//! ```
//! use invoked::testing::{InvokeRequest, assert_ipc_response, mock_app, mock_builder};
//!
//! #[invoked::command]
//! fn greet(name: &str) -> Result<String, String> {
//!     if name.is_empty() { Err("nobody".to_owned()) } else { Ok(format!("Hello, {name}!")) }
//! }
//!
//! let app = mock_app(mock_builder().invoke_handler(invoked::generate_handler![greet]))?;
//! let ann = app.user(1000);
//! let request = |name: &str| InvokeRequest::new("greet").args(&serde_json::json!({ "name": name }));
//! assert_ipc_response(&ann, request("Ann"), Ok("Hello, Ann!"));
//! assert_ipc_response(&ann, request(""), Err("nobody"));
//! # Ok::<(), invoked::BuildError>(())
//! ```
//!
//! With a policy, and peers whom it treats differently:
//!
//! ```
//! use invoked::ipc::ErrorCode;
//! use invoked::testing::{InvokeRequest, MockApp, assert_ipc_fault, assert_ipc_response, mock_builder};
//!
//! #[invoked::command]
//! fn secret() -> u8 { 42 }
//!
//! let app = MockApp::new(mock_builder().invoke_handler(invoked::generate_handler![secret]))?;
//! app.add_capability(
//!     "identifier = 'ops'
//!      peers = ['gid:20', 'uid:1000']
//!      permissions = ['allow-secret']",
//! )?;
//! assert_ipc_response(&app.user(1000), InvokeRequest::new("secret"), Ok(42));
//! assert_ipc_fault(&app.user(1001), InvokeRequest::new("secret"), ErrorCode::PermissionDenied);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod peer;
mod request;

use std::fmt::Debug;

use invoked_proto::name::CommandName;
use serde::Serialize;
use serde_json::Value;

pub use peer::{MockCall, MockPeer};
pub use request::InvokeRequest;

use crate::app::AppHandle;
use crate::authority::{CapabilityBuilder, PeerFacts, PluginManifest, RuntimeCapability};
use crate::builder::Builder;
use crate::context::Context;
use crate::daemon::{ChangeError, DaemonHandle, Running};
use crate::error::BuildError;
use crate::ipc::{CallError, ErrorCode, Fault, InvokeError, InvokeResponse, Wry};

/// The runtime of a [`MockApp`]: the one that there is.
pub type MockRuntime = Wry;

/// A builder for an application under test.
pub fn mock_builder() -> Builder<MockRuntime> {
    Builder::default()
}

/// A context for an application under test.
pub fn mock_context() -> Context<MockRuntime> {
    Context::new("org.example.test", "0.0.0")
}

/// Builds and starts an application of which every peer may call every command.
///
/// A command that looks at scopes gets what a grant without a scope gives: of `fs`, nothing.
///
/// # Errors
/// What is wrong with the builder.
pub fn mock_app(builder: Builder<MockRuntime>) -> Result<MockApp, BuildError> {
    let app = MockApp::start(builder)?;
    let everything = CapabilityBuilder::new("everything").peer("everyone");
    let everything = app.permissions.iter().fold(everything, CapabilityBuilder::permission);
    app.add_capability(everything).map_err(|error| match error {
        ChangeError::Policy(errors) => BuildError::Policy(errors),
        other => BuildError::Commands(other.to_string()),
    })?;
    Ok(app)
}

/// An application under test. It stops when it is dropped.
#[derive(Debug)]
pub struct MockApp {
    running: Running,
    handle: AppHandle<MockRuntime>,
    /// One for each command.
    permissions: Vec<String>,
}

impl MockApp {
    /// Builds and starts an application. Nobody may call anything but what its capability files, and
    /// [`add_capability`](Self::add_capability), say; as ever, uid 0 and the test's own uid may operate it.
    ///
    /// # Errors
    /// What is wrong with the builder.
    pub fn new(builder: Builder<MockRuntime>) -> Result<Self, BuildError> {
        Self::start(builder)
    }

    fn start(builder: Builder<MockRuntime>) -> Result<Self, BuildError> {
        let (daemon, _warnings) = builder.build()?;
        let permissions = daemon.source.manifests.iter().flat_map(permissions).collect();
        let handle = daemon.app.clone();
        Ok(MockApp { running: daemon.spawn(None)?, handle, permissions })
    }

    /// The application's handle.
    #[must_use]
    pub fn handle(&self) -> &AppHandle<MockRuntime> {
        &self.handle
    }

    /// The daemon's handle, to reload and to ask the policy.
    #[must_use]
    pub fn daemon(&self) -> &DaemonHandle {
        self.running.handle()
    }

    /// Adds a capability: a [`CapabilityBuilder`], or the text of a capability file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add_capability(&self, capability: impl RuntimeCapability) -> Result<(), ChangeError> {
        self.daemon().authority().add_capability_blocking(capability).map(drop)
    }

    /// Connects a process of the user `uid`, in the group of the same number.
    ///
    /// # Panics
    /// If the application has stopped.
    #[must_use]
    pub fn user(&self, uid: u32) -> MockPeer {
        self.peer(PeerFacts::new(uid, uid, []))
    }

    /// Connects a process of whom the kernel would say this.
    ///
    /// # Panics
    /// If the application refuses the connection; [`connect`](Self::connect) tells.
    #[must_use]
    pub fn peer(&self, facts: PeerFacts) -> MockPeer {
        self.connect(facts, None).unwrap_or_else(|fault| panic!("the connection is refused: {fault}"))
    }

    /// Connects a process of whom the kernel would say this, and which keeps only the capabilities `narrow` of those it
    /// has; all of them with `None`.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub fn connect(&self, facts: PeerFacts, narrow: Option<&[&str]>) -> Result<MockPeer, Fault> {
        MockPeer::connect(self.daemon(), facts, narrow)
    }
}

/// The permission of each command of a manifest.
fn permissions(manifest: &PluginManifest) -> Vec<String> {
    let names =
        manifest.commands.iter().filter_map(|c| CommandName::new(manifest.name.as_ref(), &c.name).ok());
    names.map(|name| name.permission_allow()).collect()
}

/// Calls, and waits for the body of the answer.
///
/// # Errors
/// The command's own, or the framework's.
pub fn get_ipc_response(peer: &MockPeer, request: InvokeRequest) -> InvokeResponse {
    match peer.invoke(request) {
        Ok(response) => Ok(response.as_body().clone().into()),
        Err(CallError::Application(error)) => Err(InvokeError::from(error)),
        Err(CallError::Framework(fault)) => Err(InvokeError::from(fault)),
    }
}

/// Calls, and compares the answer, as JSON, with what is expected: a result, or the command's own error. Both are of one type,
/// so that neither has to be named where the other is given; a [`Value`] serves where they differ.
///
/// # Panics
/// If it is another one.
#[track_caller]
pub fn assert_ipc_response<T: Serialize + Debug>(
    peer: &MockPeer,
    request: InvokeRequest,
    expected: Result<T, T>,
) {
    let command = request.command().to_owned();
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_else(|_| Value::from(bytes));
    let found = match peer.invoke(request) {
        Ok(response) => Ok(json(response.as_body().bytes())),
        Err(CallError::Application(error)) => Err(json(error.body().bytes())),
        Err(CallError::Framework(fault)) => panic!("{command} fails by the framework: {fault}"),
    };
    let wanted = match &expected {
        Ok(value) => Ok(serde_json::to_value(value).expect("what is expected can be written as JSON")),
        Err(error) => Err(serde_json::to_value(error).expect("what is expected can be written as JSON")),
    };
    assert_eq!(found, wanted, "the answer of {command}");
}

/// Calls, and compares the code of the framework's error with what is expected.
///
/// # Panics
/// If the call ends in another way.
#[track_caller]
pub fn assert_ipc_fault(peer: &MockPeer, request: InvokeRequest, expected: ErrorCode) {
    let command = request.command().to_owned();
    match peer.invoke(request) {
        Err(CallError::Framework(fault)) => assert_eq!(fault.code, expected, "{command}: {fault}"),
        other => panic!("{command} does not fail by the framework: {other:?}"),
    }
}
