//! What a command gives back.

use std::fs::File;
use std::io::Seek;
use std::ops::{Deref, DerefMut};

use bytes::{Bytes, BytesMut};
use invoked_proto::Text;
use invoked_proto::body::{Body, Message};
use invoked_proto::metadata::HeaderField;
use invoked_proto::registry::ErrorCode;
use invoked_transport::Slot;
use serde::Serialize;

use super::body::InvokeResponseBody;
use super::error::{CallError, Fault, InvokeError};
use super::file::{FileBody, read_rest};
use super::lanes::{charge_file, take_slot};
use super::raw::bytes_of;

/// How a call ends at its handler.
pub type Outcome = Result<Response, CallError>;

/// How a call ends, in Tauri's form: without headers and attachments.
pub type InvokeResponse = Result<InvokeResponseBody, InvokeError>;

/// A reply: a body, raw attachments, headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) message: Message,
    /// In the place of the body, which is raw and empty then.
    pub(crate) file: Option<FileBody>,
}

impl Response {
    /// A reply with this body: bytes (`Vec<u8>`, `Bytes`, a static slice) go raw and are not copied; a `String` is JSON
    /// text, as in Tauri, and is not checked.
    #[must_use]
    pub fn new(body: impl Into<Response>) -> Self {
        body.into()
    }

    /// A raw reply with what is left to read of a file.
    ///
    /// A caller that takes files gets a large regular one as it is, open, and reads it itself: of any size, and the daemon
    /// reads none of it. It gets the whole file, for all that `file` was opened for, and sees what becomes of it: so open it
    /// for reading alone. Any other is read here.
    ///
    /// # Errors
    /// `too_large` if it is read here and more than a message may have, `internal` if it can't be read.
    pub fn from_file(mut file: &File) -> Result<Self, Fault> {
        if let Ok(offset) = file.stream_position()
            && let Some(response) = Self::open_file(file, offset, None)
        {
            return Ok(response);
        }
        read_rest(file).map(Response::from)
    }

    /// A reply that is an open file, from `offset` on, at most `len` bytes; `None` if the caller whose handler runs on this
    /// thread takes none, or not one so small.
    pub(crate) fn open_file(file: &File, offset: u64, len: Option<u64>) -> Option<Self> {
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let there = metadata.len().saturating_sub(offset);
        let len = len.map_or(there, |len| len.min(there));
        let body = FileBody::new(file, offset, len, charge_file(len)?)?;
        Some(Response { file: Some(body), ..Body::Raw(Bytes::new()).into() })
    }

    /// The message, with the bytes of a file in it.
    pub(crate) fn into_message(mut self) -> Result<Message, Fault> {
        self.read_file()?;
        Ok(self.message)
    }

    /// Reads the file after all that this is.
    pub(super) fn read_file(&mut self) -> Result<(), Fault> {
        if let Some(file) = self.file.take() {
            self.message.body = Body::Raw(file.read()?);
        }
        Ok(())
    }

    /// A raw reply of `len` bytes, to be written in place: where the caller shares memory with the daemon, a large one is
    /// written right where the caller reads it, and never copied.
    ///
    /// Write all of it: the bytes are zeros, or what an earlier reply to the same caller left there. What is written may be
    /// seen by the caller from that moment on, even if the handler ends with something else. It works on the thread, or in
    /// the future, in which the handler runs; elsewhere it is memory like any other.
    ///
    /// ```
    /// let mut buffer = invoked::ipc::Response::alloc(4);
    /// buffer[1] = 7;
    /// let response: invoked::ipc::Response = buffer.into();
    /// ```
    #[must_use]
    pub fn alloc(len: usize) -> ResponseBuffer {
        match take_slot(len) {
            Some(slot) => ResponseBuffer(Memory::Shared(slot)),
            None => ResponseBuffer(Memory::Own(BytesMut::zeroed(len))),
        }
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

    /// The body; raw and empty for an open file.
    #[must_use]
    pub fn as_body(&self) -> &Body {
        &self.message.body
    }

    /// The raw attachments.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.message.attachments
    }
}

impl From<Body> for Response {
    fn from(body: Body) -> Self {
        Response { headers: Vec::new(), message: body.into(), file: None }
    }
}

impl From<Vec<u8>> for Response {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Raw(bytes.into()).into()
    }
}

impl From<Bytes> for Response {
    fn from(bytes: Bytes) -> Self {
        Body::Raw(bytes).into()
    }
}

impl From<&'static [u8]> for Response {
    fn from(bytes: &'static [u8]) -> Self {
        Body::Raw(bytes.into()).into()
    }
}

impl<const N: usize> From<&'static [u8; N]> for Response {
    fn from(bytes: &'static [u8; N]) -> Self {
        bytes.as_slice().into()
    }
}

impl From<String> for Response {
    fn from(json: String) -> Self {
        Body::Json(json.into()).into()
    }
}

impl From<InvokeResponseBody> for Response {
    fn from(body: InvokeResponseBody) -> Self {
        Body::from(body).into()
    }
}

impl From<ResponseBuffer> for Response {
    fn from(ResponseBuffer(bytes): ResponseBuffer) -> Self {
        Body::Raw(match bytes {
            Memory::Own(bytes) => bytes.freeze(),
            Memory::Shared(slot) => Bytes::from_owner(slot),
        })
        .into()
    }
}

/// The body of a raw reply while it is written.
#[derive(Debug)]
pub struct ResponseBuffer(Memory);

#[derive(Debug)]
enum Memory {
    Own(BytesMut),
    /// Of the caller, who can only read it.
    Shared(Slot),
}

impl Deref for ResponseBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Own(bytes) => bytes,
            Memory::Shared(slot) => slot,
        }
    }
}

impl DerefMut for ResponseBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Own(bytes) => bytes,
            Memory::Shared(slot) => slot,
        }
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
pub trait IpcResponse: Sized {
    /// The body of the reply.
    ///
    /// # Errors
    /// What keeps the value from being written.
    fn body(self) -> crate::Result<InvokeResponseBody>;

    /// The whole reply, which has headers and attachments too where the type says so.
    ///
    /// # Errors
    /// `internal` if the value can not be written.
    fn into_response(self) -> Result<Response, Fault> {
        match self.body() {
            Ok(body) => Ok(body.into()),
            Err(crate::Error::Fault(fault)) => Err(fault),
            Err(error) => Err(Fault::new(ErrorCode::Internal, error.to_string())),
        }
    }
}

impl IpcResponse for Response {
    /// The body; headers and attachments are left out.
    fn body(self) -> crate::Result<InvokeResponseBody> {
        Ok(self.into_message()?.body.into())
    }

    fn into_response(self) -> Result<Response, Fault> {
        Ok(self)
    }
}

impl IpcResponse for ResponseBuffer {
    fn body(self) -> crate::Result<InvokeResponseBody> {
        Ok(InvokeResponseBody::Raw(self.to_vec()))
    }

    fn into_response(self) -> Result<Response, Fault> {
        Ok(self.into())
    }
}

impl IpcResponse for InvokeResponseBody {
    fn body(self) -> crate::Result<InvokeResponseBody> {
        Ok(self)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> IpcResponse for T {
    fn body(self) -> crate::Result<InvokeResponseBody> {
        Ok(self.into_response()?.message.body.into())
    }

    fn into_response(self) -> Result<Response, Fault> {
        // These types are Serialize too, and would become arrays of numbers.
        match bytes_of(&self) {
            Some(bytes) => Ok(bytes.into()),
            None => Response::json(&self),
        }
    }
}
