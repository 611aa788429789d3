//! Channels against peers that take nothing, give nothing back, or leave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_client::ErrorCode;
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, ChannelDeclaration, Credit, Part};
use invoked_proto::registry::{Codec, Direction, FrameKind, limits};
use invoked_proto::testing::{AnyRecord, frame};

use crate::harness::{Daemon, Start, eventually, stats};
use crate::peer::{End, RawPeer, json_frame};
use crate::watch::Watch;

/// A call of `bench.count` whose channel has so much credit.
fn count(stream: u64, items: u64, size: usize, credit: u64) -> Bytes {
    let json = format!("{{\"items\":{items},\"size\":{size},\"to\":\"__CHANNEL__:1\"}}");
    let call = Call {
        command: "bench.count".into(),
        channels: vec![ChannelDeclaration { index: 1, direction: Direction::Down, credit }],
        parts: vec![Part::inline(Codec::Json, json.len() as u64)],
        ..Call::default()
    };
    let header = Header { codec: Codec::Json, ..Header::new(FrameKind::Call, stream) };
    frame(header, &AnyRecord::from(call).encode(), json.as_bytes())
}

/// Credit of the connection.
fn credit(bytes: u64) -> Bytes {
    let record = AnyRecord::from(Credit { bytes, ..Credit::default() });
    frame(Header::new(FrameKind::Credit, 0), &record.encode(), &[])
}

/// Items without end, for a test.
const FOREVER: u64 = 1 << 40;

fn channels(watch: &Watch) -> u64 {
    stats(watch.operator())["channels"].as_u64().unwrap()
}

#[test]
fn a_receiver_that_grants_without_end_and_never_reads_is_bounded_and_disconnected() {
    let mut daemon = Start::dev().config("[runtime]\nslow_consumer_timeout_ms = 1000\n").run();
    let watch = Watch::start(&daemon);
    let before = daemon.resident();
    let mut peer = RawPeer::open_with_channels(&daemon.place().socket());
    peer.send(&credit(1 << 60));
    for call in 0..8 {
        peer.send(&count(2 * call + 1, FOREVER, 60_000, 1 << 60));
    }
    let mut most = 0;
    eventually("who does not read is still waited for", || {
        most = most.max(daemon.resident());
        daemon.log().contains("left its bytes unread")
    });
    // For each channel a fragment in the pipe, one in the connection and one item more; a batch; and something for the rest.
    let bound = 8 * 3 * 64 + 512 + 8 * 1024;
    assert!(most < before + bound, "{most} KiB, {before} KiB before, and {bound} KiB allowed");
    watch.finish(&mut daemon, "channels that nobody reads");
}

#[test]
fn a_receiver_without_credit_holds_up_its_own_channel_only() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let mut peer = RawPeer::open_with_channels(&daemon.place().socket());
    peer.send(&count(1, FOREVER, 1000, 0));
    peer.send(&count(3, 5, 1000, 256 * 1024));
    eventually("the first waits", || stats(watch.operator())["item_bytes"].as_u64() > Some(60_000));
    // The other channel, its reply, and other calls of the connection come.
    let mut came = Vec::new();
    while came.len() < 7 {
        let frame = peer.next_frame().unwrap();
        assert_eq!(frame.header.stream, 3, "{frame:?}");
        came.push(frame.header.known_kind().unwrap());
    }
    assert_eq!(came.iter().filter(|kind| **kind == FrameKind::Data).count(), 6, "5 items and the end");
    peer.send(&json_frame(5, "core.ping", b"{}"));
    assert_eq!(peer.next_frame().unwrap().header.stream, 5);
    assert_eq!(channels(&watch), 1);
    // It leaves in the middle of it, and its handler ends.
    drop(peer);
    watch.finish(&mut daemon, "a channel without credit");
}

