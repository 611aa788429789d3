//! Whether a file of a policy can have been changed by anybody but root and the daemon's uid.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::unreadable;
use crate::authority::PolicyError;

/// Symbolic links that are followed on one way, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Checks a directory of policy files and the way to it. Gives its path with links resolved.
///
/// # Errors
/// Which file or directory is unsafe, and why; or that it can't be read.
pub(super) fn check_directory(path: &Path, own_uid: u32) -> Result<PathBuf, PolicyError> {
    let (real, meta) = walk(path, own_uid)?;
    if !meta.is_dir() {
        return Err(PolicyError::unplaced(path.display().to_string(), "is not a directory"));
    }
    // On the way the sticky bit is enough; here everybody could add a file.
    check(&real, &meta, own_uid, Place::Last)?;
    Ok(real)
}

/// Reads a policy file after checking it and the way to it.
///
/// # Errors
/// As [`check_directory`]; also when it is no regular file or longer than `limit`.
pub(super) fn read_file(path: &Path, own_uid: u32, limit: u64) -> Result<Vec<u8>, PolicyError> {
    let (real, meta) = walk(path, own_uid)?;
    let refuse = |why: String| PolicyError::unplaced(path.display().to_string(), why);
    if !meta.is_file() {
        // Before it is opened: to open a pipe would wait for its other end.
        return Err(refuse("is not a regular file".to_owned()));
    }
    let read = || {
        let file = File::open(&real)?;
        let meta = file.metadata()?;
        let mut bytes = Vec::new();
        if meta.len() <= limit {
            file.take(limit + 1).read_to_end(&mut bytes)?;
        }
        io::Result::Ok((meta, bytes))
    };
    let (meta, bytes) = read().map_err(|error| unreadable(path, &error))?;
    // What was opened, not what the name meant before.
    check(&real, &meta, own_uid, Place::Last)?;
    if meta.len() > limit || bytes.len() as u64 > limit {
        return Err(refuse(format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A directory that only leads there.
    Way,
    /// What is read.
    Last,
}

/// Follows `path` component by component and link by link, and checks each directory that it goes through.
fn walk(path: &Path, own_uid: u32) -> Result<(PathBuf, Metadata), PolicyError> {
    let failed = |error: &io::Error| unreadable(path, error);
    let absolute = std::path::absolute(path).map_err(|error| failed(&error))?;
    let mut ahead: Vec<PathBuf> = Vec::new();
    push(&mut ahead, &absolute);
    let mut real = PathBuf::from("/");
    let mut meta = real.symlink_metadata().map_err(|error| failed(&error))?;
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        if step == Path::new("/") {
            real = step;
        } else if step == Path::new("..") {
            real.pop();
        } else {
            check(&real, &meta, own_uid, Place::Way)?;
            let next = real.join(&step);
            meta = next.symlink_metadata().map_err(|error| failed(&error))?;
            if !meta.is_symlink() {
                real = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(PolicyError::unplaced(path.display().to_string(), "too many symbolic links"));
            }
            check_owner(&next, &meta, own_uid)?;
            push(&mut ahead, &next.read_link().map_err(|error| failed(&error))?);
        }
        meta = real.symlink_metadata().map_err(|error| failed(&error))?;
    }
    Ok((real, meta))
}

/// Puts the components of `path` before what is ahead.
fn push(ahead: &mut Vec<PathBuf>, path: &Path) {
    let steps = path.components().rev().filter(|c| !matches!(c, Component::CurDir));
    ahead.extend(steps.map(|component| PathBuf::from(component.as_os_str())));
}

#[cfg(unix)]
fn check(path: &Path, meta: &Metadata, own_uid: u32, place: Place) -> Result<(), PolicyError> {
    use std::os::unix::fs::PermissionsExt;

    const STICKY: u32 = 0o1000;
    check_owner(path, meta, own_uid)?;
    let mode = meta.permissions().mode() & 0o7777;
    let who = match (mode & 0o020 != 0, mode & 0o002 != 0) {
        (false, false) => return Ok(()),
        (true, false) => "its group",
        (_, true) => "everyone",
    };
    if place == Place::Way && meta.is_dir() && mode & STICKY != 0 {
        return Ok(());
    }
    let message = format!("refused: {who} may write it (mode {mode:04o})");
    Err(PolicyError::unplaced(path.display().to_string(), message)
        .with_help(format!("chmod go-w {}", path.display())))
}

#[cfg(unix)]
fn check_owner(path: &Path, meta: &Metadata, own_uid: u32) -> Result<(), PolicyError> {
    use std::os::unix::fs::MetadataExt;

    if meta.uid() == 0 || meta.uid() == own_uid {
        return Ok(());
    }
    let message =
        format!("refused: it belongs to uid {}, neither root nor the daemon's own uid {own_uid}", meta.uid());
    Err(PolicyError::unplaced(path.display().to_string(), message))
}

/// Without a check of access lists nothing is known to be safe.
#[cfg(not(unix))]
fn check(path: &Path, _: &Metadata, _: u32, _: Place) -> Result<(), PolicyError> {
    Err(PolicyError::unplaced(
        path.display().to_string(),
        "refused: who may write it can't be checked on this system",
    ))
}

#[cfg(not(unix))]
fn check_owner(path: &Path, meta: &Metadata, own_uid: u32) -> Result<(), PolicyError> {
    check(path, meta, own_uid, Place::Last)
}
