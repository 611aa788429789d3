//! Channels between a client and a daemon, in memory and in virtual time.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Event, More, Request, Sent, Settings, Unsent, Withdrawal};
use invoked_proto::error::{MisuseError, PeerError};
use invoked_proto::header::Header;
use invoked_proto::metadata::{ChannelDeclaration, Credit, Failure, Item, Part};
use invoked_proto::registry::{Codec, Delivery, Direction, ErrorCode, FrameKind, features, flags, limits};
use invoked_proto::testing::{AnyRecord, Pair, Token, frame, output};

fn settings() -> Settings {
    Settings { features: features::CHANNELS, ..Settings::default() }
}

fn open() -> Pair {
    Pair::open_with(settings(), settings())
}

fn down(index: u32, credit: u64) -> ChannelDeclaration {
    ChannelDeclaration { index, direction: Direction::Down, credit }
}

fn up(index: u32) -> ChannelDeclaration {
    ChannelDeclaration { index, direction: Direction::Up, credit: 0 }
}

fn request(channels: &[ChannelDeclaration]) -> Request {
    Request { command: "a.b".into(), channels: channels.to_vec(), ..Request::default() }
}

/// A call with channels that the daemon has.
fn call(pair: &mut Pair, channels: &[ChannelDeclaration]) -> u64 {
    let stream = pair.client.call(request(channels)).unwrap();
    pair.to_daemon().unwrap();
    assert!(matches!(pair.daemon.poll_event(), Some(Event::Called { stream: of, .. }) if of == stream));
    stream
}

fn raw(len: usize) -> Message {
    Body::Raw(Bytes::from(vec![7; len])).into()
}

/// The events of the client, briefly.
fn client_events(pair: &mut Pair) -> Vec<String> {
    std::iter::from_fn(|| pair.client.poll_event()).map(brief).collect()
}

fn daemon_events(pair: &mut Pair) -> Vec<String> {
    std::iter::from_fn(|| pair.daemon.poll_event()).map(brief).collect()
}

fn brief(event: Event<Token>) -> String {
    match event {
        Event::ItemCame { channel, payload, more, credit, .. } => {
            format!("item {channel}: {} {more:?} {credit}", payload.len())
        }
        Event::ItemContinued { channel, payload, more, credit, .. } => {
            format!("more {channel}: {} {more:?} {credit}", payload.len())
        }
        Event::ChannelEnded { channel, code, message, .. } => {
            let code = code.map_or("well", ErrorCode::name);
            format!("end {channel}: {code} {message}").trim_end().to_owned()
        }
        Event::ChannelStopped { channel, .. } => format!("stop {channel}"),
        Event::ChannelCredited { channel, .. } => format!("credit {channel}"),
        Event::Replied { .. } => "reply".to_owned(),
        Event::Failed { code, .. } => format!("error {code}"),
        Event::Cancelled { .. } => "cancel".to_owned(),
        other => format!("{other:?}"),
    }
}

fn queued(sent: Result<Sent, MisuseError>) {
    assert!(matches!(sent, Ok(Sent::Queued)), "{sent:?}");
}

fn data(stream: u64, channel: u32, set: u16, record: Option<AnyRecord>, payload: &[u8]) -> Bytes {
    let codec = match &record {
        Some(AnyRecord::Item(item)) => item.parts[0].codec,
        _ => Codec::None,
    };
    let header = Header { codec, flags: set, arg: channel, ..Header::new(FrameKind::Data, stream) };
    frame(header, &record.map(|record| record.encode()).unwrap_or_default(), payload)
}

fn item(len: u64) -> Option<AnyRecord> {
    let codec = if len > 0 { Codec::Raw } else { Codec::None };
    Some(Item { parts: vec![Part::inline(codec, len)], ..Item::default() }.into())
}

