//! Getting from an address to a connected stream, and saying in full why that failed.
//!
//! Owns the connect itself and its diagnosis. It never starts a daemon, and never tries another address than the one given.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream as LocalStream, ToFsName};
use rustix::fs::{FileType, Stat, lstat};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::getpeername;

use crate::address::{Address, SocketPath};
use crate::choose::{AddressSource, ChosenAddress};
use crate::stream::Stream;
use crate::users::{describe_gid, describe_uid};

/// How long [`Stream::connect`] waits for a daemon whose queue of new connections is full.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses between tries at a full queue: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Stream {
    /// Connects, and waits up to [`CONNECT_TIMEOUT`] for a daemon that is slow to accept.
    ///
    /// The stream is blocking (see [`Stream`]) and close-on-exec. Nothing is known of who listens; see
    /// [`connect_chosen`](Self::connect_chosen).
    ///
    /// # Errors
    ///
    /// [`ConnectError`], which says what is at the address and what to do about it.
    pub fn connect(address: &Address) -> Result<Self, ConnectError> {
        Self::connect_within(address, CONNECT_TIMEOUT)
    }

    /// Connects, and waits up to `limit` for a daemon that is slow to accept. It blocks the thread meanwhile.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`ConnectFault::Busy`] when `limit` passed.
    pub fn connect_within(address: &Address, limit: Duration) -> Result<Self, ConnectError> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match Self::try_connect(address) {
                Err(error) if matches!(error.fault, ConnectFault::Busy { .. }) => error,
                result => return result,
            };
            let waited = start.elapsed();
            if waited >= limit {
                return Err(ConnectError { fault: ConnectFault::Busy { waited }, ..error });
            }
            std::thread::sleep(pause.min(limit - waited));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects at once or not at all.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`ConnectFault::Busy`] when the daemon's queue of new connections is full.
    pub fn try_connect(address: &Address) -> Result<Self, ConnectError> {
        let failed =
            |fault| ConnectError { address: address.clone(), chosen_by: None, elsewhere: None, fault };
        let Address::Unix(path) = address else { return Err(failed(ConnectFault::Unsupported)) };
        connect_once(path).map_err(failed)
    }

    /// Connects to an address that was chosen by rule or by name, and checks that its server may be trusted with it.
    ///
    /// An address that somebody named ([`AddressSource::is_explicit`]) is connected to whoever serves it. At one that follows
    /// from a rule, the server must run as root, as this process's own uid, or as the owner of a directory that only root
    /// or that owner could have made: else another user could have taken the name, in `/tmp` above all.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), with the source of the address; [`ConnectFault::Impostor`] for a server that is refused.
    pub fn connect_chosen(chosen: &ChosenAddress) -> Result<Self, ConnectError> {
        let with_source = |error: ConnectError| ConnectError { chosen_by: Some(chosen.source), ..error };
        let stream = Self::connect(&chosen.address).map_err(with_source)?;
        if chosen.source.is_explicit() {
            return Ok(stream);
        }
        match trusted_server(&stream, &chosen.address) {
            Ok(()) => Ok(stream),
            Err(fault) => Err(ConnectError {
                address: chosen.address.clone(),
                chosen_by: Some(chosen.source),
                elsewhere: None,
                fault,
            }),
        }
    }
}

/// Why a connect failed: where to, why there, what is there, and what to do.
#[derive(Debug)]
pub struct ConnectError {
    /// The address.
    pub address: Address,
    /// Why that address was chosen, if it is known.
    pub chosen_by: Option<AddressSource>,
    /// Another address, at which a daemon does answer; see [`ConnectError::look_elsewhere`].
    pub elsewhere: Option<Box<ChosenAddress>>,
    /// What went wrong.
    pub fault: ConnectFault,
}

