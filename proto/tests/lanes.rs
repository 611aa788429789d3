//! Segments, leases and file descriptors, between a client and a daemon in memory, with counted descriptors.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, Event, LaneSet, Placement, Request, Sent, Settings};
use invoked_proto::error::{DecodeError, MisuseError, PeerError};
use invoked_proto::header::Header;
use invoked_proto::metadata::{ChannelDeclaration, Lease, Part, Place, Release, Reply, Segment};
use invoked_proto::registry::{Codec, Direction, ErrorCode, FrameKind, Lane, features, limits};
use invoked_proto::testing::{AnyRecord, Pair, Token, frame, next_output};

const LEN: u64 = 4096;

fn settings() -> Settings {
    Settings { features: features::ATTACHED_FDS | features::POOL, ..Settings::default() }
}

fn open() -> (Pair, Rc<Cell<usize>>) {
    (Pair::open_with(settings(), settings()), Rc::default())
}

fn segment(number: u32, generation: u32) -> Segment {
    Segment { segment: number, generation, len: LEN, ..Segment::default() }
}

fn at(offset: u64) -> Lease {
    Lease { segment: 7, generation: 1, offset }
}

/// Opens a call, and brings it to the daemon.
fn call(pair: &mut Pair) -> u64 {
    let stream = pair.client.call(Request { command: "a.b".into(), ..Request::default() }).unwrap();
    pair.to_daemon().unwrap();
    while pair.daemon.poll_event().is_some() {}
    stream
}

/// Answers a call with 100 bytes that lie at `offset`.
fn answer(pair: &mut Pair, stream: u64, offset: u64) -> Result<(), MisuseError> {
    let mut placement = Placement::default();
    placement.in_segment(0, at(offset), 100);
    let body = Bytes::from(vec![7; 100]);
    pair.daemon.reply_placed(stream, Vec::new(), Message::from(Body::Raw(body)), placement)
}

fn events(connection: &mut Connection<Token>) -> Vec<Event<Token>> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

#[test]
fn a_reply_names_its_bytes_and_they_are_lent_until_they_are_released() {
    let (mut pair, fds) = open();
    let stream = call(&mut pair);
    assert_eq!(answer(&mut pair, stream, 0), Err(MisuseError::NotPlaced), "the segment is not introduced");
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    assert!(pair.daemon.has_introduced(7, 1) && !pair.daemon.has_introduced(7, 2));
    answer(&mut pair, stream, 0).unwrap();
    assert_eq!((pair.daemon.lent(), pair.daemon.unconfirmed_fds()), (1, 1));

    // Both in one write, the file descriptor on its first byte.
    let (bytes, sent) = next_output(&mut pair.daemon).unwrap();
    assert_eq!(sent.len(), 1);
    assert!(next_output(&mut pair.daemon).is_none());
    pair.client.handle_input(pair.now, bytes, sent).unwrap();
    let came = events(&mut pair.client);
    let [Event::SegmentCame { segment: introduced, file }, Event::Replied { reply, payload, .. }] = &came[..]
    else {
        panic!("{came:?}");
    };
    assert_eq!(*introduced, segment(7, 1));
    assert!(payload.is_empty());
    let place = Place::Pool { segment: 7, generation: 1, offset: 0 };
    assert_eq!(reply.parts, [Part { codec: Codec::Raw, len: 100, place }]);
    assert_eq!(fds.get(), 1, "{file:?} is the only one");

    // The file descriptor is confirmed at once, the lease with it or later.
    assert!(pair.client.has_transmit());
    pair.to_daemon().unwrap();
    assert_eq!((pair.daemon.lent(), pair.daemon.unconfirmed_fds()), (1, 0));
    pair.client.release_leases([at(0)]);
    assert!(!pair.client.has_transmit(), "one lease alone is not worth a write");
    let second = call(&mut pair);
    assert_eq!(pair.daemon.lent(), 0, "it rode with the next call");
    answer(&mut pair, second, 0).unwrap();
    drop(came);
    assert_eq!(fds.get(), 0);
}

