//! Errors of the file system, as callers get them: the application's own, with a kind for programs.

use std::fmt::Display;
use std::io::{Error, ErrorKind};

use serde::Serialize;

use crate::ipc::{CallError, InvokeError};

/// `{"kind": …, "message": …}`.
#[derive(Debug, Serialize)]
pub(super) struct FileError {
    /// `not_found`, `permission_denied`, `exists`, `not_a_file`, `not_a_directory`, `no_space`, `read_only`, `busy`, `io`.
    kind: &'static str,
    message: String,
}

impl FileError {
    pub(super) fn call_error(kind: &'static str, path: &str, text: impl Display) -> CallError {
        let message = format!("{path}: {text}");
        CallError::from(InvokeError::json(&FileError { kind, message }))
    }

    pub(super) fn io(path: &str, error: &Error) -> CallError {
        Self::call_error(kind(error), path, error)
    }

    /// A write that broke off after `written` of `len` bytes.
    pub(super) fn broken_off(path: &str, error: &Error, written: usize, len: usize) -> CallError {
        Self::call_error(kind(error), path, format_args!("{error}, after {written} of {len} bytes"))
    }

    pub(super) fn not_a_file(path: &str) -> CallError {
        Self::call_error("not_a_file", path, "not a regular file")
    }
}

fn kind(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "not_found",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::AlreadyExists => "exists",
        ErrorKind::NotADirectory => "not_a_directory",
        ErrorKind::IsADirectory => "not_a_file",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "no_space",
        ErrorKind::ReadOnlyFilesystem => "read_only",
        // Somebody holds a lease on it (fcntl(2), F_SETLEASE), runs it, or keeps on moving it; waiting for them would
        // hold a thread.
        ErrorKind::WouldBlock | ErrorKind::ExecutableFileBusy | ErrorKind::ResourceBusy => "busy",
        _ => "io",
    }
}
