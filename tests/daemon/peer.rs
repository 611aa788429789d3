//! A peer that writes what it likes: a socket, the handshake if it is wanted, and raw bytes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use invoked::transport::Stream;
use invoked_proto::decoder::{Decoder, Frame};
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, Failure, GoAway, Hello, Part};
use invoked_proto::preface::Preface;
use invoked_proto::registry::{Codec, ErrorCode, FrameKind, PREFACE_LEN, features, limits};
use invoked_proto::testing::{AnyRecord, frame};

use crate::harness::HANG;

pub(crate) const MAX_FRAME: u32 = 81_920;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Without a word.
    Closed,
    /// By a refusing preface.
    Refused(ErrorCode, String),
    /// By GOAWAY with this code.
    GoAway(Option<ErrorCode>),
}

pub(crate) struct RawPeer {
    pub(crate) socket: UnixStream,
    decoder: Decoder<()>,
    has_preface: bool,
    /// The same socket, for a peer that takes file descriptors; it closes them.
    with_fds: Option<Stream>,
}

impl RawPeer {
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket.set_write_timeout(Some(HANG)).unwrap();
        Self::of(socket, false)
    }

    /// A connection that somebody else has made; its handshake may be over.
    pub(crate) fn of(socket: UnixStream, has_preface: bool) -> Self {
        RawPeer { socket, decoder: Decoder::new(1 << 20), has_preface, with_fds: None }
    }

    /// Connects and shakes hands.
    pub(crate) fn open(path: &Path) -> Self {
        Self::open_saying(path, &greeting())
    }

    /// The same, with channels in force.
    pub(crate) fn open_with_channels(path: &Path) -> Self {
        let preface = preface_with(1, 1, MAX_FRAME, features::CHANNELS);
        Self::open_saying(path, &[&preface[..], &hello()].concat())
    }

    /// Connects with a greeting that lets file descriptors come.
    pub(crate) fn open_with_fds(path: &Path, greeting: &[u8]) -> Self {
        let mut peer = Self::connect(path);
        let socket = peer.socket.try_clone().unwrap();
        peer.with_fds = Some(Stream::from_fd(socket.into()).unwrap());
        peer.greet(greeting);
        peer
    }

    fn open_saying(path: &Path, greeting: &[u8]) -> Self {
        let mut peer = Self::connect(path);
        peer.greet(greeting);
        peer
    }

    fn greet(&mut self, greeting: &[u8]) {
        self.send(greeting);
        let welcome = self.next_frame().expect("a welcome");
        assert_eq!(welcome.header.known_kind(), Some(FrameKind::Welcome));
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends what the daemon may already be closing on.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The next frame, `None` at the end.
    pub(crate) fn next_frame(&mut self) -> Option<Frame<()>> {
        loop {
            if self.has_preface
                && let Some(frame) = self.decoder.next_frame().unwrap()
            {
                return Some(frame);
            }
            if !self.fill() {
                return None;
            }
            if !self.has_preface
                && let Some(bytes) = self.decoder.take_exact::<PREFACE_LEN>()
            {
                let preface = Preface::decode(&bytes).unwrap();
                assert_ne!(preface.version_max, 0, "refused");
                self.has_preface = true;
            }
        }
    }

    /// The error that answers the call on `stream`.
    pub(crate) fn failure(&mut self, stream: u64) -> (ErrorCode, Failure) {
        loop {
            let frame = self.next_frame().expect("an answer");
            if frame.header.stream != stream {
                continue;
            }
            assert_eq!(frame.header.known_kind(), Some(FrameKind::Error), "{frame:?}");
            let record = AnyRecord::decode("Failure", &frame.metadata).unwrap().unwrap();
            let AnyRecord::Failure(failure) = record else { panic!("{record:?}") };
            return (ErrorCode::from_u32(frame.header.arg).unwrap(), failure);
        }
    }

    /// Reads on to the end, and tells how the daemon ended it.
    pub(crate) fn end(mut self) -> End {
        if !self.has_preface {
            let Some(bytes) = self.exact::<PREFACE_LEN>() else { return End::Closed };
            let preface = Preface::decode(&bytes).unwrap();
            if preface.version_max == 0 {
                let code = u32::from_le_bytes(self.exact().expect("a code"));
                let len = u32::from_le_bytes(self.exact().expect("a length"));
                let text: Vec<u8> = (0..len).map(|_| self.exact::<1>().expect("a reason")[0]).collect();
                return End::Refused(ErrorCode::from_u32(code).unwrap(), String::from_utf8(text).unwrap());
            }
            self.has_preface = true;
        }
        let mut end = End::Closed;
        while let Some(frame) = self.next_frame() {
            if frame.header.known_kind() == Some(FrameKind::GoAway) {
                let record = AnyRecord::decode("GoAway", &frame.metadata).unwrap().unwrap();
                assert!(matches!(record, AnyRecord::GoAway(GoAway { .. })));
                let code = (frame.header.arg != 0).then(|| ErrorCode::from_u32(frame.header.arg).unwrap());
                end = End::GoAway(code);
            }
        }
        end
    }

    fn exact<const N: usize>(&mut self) -> Option<[u8; N]> {
        loop {
            if let Some(bytes) = self.decoder.take_exact::<N>() {
                return Some(bytes);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads once; false at the end. A daemon that closes on unread bytes resets the connection: an end as well.
    fn fill(&mut self) -> bool {
        if let Some(stream) = &self.with_fds {
            let (mut buffer, mut fds) = (BytesMut::with_capacity(64 * 1024), VecDeque::new());
            return match stream.recv_wait(&mut buffer, &mut fds, Some(HANG)) {
                Ok(received) => {
                    self.decoder.push(buffer.freeze(), fds.drain(..).map(drop));
                    received.bytes > 0
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
                Err(error) => panic!("the daemon neither answers nor closes: {error}"),
            };
        }
        let mut buffer = BytesMut::zeroed(64 * 1024);
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(read) => {
                buffer.truncate(read);
                self.decoder.push(buffer.freeze(), []);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("the daemon neither answers nor closes: {error}"),
        }
    }
}

pub(crate) fn preface(min: u16, max: u16, max_frame: u32) -> Bytes {
    preface_with(min, max, max_frame, 0)
}

fn preface_with(min: u16, max: u16, max_frame: u32, features: u64) -> Bytes {
    let mut bytes = BytesMut::new();
    Preface { version_min: min, version_max: max, max_frame, features, instance: 1 }.encode(&mut bytes);
    bytes.freeze()
}

pub(crate) fn hello() -> Bytes {
    record(FrameKind::Hello, 0, Hello { name: "raw".into(), ..Hello::default() })
}

pub(crate) fn greeting() -> Vec<u8> {
    [&preface(1, 1, MAX_FRAME)[..], &hello()].concat()
}

/// A frame whose metadata is `record`.
pub(crate) fn record(kind: FrameKind, stream: u64, record: impl Into<AnyRecord>) -> Bytes {
    frame(Header::new(kind, stream), &record.into().encode(), &[])
}

/// The record of a call with one raw part of `len` bytes.
pub(crate) fn raw_call(command: &str, len: u64) -> Call {
    Call { command: command.into(), parts: vec![Part::inline(Codec::Raw, len)], ..Call::default() }
}

/// A whole call with a raw body of up to one fragment.
pub(crate) fn raw_frame(stream: u64, command: &str, body: &[u8]) -> Bytes {
    assert!(body.len() <= limits::FRAGMENT);
    let header = Header { codec: Codec::Raw, ..Header::new(FrameKind::Call, stream) };
    frame(header, &AnyRecord::from(raw_call(command, body.len() as u64)).encode(), body)
}

/// A whole call with a JSON body of up to one fragment.
pub(crate) fn json_frame(stream: u64, command: &str, json: &[u8]) -> Bytes {
    assert!(json.len() <= limits::FRAGMENT);
    let header = Header { codec: Codec::Json, ..Header::new(FrameKind::Call, stream) };
    let parts = vec![Part::inline(Codec::Json, json.len() as u64)];
    let call = Call { command: command.into(), parts, ..Call::default() };
    frame(header, &AnyRecord::from(call).encode(), json)
}

pub(crate) fn cancel_frame(stream: u64) -> Bytes {
    frame(Header::new(FrameKind::Cancel, stream), &[], &[])
}
