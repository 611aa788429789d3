//! Peers that stop in the middle: of the handshake, of a frame; and those that trickle.

use std::time::{Duration, Instant};

use invoked_client::{Address, ErrorCode};

use crate::child::{Other, await_end, can_be_others, say};
use crate::harness::{Start, eventually, stats};
use crate::peer::{End, MAX_FRAME, RawPeer, greeting, hello, json_frame, preface};
use crate::watch::Watch;

/// Short, so that the tests are; long enough for a loaded machine to keep a well-behaved peer within it.
const SHORT: &str = "[runtime]\nhandshake_timeout_ms = 1500\nframe_timeout_ms = 1500\n";

#[test]
fn half_a_handshake_and_silence_is_closed_on() {
    let mut daemon = Start::dev().config(SHORT).run();
    let watch = Watch::start(&daemon);
    let whole = greeting();
    let cut = [0, 1, 31, 32, 33, whole.len() - 1];
    let peers: Vec<_> = cut
        .iter()
        .map(|&len| {
            let mut peer = RawPeer::connect(&daemon.place().socket());
            peer.send(&whole[..len]);
            peer
        })
        .collect();
    for (peer, len) in peers.into_iter().zip(cut) {
        // Before its preface nobody is known to read GOAWAY.
        let expected = if len < 32 { End::Closed } else { End::GoAway(Some(ErrorCode::DeadlineExceeded)) };
        assert_eq!(peer.end(), expected, "after {len} bytes");
    }
    daemon.await_line(0, &["handshake took too long", "uid=", "deadline_exceeded"]);
    watch.finish(&mut daemon, "half handshakes");
}

#[test]
fn half_a_frame_and_silence_is_closed_on() {
    let mut daemon = Start::dev().config(SHORT).run();
    let watch = Watch::start(&daemon);
    let call = json_frame(1, "core.describe", &[b' '; 60_000]);
    let cut = [1, 23, 24, 25, 30_000, call.len() - 1];
    let peers: Vec<_> = cut
        .iter()
        .map(|&len| {
            let mut peer = RawPeer::open(&daemon.place().socket());
            peer.send(&call[..len]);
            peer
        })
        .collect();
    for (peer, len) in peers.into_iter().zip(cut) {
        assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::DeadlineExceeded)), "after {len} bytes");
    }
    daemon.await_line(0, &["begun and not gone on with", "uid=", "deadline_exceeded"]);
    watch.finish(&mut daemon, "half frames");
}

#[test]
fn half_a_frame_and_the_end_is_a_clean_close() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let call = json_frame(1, "core.describe", &[b' '; 60_000]);
    for len in [1, 23, 24, 25, 30_000, call.len() - 1] {
        let mut peer = RawPeer::open(&daemon.place().socket());
        peer.send(&call[..len]);
        drop(peer);
        watch.check(&mut daemon, &format!("after {len} bytes"));
    }
    daemon.await_line(0, &["ended in the middle of a frame", "uid=", "protocol"]);
    watch.finish(&mut daemon, "half frames");
}

#[test]
fn slow_bytes_keep_neither_a_handshake_nor_a_frame_alive() {
    let mut daemon = Start::dev().config(SHORT).run();
    let watch = Watch::start(&daemon);
    let trickle = |mut peer: RawPeer, bytes: Vec<u8>| {
        std::thread::spawn(move || {
            let start = Instant::now();
            for byte in bytes {
                if !peer.try_send(&[byte]) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(40));
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the bytes kept it alive");
            peer.end()
        })
    };
    let path = daemon.place().socket();
    let slow_hello = [&preface(1, 1, MAX_FRAME)[..], &hello(), &[0; 2000]].concat();
    let handshake = trickle(RawPeer::connect(&path), slow_hello);
    let frame = trickle(RawPeer::open(&path), json_frame(1, "core.describe", &[b' '; 2000]).to_vec());
    let end = End::GoAway(Some(ErrorCode::DeadlineExceeded));
    assert_eq!(frame.join().unwrap(), end);
    // Its 60 bytes of handshake are in time or are not; what follows is a frame that begins and does not end.
    assert_eq!(handshake.join().unwrap(), end);
    watch.finish(&mut daemon, "slow bytes");
}

