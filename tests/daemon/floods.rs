//! Too much of what is legal by itself: calls, connections, cancels, replies that nobody reads.

use std::collections::HashMap;
use std::net::Shutdown;

use bytes::Bytes;
use invoked_client::ErrorCode;
use invoked_proto::header::Header;
use invoked_proto::registry::{Codec, FrameKind, flags, limits};
use invoked_proto::testing::{AnyRecord, frame};

use crate::harness::{Start, eventually, stats};
use crate::peer::{End, RawPeer, cancel_frame, json_frame, raw_call};
use crate::watch::{Innocents, Watch};

/// The first frame of a call whose message never becomes whole.
fn unfinished(stream: u64, command: &str, len: u64) -> Bytes {
    let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, stream) };
    frame(header, &AnyRecord::from(raw_call(command, len)).encode(), &[7])
}

#[test]
fn one_call_more_than_may_be_open_is_refused_and_the_rest_go_on() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let mut peer = RawPeer::open(&daemon.place().socket());
    let calls: Vec<u8> =
        (0..limits::OPEN_CALLS as u64).flat_map(|i| unfinished(2 * i + 1, "bench.sink", 2)).collect();
    peer.send(&calls);
    let last = 2 * limits::OPEN_CALLS as u64 + 1;
    peer.send(&unfinished(last, "bench.sink", 2));
    let (code, failure) = peer.failure(last);
    assert_eq!(code, ErrorCode::ResourceExhausted);
    assert_eq!(failure.delivery, invoked_client::Delivery::NotDelivered);
    let finish =
        |stream| frame(Header { flags: flags::CONT, ..Header::new(FrameKind::Data, stream) }, &[], &[7]);
    let ends: Vec<u8> = (0..limits::OPEN_CALLS as u64).flat_map(|i| finish(2 * i + 1)).collect();
    peer.send(&ends);
    for _ in 0..limits::OPEN_CALLS {
        let frame = peer.next_frame().expect("an answer");
        assert_eq!(frame.header.known_kind(), Some(FrameKind::Result), "{frame:?}");
    }
    drop(peer);
    watch.finish(&mut daemon, "open calls");
}

#[test]
fn calls_and_bytes_of_one_uid_are_bounded_over_all_its_connections() {
    let config = "[quotas]\ncalls_per_uid = 100\nreassembly_bytes_per_uid = 1000000\n";
    let mut daemon = Start::dev().config(config).run();
    let operator = daemon.client();
    let mut peers: Vec<_> = (0..5).map(|_| RawPeer::open(&daemon.place().socket())).collect();
    for peer in &mut peers[..4] {
        let calls: Vec<u8> = (0..24).flat_map(|i| unfinished(2 * i + 1, "bench.sink", 2)).collect();
        peer.send(&calls);
    }
    eventually("the calls are not open", || stats(&operator)["calls_in_flight"] == 97);
    let calls: Vec<u8> = (0..5).flat_map(|i| unfinished(2 * i + 1, "bench.sink", 2)).collect();
    peers[4].send(&calls);
    let (code, failure) = peers[4].failure(9);
    assert_eq!((code, failure.retryable), (ErrorCode::ResourceExhausted, true), "{failure:?}");
    // All of this uid is held to it, and no longer once the calls are gone.
    assert_eq!(operator.ping().unwrap_err().code(), Some(ErrorCode::ResourceExhausted));
    drop(peers);
    eventually("the calls are still open", || operator.ping().is_ok());

    let watch = Watch::start(&daemon);
    let mut peer = RawPeer::open(&daemon.place().socket());
    peer.send(&unfinished(1, "bench.sink", 900_000));
    peer.send(&unfinished(3, "bench.sink", 100_001));
    let (code, failure) = peer.failure(3);
    assert_eq!((code, failure.retryable), (ErrorCode::ResourceExhausted, true), "{failure:?}");
    let held = stats(watch.operator())["message_bytes"].as_u64().unwrap();
    assert!((900_000..900_010).contains(&held), "{held}");
    drop(peer);
    watch.finish(&mut daemon, "quotas of a uid");
}