#[test]
fn items_go_both_ways_before_and_after_the_reply() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000), up(4)]);
    queued(pair.daemon.send_item(stream, 1, raw(10)));
    queued(pair.client.send_item(stream, 4, raw(300)));
    pair.to_client().unwrap();
    pair.to_daemon().unwrap();
    assert_eq!(client_events(&mut pair), ["item 1: 10 Whole 256"]);
    assert_eq!(daemon_events(&mut pair), ["item 4: 300 Whole 300"]);
    pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
    queued(pair.daemon.send_item(stream, 1, raw(0)));
    assert!(pair.daemon.end_channel(stream, 1, None, ""));
    assert!(!pair.daemon.end_channel(stream, 1, None, ""), "it has ended");
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["reply", "item 1: 0 Whole 256", "end 1: well"]);
    assert_eq!((pair.client.open_channels(), pair.daemon.open_channels()), (1, 1));
    queued(pair.client.send_item(stream, 4, raw(1)));
    pair.client.end_channel(stream, 4, Some(ErrorCode::DataLoss), "cut");
    pair.to_daemon().unwrap();
    assert_eq!(daemon_events(&mut pair), ["item 4: 1 Whole 256", "end 4: data_loss cut"]);
    assert_eq!((pair.client.open_channels(), pair.daemon.open_channels()), (0, 0));
    assert!(matches!(pair.daemon.send_item(stream, 1, raw(1)), Ok(Sent::Ended)));
}

#[test]
fn credit_is_a_value_and_comes_back_when_items_are_consumed() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000)]);
    for _ in 0..4 {
        queued(pair.daemon.send_item(stream, 1, raw(1)));
    }
    let Ok(Sent::NeedsCredit(back)) = pair.daemon.send_item(stream, 1, raw(8)) else { panic!("taken") };
    assert_eq!(back, raw(8));
    pair.to_client().unwrap();
    let came = client_events(&mut pair);
    assert_eq!(came.len(), 4, "4 x 256 is above 1000, and the last is owed");
    assert!(pair.daemon.has_channels() && !pair.daemon.has_transmit());
    pair.client.give_credit(stream, 1, 256);
    assert!(!pair.client.has_transmit(), "less than half of the window");
    pair.client.give_credit(stream, 1, 256);
    pair.to_daemon().unwrap();
    assert_eq!(daemon_events(&mut pair), ["credit 1"]);
    queued(pair.daemon.send_item(stream, 1, back));
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["item 1: 8 Whole 256"]);
}

#[test]
fn an_item_larger_than_its_window_is_credited_as_it_comes() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000)]);
    queued(pair.daemon.send_item(stream, 1, raw(10_000)));
    let mut len = 0;
    let mut credit = 0;
    for _ in 0..100 {
        pair.to_client().unwrap();
        while let Some(event) = pair.client.poll_event() {
            let (Event::ItemCame { payload, credit: of, .. }
            | Event::ItemContinued { payload, credit: of, .. }) = event
            else {
                panic!("{event:?}");
            };
            (len, credit) = (len + payload.len(), credit + of);
        }
        pair.to_daemon().unwrap();
    }
    assert_eq!(len, 10_000);
    assert!(credit <= 1000, "what is left to be given back is what the window holds: {credit}");
    pair.client.give_credit(stream, 1, credit);
    pair.to_daemon().unwrap();
    queued(pair.daemon.send_item(stream, 1, raw(1)));
}

#[test]
fn an_error_ends_every_channel_with_its_code_whatever_is_on_the_way() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000), up(2), down(3, 1000)]);
    queued(pair.daemon.send_item(stream, 1, raw(5000)));
    queued(pair.client.send_item(stream, 2, raw(10)));
    let half = output(&mut pair.daemon);
    pair.client.handle_input(pair.now, half, []).unwrap();
    assert_eq!(client_events(&mut pair), ["item 1: 1000 Follows 0"]);
    let failure = Failure::framework(ErrorCode::Aborted, "no", Delivery::Completed);
    pair.daemon.fail_call(stream, ErrorCode::Aborted, failure, Message::default()).unwrap();
    assert_eq!(pair.daemon.open_channels(), 0);
    pair.to_client().unwrap();
    let ends = ["error aborted", "end 1: aborted no", "stop 2", "end 3: aborted no"];
    assert_eq!(client_events(&mut pair), ends);
    // What the client had sent comes late and is dropped.
    pair.to_daemon().unwrap();
    assert!(daemon_events(&mut pair).is_empty());
    assert_eq!((pair.client.open_channels(), pair.client.unsent()), (0, Unsent::default()));
    assert!(matches!(pair.client.send_item(stream, 2, raw(1)), Ok(Sent::Ended)));
}

