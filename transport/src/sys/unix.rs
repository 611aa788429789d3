//! Moving bytes and file descriptors over a Unix socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::BytesMut;
use rustix::net::{
    AncillaryDrain, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, recv, sendmsg,
};

use super::platform;
use crate::attachment::Attachment;
use crate::stream::{ControlTruncated, MAX_FDS_PER_SEND, Received};

/// Whether a call may wait in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// It may, for as long as the socket's own timeout says.
    Allowed,
    /// It gives `WouldBlock` instead.
    Never,
}

/// The kernel takes no more slices in one call (`UIO_MAXIOV`); the rest is left to the next call.
const MAX_SLICES: usize = 1024;

/// Room for one `SCM_RIGHTS` record of the most descriptors that the kernel sends at once.
const CONTROL_ROOM: usize = rustix::cmsg_space!(ScmRights(MAX_FDS_PER_SEND));

/// A control buffer, aligned as `recvmsg` writes it.
#[repr(C, align(16))]
struct ControlRoom([MaybeUninit<u8>; CONTROL_ROOM]);

/// One `recvmsg` into the spare capacity of `buf`; descriptors go to the end of `fds`.
///
/// `buf` is as before unless the call succeeds. After the error of a truncated control message the caller closes all of
/// `fds`.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buf: &mut BytesMut,
    fds: &mut VecDeque<Attachment>,
    blocking: Blocking,
) -> io::Result<Received> {
    receive_with_room(socket, buf, fds, blocking, CONTROL_ROOM)
}

/// One `recv` into the spare capacity of `buf`, for a socket on which no descriptor can come: it costs less than a
/// `recvmsg` (measured with 64 bytes there and back: 0.2 of 8.3 us a side). A descriptor that did come would be closed by
/// the kernel.
pub(crate) fn receive_bytes(
    socket: BorrowedFd<'_>,
    buf: &mut BytesMut,
    blocking: Blocking,
) -> io::Result<Received> {
    let spare = buf.spare_capacity_mut();
    let room = spare.len();
    if room == 0 {
        return Err(no_room());
    }
    let flags = match blocking {
        Blocking::Allowed => RecvFlags::empty(),
        Blocking::Never => RecvFlags::DONTWAIT,
    };
    let bytes = loop {
        #[cfg(test)]
        counters::count_receive();
        match recv(socket, &mut *spare, flags) {
            Ok((_, bytes)) => break bytes,
            // A call that may wait gives the interruption back, because its caller counts the time that is left.
            Err(rustix::io::Errno::INTR) if blocking == Blocking::Never => {}
            Err(error) => return Err(error.into()),
        }
    };
    // JUSTIFICATION: reading into uninitialized spare capacity saves zeroing it before each read.
    // SAFETY: the kernel wrote `bytes` bytes, at most `room`, to the start of the spare capacity.
    unsafe { buf.set_len(buf.len() + bytes) };
    Ok(Received { bytes, control: false, full: bytes == room })
}

/// The kernel would answer 0 to a read without room, which means the end of the stream.
fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "there is no room to receive into")
}

fn receive_with_room(
    socket: BorrowedFd<'_>,
    buf: &mut BytesMut,
    fds: &mut VecDeque<Attachment>,
    blocking: Blocking,
    control_room: usize,
) -> io::Result<Received> {
    let spare = buf.spare_capacity_mut();
    let room = spare.len();
    if room == 0 {
        return Err(no_room());
    }
    let mut control = ControlRoom([MaybeUninit::uninit(); CONTROL_ROOM]);
    let message = receive_raw(socket, spare, &mut control.0[..control_room], blocking)?;

    let before = fds.len();
    if message.control > 0 {
        take_fds(&mut control, message.control, fds);
    }
    if message.flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, ControlTruncated));
    }
    // JUSTIFICATION: reading into uninitialized spare capacity saves zeroing it before each read.
    // SAFETY: the kernel wrote `bytes` bytes, at most `room`, to the start of the spare capacity.
    unsafe { buf.set_len(buf.len() + message.bytes) };
    Ok(Received { bytes: message.bytes, control: fds.len() > before, full: message.bytes == room })
}

/// What one `recvmsg` gave: bytes of data, bytes of control messages, and flags.
struct RawMessage {
    bytes: usize,
    control: usize,
    flags: libc::c_int,
}

fn receive_raw(
    socket: BorrowedFd<'_>,
    into: &mut [MaybeUninit<u8>],
    control: &mut [MaybeUninit<u8>],
    blocking: Blocking,
) -> io::Result<RawMessage> {
    let wait = match blocking {
        Blocking::Allowed => 0,
        Blocking::Never => libc::MSG_DONTWAIT,
    };
    let flags = platform::receive_flags()? | wait;
    let mut slice = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    loop {
        // JUSTIFICATION: `msghdr` has private padding on some systems and can only be made by zeroing.
        // SAFETY: it is a C structure of integers and pointers, and zero is a value of each.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        // The field's type differs between C libraries; the room is far below the limits of all of them.
        header.msg_controllen = control.len() as _;
        #[cfg(test)]
        counters::count_receive();
        // JUSTIFICATION: rustix's `recvmsg` takes initialized slices only.
        // SAFETY: `header` points to one slice and one control buffer, both borrowed for the whole call and writable for
        // the lengths given, beyond which the kernel does not write.
        let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        if let Ok(bytes) = usize::try_from(result) {
            // The field is no `usize` in every C library.
            #[allow(clippy::unnecessary_cast)]
            let written = header.msg_controllen as usize;
            let control = written.min(control.len());
            return Ok(RawMessage { bytes, control, flags: header.msg_flags });
        }
        let error = io::Error::last_os_error();
        // A call that may wait gives the interruption back, because its caller counts the time that is left.
        if error.kind() != io::ErrorKind::Interrupted || blocking == Blocking::Allowed {
            return Err(error);
        }
    }
}

