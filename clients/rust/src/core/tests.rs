//! Dialogues between the core and the protocol's daemon side, in memory and in virtual time.

mod channels;

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, Event, Request, Settings};
use invoked_proto::metadata::{Failure, Hello, Welcome};
use invoked_proto::registry::{Delivery, ErrorCode};
use invoked_proto::testing::{Token, output};

use crate::outgoing::Outgoing;

use super::{Core, Files, Memory, Outcome, StreamId};

/// Segments of these tests have as many sevens as they were announced with.
fn map(_file: Token, len: u64) -> Option<Memory> {
    Some(std::sync::Arc::new(vec![7_u8; usize::try_from(len).ok()?]))
}

fn files() -> Files<Token> {
    Files { map, open: |_, _, _| None, own: |_| Token::open(&Rc::default()) }
}

/// A core whose waiters are numbers, and a daemon.
struct World {
    core: Core<Token, u64>,
    daemon: Connection<Token>,
    now: Instant,
    read_size: usize,
}

impl World {
    fn new(client: Settings, daemon: Settings) -> Self {
        let now = Instant::now();
        let core = Core::new(client, &Hello::default(), now, files(), Outgoing::new(false))
            .expect("a default HELLO is legal");
        World { core, daemon: Connection::daemon(daemon, now), now, read_size: usize::MAX }
    }

    fn open() -> Self {
        Self::open_with(Settings::default(), Settings::default(), &Welcome::default())
    }

    fn open_with(client: Settings, daemon: Settings, welcome: &Welcome) -> Self {
        let mut world = Self::new(client, daemon);
        assert!(world.core.poll_welcome().is_none());
        world.reach_daemon();
        assert!(matches!(world.daemon.poll_event(), Some(Event::Greeted(_))));
        world.daemon.welcome(welcome).expect("a HELLO waits");
        world.reach_client();
        world.core.poll_welcome().expect("answered").expect("welcomed");
        world
    }

    /// Everything that the core has to write, as if the socket took all of it.
    fn written(&mut self) -> Bytes {
        let mut bytes = BytesMut::new();
        while let Some(transmit) = self.core.poll_transmit() {
            let mut slices = [io::IoSlice::new(&[]); 64];
            let filled = transmit.slices(&mut slices);
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            let len = transmit.len();
            self.core.handle_written(len);
        }
        bytes.freeze()
    }

    fn reach_daemon(&mut self) {
        let bytes = self.written();
        self.daemon.handle_input(self.now, bytes, []).expect("the client keeps to the protocol");
    }

    fn reach_client(&mut self) {
        let mut bytes = output(&mut self.daemon);
        while !bytes.is_empty() {
            let read = bytes.split_to(self.read_size.min(bytes.len()));
            self.core.handle_input(self.now, read, [], 0);
        }
    }

    fn call(&mut self, body: impl Into<Body>) -> StreamId {
        let request =
            Request { command: "x.y".into(), message: Message::from(body.into()), ..Request::default() };
        self.core.call(request, None).expect("open")
    }

    fn reply(&mut self, stream: StreamId, body: Body) {
        self.daemon.reply(stream, Vec::new(), body.into()).expect("open");
    }

    fn take(&mut self, stream: StreamId) -> Option<Outcome> {
        self.core.take(stream, || stream)
    }

    fn woken(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.core.poll_woken()).collect()
    }

    /// How a call ended with an error.
    fn verdict(&mut self, stream: StreamId) -> (Option<ErrorCode>, Delivery) {
        let error = self.take(stream).expect("ended").expect_err("failed");
        (error.code(), error.delivery())
    }
}

const UNAVAILABLE: Option<ErrorCode> = Some(ErrorCode::Unavailable);

fn raw(len: usize) -> Body {
    Body::Raw((0..len).map(|at| u8::try_from(at % 251).expect("small")).collect::<Vec<_>>().into())
}

