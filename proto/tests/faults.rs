//! What a connection does when its peer misbehaves, leaves early or comes in an odd order: one test for each fault
//! that was found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Settings, Transmit, Withdrawal};
use invoked_proto::decoder::Decoder;
use invoked_proto::error::{DecodeError, MisuseError, PeerError};
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, Extensions, GoAway, Hello, Part, Reply, Welcome};
use invoked_proto::preface::Preface;
use invoked_proto::registry::{Codec, Delivery, ErrorCode, FrameKind, HEADER_LEN, features, flags, tags};
use invoked_proto::testing::{AnyRecord, Pair, Token, frame, output};

fn request(body: Body) -> Request {
    Request { command: "bench.echo".into(), message: Message::from(body), ..Request::default() }
}

fn raw(len: usize) -> Body {
    Body::Raw(Bytes::from(vec![7; len]))
}

fn with_record(kind: FrameKind, stream: u64, record: impl Into<AnyRecord>) -> Bytes {
    frame(Header::new(kind, stream), &record.into().encode(), &[])
}

fn call_frame(stream: u64) -> Bytes {
    let parts = Message::default().parts();
    with_record(FrameKind::Call, stream, Call { command: "a.b".into(), parts, ..Call::default() })
}

/// A daemon that has read preface and HELLO and not said WELCOME.
fn greeted() -> Pair {
    let mut pair = Pair::new();
    pair.to_daemon().unwrap();
    assert!(matches!(pair.daemon.poll_event(), Some(Event::Greeted(_))));
    pair
}

fn give(pair: &mut Pair, bytes: Bytes) -> Result<(), PeerError> {
    pair.daemon.handle_input(pair.now, bytes, [])
}

#[test]
fn calls_above_the_last_stream_of_a_goaway_end_as_not_delivered() {
    let mut pair = Pair::open();
    let taken = pair.client.call(request(Body::None)).unwrap();
    pair.to_daemon().unwrap();
    let crossing = pair.client.call(request(raw(100_000))).unwrap();
    pair.daemon.drain("restart");
    pair.to_client().unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::WentAway { code: None, .. })));
    let Some(Event::Failed { stream, code, failure, more, .. }) = pair.client.poll_event() else {
        panic!("the crossing call hangs");
    };
    assert_eq!((stream, code, failure.delivery), (crossing, ErrorCode::Unavailable, Delivery::NotDelivered));
    assert_eq!(more, More::Whole);
    assert_eq!(pair.client.call(request(Body::None)), Err(MisuseError::NotOpen));
    pair.daemon.reply(taken, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::Replied { stream, .. }) if stream == taken));
    assert_eq!(pair.client.open_outbound(), 0);
    pair.to_daemon().unwrap();
    assert!(pair.daemon.is_drained());
}

#[test]
fn a_second_goaway_does_not_claim_calls_that_the_first_refused() {
    let mut pair = Pair::open();
    pair.daemon.drain("restart");
    give(&mut pair, call_frame(1)).unwrap();
    pair.daemon.refuse(ErrorCode::Internal, "worse");
    pair.to_client().unwrap();
    for _ in 0..2 {
        let Some(Event::WentAway { notice, .. }) = pair.client.poll_event() else { panic!("no notice") };
        assert_eq!(notice.last_stream, 0);
    }
}

#[test]
fn an_answer_above_our_limit_is_an_error_and_its_bytes_are_dropped() {
    let small = Settings { max_message: 1000, ..Settings::default() };
    let mut pair = Pair::with_settings(small, Settings::default());
    pair.to_daemon().unwrap();
    pair.daemon.poll_event();
    pair.daemon.welcome(&Welcome::default()).unwrap();
    let stream = pair.client.call(request(Body::None)).unwrap();
    pair.to_daemon().unwrap();
    pair.daemon.reply(stream, Vec::new(), raw(200_000).into()).unwrap();
    pair.to_client().unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::Welcomed(_))));
    let Some(Event::Failed { code, failure, more, .. }) = pair.client.poll_event() else { panic!("taken") };
    assert_eq!((code, failure.delivery), (ErrorCode::TooLarge, Delivery::Completed));
    assert_eq!(more, More::Whole);
    assert!(pair.client.poll_event().is_none(), "bytes of a refused answer");
    assert_eq!(pair.client.open_outbound(), 0);
}

