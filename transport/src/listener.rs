//! A socket that listens, alone at its address, with the mode that was asked for from the first moment.
//!
//! Owns the socket file and the lock beside it for as long as it lives. Whom it lets in beyond file modes, and how many, is
//! the daemon's to decide.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use interprocess::local_socket::{
    GenericFilePath, Listener as LocalListener, ListenerNonblockingMode, ListenerOptions, ToFsName,
};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use rustix::fs::{AtFlags, Mode, Stat, chmodat, unlinkat};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, getsockname};
use thiserror::Error;

use crate::address::{Address, SocketPath};
use crate::connect::{Liveness, is_socket, kind_of, liveness};
use crate::directory::{DirectoryFault, SocketDirectory};
use crate::lock::{Lock, LockFault};
use crate::stream::{FdRefusalState, Stream, refusal_state};
use crate::sys;
use crate::users::{describe_gid, describe_uid};

/// Who may connect, as far as file modes decide it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The daemon's own uid, and root: directory 0700, socket 0600.
    #[default]
    Owner,
    /// The members of a group, by its gid, too: directory 0750, socket 0660.
    Group(u32),
    /// Everyone: directory 0755, socket 0666.
    Everyone,
}

impl Access {
    /// The permission bits of the socket's directory.
    #[must_use]
    pub const fn directory_mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group(_) => 0o750,
            Self::Everyone => 0o755,
        }
    }

    /// The permission bits of the socket.
    #[must_use]
    pub const fn socket_mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group(_) => 0o660,
            Self::Everyone => 0o666,
        }
    }

    /// The group that directory and socket belong to, if it matters.
    #[must_use]
    pub const fn group(self) -> Option<u32> {
        match self {
            Self::Group(gid) => Some(gid),
            Self::Owner | Self::Everyone => None,
        }
    }
}

/// A listening Unix socket.
///
/// One that was made by [`bind`](Self::bind) removes its socket file when dropped, if the file is still the one it made; the
/// lock file beside it stays.
#[derive(Debug)]
pub struct Listener {
    // Before `place`, which holds the lock: the next daemon gets it when this socket is closed and its file gone.
    fd: OwnedFd,
    address: Address,
    place: Option<Place>,
}

impl Listener {
    /// Listens at an address, or says who is in the way.
    ///
    /// Makes the directory if it is absent, at most two levels. Takes the lock file `<socket>.lock` for as long as it lives,
    /// and only then removes a socket file that nobody listens on any more. The socket never has a wider mode than
    /// `access` gives it, not for a moment.
    ///
    /// # Errors
    ///
    /// [`BindError`], which names what is in the way and the next step. [`BindFault::InUse`] when a daemon is there.
    pub fn bind(address: &Address, access: Access) -> Result<Self, BindError> {
        let failed = |fault| BindError { address: address.clone(), fault };
        let Address::Unix(path) = address else { return Err(failed(BindFault::Unsupported)) };
        let (fd, place) = listen_at(path, access).map_err(failed)?;
        Ok(Self { fd, address: address.clone(), place: Some(place) })
    }

    /// Takes over a socket that listens already, such as one from systemd's socket activation.
    ///
    /// It becomes non-blocking and close-on-exec. Its file and its mode are whose it was, and are left alone.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] when the descriptor is no listening Unix stream socket with a path.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, AdoptError> {
        let is_stream = socket_domain(&fd)? == AddressFamily::UNIX && socket_type(&fd)? == SocketType::STREAM;
        if !is_stream || !socket_acceptconn(&fd)? {
            return Err(AdoptError::NotListening);
        }
        let name = SocketAddrUnix::try_from(getsockname(&fd)?)?;
        let path = name.path().ok_or(AdoptError::Unnamed)?.into_owned();
        let address =
            Address::unix(OsString::from_vec(path.into_bytes())).map_err(|_| AdoptError::Unnamed)?;
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, address, place: None })
    }

    /// Takes the next connection, without waiting for one.
    ///
    /// Its credentials are not read here: that can fail for one peer ([`Stream::credentials`]) and must not stop the others.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none. `EMFILE` and `ENFILE` leave the connection in the queue: pause before trying again.
    /// Else the errors of `accept4(2)`.
    pub fn try_accept(&self) -> io::Result<Stream> {
        loop {
            // Without NONBLOCK: see `Stream`.
            match accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(Stream::from_checked(fd)),
                // The peer left the queue before its turn.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Turns descriptors off for all peers that connect from now on; their streams inherit it (`SO_PASSRIGHTS`).
    ///
    /// # Errors
    ///
    /// The errors of `setsockopt(2)`, except the one that means that the kernel is too old.
    pub fn refuse_fds(&self) -> io::Result<FdRefusalState> {
        refusal_state(sys::pass_rights(self.fd.as_fd(), false))
    }

    /// The address that it listens at.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.remove_socket();
        }
    }
}

