//! The directory that a socket lies in: made if absent, checked, and held open.
//!
//! Owns the rules on who may own it and write to it. Everything in it is reached through the open descriptor, so a check and
//! what follows it speak of the same directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, Stat, chownat, fchmod, fchown, fstat, lstat, mkdirat, open, statat,
};
use rustix::io::Errno;
use thiserror::Error;

use crate::connect::{is_directory, is_symlink, kind_of};
use crate::credentials::OverflowIds;
use crate::listener::Access;
use crate::users::{describe_gid, describe_uid};

/// How many directories [`SocketDirectory::prepare`] makes at most: `invoked-UID` and an application's in it.
pub(crate) const MAX_CREATED: usize = 2;

/// Why a directory can't hold a socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DirectoryFault {
    /// More than two levels are missing.
    #[error("{} does not exist, nor do the directories above it: make them first", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// There is a file in its place.
    #[error("{} is {kind} and not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// The directory itself, or one above it that another user owns, is a symbolic link.
    #[error("{} is a symbolic link, made by {owner}: give the path that it leads to", path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
        /// Its owner.
        owner: String,
    },
    /// Another user owns the directory, or one above it, and could put another one in its place.
    #[error("{} is owned by {owner}, and only {me} or root may own it", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// The user of this process.
        me: String,
    },
    /// Others may write to the directory, and so put another socket in the place of this one.
    #[error("{} has mode {mode:04o}, which lets others replace what is in it: chmod go-w, or give another place", path.display())]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Those who shall connect can't pass the directory, and other files lie in it, so that its mode is not ours to change.
    #[error("{} has mode {mode:04o}, which keeps out those whom `access` lets in: chmod {wanted:04o}, or give another place", path.display())]
    Closed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Those that would do.
        wanted: u32,
    },
    /// The group of `access` can't be given to a file.
    #[error("{} can't be given to {group}: this process is no member, nor root over it", path.display())]
    Group {
        /// The file or directory.
        path: PathBuf,
        /// The group.
        group: String,
    },
    /// The operating system gave another error.
    #[error("{}: {doing} failed", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// A directory that has been checked, held open.
#[derive(Debug)]
pub(crate) struct SocketDirectory {
    fd: OwnedFd,
    path: PathBuf,
    me: u32,
}

impl SocketDirectory {
    /// Makes the directory if it is absent, up to [`MAX_CREATED`] levels, and checks it and those above.
    ///
    /// The directory itself must be this user's or root's, no symbolic link, and writable by nobody else. Those above must
    /// not be writable by everyone (unless sticky, as `/tmp` is) nor be owned by another user. That a group may write to one
    /// above is let pass: with a group of one's own for each user, it is the usual mode.
    pub(crate) fn prepare(path: &Path, access: Access) -> Result<Self, DirectoryFault> {
        let me = rustix::process::geteuid().as_raw();
        let missing = missing_levels(path)?;
        let base = missing.first().and_then(|first| first.parent()).unwrap_or(path);
        // Making something in a place that isn't safe would be too late to find out.
        check_above(if missing.is_empty() { path.parent() } else { Some(base) }, me)?;
        make(&missing, path, access)?;
        let directory = Self { fd: open_directory(path)?, path: path.to_path_buf(), me };
        directory.check()?;
        Ok(directory)
    }

    /// Gives the directory the mode and group that `access` asks for, if it holds nothing but `own` files.
    ///
    /// A directory that holds other files too is somebody's home or the like, and is left as it is; then it must let those
    /// pass who shall connect. Called by the holder of the lock only, so that two starters can't undo each other's work.
    pub(crate) fn open_to(&self, access: Access, own: &[&OsStr]) -> Result<(), DirectoryFault> {
        let found = self.status()?;
        let mode = found.st_mode & 0o777;
        let wanted = access.directory_mode();
        let group_fits = access.group().is_none_or(|gid| gid == found.st_gid);
        if found.st_uid == self.me && self.holds_only(own)? {
            if !group_fits && let Some(gid) = access.group() {
                self.own_group(gid)?;
            }
            if mode != wanted {
                fchmod(&self.fd, Mode::from_raw_mode(wanted)).map_err(|error| self.failed("chmod", error))?;
            }
            return Ok(());
        }
        let open_to_all = mode & 0o001 != 0;
        let passes = match access {
            Access::Owner => true,
            Access::Group(_) => open_to_all || (group_fits && mode & 0o010 != 0),
            Access::Everyone => open_to_all,
        };
        if passes {
            return Ok(());
        }
        Err(DirectoryFault::Closed { path: self.path.clone(), mode, wanted: mode | 0o011 })
    }

