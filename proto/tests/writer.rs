//! Who goes first, and who waits: order of writing, turns of streams, and when a side stops reading (SPEC.md, "Flow control").
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

use std::collections::BTreeMap;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, Event, Request, Sent, Settings, Transmit};
use invoked_proto::decoder::{Decoder, Frame};
use invoked_proto::metadata::{ChannelDeclaration, Failure};
use invoked_proto::registry::{Delivery, Direction, ErrorCode, FrameKind, features, flags, limits};
use invoked_proto::testing::{Pair, Token};

fn open() -> Pair {
    let settings =
        Settings { features: features::CHANNELS, connection_window: 1 << 30, ..Settings::default() };
    Pair::open_with(settings, settings)
}

fn raw(len: usize) -> Message {
    Body::Raw(Bytes::from(vec![7; len])).into()
}

/// A call that the daemon has, with so many channels to its caller, each with so much credit.
fn call(pair: &mut Pair, channels: u32, credit: u64) -> u64 {
    let declare = |index| ChannelDeclaration { index, direction: Direction::Down, credit };
    let channels = (1..=channels).map(declare).collect();
    let stream = pair.client.call(Request { command: "a.b".into(), channels, ..Request::default() }).unwrap();
    pair.to_daemon().unwrap();
    assert!(matches!(pair.daemon.poll_event(), Some(Event::Called { .. })));
    stream
}

