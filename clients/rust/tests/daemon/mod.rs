//! A daemon for tests: the protocol's accepting side behind a real socket, one thread per connection.
//!
//! What it does is in the command's name; see `Session::answer`.

#![allow(dead_code)] // each test binary uses its own part
#![allow(clippy::unwrap_used)] // a test that can't go on fails

use std::collections::HashMap;
use std::io::{IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use invoked_client::Options;
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Connection, Event, More, Settings, Transmit};
use invoked_proto::metadata::{Call, Failure, Welcome};
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_transport::{Attachment, Interest, Stream};

pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    seen: Arc<Seen>,
    accepting: Option<JoinHandle<()>>,
}

/// What tests look at.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: AtomicUsize,
    pub(crate) cancels: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    stop: AtomicBool,
    sockets: Mutex<Vec<UnixStream>>,
    instance: AtomicUsize,
    open_calls: AtomicUsize,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with_limit(0)
    }

    /// With a limit on open calls, if it is not 0.
    pub(crate) fn start_with_limit(open_calls: usize) -> Self {
        let seen = Arc::new(Seen { instance: AtomicUsize::new(1), ..Seen::default() });
        seen.open_calls.store(open_calls, Ordering::SeqCst);
        let mut daemon = Daemon { directory: tempfile::tempdir().unwrap(), seen, accepting: None };
        daemon.listen();
        daemon
    }

    fn listen(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let seen = Arc::clone(&self.seen);
        self.accepting = Some(std::thread::spawn(move || {
            for socket in listener.incoming() {
                if seen.stop.load(Ordering::SeqCst) {
                    return;
                }
                let socket = socket.unwrap();
                seen.connections.fetch_add(1, Ordering::SeqCst);
                seen.sockets.lock().unwrap().push(socket.try_clone().unwrap());
                let stream = Stream::from_fd(OwnedFd::from(socket)).unwrap();
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || Session::new(stream, seen).run());
            }
        }));
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("d.sock")
    }

    pub(crate) fn options(&self) -> Options {
        options(&self.path())
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn cancels(&self) -> usize {
        self.seen.cancels.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Dies with all its connections, and leaves its socket file behind.
    pub(crate) fn kill(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(self.path()));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
        for socket in self.seen.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Starts anew at the same address.
    pub(crate) fn restart(&mut self) {
        self.kill();
        std::fs::remove_file(self.path()).unwrap();
        self.seen.stop.store(false, Ordering::SeqCst);
        self.seen.instance.fetch_add(1, Ordering::SeqCst);
        self.listen();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn options(path: &std::path::Path) -> Options {
    let address = invoked_transport::Address::unix(path).unwrap();
    Options::new().address(address).name("test", "1").timeout(Duration::from_secs(30))
}

/// Waits for something that another thread does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Listens once: takes what a client sends first, says `bytes`, and closes, or stays silent until the client has gone.
pub(crate) fn say(bytes: Vec<u8>, then: Then) -> (tempfile::TempDir, Options) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let bytes = bytes.clone();
            std::thread::spawn(move || {
                let mut first = [0; 4096];
                let _ = std::io::Read::read(&mut socket, &mut first);
                let _ = socket.write_all(&bytes);
                if then == Then::StaySilent {
                    while std::io::Read::read(&mut socket, &mut first).is_ok_and(|read| read > 0) {}
                }
            });
        }
    });
    let options = options(&path);
    (directory, options)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Close,
    StaySilent,
}

/// One connection.
struct Session {
    stream: Stream,
    connection: Connection<Attachment>,
    transmit: Transmit<Attachment>,
    coming: HashMap<u64, (Call, Assembly)>,
    held: Vec<u64>,
    late: Vec<(Instant, u64)>,
    seen: Arc<Seen>,
}

impl Session {
    fn new(stream: Stream, seen: Arc<Seen>) -> Self {
        let settings =
            Settings { instance: seen.instance.load(Ordering::SeqCst) as u64, ..Settings::default() };
        Session {
            stream,
            connection: Connection::daemon(settings, Instant::now()),
            transmit: Transmit::default(),
            coming: HashMap::new(),
            held: Vec::new(),
            late: Vec::new(),
            seen,
        }
    }

