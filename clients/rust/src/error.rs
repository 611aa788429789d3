//! The one error of this crate.
//!
//! It owns what a caller can ask of a failure. It decides nothing: codes and verdicts come from the daemon, or from the
//! part of the client that saw the failure.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use invoked_proto::Text;
use invoked_proto::body::{Body, Message};
use invoked_proto::error::MisuseError;
use invoked_proto::metadata::Failure;
use invoked_proto::registry::{Delivery, ErrorCode};
use serde::de::DeserializeOwned;

use crate::core::Loss;

/// What an application's JSON error may take of a message for people.
const SHOWN_JSON: usize = 300;

/// Why a call, or connecting, failed.
///
/// One opaque type with questions instead of variants, so that new causes break no caller. [`code`](Self::code) is the
/// code of SPEC.md, "Errors"; [`delivery`](Self::delivery) says whether the command may have run, which is what decides
/// whether it is safe to call again.
pub struct Error(Box<Inner>);

/// Whether trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    MayHelp,
    Useless,
}

type Source = Arc<dyn StdError + Send + Sync>;

#[derive(Debug, Clone)]
struct Inner {
    code: Option<ErrorCode>,
    message: String,
    delivery: Delivery,
    retryable: bool,
    retry_after: Option<Duration>,
    decision: Option<Text>,
    payload: Message,
    /// Whether the connection that the call was made on is gone.
    loss: bool,
    source: Option<Source>,
}