    /// The status of a file in the directory, without following a link; `None` if there is none.
    pub(crate) fn entry(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory's path with a file's name.
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// The uid that this process ran as when the directory was checked.
    pub(crate) fn uid(&self) -> u32 {
        self.me
    }

    /// Gives a file of the directory to a group.
    pub(crate) fn give_to_group(&self, name: &OsStr, gid: u32) -> Result<(), DirectoryFault> {
        let given = chownat(&self.fd, name, None, Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW);
        given.map_err(|error| group_fault(self.path_of(name), gid, error))
    }

    fn own_group(&self, gid: u32) -> Result<(), DirectoryFault> {
        let given = fchown(&self.fd, None, Some(Gid::from_raw(gid)));
        given.map_err(|error| group_fault(self.path.clone(), gid, error))
    }

    fn check(&self) -> Result<(), DirectoryFault> {
        let found = self.status()?;
        if !is_trusted(found.st_uid, self.me) {
            return Err(foreign_owner(&self.path, &found, self.me));
        }
        if found.st_mode & 0o022 != 0 {
            return Err(DirectoryFault::WritableByOthers {
                path: self.path.clone(),
                mode: found.st_mode & 0o7777,
            });
        }
        Ok(())
    }

    fn holds_only(&self, own: &[&OsStr]) -> Result<bool, DirectoryFault> {
        let entries = Dir::read_from(&self.fd).map_err(|error| self.failed("reading", error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("reading", error))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && !own.contains(&name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn status(&self) -> Result<Stat, DirectoryFault> {
        fstat(&self.fd).map_err(|error| self.failed("stat", error))
    }

    fn failed(&self, doing: &'static str, error: Errno) -> DirectoryFault {
        failed(&self.path, doing, error)
    }
}

impl AsFd for SocketDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The directories to make, outermost first.
fn missing_levels(path: &Path) -> Result<Vec<&Path>, DirectoryFault> {
    let mut missing = Vec::new();
    for level in path.ancestors() {
        match lstat(level) {
            Ok(_) => {
                missing.reverse();
                return Ok(missing);
            }
            Err(Errno::NOENT) if missing.len() < MAX_CREATED => missing.push(level),
            Err(Errno::NOENT) => break,
            Err(error) => return Err(failed(level, "stat", error)),
        }
    }
    Err(DirectoryFault::Missing { path: path.to_path_buf() })
}

/// Makes directories with mode 0700; those on the way to `path` are opened as `access` asks, `path` itself is by the holder
/// of the lock.
fn make(missing: &[&Path], path: &Path, access: Access) -> Result<(), DirectoryFault> {
    for level in missing {
        match mkdirat(CWD, *level, Mode::RWXU) {
            Ok(()) if *level != path => {
                let made = SocketDirectory {
                    fd: open_directory(level)?,
                    path: level.to_path_buf(),
                    me: rustix::process::geteuid().as_raw(),
                };
                let next = path.strip_prefix(level).ok().and_then(|rest| rest.iter().next());
                made.open_to(access, &next.into_iter().collect::<Vec<_>>())?;
            }
            // Another starter was faster: what it made is checked like anything that was there.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(level, "mkdir", error)),
        }
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd, DirectoryFault> {
    let found = lstat(path).map_err(|error| failed(path, "stat", error))?;
    if is_symlink(&found) {
        return Err(DirectoryFault::Symlink { path: path.to_path_buf(), owner: describe_uid(found.st_uid) });
    }
    if !is_directory(&found) {
        return Err(DirectoryFault::NotADirectory { path: path.to_path_buf(), kind: kind_of(&found) });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| failed(path, "open", error))
}

/// Checks a directory and all above it, and the links on the way as they were written.
fn check_above(path: Option<&Path>, me: u32) -> Result<(), DirectoryFault> {
    let Some(path) = path else { return Ok(()) };
    for level in path.ancestors() {
        let found = lstat(level).map_err(|error| failed(level, "stat", error))?;
        if is_symlink(&found) && !is_trusted(found.st_uid, me) {
            return Err(DirectoryFault::Symlink {
                path: level.to_path_buf(),
                owner: describe_uid(found.st_uid),
            });
        }
    }
    let real = path.canonicalize().map_err(|source| DirectoryFault::Io {
        path: path.to_path_buf(),
        doing: "following its links",
        source,
    })?;
    for level in real.ancestors() {
        let found = lstat(level).map_err(|error| failed(level, "stat", error))?;
        if !is_directory(&found) {
            return Err(DirectoryFault::NotADirectory { path: level.to_path_buf(), kind: kind_of(&found) });
        }
        let unnamed_root = found.st_uid == OverflowIds::of_system().uid && root_is_unnamed();
        if !is_trusted(found.st_uid, me) && !unnamed_root {
            return Err(foreign_owner(level, &found, me));
        }
        // Sticky: only the owner of a file may replace it there.
        if found.st_mode & 0o1002 == 0o0002 {
            return Err(DirectoryFault::WritableByOthers {
                path: level.to_path_buf(),
                mode: found.st_mode & 0o7777,
            });
        }
    }
    Ok(())
}

fn foreign_owner(path: &Path, found: &Stat, me: u32) -> DirectoryFault {
    DirectoryFault::ForeignOwner {
        path: path.to_path_buf(),
        owner: describe_uid(found.st_uid),
        me: describe_uid(me),
    }
}

fn is_trusted(uid: u32, me: u32) -> bool {
    uid == 0 || uid == me
}

/// Whether this process is in a user namespace where the real root is nobody it can name, as after `unshare -U`.
///
/// The directories at the top then seem to be the overflow uid's. There is no telling root's from any other unnamed
/// user's, so all of these count as root's, but never for the socket's own directory.
fn root_is_unnamed() -> bool {
    matches!(lstat("/"), Ok(root) if root.st_uid != 0 && root.st_uid == OverflowIds::of_system().uid)
}

fn group_fault(path: PathBuf, gid: u32, error: Errno) -> DirectoryFault {
    match error {
        // EINVAL: the group doesn't exist in this user namespace.
        Errno::PERM | Errno::INVAL => DirectoryFault::Group { path, group: describe_gid(gid) },
        error => DirectoryFault::Io { path, doing: "chgrp", source: error.into() },
    }
}

fn failed(path: &Path, doing: &'static str, error: Errno) -> DirectoryFault {
    DirectoryFault::Io { path: path.to_path_buf(), doing, source: error.into() }
}