impl ConnectError {
    /// Looks for a daemon at other addresses, to be named in the message. It tries each once and waits for none.
    #[must_use]
    pub fn look_elsewhere(self, others: &[ChosenAddress]) -> Self {
        let answers = |other: &&ChosenAddress| {
            other.address != self.address && Stream::try_connect(&other.address).is_ok()
        };
        let elsewhere = others.iter().find(answers).cloned().map(Box::new);
        Self { elsewhere, ..self }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}", self.address)?;
        if let Some(source) = self.chosen_by {
            write!(f, " (the address comes from {source})")?;
        }
        write!(f, ": {}", self.fault)?;
        if let Some(other) = &self.elsewhere {
            write!(f, "; a daemon does answer on {} (from {})", other.address, other.source)?;
        }
        Ok(())
    }
}

impl Error for ConnectError {
    /// The fault's own source: its text is part of this error's already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.source()
    }
}

/// What went wrong with a connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFault {
    /// There is no file at the address.
    #[error("there is no socket: is the daemon running? `invoked` starts one")]
    NotFound,
    /// There is a socket, and no process listens on it.
    #[error(
        "nothing listens: the socket, owned by {owner}, was left by a daemon that has ended; start it anew"
    )]
    NotListening {
        /// The owner of the socket.
        owner: String,
    },
    /// There is something else than a socket.
    #[error("{kind} is there and not a socket")]
    NotASocket {
        /// What is there.
        kind: &'static str,
    },
    /// The mode of the socket or of a directory above it keeps this process out.
    #[error(
        "permission denied: {denied}, and this process is {me}; the daemon's `[listen] access` opens it to others"
    )]
    PermissionDenied {
        /// What keeps this process out.
        denied: Box<Denied>,
        /// This process's user.
        me: String,
    },
    /// The daemon's queue of new connections was full all the time.
    #[error("the daemon accepts no connection: its queue was still full after {} ms", waited.as_millis())]
    Busy {
        /// How long it was tried.
        waited: Duration,
    },
    /// Another user serves an address that is not that user's.
    #[error("{server} serves it, and only root, this process's own user or the directory's owner may")]
    Impostor {
        /// The user who serves.
        server: String,
    },
    /// The kind of address exists on another platform only.
    #[error("addresses of this kind don't work on this platform: give unix:/path here, pipe:name on Windows")]
    Unsupported,
    /// The operating system gave another error.
    #[error("the system refuses")]
    Io(#[source] io::Error),
}

/// The file whose mode keeps a process out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Its path: the socket's or a directory's.
    pub path: PathBuf,
    /// Whether it is the socket or a directory.
    pub kind: DeniedKind,
    /// Its owner, with name and number.
    pub owner: String,
    /// Its group, with name and number.
    pub group: String,
    /// Its permission bits.
    pub mode: u32,
}

/// What kind of file keeps a process out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedKind {
    /// The socket.
    Socket,
    /// A directory above the socket, which also hides the socket's own mode.
    Directory,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeniedKind::Socket => f.write_str("the socket")?,
            DeniedKind::Directory => write!(f, "its directory {}", self.path.display())?,
        }
        write!(f, " is owned by {}, {}, mode {:04o}", self.owner, self.group, self.mode)
    }
}

fn connect_once(path: &SocketPath) -> Result<Stream, ConnectFault> {
    let name = path.as_path().to_fs_name::<GenericFilePath>().map_err(ConnectFault::Io)?;
    // "Deferred" is a non-blocking connect. A blocking one waits without end while the queue of the listener is full.
    let options = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred);
    let stream = match options.connect_sync() {
        Ok(LocalStream::UdSocket(stream)) => stream,
        Err(error) => return Err(diagnose(path, error)),
    };
    let fd = OwnedFd::from(stream);
    // interprocess takes a full queue (EAGAIN) for a connect in progress, which Unix sockets don't have.
    match getpeername(&fd) {
        Ok(_) => {}
        Err(Errno::NOTCONN) => return Err(ConnectFault::Busy { waited: Duration::ZERO }),
        Err(error) => return Err(ConnectFault::Io(error.into())),
    }
    ioctl_fionbio(&fd, false).map_err(|error| ConnectFault::Io(error.into()))?;
    Ok(Stream::from_checked(fd))
}