#[test]
fn many_leases_are_given_back_without_waiting() {
    let (mut pair, fds) = open();
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let streams: Vec<u64> = (0..20).map(|_| call(&mut pair)).collect();
    for (offset, stream) in (0..).zip(streams) {
        answer(&mut pair, stream, offset).unwrap();
    }
    pair.to_client().unwrap();
    pair.to_daemon().unwrap();
    assert_eq!(pair.daemon.lent(), 20);
    let parts = events(&mut pair.client).into_iter().filter_map(|event| match event {
        Event::Replied { reply, .. } => Some(reply.parts),
        _ => None,
    });
    for (count, parts) in (1..).zip(parts.collect::<Vec<_>>()) {
        pair.client.release_parts(&parts);
        assert_eq!(pair.client.has_transmit(), count >= 16, "{count}");
    }
    pair.to_daemon().unwrap();
    assert_eq!(pair.daemon.lent(), 0);
}

#[test]
fn bytes_are_lent_as_often_as_they_are_given_and_only_from_where_they_are() {
    let (mut pair, fds) = open();
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let streams = [call(&mut pair), call(&mut pair), call(&mut pair)];
    answer(&mut pair, streams[0], 0).unwrap();
    answer(&mut pair, streams[1], 0).unwrap();
    assert_eq!(pair.daemon.lent(), 2);
    assert_eq!(answer(&mut pair, streams[2], LEN - 99), Err(MisuseError::NotPlaced), "n + 1");
    assert_eq!(pair.daemon.introduce(segment(7, 2), Token::open(&fds)), Err(MisuseError::NotPlaced), "lent");
    assert_eq!(pair.daemon.introduce(segment(7, 1), Token::open(&fds)), Err(MisuseError::NotPlaced), "known");
    answer(&mut pair, streams[2], LEN - 100).unwrap();
    pair.to_client().unwrap();
    assert_eq!(fds.get(), 1, "what was refused is closed");
    drop(events(&mut pair.client));
    assert_eq!(fds.get(), 0);
    for left in [2, 1] {
        pair.client.release_leases([at(0)]);
        pair.client.ping(0).unwrap();
        pair.to_daemon().unwrap();
        assert_eq!(pair.daemon.lent(), left);
    }
    pair.client.release_leases([at(0)]);
    pair.client.ping(0).unwrap();
    assert_eq!(pair.to_daemon(), Err(PeerError::NotLent), "once more than it was given");
}

#[test]
fn segments_end_at_their_limit() {
    let (mut pair, fds) = open();
    let most = u32::try_from(limits::MAX_SEGMENTS).unwrap();
    for number in 0..most {
        pair.daemon.introduce(segment(number, 1), Token::open(&fds)).unwrap();
    }
    assert_eq!(pair.daemon.introduce(segment(most, 1), Token::open(&fds)), Err(MisuseError::NotPlaced));
    pair.daemon.introduce(segment(0, 2), Token::open(&fds)).unwrap();
    pair.to_client().unwrap();
    assert_eq!(events(&mut pair.client).len(), limits::MAX_SEGMENTS + 1);
    pair.to_daemon().unwrap();
    assert_eq!(pair.daemon.unconfirmed_fds(), 0);
}

#[test]
fn without_the_feature_nothing_leaves_the_frames() {
    let mut pair = Pair::open_with(Settings::default(), settings());
    let stream = call(&mut pair);
    let fds = Rc::default();
    assert_eq!(pair.daemon.introduce(segment(7, 1), Token::open(&fds)), Err(MisuseError::NoLane));
    assert_eq!(answer(&mut pair, stream, 0), Err(MisuseError::NoLane));
    pair.daemon.reply(stream, Vec::new(), Message::from(Body::Raw(Bytes::from_static(b"inline")))).unwrap();
    pair.to_client().unwrap();
    assert_eq!(fds.get(), 0);
}

