//! No path, above all none that ends in an error, leaves a file descriptor open.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use bytes::BytesMut;
use invoked_transport::{Access, Address, ControlTruncated, Listener, MemoryStream, Stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::child::{Place, Start, leave_dead_socket, say};

#[test]
fn no_path_leaves_a_descriptor_open() {
    // In a process of its own, since the descriptors of tests that run beside this one would be counted too.
    assert_eq!(Start::new("leaks", &Place::new().address()).answer(), "none");
}

type Path = fn(&Address);

/// The child's part: runs each path and compares the number of open descriptors before and after.
pub(crate) fn count(address: &Address) {
    let paths: [(&str, Path); 7] = [
        ("listening", listening),
        ("failing to listen", failing_to_listen),
        ("failing to connect", failing_to_connect),
        ("failing to adopt", failing_to_adopt),
        ("unread descriptors", unread_descriptors),
        ("truncated descriptors", truncated_descriptors),
        ("memory", memory),
    ];
    // What opens once and stays, such as the user database's, is not a leak.
    for (_, path) in paths {
        path(address);
    }
    let mut leaking = Vec::new();
    for (name, path) in paths {
        let before = open_descriptors();
        path(address);
        if open_descriptors() != before {
            leaking.push(format!("{name}: {} to {}", before, open_descriptors()));
        }
    }
    say(if leaking.is_empty() { "none".to_string() } else { leaking.join(", ") });
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("readable").count()
}

fn listening(address: &Address) {
    let listener = Listener::bind(address, Access::Everyone).expect("bound");
    let client = Stream::connect(address).expect("connected");
    let server = listener.try_accept().expect("accepted");
    drop(server.credentials().expect("credentials"));
    drop(client.credentials().expect("credentials"));
}

fn failing_to_listen(address: &Address) {
    let path = address.socket_path().expect("a path");
    let first = Listener::bind(address, Access::Everyone).expect("bound");
    assert!(Listener::bind(address, Access::Everyone).is_err());
    drop(first);
    std::fs::write(path, "").expect("written");
    assert!(Listener::bind(address, Access::Everyone).is_err());
    std::fs::remove_file(path).expect("removed");
    let other = UnixListener::bind(path).expect("bound");
    assert!(Listener::bind(address, Access::Everyone).is_err());
    drop(other);
    std::fs::remove_file(path).expect("removed");
    let directory = path.parent().expect("a directory");
    crate::child::set_mode(directory, 0o777);
    assert!(Listener::bind(address, Access::Everyone).is_err());
    crate::child::set_mode(directory, 0o755);
}

fn failing_to_connect(address: &Address) {
    let path = address.socket_path().expect("a path");
    assert!(Stream::connect(address).is_err());
    leave_dead_socket(path);
    assert!(Stream::connect(address).is_err());
    std::fs::remove_file(path).expect("removed");
    let listener = Listener::bind(address, Access::Owner).expect("bound");
    rustix::net::listen(&listener, 0).expect("a shorter queue");
    let waiting: Vec<_> = std::iter::from_fn(|| Stream::try_connect(address).ok()).collect();
    assert!(!waiting.is_empty());
}

fn failing_to_adopt(_: &Address) {
    let (one, other) = UnixStream::pair().expect("a pair");
    assert!(Listener::from_fd(one.into()).is_err());
    drop(other);
    assert!(Stream::from_fd(io::pipe().expect("a pipe").0.into()).is_err());
}

fn unread_descriptors(_: &Address) {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    for _ in 0..2 {
        near.try_write(&[IoSlice::new(b"x")], &[file.as_fd(); 9]).expect("written");
    }
    let (mut buf, mut fds) = (BytesMut::with_capacity(8), VecDeque::new());
    let _ = far.try_read(&mut buf, &mut fds).expect("read");
    assert_eq!(fds.len(), 9);
}

/// The kernel truncates what a process has no free descriptors for.
fn truncated_descriptors(_: &Address) {
    let (near, far) = Stream::pair().expect("a pair");
    let file = tempfile::tempfile().expect("a file");
    near.try_write(&[IoSlice::new(b"a")], &[file.as_fd(); 3]).expect("written");
    near.try_write(&[IoSlice::new(b"b")], &[file.as_fd(); 60]).expect("written");
    near.try_write(&[IoSlice::new(b"c")], &[]).expect("written");
    let (mut buf, mut fds) = (BytesMut::with_capacity(8), VecDeque::new());
    let _ = far.try_read(&mut buf, &mut fds).expect("read");
    assert_eq!(fds.len(), 3);

    let limits = getrlimit(Resource::Nofile);
    let highest = fds.iter().map(AsRawFd::as_raw_fd).max().expect("three");
    let few = u64::try_from(highest).expect("a descriptor") + 20;
    setrlimit(Resource::Nofile, Rlimit { current: Some(few), ..limits }).expect("lowered");
    let error = far.try_read(&mut buf, &mut fds).expect_err("no room for 60");
    setrlimit(Resource::Nofile, limits).expect("raised");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.get_ref().is_some_and(|inner| inner.is::<ControlTruncated>()), "{error}");
    assert!(fds.is_empty(), "all are closed, those from before too");
}

fn memory(_: &Address) {
    let (near, far) = MemoryStream::pair(64);
    let file = tempfile::tempfile().expect("a file");
    for _ in 0..2 {
        near.try_write(&[IoSlice::new(b"x")], &[file.as_fd(); 4]).expect("written");
    }
    let _ = far.try_read(&mut BytesMut::with_capacity(8), &mut VecDeque::new()).expect("read");
}