#[test]
fn stop_is_answered_by_an_end_and_what_was_on_the_way_is_dropped() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 2000), up(2)]);
    queued(pair.daemon.send_item(stream, 1, raw(10)));
    queued(pair.daemon.send_item(stream, 1, raw(9000)));
    pair.client.stop_channel(stream, 1);
    pair.client.stop_channel(stream, 1);
    let crossing = output(&mut pair.daemon);
    pair.to_daemon().unwrap();
    assert_eq!(daemon_events(&mut pair), ["stop 1"]);
    assert!(matches!(pair.daemon.send_item(stream, 1, raw(1)), Ok(Sent::Ended)));
    pair.client.handle_input(pair.now, crossing, []).unwrap();
    assert!(client_events(&mut pair).is_empty());
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["end 1: cancelled"]);
    assert_eq!((pair.client.open_channels(), pair.daemon.open_channels()), (1, 1));
    // The daemon wants none of what the client sends, whose own end is on the way.
    pair.client.end_channel(stream, 2, None, "");
    pair.daemon.stop_channel(stream, 2);
    let end = output(&mut pair.client);
    pair.to_client().unwrap();
    assert!(client_events(&mut pair).is_empty(), "it had ended the channel itself");
    pair.daemon.handle_input(pair.now, end, []).unwrap();
    assert_eq!(daemon_events(&mut pair), ["end 2: well"]);
}

#[test]
fn cancelling_an_ended_call_stops_its_channels() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000), up(2), down(3, 1000)]);
    pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["reply"]);
    assert_eq!(pair.client.cancel(stream), Withdrawal::Asked);
    assert_eq!(pair.client.cancel(stream), Withdrawal::TooLate);
    pair.to_daemon().unwrap();
    let mut events = daemon_events(&mut pair);
    events.sort();
    assert_eq!(events, ["end 2: cancelled", "stop 1", "stop 3"]);
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["end 1: cancelled", "end 3: cancelled"]);
    assert_eq!((pair.client.open_channels(), pair.daemon.open_channels()), (0, 0));
}

#[test]
fn a_cancel_that_the_answer_crossed_stops_the_channels() {
    for taken in [false, true] {
        let mut pair = open();
        let stream = call(&mut pair, &[down(1, 1000)]);
        assert_eq!(pair.client.cancel(stream), Withdrawal::Asked);
        if taken {
            // It has come, and the owner answers before it looks.
            pair.to_daemon().unwrap();
        }
        pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
        pair.to_daemon().unwrap();
        assert_eq!(daemon_events(&mut pair), ["stop 1"]);
        pair.to_client().unwrap();
        assert_eq!(client_events(&mut pair), ["reply", "end 1: cancelled"]);
    }
}

#[test]
fn a_withdrawn_call_takes_its_channels_with_it() {
    let mut pair = open();
    let stream = pair.client.call(request(&[down(1, 1000), up(2)])).unwrap();
    queued(pair.client.send_item(stream, 2, raw(10)));
    pair.client.end_channel(stream, 2, None, "");
    assert_eq!(pair.client.cancel(stream), Withdrawal::NeverSent);
    assert_eq!((pair.client.open_channels(), pair.client.unsent()), (0, Unsent::default()));
    assert!(output(&mut pair.client).is_empty());
}

#[test]
fn nothing_of_a_channel_overtakes_its_call() {
    let mut pair = open();
    // The call waits behind large ones, and its stop and its items behind it.
    for _ in 0..3 {
        pair.client.call(Request { message: raw(80_000), ..request(&[]) }).unwrap();
    }
    let stream = pair.client.call(request(&[down(1, 1000), up(2)])).unwrap();
    pair.client.stop_channel(stream, 1);
    queued(pair.client.send_item(stream, 2, raw(10)));
    pair.to_daemon().unwrap();
    let events = daemon_events(&mut pair);
    assert!(events.contains(&"stop 1".to_owned()) && events.contains(&"item 2: 10 Whole 256".to_owned()));
}