impl Error {
    /// The code, or `None` if the call succeeded and only its result is not what the caller expected.
    ///
    /// Codes that the client itself gives: `unavailable` (no connection, or it was lost), `deadline_exceeded`,
    /// `invalid_argument` (arguments that can't be written), `too_large`.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// True if no grant allows the call, or a denial forbids it.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.0.code == Some(ErrorCode::PermissionDenied)
    }

    /// True if the daemon, or the provider of the command, is not there or went away.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.0.code == Some(ErrorCode::Unavailable)
    }

    /// True if the deadline passed first, whoever noticed.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        self.0.code == Some(ErrorCode::DeadlineExceeded)
    }

    /// True if the call was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.code == Some(ErrorCode::Cancelled)
    }

    /// True if the command itself failed; [`body`](Self::body) and [`json`](Self::json) are its own words.
    #[must_use]
    pub fn is_application(&self) -> bool {
        self.0.code == Some(ErrorCode::Application)
    }

    /// True if the command is unknown to the daemon, or hidden from this caller.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.0.code == Some(ErrorCode::NotFound)
    }

    /// Whether the command ran: not at all, perhaps, or to its end.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.0.delivery
    }

    /// Whether the same call may succeed later. It says nothing about safety: see [`delivery`](Self::delivery).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// How long the daemon asks to wait before trying again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The id of the authorization decision, for `invokectl explain`.
    #[must_use]
    pub fn decision(&self) -> Option<&str> {
        self.0.decision.as_deref()
    }

    /// What went wrong, for people, without the code.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The body of the application's own error.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.0.payload.body
    }

    /// The attachments of the application's own error.
    #[must_use]
    pub fn attachments(&self) -> &[bytes::Bytes] {
        &self.0.payload.attachments
    }

    /// The application's own error, read from its JSON; `None` if there is none or it is something else.
    #[must_use]
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        match self.body() {
            Body::Json(json) => serde_json::from_slice(json).ok(),
            Body::None | Body::Raw(_) => None,
        }
    }

    /// Whether the connection is gone, rather than only the call.
    pub(crate) fn is_loss(&self) -> bool {
        self.0.loss
    }

    /// The error that the daemon answered with.
    pub(crate) fn answered(code: ErrorCode, failure: &Failure, payload: Message) -> Self {
        let mut error = Self::new(Some(code), failure.message.to_string(), failure.delivery);
        error.0.retryable = failure.retryable;
        error.0.retry_after = failure.retry_after_ms.map(Duration::from_millis);
        error.0.decision = failure.decision.as_ref().map(Text::detach);
        error.0.payload = payload;
        error
    }

    /// The connection is gone, or takes no calls.
    pub(crate) fn lost(loss: &Loss, delivery: Delivery) -> Self {
        let mut error = Self::new(Some(ErrorCode::Unavailable), loss.to_string(), delivery);
        error.0.loss = true;
        error.0.source = loss.cause();
        error
    }

    /// The daemon turned the connection away: with its own code, where it gave one.
    pub(crate) fn turned_away(loss: &Loss) -> Self {
        let mut error = Self::lost(loss, Delivery::NotDelivered);
        let code = loss.code().unwrap_or(ErrorCode::Unavailable);
        error.0.code = Some(code);
        error.0.retryable = code.is_retryable();
        error
    }

    /// There is no connection, and `message` says why. It may work later if whatever is amiss can pass by itself.
    pub(crate) fn no_connection(message: String, retry: Retry, source: Option<io::Error>) -> Self {
        let mut error = Self::new(Some(ErrorCode::Unavailable), message, Delivery::NotDelivered);
        error.0.retryable = retry == Retry::MayHelp;
        error.0.source = source.map(|source| Arc::new(source) as Source);
        error
    }

    pub(crate) fn deadline(delivery: Delivery) -> Self {
        let message = match delivery {
            Delivery::NotDelivered => "the deadline passed before the call was sent",
            Delivery::Delivered | Delivery::Completed => "the deadline passed before an answer came",
        };
        Self::new(Some(ErrorCode::DeadlineExceeded), message.to_owned(), delivery)
    }

    /// The caller asked for what can't be sent.
    pub(crate) fn misuse(error: MisuseError) -> Self {
        Self::new(Some(error.wire_code()), "the call can't be sent".to_owned(), Delivery::NotDelivered)
            .with_source(error)
    }

    /// A call was built wrongly.
    pub(crate) fn argument(message: String) -> Self {
        Self::new(Some(ErrorCode::InvalidArgument), message, Delivery::NotDelivered)
    }

    /// A value could not be written as JSON.
    pub(crate) fn unwritable(what: &str, source: serde_json::Error) -> Self {
        Self::argument(format!("{what} can't be written as json")).with_source(source)
    }

    /// The result came, and is not what the caller expected.
    pub(crate) fn unexpected_result(message: String) -> Self {
        Self::new(None, message, Delivery::Completed)
    }

    /// The result came, and does not fit the caller's type.
    pub(crate) fn unreadable(source: serde_json::Error) -> Self {
        Self::unexpected_result("the result does not fit the type that was asked for".to_owned())
            .with_source(source)
    }

    /// The result is larger than this client takes.
    pub(crate) fn result_too_large(len: u64, max: u64) -> Self {
        let message = format!("the result of {len} bytes is above this client's limit of {max}");
        Self::new(Some(ErrorCode::TooLarge), message, Delivery::Completed)
    }

    /// A channel has ended badly.
    pub(crate) fn channel_ended(code: ErrorCode, message: &str) -> Self {
        Self::new(Some(code), message.to_owned(), Delivery::Delivered)
    }

    /// No item came in time.
    pub(crate) fn no_item() -> Self {
        let message = "no item came in time".to_owned();
        Self::new(Some(ErrorCode::DeadlineExceeded), message, Delivery::Delivered)
    }

    fn new(code: Option<ErrorCode>, message: String, delivery: Delivery) -> Self {
        Error(Box::new(Inner {
            code,
            message,
            delivery,
            retryable: code.is_some_and(ErrorCode::is_retryable),
            retry_after: None,
            decision: None,
            payload: Message::default(),
            loss: false,
            source: None,
        }))
    }

    pub(crate) fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.0.delivery = delivery;
        self
    }

    /// The same once more, for who asks again.
    pub(crate) fn copy(&self) -> Self {
        Error(self.0.clone())
    }

    fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message();
        match self.0.code {
            None => f.write_str(message),
            Some(ErrorCode::Application) if message.is_empty() => show_application(self.body(), f),
            Some(code) if message.is_empty() => write!(f, "{code}"),
            Some(code) => write!(f, "{code}: {message}"),
        }
    }
}

