//! `write_file`: into the file that was judged, or a new one in the directory that was judged.
//!
//! Files are made with the rights of the daemon and belong to its user. What can't be written whole is removed if this call
//! made it, and with `atomic` nothing changes at all.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, RenameFlags, linkat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use self::request::Request;
use super::located::{self, Existing, Located, Place};
use super::{Asked, FileError};
use crate::ipc::{CallError, InvokeMessage, Outcome, Response};

mod request;

/// How often a file is looked for, or made, that appears and disappears meanwhile.
const ATTEMPTS: usize = 8;

/// The longest name that file systems have, in bytes.
const NAME_MAX: usize = 255;

/// The mode of a new file before the daemon's umask.
const DEFAULT_MODE: Mode = Mode::from_raw_mode(0o666);

pub(super) fn write_file(message: &InvokeMessage) -> Outcome {
    let request = Request::read(message)?;
    let asked = Asked { message, path: &request.path };
    for _ in 0..ATTEMPTS {
        let progress = match asked.try_locate()? {
            Ok(located) => overwrite(&asked, &request, &located)?,
            Err(error) if error.kind() == ErrorKind::NotFound && request.options.create => {
                create(&asked, &request)?
            }
            Err(error) => return Err(asked.failed(&error)),
        };
        if let Progress::Done = progress {
            return Ok(Response::default());
        }
    }
    Err(FileError::call_error("busy", asked.path, "it keeps on being moved"))
}

enum Progress {
    Done,
    /// It was moved, made or removed meanwhile.
    Again,
}

/// Writes into a file that is there and may be written.
fn overwrite(asked: &Asked<'_>, request: &Request, located: &Located) -> Result<Progress, CallError> {
    let failed = |error: Error| asked.failed(&error);
    if request.options.new {
        return Err(FileError::call_error("exists", asked.path, "it is there already"));
    }
    if !located.is_file() {
        return Err(FileError::not_a_file(asked.path));
    }
    if !request.options.atomic {
        let existing = if request.options.append { Existing::Kept } else { Existing::Dropped };
        let mut file = located.open_to_write(existing).map_err(failed)?;
        return fill(asked, &mut file, &request.contents).map(|()| Progress::Done);
    }
    // Who may not write the file does not replace it either, though its directory would let them.
    located.check_writable().map_err(failed)?;
    let place = match located.place() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Again),
        other => other.map_err(failed)?,
    };
    let mut part = Part::begin(&place, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    fill(asked, &mut part.file, &request.contents)?;
    let replaced = located.metadata().map_err(failed)?;
    keep_owner_and_mode(asked, &part.file, &replaced)?;
    part.file.sync_all().and_then(|()| part.replace()).map_err(failed)?;
    Ok(Progress::Done)
}

fn keep_owner_and_mode(asked: &Asked<'_>, file: &File, replaced: &Metadata) -> Result<(), CallError> {
    let made = file.metadata().map_err(|error| asked.failed(&error))?;
    if (made.uid(), made.gid()) != (replaced.uid(), replaced.gid()) {
        fchown(file, Some(replaced.uid()), Some(replaced.gid())).map_err(|error| {
            let text = format_args!(
                "{error}: the new file can't have the old one's owner; write it without `atomic`"
            );
            FileError::call_error("permission_denied", asked.path, text)
        })?;
    }
    let mode = Permissions::from_mode(replaced.mode() & 0o777);
    file.set_permissions(mode).map_err(|error| asked.failed(&error))
}

/// Makes a file where none is.
fn create(asked: &Asked<'_>, request: &Request) -> Result<Progress, CallError> {
    let failed = |error: Error| asked.failed(&error);
    let place = match located::place(Path::new(asked.path)) {
        Ok(place) => place,
        Err(missing) => return Err(asked.failed(&asked.may_tell(missing)?)),
    };
    asked.check(&place.real)?;
    let mode = request.options.mode.map_or(DEFAULT_MODE, Mode::from);
    let made = if request.options.atomic {
        let mut part = Part::begin(&place, mode).map_err(failed)?;
        fill(asked, &mut part.file, &request.contents)?;
        part.file.sync_all().and_then(|()| part.publish())
    } else {
        match place.create(place.name(), mode) {
            Ok(mut file) => {
                fill(asked, &mut file, &request.contents).inspect_err(|_| remove_own(&place, &file))?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    };
    match made {
        Ok(()) => Ok(Progress::Done),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Progress::Again),
        Err(error) => Err(failed(error)),
    }
}

/// Removes what this call made, unless its name leads elsewhere by now.
fn remove_own(place: &Place, file: &File) {
    let (directory, name) = (place.directory(), place.name());
    let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    if let (Ok(there), Ok(own)) = (there, file.metadata())
        && (there.st_dev, there.st_ino) == (own.dev(), own.ino())
    {
        // The error that led here is the one to tell.
        let _ = unlinkat(directory, name, AtFlags::empty());
    }
}

/// Writes all of `bytes`, or tells how many it wrote.
fn fill(asked: &Asked<'_>, file: &mut File, bytes: &[u8]) -> Result<(), CallError> {
    let mut written = 0;
    while written < bytes.len() {
        let error = match file.write(&bytes[written..]) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(more) => {
                written += more;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        return Err(FileError::broken_off(asked.path, &error, written, bytes.len()));
    }
    Ok(())
}

/// A file on its way to its place, beside which it stands under a name that nobody asks for. Removed when dropped.
struct Part<'p> {
    place: &'p Place,
    name: OsString,
    file: File,
}

impl<'p> Part<'p> {
    fn begin(place: &'p Place, mode: Mode) -> std::io::Result<Self> {
        let name = part_name(place.name());
        let file = place.create(&name, mode)?;
        Ok(Part { place, name, file })
    }

    /// Gives it the place's name, whatever has that.
    fn replace(self) -> std::io::Result<()> {
        let (directory, name) = (self.place.directory(), self.place.name());
        Ok(renameat(directory, &self.name, directory, name)?)
    }

    /// Gives it the place's name if nothing has that.
    fn publish(self) -> std::io::Result<()> {
        let (directory, name) = (self.place.directory(), self.place.name());
        match renameat_with(directory, &self.name, directory, name, RenameFlags::NOREPLACE) {
            // Not every file system can; a link takes no name away either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                Ok(linkat(directory, &self.name, directory, name, AtFlags::empty())?)
            }
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // Once it has its name there is nothing to remove, and a disk that fails can't be told to anyone.
        let _ = unlinkat(self.place.directory(), &self.name, AtFlags::empty());
    }
}

/// `.NAME.RANDOM.part`, NAME cut so that it fits.
fn part_name(name: &OsStr) -> OsString {
    let random = format!(".{:016x}.part", RandomState::new().hash_one(std::process::id()));
    let room = NAME_MAX - 1 - random.len();
    let bytes = name.as_bytes();
    let mut part = OsString::from(".");
    part.push(OsStr::from_bytes(&bytes[..bytes.len().min(room)]));
    part.push(random);
    part
}