/// The frames of one batch.
fn batch(side: &mut Connection<Token>, decoder: &mut Decoder<()>) -> Vec<Frame<()>> {
    let mut transmit = Transmit::default();
    side.poll_transmit(&mut transmit);
    let mut slices = [std::io::IoSlice::new(&[]); 256];
    let filled = transmit.slices(&mut slices);
    let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
    assert_eq!(bytes.len(), transmit.len());
    transmit.advance(bytes.len());
    decoder.push(bytes.into(), []);
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

fn kinds(frames: &[Frame<()>]) -> Vec<FrameKind> {
    frames.iter().map(|frame| frame.header.known_kind().unwrap()).collect()
}

#[test]
fn control_goes_before_answers_and_answers_before_what_is_large() {
    let mut pair = open();
    let bulk = call(&mut pair, 2, 1 << 30);
    let streams: Vec<u64> = (0..3).map(|_| call(&mut pair, 0, 0)).collect();
    for channel in [1, 2] {
        assert!(matches!(pair.daemon.send_item(bulk, channel, raw(10 << 20)), Ok(Sent::Queued)));
    }
    pair.daemon.reply(streams[0], Vec::new(), raw(10 << 20)).unwrap();
    let mut decoder = Decoder::new(1 << 20);
    let first = batch(&mut pair.daemon, &mut decoder);
    assert!(first.iter().all(|frame| frame.header.stream != streams[1]));
    // All of this comes while megabytes wait.
    pair.daemon.reply(streams[1], Vec::new(), raw(10)).unwrap();
    let failure = Failure::framework(ErrorCode::Aborted, "", Delivery::Completed);
    pair.daemon.fail_call(streams[2], ErrorCode::Aborted, failure, Message::default()).unwrap();
    pair.daemon.ping(1).unwrap();
    pair.client.ping(2).unwrap();
    pair.to_daemon().unwrap();
    let next = batch(&mut pair.daemon, &mut decoder);
    let order = kinds(&next);
    assert_eq!(order[..2], [FrameKind::Ping, FrameKind::Pong], "{order:?}");
    // A turn may be due to what waits; then its fragment's worth goes first, and no more.
    let before: usize = next[2..]
        .iter()
        .take_while(|frame| frame.header.known_kind() == Some(FrameKind::Data))
        .map(|frame| frame.payload.len())
        .sum();
    assert!(before <= limits::FRAGMENT, "an answer waits behind {before} bytes");
    let ends: Vec<u64> = next
        .iter()
        .filter(|frame| matches!(frame.header.known_kind(), Some(FrameKind::Result | FrameKind::Error)))
        .map(|frame| frame.header.stream)
        .collect();
    assert_eq!(ends, [streams[1], streams[2]], "{order:?}");
}

#[test]
fn streams_and_channels_take_turns_of_a_fragment() {
    let mut pair = open();
    let bulk = call(&mut pair, 3, 1 << 30);
    let large: Vec<u64> = (0..2).map(|_| call(&mut pair, 0, 0)).collect();
    // One channel has one large item, one has many small ones, one has large ones without end.
    assert!(matches!(pair.daemon.send_item(bulk, 1, raw(4 << 20)), Ok(Sent::Queued)));
    for stream in &large {
        pair.daemon.reply(*stream, Vec::new(), raw(4 << 20)).unwrap();
    }
    let mut decoder = Decoder::new(1 << 20);
    // What each source has had, in bytes.
    let mut had: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    let mut frames = 0;
    while had.values().sum::<usize>() < 8 << 20 {
        for channel in [2, 3] {
            let len = if channel == 2 { 1000 } else { 1 << 20 };
            while let Ok(Sent::Queued) = pair.daemon.send_item(bulk, channel, raw(len)) {}
        }
        for frame in batch(&mut pair.daemon, &mut decoder) {
            assert!(frame.payload.len() <= limits::FRAGMENT);
            frames += 1;
            *had.entry((frame.header.stream, frame.header.arg)).or_default() += frame.payload.len();
        }
        // Whoever has a fragment to send all the time is never behind by more than a few turns.
        let large: Vec<usize> = had.iter().filter(|(of, _)| **of != (bulk, 2)).map(|(_, had)| *had).collect();
        let (most, least) = (large.iter().max().unwrap(), large.iter().min().unwrap());
        assert!(large.len() < 4 || most - least <= 3 * limits::FRAGMENT, "{had:?}");
    }
    assert_eq!(had.len(), 5, "all had their turns: {had:?}");
    // While so much waits only a few small items do.
    assert!(had[&(bulk, 2)] > 50_000, "{had:?}");
    assert!(frames > 200, "{frames}");
}

#[test]
fn a_channel_goes_on_beside_large_messages_without_end() {
    let mut pair = open();
    let bulk = call(&mut pair, 3, 1 << 30);
    let large: Vec<u64> = (0..20).map(|_| call(&mut pair, 0, 0)).collect();
    let mut decoder = Decoder::new(1 << 20);
    let mut large = large.into_iter();
    let (mut items, mut turns) = (0, 0);
    loop {
        // More than the socket takes always waits: of answers, and of items of two other channels.
        if pair.daemon.unsent().bytes < 2 << 20 {
            let Some(stream) = large.next() else { break };
            pair.daemon.reply(stream, Vec::new(), raw(1 << 20)).unwrap();
            for channel in [2, 3] {
                while let Ok(Sent::Queued) = pair.daemon.send_item(bulk, channel, raw(300_000)) {}
            }
        }
        while let Ok(Sent::Queued) = pair.daemon.send_item(bulk, 1, raw(100)) {}
        assert!(pair.daemon.unsent().bytes < 8 << 20, "what waits is bounded");
        turns += 1;
        let frames = batch(&mut pair.daemon, &mut decoder);
        items += frames.iter().filter(|frame| (frame.header.stream, frame.header.arg) == (bulk, 1)).count();
    }
    assert!(turns > 50 && items >= 2 * turns, "{items} items went out in {turns} batches");
}

#[test]
fn a_side_stops_reading_above_so_many_bytes_and_so_many_answers() {
    // Bytes.
    for (len, pauses) in [(limits::UNSENT_BYTES_PAUSE - 1000, false), (limits::UNSENT_BYTES_PAUSE, true)] {
        let mut pair = open();
        let stream = call(&mut pair, 0, 0);
        pair.daemon.reply(stream, Vec::new(), raw(len)).unwrap();
        // With its header and record.
        assert!(pair.daemon.unsent().bytes > len);
        assert_eq!(pair.daemon.pauses_reading(), pauses, "{len}");
        pair.to_client().unwrap();
        assert!(!pair.daemon.pauses_reading());
    }
    // Answers, however small: at the limit and one above it.
    let settings = Settings { open_calls: 2000, ..Settings::default() };
    let mut pair = Pair::open_with(settings, settings);
    let streams: Vec<u64> = (0..=limits::UNSENT_TERMINALS_PAUSE)
        .map(|_| pair.client.call(Request { command: "a.b".into(), ..Request::default() }).unwrap())
        .collect();
    pair.to_daemon().unwrap();
    for (at, stream) in streams.iter().enumerate() {
        assert!(!pair.daemon.pauses_reading(), "after {at}");
        pair.daemon.reply(*stream, Vec::new(), Message::default()).unwrap();
    }
    assert_eq!(pair.daemon.unsent().terminals, limits::UNSENT_TERMINALS_PAUSE + 1);
    assert!(pair.daemon.unsent().bytes < limits::UNSENT_BYTES_PAUSE);
    assert!(pair.daemon.pauses_reading());
    pair.to_client().unwrap();
    assert!(!pair.daemon.pauses_reading());
}

#[test]
fn a_slot_is_free_once_the_whole_answer_is_written() {
    let settings = Settings { open_calls: 1, features: features::CHANNELS, ..Settings::default() };
    let mut pair = Pair::open_with(settings, settings);
    let stream = call(&mut pair, 0, 0);
    pair.daemon.reply(stream, Vec::new(), raw(1 << 20)).unwrap();
    let mut decoder = Decoder::new(1 << 20);
    let mut frames = Vec::new();
    loop {
        assert_eq!(pair.daemon.open_inbound(), 1, "its end is not written");
        let next = batch(&mut pair.daemon, &mut decoder);
        let is_over = next.last().is_none_or(|frame| !frame.header.has(flags::MORE));
        frames.extend(next);
        if is_over {
            break;
        }
    }
    assert_eq!(frames.iter().map(|frame| frame.payload.len()).sum::<usize>(), 1 << 20);
    batch(&mut pair.daemon, &mut decoder);
    assert_eq!(pair.daemon.open_inbound(), 0);
}
