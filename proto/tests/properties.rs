//! What holds for every input, every split and every schedule.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

mod mirror;
mod vector;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Settings, Transmit, Withdrawal};
use invoked_proto::header::Header;
use invoked_proto::metadata::{
    Call, ChannelDeclaration, Credit, End, Extensions, Failure, GoAway, Grant, Hello, Item, Lanes, Lease,
    OriginStamp, Part, Place, Release, Reply, Segment, Ungrant, Welcome,
};
use invoked_proto::registry::{Codec, Delivery, Direction, ErrorCode, FrameKind, flags, limits};
use invoked_proto::testing::{AnyRecord, Pair, Token, frame, output};
use invoked_proto::{Blob, Text};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};
use serde_json::Value;
use vector::describe;

fn text(most: usize) -> BoxedStrategy<Text> {
    vec(any::<char>(), 0..most).prop_map(|chars| Text::from(chars.into_iter().collect::<String>())).boxed()
}

fn bytes(most: usize) -> BoxedStrategy<Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from).boxed()
}

/// Integers near the edges of their forms, and any others.
fn integer() -> BoxedStrategy<u64> {
    prop_oneof![
        0_u64..300,
        65_000_u64..66_000,
        (u64::from(u32::MAX) - 2)..(u64::from(u32::MAX) + 3),
        any::<u64>(),
        Just(u64::MAX),
    ]
    .boxed()
}

fn small_integer() -> BoxedStrategy<u32> {
    integer().prop_map(|value| u32::try_from(value).unwrap_or(value as u32)).boxed()
}

fn extensions() -> BoxedStrategy<Extensions> {
    let ignorable = vec((0x8000_u16..=u16::MAX, bytes(20)), 0..4);
    let critical = (option::of(bytes(40)), option::of(any::<u64>()));
    (ignorable, critical)
        .prop_map(|(ignorable, (key, parent))| {
            let mut extensions = Extensions::none();
            key.into_iter().for_each(|key| extensions.insert(1, key));
            parent.into_iter().for_each(|p| extensions.insert(2, Bytes::copy_from_slice(&p.to_le_bytes())));
            ignorable.into_iter().for_each(|(tag, value)| extensions.insert(tag, value));
            extensions
        })
        .boxed()
}

fn place() -> BoxedStrategy<Place> {
    prop_oneof![
        Just(Place::Inline),
        (small_integer(), small_integer(), integer()).prop_map(|(segment, generation, offset)| Place::Pool {
            segment,
            generation,
            offset
        }),
        any::<u8>().prop_map(|fd| Place::Sealed { fd }),
        (any::<u8>(), integer()).prop_map(|(fd, offset)| Place::File { fd, offset }),
    ]
    .boxed()
}

fn parts() -> BoxedStrategy<Vec<Part>> {
    let some = prop_oneof![Just(Codec::Raw), Just(Codec::Json)];
    let body = prop_oneof![
        Just(Part::inline(Codec::None, 0)),
        (some, integer(), place()).prop_map(|(codec, len, place)| Part { codec, len, place }),
    ];
    let attachment = (integer(), place()).prop_map(|(len, place)| Part { codec: Codec::Raw, len, place });
    (body, vec(attachment, 0..limits::MAX_PARTS))
        .prop_map(|(body, mut parts)| {
            parts.insert(0, body);
            parts
        })
        .boxed()
}

fn headers() -> BoxedStrategy<Vec<(Text, Text)>> {
    vec(("[a-z0-9._-]{1,12}".prop_map(Text::from), text(12)), 0..6).boxed()
}

fn channels() -> BoxedStrategy<Vec<ChannelDeclaration>> {
    let direction = prop_oneof![Just(Direction::Down), Just(Direction::Up)];
    vec((direction, integer()), 0..limits::MAX_CHANNELS_PER_CALL)
        .prop_map(|channels| {
            let declare =
                |(at, (direction, credit))| ChannelDeclaration { index: at as u32 + 1, direction, credit };
            channels.into_iter().enumerate().map(declare).collect()
        })
        .boxed()
}

