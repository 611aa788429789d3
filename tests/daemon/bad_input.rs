//! Bytes that break the protocol: the exact code or a clean close, and nothing left of it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::process::Command;

use bytes::Bytes;
use invoked_client::ErrorCode;
use invoked_proto::header::{Header, STREAM_MAX};
use invoked_proto::metadata::{Call, Extensions, Reply, Welcome};
use invoked_proto::registry::{Codec, FrameKind, flags, limits, tags};
use invoked_proto::testing::{AnyRecord, frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::harness::{Daemon, Start};
use crate::peer::{
    End, MAX_FRAME, RawPeer, cancel_frame, hello, json_frame, preface, raw_call, raw_frame, record,
};
use crate::watch::{Innocents, Watch};

/// A frame that a daemon must refuse after a handshake, and the code of its GOAWAY.
struct Bad {
    name: &'static str,
    bytes: Vec<u8>,
    code: ErrorCode,
}

fn bad(name: &'static str, code: ErrorCode, bytes: impl AsRef<[u8]>) -> Bad {
    Bad { name, bytes: bytes.as_ref().to_vec(), code }
}

/// A header as it stands on the wire, whatever it says.
fn header_bytes(change: impl FnOnce(&mut [u8; 24])) -> Vec<u8> {
    let mut bytes = [0; 24];
    Header::new(FrameKind::Ping, 0).write(&mut bytes);
    change(&mut bytes);
    bytes.to_vec()
}

/// A CALL whose metadata is `metadata`, whatever it is.
fn call_with(metadata: &[u8]) -> Bytes {
    frame(Header::new(FrameKind::Call, 1), metadata, &[])
}

fn raw_header(stream: u64, more: u16) -> Header {
    Header { codec: Codec::Raw, flags: more, ..Header::new(FrameKind::Call, stream) }
}

fn encoded(record: impl Into<AnyRecord>) -> Bytes {
    record.into().encode()
}

fn bad_headers() -> Vec<Bad> {
    use ErrorCode::{AttachmentRefused, Protocol, TooLarge};
    vec![
        bad("a length of 4 GiB", TooLarge, header_bytes(|h| h[0..4].fill(0xff))),
        bad(
            "one byte above the largest frame",
            TooLarge,
            header_bytes(|h| h[0..4].copy_from_slice(&(MAX_FRAME + 1).to_le_bytes())),
        ),
        bad(
            "metadata above its limit",
            TooLarge,
            header_bytes(|h| {
                h[0..4].copy_from_slice(&70_000_u32.to_le_bytes());
                h[16..18].fill(0xff);
            }),
        ),
        bad("metadata beyond the frame", Protocol, header_bytes(|h| h[16] = 1)),
        bad("an unknown critical kind", Protocol, header_bytes(|h| h[4] = 0x7f)),
        bad("a reserved kind", Protocol, header_bytes(|h| h[4] = 0x30)),
        bad("kind 0", Protocol, header_bytes(|h| h[4] = 0)),
        bad("an unknown codec", Protocol, header_bytes(|h| h[5] = 9)),
        bad("the reserved byte", Protocol, header_bytes(|h| h[19] = 1)),
        bad(
            "a stream of 2^53",
            Protocol,
            header_bytes(|h| {
                h[4] = 0x14;
                h[8..16].copy_from_slice(&(STREAM_MAX + 1).to_le_bytes());
            }),
        ),
        bad("descriptors that did not come", AttachmentRefused, header_bytes(|h| h[18] = 1)),
        bad("255 descriptors that did not come", AttachmentRefused, header_bytes(|h| h[18] = 255)),
    ]
}

fn bad_order() -> Vec<Bad> {
    use ErrorCode::Protocol;
    let ping = |stream| raw_frame(stream, "core.echo", b"x");
    vec![
        bad("a second HELLO", Protocol, hello()),
        bad("a WELCOME", Protocol, record(FrameKind::Welcome, 0, Welcome::default())),
        bad("a call on stream 0", Protocol, ping(0)),
        bad("a call on an even stream", Protocol, ping(2)),
        bad("the same stream twice", Protocol, [ping(3), ping(3)].concat()),
        bad("a stream below the last", Protocol, [ping(5), ping(3)].concat()),
        bad("a ping on a stream", Protocol, frame(Header::new(FrameKind::Ping, 1), &[], &[])),
        bad("a ping with a payload", Protocol, frame(Header::new(FrameKind::Ping, 0), &[], b"x")),
        bad(
            "data for a stream never opened",
            Protocol,
            frame(Header { flags: flags::CONT, ..Header::new(FrameKind::Data, 1) }, &[], b"x"),
        ),
        bad("a cancel of a stream never opened", Protocol, cancel_frame(1)),
        bad("a result from a caller", Protocol, record(FrameKind::Result, 1, Reply::default())),
        bad(
            "a channel that is not in force",
            Protocol,
            frame(Header::new(FrameKind::Credit, 0), &[1, 0], &[]),
        ),
    ]
}

fn lying_lengths() -> Vec<Bad> {
    use ErrorCode::Protocol;
    let whole = encoded(raw_call("bench.sink", 10));
    let more = |payload: &[u8], flag| frame(raw_header(1, flag), &whole, payload);
    let data = |payload: &[u8], flag| {
        frame(Header { flags: flags::CONT | flag, ..Header::new(FrameKind::Data, 1) }, &[], payload)
    };
    vec![
        bad("more than announced", Protocol, more(&[7; 11], 0)),
        bad("less than announced, and no more to come", Protocol, more(&[7; 9], 0)),
        bad("all of it, and more to come", Protocol, more(&[7; 10], flags::MORE)),
        bad(
            "a continuation beyond the end",
            Protocol,
            [more(&[7; 9], flags::MORE), data(&[7; 2], 0)].concat(),
        ),
        bad(
            "a continuation that ends early",
            Protocol,
            [more(&[7; 8], flags::MORE), data(&[7; 1], 0)].concat(),
        ),
        bad("an empty continuation", Protocol, [more(&[7; 9], flags::MORE), data(&[], flags::MORE)].concat()),
        bad(
            "lengths that overflow",
            Protocol,
            frame(
                raw_header(1, flags::MORE),
                &encoded(Call {
                    parts: vec![raw_call("", u64::MAX).parts[0]; 3],
                    ..raw_call("bench.sink", 0)
                }),
                b"x",
            ),
        ),
        bad(
            "another codec than the first part's",
            Protocol,
            frame(Header { codec: Codec::Json, ..raw_header(1, 0) }, &whole, &[7; 10]),
        ),
        bad(
            "a call without parts",
            Protocol,
            call_with(&encoded(Call { command: "core.ping".into(), ..Call::default() })),
        ),
    ]
}

fn bad_records() -> Vec<Bad> {
    use ErrorCode::Protocol;
    let good = encoded(raw_call("core.ping", 0));
    // The length of the command's name, one byte, in other spellings.
    let with_length = |length: &[u8]| [length, &good[1..]].concat();
    let extended = |tag, value: &'static [u8]| {
        let mut extensions = Extensions::none();
        extensions.insert(tag, Bytes::from_static(value));
        call_with(&encoded(Call { extensions, ..raw_call("core.ping", 0) }))
    };
    let headers = |count: usize| {
        let headers = (0..count).map(|i| (format!("k{i}").as_str().into(), "v".into())).collect();
        call_with(&encoded(Call { headers, ..raw_call("core.ping", 0) }))
    };
    vec![
        bad(
            "a length bomb of 2^64",
            Protocol,
            call_with(&with_length(&[253, 255, 255, 255, 255, 255, 255, 255, 255])),
        ),
        bad("a length bomb of 1 GiB", Protocol, call_with(&with_length(&[252, 0, 0, 0, 64]))),
        bad("a list bomb of 2^64", Protocol, call_with(&[0, 253, 255, 255, 255, 255, 255, 255, 255, 255])),
        bad("a list bomb of 16 Mi", Protocol, call_with(&[0, 252, 0, 0, 0, 1])),
        bad("a length in two bytes too many", Protocol, call_with(&with_length(&[251, 9, 0]))),
        bad(
            "a length in eight bytes too many",
            Protocol,
            call_with(&with_length(&[253, 9, 0, 0, 0, 0, 0, 0, 0])),
        ),
        bad(
            "a length of 128 bits",
            Protocol,
            call_with(&with_length(&[254, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        bad("bytes after the record", Protocol, call_with(&[&good[..], &[0]].concat())),
        bad("a record cut short", Protocol, call_with(&good[..good.len() - 1])),
        bad("an empty record", Protocol, call_with(&[])),
        bad("text that is not UTF-8", Protocol, call_with(&[&[1, 0xff], &good[10..]].concat())),
        bad("too many headers", Protocol, headers(limits::MAX_HEADERS + 1)),
        bad("an origin that a client claims", Protocol, extended(tags::ORIGIN, &[0, 0, 0, 0, 0])),
        bad("a depth that a client claims", Protocol, extended(tags::DEPTH, &[0])),
        bad("an unknown critical extension", Protocol, extended(0x7000, b"x")),
    ]
}

#[test]
fn each_fault_ends_its_connection_with_its_code_and_touches_nothing_else() {
    let mut daemon = Start::dev().run();
    let mut innocents = Innocents::connect(8, &daemon.place().options());
    let watch = Watch::start(&daemon);
    innocents.start();
    let mut told = 0;
    let cases = [bad_headers(), bad_order(), lying_lengths(), bad_records()].into_iter().flatten();
    for Bad { name, bytes, code } in cases {
        let from = daemon.log().len();
        let mut peer = RawPeer::open(&daemon.place().socket());
        peer.send(&bytes);
        assert_eq!(peer.end(), End::GoAway(Some(code)), "{name}");
        if told < 5 {
            // Later ones are held back: a peer does not fill the log.
            daemon.await_line(from, &[&format!("uid={}", own_uid()), code.name()]);
        }
        told += 1;
        watch.check(&mut daemon, name);
    }
    assert_eq!(innocents.finish(), 0, "errors of innocent callers");
    watch.finish(&mut daemon, "all of them");
    assert!(daemon.log().matches("peer broke the protocol").count() < told, "a line for each of {told}");
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn each_faulty_preface_is_refused_or_closed_on() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let mut wrong_end = preface(1, 1, MAX_FRAME).to_vec();
    wrong_end[7] = b'\n';
    for (name, bytes) in [
        ("zeros", vec![0; 32]),
        ("a text peer", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("another text peer", b"EHLO example.org\r\n".to_vec()),
        ("a magic number with a newline converted", wrong_end),
        ("one wrong byte", vec![b'G']),
        ("a frame instead", json_frame(1, "core.ping", b"{}").to_vec()),
    ] {
        let mut peer = RawPeer::connect(&daemon.place().socket());
        peer.send(&bytes);
        assert_eq!(peer.end(), End::Closed, "{name}");
        watch.check(&mut daemon, name);
    }
    for (name, min, max) in [("a newer version", 2, 9), ("an older version", 0, 0), ("none", 5, 1)] {
        let mut peer = RawPeer::connect(&daemon.place().socket());
        peer.try_send(&[&preface(min, max, MAX_FRAME)[..], &hello()].concat());
        let End::Refused(code, reason) = peer.end() else { panic!("{name}: not refused") };
        assert_eq!(code, ErrorCode::VersionMismatch, "{name}");
        assert!(reason.contains("this daemon has 1"), "{name}: {reason}");
        watch.check(&mut daemon, name);
    }
    for max_frame in [0, 20_479] {
        let mut peer = RawPeer::connect(&daemon.place().socket());
        peer.send(&[&preface(1, 1, max_frame)[..], &hello()].concat());
        assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::Protocol)), "max_frame {max_frame}");
    }
    for (name, first, code) in [
        ("a call before HELLO", json_frame(1, "core.ping", b"{}"), ErrorCode::Protocol),
        (
            "a HELLO above the limit of the handshake",
            frame(Header::new(FrameKind::Hello, 0), &[0; 5000], &[]),
            ErrorCode::TooLarge,
        ),
    ] {
        let mut peer = RawPeer::connect(&daemon.place().socket());
        peer.send(&[&preface(1, 1, MAX_FRAME)[..], &first].concat());
        assert_eq!(peer.end(), End::GoAway(Some(code)), "{name}");
    }
    watch.finish(&mut daemon, "prefaces");
}

#[test]
fn more_calls_before_welcome_than_allowed_are_a_fault() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let greeting = crate::peer::greeting();
    let calls: Vec<u8> = (0..5).flat_map(|i| json_frame(2 * i + 1, "core.ping", b"{}")).collect();
    let mut peer = RawPeer::connect(&daemon.place().socket());
    // The HELLO is answered only after all of one read was looked at.
    peer.send(&[&greeting[..], &calls].concat());
    assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::Protocol)));
    let mut peer = RawPeer::connect(&daemon.place().socket());
    peer.send(&[&greeting[..], &calls[..calls.len() / 5 * 4]].concat());
    let kinds: Vec<_> = (0..5).map(|_| peer.next_frame().unwrap().header.known_kind().unwrap()).collect();
    let mut expected = vec![FrameKind::Result; 5];
    expected[0] = FrameKind::Welcome;
    assert_eq!(kinds, expected);
    drop(peer);
    watch.finish(&mut daemon, "early calls");
}

