//! Sockets, credentials, file descriptors and memory under invoked.
//!
//! The operating system's side: addresses and how they are chosen, a listener that is alone at its address, streams that
//! carry bytes and file descriptors, and the kernel's word on who is at the other end. No frame is known here, and nothing
//! decides what a peer may do. All `unsafe` code of the workspace is in `sys`.
//!
//! Linux is implemented. On other systems the same names exist as far as they make sense, and what needs the system answers
//! `Unsupported`.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::io::IoSlice;
//!
//! use bytes::BytesMut;
//! use invoked_transport::{Access, Address, Listener, Stream};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("invoked/invoked.sock");
//! let address = Address::unix(path)?;
//! let listener = Listener::bind(&address, Access::Owner)?;
//! let client = Stream::connect(&address)?;
//! let server = listener.try_accept()?;
//!
//! client.try_write(&[IoSlice::new(b"hello")], &[])?;
//! let (mut buf, mut fds) = (BytesMut::with_capacity(64), VecDeque::new());
//! let _ = server.recv_wait(&mut buf, &mut fds, None)?;
//! assert_eq!(&buf[..], b"hello");
//! assert_eq!(server.credentials()?.pid, Some(std::process::id()));
//! # Ok(())
//! # }
//! ```

mod address;
mod allocator;
#[cfg(unix)]
mod attachment;
mod busy_poll;
mod choose;
#[cfg(unix)]
mod connect;
#[cfg(unix)]
mod credentials;
#[cfg(unix)]
mod dial;
#[cfg(unix)]
mod directory;
#[cfg(unix)]
mod inherited;
#[cfg(unix)]
mod listener;
#[cfg(unix)]
mod lock;
#[cfg(unix)]
mod memory;
#[cfg(unix)]
mod peer_file;
#[cfg(unix)]
mod pool;
#[cfg(target_os = "linux")]
mod process;
#[cfg(unix)]
mod segment;
#[cfg(unix)]
mod stream;
mod sys;
mod thread_use;
#[cfg(all(unix, feature = "tokio"))]
mod tokio_stream;
#[cfg(unix)]
mod users;

pub use address::{
    Address, AddressError, AppName, MAX_APP_NAME, MAX_PIPE_NAME, MAX_SOCKET_PATH, PipeName, SocketPath,
};
pub use allocator::{bound_kept_memory, give_back_memory};
#[cfg(unix)]
pub use attachment::{AccessMode, Attachment, AttachmentKind, Closer, FdRefusal, PageSize, Seals};
pub use busy_poll::{BusyPoll, Look};
#[cfg(unix)]
pub use choose::default_addresses;
pub use choose::{
    ADDRESS_VARIABLE, AddressOptions, AddressSource, ChosenAddress, Scope, choose_address, process_env,
};
#[cfg(unix)]
pub use connect::{CONNECT_TIMEOUT, ConnectError, ConnectFault, Denied, DeniedKind};
#[cfg(unix)]
pub use credentials::{Credentials, PeerProcess};
#[cfg(unix)]
pub use dial::{DialError, Dialled, Server, dial};
#[cfg(unix)]
pub use directory::DirectoryFault;
#[cfg(unix)]
pub use listener::{Access, AdoptError, BindError, BindFault, Listener};
#[cfg(unix)]
pub use memory::MemoryStream;
#[cfg(unix)]
pub use peer_file::{PeerFile, PeerFileFault, PeerFileKind};
#[cfg(unix)]
pub use pool::{PlacedAt, SegmentBudget, Slot, SlotPool, Trimmed};
#[cfg(target_os = "linux")]
pub use process::{ControlGroup, Executable, FileId, Process, ProcessError};
#[cfg(unix)]
pub use segment::{SegmentFault, SharedSegment};
#[cfg(unix)]
pub use stream::{ControlTruncated, FdRefusalState, Interest, MAX_FDS_PER_SEND, Readiness, Received, Stream};
#[cfg(windows)]
pub use sys::windows::{Listener, Stream};
pub use thread_use::ThreadUse;
#[cfg(all(unix, feature = "tokio"))]
pub use tokio_stream::{AsyncListener, AsyncStream};
#[cfg(unix)]
pub use users::{Group, User, describe_gid, describe_uid};