fn diagnose(path: &SocketPath, error: io::Error) -> ConnectFault {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => ConnectFault::NotFound,
        Some(Errno::CONNREFUSED) => match lstat(path.as_path()) {
            Ok(found) if !is_socket(&found) => ConnectFault::NotASocket { kind: kind_of(&found) },
            Ok(found) => ConnectFault::NotListening { owner: describe_uid(found.st_uid) },
            Err(_) => ConnectFault::NotFound,
        },
        Some(Errno::NOTDIR) => ConnectFault::NotASocket { kind: "a file in place of a directory" },
        Some(Errno::PROTOTYPE) => ConnectFault::NotASocket { kind: "a socket of another type" },
        Some(Errno::ACCESS | Errno::PERM) => match who_denies(path.as_path()) {
            Some(denied) => {
                let me = describe_uid(rustix::process::geteuid().as_raw());
                ConnectFault::PermissionDenied { denied, me }
            }
            None => ConnectFault::Io(error),
        },
        _ => ConnectFault::Io(error),
    }
}

/// Finds the first file on the way to the socket that keeps this process out: the directory above the first one that can't
/// be looked at, or the socket itself.
fn who_denies(socket: &Path) -> Option<Box<Denied>> {
    let mut steps: Vec<&Path> = socket.ancestors().collect();
    steps.reverse();
    let mut last = None;
    for step in steps {
        match rustix::fs::stat(step) {
            Ok(found) => last = Some((step, found)),
            Err(_) => break,
        }
    }
    let (path, found) = last?;
    Some(Box::new(Denied {
        path: path.to_path_buf(),
        kind: if path == socket { DeniedKind::Socket } else { DeniedKind::Directory },
        owner: describe_uid(found.st_uid),
        group: describe_gid(found.st_gid),
        mode: found.st_mode & 0o7777,
    }))
}

fn trusted_server(stream: &Stream, address: &Address) -> Result<(), ConnectFault> {
    let server = stream.credentials().map_err(ConnectFault::Io)?.uid;
    if server == 0 || server == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let owns_its_place =
        address.socket_path().is_some_and(|path| owner_of_guarded_directory(path) == Some(server));
    if owns_its_place { Ok(()) } else { Err(ConnectFault::Impostor { server: describe_uid(server) }) }
}

/// The owner of the socket's directory, if only that owner or root can have made and filled it.
fn owner_of_guarded_directory(socket: &Path) -> Option<u32> {
    let directory = socket.parent()?;
    let owner =
        lstat(directory).ok().filter(|found| is_directory(found) && found.st_mode & 0o022 == 0)?.st_uid;
    let guarded = directory.ancestors().skip(1).all(|above| {
        lstat(above).is_ok_and(|above| {
            is_directory(&above)
                && above.st_mode & 0o022 == 0
                && matches!(above.st_uid, uid if uid == 0 || uid == owner)
        })
    });
    // All above it is root's, or the owner's own below root's: nobody else could put a directory there.
    guarded.then_some(owner)
}

pub(crate) fn is_socket(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Socket
}

pub(crate) fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

pub(crate) fn is_symlink(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Symlink
}

/// What a file is, as words that begin a sentence's object.
pub(crate) fn kind_of(found: &Stat) -> &'static str {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "a file of unknown kind",
    }
}

/// What a connect to a socket file finds, for a listener that wants its place.
#[derive(Debug)]
pub(crate) enum Liveness {
    /// A process listens: its pid, if the kernel tells.
    Alive(Option<u32>),
    /// Nobody does, and nobody can any more.
    Dead,
    /// There is no file.
    Absent,
    /// It can't be told.
    Unknown(io::Error),
}

/// Asks whether a process listens at a path, without waiting.
pub(crate) fn liveness(path: &SocketPath) -> Liveness {
    match connect_once(path) {
        Ok(stream) => Liveness::Alive(stream.credentials().ok().and_then(|peer| peer.pid)),
        Err(ConnectFault::Busy { .. }) => Liveness::Alive(None),
        Err(ConnectFault::NotListening { .. }) => Liveness::Dead,
        Err(ConnectFault::NotFound) => Liveness::Absent,
        Err(ConnectFault::Io(error)) => Liveness::Unknown(error),
        Err(other) => Liveness::Unknown(io::Error::other(other)),
    }
}
