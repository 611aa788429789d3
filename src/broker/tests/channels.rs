//! Channels on the simulated bus: handlers that send, callers that take, stop, leave.

use std::time::Duration;

use invoked_proto::registry::{Delivery, ErrorCode};

use super::bus::{Bus, Came, End, policy, written};
use super::{Bound, Bounds, assert_idle, done, fail};
use crate::ipc::{Fault, Response, SendError};

const WINDOW: u64 = 64 * 1024;

fn item(len: usize) -> Response {
    Response::new(vec![7; len])
}

fn closed(code: ErrorCode) -> Result<(), SendError> {
    Err(SendError::Closed { code })
}

/// A bus with a call that runs and has channel 1.
fn called() -> (Bus, usize, u64) {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let stream = bus.call_with_channels(ana, "t.slow", &[1], WINDOW);
    (bus, ana, stream)
}

#[test]
fn items_arrive_in_order_before_and_after_the_reply_and_the_last_drop_ends_the_channel() {
    let (mut bus, ana, stream) = called();
    let channel = bus.channel(1);
    let clone = channel.clone();
    channel.try_send(item(10)).unwrap();
    bus.settle();
    assert_eq!(bus.came(ana, stream, 1).items, [10]);
    bus.complete_oldest(done());
    assert!(matches!(bus.end(ana, stream), Some(End::Reply(_))));
    drop(channel);
    // The call's deadline is long over.
    bus.advance(Duration::from_secs(1000));
    clone.try_send(item(0)).unwrap();
    clone.try_send(item(3)).unwrap();
    assert!(!clone.is_closed());
    drop(clone);
    bus.settle();
    let came = bus.came(ana, stream, 1);
    assert_eq!((came.items, came.ends), (vec![10, 0, 3], vec![None]));
    assert_idle(&bus);
}