#[test]
fn the_long_answer_to_a_cancelled_call_still_comes_whole() {
    let mut pair = Pair::open();
    let stream = pair.client.call(request(Body::None)).unwrap();
    pair.to_daemon().unwrap();
    pair.daemon.reply(stream, Vec::new(), raw(200_000).into()).unwrap();
    assert_eq!(pair.client.cancel(stream), Withdrawal::Asked);
    pair.to_client().unwrap();
    let Some(Event::Replied { reply, payload, mut more, .. }) = pair.client.poll_event() else { panic!() };
    let mut assembly = Assembly::begin(reply.parts, payload).unwrap();
    while more == More::Follows {
        let Some(Event::Continued { payload, more: next, .. }) = pair.client.poll_event() else {
            panic!("the rest never comes");
        };
        assembly.push(&payload).unwrap();
        more = next;
    }
    assert_eq!(assembly.finish().unwrap().len(), 200_000);
}

#[test]
fn an_early_call_is_not_answered_before_the_welcome() {
    let daemon = Settings { open_calls: 1, ..Settings::default() };
    let mut pair = Pair::with_settings(Settings::default(), daemon);
    pair.client.call(request(Body::None)).unwrap();
    let refused = pair.client.call(request(Body::None)).unwrap();
    pair.to_daemon().unwrap();
    // The daemon's owner takes its time; what is ready is only the preface.
    pair.to_client().unwrap();
    pair.daemon.welcome(&Welcome::default()).unwrap();
    pair.to_client().unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::Welcomed(_))));
    assert!(matches!(pair.client.poll_event(), Some(Event::Failed { stream, .. }) if stream == refused));
}

#[test]
fn more_than_a_few_calls_before_the_welcome_are_refused() {
    let mut pair = greeted();
    for stream in [1, 3, 5, 7] {
        give(&mut pair, call_frame(stream)).unwrap();
    }
    assert_eq!(give(&mut pair, call_frame(9)), Err(PeerError::Unexpected(FrameKind::Call)));

    let mut pair = greeted();
    let parts = vec![Part::inline(Codec::Raw, 20_000)];
    let call = AnyRecord::from(Call { command: "a.b".into(), parts, ..Call::default() }).encode();
    let header = Header { codec: Codec::Raw, ..Header::new(FrameKind::Call, 1) };
    let long = frame(header, &call, &[0; 20_000]);
    assert_eq!(give(&mut pair, long), Err(PeerError::Unexpected(FrameKind::Call)));
}

#[test]
fn a_ping_before_the_welcome_is_refused_rather_than_answered_too_early() {
    let mut pair = greeted();
    let ping = frame(Header::new(FrameKind::Ping, 0), &[], &[]);
    assert_eq!(give(&mut pair, ping), Err(PeerError::Unexpected(FrameKind::Ping)));
}

#[test]
fn nothing_is_taken_of_a_client_that_is_refused_instead_of_welcomed() {
    let mut pair = greeted();
    give(&mut pair, call_frame(1)).unwrap();
    pair.daemon.refuse(ErrorCode::PermissionDenied, "no");
    pair.to_client().unwrap();
    let Some(Event::WentAway { code, notice }) = pair.client.poll_event() else { panic!("no notice") };
    assert_eq!((code, notice.last_stream), (Some(ErrorCode::PermissionDenied), 0));
}

#[test]
fn a_drain_before_the_handshake_closes_and_leaves_no_timer() {
    let mut pair = Pair::new();
    pair.daemon.drain("restart");
    assert!(pair.daemon.is_closed());
    assert_eq!(output(&mut pair.daemon), Bytes::new(), "nothing can be said before a preface");
    assert_eq!(pair.daemon.poll_timeout(), None);

    let mut pair = greeted();
    pair.daemon.drain("restart");
    pair.to_client().unwrap();
    let Some(Event::WentAway { code, .. }) = pair.client.poll_event() else { panic!("no notice") };
    assert_eq!(code, Some(ErrorCode::Unavailable));
}