#[test]
fn a_peer_that_the_daemon_does_not_read_is_not_blamed_for_half_a_frame() {
    let mut daemon =
        Start::dev().config("[runtime]\nframe_timeout_ms = 700\nslow_consumer_timeout_ms = 20000").run();
    let watch = Watch::start(&daemon);
    let mut peer = RawPeer::open(&daemon.place().socket());
    let large = json_frame(1, "bench.bytes", b"{\"len\":8000000}");
    // All of it is sent; the daemon reads the beginning and then pauses, because its own answer is not read.
    let rest: Vec<u8> =
        (1..9).flat_map(|i| json_frame(2 * i + 1, "core.describe", &[b' '; 40_000])).collect();
    let mut writing = peer.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        writing.write_all(&[&large[..], &rest].concat()).unwrap();
    });
    std::thread::sleep(Duration::from_millis(2500));
    let mut ended = Vec::new();
    while ended.len() < 9 {
        let frame = peer.next_frame().expect("served to the end");
        let more = frame.header.has(invoked_proto::registry::flags::MORE);
        assert_ne!(frame.header.stream, 0, "sent away: {frame:?}");
        if !more {
            ended.push(frame.header.stream);
        }
    }
    writer.join().unwrap();
    ended.sort_unstable();
    assert_eq!(ended, [1, 3, 5, 7, 9, 11, 13, 15, 17]);
    drop(peer);
    watch.finish(&mut daemon, "a paused peer");
}

/// Connects many times and says nothing.
pub(crate) fn many_silent(address: &Address) {
    let path = address.socket_path().unwrap();
    let sockets: Vec<_> = (0..100).map(|_| std::os::unix::net::UnixStream::connect(path).unwrap()).collect();
    say(format!("{} connected", sockets.len()));
    await_end();
}

#[test]
fn a_flood_of_silent_connections_takes_only_its_own_uids_turns() {
    if !can_be_others("that silent connections of another uid do not keep this one waiting") {
        return;
    }
    let config =
        "[runtime]\nhandshake_timeout_ms = 20000\n[quotas]\nhandshakes = 8\nhandshakes_per_uid = 4\n";
    let mut daemon = Start::dev().everyone().config(config).run();
    let watch = Watch::start(&daemon);
    let mut flood = Other::start_stranger("silent", daemon.place());
    assert_eq!(flood.answer(), "100 connected");
    let before = daemon.fds();
    for _ in 0..50 {
        daemon.client().ping().expect("another uid is let in at once");
    }
    // Those in the flood that have no turn yet wait; nobody is refused.
    assert_eq!(stats(watch.operator())["connections_refused"], 0);
    assert!(daemon.fds() <= before + 110);
    flood.kill();
    eventually("the flood is still there", || stats(watch.operator())["peers"] == 2);
    watch.finish(&mut daemon, "silent connections");
}

#[test]
fn silent_connections_of_the_own_uid_wait_and_do_not_crowd_out_those_that_are_in() {
    let config = "[runtime]\nhandshake_timeout_ms = 1500\n[quotas]\nhandshakes = 8\nhandshakes_per_uid = 4\n";
    let mut daemon = Start::dev().config(config).run();
    let watch = Watch::start(&daemon);
    let silent: Vec<_> = (0..12).map(|_| RawPeer::connect(&daemon.place().socket())).collect();
    // Waits behind the silent ones, and is served when their turns have passed.
    daemon.client().ping().unwrap();
    for peer in silent {
        assert_eq!(peer.end(), End::Closed);
    }
    watch.finish(&mut daemon, "silent connections");
}