fn of_the_connection() -> BoxedStrategy<AnyRecord> {
    let hello = (text(9), text(9), text(9), option::of(bytes(40)), vec(any::<u8>(), 0..16));
    let hello =
        (hello, option::of(vec(text(9), 0..9)), extensions()).prop_map(|(fields, narrow, extensions)| {
            let (name, version, library, hash, lanes) = fields;
            Hello { name, version, library, manifest_hash: hash.map(Blob), lanes, narrow, extensions }.into()
        });
    let limits = vec((any::<u16>(), integer()), 0..9);
    let welcome = (integer(), limits, integer(), vec(text(9), 0..4), extensions());
    let welcome = welcome.prop_map(|(peer, limits, catalogue, warnings, extensions)| {
        Welcome { peer, limits, catalogue, warnings, extensions }.into()
    });
    let goaway = (integer(), text(30), extensions())
        .prop_map(|(last_stream, message, extensions)| GoAway { last_stream, message, extensions }.into());
    prop_oneof![hello, welcome, goaway].boxed()
}

fn of_calls() -> BoxedStrategy<AnyRecord> {
    let call = ("[a-z.]{1,30}", headers(), option::of(integer()), channels(), parts(), extensions());
    let call = call.prop_map(|(command, headers, deadline_us, channels, parts, extensions)| {
        Call { command: Text::from(command), headers, deadline_us, channels, parts, extensions }.into()
    });
    let reply = (headers(), parts(), extensions())
        .prop_map(|(headers, parts, extensions)| Reply { headers, parts, extensions }.into());
    let delivery =
        prop_oneof![Just(Delivery::NotDelivered), Just(Delivery::Delivered), Just(Delivery::Completed)];
    let said = (text(30), delivery, any::<bool>(), option::of(integer()), option::of(text(9)));
    let failure = (said, parts(), extensions()).prop_map(|(said, parts, extensions)| {
        let (message, delivery, retryable, retry_after_ms, decision) = said;
        Failure { message, delivery, retryable, retry_after_ms, decision, parts, extensions }.into()
    });
    let item = (parts(), extensions()).prop_map(|(parts, extensions)| Item { parts, extensions }.into());
    let end = (option::of(small_integer()), text(9), extensions())
        .prop_map(|(code, message, extensions)| End { code, message, extensions }.into());
    prop_oneof![call, reply, failure, item, end].boxed()
}

fn of_features() -> BoxedStrategy<AnyRecord> {
    let credit = (integer(), extensions())
        .prop_map(|(bytes, extensions)| Credit { bytes: bytes.max(1), extensions }.into());
    let lease = (small_integer(), small_integer(), integer())
        .prop_map(|(segment, generation, offset)| Lease { segment, generation, offset });
    let release = (small_integer(), vec(lease, 0..9), extensions())
        .prop_map(|(fds, leases, extensions)| Release { fds, leases, extensions }.into());
    let segment = (small_integer(), small_integer(), integer(), extensions()).prop_map(
        |(segment, generation, len, extensions)| Segment { segment, generation, len, extensions }.into(),
    );
    let lanes = (vec(any::<u8>(), 0..=16), extensions())
        .prop_map(|(lanes, extensions)| Lanes { lanes, extensions }.into());
    let grant = (integer(), integer(), bytes(40), extensions()).prop_map(
        |(grant, generation, scopes, extensions)| {
            Grant { grant, generation, scopes: Blob(scopes), extensions }.into()
        },
    );
    let ungrant =
        (integer(), extensions()).prop_map(|(grant, extensions)| Ungrant { grant, extensions }.into());
    let origin = (small_integer(), small_integer(), integer(), option::of(small_integer()), integer())
        .prop_map(|(uid, gid, peer, pid, grant)| OriginStamp { uid, gid, peer, pid, grant }.into());
    prop_oneof![credit, release, segment, lanes, grant, ungrant, origin].boxed()
}

fn record() -> BoxedStrategy<AnyRecord> {
    prop_oneof![of_the_connection(), of_calls(), of_features()].boxed()
}