#[test]
fn attachments_go_where_they_are_put_and_the_rest_stays_inline() {
    let (mut pair, fds) = open();
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let stream = call(&mut pair);
    let message = Message {
        body: Body::Json(Bytes::from_static(b"[1]")),
        attachments: vec![Bytes::from(vec![1; 200]), Bytes::from_static(b"inline")],
    };
    let mut placement = Placement::default();
    placement.in_segment(1, at(64), 200);
    pair.daemon.reply_placed(stream, Vec::new(), message, placement).unwrap();
    pair.to_client().unwrap();
    let last = events(&mut pair.client).pop();
    let Some(Event::Replied { reply, payload, .. }) = last else { panic!("{last:?}") };
    assert_eq!(payload, "[1]inline");
    let places: Vec<bool> = reply.parts.iter().map(|part| part.place == Place::Inline).collect();
    assert_eq!(places, [true, false, true]);
    assert_eq!(reply.parts.iter().map(|part| part.len).collect::<Vec<_>>(), [3, 200, 6]);
}

#[test]
fn an_answer_that_comes_too_late_gives_its_lease_back() {
    let (mut pair, fds) = open();
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let stream = call(&mut pair);
    answer(&mut pair, stream, 0).unwrap();
    let goaway = Header { arg: 0, ..Header::new(FrameKind::GoAway, 0) };
    let said = AnyRecord::from(invoked_proto::metadata::GoAway::default()).encode();
    // Another daemon's last word: the call was not taken, and is ended at the client before its answer comes.
    pair.client.handle_input(pair.now, frame(goaway, &said, b""), []).unwrap();
    pair.to_client().unwrap();
    pair.to_daemon().unwrap();
    assert_eq!(pair.daemon.lent(), 0);
    drop(events(&mut pair.client));
    assert_eq!(fds.get(), 0);
}

#[test]
fn a_peer_that_is_gone_leaves_nothing_lent() {
    let (mut pair, fds) = open();
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let stream = call(&mut pair);
    let body = Bytes::from(vec![7; 100]);
    let mut placement = Placement::default();
    placement.in_segment(0, at(0), 100);
    pair.daemon.reply_placed(stream, Vec::new(), Message::from(Body::Raw(body.clone())), placement).unwrap();
    assert!(!body.is_unique());
    pair.daemon.handle_eof().unwrap();
    assert!(body.is_unique(), "the daemon still holds it");
    assert_eq!(fds.get(), 0);
}

/// Gives the client a frame of the daemon's, with file descriptors.
fn to_client(pair: &mut Pair, header: Header, record: &Bytes, fds: Vec<Token>) -> Result<(), PeerError> {
    let nfds = u8::try_from(fds.len()).unwrap();
    pair.client.handle_input(pair.now, frame(Header { nfds, ..header }, record, b""), fds)
}

#[test]
fn a_segment_needs_its_file_a_size_and_a_new_generation() {
    let introduced = |segment: Segment, files: usize| {
        let (mut pair, fds) = open();
        let mut give = |segment: Segment, files: usize| {
            let files = (0..files).map(|_| Token::open(&fds)).collect();
            let header = Header::new(FrameKind::Segment, 0);
            to_client(&mut pair, header, &AnyRecord::from(segment).encode(), files)
        };
        give(Segment { segment: 7, generation: 5, len: LEN, ..Segment::default() }, 1).unwrap();
        let result = give(segment, files);
        drop(pair);
        assert_eq!(fds.get(), 0);
        result
    };
    let most = limits::SEGMENT_MAX as u64;
    let of = |generation, len| Segment { segment: 7, generation, len, ..Segment::default() };
    assert_eq!(introduced(of(6, most), 1), Ok(()));
    for (segment, files) in
        [(of(6, most + 1), 1), (of(6, 0), 1), (of(5, LEN), 1), (of(6, LEN), 0), (of(6, LEN), 2)]
    {
        let error = introduced(segment.clone(), files).unwrap_err();
        assert_eq!(
            (error, error.wire_code()),
            (PeerError::BadSegment(7), ErrorCode::AttachmentRefused),
            "{segment:?}"
        );
    }
}