#[test]
fn no_item_follows_while_more_waits_to_be_read_than_a_uid_may_leave_unread() {
    const MOST: usize = 250_000;
    let bounds =
        Bounds { reply_bytes: Bound { per_uid: MOST as u64, total: MOST as u64 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    bus.reload(written(
        "identifier = \"x\"\npeers = [\"uid:1000\", \"uid:1001\"]\npermissions = [\"t:allow-slow\"]\n",
    ));
    let [ana, bob] = [1000, 1001].map(|uid| bus.connect(uid).unwrap());
    let [(stream, channel), (other_stream, others)] = [ana, bob].map(|peer| {
        let stream = bus.call_with_channels(peer, "t.slow", &[1], WINDOW);
        let channel = bus.channel(1);
        bus.complete_oldest(done());
        (stream, channel)
    });
    let id = bus.peer_id(ana);
    // As its session says of a peer that grants a byte of each channel and then nothing.
    bus.broker.note_unread(id, MOST);
    channel.try_send(item(10)).unwrap();
    bus.broker.note_unread(id, MOST + 1);
    assert_eq!(channel.try_send(item(10)), Err(SendError::Full), "n + 1");
    assert_eq!(channel.try_send(item(0)), Err(SendError::Full), "nor a small one");
    let other = bus.peer_id(bob);
    bus.broker.note_unread(other, 1);
    bus.broker.note_unread(other, 0);
    others.try_send(item(10)).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| channel.send(item(10)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!sender.is_finished(), "it waits");
        bus.broker.note_unread(id, MOST);
        sender.join().unwrap().unwrap();
    });
    bus.settle();
    assert_eq!(bus.came(ana, stream, 1).items, [10, 10]);
    assert_eq!(bus.came(bob, other_stream, 1).items, [10], "another uid is not held up");
    drop((channel, others));
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn a_channel_that_the_handler_does_not_take_ends_with_the_handler() {
    let (mut bus, ana, stream) = called();
    let run = bus.running.pop_front().unwrap();
    drop(run.wire);
    bus.complete(run.call, done());
    assert_eq!(bus.came(ana, stream, 1).ends, [None]);
    assert_idle(&bus);
}

#[test]
fn a_sender_is_held_up_by_the_receiver_and_by_nothing_else() {
    let (mut bus, ana, stream) = called();
    bus.peers[ana].consumes = false;
    let channel = bus.channel(1);
    let mut sent = 0;
    loop {
        match channel.try_send(item(1000)) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => {
                let before = bus.came(ana, stream, 1).items.len();
                bus.settle();
                if bus.came(ana, stream, 1).items.len() == before {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    let came = bus.came(ana, stream, 1);
    assert_eq!(came.items.len() as u64, WINDOW / 1000, "what the window takes whole");
    let waits = bus.broker.stats();
    assert!(waits.item_bytes <= 64 * 1024, "{waits:?}");
    // Another call of the same peer is served meanwhile.
    let other = bus.call(ana, "t.quick", 100);
    let quick = bus.running.pop_back().unwrap();
    bus.complete(quick.call, done());
    assert!(bus.end(ana, other).is_some());
    // And the channel goes on as items are taken.
    for _ in 0..100 {
        bus.consume(ana, stream, 1);
    }
    assert_eq!(bus.came(ana, stream, 1).items.len(), sent);
    channel.close(Ok(()));
    assert_eq!(channel.try_send(item(1)), closed(ErrorCode::Cancelled));
    bus.complete_oldest(done());
    let Came { ends, .. } = bus.came(ana, stream, 1);
    assert_eq!(ends, [None]);
    assert_idle(&bus);
}

#[test]
fn an_item_larger_than_every_window_arrives() {
    let (mut bus, ana, stream) = called();
    let channel = bus.channel(1);
    channel.try_send(item(3 << 20)).unwrap();
    assert_eq!(channel.try_send(item(5)), Err(SendError::Full));
    bus.settle();
    channel.try_send(item(5)).unwrap();
    drop(channel);
    bus.complete_oldest(done());
    let came = bus.came(ana, stream, 1);
    assert_eq!((came.items, came.ends), (vec![3 << 20, 5], vec![None]));
    assert_idle(&bus);
}

#[test]
fn a_channel_ends_with_the_code_of_its_call_or_of_its_handler() {
    let (mut bus, ana, stream) = called();
    let channel = bus.channel(1);
    channel.try_send(item(1)).unwrap();
    bus.settle();
    bus.complete_oldest(Err(Fault::new(ErrorCode::NotFound, "no such unit").into()));
    assert_eq!(channel.try_send(item(1)), closed(ErrorCode::NotFound));
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::NotFound)]);

    let stream = bus.call_with_channels(ana, "t.slow", &[5, 2], WINDOW);
    let (five, two) = (bus.channel(5), bus.channel(2));
    five.try_send(item(9)).unwrap();
    five.close(Err(Fault::new(ErrorCode::DataLoss, "the log was cut")));
    five.close(Ok(()));
    bus.complete_oldest(done());
    let came = bus.came(ana, stream, 5);
    assert_eq!((came.items, came.ends), (vec![9], vec![Some(ErrorCode::DataLoss)]));
    assert!(bus.came(ana, stream, 2).ends.is_empty(), "the other goes on");
    drop(two);
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn cancel_and_deadline_end_the_channels_of_an_open_call() {
    for (code, delivery) in
        [(ErrorCode::Cancelled, Delivery::Delivered), (ErrorCode::DeadlineExceeded, Delivery::Delivered)]
    {
        let (mut bus, ana, stream) = called();
        let channel = bus.channel(1);
        channel.try_send(item(1)).unwrap();
        if code == ErrorCode::Cancelled {
            bus.cancel(ana, stream);
        } else {
            bus.advance(Duration::from_secs(31));
        }
        assert_eq!(bus.end(ana, stream), Some(&fail(code, delivery)));
        assert_eq!(bus.came(ana, stream, 1).ends, [Some(code)]);
        assert!(channel.is_closed());
        assert_eq!(channel.try_send(item(1)), closed(code));
        bus.complete_oldest(done());
        assert_idle(&bus);
    }
}

#[test]
fn a_receiver_that_stops_closes_the_channel_of_a_handler_that_has_returned() {
    let (mut bus, ana, stream) = called();
    let channel = bus.channel(1);
    bus.complete_oldest(done());
    bus.peers[ana].client.stop_channel(stream, 1);
    bus.settle();
    assert_eq!(channel.try_send(item(1)), closed(ErrorCode::Cancelled));
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::Cancelled)]);
    assert_idle(&bus);

    // Cancelling the ended call stops all.
    let stream = bus.call_with_channels(ana, "t.slow", &[1, 2], WINDOW);
    let channels = [bus.channel(1), bus.channel(2)];
    bus.complete_oldest(done());
    bus.cancel(ana, stream);
    assert!(channels.iter().all(crate::ipc::Channel::is_closed));
    assert_idle(&bus);
}

#[test]
fn a_lost_caller_closes_its_channels_and_what_waited_is_gone() {
    let (mut bus, ana, _) = called();
    bus.peers[ana].consumes = false;
    let channel = bus.channel(1);
    while channel.try_send(item(1000)).is_ok() {
        bus.settle();
    }
    bus.complete_oldest(done());
    bus.kill(ana);
    assert_eq!(channel.try_send(item(1)), closed(ErrorCode::Unavailable));
    assert_idle(&bus);
}

