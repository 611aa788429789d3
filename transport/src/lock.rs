//! The lock file beside a socket: who holds it is the only one who may listen there.
//!
//! Owns the file's opening, locking and contents (the holder's pid, for messages only). The file is never removed: a lock on
//! a removed file excludes nobody.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, openat};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::{Pid, test_kill_process};

use crate::directory::SocketDirectory;

/// How often the file is opened anew when somebody removes it at the wrong moment.
const TRIES: usize = 8;

/// A held lock; let go when dropped.
#[derive(Debug)]
pub(crate) struct Lock(OwnedFd);

/// Why a lock could not be had.
#[derive(Debug)]
pub(crate) enum LockFault {
    /// Another process, or another listener of this one, holds it: its pid, if the file says.
    Held(Option<u32>),
    /// The file is not a plain file of this user's.
    Unsafe,
    /// The operating system gave an error.
    Io(io::Error),
}

impl Lock {
    /// Takes the lock without waiting.
    pub(crate) fn take(directory: &SocketDirectory, name: &OsStr) -> Result<Self, LockFault> {
        for _ in 0..TRIES {
            let file = open_file(directory, name)?;
            let mine = fstat(&file).map_err(io_fault)?;
            let plain = FileType::from_raw_mode(mine.st_mode) == FileType::RegularFile && mine.st_nlink <= 1;
            if !plain || mine.st_uid != directory.uid() {
                return Err(LockFault::Unsafe);
            }
            match rustix::io::retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(LockFault::Held(read_pid(&file))),
                Err(error) => return Err(io_fault(error)),
            }
            let there = directory.entry(name).map_err(LockFault::Io)?;
            // Was it removed and made anew between opening and locking, then others lock another file.
            if there.is_some_and(|there| (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)) {
                let lock = Self(file);
                lock.write_pid();
                return Ok(lock);
            }
        }
        Err(LockFault::Io(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the lock file is removed again and again",
        )))
    }

    /// Tells the next one to come who holds the lock. A disk that is full must not keep a daemon from starting, so a failure
    /// costs the pid in a message and nothing else.
    fn write_pid(&self) {
        if ftruncate(&self.0, 0).is_ok() {
            let _ = pwrite(&self.0, format!("{}\n", std::process::id()).as_bytes(), 0);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not let go while a child process, between its fork and its exec, has a copy of the descriptor.
        let _ = flock(self.0.as_fd(), FlockOperation::Unlock);
    }
}

fn open_file(directory: &SocketDirectory, name: &OsStr) -> Result<OwnedFd, LockFault> {
    // Non-blocking, so that a pipe of that name can't hold us up.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match openat(directory, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS) => Err(LockFault::Unsafe),
        Err(error) => Err(io_fault(error)),
    }
}

fn read_pid(file: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let read = pread(file, &mut text[..], 0).ok()?;
    let pid: i32 = std::str::from_utf8(&text[..read]).ok()?.strip_suffix('\n')?.parse().ok()?;
    // The holder may have taken the lock from one that was killed, and not have got to writing yet.
    let running = !matches!(test_kill_process(Pid::from_raw(pid)?), Err(Errno::SRCH));
    u32::try_from(pid).ok().filter(|_| running)
}

fn io_fault(error: Errno) -> LockFault {
    LockFault::Io(error.into())
}