#[test]
fn a_part_outside_of_its_segment_is_refused() {
    let named = |segment, generation, offset, len| {
        let (mut pair, fds) = open();
        pair.daemon.introduce(self::segment(7, 1), Token::open(&fds)).unwrap();
        let stream = call(&mut pair);
        pair.to_client().unwrap();
        let place = Place::Pool { segment, generation, offset };
        let reply = Reply { parts: vec![Part { codec: Codec::Raw, len, place }], ..Reply::default() };
        let header = Header { codec: Codec::Raw, ..Header::new(FrameKind::Result, stream) };
        to_client(&mut pair, header, &AnyRecord::from(reply).encode(), Vec::new())
    };
    assert_eq!(named(7, 1, 0, LEN), Ok(()));
    assert_eq!(named(7, 1, 0, LEN + 1), Err(PeerError::NoSegment(7)), "n + 1");
    assert_eq!(named(7, 1, LEN, 1), Err(PeerError::NoSegment(7)));
    assert_eq!(named(7, 1, u64::MAX, 2), Err(PeerError::NoSegment(7)), "an overflow");
    assert_eq!(named(7, 2, 0, 1), Err(PeerError::NoSegment(7)), "a generation that is not there yet");
    assert_eq!(named(8, 1, 0, 1), Err(PeerError::NoSegment(8)));
}

#[test]
fn a_peer_gives_back_what_it_has_and_once() {
    let released = |fds, leases: &[Lease]| {
        let (mut pair, counter) = open();
        pair.daemon.introduce(segment(7, 1), Token::open(&counter)).unwrap();
        let stream = call(&mut pair);
        answer(&mut pair, stream, 0).unwrap();
        let release = Release { fds, leases: leases.to_vec(), ..Release::default() };
        let header = Header::new(FrameKind::Release, 0);
        let bytes = frame(header, &AnyRecord::from(release).encode(), b"");
        pair.daemon.handle_input(pair.now, bytes, []).map(|()| pair.daemon.lent())
    };
    assert_eq!(released(1, &[at(0)]), Ok(0));
    assert_eq!(released(0, &[]), Ok(1));
    assert_eq!(released(2, &[]), Err(PeerError::NotLent), "n + 1");
    assert_eq!(released(0, &[at(0), at(0)]), Err(PeerError::NotLent), "twice");
    assert_eq!(released(0, &[at(1)]), Err(PeerError::NotLent));
    assert_eq!(released(0, &[Lease { generation: 2, ..at(0) }]), Err(PeerError::NotLent));
}

/// Both sides, after the daemon has said that it takes `lanes`.
fn taking(lanes: &[Lane]) -> (Pair, Rc<Cell<usize>>) {
    let all =
        features::ATTACHED_FDS | features::POOL | features::SEALED | features::FILE | features::CHANNELS;
    let settings = Settings { features: all, ..Settings::default() };
    let mut pair = Pair::open_with(settings, settings);
    pair.daemon.take_lanes(LaneSet::of(lanes.iter().copied())).unwrap();
    pair.to_client().unwrap();
    let told = events(&mut pair.client);
    assert!(
        matches!(&told[..], [Event::LanesTold(told)] if told.iter().eq(lanes.iter().copied())),
        "{told:?}"
    );
    (pair, Rc::default())
}

fn request(message: Message) -> Request {
    Request { command: "a.b".into(), message, ..Request::default() }
}

#[test]
fn a_client_asks_and_sends_on_no_lane_before_it_is_told() {
    let (mut pair, fds) = open();
    let mut placement = Placement::default();
    placement.in_segment(0, at(0), 100);
    let body = || Message::from(Body::Raw(Bytes::from(vec![7; 100])));
    assert_eq!(pair.client.introduce(segment(7, 1), Token::open(&fds)), Err(MisuseError::NoLane));
    assert_eq!(pair.client.call_placed(request(body()), placement), Err(MisuseError::NoLane));
    let wanted = LaneSet::of([Lane::Pool, Lane::File]);
    pair.client.ask_for_lanes(wanted).unwrap();
    assert_eq!(pair.daemon.ask_for_lanes(wanted), Err(MisuseError::NoLane), "it is told nothing");
    pair.to_daemon().unwrap();
    assert!(matches!(events(&mut pair.daemon)[..], [Event::LanesAsked(asked)] if asked == wanted));
    assert!(!pair.daemon.takes(Lane::Pool));
    // It takes what both have: no files here.
    pair.daemon.take_lanes(wanted).unwrap();
    assert!(pair.daemon.takes(Lane::Pool) && !pair.daemon.takes(Lane::File));
    pair.to_client().unwrap();
    assert!(pair.client.may_send(Lane::Pool) && !pair.client.may_send(Lane::File));
    // What it takes back, it still can't hold against a client that does not know yet.
    pair.daemon.take_lanes(LaneSet::NONE).unwrap();
    pair.client.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    pair.to_daemon().unwrap();
    assert!(matches!(events(&mut pair.daemon)[..], [Event::SegmentCame { .. }]));
    pair.to_client().unwrap();
    assert!(!pair.client.may_send(Lane::Pool));
    assert_eq!(pair.client.introduce(segment(8, 1), Token::open(&fds)), Err(MisuseError::NoLane));
    let mut without = Pair::open();
    assert_eq!(without.client.ask_for_lanes(wanted), Err(MisuseError::NoLane));
    assert_eq!(without.daemon.take_lanes(wanted), Err(MisuseError::NoLane));
    assert_eq!(fds.get(), 0);
}