#[test]
fn a_policy_that_takes_the_command_away_ends_channels_that_live_on() {
    let (mut bus, ana, stream) = called();
    let open = bus.call_with_channels(ana, "t.slow", &[1], WINDOW);
    let lives_on = bus.channel(1);
    bus.complete_oldest(done());
    let of_open = bus.channel(1);
    bus.reload(policy(r#"["t:allow-quick"]"#));
    assert_eq!(lives_on.try_send(item(1)), closed(ErrorCode::Revoked));
    assert_eq!(of_open.try_send(item(1)), closed(ErrorCode::Revoked));
    assert_eq!(bus.came(ana, stream, 1).ends, [Some(ErrorCode::Revoked)]);
    assert_eq!(bus.came(ana, open, 1).ends, [Some(ErrorCode::Revoked)]);
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn a_daemon_that_stops_sends_what_waits_and_ends_the_channels() {
    let (mut bus, ana, stream) = called();
    let lives_on = bus.channel(1);
    bus.complete_oldest(done());
    let open = bus.call_with_channels(ana, "t.slow", &[1], WINDOW);
    let of_open = bus.channel(1);
    lives_on.try_send(item(4)).unwrap();
    bus.broker.drain();
    assert_eq!(lives_on.try_send(item(1)), closed(ErrorCode::Unavailable));
    bus.settle();
    let came = bus.came(ana, stream, 1);
    assert_eq!((came.items, came.ends), (vec![4], vec![Some(ErrorCode::Unavailable)]));
    // The open call goes on, and its channel with it.
    of_open.try_send(item(5)).unwrap();
    bus.complete_oldest(done());
    let came = bus.came(ana, open, 1);
    assert_eq!((came.items, came.ends), (vec![5], vec![Some(ErrorCode::Unavailable)]));
    assert_idle(&bus);
}

#[test]
fn items_that_wait_are_bounded_for_a_uid_and_a_starved_channel_goes_on() {
    let bounds = Bounds { item_bytes: Bound { per_uid: 5000, total: 1 << 20 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    bus.call_with_channels(ana, "t.slow", &[1, 2], WINDOW);
    let (one, two) = (bus.channel(1), bus.channel(2));
    one.try_send(item(9000)).unwrap();
    assert_eq!(two.try_send(item(1)), Err(SendError::Full), "the uid's bytes are used up");
    assert_eq!(bus.broker.stats().item_bytes, 9000);
    bus.settle();
    two.try_send(item(5000)).unwrap();
    assert_eq!(one.try_send(item(1)), Err(SendError::Full), "n + 1");
    bus.settle();
    one.try_send(item(1)).unwrap();
    drop((one, two));
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn items_that_wait_leave_a_share_to_other_uids_and_their_channels_go_on_in_turn() {
    let bounds = Bounds { item_bytes: Bound { per_uid: 1 << 20, total: 120_000 }, ..Bounds::default() };
    let mut bus = Bus::with_bounds(bounds);
    bus.reload(written(
        "identifier = \"x\"\npeers = [\"uid:1000\", \"uid:1001\"]\npermissions = [\"t:allow-slow\"]\n",
    ));
    let (ana, bob) = (bus.connect(1000).unwrap(), bus.connect(1001).unwrap());
    bus.call_with_channels(ana, "t.slow", &[1, 2], WINDOW);
    let (one, two) = (bus.channel(1), bus.channel(2));
    bus.complete_oldest(done());
    bus.call_with_channels(bob, "t.slow", &[1], WINDOW);
    let of_bob = bus.channel(1);
    bus.complete_oldest(done());
    // With two uids each leaves twice as much as it has.
    one.try_send(item(30_000)).unwrap();
    two.try_send(item(10_000)).unwrap();
    assert_eq!(two.try_send(item(256)), Err(SendError::Full), "n + 1");
    of_bob.try_send(item(60_000)).unwrap();
    assert_eq!(bus.broker.stats().item_bytes, 100_000);
    assert_eq!(
        of_bob.try_send(item(256)),
        Err(SendError::Full),
        "a first item may be large, what comes on top not"
    );
    bus.settle();
    two.try_send(item(256)).unwrap();
    of_bob.try_send(item(256)).unwrap();
    drop((one, two, of_bob));
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn more_channels_than_a_connection_may_have_are_answered_not_killed() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let all: Vec<u32> = (1..=16).collect();
    for _ in 0..16 {
        bus.call_with_channels(ana, "t.slow", &all, WINDOW);
    }
    assert_eq!(bus.running.len(), 16);
    assert_eq!(bus.broker.stats().channels, 256);
    let request = invoked_proto::connection::Request {
        command: "t.slow".into(),
        channels: vec![invoked_proto::metadata::ChannelDeclaration {
            index: 1,
            direction: invoked_proto::registry::Direction::Down,
            credit: 1,
        }],
        ..Default::default()
    };
    assert!(bus.peers[ana].client.call(request).is_err(), "our own side knows the limit");
    while !bus.running.is_empty() {
        bus.complete_oldest(done());
    }
    bus.running.clear();
    bus.settle();
    assert_idle(&bus);
}