#[test]
fn limits_of_channels_hold_at_n_and_refuse_at_n_plus_one() {
    let daemon = Settings { open_channels: 3, ..settings() };
    let mut pair = Pair::open_with(settings(), daemon);
    let first = call(&mut pair, &[down(1, 1), up(2)]);
    assert_eq!(pair.client.call(request(&[down(1, 1), up(2)])), Err(MisuseError::TooManyChannels));
    call(&mut pair, &[down(9, 1)]);
    assert_eq!(pair.client.call(request(&[down(1, 1)])), Err(MisuseError::TooManyChannels));
    let many: Vec<_> = (1..=17).map(|index| down(index, 1)).collect();
    assert!(pair.client.call(request(&many)).is_err());
    // A client that counts otherwise is answered, and its connection goes on.
    let mut other = Pair::open_with(settings(), settings());
    other.client.call(request(&[down(1, 1), up(2)])).unwrap();
    let mut crossing = Pair::open_with(settings(), Settings { open_channels: 1, ..settings() });
    let bytes = output(&mut other.client);
    crossing.daemon.handle_input(crossing.now, bytes, []).unwrap();
    assert!(crossing.daemon.poll_event().is_none());
    other.client.handle_input(other.now, output(&mut crossing.daemon), []).unwrap();
    let events = client_events(&mut other);
    assert_eq!(events[0], "error resource_exhausted");
    assert!(!crossing.daemon.is_closed());
    // What ended makes room.
    pair.daemon.reply(first, Vec::new(), Message::default()).unwrap();
    pair.daemon.end_channel(first, 1, None, "");
    pair.to_client().unwrap();
    client_events(&mut pair);
    call(&mut pair, &[down(1, 1)]);
}

#[test]
fn a_peer_without_channels_is_spoken_to_as_before() {
    let mut pair = Pair::open_with(settings(), Settings::default());
    assert_eq!(pair.client.call(request(&[down(1, 1)])), Err(MisuseError::NoChannels));
    let stream = pair.client.call(Request { message: raw(10 << 20), ..request(&[]) }).unwrap();
    pair.to_daemon().unwrap();
    let Some(Event::Called { call, payload, .. }) = pair.daemon.poll_event() else { panic!("no call") };
    let mut assembly = Assembly::begin(call.parts, payload).unwrap();
    while let Some(Event::Continued { payload, .. }) = pair.daemon.poll_event() {
        assembly.push(&payload).unwrap();
    }
    assert!(assembly.is_complete(), "no credit holds it up");
    pair.daemon.release(10 << 20);
    assert!(!pair.daemon.has_transmit(), "nor is any given");
    pair.daemon.reply(stream, Vec::new(), raw(10 << 20)).unwrap();
    pair.to_client().unwrap();
    let mut early = Pair::with_settings(settings(), settings());
    assert_eq!(early.client.call(request(&[down(1, 1)])), Err(MisuseError::TooEarly));
}

#[test]
fn a_large_message_waits_for_the_connection_s_credit_and_nothing_else_does() {
    let mut pair = open();
    let window = limits::CONNECTION_WINDOW;
    let large = pair.client.call(Request { message: raw(window + 100), ..request(&[]) }).unwrap();
    pair.to_daemon().unwrap();
    assert!(pair.client.is_starved() && !pair.client.has_transmit());
    assert_eq!(pair.client.unsent().bytes, 100);
    let small = pair.client.call(Request { message: raw(5), ..request(&[]) }).unwrap();
    pair.to_daemon().unwrap();
    let mut came = 0;
    let mut called = Vec::new();
    while let Some(event) = pair.daemon.poll_event() {
        came += event.payload_len();
        if let Event::Called { stream, more, .. } = event {
            called.push((stream, more));
        }
    }
    assert_eq!(came, window);
    assert_eq!(
        called,
        [(large, More::Follows), (small, More::Follows)],
        "a first frame goes out without its bytes"
    );
    // An answer without a body too, though the daemon could be answered nothing else.
    pair.daemon.reply(small, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["reply"]);
    pair.daemon.release(came);
    pair.to_client().unwrap();
    pair.to_daemon().unwrap();
    let rest: usize = std::iter::from_fn(|| pair.daemon.poll_event()).map(|event| event.payload_len()).sum();
    assert_eq!(rest, 100, "the answered call's bytes are not sent any more");
    assert!(!pair.client.is_starved());
}