/// Why a daemon can't listen at an address.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: Address,
    /// What is in the way.
    pub fault: BindFault,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.fault)
    }
}

impl std::error::Error for BindError {
    /// The fault's own source: its text is part of this error's already.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}

/// What is in the way of listening.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindFault {
    /// Another daemon listens there.
    #[error("{} listens there already: stop it, or give another place with --address", daemon(*pid))]
    InUse {
        /// The other daemon's process, if it could be found out.
        pid: Option<u32>,
    },
    /// The directory is missing or not safe.
    #[error(transparent)]
    Directory(#[from] DirectoryFault),
    /// The lock file is not a plain file of this user's.
    #[error("{} is no plain file of this user's: remove it", path.display())]
    UnsafeLock {
        /// The lock file's path.
        path: std::path::PathBuf,
    },
    /// There is a file, and it isn't a socket.
    #[error("{kind} is there and not a socket: remove it, or give another place with --address")]
    NotASocket {
        /// What is there.
        kind: &'static str,
    },
    /// There is a socket of another user's.
    #[error("the socket there is owned by {owner}: remove it, or give another place with --address")]
    ForeignSocket {
        /// Its owner.
        owner: String,
    },
    /// After binding, the socket file was not what it should be: somebody else is at work in the directory.
    #[error("the new socket's owner, group or mode is not what was set: {found}")]
    Altered {
        /// What was found instead.
        found: String,
    },
    /// The kind of address exists on another platform only.
    #[error("addresses of this kind don't work on this platform: give unix:/path here, pipe:name on Windows")]
    Unsupported,
    /// The operating system gave another error.
    #[error("{doing} failed")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
}

fn daemon(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another daemon".to_string(), |pid| format!("another daemon, pid {pid},"))
}

/// Why an inherited descriptor can't be listened on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// It is something else than a Unix stream socket that listens.
    #[error("the descriptor is no listening Unix stream socket: check ListenStream= of the socket unit")]
    NotListening,
    /// It has no path, or an abstract name, which any uid may connect to.
    #[error("the socket has no path in the file system: give ListenStream= an absolute path")]
    Unnamed,
    /// The operating system gave an error.
    #[error("the system refuses")]
    Io(#[source] io::Error),
}

impl From<Errno> for AdoptError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A socket file that this process made, and the lock that makes it the only one who may.
#[derive(Debug)]
struct Place {
    directory: SocketDirectory,
    name: OsString,
    /// Device and inode of the socket file.
    identity: (u64, u64),
    _lock: Lock,
}

impl Place {
    fn remove_socket(&self) {
        // A daemon that shuts down has nobody to tell; what stays behind is a dead socket, which the next one takes over.
        if let Ok(Some(found)) = self.directory.entry(&self.name)
            && identity(&found) == self.identity
        {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Removes the new socket file unless it is told that all went well.
struct Unfinished(Option<Place>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(place) = &self.0 {
            place.remove_socket();
        }
    }
}

fn listen_at(path: &SocketPath, access: Access) -> Result<(OwnedFd, Place), BindFault> {
    let (name, lock_name) = (path.file_name(), path.lock_name());
    let directory = SocketDirectory::prepare(path.directory(), access)?;
    let lock = Lock::take(&directory, &lock_name).map_err(|fault| match fault {
        // The one who listens is known to the kernel; the file may still have the pid of the one before.
        LockFault::Held(written) => BindFault::InUse { pid: listening_pid(path).or(written) },
        LockFault::Unsafe => BindFault::UnsafeLock { path: directory.path_of(&lock_name) },
        LockFault::Io(source) => BindFault::Io { doing: "taking the lock file", source },
    })?;
    directory.open_to(access, &[name, &lock_name])?;
    clear(&directory, name, path)?;

    // A group's socket is the owner's alone until it belongs to the group, which it can't before it exists.
    let first_mode =
        if access.group().is_some() { Access::Owner.socket_mode() } else { access.socket_mode() };
    let fd = create(path, first_mode)?;
    let made =
        entry(&directory, name)?.ok_or_else(|| BindFault::Altered { found: "it is gone".to_string() })?;
    let identity = identity(&made);
    let mut unfinished =
        Unfinished(Some(Place { directory, name: name.to_os_string(), identity, _lock: lock }));
    if let Some(place) = &unfinished.0 {
        open_socket(place, access)?;
    }
    let place = unfinished.0.take().expect("put there above");
    Ok((fd, place))
}

/// Removes what nobody listens on any more; anything else in the place is a fault. The caller holds the lock.
fn clear(directory: &SocketDirectory, name: &OsStr, path: &SocketPath) -> Result<(), BindFault> {
    let Some(found) = entry(directory, name)? else { return Ok(()) };
    if !is_socket(&found) {
        return Err(BindFault::NotASocket { kind: kind_of(&found) });
    }
    if found.st_uid != directory.uid() {
        return Err(BindFault::ForeignSocket { owner: describe_uid(found.st_uid) });
    }
    match liveness(path) {
        Liveness::Alive(pid) => Err(BindFault::InUse { pid }),
        Liveness::Absent => Ok(()),
        Liveness::Unknown(source) => {
            Err(BindFault::Io { doing: "asking whether the socket there is in use", source })
        }
        Liveness::Dead => match unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(BindFault::Io { doing: "removing a dead socket", source: error.into() }),
        },
    }
}

/// Makes the socket: its mode is set before it has a name, and a process's umask can only narrow it.
fn create(path: &SocketPath, mode: u32) -> Result<OwnedFd, BindFault> {
    let failed = |source: io::Error| match Errno::from_io_error(&source) {
        Some(Errno::ADDRINUSE) => BindFault::InUse { pid: listening_pid(path) },
        _ => BindFault::Io { doing: "making the socket", source },
    };
    let name = path.as_path().to_fs_name::<GenericFilePath>().map_err(failed)?;
    let options = ListenerOptions::new()
        .name(name)
        .mode(mode)
        .nonblocking(ListenerNonblockingMode::Accept)
        // The file is removed by `Place`, which looks whose it is first.
        .reclaim_name(false);
    match options.create_sync().map_err(failed)? {
        LocalListener::UdSocket(listener) => Ok(listener.into()),
    }
}

/// Gives the new socket its group and the bits that the umask took, and looks whether all is as it should be.
fn open_socket(place: &Place, access: Access) -> Result<(), BindFault> {
    let Place { directory, name, identity: made, .. } = place;
    if let Some(gid) = access.group() {
        directory.give_to_group(name, gid)?;
    }
    let mode = access.socket_mode();
    let found = |entry: Option<Stat>| entry.filter(|found| identity(found) == *made && is_socket(found));
    if found(entry(directory, name)?).is_some_and(|found| found.st_mode & 0o7777 != mode) {
        // It can't be a link, and nobody else may put one there: the directory says so.
        chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|error| BindFault::Io { doing: "chmod of the socket", source: error.into() })?;
    }
    let Some(now) = found(entry(directory, name)?) else {
        return Err(BindFault::Altered { found: "another file is in its place".to_string() });
    };
    let as_set = now.st_mode & 0o7777 == mode
        && now.st_uid == directory.uid()
        && access.group().is_none_or(|gid| gid == now.st_gid);
    if as_set {
        return Ok(());
    }
    let (owner, group) = (describe_uid(now.st_uid), describe_gid(now.st_gid));
    Err(BindFault::Altered { found: format!("{owner}, {group}, mode {:04o}", now.st_mode & 0o7777) })
}

fn entry(directory: &SocketDirectory, name: &OsStr) -> Result<Option<Stat>, BindFault> {
    directory.entry(name).map_err(|source| BindFault::Io { doing: "looking at the socket's place", source })
}

// Device numbers have other types on other systems.
#[allow(clippy::useless_conversion)]
fn identity(found: &Stat) -> (u64, u64) {
    (found.st_dev.into(), found.st_ino.into())
}

fn listening_pid(path: &SocketPath) -> Option<u32> {
    match liveness(path) {
        Liveness::Alive(pid) => pid,
        Liveness::Dead | Liveness::Absent | Liveness::Unknown(_) => None,
    }
}