#[test]
fn a_call_lends_its_bytes_until_the_daemon_has_read_them() {
    let (mut pair, fds) = taking(&[Lane::Pool]);
    pair.client.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let mut placement = Placement::default();
    placement.in_segment(1, at(64), 200);
    let message = Message {
        body: Body::Json(Bytes::from_static(b"[1]")),
        attachments: vec![Bytes::from(vec![1; 200]), Bytes::from_static(b"inline")],
    };
    pair.client.call_placed(request(message), placement).unwrap();
    assert_eq!((pair.client.lent(), pair.client.unconfirmed_fds()), (1, 1));
    pair.to_daemon().unwrap();
    let came = events(&mut pair.daemon);
    let [Event::SegmentCame { .. }, Event::Called { call, payload, .. }] = &came[..] else {
        panic!("{came:?}")
    };
    assert_eq!(payload, "[1]inline");
    assert_eq!(call.parts[1].place, Place::Pool { segment: 7, generation: 1, offset: 64 });
    pair.to_client().unwrap();
    assert_eq!((pair.client.lent(), pair.client.unconfirmed_fds()), (1, 0), "it is not read yet");
    assert_eq!(pair.client.give_up_segment(7, 1), Err(MisuseError::NotPlaced), "bytes of it are lent");
    pair.daemon.release_parts(&call.parts);
    pair.daemon.reply(1, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert_eq!(pair.client.lent(), 0);
    drop(came);
    assert_eq!(fds.get(), 0);
}

#[test]
fn a_call_that_is_not_taken_gives_its_leases_back() {
    for limits in [
        Settings { max_message: 99, ..Settings::default() },
        Settings { open_calls: 0, ..Settings::default() },
    ] {
        let (mut pair, fds) = taking(&[Lane::Pool]);
        pair.daemon.hold_to(limits);
        pair.client.introduce(segment(7, 1), Token::open(&fds)).unwrap();
        let mut placement = Placement::default();
        placement.in_segment(0, at(0), 100);
        let body = Message::from(Body::Raw(Bytes::from(vec![7; 100])));
        pair.client.call_placed(request(body), placement).unwrap();
        pair.to_daemon().unwrap();
        assert!(matches!(events(&mut pair.daemon)[..], [Event::SegmentCame { .. }]));
        pair.to_client().unwrap();
        assert!(matches!(events(&mut pair.client)[..], [Event::Failed { .. }]));
        assert_eq!((pair.client.lent(), fds.get()), (0, 0));
    }
}

#[test]
fn what_is_in_a_file_counts_where_it_is_read() {
    for (len, code) in [(150, None), (151, Some(ErrorCode::TooLarge))] {
        let (mut pair, fds) = taking(&[Lane::Sealed, Lane::File]);
        pair.daemon.hold_to(Settings { max_message: 150, ..Settings::default() });
        let mut placement = Placement::default();
        placement.in_file(5, len - 50, Token::open(&fds));
        placement.in_sealed(1, 50, Token::open(&fds));
        let message = Message { body: Body::Raw(Bytes::new()), attachments: vec![Bytes::from(vec![7; 50])] };
        pair.client.call_placed(request(message), placement).unwrap();
        pair.to_daemon().unwrap();
        let came = events(&mut pair.daemon);
        match (code, &came[..]) {
            (None, [Event::Called { call, fds, .. }]) => {
                assert_eq!(fds.len(), 2);
                assert_eq!(call.parts[0].place, Place::File { fd: 0, offset: 5 });
                assert_eq!(call.parts[1].place, Place::Sealed { fd: 1 });
            }
            (Some(_), []) => {}
            (_, came) => panic!("{came:?}"),
        }
        pair.to_client().unwrap();
        let answered = events(&mut pair.client);
        assert_eq!(
            matches!(&answered[..], [Event::Failed { code: said, .. }] if Some(*said) == code),
            code.is_some()
        );
        drop(came);
        assert_eq!((fds.get(), pair.client.unconfirmed_fds()), (0, 0));
    }
}

#[test]
fn a_segment_that_is_given_up_is_of_no_use_and_its_number_is_free() {
    let (mut pair, fds) = taking(&[Lane::Pool]);
    pair.client.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    pair.client.give_up_segment(7, 2).unwrap();
    pair.to_daemon().unwrap();
    assert!(
        matches!(events(&mut pair.daemon)[..], [Event::SegmentCame { .. }]),
        "another generation is no news"
    );
    pair.client.give_up_segment(7, 1).unwrap();
    pair.client.give_up_segment(7, 1).unwrap();
    assert!(!pair.client.has_introduced(7, 1));
    pair.to_daemon().unwrap();
    let gone = events(&mut pair.daemon);
    assert!(matches!(gone[..], [Event::SegmentGone { segment: 7, generation: 1 }]), "{gone:?}");
    let mut placement = Placement::default();
    placement.in_segment(0, at(0), 100);
    let body = Message::from(Body::Raw(Bytes::from(vec![7; 100])));
    assert_eq!(pair.client.call_placed(request(body), placement), Err(MisuseError::NotPlaced));
    assert_eq!(pair.client.introduce(segment(7, 1), Token::open(&fds)), Err(MisuseError::NotPlaced), "known");
    pair.client.introduce(segment(7, 2), Token::open(&fds)).unwrap();
    pair.to_daemon().unwrap();
    drop(events(&mut pair.daemon));
    // The daemon's own, too.
    pair.daemon.introduce(segment(3, 1), Token::open(&fds)).unwrap();
    pair.daemon.give_up_segment(3, 1).unwrap();
    pair.to_client().unwrap();
    assert_eq!(events(&mut pair.client).len(), 2);
    assert_eq!(fds.get(), 0);
}

#[test]
fn items_of_a_client_lease_from_when_they_are_sent() {
    let (mut pair, fds) = taking(&[Lane::Pool]);
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Up, credit: 0 }];
    pair.client.call(Request { channels, ..request(Message::default()) }).unwrap();
    pair.client.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    let mut placement = Placement::default();
    placement.in_segment(0, at(0), 100);
    let message = Message::from(Body::Raw(Bytes::from(vec![7; 100])));
    let sent = pair.client.send_item_placed(1, 1, None, message, &placement);
    assert!(matches!(sent, Ok(Sent::Queued)));
    pair.to_daemon().unwrap();
    assert_eq!(pair.client.lent(), 1);
    let came = events(&mut pair.daemon);
    let Some(Event::ItemCame { item, .. }) = came.last() else { panic!("{came:?}") };
    pair.daemon.release_parts(&item.parts);
    pair.daemon.reply(1, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert_eq!(pair.client.lent(), 0);
}

