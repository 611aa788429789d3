//! Bytes and file descriptors over a stream.
//!
//! A test binary of its own, without child processes: one that is about to be started holds copies of all descriptors for a
//! moment, and then what was closed here isn't.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use invoked_transport::{
    Access, Address, Attachment, Closer, FdRefusal, FdRefusalState, Interest, Listener, MAX_FDS_PER_SEND,
    Readiness, Received, Stream,
};
use rustix::io::{FdFlags, fcntl_getfd};

fn send(stream: &Stream, text: &[u8], fds: &[BorrowedFd<'_>]) {
    assert_eq!(stream.try_write(&[IoSlice::new(text)], fds).expect("written"), text.len());
}

/// Reads once with room for `room` bytes.
fn read(stream: &Stream, room: usize) -> (Vec<u8>, Vec<Attachment>, Received) {
    let (mut buf, mut fds) = (BytesMut::with_capacity(room), VecDeque::new());
    assert_eq!(buf.capacity(), room, "the room is what was asked for");
    let got = stream.try_read(&mut buf, &mut fds).expect("read");
    assert_eq!((got.bytes, got.control, got.full), (buf.len(), !fds.is_empty(), buf.len() == room));
    (buf.to_vec(), fds.into(), got)
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.expect_err("an error").kind()
}

#[test]
fn earlier_bytes_are_glued_to_descriptors_and_later_ones_are_not() {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    send(&near, b"abc", &[]);
    send(&near, b"D", &[file.as_fd()]);
    send(&near, b"E", &[file.as_fd(), file.as_fd()]);
    send(&near, b"fgh", &[]);

    let (text, fds, got) = read(&far, 64);
    assert_eq!((text.as_slice(), fds.len(), got.emptied()), (&b"abcD"[..], 1, false));
    let (text, fds, got) = read(&far, 64);
    assert_eq!((text.as_slice(), fds.len(), got.emptied()), (&b"E"[..], 2, false));
    let (text, fds, got) = read(&far, 64);
    assert_eq!((text.as_slice(), fds.len(), got.emptied()), (&b"fgh"[..], 0, true));
    assert_eq!(
        kind(far.try_read(&mut BytesMut::with_capacity(1), &mut VecDeque::new())),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn descriptors_come_with_the_first_byte_of_their_message() {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    send(&near, b"abc", &[]);
    send(&near, b"DEF", &[file.as_fd()]);
    let counts: Vec<_> = (0..3)
        .map(|_| {
            let (text, fds, _) = read(&far, 2);
            (String::from_utf8(text).expect("letters"), fds.len())
        })
        .collect();
    assert_eq!(counts, [("ab".to_string(), 0), ("cD".to_string(), 1), ("EF".to_string(), 0)]);
}

#[test]
fn what_arrives_is_the_file_that_was_sent_and_is_close_on_exec() {
    let (near, far) = Stream::pair().expect("a pair");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"contents").expect("written");
    send(&near, b"x", &[file.as_fd()]);
    drop(file);
    let (_, mut fds, _) = read(&far, 8);
    let attachment = fds.pop().expect("one");
    assert!(fcntl_getfd(&attachment).expect("flags").contains(FdFlags::CLOEXEC));
    assert_eq!(attachment.size().expect("size"), 8);
    let mut text = String::new();
    let mut file = File::from(OwnedFd::from(attachment));
    io::Seek::rewind(&mut file).expect("rewound");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "contents");
}

#[test]
fn as_many_descriptors_as_the_kernel_allows_arrive_whole() {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    let most = vec![file.as_fd(); MAX_FDS_PER_SEND];
    send(&near, b"x", &most);
    let (_, fds, _) = read(&far, 8);
    assert_eq!(fds.len(), MAX_FDS_PER_SEND);
    drop(fds);

    let one_more = vec![file.as_fd(); MAX_FDS_PER_SEND + 1];
    assert_eq!(kind(near.try_write(&[IoSlice::new(b"x")], &one_more)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(near.try_write(&[IoSlice::new(b"")], &[file.as_fd()])), io::ErrorKind::InvalidInput);
    assert_eq!(kind(near.try_write(&[], &[file.as_fd()])), io::ErrorKind::InvalidInput);
    assert_eq!(
        kind(far.try_read(&mut BytesMut::with_capacity(1), &mut VecDeque::new())),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn a_short_write_sends_its_descriptors_once() {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    let body: Vec<u8> = (0..4_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 4]).collect();
    let fds = [file.as_fd()];
    let mut sent =
        near.try_write(&[IoSlice::new(&body[..10]), IoSlice::new(&body[10..])], &fds).expect("some");
    assert!((1..body.len()).contains(&sent), "{sent} bytes went at once");

    assert_eq!(kind(near.try_write(&[IoSlice::new(&body[sent..])], &[])), io::ErrorKind::WouldBlock);

    let (mut buf, mut queue) = (BytesMut::new(), VecDeque::new());
    while buf.len() < body.len() {
        buf.reserve(64 * 1024);
        assert_ne!(far.try_read(&mut buf, &mut queue).expect("read").bytes, 0);
        match near.try_write(&[IoSlice::new(&body[sent..])], &[]) {
            Ok(taken) => sent += taken,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(queue.len(), 1);
    assert!(buf[..] == body[..], "the bytes are in order");
}

#[test]
fn more_slices_than_the_kernel_takes_are_a_short_write() {
    let (near, far) = Stream::pair().expect("a pair");
    let slices = vec![IoSlice::new(b"x"); 2000];
    assert_eq!(near.try_write(&slices, &[]).expect("some"), 1024);
    assert_eq!(read(&far, 4096).0.len(), 1024);
}

#[test]
fn the_end_of_the_stream_is_zero_bytes_and_a_gone_reader_is_an_error() {
    let (near, far) = Stream::pair().expect("a pair");
    send(&near, b"last", &[]);
    near.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read(&far, 64).0, b"last");
    for _ in 0..2 {
        assert_eq!(read(&far, 64).2.bytes, 0);
    }
    send(&far, b"the other way is open", &[]);
    assert_eq!(read(&near, 64).0, b"the other way is open");
    drop(far);
    assert_eq!(kind(near.try_write(&[IoSlice::new(b"x")], &[])), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_read_without_room_is_refused_and_does_not_look_like_the_end() {
    let (near, far) = Stream::pair().expect("a pair");
    send(&near, b"x", &[]);
    assert_eq!(kind(far.try_read(&mut BytesMut::new(), &mut VecDeque::new())), io::ErrorKind::InvalidInput);
    assert_eq!(read(&far, 64).0, b"x");
}

#[test]
fn a_read_keeps_what_the_buffer_held() {
    let (near, far) = Stream::pair().expect("a pair");
    let mut buf = BytesMut::with_capacity(64);
    buf.extend_from_slice(b"kept ");
    send(&near, b"and added", &[]);
    let got = far.try_read(&mut buf, &mut VecDeque::new()).expect("read");
    assert_eq!((got.bytes, &buf[..]), (9, &b"kept and added"[..]));
}

#[test]
fn waits_tell_what_is_ready() {
    let (near, far) = Stream::pair().expect("a pair");
    let now = Some(Duration::ZERO);
    let wait = |interest| near.wait(interest, now).expect("waited");
    assert_eq!(wait(Interest::Read), Readiness::default());
    assert_eq!(wait(Interest::ReadWrite), Readiness { readable: false, writable: true });
    send(&far, b"x", &[]);
    assert_eq!(wait(Interest::ReadWrite), Readiness { readable: true, writable: true });
    while near.try_write(&[IoSlice::new(&[0; 4096])], &[]).is_ok() {}
    assert_eq!(wait(Interest::Write), Readiness::default());
    drop(far);
    assert_eq!(wait(Interest::ReadWrite), Readiness { readable: true, writable: true });
}

#[test]
fn a_socket_that_was_made_elsewhere_becomes_blocking_and_close_on_exec() {
    use std::os::unix::net::UnixStream;
    let (near, far) = UnixStream::pair().expect("a pair");
    near.set_nonblocking(true).expect("set");
    near.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
    rustix::io::fcntl_setfd(&near, FdFlags::empty()).expect("set");
    let stream = Stream::from_fd(near.into()).expect("a stream");
    assert!(fcntl_getfd(&stream).expect("flags").contains(FdFlags::CLOEXEC));
    let mut buf = BytesMut::with_capacity(8);
    let got = std::thread::scope(|scope| {
        let reader = scope.spawn(|| stream.recv_wait(&mut buf, &mut VecDeque::new(), None));
        std::thread::sleep(Duration::from_millis(20));
        (&far).write_all(b"x").expect("written");
        reader.join().expect("the reader").expect("read")
    });
    assert_eq!(got.bytes, 1);

    for no_stream in [OwnedFd::from(tempfile::tempfile().expect("a file")), udp().into(), datagram().into()] {
        assert!(Stream::from_fd(no_stream).is_err());
    }
}

fn udp() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket")
}

fn datagram() -> std::os::unix::net::UnixDatagram {
    std::os::unix::net::UnixDatagram::unbound().expect("a socket")
}

#[test]
fn a_listener_that_refuses_descriptors_has_streams_that_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = Address::unix(directory.path().join("s/invoked.sock")).expect("short enough");
    let listener = Listener::bind(&address, Access::Owner).expect("bound");
    let state = listener.refuse_fds().expect("set");
    let client = Stream::connect(&address).expect("connected");
    let file = tempfile::tempfile().expect("a file");
    // Sent before anyone has accepted: no moment is left open.
    let sent = client.try_write(&[IoSlice::new(b"x")], &[file.as_fd()]);
    let server = listener.try_accept().expect("accepted");
    match state {
        FdRefusalState::InForce => {
            let error = sent.expect_err("refused");
            assert_eq!(FdRefusal::of(&error), Some(FdRefusal::ReceiverRefuses));
            send(&client, b"bytes go", &[]);
            assert_eq!(read(&server, 64).0, b"bytes go");
        }
        FdRefusalState::Unsupported => {
            sent.expect("an older kernel lets them pass");
            assert_eq!(read(&server, 64).1.len(), 1);
        }
    }
    // The other direction is the client's to close.
    send(&server, b"y", &[file.as_fd()]);
    assert_eq!(read(&client, 64).1.len(), 1);
}

#[test]
fn descriptors_that_were_refused_can_be_let_in_again() {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    let _state = far.refuse_fds().expect("set");
    send(&near, b"bytes", &[]);
    assert_eq!(read(&far, 64).0, b"bytes");
    far.accept_fds().expect("set");
    send(&near, b"with", &[file.as_fd()]);
    assert_eq!((read(&far, 64).0.as_slice(), read_after(&near, &far, &file)), (&b"with"[..], 2));
}

/// How many descriptors come of two that are sent.
fn read_after(near: &Stream, far: &Stream, file: &std::fs::File) -> usize {
    send(near, b"two", &[file.as_fd(), file.as_fd()]);
    read(far, 64).1.len()
}

/// Counts what it is told and given.
#[derive(Debug, Default)]
struct Counting {
    opened: AtomicUsize,
    closed: Mutex<Vec<OwnedFd>>,
}

impl Closer for Counting {
    fn note_opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn close(&self, fd: OwnedFd) {
        self.closed.lock().expect("whole").push(fd);
    }
}

#[test]
fn a_closer_is_given_each_descriptor_that_came_and_is_dropped() {
    let (near, mut far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    let closer = Arc::new(Counting::default());
    far.close_by(Arc::clone(&closer) as _);
    send(&near, b"three", &[file.as_fd(), file.as_fd(), file.as_fd()]);
    let (mut buf, mut fds) = (BytesMut::with_capacity(64), VecDeque::new());
    let _ = far.try_read(&mut buf, &mut fds).expect("read");
    assert_eq!((fds.len(), closer.opened.load(Ordering::Relaxed)), (3, 3));
    let kept: OwnedFd = fds.pop_front().expect("the first").into_fd();
    drop(fds);
    assert_eq!(closer.closed.lock().expect("whole").len(), 2, "what was given up is another's to close");
    drop(kept);
    // One's own are closed where they are dropped.
    drop(Attachment::from(OwnedFd::from(file)));
    assert_eq!(closer.closed.lock().expect("whole").len(), 2);
}

#[test]
fn what_was_sent_before_a_refusal_still_comes_and_reads_go_on_afterwards() {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    send(&near, b"before", &[file.as_fd()]);
    let state = far.refuse_fds().expect("set");
    send(&near, b"after", &[]);
    let (text, fds, got) = read(&far, 64);
    assert_eq!((text.as_slice(), fds.len(), got.emptied()), (&b"before"[..], 1, false));
    for round in 0..3 {
        let (text, fds, got) = read(&far, 64);
        assert_eq!((text.as_slice(), fds.len(), got.emptied()), (&b"after"[..], 0, true), "{round}");
        let nothing = far.try_read(&mut BytesMut::with_capacity(1), &mut VecDeque::new());
        assert_eq!(kind(nothing), io::ErrorKind::WouldBlock);
        let waited = far.recv_wait(
            &mut BytesMut::with_capacity(1),
            &mut VecDeque::new(),
            Some(Duration::from_millis(2)),
        );
        assert_eq!(kind(waited), io::ErrorKind::TimedOut);
        let refused = near.try_write(&[IoSlice::new(b"x")], &[file.as_fd()]);
        match state {
            FdRefusalState::InForce => {
                assert_eq!(FdRefusal::of(&refused.expect_err("refused")), Some(FdRefusal::ReceiverRefuses));
            }
            // Then each read goes on to have room for what comes.
            FdRefusalState::Unsupported => {
                assert_eq!((refused.expect("sent"), read(&far, 64).1.len()), (1, 1));
            }
        }
        send(&near, b"after", &[]);
    }
    drop(near);
    assert_eq!(read(&far, 5).0, b"after");
    assert_eq!(read(&far, 5).2.bytes, 0, "the end");
}