    fn run(mut self) {
        let mut buffer = BytesMut::new();
        loop {
            let Ok(blocked) = self.flush() else { return };
            if self.connection.is_closed() {
                let _ = self.stream.shutdown(Shutdown::Both);
                return;
            }
            let interest = if blocked { Interest::ReadWrite } else { Interest::Read };
            let due = self.late.iter().map(|(at, _)| at.saturating_duration_since(Instant::now())).min();
            let Ok(ready) = self.stream.wait(interest, due) else { return };
            if ready.readable {
                buffer.reserve(256 * 1024);
                let mut fds = Default::default();
                match self.stream.try_read(&mut buffer, &mut fds) {
                    Ok(received) if received.bytes == 0 => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                }
                let _ = self.connection.handle_input(Instant::now(), buffer.split().freeze(), fds);
                while let Some(event) = self.connection.poll_event() {
                    self.handle(event);
                }
            }
            let now = Instant::now();
            for (_, stream) in self.late.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
                let _ = self.connection.reply(stream, Vec::new(), Message::default());
            }
        }
    }

    /// True if the socket is full.
    fn flush(&mut self) -> std::io::Result<bool> {
        loop {
            if self.transmit.is_empty() && !self.connection.poll_transmit(&mut self.transmit) {
                return Ok(false);
            }
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = self.transmit.slices(&mut slices);
            match self.stream.try_write(&slices[..filled], &[]) {
                Ok(written) => self.transmit.advance(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    fn handle(&mut self, event: Event<Attachment>) {
        match event {
            Event::Greeted(_) => {
                let limit = self.seen.open_calls.load(Ordering::SeqCst) as u64;
                let limits = if limit > 0 { vec![(3, limit)] } else { Vec::new() };
                self.connection.welcome(&Welcome { peer: 7, limits, ..Welcome::default() }).unwrap();
            }
            Event::Called { stream, call, payload, more, .. } => {
                let assembly = Assembly::begin(call.parts.clone(), payload).unwrap();
                self.go_on(stream, call, assembly, more);
            }
            Event::Continued { stream, payload, more } => {
                let Some((call, mut assembly)) = self.coming.remove(&stream) else { return };
                assembly.push(&payload).unwrap();
                self.go_on(stream, call, assembly, more);
            }
            Event::Cancelled { stream } => {
                self.seen.cancels.fetch_add(1, Ordering::SeqCst);
                self.coming.remove(&stream);
                self.fail(stream, ErrorCode::Cancelled, "cancelled");
            }
            _ => {}
        }
    }

    fn go_on(&mut self, stream: u64, call: Call, assembly: Assembly, more: More) {
        match more {
            More::Follows => {
                self.coming.insert(stream, (call, assembly));
            }
            More::Whole => {
                self.seen.calls.fetch_add(1, Ordering::SeqCst);
                self.answer(stream, &call, assembly.finish().unwrap());
            }
        }
    }

    fn answer(&mut self, stream: u64, call: &Call, message: Message) {
        match call.command.as_str() {
            "test.echo" => self.connection.reply(stream, call.headers.clone(), message).unwrap(),
            "core.ping" => self.connection.reply(stream, Vec::new(), Message::default()).unwrap(),
            "core.whoami" => self.json(stream, "{\"uid\":0}"),
            // Raw bytes, as many as the JSON body says.
            "test.bytes" => {
                let len = std::str::from_utf8(message.body.bytes()).unwrap().parse().unwrap();
                let bytes = Bytes::from(vec![5; len]);
                self.connection.reply(stream, Vec::new(), Body::Raw(bytes).into()).unwrap();
            }
            "test.deadline" => self.json(stream, &call.deadline_us.unwrap_or(0).to_string()),
            "test.never" => {}
            "test.late" => self.late.push((Instant::now() + Duration::from_millis(100), stream)),
            // Answered by `test.release`.
            "test.hold" => self.held.push(stream),
            "test.release" => {
                for held in std::mem::take(&mut self.held) {
                    let _ = self.connection.reply(held, Vec::new(), Message::default());
                }
                self.connection.reply(stream, Vec::new(), Message::default()).unwrap();
            }
            "test.fail" => {
                let failure = Failure::framework(ErrorCode::Application, "", Delivery::Completed);
                let body = Body::Json(Bytes::from_static(b"{\"kind\":\"gone\"}"));
                self.connection.fail_call(stream, ErrorCode::Application, failure, body.into()).unwrap();
            }
            "test.denied" => {
                let failure = Failure {
                    decision: Some("d-1".into()),
                    ..Failure::framework(ErrorCode::PermissionDenied, "no grant", Delivery::NotDelivered)
                };
                let message = Message::default();
                self.connection.fail_call(stream, ErrorCode::PermissionDenied, failure, message).unwrap();
            }
            "test.drain" => {
                self.connection.drain("restarting");
                self.connection.reply(stream, Vec::new(), Message::default()).unwrap();
            }
            "test.die" => {
                let _ = self.stream.shutdown(Shutdown::Both);
            }
            "test.garbage" => {
                let _ = self.stream.try_write(&[IoSlice::new(message.body.bytes())], &[]);
            }
            _ => self.fail(stream, ErrorCode::NotFound, "no such command"),
        }
    }

    fn json(&mut self, stream: u64, json: &str) {
        let body = Body::Json(Bytes::copy_from_slice(json.as_bytes()));
        self.connection.reply(stream, Vec::new(), body.into()).unwrap();
    }

    fn fail(&mut self, stream: u64, code: ErrorCode, message: &str) {
        let failure = Failure::framework(code, message, Delivery::Delivered);
        let _ = self.connection.fail_call(stream, code, failure, Message::default());
    }
}