#[test]
fn a_client_introduces_nothing_that_was_not_asked_for() {
    let (mut pair, fds) = open();
    let header = Header { nfds: 1, ..Header::new(FrameKind::Segment, 0) };
    let bytes = frame(header, &AnyRecord::from(segment(1, 1)).encode(), b"");
    let error = pair.daemon.handle_input(pair.now, bytes, [Token::open(&fds)]).unwrap_err();
    assert_eq!(error, PeerError::Feature);
    assert_eq!(fds.get(), 0);
    let mut pair = Pair::open();
    let bytes = frame(header, &AnyRecord::from(segment(1, 1)).encode(), b"");
    let error = pair.daemon.handle_input(pair.now, bytes, [Token::open(&fds)]).unwrap_err();
    assert_eq!(error, PeerError::Decode(DecodeError::TooManyFds(1)), "without the feature");
    assert_eq!(fds.get(), 0);
}

#[test]
fn a_message_has_one_limit_wherever_its_bytes_are() {
    let small = Settings { max_message: 150, ..settings() };
    for (limits, code) in [((settings(), small), None), ((small, settings()), Some(ErrorCode::TooLarge))] {
        let mut pair = Pair::open_with(limits.0, limits.1);
        let fds = Rc::default();
        pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
        let stream = call(&mut pair);
        let mut placement = Placement::default();
        placement.in_segment(0, at(0), 100);
        let message = |attached: usize| Message {
            body: Body::Raw(Bytes::from(vec![7; 100])),
            attachments: vec![Bytes::from(vec![8; attached])],
        };
        // The daemon takes its own limit for the client's, unless it was told: so the client keeps to its own.
        let refused = pair.daemon.reply_placed(stream, Vec::new(), message(51), placement);
        if code.is_none() {
            assert_eq!(refused, Err(MisuseError::MessageTooLarge { len: 151, max: 150 }), "n + 1");
            let mut placement = Placement::default();
            placement.in_segment(0, at(0), 100);
            pair.daemon.reply_placed(stream, Vec::new(), message(50), placement).unwrap();
        }
        pair.to_client().unwrap();
        let last = events(&mut pair.client).pop().unwrap();
        match code {
            None => assert!(matches!(last, Event::Replied { .. }), "{last:?}"),
            Some(code) => {
                assert!(matches!(last, Event::Failed { code: said, .. } if said == code), "{last:?}")
            }
        }
        pair.client.ping(0).unwrap();
        pair.to_daemon().unwrap();
        // What the client did not take it has given back; what it took it still holds.
        assert_eq!(pair.daemon.lent(), usize::from(code.is_none()));
    }
}