/// An application's error has no message of the framework: its body is the message.
fn show_application(body: &Body, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match body {
        Body::None => f.write_str("the command failed"),
        Body::Raw(bytes) => write!(f, "the command failed with {} bytes", bytes.len()),
        Body::Json(json) => match serde_json::from_slice::<String>(json) {
            Ok(text) => write!(f, "the command failed: {text}"),
            Err(_) => {
                let shown = &json[..json.len().min(SHOWN_JSON)];
                let cut = if shown.len() < json.len() { "…" } else { "" };
                write!(f, "the command failed: {}{cut}", String::from_utf8_lossy(shown))
            }
        },
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        let mut shown = f.debug_struct("Error");
        shown.field("code", &inner.code).field("message", &inner.message).field("delivery", &inner.delivery);
        if let Some(decision) = &inner.decision {
            shown.field("decision", decision);
        }
        if !inner.payload.is_empty() {
            shown.field("body", &inner.payload.body);
        }
        if let Some(source) = &inner.source {
            shown.field("source", source);
        }
        shown.finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use bytes::Bytes;
    use invoked_proto::body::{Body, Message};
    use invoked_proto::error::PeerError;
    use invoked_proto::metadata::Failure;
    use invoked_proto::registry::{Delivery, ErrorCode};

    use super::Error;
    use crate::core::Loss;

    fn application(body: Body) -> Error {
        let failure = Failure::framework(ErrorCode::Application, "", Delivery::Completed);
        Error::answered(ErrorCode::Application, &failure, Message::from(body))
    }

    #[test]
    fn an_application_s_error_speaks_for_itself() {
        let error = application(Body::Json(Bytes::from_static(b"\"no such photo\"")));
        assert_eq!(error.to_string(), "the command failed: no such photo");
        assert_eq!(error.json::<String>().as_deref(), Some("no such photo"));
        let error = application(Body::Json(Bytes::from_static(b"{\"kind\":7}")));
        assert_eq!(error.to_string(), "the command failed: {\"kind\":7}");
        assert!(error.json::<String>().is_none() && error.is_application());
        let long = application(Body::Json(Bytes::from(vec![b'1'; 5000])));
        assert!(long.to_string().ends_with('…') && long.to_string().len() < 400);
        assert_eq!(
            application(Body::Raw(Bytes::from_static(b"abc"))).to_string(),
            "the command failed with 3 bytes"
        );
    }

    #[test]
    fn what_the_daemon_said_is_kept() {
        let failure = Failure {
            retry_after_ms: Some(250),
            decision: Some("d-17".into()),
            ..Failure::framework(ErrorCode::PermissionDenied, "no grant", Delivery::NotDelivered)
        };
        let error = Error::answered(ErrorCode::PermissionDenied, &failure, Message::default());
        assert!(error.is_permission_denied() && !error.is_retryable());
        assert_eq!(error.retry_after().map(|after| after.as_millis()), Some(250));
        assert_eq!(error.decision(), Some("d-17"));
        assert_eq!(error.to_string(), "permission_denied: no grant");
    }

    #[test]
    fn a_loss_names_its_cause_once() {
        let error = Error::lost(&Loss::Protocol(PeerError::MessageLength), Delivery::Delivered);
        assert!(error.is_unavailable() && error.is_retryable());
        let cause = error.source().expect("a cause").to_string();
        assert_eq!(cause, PeerError::MessageLength.to_string());
        assert!(!error.to_string().contains(&cause));
    }
}
