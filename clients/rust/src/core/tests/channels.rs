//! Channels of the core: what comes, what goes, who is woken, and how each ends.

use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Event, Request, Sent, Settings};
use invoked_proto::metadata::{ChannelDeclaration, Failure, Welcome};
use invoked_proto::registry::{Delivery, Direction, ErrorCode, Overflow, features};

use super::{World, raw};
use crate::core::{ChannelKey, Loss, Next};

fn settings() -> Settings {
    Settings { features: features::CHANNELS, ..Settings::default() }
}

/// A world with a call that the daemon has, with channel 1 from it and 2 to it.
fn called() -> (World, u64) {
    let mut world = World::open_with(settings(), settings(), &Welcome::default());
    let channel = |index, direction, credit| ChannelDeclaration { index, direction, credit };
    let channels = vec![channel(1, Direction::Down, 1000), channel(2, Direction::Up, 0)];
    let request = Request { command: "x.y".into(), channels, ..Request::default() };
    let stream = world.core.call(request, None).expect("open");
    world.reach_daemon();
    assert!(matches!(world.daemon.poll_event(), Some(Event::Called { .. })));
    (world, stream)
}

/// The length of the next item, `Err` for its end; `None` while there is none.
fn next(world: &mut World, stream: u64) -> Option<Result<usize, Option<ErrorCode>>> {
    let taken = world.core.take_item((stream, 1), || 1)?;
    Some(match taken {
        Some(Ok(Next::Item(message))) => Ok(message.len()),
        Some(Ok(Next::Lagged(_))) => panic!("the channel blocks"),
        Some(Err(error)) => Err(error.code()),
        None => Err(None),
    })
}

/// Whether an item was taken, `Err` for why not; `None` while it waits.
fn send(world: &mut World, key: ChannelKey, len: usize) -> Option<Result<(), Option<ErrorCode>>> {
    let mut message = Some(Message::from(raw(len)));
    let sent = world.core.send_item(key, &mut message, || 2)?;
    Some(sent.map_err(|error| error.code()))
}

fn give(world: &mut World, stream: u64, len: usize) -> bool {
    let sent = world.daemon.send_item(stream, 1, raw(len).into()).expect("open");
    world.reach_client();
    matches!(sent, Sent::Queued)
}

#[test]
fn items_wake_who_waits_and_are_credited_when_they_are_taken() {
    let (mut world, stream) = called();
    assert_eq!(next(&mut world, stream), None);
    assert!(give(&mut world, stream, 600) && give(&mut world, stream, 300));
    assert_eq!(world.woken(), [1], "once");
    assert!(!world.core.has_output(), "nothing is credited that was not taken");
    assert_eq!(next(&mut world, stream), Some(Ok(600)));
    assert!(world.core.has_output(), "more than half of the window");
    world.reach_daemon();
    assert_eq!(next(&mut world, stream), Some(Ok(300)));
    world.daemon.end_channel(stream, 1, Some(ErrorCode::DataLoss), "cut");
    world.reach_client();
    assert_eq!(next(&mut world, stream), Some(Err(Some(ErrorCode::DataLoss))));
    assert_eq!(next(&mut world, stream), Some(Err(None)), "the end is told once");
}

#[test]
fn who_sends_is_woken_when_what_was_half_sent_has_gone() {
    let (mut world, stream) = called();
    let key = (stream, 2);
    let mut sent = 0;
    while send(&mut world, key, 100_000).is_some() {
        sent += 1;
        world.reach_daemon();
    }
    assert_eq!(sent, 3, "two and a half fit the window");
    assert!(world.woken().is_empty());
    let mut credit = 0;
    while let Some(event) = world.daemon.poll_event() {
        if let Event::ItemCame { credit: of, .. } | Event::ItemContinued { credit: of, .. } = event {
            credit += of;
        }
    }
    world.daemon.give_credit(stream, 2, credit);
    world.reach_client();
    world.reach_daemon();
    assert_eq!(world.woken(), [2], "by the writing of what waited");
    assert_eq!(send(&mut world, key, 10), Some(Ok(())));
}

#[test]
fn a_stop_a_failed_call_and_a_loss_end_a_channel_to_the_command() {
    type Act = fn(&mut World, u64);
    // What the sender is told, and the end of the other channel, if it has one.
    let acts: [(ErrorCode, Option<ErrorCode>, Act); 3] = [
        (ErrorCode::Cancelled, None, |world, stream| world.daemon.stop_channel(stream, 2)),
        (ErrorCode::Cancelled, Some(ErrorCode::Aborted), |world, stream| {
            let failure = Failure::framework(ErrorCode::Aborted, "", Delivery::Completed);
            world.daemon.fail_call(stream, ErrorCode::Aborted, failure, Message::default()).expect("open");
        }),
        (ErrorCode::Unavailable, Some(ErrorCode::Unavailable), |world, _| world.core.lose(Loss::Closed)),
    ];
    for (code, end, act) in acts {
        let (mut world, stream) = called();
        while send(&mut world, (stream, 2), 100_000).is_some() {
            world.reach_daemon();
        }
        act(&mut world, stream);
        if !world.core.is_lost() {
            world.reach_client();
        }
        assert!(world.woken().contains(&2), "{code}");
        for _ in 0..2 {
            let again = send(&mut world, (stream, 2), 1);
            assert_eq!(again, Some(Err(Some(code))), "{code}, as often as it is asked");
        }
        assert_eq!(next(&mut world, stream), end.map(|code| Err(Some(code))));
    }
}