#[test]
fn a_result_is_an_open_file() {
    let with_files = Settings { features: features::ATTACHED_FDS | features::FILE, ..Settings::default() };
    let mut pair = Pair::open_with(with_files, with_files);
    let fds: Rc<Cell<usize>> = Rc::default();
    let file = |offset, len| {
        let mut placement = Placement::default();
        placement.in_file(offset, len, Token::open(&fds));
        placement
    };
    let stream = call(&mut pair);
    let json = Message::from(Body::Json(Bytes::from_static(b"1")));
    let refused = pair.daemon.reply_placed(stream, Vec::new(), json, file(0, 1));
    assert_eq!(refused, Err(MisuseError::NotPlaced), "it is raw, and has no other bytes");
    let open = || Message::from(Body::Raw(Bytes::new()));
    // Longer than any message may be.
    pair.daemon.reply_placed(stream, Vec::new(), open(), file(5, 1 << 40)).unwrap();
    assert_eq!((fds.get(), pair.daemon.unconfirmed_fds()), (1, 1));
    pair.to_client().unwrap();
    let Some(Event::Replied { reply, payload, fds: came, .. }) = pair.client.poll_event() else { panic!() };
    let place = Place::File { fd: 0, offset: 5 };
    assert_eq!(reply.parts, [Part { codec: Codec::Raw, len: 1 << 40, place }]);
    assert_eq!((payload.len(), came.len(), fds.get()), (0, 1, 1));
    pair.to_daemon().unwrap();
    assert_eq!(pair.daemon.unconfirmed_fds(), 0);
    drop(came);

    let mut without = Pair::open_with(Settings::default(), with_files);
    let stream = call(&mut without);
    assert_eq!(without.daemon.reply_placed(stream, Vec::new(), open(), file(0, 1)), Err(MisuseError::NoLane));
    assert_eq!(fds.get(), 0);
}

/// Both sides with a channel to the client on stream 1, which has `credit`.
fn with_channel(credit: u64) -> (Pair, Rc<Cell<usize>>) {
    let all = features::CHANNELS | features::ATTACHED_FDS | features::POOL;
    let settings = Settings { features: all, ..Settings::default() };
    let mut pair = Pair::open_with(settings, settings);
    let channels = vec![ChannelDeclaration { index: 1, direction: Direction::Down, credit }];
    pair.client.call(Request { command: "a.b".into(), channels, ..Request::default() }).unwrap();
    pair.to_daemon().unwrap();
    while pair.daemon.poll_event().is_some() {}
    (pair, Rc::default())
}