#[test]
fn what_may_be_skipped_is_skipped() {
    let daemon = Start::dev().run();
    let mut peer = RawPeer::open(&daemon.place().socket());
    for kind in [0x80, 0x81, 0xee, 0xff] {
        let mut bytes = frame(Header::new(FrameKind::Pad, 77), &[1, 2, 3], &[9; 5000]).to_vec();
        bytes[4] = kind;
        peer.send(&bytes);
    }
    peer.send(&json_frame(1, "core.ping", b"{}"));
    assert_eq!(peer.next_frame().unwrap().header.known_kind(), Some(FrameKind::Result));
}

#[test]
fn json_that_is_too_deep_is_an_answer_and_not_a_fault() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let client = daemon.client();
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    let in_argument = |depth| [&b"{\"path\":"[..], &nested(depth), b"}"].concat();
    for (name, json) in [
        ("200 levels", nested(200)),
        ("200 levels in an argument", in_argument(200)),
        ("100 000 levels in an argument", in_argument(100_000)),
        ("a megabyte of [", vec![b'['; 1 << 20]),
        ("a megabyte of [ in an argument", [&b"{\"path\":"[..], &vec![b'['; 1 << 20]].concat()),
        ("a megabyte of {\"a\":", b"{\"a\":".repeat(1 << 18)),
        ("no JSON", b"\xff\xfe".to_vec()),
        ("two values", b"{} {}".to_vec()),
        ("a key twice", b"{\"path\":\"/a\",\"path\":\"/b\"}".to_vec()),
        ("nothing", Vec::new()),
    ] {
        for command in ["fs.read_file", "core.describe", "bench.bytes"] {
            let error = client.call(command).json(json.clone()).send().unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{name} for {command}: {error}");
        }
        client.ping().unwrap_or_else(|error| panic!("{name}: the connection is gone: {error}"));
    }
    drop(client);
    watch.finish(&mut daemon, "json");
}