#[test]
fn answers_find_their_callers_in_any_order_and_at_any_split() {
    for read_size in [1, 24, 4096, usize::MAX] {
        let mut world = World::open();
        world.read_size = read_size;
        let sizes = [0, 1, 3000, 70_000];
        let streams: Vec<_> = sizes.iter().map(|_| world.call(Body::None)).collect();
        assert!(streams.iter().all(|stream| world.take(*stream).is_none()));
        world.reach_daemon();
        for (stream, len) in streams.iter().zip(sizes).rev() {
            world.reply(*stream, raw(len));
        }
        world.reach_client();
        let mut woken = world.woken();
        woken.sort_unstable();
        assert_eq!(woken, streams, "each is woken once");
        for (stream, len) in streams.iter().zip(sizes) {
            let reply = world.take(*stream).expect("ended").expect("answered");
            assert_eq!(*reply.body(), raw(len));
            assert!(world.take(*stream).is_none(), "an outcome is taken once");
        }
    }
}

#[cfg(feature = "tokio")]
#[test]
fn calls_end_at_their_deadlines_and_the_daemon_is_told() {
    let mut world = World::open();
    let [answered, sent, patient] = [(); 3].map(|()| world.call(Body::None));
    let at = |seconds| world.now + Duration::from_secs(seconds);
    let (soon, late) = (at(1), at(60));
    world.core.end_at(answered, soon);
    world.core.end_at(sent, soon);
    world.core.end_at(patient, late);
    world.reach_daemon();
    let unsent = world.call(Body::None);
    world.core.end_at(unsent, soon);
    world.reply(answered, raw(3));
    world.reach_client();
    for stream in [answered, sent, patient, unsent] {
        assert_eq!(world.take(stream).is_some(), stream == answered);
    }
    assert_eq!(world.core.poll_timeout(), Some(soon));
    world.core.handle_timeout(soon - Duration::from_nanos(1));
    assert!(world.take(sent).is_none(), "it has time left");
    world.woken();

    world.core.handle_timeout(soon);
    let mut woken = world.woken();
    woken.sort_unstable();
    assert_eq!(woken, [sent, unsent]);
    let late_code = Some(ErrorCode::DeadlineExceeded);
    assert_eq!(world.verdict(sent), (late_code, Delivery::Delivered));
    assert_eq!(world.verdict(unsent), (late_code, Delivery::NotDelivered));
    assert!(world.take(patient).is_none());
    assert_eq!(world.core.poll_timeout(), Some(late), "of what is left");

    world.reach_daemon();
    let events: Vec<_> = std::iter::from_fn(|| world.daemon.poll_event()).collect();
    let cancelled =
        |stream| events.iter().any(|event| matches!(event, Event::Cancelled { stream: of } if *of == stream));
    assert!(cancelled(sent) && !cancelled(patient), "{events:?}");
    let called = |stream| {
        events.iter().any(|event| matches!(event, Event::Called { stream: of, .. } if *of == stream))
    };
    assert!(!called(unsent), "it never went out: {events:?}");
}

#[test]
fn an_application_s_error_keeps_its_body() {
    let mut world = World::open();
    let stream = world.call(Body::None);
    world.reach_daemon();
    let failure = Failure::framework(ErrorCode::Application, "", Delivery::Completed);
    let body =
        Message { body: Body::Json("{\"why\":3}".into()), attachments: vec![Bytes::from(vec![7; 100_000])] };
    world.daemon.fail_call(stream, ErrorCode::Application, failure, body).expect("open");
    world.reach_client();
    let error = world.take(stream).expect("ended").expect_err("failed");
    assert!(error.is_application());
    assert_eq!(error.json::<HashMap<String, u32>>().expect("json")["why"], 3);
    assert_eq!(error.attachments()[0].len(), 100_000);
}

#[test]
fn a_cancelled_call_is_told_and_its_late_answer_dropped() {
    let mut world = World::open();
    let unsent = world.call(Body::None);
    assert_eq!(world.core.cancel(unsent), Delivery::NotDelivered);
    assert!(world.written().is_empty(), "nothing of it is sent");

    let sent = world.call(Body::None);
    world.reach_daemon();
    assert_eq!(world.core.cancel(sent), Delivery::Delivered);
    let room = world.core.room();
    world.reach_daemon();
    let cancelled = std::iter::from_fn(|| world.daemon.poll_event())
        .any(|event| matches!(event, Event::Cancelled { stream } if stream == sent));
    assert!(cancelled);
    world.reply(sent, raw(100_000));
    world.reach_client();
    assert!(world.take(sent).is_none() && world.woken().is_empty());
    assert_eq!(world.core.room(), room + 1, "the slot is free once the daemon has ended the call");

    let answered = world.call(Body::None);
    world.reach_daemon();
    world.reply(answered, Body::None);
    world.reach_client();
    assert_eq!(world.core.cancel(answered), Delivery::Completed);
    assert!(!world.core.is_lost());
}

