//! Little bytes must not keep large buffers: what a peer can make the daemon hold is what it is charged for.

use bytes::Bytes;
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, Part};
use invoked_proto::registry::{Codec, FrameKind, flags};
use invoked_proto::testing::{AnyRecord, frame};

use crate::harness::{Start, stats};
use crate::peer::{RawPeer, json_frame, raw_frame};
use crate::watch::Watch;

/// 200 KB that are skipped, and fill the buffer into which a read goes.
fn padding() -> Vec<u8> {
    let frame = frame(Header::new(FrameKind::Pad, 0), &[], &[0; 66_000]);
    [&frame[..], &frame, &frame].concat()
}

/// How far the daemon's memory may grow, in KiB, while little is held of many reads.
const BOUND: u64 = 24 * 1024;

fn assert_bounded(daemon: &crate::harness::Daemon, before: u64, case: &str) {
    let now = daemon.resident();
    assert!(now < before + BOUND, "{case}: {now} KiB, and {before} KiB before");
}

#[test]
fn open_calls_with_a_header_do_not_keep_what_came_with_them() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let before = daemon.resident();
    let mut peer = RawPeer::open(&daemon.place().socket());
    let padding = padding();
    for i in 0..500 {
        let call = Call {
            command: "bench.sink".into(),
            headers: vec![("k".into(), "v".into())],
            parts: vec![Part::inline(Codec::Raw, 2)],
            ..Call::default()
        };
        let header =
            Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, 2 * i + 1) };
        peer.send(&[&frame(header, &AnyRecord::from(call).encode(), &[7]), &padding[..]].concat());
    }
    // An answer means that all before it was read.
    peer.send(&json_frame(1001, "core.ping", b"{}"));
    peer.next_frame().unwrap();
    assert_eq!(stats(watch.operator())["calls_in_flight"], 501);
    assert_bounded(&daemon, before, "open calls");
    drop(peer);
    watch.finish(&mut daemon, "open calls");
}

#[test]
fn unread_replies_do_not_keep_what_came_with_their_calls() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let before = daemon.resident();
    let mut peer = RawPeer::open(&daemon.place().socket());
    peer.socket.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let padding = padding();
    let mut sent = 0;
    for i in 0..1000 {
        // Above what a write copies, so that the reply would share the memory of the read.
        let call = raw_frame(2 * i + 1, "core.echo", &[7; 1100]);
        if !peer.try_send(&[&call, &padding[..]].concat()) {
            break;
        }
        sent += 1;
    }
    assert!(sent > 100, "only {sent} calls were read");
    assert_bounded(&daemon, before, "unread replies");
    drop(peer);
    watch.finish(&mut daemon, "unread replies");
}

#[test]
fn messages_that_are_announced_cost_nothing_until_they_come() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let before = daemon.resident();
    let mut peer = RawPeer::open(&daemon.place().socket());
    let announce = |stream| -> Bytes {
        let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, stream) };
        frame(header, &AnyRecord::from(crate::peer::raw_call("bench.sink", 60_000_000)).encode(), &[7])
    };
    peer.send(&[announce(1), announce(3)].concat());
    peer.send(&announce(5));
    assert_eq!(peer.failure(5).0, invoked_client::ErrorCode::ResourceExhausted);
    let held = stats(watch.operator())["message_bytes"].as_u64().unwrap();
    assert!((120_000_000..120_000_010).contains(&held), "{held}");
    assert_bounded(&daemon, before, "announced messages");
    drop(peer);
    watch.finish(&mut daemon, "announced messages");
}
