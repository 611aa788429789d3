//! `read_file`, `read_dir`, `metadata`: nothing is changed, not even what a link leads to.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use invoked_proto::registry::{ErrorCode, limits};
use rustix::fs::{AtFlags, Dir, FileType};
use serde::Serialize;

use super::{Asked, FileError, argument};
use crate::authority::{PathScope, ScopeVerdict};
use crate::ipc::{CallError, Fault, InvokeMessage, Outcome, Response};

/// The most bytes that one reply carries.
const REPLY_MAX: u64 = limits::MAX_MESSAGE as u64;

/// What an entry of a directory takes in a reply besides its name.
const ENTRY_BYTES: u64 = 32;

pub(super) fn read_file(message: &InvokeMessage) -> Outcome {
    const KNOWN: &[&str] = &["path", "offset", "len"];
    let path: String = argument(message, "path", KNOWN)?;
    let offset: Option<u64> = argument(message, "offset", KNOWN)?;
    let len: Option<u64> = argument(message, "len", KNOWN)?;
    let asked = Asked { message, path: &path };
    let located = asked.locate()?;
    if !located.is_file() {
        return Err(FileError::not_a_file(&path));
    }
    let file = located.open_to_read().map_err(|error| asked.failed(&error))?;
    let offset = offset.unwrap_or(0);
    // A caller that takes files reads it itself.
    if let Some(response) = Response::open_file(&file, offset, len) {
        return Ok(response);
    }
    Ok(Response::new(read(&asked, file, offset, len)?))
}

fn read(asked: &Asked<'_>, mut file: File, offset: u64, len: Option<u64>) -> Result<Vec<u8>, CallError> {
    let failed = |error: std::io::Error| asked.failed(&error);
    let there = file.metadata().map_err(failed)?.len().saturating_sub(offset);
    let wanted = len.unwrap_or(u64::MAX);
    if there.min(wanted) > REPLY_MAX {
        return Err(too_large(asked, there.min(wanted)));
    }
    if offset > 0 {
        // An offset that the kernel can't express is past the end of every file.
        let Ok(_) = i64::try_from(offset) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(there.min(wanted)).unwrap_or(0));
    // One more than allowed, so that a file that grew is noticed and does not grow in memory.
    file.take(wanted.min(REPLY_MAX + 1)).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        read if read > REPLY_MAX => Err(too_large(asked, read)),
        _ => Ok(bytes),
    }
}

fn too_large(asked: &Asked<'_>, len: u64) -> CallError {
    let path = asked.path;
    let text = format!(
        "{path}: {len} bytes are above the limit of {REPLY_MAX} for one reply; `offset` and `len` read a part"
    );
    CallError::Framework(Fault::new(ErrorCode::TooLarge, text))
}

/// What there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    File,
    Directory,
    Link,
    Other,
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        }
    }
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    kind: Kind,
}

pub(super) fn read_dir(message: &InvokeMessage) -> Outcome {
    let path: String = argument(message, "path", &["path"])?;
    let asked = Asked { message, path: &path };
    let located = asked.locate()?;
    let directory = located.open_directory().map_err(|error| asked.failed(&error))?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut real = located.real;
    let listing = Dir::read_from(&directory).map_err(|error| asked.failed(&error.into()))?;
    for entry in listing {
        if message.cancellation().is_cancelled() {
            return Err(CallError::Framework(Fault::new(ErrorCode::Cancelled, "nobody waits for it")));
        }
        let entry = entry.map_err(|error| asked.failed(&error.into()))?;
        let name = entry.file_name();
        // A name that is no text can't stand in JSON, nor in a scope: no scope allows it.
        let Ok(text) = name.to_str() else { continue };
        if matches!(text, "." | "..") {
            continue;
        }
        real.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let verdict = message.grant().check::<PathScope>(&real);
        real.pop();
        if !matches!(verdict, ScopeVerdict::Allowed) {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                // It went away meanwhile.
                Err(_) => continue,
            },
            known => known,
        };
        bytes += ENTRY_BYTES + written_len(text);
        if bytes > REPLY_MAX {
            let text = format!("{path}: more entries than one reply can tell");
            return Err(CallError::Framework(Fault::new(ErrorCode::TooLarge, text)));
        }
        entries.push(Entry { name: text.to_owned(), kind: kind.into() });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Response::json(&entries)?)
}

/// The length of a name as JSON.
fn written_len(name: &str) -> u64 {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    name.bytes().map(escaped).sum()
}

/// What is told of a file; more may be added.
#[derive(Debug, Serialize)]
struct Metadata {
    kind: Kind,
    /// Bytes.
    len: u64,
    /// Milliseconds since 1970, negative before.
    modified: i64,
    /// Whether nobody may write it, as far as its mode says.
    readonly: bool,
    /// Permission bits: those of owner, group and others, and the three above.
    mode: u32,
}

pub(super) fn metadata(message: &InvokeMessage) -> Outcome {
    let path: String = argument(message, "path", &["path"])?;
    let asked = Asked { message, path: &path };
    let found = asked.locate()?.metadata().map_err(|error| asked.failed(&error))?;
    let modified = found.mtime().saturating_mul(1000).saturating_add(found.mtime_nsec() / 1_000_000);
    Ok(Response::json(&Metadata {
        kind: FileType::from_raw_mode(found.mode()).into(),
        len: found.len(),
        modified,
        readonly: found.permissions().readonly(),
        mode: found.mode() & 0o7777,
    })?)
}
