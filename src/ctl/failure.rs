//! How a command of the tool ends when it does not end well.
//!
//! It owns exit codes and both forms of an error, for people and for programs; docs/invokectl.md is its contract.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use invoked_client::{Body, Error, ErrorCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::delivery::{kept_lines, kept_objects, raw};
use super::json::{Layout, layout, printable};
use super::output::Output;
use crate::provider::ProvideError;

/// Exit code of a command line that says nothing sensible.
const USAGE: u8 = 2;

/// Exit code when this machine, not the daemon, refused something.
const LOCAL: u8 = 10;

/// Why a command of the tool failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, or what it names, is wrong.
    #[error("{0}")]
    Usage(String),
    /// The daemon, the command, or the connection.
    #[error("{error}")]
    Call {
        /// What the client says.
        error: Box<Error>,
        /// What to do about it.
        hint: Option<String>,
        /// Where its attachments were saved, each one if it was.
        kept: Vec<Option<PathBuf>>,
    },
    /// Nothing is provided, or no more.
    #[error("{0}")]
    Provide(#[from] ProvideError),
    /// This machine refused something.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// What was looked at is not as it should be; everything has been said.
    #[error("something is not as it should be")]
    Told,
    /// What was asked about is denied; everything has been said.
    #[error("it is denied")]
    Denied,
    /// A signal ended it.
    #[error("interrupted")]
    Interrupted {
        /// The exit code of the signal.
        exit: u8,
        /// How the call that it cancelled ended.
        error: Option<Box<Error>>,
    },
    /// Nobody reads the output any more, and that is their right.
    #[error("the output is closed")]
    Closed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Call { error: Box::new(error), hint: None, kept: Vec::new() }
    }
}

impl Failure {
    /// An error of a command that operators may call; to others it says who these are.
    pub(super) fn for_operators(error: Error, hint: Option<String>) -> Self {
        let whose = "this is for who operates the daemon: root, its own user, or holders of core:operate";
        let hint = if error.is_permission_denied() { Some(whose.to_owned()) } else { hint };
        Failure::Call { error: Box::new(error), hint, kept: Vec::new() }
    }

    /// For `map_err`: this machine refused `what`.
    pub(crate) fn local(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Failure::Local { what, source }
    }

    /// For `map_err` of writing to standard output.
    pub(crate) fn output(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Local { what: "can't write to standard output".to_owned(), source },
        }
    }

    /// Tells it on standard error and gives the exit code.
    pub(crate) fn report(&self, output: &Output) -> ExitCode {
        let mut text = if output.is_json() { self.line() } else { self.text() };
        if let (Failure::Call { error, kept, .. }, Some(text)) = (self, &mut text)
            && !output.is_json()
            && !output.is_quiet()
        {
            text.extend(printable(&kept_lines(error.attachments(), kept)).into_bytes());
        }
        self.tell(text)
    }

    /// The same for a program, before any flag is known.
    pub(crate) fn report_line(&self) -> ExitCode {
        self.tell(self.line())
    }

    fn tell(&self, text: Option<Vec<u8>>) -> ExitCode {
        if let Some(text) = text {
            // Nobody is left to be told when standard error is gone.
            drop(io::stderr().lock().write_all(&text));
        }
        ExitCode::from(self.exit_code())
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Call { error, .. } => error.code().map_or(LOCAL, ErrorCode::exit_code),
            Failure::Provide(error) => error.code().map_or(LOCAL, ErrorCode::exit_code),
            Failure::Local { .. } => LOCAL,
            Failure::Told => 1,
            Failure::Denied => ErrorCode::PermissionDenied.exit_code(),
            Failure::Interrupted { exit, .. } => *exit,
            Failure::Closed => 0,
        }
    }

    /// For programs: one object on one line.
    fn line(&self) -> Option<Vec<u8>> {
        let line = match self {
            Failure::Told | Failure::Denied | Failure::Closed | Failure::Interrupted { error: None, .. } => {
                return None;
            }
            Failure::Interrupted { error: Some(error), .. } => error_line(error, None, &[]),
            Failure::Usage(message) => {
                json!({ "error": { "code": "usage", "message": message } }).to_string()
            }
            Failure::Local { .. } => {
                json!({ "error": { "code": "local", "message": self.to_string() } }).to_string()
            }
            Failure::Provide(error) => {
                let code = error.code().map_or("local", ErrorCode::name);
                json!({ "error": { "code": code, "message": self.to_string() } }).to_string()
            }
            Failure::Call { error, hint, kept } => error_line(error, hint.as_deref(), kept),
        };
        Some(format!("{line}\n").into_bytes())
    }

    /// For people.
    fn text(&self) -> Option<Vec<u8>> {
        match self {
            // Who pressed Ctrl-C knows.
            Failure::Told | Failure::Denied | Failure::Closed | Failure::Interrupted { .. } => None,
            Failure::Call { error, .. } if error.is_application() => Some(own_words(error)),
            Failure::Call { error, hint, .. } => {
                let mut text = format!("error: {error}{}\n", cause(error));
                let mut facts = vec![format!("delivery: {}", error.delivery())];
                facts.extend(error.decision().map(|id| format!("decision: {id}")));
                facts.extend(
                    error.retry_after().map(|after| format!("retry after: {} ms", after.as_millis())),
                );
                text.push_str(&format!("  {}\n", facts.join(" · ")));
                if let Some(hint) = hint {
                    text.push_str(&format!("  hint: {hint}\n"));
                }
                Some(printable(&text).into_bytes())
            }
            other => Some(printable(&format!("error: {other}\n")).into_bytes()),
        }
    }
}