#[test]
fn a_peer_that_gives_no_credit_of_the_connection_back_is_disconnected() {
    let mut daemon = Start::dev().config("[runtime]\nslow_consumer_timeout_ms = 1000\n").run();
    let watch = Watch::start(&daemon);
    let mut peer = RawPeer::open_with_channels(&daemon.place().socket());
    peer.send(&json_frame(1, "bench.bytes", b"{\"len\":60000000}"));
    let mut came = 0;
    while let Some(frame) = peer.next_frame() {
        came += frame.payload.len();
    }
    assert_eq!(came, limits::CONNECTION_WINDOW, "it reads all that it may be sent");
    daemon.await_line(0, &["left its bytes unread", "uid="]);
    watch.finish(&mut daemon, "no credit of the connection");
}

/// Calls that are opened and cancelled at once; a million, say, where `INVOKED_TEST_FLOOD` says so.
fn flood() -> usize {
    let wanted = std::env::var("INVOKED_TEST_FLOOD").ok();
    wanted.map_or(20_000, |text| text.parse().expect("INVOKED_TEST_FLOOD is a number"))
}

#[test]
fn calls_opened_and_cancelled_without_end_leave_nothing_and_run_within_the_limit() {
    const POOL: u64 = 8;
    const QUEUE: u64 = 64;
    let config = format!("[runtime]\npool_threads = {POOL}\npool_queue = {QUEUE}\n");
    let mut daemon = Start::dev().config(&config).run();
    let watch = Watch::start(&daemon);
    let total = flood();
    let flood = || {
        let client = invoked_client::blocking::Client::connect(daemon.place().options()).unwrap();
        for _ in 0..total / 4 {
            let call = client.call("bench.count").arg("items", FOREVER).arg("size", 100);
            let (call, items) = call.channel("to");
            match call.start() {
                Ok(call) => drop((items, call)),
                // As many as may be open wait for their end, which is read with any answer.
                Err(error) => {
                    assert_eq!(error.code(), Some(ErrorCode::ResourceExhausted), "{error}");
                    client.ping().unwrap();
                }
            }
        }
    };
    let mut most = 0;
    std::thread::scope(|scope| {
        let floods: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        while floods.iter().any(|flood| !flood.is_finished()) {
            let stats = stats(watch.operator());
            let running = stats["handlers_elsewhere"].as_u64().unwrap();
            assert!(running <= POOL + QUEUE, "{running} handlers: {stats}");
            most = most.max(running);
        }
    });
    assert!(most > 0, "no handler was seen");
    let stats = stats(watch.operator());
    assert!(stats["abandoned"].as_u64() > Some(0), "none was cancelled while it ran: {stats}");
    watch.finish(&mut daemon, "calls opened and cancelled");
}

/// How long a receiver pauses; 10 s, say, where `INVOKED_TEST_PAUSE` says so, in seconds.
fn pause() -> Duration {
    let wanted = std::env::var("INVOKED_TEST_PAUSE").ok();
    Duration::from_secs(wanted.map_or(1, |text| text.parse().expect("INVOKED_TEST_PAUSE is a number")))
}

