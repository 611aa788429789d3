//! What a command gives back.

use std::any::Any;

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::body::{Body, Message};
use invoked_proto::metadata::HeaderField;
use invoked_proto::registry::ErrorCode;
use serde::Serialize;

use super::error::{CallError, Fault};

/// How a call ends at its handler.
pub type Outcome = Result<Response, CallError>;

/// Tauri's name of [`Outcome`].
pub type InvokeResponse = Outcome;

/// A reply: a body, raw attachments, headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) message: Message,
}

impl Response {
    /// A raw reply. The bytes are not copied.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Body::Raw(bytes.into()).into()
    }

    /// A reply with `value` as JSON.
    ///
    /// # Errors
    /// `internal` if the value can not be written as JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Fault> {
        let json = serde_json::to_vec(value).map_err(|error| {
            Fault::new(ErrorCode::Internal, format!("the result can not be written as JSON: {error}"))
        })?;
        Ok(Body::Json(json.into()).into())
    }

    /// Adds a raw attachment. The bytes are not copied.
    #[must_use]
    pub fn attach(mut self, bytes: impl Into<Bytes>) -> Self {
        self.message.attachments.push(bytes.into());
        self
    }

    /// Adds a header; the key must be lower case (SPEC.md, "Headers").
    #[must_use]
    pub fn header(mut self, key: impl Into<Text>, value: impl Into<Text>) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.message.body
    }
}

impl From<Body> for Response {
    fn from(body: Body) -> Self {
        Response { headers: Vec::new(), message: body.into() }
    }
}

/// What a command may return.
///
/// `Vec<u8>`, [`Bytes`] and `&[u8]` travel raw, never as a JSON array of numbers; everything else that is `Serialize` travels as
/// JSON; a [`Response`] says for itself. A command may also return a `Result` of these; `#[command]` takes it apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can not be the result of a command",
    label = "the command returns a `{Self}`",
    note = "derive `serde::Serialize` for it, or return an `invoked::ipc::Response`"
)]
pub trait IpcResponse {
    /// The reply.
    ///
    /// # Errors
    /// `internal` if the value can not be written.
    fn into_response(self) -> Result<Response, Fault>;
}

impl IpcResponse for Response {
    fn into_response(self) -> Result<Response, Fault> {
        Ok(self)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + 'static> IpcResponse for T {
    fn into_response(self) -> Result<Response, Fault> {
        // These types are Serialize too, and would become arrays of numbers; the compiler resolves the tests.
        let mut value = Some(self);
        let any: &mut dyn Any = &mut value;
        if let Some(bytes) = any.downcast_mut::<Option<Vec<u8>>>().and_then(Option::take) {
            return Ok(Response::new(bytes));
        }
        if let Some(bytes) = any.downcast_mut::<Option<Bytes>>().and_then(Option::take) {
            return Ok(Response::new(bytes));
        }
        if let Some(bytes) = any.downcast_mut::<Option<&'static [u8]>>().and_then(Option::take) {
            return Ok(Response::new(bytes));
        }
        Response::json(&value)
    }
}
