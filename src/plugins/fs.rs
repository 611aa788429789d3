//! `fs`: files that a scope allows, read with the daemon's rights.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use invoked_proto::registry::{ErrorCode, limits};
use serde::Serialize;
use serde_json::Value;

use crate::authority::{PathScope, ScopeDefault, ScopeDenial, ScopeKind, ScopeVerdict};
use crate::daemon::DaemonHandle;
use crate::error::BuildError;
use crate::ipc::{
    Argument, CallError, Command, CommandArg, CommandItem, Fault, InvokeError, InvokeMessage, Outcome,
    Response,
};
use crate::plugin::{self, Plugin};

mod located;

/// The plugin.
///
/// # Errors
/// None in practice; its name is checked as every plugin's.
pub fn plugin() -> Result<Plugin, BuildError> {
    let path = Argument { key: "path", kind: "String", optional: false };
    plugin::Builder::new("fs")
        .invoke_handler(vec![
            Command::blocking("read_file", read_file)
                .docs("Answers with the bytes of a regular file.\n\n`path` is absolute. The scopes of the grant decide on the path with its links resolved.")
                .argument(path)
                .scoped(),
        ])
        .default_permissions(&["allow-read-file"])
        .scope(ScopeKind::Path, ScopeDefault::Nothing)
        .build()
}

/// An error of the file system, as callers get it.
#[derive(Debug, Serialize)]
struct FileError {
    /// `not_found`, `permission_denied`, `busy`, `io`.
    kind: &'static str,
    message: String,
}

impl FileError {
    fn error(kind: &'static str, path: &str, text: impl std::fmt::Display) -> CallError {
        let message = format!("{path}: {text}");
        CallError::Application(InvokeError::json(&FileError { kind, message }))
    }

    fn io(path: &str, error: &std::io::Error) -> CallError {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => "not_found",
            std::io::ErrorKind::PermissionDenied => "permission_denied",
            // Somebody holds a lease on it (fcntl(2), F_SETLEASE); waiting for them would hold a thread.
            std::io::ErrorKind::WouldBlock => "busy",
            _ => "io",
        };
        FileError::error(kind, path, error)
    }
}

fn read_file(message: &InvokeMessage) -> Outcome {
    let path = String::from_command(CommandItem { command: "read_file", key: "path", message })?;
    if !Path::new(&path).is_absolute() {
        // No scope has anything to say about it, and nothing is told by it.
        let text = format!("fs.read_file: `path` is absolute, and {path:?} is not");
        return Err(CallError::Framework(Fault::refusal(ErrorCode::InvalidArgument, text)));
    }
    let located = match located::locate(Path::new(&path)) {
        Ok(located) => located,
        Err(missing) => {
            // Whether something exists is told only where the scope would let it be read.
            match &missing.real {
                Some(real) => check(message, real, &path)?,
                None => return Err(forbidden(&path)),
            }
            return Err(FileError::io(&path, &missing.error));
        }
    };
    check(message, &located.real, &path)?;
    let file = located.open().map_err(|error| FileError::io(&path, &error))?;
    read(file, &path)
}

/// Asks the grant's scopes; a refusal is explained in the operator's log.
fn check(message: &InvokeMessage, real: &Path, asked: &str) -> Result<(), CallError> {
    match message.grant().check::<PathScope>(real) {
        ScopeVerdict::Allowed => Ok(()),
        ScopeVerdict::Denied(denial) => Err(refuse(message, denial, real, asked)),
    }
}

fn refuse(message: &InvokeMessage, denial: ScopeDenial, real: &Path, asked: &str) -> CallError {
    if let Some(daemon) = message.state().find::<DaemonHandle>() {
        let argument = Value::from(real.to_string_lossy().into_owned());
        daemon.note_scope_denial(message.peer().id, Arc::clone(message.grant()), denial, argument);
    }
    forbidden(asked)
}

fn forbidden(asked: &str) -> CallError {
    let text = format!("this peer may not call fs.read_file with path {asked:?}");
    CallError::Framework(Fault::refusal(ErrorCode::PermissionDenied, text))
}

fn read(file: File, path: &str) -> Outcome {
    let len = file.metadata().map_err(|error| FileError::io(path, &error))?.len();
    let max = limits::MAX_MESSAGE as u64;
    if len > max {
        let text = format!("{path}: {len} bytes are above the limit of {max} for one reply");
        return Err(CallError::Framework(Fault::new(ErrorCode::TooLarge, text)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    // One more than allowed, so that a file that grew is noticed and does not grow in memory.
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| FileError::io(path, &error))?;
    if bytes.len() as u64 > max {
        let text = format!("{path}: grew above the limit of {max} bytes for one reply");
        return Err(CallError::Framework(Fault::new(ErrorCode::TooLarge, text)));
    }
    Ok(Response::new(bytes))
}