/// An error of a call, for programs.
fn error_line(error: &Error, hint: Option<&str>, kept: &[Option<PathBuf>]) -> String {
    let object = serde_json::to_string(&ErrorObject::new(error, hint, kept));
    format!("{{\"error\":{}}}", object.expect("text and numbers can be written as json"))
}

/// The sources of an error, where its own text does not have them yet.
fn cause(error: &Error) -> String {
    let shown = error.to_string();
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !shown.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// The object behind `error`, for programs.
#[derive(Debug, Serialize)]
struct ErrorObject<'a> {
    code: &'a str,
    message: String,
    delivery: &'a str,
    decision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl<'a> ErrorObject<'a> {
    fn new(error: &'a Error, hint: Option<&'a str>, kept: &[Option<PathBuf>]) -> Self {
        let message = if error.is_application() && error.message().is_empty() {
            error.to_string()
        } else {
            format!("{}{}", error.message(), cause(error))
        };
        ErrorObject {
            code: error.code().map_or("unexpected_result", ErrorCode::name),
            message,
            delivery: error.delivery().name(),
            decision: error.decision(),
            body: error.json(),
            raw: match error.body() {
                Body::Raw(bytes) => Some(raw(bytes)),
                Body::Json(_) | Body::None => None,
            },
            attachments: kept_objects(error.attachments(), kept),
            retry_after_ms: error
                .retry_after()
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            hint,
        }
    }
}

/// The application's own error as it stands, so that programs can read it.
fn own_words(error: &Error) -> Vec<u8> {
    let is_terminal = io::stderr().is_terminal();
    match error.body() {
        Body::Json(json) => {
            let style = if is_terminal { Layout::Indented } else { Layout::Compact };
            let mut text = layout(json, style);
            text.push(b'\n');
            text
        }
        Body::Raw(bytes) if !is_terminal => bytes.to_vec(),
        Body::Raw(_) | Body::None => format!("error: {error}\n").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn a_reader_that_left_is_no_error() {
        let closed = Failure::output(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!((closed.exit_code(), closed.text(), closed.line()), (0, None, None));
        let full = Failure::output(std::io::ErrorKind::StorageFull.into());
        assert_eq!(full.exit_code(), 10);
    }

    #[test]
    fn usage_has_both_forms() {
        let usage = Failure::Usage("no".to_owned());
        assert_eq!(usage.exit_code(), 2);
        assert_eq!(usage.text().as_deref(), Some(&b"error: no\n"[..]));
        let line = br#"{"error":{"code":"usage","message":"no"}}"#;
        assert_eq!(usage.line().as_deref(), Some(&[&line[..], b"\n"].concat()[..]));
    }
}