#[test]
fn a_loss_ends_each_call_with_its_own_verdict() {
    let mut world = World::open();
    let half = world.call(Body::None);
    let sent = world.call(Body::None);
    world.reach_daemon();
    world.reply(half, raw(200_000));
    let some = output(&mut world.daemon).slice(..100_000);
    world.core.handle_input(world.now, some, [], 0);
    let unsent = world.call(Body::None);
    for stream in [half, sent, unsent] {
        assert!(world.take(stream).is_none());
    }
    world.core.handle_read_error(io::ErrorKind::ConnectionReset.into());
    assert_eq!(world.verdict(half), (UNAVAILABLE, Delivery::Completed));
    assert_eq!(world.verdict(sent), (UNAVAILABLE, Delivery::Delivered));
    assert_eq!(world.verdict(unsent), (UNAVAILABLE, Delivery::NotDelivered));
    assert_eq!(world.woken().len(), 3);
    let late =
        world.core.call(Request { command: "x.y".into(), ..Request::default() }, None).expect_err("lost");
    assert_eq!((late.code(), late.delivery()), (UNAVAILABLE, Delivery::NotDelivered));
}

#[test]
fn a_call_that_no_socket_took_was_not_delivered() {
    let mut world = World::open();
    let stream = world.call(raw(10));
    assert!(
        world.core.poll_transmit().is_some_and(|transmit| !transmit.is_empty()),
        "handed out for writing"
    );
    world.core.handle_write_error(io::ErrorKind::BrokenPipe.into());
    assert!(world.core.is_broken() && !world.core.has_output());
    world.core.handle_input(world.now, Bytes::new(), [], 0);
    assert_eq!(world.verdict(stream), (UNAVAILABLE, Delivery::NotDelivered));
}

#[test]
fn answers_that_came_before_a_write_failed_are_still_read() {
    let mut world = World::open();
    let answered = world.call(Body::None);
    world.reach_daemon();
    world.reply(answered, raw(5));
    let late = world.call(Body::None);
    assert!(world.core.poll_transmit().is_some());
    world.core.handle_write_error(io::ErrorKind::BrokenPipe.into());
    world.reach_client();
    assert_eq!(*world.take(answered).expect("ended").expect("answered").body(), raw(5));
    assert!(world.take(late).is_none());
    world.core.handle_input(world.now, Bytes::new(), [], 0);
    assert_eq!(world.verdict(late), (UNAVAILABLE, Delivery::NotDelivered));
}

#[test]
fn a_draining_daemon_finishes_what_it_took() {
    let mut world = World::open();
    let taken = world.call(Body::None);
    world.reach_daemon();
    let crossing = world.call(Body::None);
    assert!(world.take(crossing).is_none());
    world.daemon.drain("shutting down");
    world.reach_client();
    assert_eq!(world.verdict(crossing), (UNAVAILABLE, Delivery::NotDelivered));
    let refused =
        world.core.call(Request { command: "x.y".into(), ..Request::default() }, None).expect_err("draining");
    assert_eq!((refused.code(), refused.delivery()), (UNAVAILABLE, Delivery::NotDelivered));
    assert!(refused.to_string().contains("shutting down"), "{refused}");
    world.reply(taken, raw(9));
    world.reach_client();
    assert_eq!(*world.take(taken).expect("ended").expect("answered").body(), raw(9));
    assert!(!world.core.is_lost());
}

#[test]
fn a_result_above_the_limit_costs_only_its_call() {
    let small = Settings { max_message: 1000, ..Settings::default() };
    let mut world = World::open_with(small, Settings::default(), &Welcome::default());
    let large = world.call(Body::None);
    let usual = world.call(Body::None);
    world.reach_daemon();
    world.reply(large, raw(300_000));
    world.reply(usual, raw(1000));
    world.reach_client();
    assert_eq!(world.verdict(large), (Some(ErrorCode::TooLarge), Delivery::Completed));
    assert_eq!(*world.take(usual).expect("ended").expect("answered").body(), raw(1000));
}