#[test]
fn calls_opened_and_cancelled_20_000_times_leave_nothing() {
    let mut daemon = Start::dev().run();
    let mut innocents = Innocents::connect(4, &daemon.place().options());
    let watch = Watch::start(&daemon);
    innocents.start();
    let mut peer = RawPeer::open(&daemon.place().socket());
    let mut socket = peer.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        for batch in 0..200_u64 {
            let pair = |i| {
                let stream = 2 * (batch * 100 + i) + 1;
                // In turn: never whole, in the workers, in the pool, and done before the cancel comes.
                let call = match i % 4 {
                    0 => unfinished(stream, "bench.sink", 2),
                    1 => json_frame(stream, "core.discover", b"{}"),
                    2 => json_frame(stream, "fs.read_file", b"{\"path\":\"/none\"}"),
                    _ => json_frame(stream, "core.ping", b"{}"),
                };
                [call, cancel_frame(stream)].concat()
            };
            socket.write_all(&(0..100).flat_map(pair).collect::<Vec<u8>>()).unwrap();
        }
    });
    let mut ends: HashMap<u64, u32> = HashMap::new();
    while ends.len() < 20_000 {
        let frame = peer.next_frame().expect("an answer to each call");
        *ends.entry(frame.header.stream).or_default() += 1;
        assert!(matches!(frame.header.known_kind(), Some(FrameKind::Result | FrameKind::Error)), "{frame:?}");
    }
    writer.join().unwrap();
    assert!(ends.values().all(|&count| count == 1), "a call ended twice");
    innocents.finish();
    drop(peer);
    watch.finish(&mut daemon, "open and cancel");
}

#[test]
fn connections_beyond_those_of_a_uid_are_turned_away() {
    let mut daemon = Start::dev().config("[quotas]\nconnections_per_uid = 10\n").run();
    let watch = Watch::start(&daemon);
    let connect = || RawPeer::connect(&daemon.place().socket());
    let held: Vec<_> = (0..8).map(|_| RawPeer::open(&daemon.place().socket())).collect();
    let from = daemon.log().len();
    for _ in 0..200 {
        let End::Refused(code, reason) = connect().end() else { panic!("let in") };
        assert_eq!((code, reason.as_str()), (ErrorCode::ResourceExhausted, "too many connections"));
    }
    daemon.await_line(from, &["too many connections", "uid=", "resource_exhausted"]);
    let lines = daemon.log()[from..].matches("too many connections").count();
    assert!(lines < 100, "{lines} lines for 200 connections");
    let error = invoked_client::blocking::Client::connect(daemon.place().options()).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ResourceExhausted), "{error}");
    drop(held);
    eventually("there is room again", || {
        invoked_client::blocking::Client::connect(daemon.place().options()).is_ok()
    });
    watch.finish(&mut daemon, "too many connections");
}

#[test]
fn a_client_that_never_reads_is_bounded_and_then_disconnected() {
    let config = "[runtime]\nslow_consumer_timeout_ms = 1000\n[quotas]\nreply_bytes_per_uid = 70000000\n";
    let mut daemon = Start::dev().config(config).run();
    let mut innocents = Innocents::connect(4, &daemon.place().options());
    let watch = Watch::start(&daemon);
    innocents.start();
    // Bytes that exist: what `bench.bytes` gives is zeros, which no kernel keeps until they are written.
    let path = daemon.place().write("files/large", vec![7; 30_000_000]);
    let json = format!("{{\"path\":\"{}\"}}", path.display());
    let start = daemon.resident();
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = RawPeer::open(&daemon.place().socket());
        let calls: Vec<u8> = (0..40)
            .flat_map(|i| match i % 2 {
                0 => json_frame(2 * i + 1, "bench.bytes", b"{\"len\":60000000}"),
                _ => json_frame(2 * i + 1, "fs.read_file", json.as_bytes()),
            })
            .collect();
        peer.try_send(&calls);
        peers.push(peer);
    }
    let mut most = 0;
    eventually("those who do not read are still waited for", || {
        most = most.max(daemon.resident());
        daemon.log().contains("left its bytes unread")
            && stats(watch.operator())["unread_bytes"].as_u64() < Some(1 << 20)
    });
    daemon.await_line(0, &["left its bytes unread", "uid="]);
    // What the threads of the pool hold, what waits for the loop, the quota of replies, and something for the rest.
    let bound = 16 * 30_000 + 65_536 + 70_000 + 40_000;
    assert!(most < start + bound, "{most} KiB, {start} KiB before, and {bound} KiB allowed");
    drop(peers);
    innocents.finish();
    watch.finish(&mut daemon, "unread replies");
}

#[test]
fn a_peer_that_ends_its_sending_half_is_closed_on() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let path = daemon.place().write("files/large", vec![7; 20_000_000]);
    let json = format!("{{\"path\":\"{}\"}}", path.display());
    for (name, calls) in [
        ("nothing", Bytes::new()),
        ("a small call", json_frame(1, "core.ping", b"{}")),
        ("a call for the pool", json_frame(1, "fs.read_file", json.as_bytes())),
        ("a large reply", json_frame(1, "bench.bytes", b"{\"len\":60000000}")),
    ] {
        let mut peer = RawPeer::open(&daemon.place().socket());
        peer.send(&calls);
        peer.socket.shutdown(Shutdown::Write).unwrap();
        // It has left; what was not said to it yet is dropped (SPEC.md, "Handshake").
        assert_eq!(peer.end(), End::Closed, "{name}");
        watch.check(&mut daemon, name);
    }
    watch.finish(&mut daemon, "half-closed peers");
}