/// Sends `bytes` with a descriptor; false if the kernel refused for the daemon.
fn send_with_fd(peer: &RawPeer, bytes: &[u8], copies: usize) -> bool {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![file.as_fd(); copies];
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    match sendmsg(&peer.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
        Ok(sent) => sent == bytes.len(),
        Err(rustix::io::Errno::PERM) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn descriptors_that_nobody_announced_are_refused_and_closed() {
    refuses_descriptors(Start::dev().run());
}

/// Where the kernel refuses them for the daemon, nothing above gets as far as the daemon.
#[test]
fn descriptors_that_an_older_kernel_lets_pass_are_refused_and_closed() {
    let mut older = Command::new("strace");
    // Detached, so that the daemon is the child and strace is not.
    older.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsockopt"]);
    older.args(["-e", "inject=setsockopt:error=ENOPROTOOPT"]);
    let daemon = Start::dev().through(older).run();
    let peer = RawPeer::open(&daemon.place().socket());
    assert!(send_with_fd(&peer, b"\0", 1), "the daemon still has the kernel refuse them");
    drop(peer);
    refuses_descriptors(daemon);
}

fn refuses_descriptors(mut daemon: Daemon) {
    let watch = Watch::start(&daemon);
    let refused = |end| matches!(end, End::GoAway(Some(ErrorCode::AttachmentRefused)));
    for copies in [1, 16, 253] {
        let case = format!("{copies} descriptors");
        // With the first byte of all: the daemon may not have turned descriptors off for this socket yet.
        let peer = RawPeer::connect(&daemon.place().socket());
        if send_with_fd(&peer, &crate::peer::greeting(), copies) {
            let end = peer.end();
            assert!(matches!(end, End::Closed) || refused(end), "{case} with the preface");
        } else {
            drop(peer);
        }
        watch.check(&mut daemon, &case);
        for bytes in [json_frame(1, "core.ping", b"{}"), Bytes::from_static(b"\0")] {
            let peer = RawPeer::open(&daemon.place().socket());
            if send_with_fd(&peer, &bytes, copies) {
                assert!(refused(peer.end()), "{case} with {} bytes", bytes.len());
            } else {
                drop(peer);
            }
            watch.check(&mut daemon, &case);
        }
    }
    watch.finish(&mut daemon, "descriptors");
}
