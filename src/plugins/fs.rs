//! `fs`: files that a scope allows, read with the daemon's rights.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
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
    /// `not_found`, `permission_denied`, `not_a_file`, `io`.
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
            _ => "io",
        };
        FileError::error(kind, path, error)
    }
}

fn read_file(message: &InvokeMessage) -> Outcome {
    let path = String::from_command(CommandItem { command: "read_file", key: "path", message })?;
    let located = match locate(Path::new(&path)) {
        Ok(located) => located,
        Err(error) => {
            // Whether something exists is told only where the scope would let it be read.
            check(message, Path::new(&path), &path)?;
            return Err(FileError::io(&path, &error));
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
    let text = format!("this peer may not call fs.read_file with path {asked:?}");
    CallError::Framework(Fault::refusal(ErrorCode::PermissionDenied, text))
}

/// A file that was found and not opened: opening a pipe or a device can have effects, so the scope is asked before.
struct Located {
    handle: File,
    real: PathBuf,
}

#[cfg(target_os = "linux")]
fn locate(path: &Path) -> std::io::Result<Located> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    if !path.is_absolute() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not absolute"));
    }
    // O_PATH finds the file and opens nothing; its real name is then read from the kernel, so no link can be swapped
    // between the check and the use.
    let flags = i32::try_from((rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC).bits())
        .expect("open flags fit an int");
    let handle = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
    Ok(Located { handle, real })
}

#[cfg(target_os = "linux")]
impl Located {
    fn open(&self) -> std::io::Result<File> {
        use std::os::fd::AsRawFd;
        if !self.handle.metadata()?.is_file() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
        }
        File::open(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }
}

#[cfg(not(target_os = "linux"))]
fn locate(path: &Path) -> std::io::Result<Located> {
    let real = path.canonicalize()?;
    if !std::fs::metadata(&real)?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(Located { handle: File::open(&real)?, real })
}

#[cfg(not(target_os = "linux"))]
impl Located {
    fn open(&self) -> std::io::Result<File> {
        // Another file may have taken the name between the two steps; then the name does not lead here any more.
        if self.real.canonicalize()? != self.real {
            return Err(std::io::Error::other("the file moved while it was opened"));
        }
        self.handle.try_clone()
    }
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
