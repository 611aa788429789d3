//! The two kinds of errors a call can end with: the application's own, and the framework's. They never mix.

use std::sync::Arc;
use std::time::Duration;

use invoked_proto::body::{Body, Message};
use invoked_proto::registry::{Delivery, ErrorCode};
use serde::Serialize;

use crate::authority::ScopeRefusal;

/// What a command or one of its arguments refuses with: the application's own error, a JSON or raw body with attachments,
/// whose meaning only the command's author and its callers know. On the wire it has code 0.
///
/// One that is made of a [`Fault`] is the framework's and stays so, with its code; the two never mix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvokeError(CallError);

impl InvokeError {
    /// An error whose body is `value` as JSON.
    ///
    /// A value that can not be written as JSON (a map with keys that are no strings, say) gives its serializer's text
    /// as a JSON string, so that an error is never lost to an error.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Self {
        let json = serde_json::to_vec(value)
            .unwrap_or_else(|error| serde_json::Value::from(error.to_string()).to_string().into_bytes());
        ApplicationError { message: Body::Json(json.into()).into() }.into()
    }

    /// An error whose body is raw bytes.
    #[must_use]
    pub fn raw(bytes: impl Into<bytes::Bytes>) -> Self {
        ApplicationError { message: Body::Raw(bytes.into()).into() }.into()
    }

    pub(crate) fn of_message(message: Message) -> Self {
        ApplicationError { message }.into()
    }

    /// An error whose body is the text of `error`, as a JSON string.
    pub fn from_error<E: std::error::Error>(error: E) -> Self {
        InvokeError::json(&error.to_string())
    }

    /// An error whose body is the text of `error` with its causes, as a JSON string. For `anyhow::Error` and its like.
    pub fn from_anyhow(error: impl std::fmt::Display) -> Self {
        InvokeError::json(&format!("{error:#}"))
    }

    /// Adds a raw attachment to an error of the application's; one of the framework's has none and stays as it is.
    #[must_use]
    pub fn attach(mut self, bytes: impl Into<bytes::Bytes>) -> Self {
        if let CallError::Application(error) = &mut self.0 {
            error.message.attachments.push(bytes.into());
        }
        self
    }

    /// The body of an error of the application's.
    #[must_use]
    pub fn body(&self) -> Option<&Body> {
        match &self.0 {
            CallError::Application(error) => Some(error.body()),
            CallError::Framework(_) => None,
        }
    }

    /// The framework's error, if it is one.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match &self.0 {
            CallError::Application(_) => None,
            CallError::Framework(fault) => Some(fault),
        }
    }
}

impl From<Fault> for InvokeError {
    fn from(fault: Fault) -> Self {
        InvokeError(CallError::Framework(fault))
    }
}

impl From<ApplicationError> for InvokeError {
    fn from(error: ApplicationError) -> Self {
        InvokeError(CallError::Application(error))
    }
}

impl From<crate::Error> for InvokeError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Fault(fault) => fault.into(),
            crate::Error::Channel(error) => error.into(),
            other => InvokeError::from_error(other),
        }
    }
}

impl<T: Serialize> From<T> for InvokeError {
    fn from(value: T) -> Self {
        InvokeError::json(&value)
    }
}

/// The application's own error, as it goes to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationError {
    message: Message,
}

impl ApplicationError {
    /// Its body.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.message.body
    }

    /// Its raw attachments.
    #[must_use]
    pub fn attachments(&self) -> &[bytes::Bytes] {
        &self.message.attachments
    }

    pub(crate) fn into_message(self) -> Message {
        self.message
    }
}

/// An error of the framework: a code that all clients know, and a text for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    /// What went wrong.
    pub code: ErrorCode,
    /// Why, for people; it names the argument, the limit or the next step.
    pub message: String,
    /// Whether the command may have had an effect: a client re-sends on its own only what was not delivered.
    pub delivery: Delivery,
    /// Id of the authorization decision, if it was one. The daemon gives it on the way to the caller.
    pub decision: Option<String>,
    /// When the same call may succeed, if that is known; callers are told in milliseconds.
    pub retry_after: Option<Duration>,
    /// What the operator is told.
    pub(super) refused: Refused,
}

/// Equal to itself only: what it keeps has no other equality.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Option<Arc<ScopeRefusal>>);

impl PartialEq for Refused {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Refused {}

impl Fault {
    /// A fault of a command that ran to its end.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (message, refused) = (message.into(), Refused::default());
        Fault { code, message, delivery: Delivery::Completed, decision: None, retry_after: None, refused }
    }

    /// A refusal before the command had any effect: its arguments are wrong, a scope forbids them, there is no room.
    pub fn refusal(code: ErrorCode, message: impl Into<String>) -> Self {
        Fault { delivery: Delivery::NotDelivered, ..Fault::new(code, message) }
    }

    /// The same fault, with how long to wait before the call is tried again.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        Fault { retry_after: Some(retry_after), ..self }
    }

    /// A denial, because scopes refuse an argument. `message` is all that the caller learns; the daemon explains `refusal` in
    /// the operator's log, and gives the denial its id.
    pub fn scope_refusal(refusal: ScopeRefusal, message: impl Into<String>) -> Self {
        let refused = Refused(Some(Arc::new(refusal)));
        Fault { refused, ..Fault::refusal(ErrorCode::PermissionDenied, message) }
    }

    /// What the operator is to be told of this denial.
    pub(crate) fn scope_refused(&self) -> Option<&Arc<ScopeRefusal>> {
        self.refused.0.as_ref()
    }

    /// A fault after which nobody knows how far the command came.
    pub fn midway(code: ErrorCode, message: impl Into<String>) -> Self {
        Fault { delivery: Delivery::Delivered, ..Fault::new(code, message) }
    }
}

/// What a call can end with instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The application's own error.
    Application(ApplicationError),
    /// The framework's.
    Framework(Fault),
}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        CallError::Framework(fault)
    }
}

impl From<InvokeError> for CallError {
    fn from(error: InvokeError) -> Self {
        error.0
    }
}