/// What a client may send once it is welcomed: calls in fragments, withdrawals, pings, padding.
fn client_frames() -> BoxedStrategy<Bytes> {
    let step = prop_oneof![
        3 => (0_usize..4, vec(any::<u8>(), 0..60)).prop_map(|(cut, body)| (0, cut, body)),
        1 => Just((1, 0, Vec::new())),
        1 => (0_usize..3).prop_map(|kind| (2, kind, vec![0; 30])),
    ];
    vec(step, 1..12)
        .prop_map(|steps| {
            let mut bytes = BytesMut::from(&frame(Header::new(FrameKind::Pad, 0), &[], &[0])[..]);
            let mut stream = 1;
            for (what, number, body) in steps {
                match what {
                    0 => {
                        bytes.extend_from_slice(&call_in_fragments(stream, number, &body));
                        stream += 2;
                    }
                    1 if stream > 1 => {
                        bytes.extend_from_slice(&frame(Header::new(FrameKind::Cancel, stream - 2), &[], &[]));
                    }
                    2 => {
                        let kind = [FrameKind::Ping, FrameKind::Pong, FrameKind::Pad][number];
                        let payload: &[u8] = if kind == FrameKind::Pad { &body } else { &[] };
                        bytes.extend_from_slice(&frame(
                            Header { arg: 9, ..Header::new(kind, 0) },
                            &[],
                            payload,
                        ));
                    }
                    _ => {}
                }
            }
            bytes.freeze()
        })
        .boxed()
}

fn call_in_fragments(stream: u64, cuts: usize, body: &[u8]) -> Bytes {
    let parts = vec![Part::inline(Codec::Raw, body.len() as u64)];
    let record = AnyRecord::from(Call { command: "a.b".into(), parts, ..Call::default() }).encode();
    let first = body.len() / (cuts + 1);
    let first = if cuts == 0 { body.len() } else { first };
    let more = |left: usize| if left > 0 { flags::MORE } else { 0 };
    let header =
        Header { codec: Codec::Raw, flags: more(body.len() - first), ..Header::new(FrameKind::Call, stream) };
    let mut bytes = BytesMut::from(&frame(header, &record, &body[..first])[..]);
    let mut rest = &body[first..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(first.clamp(1, rest.len()));
        let header =
            Header { flags: flags::CONT | more(later.len()), ..Header::new(FrameKind::Data, stream) };
        bytes.extend_from_slice(&frame(header, &[], now));
        rest = later;
    }
    bytes.freeze()
}

/// An open daemon that is given `input` in pieces, and what it made of it.
fn told(input: &Bytes, cuts: &[usize]) -> (Vec<Value>, Option<String>) {
    let mut pair = Pair::open();
    let mut result = Ok(());
    let mut rest = input.clone();
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() && result.is_ok() {
        let now = rest.split_to((*cuts.next().unwrap()).clamp(1, rest.len()));
        result = pair.daemon.handle_input(pair.now, now, []);
    }
    let events = std::iter::from_fn(|| pair.daemon.poll_event()).map(describe::event).collect();
    (events, result.err().map(|error| format!("{error:?}")))
}