/// Takes ownership of each descriptor in the first `written` bytes of a control buffer.
fn take_fds(control: &mut ControlRoom, written: usize, fds: &mut VecDeque<Attachment>) {
    // JUSTIFICATION: rustix's own buffer type can only be filled by its `recvmsg`, which wants initialized memory.
    // SAFETY: `receive_raw` had the kernel write `written` bytes of control messages, at most the buffer's length, to the
    // start of this buffer, which is aligned for `cmsghdr`. Their descriptors are new and are taken once, here.
    let records = unsafe {
        let written = std::slice::from_raw_parts_mut(control.0.as_mut_ptr().cast::<u8>(), written);
        AncillaryDrain::parse(written)
    };
    for record in records {
        if let RecvAncillaryMessage::ScmRights(received) = record {
            fds.extend(received.map(Attachment::from));
        }
    }
}

/// One `sendmsg`, or `send`, that never waits and never raises SIGPIPE; descriptors ride the first byte.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let bufs = &bufs[..bufs.len().min(MAX_SLICES)];
    if fds.is_empty() {
        if let [one] = bufs {
            return send_one(socket, one);
        }
        return send_all(socket, bufs, &mut SendAncillaryBuffer::default());
    }
    if fds.len() > MAX_FDS_PER_SEND || bufs.iter().all(|buf| buf.is_empty()) {
        // The kernel would refuse the first with a puzzling errno, and lose the descriptors of the second in silence.
        let text = "file descriptors need a byte to ride on, and at most 253 go at once";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut room = [MaybeUninit::uninit(); CONTROL_ROOM];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the descriptors don't fit one control message",
        ));
    }
    send_all(socket, bufs, &mut control)
}

/// `send`, which costs less than a `sendmsg` of one slice (measured with 64 bytes there and back: 0.2 of 8.3 us a side).
fn send_one(socket: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    let flags = platform::send_flags()?;
    #[cfg(test)]
    counters::count_send();
    Ok(rustix::io::retry_on_intr(|| rustix::net::send(socket, buf, flags))?)
}

fn send_all(
    socket: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    control: &mut SendAncillaryBuffer<'_, '_, '_>,
) -> io::Result<usize> {
    let flags = platform::send_flags()?;
    #[cfg(test)]
    counters::count_send();
    Ok(rustix::io::retry_on_intr(|| sendmsg(socket, bufs, control, flags))?)
}

/// Hands a descriptor's owner to tokio's reactor.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
#[cfg(feature = "tokio")]
pub(crate) fn register<T: Registered>(
    owner: T,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    use tokio::io::unix::AsyncFd;
    // JUSTIFICATION: tokio has no safe constructor that is not deprecated as unsound.
    // SAFETY: `Registered` is sealed to types that own one descriptor from their making to their drop and answer with it.
    unsafe { AsyncFd::register_with_interest(owner, interest) }.map_err(io::Error::from)
}

/// An owner of one descriptor that it neither closes nor replaces before it is dropped.
#[cfg(feature = "tokio")]
pub(crate) trait Registered: AsRawFd {}

#[cfg(feature = "tokio")]
impl Registered for crate::stream::Stream {}

#[cfg(feature = "tokio")]
impl Registered for crate::listener::Listener {}

/// How many calls this thread has made, for tests that pin the number.
#[cfg(test)]
pub(crate) mod counters {
    use std::cell::Cell;

    thread_local! {
        static RECEIVES: Cell<usize> = const { Cell::new(0) };
        static SENDS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count_receive() {
        RECEIVES.set(RECEIVES.get() + 1);
    }

    pub(super) fn count_send() {
        SENDS.set(SENDS.get() + 1);
    }

    /// `recvmsg` and `recv` calls of this thread so far.
    pub(crate) fn receives() -> usize {
        RECEIVES.get()
    }

    /// `sendmsg` and `send` calls of this thread so far.
    #[cfg(feature = "tokio")]
    pub(crate) fn sends() -> usize {
        SENDS.get()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{self, IoSlice};
    use std::os::fd::AsFd;

    use bytes::BytesMut;

    use super::{Blocking, receive_with_room};
    use crate::stream::{ControlTruncated, Stream};

    #[test]
    fn a_truncated_control_message_is_an_error_that_leaves_nothing_open() {
        let (sender, receiver) = Stream::pair().expect("a pair");
        let (passed, watched) = Stream::pair().expect("a pair");
        let fds = [passed.as_fd(); 4];
        let mut queue = VecDeque::new();
        let mut buf = BytesMut::with_capacity(64);

        // One descriptor came whole and waits in the queue when the next message is cut.
        sender.try_write(&[IoSlice::new(b"a")], &fds[..1]).expect("sent");
        let _ = receiver.try_read(&mut buf, &mut queue).expect("received");
        sender.try_write(&[IoSlice::new(b"b")], &fds).expect("sent");
        drop(passed);
        let room = rustix::cmsg_space!(ScmRights(2)) - size_of::<libc::cmsghdr>();
        let error = receive_with_room(receiver.as_fd(), &mut buf, &mut queue, Blocking::Never, room)
            .expect_err("cut off");

        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<ControlTruncated>()));
        assert!(!queue.is_empty(), "what came is the caller's to close, where it closes the others");
        queue.clear();
        assert_eq!(&buf[..], b"a", "the bytes of the cut message are not handed out");
        // All copies of the passed end are closed, or this would not read the end of the stream.
        drop((sender, receiver));
        let read = watched.try_read(&mut BytesMut::with_capacity(1), &mut queue).expect("the end");
        assert_eq!(read.bytes, 0);
    }
}