#[test]
fn a_daemon_that_breaks_the_protocol_is_told_and_left() {
    let mut world = World::open();
    let stream = world.call(Body::None);
    world.reach_daemon();
    world.core.handle_input(world.now, Bytes::from_static(&[0x7f; 24]), [], 0);
    assert!(world.core.is_lost());
    assert_eq!(world.verdict(stream), (UNAVAILABLE, Delivery::Delivered));
    let last_word = world.written();
    world.daemon.handle_input(world.now, last_word, []).expect("GOAWAY is legal");
    let told = std::iter::from_fn(|| world.daemon.poll_event())
        .any(|event| matches!(event, Event::WentAway { code: Some(_), .. }));
    assert!(told);
}

#[test]
fn the_daemon_s_reason_survives_the_end_of_the_connection() {
    let mut world = World::new(Settings::default(), Settings::default());
    world.reach_daemon();
    world.daemon.refuse(ErrorCode::PermissionDenied, "no capability names uid 1001");
    world.reach_client();
    world.core.handle_input(world.now, Bytes::new(), [], 0);
    let error = world.core.poll_welcome().expect("answered").expect_err("turned away");
    assert_eq!(error.code(), Some(ErrorCode::PermissionDenied));
    assert!(error.to_string().contains("no capability names uid 1001"), "{error}");
}

#[test]
fn another_version_is_refused_with_the_daemon_s_words() {
    let mut world = World::new(Settings::default(), Settings::default());
    let mut hello = world.written().to_vec();
    hello[8..12].copy_from_slice(&[9, 0, 9, 0]);
    world.daemon.handle_input(world.now, hello.into(), []).expect_err("no version in common");
    world.reach_client();
    let error = world.core.poll_welcome().expect("answered").expect_err("refused");
    assert_eq!((error.code(), error.is_retryable()), (Some(ErrorCode::VersionMismatch), false));
}

#[test]
fn clocks_end_a_silent_handshake_and_a_half_frame() {
    let mut world = World::new(Settings::default(), Settings::default());
    world.now += Duration::from_secs(6);
    world.core.handle_timeout(world.now);
    assert!(world.core.poll_welcome().expect("answered").expect_err("late").is_unavailable());

    let mut world = World::open();
    let stream = world.call(Body::None);
    world.reach_daemon();
    world.reply(stream, raw(100));
    let half = output(&mut world.daemon).slice(..30);
    world.core.handle_input(world.now, half, [], 0);
    let at = world.core.poll_timeout().expect("a frame was begun");
    world.core.handle_timeout(at);
    assert_eq!(world.verdict(stream), (UNAVAILABLE, Delivery::Delivered));
}

#[test]
fn the_daemon_s_limit_of_open_calls_is_kept() {
    let welcome = Welcome { limits: vec![(3, 2)], ..Welcome::default() };
    let mut world = World::open_with(Settings::default(), Settings::default(), &welcome);
    let first = world.call(Body::None);
    assert!(!world.core.must_wait());
    world.call(Body::None);
    assert!(world.core.must_wait() && world.core.room() == 0);
    world.reach_daemon();
    world.reply(first, Body::None);
    world.reach_client();
    assert!(!world.core.must_wait());

    let none = Welcome { limits: vec![(3, 0)], ..Welcome::default() };
    let mut world = World::open_with(Settings::default(), Settings::default(), &none);
    assert!(!world.core.must_wait(), "nothing could ever end the wait");
    let error =
        world.core.call(Request { command: "x.y".into(), ..Request::default() }, None).expect_err("no slot");
    assert_eq!(error.code(), Some(ErrorCode::ResourceExhausted));
}

#[test]
fn a_small_reply_does_not_keep_the_read_buffer() {
    let mut world = World::open();
    let stream = world.call(Body::None);
    world.reach_daemon();
    let headers = vec![("k".into(), "v".into())];
    world.daemon.reply(stream, headers, raw(64).into()).expect("open");
    let mut buffer = BytesMut::with_capacity(65_536);
    buffer.extend_from_slice(&output(&mut world.daemon));
    let room = buffer.as_ptr();
    world.core.handle_input(world.now, buffer.split().freeze(), [], 65_536);
    let reply = world.take(stream).expect("ended").expect("answered");
    buffer.reserve(65_536);
    assert_eq!(buffer.as_ptr(), room, "the buffer's memory is free again");
    assert_eq!((reply.header("k"), reply.bytes().len()), (Some("v"), 64));
}