/// Pings until `done`, a hundred times at least; the longest of all but one in a hundred.
fn p99(client: &invoked_client::blocking::Client, done: impl Fn() -> bool) -> Duration {
    let mut waited = Vec::new();
    while waited.len() < 100 || !done() {
        let asked = Instant::now();
        client.ping().unwrap();
        waited.push(asked.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    waited.sort_unstable();
    waited[waited.len() * 99 / 100]
}

/// An item of 64 KiB each 4 ms is 16 MiB/s.
const BETWEEN_ITEMS: Duration = Duration::from_millis(4);

/// How much longer a ping may take beside a receiver that pauses, at its p99.
const SLOWER: u32 = 5;

/// Below this the machine decides and not the daemon: a time slice of something else.
const SLICE: Duration = Duration::from_millis(2);

/// Attempts at the pings' times, which anything else on the machine disturbs; what is counted holds in each.
const ATTEMPTS: usize = 3;

#[test]
fn a_receiver_that_pauses_and_then_reads_slowly_gets_every_byte_and_holds_up_nobody() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let mut disturbed = Vec::new();
    for _ in 0..ATTEMPTS {
        let pings = beside_a_slow_receiver(&daemon, &watch);
        if pings.paused.max(pings.reading) < pings.idle.max(SLICE) * SLOWER {
            return watch.finish(&mut daemon, "a receiver that pauses");
        }
        disturbed.push(pings);
    }
    panic!("pings beside a slow receiver take longer, each time: {disturbed:?}");
}

/// The p99 of another peer's pings.
#[derive(Debug)]
struct Pings {
    idle: Duration,
    paused: Duration,
    reading: Duration,
}

/// Has 64 MiB sent to a receiver that takes none for a while and then 16 MiB/s, and checks what arrives and what is held.
fn beside_a_slow_receiver(daemon: &Daemon, watch: &Watch) -> Pings {
    let other = invoked_client::blocking::Client::connect(daemon.place().options()).unwrap();
    let client = invoked_client::blocking::Client::connect(daemon.place().options()).unwrap();
    let begun = Instant::now();
    let idle = p99(&other, || begun.elapsed() > Duration::from_secs(1));
    let before = daemon.resident();
    let (call, mut items) =
        client.call("bench.count").arg("items", 1024).arg("size", 65_536).no_timeout().channel("to");
    let call = call.start().unwrap();
    assert_eq!(items.next().unwrap().unwrap().bytes().len(), 65_536);
    eventually("the sender waits", || stats(watch.operator())["item_bytes"].as_u64() > Some(0));
    let since = Instant::now();
    let paused = p99(&other, || since.elapsed() > pause());
    let most = std::cell::Cell::new(daemon.resident());
    let (rest, reading) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            items
                .map(|item| {
                    std::thread::sleep(BETWEEN_ITEMS);
                    item.unwrap().bytes().len()
                })
                .sum::<usize>()
        });
        let reading = p99(&other, || {
            most.set(most.get().max(daemon.resident()));
            reader.is_finished()
        });
        (reader.join().unwrap(), reading)
    });
    assert_eq!(rest, 1023 * 65_536);
    assert_eq!(call.wait().unwrap().json::<u64>().unwrap(), 1024);
    // What a uid's items may hold by default.
    let most = most.get();
    assert!(
        most < before + 8 * 1024,
        "{most} KiB while its receiver pauses or reads, and {before} KiB before"
    );
    Pings { idle, paused, reading }
}

#[test]
fn what_breaks_the_rules_of_channels_ends_the_connection_and_no_other() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let item = |channel, payload: &[u8]| {
        let parts = vec![Part::inline(Codec::Raw, payload.len() as u64)];
        let header = Header { codec: Codec::Raw, arg: channel, ..Header::new(FrameKind::Data, 1) };
        let record = AnyRecord::from(invoked_proto::metadata::Item { parts, ..Default::default() });
        frame(header, &record.encode(), payload)
    };
    for (name, bytes) in [
        ("an item on a channel that is not declared", item(2, b"x")),
        ("an item from the receiver", item(1, b"x")),
        ("credit above what can be counted", credit(i64::MAX.cast_unsigned())),
    ] {
        let mut peer = RawPeer::open_with_channels(&daemon.place().socket());
        peer.send(&count(1, FOREVER, 100, 10_000));
        peer.send(&bytes);
        assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::Protocol)), "{name}");
        watch.check(&mut daemon, name);
    }
    watch.finish(&mut daemon, "broken rules of channels");
}

/// A daemon that is told to stop while a channel lives on.
#[test]
fn a_daemon_stops_though_a_receiver_takes_nothing() {
    let daemon = Start::dev().config("[runtime]\ndrain_timeout_ms = 200\n").run();
    let mut peer = RawPeer::open_with_channels(&daemon.place().socket());
    peer.send(&count(1, FOREVER, 1000, 0));
    peer.send(&json_frame(3, "core.ping", b"{}"));
    peer.next_frame().unwrap();
    daemon.signal(rustix::process::Signal::TERM);
    let (exit, _) = daemon.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}
