//! Dialogues between a client and a daemon, in memory and in virtual time.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Event, More, Request, Withdrawal};
use invoked_proto::error::PeerError;
use invoked_proto::metadata::Failure;
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_proto::testing::{Pair, Token, output};

fn echo(body: Body) -> Request {
    Request { command: "bench.echo".into(), message: Message::from(body), ..Request::default() }
}

/// The next call, whole.
fn called(pair: &mut Pair) -> (u64, Message) {
    let Some(Event::Called { stream, call, payload, mut more, .. }) = pair.daemon.poll_event() else {
        panic!("no call came");
    };
    let mut assembly = Assembly::begin(call.parts, payload).unwrap();
    while more == More::Follows {
        let Some(Event::Continued { stream: of, payload, more: next }) = pair.daemon.poll_event() else {
            panic!("no continuation came");
        };
        assert_eq!(of, stream);
        assembly.push(&payload).unwrap();
        more = next;
    }
    (stream, assembly.finish().unwrap())
}

fn replied(pair: &mut Pair) -> (u64, Message) {
    let Some(Event::Replied { stream, reply, payload, mut more, .. }) = pair.client.poll_event() else {
        panic!("no reply came");
    };
    let mut assembly = Assembly::begin(reply.parts, payload).unwrap();
    while more == More::Follows {
        let Some(Event::Continued { payload, more: next, .. }) = pair.client.poll_event() else {
            panic!("no continuation came");
        };
        assembly.push(&payload).unwrap();
        more = next;
    }
    (stream, assembly.finish().unwrap())
}

