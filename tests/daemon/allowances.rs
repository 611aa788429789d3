//! Limits that a capability sets, at their value and one above, on real sockets.

use invoked_client::blocking::Client;
use invoked_proto::header::Header;
use invoked_proto::registry::{Codec, ErrorCode, FrameKind, flags};
use invoked_proto::testing::{AnyRecord, frame};

use crate::child::code_of;
use crate::harness::{Start, eventually, stats};
use crate::peer::{RawPeer, raw_call, raw_frame};

fn limits(limits: &str) -> String {
    format!("identifier = \"limits\"\npeers = [\"self\"]\npermissions = []\nlimits = {{ {limits} }}\n")
}

/// A call that stays open: the second half of its message does not come.
fn open_call(peer: &mut RawPeer, stream: u64) {
    let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, stream) };
    peer.send(&frame(header, &AnyRecord::from(raw_call("bench.echo", 100)).encode(), b"half"));
}

#[test]
fn they_hold_from_the_start_and_after_a_change() {
    let daemon =
        Start::dev().capability("limits.toml", &limits("connections_per_uid = 3, max_message = 1000")).run();
    let client = daemon.client();
    let _second = daemon.client();
    let mut peer = RawPeer::open(&daemon.place().socket());
    let refused = Client::connect(daemon.place().options()).unwrap_err();
    assert!(refused.to_string().contains("too many connections"), "{refused}");
    peer.send(&raw_frame(1, "bench.echo", &[7; 1001]));
    assert_eq!(peer.failure(1).0, ErrorCode::TooLarge);
    peer.send(&raw_frame(3, "bench.echo", &[7; 1000]));
    assert_eq!(peer.next_frame().unwrap().header.known_kind(), Some(FrameKind::Result));

    daemon.place().write("capabilities/limits.toml", limits("calls_per_uid = 3, open_calls = 2"));
    eventually("more connections are not let in", || Client::connect(daemon.place().options()).is_ok());
    // Two of one connection, and the question itself is the third of the uid.
    for stream in [5, 7, 9] {
        open_call(&mut peer, stream);
    }
    assert_eq!(peer.failure(9).0, ErrorCode::ResourceExhausted);
    eventually("the calls are not open", || stats(&client)["calls_in_flight"] == 3);
    let mut other = RawPeer::open(&daemon.place().socket());
    open_call(&mut other, 1);
    let over = client.call("core.stats").send().unwrap_err();
    assert_eq!(code_of(&over), "resource_exhausted", "{over}");
}

#[test]
fn a_limit_above_what_the_daemon_has_is_refused_with_its_place() {
    let (exit, _) = Start::dev()
        .config("[quotas]\nmax_message = 5000\n")
        .capability("limits.toml", &limits("max_message = 5001"))
        .try_run()
        .err()
        .expect("it did not start");
    assert!(
        exit.stderr.contains("limits.toml:4:26") && exit.stderr.contains("at most 5000"),
        "{}",
        exit.stderr
    );
}
