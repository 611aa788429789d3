//! Channels on the simulated bus on which callers send: handlers that read, leave, and are told of ends.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Event, Request, Role, Sent};
use invoked_proto::metadata::ChannelDeclaration;
use invoked_proto::registry::{Direction, ErrorCode};

use super::bus::{Bus, policy};
use super::{Bound, Bounds, assert_idle, done};
use crate::ipc::{ChannelItem, ChannelReader, Fault, RecvError};

fn raw(len: usize) -> Message {
    Body::Raw(Bytes::from(vec![7; len])).into()
}

/// A bus with a call that runs and has channel 1 from its caller.
fn called() -> (Bus, usize, u64) {
    called_with(Bounds::default())
}

fn called_with(bounds: Bounds) -> (Bus, usize, u64) {
    let mut bus = Bus::with_bounds(bounds);
    let ana = bus.connect(1000).unwrap();
    let stream = call(&mut bus, ana);
    (bus, ana, stream)
}

fn call(bus: &mut Bus, peer: usize) -> u64 {
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Up, credit: 0 }];
    let request = Request { command: "t.slow".into(), channels, ..Request::default() };
    let stream = bus.peers[peer].client.call(request).unwrap();
    bus.settle();
    stream
}

fn reader(bus: &Bus) -> ChannelReader<ChannelItem> {
    bus.running.front().expect("a handler runs").wire.channels.reader(1).expect("it is declared")
}

fn send(bus: &mut Bus, peer: usize, stream: u64, len: usize) -> bool {
    let sent = bus.peers[peer].client.send_item(stream, 1, raw(len)).unwrap();
    bus.settle();
    matches!(sent, Sent::Queued)
}

fn end(bus: &mut Bus, peer: usize, stream: u64, code: Option<ErrorCode>) {
    bus.peers[peer].client.end_channel(stream, 1, code, "so");
    bus.settle();
}

/// The lengths of the items that are there.
fn read(reader: &mut ChannelReader<ChannelItem>) -> Vec<usize> {
    let items = std::iter::from_fn(|| reader.try_recv()).map_while(Result::ok);
    items.map(|item| item.body.bytes().len()).collect()
}

fn closed(code: ErrorCode, message: &str) -> Option<Result<ChannelItem, RecvError>> {
    Some(Err(RecvError::Closed { code, message: message.to_owned() }))
}

fn message_bytes(bus: &Bus) -> u64 {
    bus.broker.stats().message_bytes
}