#[test]
fn bytes_that_wait_for_credit_do_not_keep_a_side_from_reading() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 100)]);
    queued(pair.daemon.send_item(stream, 1, raw(10 << 20)));
    assert!(!pair.daemon.pauses_reading());
    pair.daemon.reply(stream, Vec::new(), raw(10 << 20)).unwrap();
    assert!(pair.daemon.pauses_reading(), "the window's worth could be written");
    pair.to_client().unwrap();
    assert!(!pair.daemon.pauses_reading(), "only reading brings credit");
}

#[test]
fn what_breaks_a_rule_is_refused_exactly() {
    let credit = |stream, channel, bytes| {
        let header = Header { arg: channel, ..Header::new(FrameKind::Credit, stream) };
        frame(header, &AnyRecord::from(Credit { bytes, ..Credit::default() }).encode(), &[])
    };
    let stop =
        |stream, channel| frame(Header { arg: channel, ..Header::new(FrameKind::Stop, stream) }, &[], &[]);
    let max = u64::try_from(i64::MAX).unwrap();
    let unknown = |channel| PeerError::UnknownChannel { stream: 1, channel };
    let cases = [
        (data(1, 5, 0, item(1), &[1]), Err(unknown(5))),
        (data(1, 0, 0, item(1), &[1]), Err(unknown(0))),
        (stop(1, 5), Err(unknown(5))),
        (credit(1, 5, 1), Err(unknown(5))),
        (credit(0, 1, 1), Err(PeerError::UnknownChannel { stream: 0, channel: 1 })),
        (data(3, 1, 0, item(1), &[1]), Err(PeerError::UnknownStream(3))),
        (stop(3, 1), Err(PeerError::UnknownStream(3))),
        (data(1, 1, 0, item(1), &[1]), Err(PeerError::Unexpected(FrameKind::Data))),
        (stop(1, 2), Err(PeerError::Unexpected(FrameKind::Stop))),
        (credit(1, 2, 1), Err(PeerError::Unexpected(FrameKind::Credit))),
        (credit(1, 1, max - 1000), Ok(())),
        (credit(1, 1, max - 999), Err(PeerError::CreditOverflow)),
        (credit(0, 0, max), Err(PeerError::CreditOverflow)),
        (data(1, 2, 0, item(1000), &[0; 1000]), Ok(())),
        (data(1, 2, flags::MORE, item(2000), &[0; 1001]), Err(PeerError::Overrun)),
        (data(1, 2, 0, item(0), &[]), Ok(())),
        (data(1, 2, flags::MORE, item(2), &[]), Ok(())),
        (data(1, 2, flags::CONT, None, &[1]), Err(PeerError::MessageLength)),
        (data(1, 2, flags::MORE, item(1), &[1]), Err(PeerError::MessageLength)),
    ];
    for (bytes, expected) in cases {
        let mut pair = Pair::open_with(settings(), Settings { channel_window: 1000, ..settings() });
        let stream = call(&mut pair, &[down(1, 1000), up(2)]);
        assert_eq!(stream, 1);
        assert_eq!(pair.daemon.handle_input(pair.now, bytes, []), expected);
    }
}

#[test]
fn an_item_above_the_limit_ends_its_channel_and_not_the_connection() {
    let mut pair = Pair::open_with(Settings { max_message: 500, ..settings() }, settings());
    let stream = call(&mut pair, &[down(1, 5000)]);
    queued(pair.daemon.send_item(stream, 1, raw(501)));
    queued(pair.daemon.send_item(stream, 1, raw(5)));
    pair.to_client().unwrap();
    assert_eq!(client_events(&mut pair), ["end 1: too_large item of 501 bytes is above the limit of 500"]);
    pair.to_daemon().unwrap();
    assert_eq!(daemon_events(&mut pair), ["stop 1"]);
    pair.to_client().unwrap();
    assert!(client_events(&mut pair).is_empty(), "one end");
    assert_eq!(pair.client.open_channels(), 0);
}

