//! What the process at the other end runs, and where the service manager has put it.
//!
//! Owns the reading of `/proc` through a hold on the very process that connected, and of files that none but root can
//! change. Numbers of processes are used again and mount namespaces show other files under a trusted name, so neither a
//! number nor a path is ever believed by itself. What follows from an answer is decided elsewhere.
//!
//! No call here waits for a file system that a peer may serve itself: attributes are asked for without having them brought
//! up to date, and no directory is looked into that others may write.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::{Errno, pread};

use crate::credentials::process_has_ended;

/// The longest text of a control group's path that is read; the kernel's own limit of a path is the same.
const GROUP_MAX: usize = 4096;

/// A hold on a process: what is read through it is about this very process, or an error.
#[derive(Debug)]
pub struct Process {
    /// Its directory of `/proc`, which the kernel ties to it: once it has ended, nothing is found there, whoever has its
    /// number.
    directory: OwnedFd,
}

/// What names a file as long as somebody has it open: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: (u32, u32),
    inode: u64,
}

/// The file that a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// Where the kernel shows it. A process in a mount namespace of its own has a say in that: not to be believed.
    pub path: PathBuf,
    /// What it is.
    pub id: FileId,
}

/// The control group of a process, open to be asked again.
#[derive(Debug)]
pub struct ControlGroup(OwnedFd);

/// Why something about a process, or about a file, can't be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The process has ended.
    #[error("the process has ended")]
    Ended,
    /// The process is of another pid namespace.
    #[error("the process can't be seen from here")]
    Elsewhere,
    /// The machine refused something.
    #[error("{what}: {source}")]
    Unreadable {
        /// What was to be read.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody but root could change the file, or a directory on the way to it.
    #[error("{}: {why}", path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// Why it is not trusted.
        why: &'static str,
    },
    /// The machine has no unified control groups (version 2) that processes are put into.
    #[error("it is in no unified control group")]
    NoControlGroup,
}

impl ProcessError {
    fn io(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::SRCH => ProcessError::Ended,
            errno => ProcessError::Unreadable { what, source: errno.into() },
        }
    }
}

impl Process {
    /// The process that a pidfd of a connection is of ([`PeerProcess::Held`](crate::PeerProcess::Held)).
    ///
    /// # Errors
    /// [`ProcessError::Ended`] if it has ended, at whatever moment; that it is not visible, or that the machine refused it.
    pub fn of(pidfd: BorrowedFd<'_>) -> Result<Self, ProcessError> {
        let number = number_of(pidfd)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, format!("/proc/{number}"), flags, Mode::empty());
        let ended = process_has_ended(pidfd)
            .map_err(|source| ProcessError::Unreadable { what: "the pidfd", source })?;
        if ended {
            // So the number may have been another one's when the directory was opened.
            return Err(ProcessError::Ended);
        }
        Ok(Process { directory: opened.map_err(ProcessError::io("/proc"))? })
    }

    /// The file that it runs now.
    ///
    /// # Errors
    /// It has ended; or this process may not look, which takes root or the same uid.
    pub fn executable(&self) -> Result<Executable, ProcessError> {
        let failed = ProcessError::io("/proc/PID/exe");
        let path = readlinkat(&self.directory, "exe", Vec::new()).map_err(&failed)?;
        let path = PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        // Another program may be run between the two: then they don't fit together, which whoever compares them sees.
        let id = FileId::at(self.directory.as_fd(), "exe", AtFlags::empty()).map_err(failed)?;
        Ok(Executable { path, id })
    }

    /// Whether it runs this file now: one system call. False also when that can't be told.
    #[must_use]
    pub fn runs(&self, file: FileId) -> bool {
        FileId::at(self.directory.as_fd(), "exe", AtFlags::empty()).is_ok_and(|id| id == file)
    }

    /// Its control group, of version 2.
    ///
    /// # Errors
    /// It has ended, or the machine refused it.
    pub fn control_group(&self) -> Result<ControlGroup, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.directory, "cgroup", flags, Mode::empty());
        Ok(ControlGroup(file.map_err(ProcessError::io("/proc/PID/cgroup"))?))
    }
}

impl ControlGroup {
    /// Its path below the root of the hierarchy, as it is now: `/system.slice/foo.service`. One system call.
    ///
    /// # Errors
    /// The process has ended; there is no such hierarchy.
    pub fn path(&self) -> Result<String, ProcessError> {
        let mut text = [0; GROUP_MAX];
        let mut len = 0;
        while len < text.len() {
            let read = pread(&self.0, &mut text[len..], len as u64);
            match read.map_err(ProcessError::io("/proc/PID/cgroup"))? {
                0 => break,
                read => len += read,
            }
        }
        let lines = text[..len].split(|byte| *byte == b'\n');
        let path =
            lines.filter_map(|line| line.strip_prefix(b"0::")).find_map(|path| str::from_utf8(path).ok());
        path.map(str::to_owned).ok_or(ProcessError::NoControlGroup)
    }
}