#[test]
fn a_draining_client_still_takes_one_welcome_only() {
    let mut pair = Pair::new();
    pair.client.drain("done");
    pair.to_daemon().unwrap();
    pair.daemon.poll_event();
    pair.daemon.welcome(&Welcome::default()).unwrap();
    assert_eq!(pair.daemon.welcome(&Welcome::default()), Err(MisuseError::NotOpen));
    pair.to_client().unwrap();
    assert_eq!(pair.client.poll_timeout(), None);
    let again = with_record(FrameKind::Welcome, 0, Welcome::default());
    let error = pair.client.handle_input(pair.now, again, []).unwrap_err();
    assert_eq!(error, PeerError::Unexpected(FrameKind::Welcome));
}

#[test]
fn file_descriptors_on_a_preface_are_closed_at_once() {
    let counter = Rc::new(Cell::new(0));
    let mut pair = Pair::new();
    let first = output(&mut pair.client).slice(..5);
    let tokens: Vec<_> = (0..200).map(|_| Token::open(&counter)).collect();
    let error = pair.daemon.handle_input(pair.now, first, tokens).unwrap_err();
    assert_eq!(error, PeerError::Decode(DecodeError::FdsUnclaimed(200)));
    assert_eq!(counter.get(), 0, "held by a peer that said nothing");
}

#[test]
fn a_header_sent_byte_by_byte_holds_no_more_file_descriptors_than_a_frame_may_have() {
    let counter = Rc::new(Cell::new(0));
    let mut decoder = Decoder::new(1000);
    let header = frame(Header { nfds: 16, ..Header::new(FrameKind::Call, 1) }, &[], &[]);
    let mut most = 0;
    let mut error = None;
    for at in 0..HEADER_LEN {
        decoder.push(header.slice(at..=at), (0..10).map(|_| Token::open(&counter)));
        error = decoder.next_frame().err();
        if error.is_some() {
            break;
        }
        most = most.max(counter.get());
    }
    assert_eq!(error, Some(DecodeError::FdsUnclaimed(20)));
    assert!(most <= 16, "{most} were held");
    decoder.clear();
    assert_eq!(counter.get(), 0);
}

#[test]
fn a_frame_that_claims_file_descriptors_without_the_feature_is_refused_at_its_header() {
    let counter = Rc::new(Cell::new(0));
    let mut pair = Pair::open();
    let header = Header { len: 50_000, nfds: 1, ..Header::new(FrameKind::Call, 1) };
    let mut bytes = bytes::BytesMut::new();
    header.encode(&mut bytes);
    let error = pair.daemon.handle_input(pair.now, bytes.freeze(), [Token::open(&counter)]).unwrap_err();
    assert_eq!(error, PeerError::Decode(DecodeError::TooManyFds(1)));
    assert_eq!(counter.get(), 0, "kept while the frame's 50 000 bytes are awaited");
}

#[test]
fn file_descriptors_ride_only_frames_that_have_a_use_for_them() {
    let offer = Settings { features: features::ATTACHED_FDS, ..Settings::default() };
    let mut daemon = Connection::daemon(offer, std::time::Instant::now());
    let mut client =
        Connection::<Token>::client(offer, &Hello::default(), std::time::Instant::now()).unwrap();
    let now = std::time::Instant::now();
    let counter = Rc::new(Cell::new(0));
    daemon.handle_input(now, output(&mut client), []).unwrap();
    daemon.welcome(&Welcome::default()).unwrap();
    let with_fd = |kind, stream| frame(Header { nfds: 1, ..Header::new(kind, stream) }, &[], &[]);
    let error = daemon.handle_input(now, with_fd(FrameKind::Ping, 0), [Token::open(&counter)]).unwrap_err();
    assert_eq!(error, PeerError::Decode(DecodeError::FdsUnclaimed(1)));
    assert_eq!(counter.get(), 0);
}