/// Sends an item of 100 bytes that lie at `offset`, with an attachment in the frames.
fn send(pair: &mut Pair, offset: u64, attached: usize) -> Result<Sent, MisuseError> {
    let mut placement = Placement::default();
    placement.in_segment(0, at(offset), 100);
    let attachments = vec![Bytes::from(vec![8; attached])];
    let message = Message { body: Body::Raw(Bytes::from(vec![7; 100])), attachments };
    pair.daemon.send_item_placed(1, 1, None, message, &placement)
}

#[test]
fn an_item_leases_from_when_it_is_sent() {
    let (mut pair, fds) = with_channel(2000);
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    assert!(matches!(send(&mut pair, 0, 1000), Ok(Sent::Queued)));
    assert!(matches!(send(&mut pair, 200, 1000), Ok(Sent::Queued)));
    assert_eq!(pair.daemon.lent(), 0, "nothing has gone out");
    // What finds no credit comes back whole.
    let Ok(Sent::NeedsCredit(message)) = send(&mut pair, 400, 500) else { panic!("beyond the credit") };
    assert_eq!((message.body.bytes(), message.attachments[0].len()), (&[7; 100][..], 500));
    pair.to_client().unwrap();
    assert_eq!(pair.daemon.lent(), 2);
    let items: Vec<Vec<Part>> = events(&mut pair.client)
        .into_iter()
        .filter_map(|event| match event {
            Event::ItemCame { item, .. } => Some(item.parts),
            _ => None,
        })
        .collect();
    let place = |offset| Place::Pool { segment: 7, generation: 1, offset };
    assert_eq!(items.iter().map(|parts| parts[0].place).collect::<Vec<_>>(), [place(0), place(200)]);
    items.iter().for_each(|parts| pair.client.release_parts(parts));
    pair.client.ping(0).unwrap();
    pair.to_daemon().unwrap();
    assert_eq!((pair.daemon.lent(), fds.get()), (0, 0));
}

#[test]
fn a_segment_overtakes_what_was_queued_before_it() {
    let (mut pair, fds) = with_channel(1 << 20);
    let plain = Message::from(Body::Raw(Bytes::from(vec![1; 60_000])));
    assert!(matches!(pair.daemon.send_item(1, 1, plain), Ok(Sent::Queued)));
    let streams: Vec<u64> = (0..3).map(|_| call(&mut pair)).collect();
    for stream in streams {
        // First frames without end give items their turns.
        let body = Message::from(Body::Raw(Bytes::from(vec![2; 65_000])));
        pair.daemon.reply(stream, Vec::new(), body).unwrap();
    }
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    assert!(matches!(send(&mut pair, 0, 0), Ok(Sent::Queued)));
    pair.to_client().unwrap();
    let came = events(&mut pair.client);
    assert!(matches!(came[0], Event::SegmentCame { .. }), "{came:?}");
    drop(came);
    assert_eq!((pair.daemon.lent(), fds.get()), (1, 0));
}

#[test]
fn items_that_nobody_wants_lease_nothing() {
    let (mut pair, fds) = with_channel(1 << 20);
    pair.daemon.introduce(segment(7, 1), Token::open(&fds)).unwrap();
    assert!(matches!(send(&mut pair, 0, 0), Ok(Sent::Queued)));
    // It is on its way when its receiver stops the channel, and the next waits still.
    let (on_its_way, sent) = next_output(&mut pair.daemon).unwrap();
    assert_eq!(pair.daemon.lent(), 1);
    assert!(matches!(send(&mut pair, 200, 0), Ok(Sent::Queued)));
    pair.client.stop_channel(1, 1);
    pair.client.handle_input(pair.now, on_its_way, sent).unwrap();
    pair.to_daemon().unwrap();
    pair.to_client().unwrap();
    pair.client.ping(0).unwrap();
    pair.to_daemon().unwrap();
    assert_eq!(pair.daemon.lent(), 0);
    drop((events(&mut pair.client), events(&mut pair.daemon)));
    assert_eq!(fds.get(), 0);
}