#[test]
fn a_call_and_its_reply_arrive_whole_at_every_size_and_split() {
    for read_size in [1, 7, 23, 24, 25, 4096, usize::MAX] {
        for len in [0, 1, 1024, 65_536, 65_537, 200_000] {
            if len > 70_000 && read_size < 24 {
                continue;
            }
            let mut pair = Pair::open();
            pair.read_size = read_size;
            let body = Bytes::from((0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>());
            let message = Message {
                body: Body::Raw(body.clone()),
                attachments: vec![Bytes::new(), body.slice(..len / 2)],
            };
            let request = Request { command: "x.y".into(), message: message.clone(), ..Request::default() };
            let stream = pair.client.call(request).unwrap();
            pair.to_daemon().unwrap();
            let (came, received) = called(&mut pair);
            assert_eq!((came, &received), (stream, &message));
            pair.daemon.reply(stream, Vec::new(), received).unwrap();
            pair.to_client().unwrap();
            assert_eq!(replied(&mut pair), (stream, message));
            assert_eq!((pair.client.open_outbound(), pair.daemon.open_inbound()), (0, 0));
        }
    }
}

#[test]
fn none_and_empty_bodies_differ() {
    for body in [Body::None, Body::Raw(Bytes::new()), Body::Json(Bytes::new())] {
        let mut pair = Pair::open();
        pair.client.call(echo(body.clone())).unwrap();
        pair.to_daemon().unwrap();
        assert_eq!(called(&mut pair).1.body, body);
    }
}

#[test]
fn a_small_call_overtakes_a_large_one() {
    let mut pair = Pair::open();
    pair.client.call(echo(Body::Raw(Bytes::from(vec![0; 10 << 20])))).unwrap();
    let small = pair.client.call(echo(Body::None)).unwrap();
    let bytes = output(&mut pair.client);
    let first_mebibyte = bytes.slice(..1 << 20);
    pair.daemon.handle_input(pair.now, first_mebibyte, []).unwrap();
    let streams: Vec<u64> = std::iter::from_fn(|| pair.daemon.poll_event())
        .filter_map(|event| match event {
            Event::Called { stream, .. } => Some(stream),
            _ => None,
        })
        .collect();
    assert!(streams.contains(&small), "{streams:?}");
}

#[test]
fn an_error_reaches_its_caller_with_code_and_delivery() {
    let mut pair = Pair::open();
    let stream = pair.client.call(echo(Body::None)).unwrap();
    pair.to_daemon().unwrap();
    called(&mut pair);
    let failure = Failure::framework(ErrorCode::PermissionDenied, "no", Delivery::NotDelivered);
    pair.daemon.fail_call(stream, ErrorCode::PermissionDenied, failure, Message::default()).unwrap();
    pair.to_client().unwrap();
    let Some(Event::Failed { code, failure, .. }) = pair.client.poll_event() else { panic!() };
    assert_eq!(code, ErrorCode::PermissionDenied);
    assert_eq!((failure.message.as_str(), failure.delivery), ("no", Delivery::NotDelivered));
}

#[test]
fn cancel_before_during_and_after() {
    let mut pair = Pair::open();
    let never = pair.client.call(echo(Body::None)).unwrap();
    assert_eq!(pair.client.cancel(never), Withdrawal::NeverSent);
    let during = pair.client.call(echo(Body::None)).unwrap();
    pair.to_daemon().unwrap();
    assert_eq!(called(&mut pair).0, during);
    assert_eq!(pair.client.cancel(during), Withdrawal::Asked);
    assert_eq!(pair.client.cancel(during), Withdrawal::TooLate);
    pair.to_daemon().unwrap();
    assert!(matches!(pair.daemon.poll_event(), Some(Event::Cancelled { stream }) if stream == during));
    pair.daemon.reply(during, Vec::new(), Message::default()).unwrap();
    pair.to_client().unwrap();
    assert_eq!(replied(&mut pair).0, during);
    assert_eq!(pair.client.cancel(during), Withdrawal::TooLate);
}

#[test]
fn a_half_frame_is_given_up_and_slow_bytes_do_not_keep_it() {
    let mut pair = Pair::open();
    pair.client.call(echo(Body::Raw(Bytes::from(vec![0; 100])))).unwrap();
    let bytes = output(&mut pair.client);
    for at in 0..20 {
        pair.daemon.handle_input(pair.now, bytes.slice(at..=at), []).unwrap();
        pair.advance(Duration::from_millis(499));
        pair.daemon.handle_timeout(pair.now).unwrap();
    }
    pair.advance(Duration::from_secs(1));
    assert_eq!(pair.daemon.handle_timeout(pair.now), Err(PeerError::FrameTimeout));
    assert!(pair.daemon.is_closed());
    pair.to_client().unwrap();
    let Some(Event::WentAway { code, .. }) = pair.client.poll_event() else { panic!("no notice") };
    assert_eq!(code, Some(ErrorCode::DeadlineExceeded));
}

#[test]
fn a_silent_peer_does_not_hold_the_handshake() {
    let mut pair = Pair::new();
    let at = pair.daemon.poll_timeout().unwrap();
    assert_eq!(at - pair.now, Duration::from_secs(5));
    pair.now = at;
    assert_eq!(pair.daemon.handle_timeout(at), Err(PeerError::HandshakeTimeout));
}

#[test]
fn calls_sent_before_the_welcome_are_served_after_it() {
    let mut pair = Pair::new();
    for _ in 0..4 {
        pair.client.call(echo(Body::None)).unwrap();
    }
    assert!(pair.client.call(echo(Body::None)).is_err());
    pair.to_daemon().unwrap();
    assert!(matches!(pair.daemon.poll_event(), Some(Event::Greeted(_))));
    pair.daemon.welcome(&invoked_proto::metadata::Welcome::default()).unwrap();
    for stream in [1, 3, 5, 7] {
        assert_eq!(called(&mut pair).0, stream);
        pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
    }
    pair.to_client().unwrap();
    assert!(matches!(pair.client.poll_event(), Some(Event::Welcomed(_))));
    for stream in [1, 3, 5, 7] {
        assert_eq!(replied(&mut pair).0, stream);
    }
}

#[test]
fn another_version_is_refused_with_a_reason() {
    let mut pair = Pair::new();
    let mut bytes = output(&mut pair.client).to_vec();
    bytes[8..12].copy_from_slice(&[2, 0, 9, 0]);
    let error = pair.daemon.handle_input(pair.now, bytes.into(), []).unwrap_err();
    assert_eq!(error, PeerError::Version { min: 2, max: 9 });
    pair.to_client().unwrap();
    let Some(Event::Refused { code, reason }) = pair.client.poll_event() else { panic!("not refused") };
    assert_eq!(code, ErrorCode::VersionMismatch);
    assert!(reason.contains("2 to 9"), "{reason}");
}

#[test]
fn file_descriptors_that_nobody_announced_are_closed() {
    let counter = std::rc::Rc::default();
    let mut pair = Pair::open();
    pair.client.call(echo(Body::None)).unwrap();
    let bytes = output(&mut pair.client);
    let error = pair.daemon.handle_input(pair.now, bytes, [Token::open(&counter)]).unwrap_err();
    assert_eq!(error.wire_code(), ErrorCode::AttachmentRefused);
    drop(pair);
    assert_eq!(counter.get(), 0);
}

#[test]
fn more_calls_than_allowed_are_answered_not_killed() {
    let mut pair = Pair::open();
    let settings = invoked_proto::connection::Settings { open_calls: 2, ..Default::default() };
    let mut small = Pair::with_settings(Default::default(), settings);
    small.to_daemon().unwrap();
    small.daemon.poll_event();
    small.daemon.welcome(&Default::default()).unwrap();
    small.to_client().unwrap();
    std::mem::swap(&mut pair, &mut small);
    pair.client.poll_event();
    for _ in 0..3 {
        pair.client.call(echo(Body::None)).unwrap();
    }
    pair.to_daemon().unwrap();
    pair.to_client().unwrap();
    let Some(Event::Failed { stream, code, .. }) = pair.client.poll_event() else { panic!("not refused") };
    assert_eq!((stream, code), (5, ErrorCode::ResourceExhausted));
    assert_eq!(called(&mut pair).0, 1);
    assert_eq!(called(&mut pair).0, 3);
    assert!(pair.daemon.poll_event().is_none());
}