impl FileId {
    /// The file at `path` in the mount namespace of this process, if none but root can have put it there: it and each
    /// directory on the way belong to root and nobody else may write them, and no link is on the way.
    ///
    /// # Errors
    /// [`ProcessError::Untrusted`] with the first file or directory of which that isn't so; that it can't be read.
    pub fn of_trusted(path: &Path) -> Result<Self, ProcessError> {
        let untrusted = |path: &Path, why| ProcessError::Untrusted { path: path.to_owned(), why };
        if !path.is_absolute() {
            return Err(untrusted(path, "not an absolute path"));
        }
        let mut way = PathBuf::from("/");
        let mut here = open("/", CWD)?;
        let mut kind = trust(here.as_fd(), &way)?;
        for component in path.components() {
            let name = match component {
                Component::RootDir => continue,
                Component::Normal(name) => name,
                _ => return Err(untrusted(path, "not a path without detours")),
            };
            if kind != FileType::Directory {
                return Err(untrusted(&way, "not a directory"));
            }
            way.push(name);
            here = open(name, here.as_fd())?;
            kind = trust(here.as_fd(), &way)?;
        }
        if kind != FileType::RegularFile {
            return Err(untrusted(path, "not a regular file"));
        }
        Self::at(here.as_fd(), "", AtFlags::EMPTY_PATH).map_err(ProcessError::io("the executable"))
    }

    fn at(directory: BorrowedFd<'_>, name: &str, flags: AtFlags) -> Result<Self, Errno> {
        let found = attributes(directory, name, flags)?;
        Ok(FileId { device: (found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino })
    }
}

/// Opens it to be looked at only; a link is not followed.
fn open(name: impl rustix::path::Arg, directory: BorrowedFd<'_>) -> Result<OwnedFd, ProcessError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty()).map_err(ProcessError::io("the executable"))
}

/// What kind of file it is, if none but root can change it.
fn trust(file: BorrowedFd<'_>, path: &Path) -> Result<FileType, ProcessError> {
    let found = attributes(file, "", AtFlags::EMPTY_PATH).map_err(ProcessError::io("the executable"))?;
    let untrusted = |why| ProcessError::Untrusted { path: path.to_owned(), why };
    let mode = Mode::from_raw_mode(found.stx_mode.into());
    if found.stx_uid != 0 {
        return Err(untrusted("it doesn't belong to root"));
    }
    match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::Symlink => Err(untrusted("it is a symbolic link")),
        _ if mode.intersects(Mode::WGRP | Mode::WOTH) => Err(untrusted("others than root may write it")),
        kind => Ok(kind),
    }
}

/// Attributes as the kernel has them. It may otherwise ask a file system that a peer serves, and wait for ever.
fn attributes(directory: BorrowedFd<'_>, name: &str, flags: AtFlags) -> Result<rustix::fs::Statx, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID;
    statx(directory, name, flags | AtFlags::STATX_DONT_SYNC, wanted)
}

/// The number that the process behind a pidfd has here.
fn number_of(pidfd: BorrowedFd<'_>) -> Result<u32, ProcessError> {
    let what = "/proc/self/fdinfo";
    let path = format!("{what}/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).map_err(|source| ProcessError::Unreadable { what, source })?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match number.and_then(|number| number.parse::<i64>().ok()) {
        Some(number @ 1..) => u32::try_from(number).map_err(|_| ProcessError::Elsewhere),
        Some(0) => Err(ProcessError::Elsewhere),
        Some(_) => Err(ProcessError::Ended),
        None => {
            let source = io::Error::new(io::ErrorKind::InvalidData, "no process is named");
            Err(ProcessError::Unreadable { what, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::{FileId, Process, ProcessError};

    /// A program that waits to be ended. Tests know whom they started, so a pidfd by its number is no risk here.
    fn waiting() -> (std::process::Child, std::os::fd::OwnedFd) {
        let child =
            Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a number");
        (child, pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd"))
    }

    #[test]
    fn what_a_process_runs_is_told_until_it_ends() {
        let (mut child, pidfd) = waiting();
        let process = Process::of(pidfd.as_fd()).expect("held");
        let running = process.executable().expect("told");
        assert!(process.runs(running.id));
        let group = process.control_group().expect("open");
        if let Ok(path) = group.path() {
            assert!(path.starts_with('/'), "{path}");
        }
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(!process.runs(running.id));
        assert!(matches!(process.executable(), Err(ProcessError::Ended)), "{:?}", process.executable());
        assert!(matches!(group.path(), Err(ProcessError::Ended)), "{:?}", group.path());
        assert!(matches!(Process::of(pidfd.as_fd()), Err(ProcessError::Ended)));
    }

    #[test]
    fn a_process_that_ended_and_was_not_reaped_has_ended() {
        let (mut child, pidfd) = waiting();
        child.kill().expect("killed");
        while !super::process_has_ended(pidfd.as_fd()).expect("asked") {}
        assert!(matches!(Process::of(pidfd.as_fd()), Err(ProcessError::Ended)));
        child.wait().expect("reaped");
    }

    #[test]
    fn files_that_others_may_write_are_not_trusted() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("x");
        std::fs::write(&file, "x").expect("written");
        let real = file.canonicalize().expect("it is there");
        // The directory for temporary files may be written by everybody.
        assert!(matches!(FileId::of_trusted(&real), Err(ProcessError::Untrusted { .. })));
        let shell = Path::new("/bin/sh").canonicalize().expect("there is a shell");
        let trusted = FileId::of_trusted(&shell).expect("it is root's");
        assert_eq!(trusted, FileId::of_trusted(&shell).expect("still"));
        for (path, why) in [
            ("/bin", "not a regular file"),
            ("relative", "not an absolute path"),
            ("/bin/../bin/sh", "detours"),
        ] {
            let error = FileId::of_trusted(Path::new(path)).expect_err(path).to_string();
            // On some systems /bin is a link.
            assert!(error.contains(why) || error.contains("symbolic link"), "{path}: {error}");
        }
        assert!(matches!(
            FileId::of_trusted(Path::new("/no/such/file")),
            Err(ProcessError::Unreadable { .. })
        ));
    }
}