#[test]
fn file_descriptors_of_items_are_closed_on_every_path() {
    let counter = Rc::new(Cell::new(0));
    let both = Settings { features: features::CHANNELS | features::ATTACHED_FDS, ..Settings::default() };
    for late in [false, true] {
        let mut pair = Pair::open_with(both, both);
        let stream = call(&mut pair, &[down(1, 100), up(2)]);
        if late {
            let failure = Failure::framework(ErrorCode::Aborted, "", Delivery::Completed);
            pair.daemon.fail_call(stream, ErrorCode::Aborted, failure, Message::default()).unwrap();
        }
        let parts = vec![Part::inline(Codec::None, 0)];
        let header = Header { nfds: 1, arg: 2, ..Header::new(FrameKind::Data, stream) };
        let record = AnyRecord::from(Item { parts, ..Item::default() }).encode();
        pair.daemon.handle_input(pair.now, frame(header, &record, &[]), [Token::open(&counter)]).unwrap();
        assert_eq!(counter.get(), usize::from(!late), "held by its event only");
        drop(pair.daemon.poll_event());
        assert_eq!(counter.get(), 0);
    }
}

#[test]
fn a_drain_waits_for_the_channels_too() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000)]);
    pair.daemon.drain("restart");
    pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert!(output(&mut pair.daemon).is_empty() && !pair.daemon.is_drained());
    queued(pair.daemon.send_item(stream, 1, raw(1)));
    pair.daemon.end_channel(stream, 1, Some(ErrorCode::Unavailable), "restart");
    pair.to_client().unwrap();
    assert!(output(&mut pair.daemon).is_empty() && pair.daemon.is_drained());
    assert_eq!(client_events(&mut pair).last().unwrap(), "end 1: unavailable restart");
}

#[test]
fn a_lost_connection_leaves_nothing_behind() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000), up(2)]);
    queued(pair.daemon.send_item(stream, 1, raw(5000)));
    for side in [&mut pair.client, &mut pair.daemon] {
        side.abandon();
        assert_eq!((side.open_channels(), side.unsent(), side.is_starved()), (0, Unsent::default(), false));
        assert!(matches!(side.send_item(stream, 1, raw(1)), Ok(Sent::Ended)));
    }
}

#[test]
fn a_lossy_channel_takes_what_credit_covers_and_says_what_was_left_out() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000)]);
    for _ in 0..3 {
        queued(pair.daemon.send_lossy_item(stream, 1, 0, raw(1)));
    }
    let more = pair.daemon.send_lossy_item(stream, 1, 0, raw(2)).unwrap();
    assert!(matches!(more, Sent::NeedsCredit(_)), "232 bytes of credit are left, and others wait");
    assert!(daemon_events(&mut pair).is_empty(), "nothing has changed yet");
    pair.to_client().unwrap();
    assert_eq!(daemon_events(&mut pair), ["credit 1"], "as the only one it is taken");
    // Whoever has the items has left out 5 of them meanwhile.
    queued(pair.daemon.send_lossy_item(stream, 1, 5, raw(3)));
    let more = pair.daemon.send_lossy_item(stream, 1, 0, raw(4)).unwrap();
    assert!(matches!(more, Sent::NeedsCredit(_)), "something is owed");
    assert!(pair.daemon.end_lossy_channel(stream, 1, None, "", 7));
    pair.to_client().unwrap();
    let mut lagged = Vec::new();
    while let Some(event) = pair.client.poll_event() {
        match event {
            Event::ItemCame { item, .. } => lagged.push(item.lagged()),
            Event::ChannelEnded { lagged: of, code: None, .. } => lagged.push(of),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lagged, [0, 0, 0, 5, 7]);
}

#[test]
fn an_item_of_a_lossy_channel_may_be_larger_than_its_window_and_is_sent_whole() {
    let mut pair = open();
    let stream = call(&mut pair, &[down(1, 1000)]);
    queued(pair.daemon.send_lossy_item(stream, 1, 0, raw(10_000)));
    let more = pair.daemon.send_lossy_item(stream, 1, 0, raw(1)).unwrap();
    assert!(matches!(more, Sent::NeedsCredit(_)), "one waits");
    let mut came = 0;
    for _ in 0..100 {
        pair.to_client().unwrap();
        while let Some(event) = pair.client.poll_event() {
            let (Event::ItemCame { payload, credit, .. } | Event::ItemContinued { payload, credit, .. }) =
                event
            else {
                panic!("{event:?}");
            };
            came += payload.len();
            pair.client.give_credit(stream, 1, credit);
        }
        pair.to_daemon().unwrap();
    }
    assert_eq!(came, 10_000);
    assert_eq!(daemon_events(&mut pair), ["credit 1"], "told once");
    queued(pair.daemon.send_lossy_item(stream, 1, 0, raw(1)));
}