#[test]
fn a_withdrawn_call_ends_its_channels() {
    let mut world = World::open_with(settings(), settings(), &Welcome::default());
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Down, credit: 9 }];
    let request =
        Request { command: "x.y".into(), channels, message: Body::None.into(), ..Request::default() };
    let stream = world.core.call(request, None).expect("open");
    assert_eq!(next(&mut world, stream), None);
    assert_eq!(world.core.cancel(stream), Delivery::NotDelivered);
    assert_eq!(world.woken(), [1]);
    assert_eq!(next(&mut world, stream), Some(Err(Some(ErrorCode::Cancelled))));
}

/// A world with a call whose channel 1 has this overflow.
fn subscribed(overflow: Overflow) -> (World, u64) {
    let mut world = World::open_with(settings(), settings(), &Welcome::default());
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Down, credit: 1000 }];
    let mut request = Request { command: "x.y".into(), channels, ..Request::default() };
    request.extensions.set_overflows([(1, overflow)]);
    let stream = world.core.call(request, None).expect("open");
    world.reach_daemon();
    (world, stream)
}

fn give_after(world: &mut World, stream: u64, lagged: u64, len: usize) {
    let sent = world.daemon.send_lossy_item(stream, 1, lagged, raw(len).into()).expect("open");
    assert!(matches!(sent, Sent::Queued));
    world.reach_client();
    world.reach_daemon();
}

/// All that comes, with what is left out as text; the last is the end.
fn updates(world: &mut World, stream: u64) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(taken) = world.core.take_item((stream, 1), || 1) {
        all.push(match taken {
            Some(Ok(Next::Item(message))) => format!("{} bytes", message.len()),
            Some(Ok(Next::Lagged(lagged))) => format!("{lagged} missing"),
            Some(Err(error)) => format!("{:?}", error.code()),
            None => "end".to_owned(),
        });
        if all.last().is_some_and(|last| last == "end") {
            break;
        }
    }
    all
}

#[test]
fn what_is_left_out_is_told_in_its_place_and_once() {
    let (mut world, stream) = subscribed(Overflow::DropOldest);
    give_after(&mut world, stream, 0, 1);
    give_after(&mut world, stream, 7, 2);
    assert_eq!(updates(&mut world, stream), ["1 bytes", "7 missing", "2 bytes"]);
    assert!(world.daemon.end_lossy_channel(stream, 1, None, "", 3));
    assert!(updates(&mut world, stream).is_empty(), "nothing has come");
    world.reach_client();
    assert_eq!(updates(&mut world, stream), ["3 missing", "end"]);
}

#[test]
fn of_the_latest_only_one_is_kept_and_the_others_are_credited_and_counted() {
    let (mut world, stream) = subscribed(Overflow::Latest);
    // Far more than the window, though nothing is taken.
    for len in 1..=100 {
        give_after(&mut world, stream, 1, len);
    }
    assert_eq!(updates(&mut world, stream), ["199 missing", "100 bytes"]);
    give_after(&mut world, stream, 0, 5);
    assert!(world.daemon.end_channel(stream, 1, Some(ErrorCode::DataLoss), ""));
    world.reach_client();
    assert_eq!(updates(&mut world, stream), ["5 bytes", "Some(DataLoss)", "end"]);
}

#[test]
fn a_channel_that_blocks_tells_of_nothing_left_out() {
    let (mut world, stream) = called();
    give_after(&mut world, stream, 7, 2);
    assert_eq!(next(&mut world, stream), Some(Ok(2)));
}

#[test]
fn a_call_that_is_asked_to_cancel_ends_by_the_daemon_s_answer_and_its_items_still_come() {
    let (mut world, stream) = called();
    assert!(world.take(stream).is_none() && give(&mut world, stream, 10));
    world.core.ask_to_cancel(stream);
    world.core.ask_to_cancel(stream);
    world.reach_daemon();
    let events: Vec<_> = std::iter::from_fn(|| world.daemon.poll_event()).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(matches!(events[0], Event::Cancelled { .. }), "{events:?}");
    assert!(world.take(stream).is_none(), "the daemon says how it ends");
    let failure = Failure::framework(ErrorCode::Cancelled, "", Delivery::Delivered);
    world.daemon.fail_call(stream, ErrorCode::Cancelled, failure, Message::from(Body::None)).expect("open");
    world.reach_client();
    assert_eq!(world.verdict(stream).0, Some(ErrorCode::Cancelled));
    assert_eq!(next(&mut world, stream), Some(Ok(10)));
    assert_eq!(next(&mut world, stream), Some(Err(Some(ErrorCode::Cancelled))));
}

#[test]
fn asking_to_cancel_after_the_end_stops_the_channels_that_live_on() {
    let (mut world, stream) = called();
    world.reply(stream, Body::None);
    world.reach_client();
    assert!(world.take(stream).expect("ended").is_ok());
    world.core.ask_to_cancel(stream);
    world.reach_daemon();
    let stopped = std::iter::from_fn(|| world.daemon.poll_event())
        .any(|event| matches!(event, Event::ChannelStopped { channel: 1, .. }));
    assert!(stopped);
    world.reach_client();
    assert_eq!(next(&mut world, stream), Some(Err(Some(ErrorCode::Cancelled))));
}

#[test]
fn a_call_that_never_left_is_cancelled_at_once() {
    let mut world = World::open();
    let stream = world.call(Body::None);
    assert!(world.take(stream).is_none());
    world.core.ask_to_cancel(stream);
    assert_eq!(world.verdict(stream), (Some(ErrorCode::Cancelled), Delivery::NotDelivered));
}