#[test]
fn extensions_that_only_the_daemon_writes_are_refused_in_every_record() {
    let mut extensions = Extensions::none();
    extensions.insert(tags::DEPTH, Bytes::from_static(&[1]));
    let hello = Hello { extensions: extensions.clone(), ..Hello::default() };
    let mut pair = Pair::new();
    let preface = output(&mut pair.client).slice(..32);
    give(&mut pair, preface).unwrap();
    let error = give(&mut pair, with_record(FrameKind::Hello, 0, hello)).unwrap_err();
    assert_eq!(error, PeerError::DaemonOnly(tags::DEPTH));

    let mut pair = Pair::open();
    let notice = GoAway { extensions, ..GoAway::default() };
    let error = give(&mut pair, with_record(FrameKind::GoAway, 0, notice)).unwrap_err();
    assert_eq!(error, PeerError::DaemonOnly(tags::DEPTH));
}

#[test]
fn a_large_message_goes_on_under_a_stream_of_small_ones() {
    let mut pair = Pair::open();
    pair.client.call(request(raw(1 << 20))).unwrap();
    let mut transmit = Transmit::default();
    let mut seen = 0;
    for _ in 0..200 {
        // More first frames than a batch takes are always waiting.
        while pair.client.unsent().bytes < 2 << 20 && pair.client.open_outbound() < 1000 {
            pair.client.call(request(raw(60_000))).unwrap();
        }
        if !pair.client.poll_transmit(&mut transmit) {
            break;
        }
        let mut slices = [std::io::IoSlice::new(&[]); 256];
        let filled = transmit.slices(&mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        transmit.advance(bytes.len());
        give(&mut pair, bytes.into()).unwrap();
        while let Some(event) = pair.daemon.poll_event() {
            match event {
                Event::Continued { stream: 1, more, .. } => {
                    seen += 1;
                    if more == More::Whole {
                        return;
                    }
                }
                Event::Called { stream, .. } if stream != 1 => {
                    pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
                }
                _ => {}
            }
        }
        pair.to_client().unwrap();
        while pair.client.poll_event().is_some() {}
    }
    panic!("only {seen} fragments of the large message went out");
}

#[test]
fn a_stalled_frame_is_given_up_even_on_a_draining_connection() {
    let mut pair = Pair::open();
    pair.daemon.drain("restart");
    give(&mut pair, call_frame(1).slice(..10)).unwrap();
    pair.advance(Duration::from_secs(11));
    assert_eq!(pair.daemon.handle_timeout(pair.now), Err(PeerError::FrameTimeout));
    assert_eq!(pair.daemon.poll_timeout(), None);
}

#[test]
fn a_server_of_another_protocol_is_told_nothing() {
    let mut pair = Pair::new();
    drop(output(&mut pair.client));
    let error = pair.client.handle_input(pair.now, Bytes::from_static(b"SSH-2.0"), []).unwrap_err();
    assert_eq!(error, PeerError::Decode(DecodeError::BadMagic));
    assert_eq!(output(&mut pair.client), Bytes::new());
}

#[test]
fn a_preface_without_room_for_metadata_is_refused() {
    let preface = Preface { version_min: 1, version_max: 1, max_frame: 20_479, features: 0, instance: 0 };
    let mut bytes = bytes::BytesMut::new();
    preface.encode(&mut bytes);
    let mut pair = Pair::new();
    assert_eq!(give(&mut pair, bytes.freeze()), Err(PeerError::BadPreface));
}

#[test]
fn the_daemon_calls_nobody_who_did_not_offer_it() {
    let mut pair = Pair::open();
    assert_eq!(pair.daemon.call(request(Body::None)), Err(MisuseError::NotOpen));
}

#[test]
fn an_answer_ends_the_sending_of_the_question() {
    let mut pair = Pair::open();
    let stream = pair.client.call(request(raw(1 << 20))).unwrap();
    let mut transmit = Transmit::default();
    pair.client.poll_transmit(&mut transmit);
    let parts = Message::default().parts();
    let reply = with_record(FrameKind::Result, stream, Reply { parts, ..Reply::default() });
    pair.client.handle_input(pair.now, reply, []).unwrap();
    assert_eq!(pair.client.unsent().bytes, 0);
    assert_eq!(pair.client.open_outbound(), 0);
}

#[test]
fn a_continuation_that_also_ends_is_refused() {
    let mut pair = Pair::open();
    let header = Header { flags: flags::CONT | flags::END, ..Header::new(FrameKind::Data, 1) };
    let error = give(&mut pair, frame(header, &[], &[])).unwrap_err();
    assert_eq!(error, PeerError::Unexpected(FrameKind::Data));
}

#[test]
fn a_cancel_that_came_with_its_call_is_not_told_after_the_answer() {
    let mut pair = Pair::open();
    let cancel = frame(Header::new(FrameKind::Cancel, 1), &[], &[]);
    give(&mut pair, [call_frame(1), cancel].concat().into()).unwrap();
    assert!(matches!(pair.daemon.poll_event(), Some(Event::Called { stream: 1, .. })));
    pair.daemon.reply(1, Vec::new(), Message::default()).unwrap();
    assert!(pair.daemon.poll_event().is_none(), "the call is answered");
}

#[test]
fn what_waits_keeps_no_read_buffer_alive() {
    use bytes::{Bytes, BytesMut};
    use invoked_proto::body::{Assembly, Body, Message};
    use invoked_proto::metadata::Part;
    use invoked_proto::registry::Codec;

    // A message on its way in.
    let mut buffer = BytesMut::zeroed(256 * 1024);
    let part = Part::inline(Codec::Raw, 100);
    let assembly = Assembly::begin(vec![part], buffer.split_to(1).freeze()).expect("legal");
    buffer.clear();
    assert!(buffer.try_reclaim(255 * 1024), "one byte of a message keeps the buffer");
    drop(assembly);

    // An answer on its way out.
    let mut pair = invoked_proto::testing::Pair::open();
    let request = invoked_proto::connection::Request { command: "a".into(), ..Default::default() };
    let stream = pair.client.call(request).expect("open");
    pair.to_daemon().expect("legal");
    let mut buffer = BytesMut::zeroed(256 * 1024);
    let body: Bytes = buffer.split_to(1000).freeze();
    pair.daemon.reply(stream, Vec::new(), Message::from(Body::Raw(body))).expect("open");
    buffer.clear();
    assert!(buffer.try_reclaim(255 * 1024), "an unsent answer keeps the buffer");
}

#[test]
fn a_frame_that_we_do_not_read_on_with_is_not_given_up() {
    use std::time::Duration;

    let mut pair = invoked_proto::testing::Pair::open();
    let request = |len| invoked_proto::connection::Request {
        command: "a".into(),
        message: invoked_proto::body::Body::Raw(vec![0; len].into()).into(),
        ..Default::default()
    };
    let stream = pair.client.call(request(0)).expect("open");
    pair.to_daemon().expect("legal");
    let answer = invoked_proto::body::Body::Raw(vec![0; 1 << 20].into());
    pair.daemon.reply(stream, Vec::new(), answer.into()).expect("open");
    assert!(pair.daemon.pauses_reading());
    // Half a frame is here, and the owner reads no further.
    pair.client.call(request(1000)).expect("open");
    let bytes = invoked_proto::testing::output(&mut pair.client);
    pair.daemon.handle_input(pair.now, bytes.slice(..100), []).expect("legal");
    for _ in 0..5 {
        pair.advance(Duration::from_secs(10));
        assert_eq!(pair.daemon.handle_timeout(pair.now), Ok(()));
    }
    // Once it reads again, the frame has its time anew, and no more.
    pair.to_client().expect("legal");
    assert!(!pair.daemon.pauses_reading());
    pair.advance(Duration::from_secs(10));
    assert_eq!(pair.daemon.handle_timeout(pair.now), Err(invoked_proto::error::PeerError::FrameTimeout));
}