#[test]
fn items_are_charged_until_the_handler_takes_them_also_after_the_reply() {
    let (mut bus, ana, stream) = called();
    let mut reader = reader(&bus);
    assert_eq!(reader.try_recv(), Some(Err(RecvError::Empty)));
    assert!(send(&mut bus, ana, stream, 10) && send(&mut bus, ana, stream, 1000));
    assert_eq!(message_bytes(&bus), 256 + 1000, "a small item costs 256");
    bus.complete_oldest(done());
    assert!(bus.end(ana, stream).is_some());
    bus.advance(Duration::from_secs(1000));
    assert_eq!(read(&mut reader), [10, 1000]);
    bus.settle();
    assert_eq!(message_bytes(&bus), 0);
    assert!(send(&mut bus, ana, stream, 0));
    end(&mut bus, ana, stream, None);
    assert_eq!(message_bytes(&bus), 256, "what came before the end is still to be read");
    assert_eq!(read(&mut reader), [0]);
    assert_eq!(reader.try_recv(), None, "it ended well");
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn a_handler_that_does_not_read_holds_its_caller_up_and_goes_on_when_it_does() {
    let (mut bus, ana, stream) = called();
    let mut reader = reader(&bus);
    let mut sent = 0;
    while send(&mut bus, ana, stream, 1000) {
        sent += 1;
    }
    assert!((262..=330).contains(&sent), "the window of 256 KiB takes it, and a little waits: {sent}");
    assert!(message_bytes(&bus) <= 264 * 1000, "{}", message_bytes(&bus));
    // The caller's other calls are served.
    let other = bus.call(ana, "t.quick", 100);
    let quick = bus.running.pop_back().unwrap();
    bus.complete(quick.call, done());
    assert!(bus.end(ana, other).is_some());
    let mut came = 0;
    for _ in 0..100 {
        came += read(&mut reader).len();
        bus.settle();
    }
    assert_eq!(came, sent);
    assert!(send(&mut bus, ana, stream, 1000));
    end(&mut bus, ana, stream, Some(ErrorCode::DataLoss));
    assert_eq!(read(&mut reader), [1000]);
    assert_eq!(reader.try_recv(), None, "an end with a code is told once");
    bus.complete_oldest(done());
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn a_bad_end_is_told_with_its_code_once() {
    let (mut bus, ana, stream) = called();
    let mut reader = reader(&bus);
    end(&mut bus, ana, stream, Some(ErrorCode::DataLoss));
    assert_eq!(reader.try_recv(), closed(ErrorCode::DataLoss, "so"));
    assert_eq!(reader.try_recv(), None);
    drop(reader);
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn an_item_larger_than_every_window_arrives_and_one_above_the_quota_ends_its_channel() {
    let bounds = Bounds { message_bytes: Bound { per_uid: 5 << 20, total: 1 << 30 }, ..Bounds::default() };
    let (mut bus, ana, stream) = called_with(bounds);
    let mut reader = reader(&bus);
    assert!(send(&mut bus, ana, stream, 3 << 20));
    assert_eq!(read(&mut reader), [3 << 20]);
    bus.settle();
    assert!(send(&mut bus, ana, stream, 6 << 20));
    let refused = "too many bytes of this uid's messages are held";
    assert_eq!(reader.try_recv(), closed(ErrorCode::ResourceExhausted, refused));
    let sent = bus.peers[ana].client.send_item(stream, 1, raw(1)).unwrap();
    assert!(matches!(sent, Sent::Ended), "it was asked to stop: {sent:?}");
    drop(reader);
    bus.complete_oldest(done());
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn a_handler_that_leaves_stops_its_caller() {
    for takes in [false, true] {
        let (mut bus, ana, stream) = called();
        send(&mut bus, ana, stream, 1000);
        if takes {
            drop(reader(&bus));
        } else {
            let run = bus.running.pop_front().unwrap();
            drop(run.wire);
            bus.complete(run.call, done());
        }
        bus.settle();
        let sent = bus.peers[ana].client.send_item(stream, 1, raw(1)).unwrap();
        assert!(matches!(sent, Sent::Ended), "{sent:?}");
        if takes {
            bus.complete_oldest(done());
        }
        assert_idle(&bus);
    }
}

#[test]
fn what_ends_a_call_badly_ends_its_channels_and_drops_what_waits() {
    type Act = fn(&mut Bus, usize, u64);
    let acts: [(ErrorCode, Act); 5] = [
        (ErrorCode::Cancelled, |bus, ana, stream| bus.cancel(ana, stream)),
        (ErrorCode::DeadlineExceeded, |bus, _, _| bus.advance(Duration::from_secs(31))),
        (ErrorCode::Unavailable, |bus, ana, _| bus.kill(ana)),
        (ErrorCode::Revoked, |bus, _, _| drop(bus.reload(policy(r#"["t:allow-quick"]"#)))),
        (ErrorCode::Aborted, |bus, _, _| {
            let call = bus.running.front().unwrap().call;
            bus.complete(call, Err(Fault::new(ErrorCode::Aborted, "no").into()));
        }),
    ];
    for (code, act) in acts {
        let (mut bus, ana, stream) = called();
        let mut reader = reader(&bus);
        send(&mut bus, ana, stream, 1000);
        act(&mut bus, ana, stream);
        let next = reader.try_recv();
        assert!(
            matches!(&next, Some(Err(RecvError::Closed { code: told, .. })) if *told == code),
            "{code}: {next:?}"
        );
        let left = bus.running.pop_front().filter(|_| code != ErrorCode::Aborted);
        left.into_iter().for_each(|run| bus.complete(run.call, done()));
        drop(reader);
        bus.settle();
        assert_idle(&bus);
    }
}

#[test]
fn channels_that_live_on_end_with_their_grant_and_with_the_daemon() {
    let (mut bus, ana, stream) = called();
    let mut revoked = reader(&bus);
    bus.complete_oldest(done());
    bus.reload(policy(r#"["t:allow-quick"]"#));
    assert!(matches!(revoked.try_recv(), Some(Err(RecvError::Closed { code: ErrorCode::Revoked, .. }))));
    let sent = bus.peers[ana].client.send_item(stream, 1, raw(1)).unwrap();
    assert!(matches!(sent, Sent::Ended), "{sent:?}");
    bus.reload(policy(r#"["t:allow-quick", "t:allow-slow"]"#));
    let stream = call(&mut bus, ana);
    let mut stopped = reader(&bus);
    bus.complete_oldest(done());
    send(&mut bus, ana, stream, 5);
    bus.broker.drain();
    bus.settle();
    assert_eq!(read(&mut stopped), [5], "what came is still to be read");
    drop(stopped);
    bus.settle();
    assert_idle(&bus);
}

#[test]
fn what_came_of_a_channel_that_has_ended_is_charged_until_it_is_read_whatever_the_policy_does() {
    for reads in [false, true] {
        let (mut bus, ana, stream) = called();
        let mut reader = reader(&bus);
        bus.complete_oldest(done());
        send(&mut bus, ana, stream, 1000);
        end(&mut bus, ana, stream, None);
        bus.reload(policy(r#"["t:allow-quick"]"#));
        assert_eq!(message_bytes(&bus), 1000);
        if reads {
            assert_eq!(read(&mut reader), [1000]);
            assert_eq!(reader.try_recv(), None, "it ended well");
        }
        drop(reader);
        bus.settle();
        assert_idle(&bus);
    }
}

#[test]
fn an_item_that_is_given_up_in_the_middle_is_charged_no_more() {
    let (mut bus, ana, stream) = called();
    let mut reader = reader(&bus);
    send(&mut bus, ana, stream, 1000);
    let sent = bus.peers[ana].client.send_item(stream, 1, raw(3 << 20)).unwrap();
    assert!(matches!(sent, Sent::Queued));
    // As much of it as the window takes.
    bus.carry_some(ana, Role::Daemon, usize::MAX);
    assert_eq!(message_bytes(&bus), (3 << 20) + 1000);
    bus.peers[ana].client.cut_channel(stream, 1, ErrorCode::Aborted, "enough");
    bus.settle();
    assert_eq!(message_bytes(&bus), 1000, "its handler may take its time with the end");
    assert_eq!(read(&mut reader), [1000]);
    bus.settle();
    assert_eq!(message_bytes(&bus), 0);
    drop(reader);
    bus.complete_oldest(done());
    assert_idle(&bus);
}

#[test]
fn items_that_come_before_the_message_of_their_call_is_whole_are_kept() {
    let mut bus = Bus::new();
    let ana = bus.connect(1000).unwrap();
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Up, credit: 0 }];
    let message = raw(200_000);
    let request = Request { command: "t.slow".into(), channels, message, ..Request::default() };
    let stream = bus.peers[ana].client.call(request).unwrap();
    let sent = bus.peers[ana].client.send_item(stream, 1, raw(9)).unwrap();
    assert!(matches!(sent, Sent::Queued), "it goes out between the fragments of the call");
    bus.settle();
    assert_eq!(read(&mut reader(&bus)), [9]);
    bus.complete_oldest(done());
    bus.settle();
    assert!(
        !std::iter::from_fn(|| bus.peers[ana].client.poll_event()).any(|e| matches!(e, Event::Failed { .. }))
    );
    assert_idle(&bus);
}