/// Events as far as a peer of this library can tell them apart after a change of one bit: kinds and streams.
fn is_prefix(shorter: &[Value], longer: &[Value]) -> bool {
    longer.starts_with(shorter)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_is_what_it_was_after_encoding_and_decoding(record in record()) {
        let bytes = record.encode();
        if bytes.len() <= limits::MAX_METADATA {
            let back = AnyRecord::decode(record.name(), &bytes).unwrap();
            prop_assert_eq!(back, Ok(record));
        }
    }

    #[test]
    fn a_second_encoder_makes_the_same_bytes_of_any_record(record in record()) {
        let second = mirror::second_encoding(record.name(), &mirror::fields(&record));
        prop_assert_eq!(second.unwrap(), record.encode());
    }

    #[test]
    fn a_record_cut_short_is_refused(record in record(), at in any::<proptest::sample::Index>()) {
        let bytes = record.encode();
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(AnyRecord::decode(record.name(), &cut).unwrap().is_err());
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(bytes in bytes(80), name in 0..AnyRecord::NAMES.len()) {
        if let Ok(record) = AnyRecord::decode(AnyRecord::NAMES[name], &bytes).unwrap() {
            prop_assert_eq!(record.encode(), bytes);
        }
    }

    #[test]
    fn input_means_the_same_however_it_is_split(input in client_frames(), cuts in vec(1_usize..90, 1..9)) {
        let whole = told(&input, &[usize::MAX]);
        prop_assert_eq!(&whole.1, &None, "the generated input is legal");
        prop_assert_eq!(told(&input, &cuts), whole);
    }

    #[test]
    fn input_cut_short_tells_nothing_that_is_wrong(input in client_frames(), at in any::<proptest::sample::Index>()) {
        let cut = input.slice(..at.index(input.len()));
        let (whole, _) = told(&input, &[usize::MAX]);
        let (events, error) = told(&cut, &[usize::MAX]);
        prop_assert_eq!(error, None);
        prop_assert!(is_prefix(&events, &whole), "{:?} is no beginning of {:?}", events, whole);
    }

    #[test]
    fn input_with_a_flipped_bit_means_the_same_however_it_is_split(
        input in client_frames(),
        at in any::<proptest::sample::Index>(),
        bit in 0_u32..8,
        cuts in vec(1_usize..90, 1..9),
    ) {
        let mut input = input.to_vec();
        let at = at.index(input.len());
        input[at] ^= 1_u8 << bit;
        let input = Bytes::from(input);
        prop_assert_eq!(told(&input, &cuts), told(&input, &[usize::MAX]));
    }

    #[test]
    fn any_bytes_do_no_harm(input in bytes(300), cuts in vec(1_usize..90, 1..9)) {
        let mut client = Connection::<Token>::client(Settings::default(), &Hello::default(), Instant::now()).unwrap();
        let mut daemon = Connection::<Token>::daemon(Settings::default(), Instant::now());
        for side in [&mut client, &mut daemon] {
            let mut rest = input.clone();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let now = rest.split_to((*cut).min(rest.len()));
                let _ = side.handle_input(Instant::now(), now, []);
            }
        }
        let (_, _) = told(&input, &cuts);
    }

    #[test]
    fn grease_changes_no_event(
        calls in vec(vec(any::<u8>(), 0..40), 1..6),
        grease in vec((0x80_u8..=0xff, any::<u16>(), 0_u64..(1 << 53), vec(any::<u8>(), 0..30)), 1..6),
        tags in vec((0x8000_u16..=u16::MAX, vec(any::<u8>(), 0..9)), 0..4),
        unknown_flags in any::<u16>(),
    ) {
        let unknown = unknown_flags & !(flags::ALL | flags::MORE | flags::CONT | flags::END);
        let mut greased = BytesMut::new();
        let mut plain = BytesMut::new();
        for (at, body) in calls.iter().enumerate() {
            let stream = at as u64 * 2 + 1;
            let (kind, set, on, payload) = &grease[at % grease.len()];
            let header = Header { kind: *kind, flags: *set, ..Header::new(FrameKind::Pad, *on) };
            greased.extend_from_slice(&frame(header, &[], payload));
            let parts = vec![Part::inline(Codec::Raw, body.len() as u64)];
            let mut call = Call { command: "a.b".into(), parts, ..Call::default() };
            let header = Header { codec: Codec::Raw, ..Header::new(FrameKind::Call, stream) };
            plain.extend_from_slice(&frame(header, &AnyRecord::from(call.clone()).encode(), body));
            tags.iter().for_each(|(tag, value)| call.extensions.insert(*tag, Bytes::copy_from_slice(value)));
            let header = Header { flags: unknown, ..header };
            greased.extend_from_slice(&frame(header, &AnyRecord::from(call).encode(), body));
        }
        let (mut events, error) = told(&greased.freeze(), &[37]);
        prop_assert_eq!(error, None);
        for event in &mut events {
            event["call"]["extensions"] = Value::Array(Vec::new());
        }
        prop_assert_eq!(events, told(&plain.freeze(), &[usize::MAX]).0);
    }

    #[test]
    fn an_assembly_is_its_fragments_joined(
        body in bytes(200), attachments in vec(bytes(60), 0..5), cuts in vec(1_usize..50, 1..9),
    ) {
        let message = Message { body: Body::Raw(body), attachments };
        let mut all = BytesMut::from(message.body.bytes());
        message.attachments.iter().for_each(|attachment| all.extend_from_slice(attachment));
        let mut rest = all.freeze();
        let first = rest.split_to(cuts[0].min(rest.len()));
        let mut assembly = Assembly::begin(message.parts(), first).unwrap();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            prop_assert!(!assembly.is_complete());
            assembly.push(&rest.split_to((*cut).min(rest.len()))).unwrap();
        }
        prop_assert!(assembly.push(&[1]).is_err(), "a byte too many");
        prop_assert_eq!(assembly.finish().unwrap(), message);
    }

    #[test]
    fn the_writer_keeps_every_byte_and_gives_every_stream_its_turn(
        bodies in vec(0_usize..300_000, 1..8), smallest in any::<bool>(),
    ) {
        let max_frame = if smallest { limits::MAX_FRAME_FLOOR } else { limits::MAX_FRAME };
        let daemon = Settings { max_frame: max_frame as u32, ..Settings::default() };
        let mut pair = opened(daemon);
        let bodies: Vec<Bytes> = bodies.iter().enumerate().map(|(at, len)| pattern(at, *len)).collect();
        for body in &bodies {
            let message = Message::from(Body::Raw(body.clone()));
            pair.client.call(Request { command: "a.b".into(), message, ..Request::default() }).unwrap();
        }
        let announced = pair.client.unsent().bytes;
        prop_assert!(announced >= bodies.iter().map(Bytes::len).sum());
        pair.to_daemon().unwrap();
        prop_assert_eq!(pair.client.unsent().bytes, 0);
        let mut order = Vec::new();
        let mut assemblies = HashMap::new();
        while let Some(event) = pair.daemon.poll_event() {
            match event {
                Event::Called { stream, call, payload, more, .. } => {
                    // A fragment goes out for each fragment's worth of first frames, and no more.
                    prop_assert!(order.len() <= assemblies.len(), "a first frame waits behind {} fragments", order.len());
                    let assembly = Assembly::begin(call.parts, payload).unwrap();
                    prop_assert_eq!(assembly.is_complete(), more == More::Whole);
                    assemblies.insert(stream, assembly);
                }
                Event::Continued { stream, payload, .. } => {
                    order.push(stream);
                    assemblies.get_mut(&stream).unwrap().push(&payload).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        for (at, body) in bodies.iter().enumerate() {
            let message = assemblies.remove(&(at as u64 * 2 + 1)).unwrap().finish().unwrap();
            prop_assert_eq!(message.body.bytes(), &body[..]);
        }
        prop_assert!(takes_turns(&order), "{order:?}");
    }

    #[test]
    fn every_call_ends_once_on_both_sides(schedule in vec((0_u8..12, any::<u8>()), 1..80)) {
        let mut world = Schedule::new();
        for (what, which) in schedule {
            world.step(what, usize::from(which));
        }
        world.finish();
    }
}

/// While several streams have fragments left, none has two before another has one.
fn takes_turns(order: &[u64]) -> bool {
    let left = |from: usize, stream: u64| order[from..].contains(&stream);
    order.windows(2).enumerate().all(|(at, pair)| {
        pair[0] != pair[1] || !order[..at].iter().any(|earlier| *earlier != pair[0] && left(at + 1, *earlier))
    })
}

fn pattern(seed: usize, len: usize) -> Bytes {
    (0..len).map(|at| ((at * 31 + seed * 7) % 251) as u8).collect()
}

fn opened(daemon: Settings) -> Pair {
    let mut pair = Pair::with_settings(Settings::default(), daemon);
    pair.to_daemon().unwrap();
    pair.daemon.poll_event();
    pair.daemon.welcome(&Welcome::default()).unwrap();
    pair.to_client().unwrap();
    pair.client.poll_event();
    pair
}

/// Calls, answers, withdrawals and partial delivery in any order, with a ledger of what each call came to.
struct Schedule {
    pair: Pair,
    /// By stream: how often its caller was told of its end.
    ends: BTreeMap<u64, usize>,
    /// Calls that the daemon was told of and has not answered.
    waiting: Vec<u64>,
    /// Answers on their way in.
    growing: HashMap<u64, Assembly>,
    sent: [BytesMut; 2],
}

impl Schedule {
    fn new() -> Self {
        let pair = Pair::open();
        let (ends, waiting, growing) = (BTreeMap::new(), Vec::new(), HashMap::new());
        Schedule { pair, ends, waiting, growing, sent: [BytesMut::new(), BytesMut::new()] }
    }

    fn step(&mut self, what: u8, which: usize) {
        match what {
            0..=2 => {
                let message = Message::from(Body::Raw(pattern(which, which * 900)));
                let request = Request { command: "a.b".into(), message, ..Request::default() };
                let stream = self.pair.client.call(request).unwrap();
                self.ends.insert(stream, 0);
            }
            3 | 4 if !self.ends.is_empty() => {
                let stream = *self.ends.keys().nth(which % self.ends.len()).unwrap();
                let before = self.ends[&stream];
                match self.pair.client.cancel(stream) {
                    Withdrawal::NeverSent => self.end(stream),
                    Withdrawal::Asked => assert_eq!(before, 0, "a call that ended was cancelled"),
                    Withdrawal::TooLate => {}
                }
            }
            5 | 6 if !self.waiting.is_empty() => {
                let stream = self.waiting.swap_remove(which % self.waiting.len());
                self.answer(stream, which);
            }
            7 | 8 => self.carry(0, which * 400),
            9 | 10 => self.carry(1, which * 400),
            _ => {
                self.fill(0);
                self.fill(1);
            }
        }
    }

    fn answer(&mut self, stream: u64, which: usize) {
        if which.is_multiple_of(3) {
            let failure = Failure::framework(ErrorCode::Internal, "x", Delivery::Delivered);
            self.pair.daemon.fail_call(stream, ErrorCode::Internal, failure, Message::default()).unwrap();
        } else {
            let message = Message::from(Body::Raw(pattern(which, which * 900)));
            self.pair.daemon.reply(stream, Vec::new(), message).unwrap();
        }
        let again = self.pair.daemon.reply(stream, Vec::new(), Message::default());
        assert!(again.is_err(), "a call was answered twice");
    }

    fn end(&mut self, stream: u64) {
        let ends = self.ends.get_mut(&stream).expect("an end of a call that was never made");
        *ends += 1;
        assert_eq!(*ends, 1, "stream {stream} ended twice");
    }

    /// One batch of output of a side goes into the pipe.
    fn fill(&mut self, from: usize) {
        let mut transmit = Transmit::default();
        let side = if from == 0 { &mut self.pair.client } else { &mut self.pair.daemon };
        side.poll_transmit(&mut transmit);
        while !transmit.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let filled = transmit.slices(&mut slices);
            let before = self.sent[from].len();
            slices[..filled].iter().for_each(|slice| self.sent[from].extend_from_slice(slice));
            transmit.advance(self.sent[from].len() - before);
        }
    }

    /// Up to `most` bytes come out of the pipe.
    fn carry(&mut self, from: usize, most: usize) {
        let len = self.sent[from].len().min(most);
        let bytes = self.sent[from].split_to(len).freeze();
        let now = self.pair.now;
        if from == 0 {
            self.pair.daemon.handle_input(now, bytes, []).unwrap();
            while let Some(event) = self.pair.daemon.poll_event() {
                match event {
                    Event::Called { stream, .. } => self.waiting.push(stream),
                    Event::Continued { .. } | Event::Cancelled { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        } else {
            self.pair.client.handle_input(now, bytes, []).unwrap();
            while let Some(event) = self.pair.client.poll_event() {
                self.client_event(event);
            }
        }
    }

    fn client_event(&mut self, event: Event<Token>) {
        match event {
            Event::Replied { stream, reply, payload, more, .. } => {
                let assembly = Assembly::begin(reply.parts, payload).unwrap();
                if more == More::Whole {
                    assembly.finish().unwrap();
                    self.end(stream);
                } else {
                    self.growing.insert(stream, assembly);
                }
            }
            Event::Continued { stream, payload, more } => {
                let assembly = self.growing.get_mut(&stream).expect("a fragment of no answer");
                assembly.push(&payload).unwrap();
                if more == More::Whole {
                    self.growing.remove(&stream).unwrap().finish().unwrap();
                    self.end(stream);
                }
            }
            Event::Failed { stream, .. } => self.end(stream),
            other => panic!("{other:?}"),
        }
    }

    /// Everything is carried and answered, until nothing moves.
    fn finish(mut self) {
        for round in 0.. {
            for from in [0, 1] {
                self.sent[from].extend_from_slice(&output(if from == 0 {
                    &mut self.pair.client
                } else {
                    &mut self.pair.daemon
                }));
                self.carry(from, usize::MAX);
            }
            if self.waiting.is_empty() && round > 1 {
                break;
            }
            for stream in std::mem::take(&mut self.waiting) {
                self.answer(stream, stream as usize);
            }
        }
        let open: Vec<_> = self.ends.iter().filter(|(_, ends)| **ends != 1).collect();
        assert!(open.is_empty(), "calls that did not end: {open:?}");
        assert!(self.growing.is_empty());
        assert_eq!((self.pair.client.open_outbound(), self.pair.daemon.open_inbound()), (0, 0));
        for side in [&mut self.pair.client, &mut self.pair.daemon] {
            assert_eq!(side.unsent(), invoked_proto::connection::Unsent::default());
        }
    }
}
