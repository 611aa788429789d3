//! Every vector under proto/vectors against the crate: records, frames, prefaces, malformed and legal input, sessions.
//!
//! With INVOKED_BLESS=1 the files are written as the crate sees them, for their author to read and commit. CI never
//! sets it.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

mod mirror;
mod vector;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use invoked_proto::Text;
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, LaneSet, Request, Sent, Settings};
use invoked_proto::decoder::Decoder;
use invoked_proto::error::PeerError;
use invoked_proto::header::Header;
use invoked_proto::metadata::{ChannelDeclaration, Hello, Lanes, Welcome};
use invoked_proto::preface::{Preface, encode_refusal};
use invoked_proto::registry::{
    Codec, Direction, ErrorCode, FrameKind, HEADER_LEN, Lane, PREFACE_LEN, features, limits,
};
use invoked_proto::testing::{AnyRecord, Token, frame, output};
use mirror::{fields, second_encoding};
use serde_json::Value;
use vector::describe::{flag_bits, flag_names};
use vector::{
    Act, After, Answer, Bulk, Content, FrameCase, HeaderFields, InputCase, PrefaceCase, RecordCase,
    SessionCase, Side, SideFields, describe, each, files,
};

/// The crate's bytes of a record that a vector gives by its fields.
fn record_bytes(name: &str, given: &Value, case: &str) -> Bytes {
    let second = second_encoding(name, given).unwrap_or_else(|error| panic!("{case}: {error}"));
    let record = AnyRecord::decode(name, &Bytes::from(second)).unwrap();
    let record = record.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(&fields(&record), given, "{case}");
    record.encode()
}

#[test]
fn no_file_stands_beside_the_vectors() {
    let mut entries: Vec<String> = std::fs::read_dir(vector::directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    entries.sort();
    assert_eq!(entries, ["README.md", "frames", "malformed", "records", "sessions"]);
    for of in ["frames", "malformed", "records", "sessions"] {
        for path in files(of) {
            assert_eq!(path.extension().and_then(|e| e.to_str()), Some("json"), "{}", path.display());
        }
    }
}

#[test]
fn records_are_their_bytes() {
    let mut seen = Vec::new();
    for path in files("records") {
        each(&path, "records", |case: &mut RecordCase| {
            case.hex = Bulk(record_bytes(&case.record, &case.fields, &case.name));
            seen.push(case.record.clone());
        });
    }
    for name in AnyRecord::NAMES {
        assert!(seen.iter().filter(|seen| seen == name).count() >= 2, "{name} has fewer than two vectors");
    }
}

#[test]
fn frames_are_their_bytes() {
    let mut seen = Vec::new();
    for path in files("frames") {
        if path.ends_with("prefaces.json") {
            each(&path, "prefaces", check_preface);
        } else {
            each(&path, "frames", |case: &mut FrameCase| {
                check_frame(case);
                seen.push(case.header.kind.clone());
            });
        }
    }
    for kind in FrameKind::ALL.iter().filter(|kind| !kind.is_reserved()) {
        assert!(seen.iter().any(|seen| seen == kind.name()), "{} has no vector", kind.name());
    }
}

fn check_preface(case: &mut PrefaceCase) {
    let given = &case.preface;
    let preface = Preface {
        version_min: given.version_min,
        version_max: given.version_max,
        max_frame: given.max_frame,
        features: given.features.0,
        instance: given.instance.0,
    };
    let mut bytes = BytesMut::new();
    preface.encode(&mut bytes);
    assert_eq!(Preface::decode(bytes.first_chunk::<PREFACE_LEN>().unwrap()), Ok(preface), "{}", case.name);
    if let Some(refusal) = &case.refusal {
        let code = ErrorCode::from_name(&refusal.code).unwrap();
        encode_refusal(code, &refusal.reason, &mut bytes);
    }
    case.hex = Bulk(bytes.freeze());
}

fn check_frame(case: &mut FrameCase) {
    let given = &case.header;
    let known = FrameKind::ALL.iter().find(|kind| kind.name() == given.kind).map(|kind| kind.as_u8());
    let kind = known.unwrap_or_else(|| u8::from_str_radix(given.kind.trim_start_matches("0x"), 16).unwrap());
    let codec = [Codec::None, Codec::Raw, Codec::Json].into_iter().find(|c| c.name() == given.codec).unwrap();
    let metadata = match &case.record {
        Some(record) => record_bytes(&record.record, &record.fields, &case.name),
        None => Bytes::new(),
    };
    let header = Header {
        len: 0,
        kind,
        codec,
        flags: flag_bits(&given.flags),
        stream: given.stream,
        meta_len: 0,
        nfds: given.nfds,
        arg: given.arg,
    };
    let bytes = frame(header, &metadata, &case.payload.0);
    let mut decoder = Decoder::new(u32::MAX);
    decoder.push(bytes.clone(), 0..given.nfds);
    let decoded = decoder.next_frame().unwrap().expect("a whole frame");
    assert!(decoder.next_frame().unwrap().is_none());
    assert_eq!((&decoded.metadata, &decoded.payload), (&metadata, &case.payload.0), "{}", case.name);
    assert_eq!(decoded.fds.len(), usize::from(given.nfds));
    let header = decoded.header;
    assert_eq!(HEADER_LEN + header.len as usize, bytes.len());
    case.header = HeaderFields {
        len: header.len,
        kind: known.map_or_else(|| format!("{:#04x}", header.kind), |_| given.kind.clone()),
        codec: header.codec.name().to_owned(),
        flags: flag_names(header.flags),
        stream: header.stream,
        meta_len: header.meta_len,
        nfds: header.nfds,
        arg: header.arg,
    };
    case.hex = Bulk(bytes);
}

/// One side of a connection, with counted file descriptors.
struct World {
    side: Connection<Token>,
    now: Instant,
    open_fds: Rc<Cell<usize>>,
}

impl World {
    fn of(side: Side, settings: Settings, hello: &Hello) -> Self {
        let now = Instant::now();
        let side = match side {
            Side::Client => Connection::client(settings, hello, now).unwrap(),
            Side::Daemon => Connection::daemon(settings, now),
        };
        World { side, now, open_fds: Rc::default() }
    }

    /// Gives `bytes` in reads of `read` bytes, with the file descriptors on the first.
    fn give(&mut self, bytes: &Bytes, fds: usize, read: usize) -> Result<(), PeerError> {
        let mut fds: Vec<Token> = (0..fds).map(|_| Token::open(&self.open_fds)).collect();
        let mut bytes = bytes.clone();
        while !bytes.is_empty() {
            let now = bytes.split_to(read.min(bytes.len()));
            self.side.handle_input(self.now, now, std::mem::take(&mut fds))?;
        }
        Ok(())
    }

    fn events(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.side.poll_event()).map(describe::event).collect()
    }
}

/// The other side's bytes that lead to a state, as the README of the vectors tells.
fn lead_to(world: &mut World, to: Side, after: After, features: u64) {
    let stage = |at: After| after as usize >= at as usize;
    if stage(After::Preface) {
        let mut bytes = BytesMut::new();
        let max_frame = limits::MAX_FRAME as u32;
        Preface { version_min: 1, version_max: 1, max_frame, features, instance: 0 }.encode(&mut bytes);
        world.give(&bytes.freeze(), 0, usize::MAX).unwrap();
    }
    match to {
        Side::Daemon => lead_daemon(world, after),
        Side::Client => lead_client(world, after),
    }
    drop(world.events());
    drop(output(&mut world.side));
}

fn message_frame(kind: FrameKind, record: AnyRecord, announced: u64, payload: &[u8]) -> Bytes {
    let codec = if announced > 0 { Codec::Raw } else { Codec::None };
    let more = u16::from((payload.len() as u64) < announced) << 1;
    frame(Header { codec, flags: more, ..Header::new(kind, 1) }, &record.encode(), payload)
}

fn parts(announced: u64) -> Vec<invoked_proto::metadata::Part> {
    let codec = if announced > 0 { Codec::Raw } else { Codec::None };
    vec![invoked_proto::metadata::Part::inline(codec, announced)]
}

/// What the call of a state declares.
fn channels(after: After) -> Vec<ChannelDeclaration> {
    let down = ChannelDeclaration { index: 1, direction: Direction::Down, credit: 1000 };
    let up = ChannelDeclaration { index: 2, direction: Direction::Up, credit: 0 };
    if after == After::Channels { vec![down, up] } else { Vec::new() }
}

fn lead_daemon(world: &mut World, after: After) {
    let stage = |at: After| after as usize >= at as usize;
    if stage(After::Greeted) {
        let hello = AnyRecord::from(Hello::default()).encode();
        world.give(&frame(Header::new(FrameKind::Hello, 0), &hello, &[]), 0, usize::MAX).unwrap();
    }
    if stage(After::Open) {
        world.side.welcome(&Welcome::default()).unwrap();
    }
    if stage(After::Called) {
        let (announced, payload): (u64, &[u8]) =
            if after == After::Half { (8, &[1, 2, 3]) } else { (0, &[]) };
        let call = invoked_proto::metadata::Call {
            command: "a.b".into(),
            channels: channels(after),
            parts: parts(announced),
            ..Default::default()
        };
        let bytes = message_frame(FrameKind::Call, call.into(), announced, payload);
        world.give(&bytes, 0, usize::MAX).unwrap();
    }
    if after == After::Ended {
        world.side.reply(1, Vec::new(), Message::default()).unwrap();
    }
    if after == After::Draining {
        world.side.drain("restart");
    }
    if after == After::Taking {
        world.side.take_lanes(LaneSet::of([Lane::Pool, Lane::Sealed, Lane::File])).unwrap();
    }
}

fn lead_client(world: &mut World, after: After) {
    let stage = |at: After| after as usize >= at as usize;
    if stage(After::Open) {
        let welcome = AnyRecord::from(Welcome::default()).encode();
        world.give(&frame(Header::new(FrameKind::Welcome, 0), &welcome, &[]), 0, usize::MAX).unwrap();
    }
    if stage(After::Called) {
        let request = Request { command: "a.b".into(), channels: channels(after), ..Request::default() };
        world.side.call(request).unwrap();
        drop(output(&mut world.side));
    }
    if after == After::Taking {
        let lanes = Lanes { lanes: vec![1, 2, 3], ..Lanes::default() };
        let bytes = frame(Header::new(FrameKind::Lanes, 0), &AnyRecord::from(lanes).encode(), &[]);
        world.give(&bytes, 0, usize::MAX).unwrap();
    }
    if matches!(after, After::Half | After::Ended) {
        let (announced, payload): (u64, &[u8]) =
            if after == After::Half { (8, &[1, 2, 3]) } else { (0, &[]) };
        let reply = invoked_proto::metadata::Reply { parts: parts(announced), ..Default::default() };
        let bytes = message_frame(FrameKind::Result, reply.into(), announced, payload);
        world.give(&bytes, 0, usize::MAX).unwrap();
    }
}

/// What the side says last: GOAWAY, a refusing preface, or nothing, with its code.
fn answer(side: &mut Connection<Token>) -> (Answer, Option<ErrorCode>) {
    let mut bytes = output(side);
    if !side.is_closed() {
        return (Answer::None, None);
    }
    if bytes.starts_with(&invoked_proto::registry::MAGIC) {
        let preface = Preface::decode(bytes.split_to(PREFACE_LEN).first_chunk().unwrap()).unwrap();
        if preface.version_max == 0 {
            let code = bytes.first_chunk::<4>().map(|code| u32::from_le_bytes(*code));
            return (Answer::Refusal, code.and_then(ErrorCode::from_u32));
        }
    }
    let mut decoder = Decoder::<Token>::new(u32::MAX);
    decoder.push(bytes, []);
    let mut last = None;
    while let Some(frame) = decoder.next_frame().unwrap() {
        last = Some(frame);
    }
    match last.filter(|frame| frame.header.known_kind() == Some(FrameKind::GoAway)) {
        Some(frame) => (Answer::Goaway, ErrorCode::from_u32(frame.header.arg)),
        None => (Answer::Close, None),
    }
}

fn feature_bits(names: &[String]) -> u64 {
    let bit = |name: &String| match name.as_str() {
        "CHANNELS" => features::CHANNELS,
        "ATTACHED_FDS" => features::ATTACHED_FDS,
        "POOL" => features::POOL,
        "SEALED" => features::SEALED,
        "FILE" => features::FILE,
        "PROVIDE" => features::PROVIDE,
        other => panic!("no feature is called {other}"),
    };
    names.iter().map(bit).fold(0, |all, bit| all | bit)
}

fn check_input(case: &mut InputCase) {
    let features = feature_bits(&case.features);
    let mut first = None;
    // A read boundary anywhere changes nothing. Small reads of a large input would take long and show no more.
    let reads = if case.hex.0.len() > 4096 { vec![usize::MAX, 4096] } else { vec![usize::MAX, 1, 23] };
    for read in reads {
        let settings = Settings { features, ..Settings::default() };
        let mut world = World::of(case.to, settings, &Hello::default());
        lead_to(&mut world, case.to, case.after, features);
        let result = world.give(&case.hex.0, case.fds, read);
        let events = world.events();
        let (answer, said) = answer(&mut world.side);
        let code = result.err().map(PeerError::wire_code);
        if answer == Answer::Goaway || answer == Answer::Refusal {
            assert_eq!(said, code, "{}: the code that is told", case.name);
        }
        let held = world.open_fds.get();
        assert!(held == 0, "{}: {held} file descriptors are held", case.name);
        let outcome = (result.err().map(|error| format!("{error:?}")), code, answer, events);
        let first = first.get_or_insert_with(|| outcome.clone());
        if case.fds == 0 {
            assert_eq!(&outcome, first, "{}: with reads of {read}", case.name);
        } else {
            // Which rule of file descriptors a peer breaks first depends on what came with them.
            assert_eq!((outcome.1, outcome.2), (first.1, first.2), "{}: with reads of {read}", case.name);
        }
    }
    let (error, code, answer, events) = first.unwrap();
    case.error = error;
    case.code = code.map(|code| code.name().to_owned());
    case.answer = answer;
    case.events = events;
}

#[test]
fn malformed_input_is_refused_with_its_exact_error_and_legal_input_is_not() {
    let mut sections = std::collections::BTreeSet::new();
    let mut names = std::collections::BTreeSet::new();
    let mut count = 0;
    for path in files("malformed") {
        count += each(&path, "malformed", |case: &mut InputCase| {
            check_input(case);
            assert!(names.insert(case.name.clone()), "{} stands twice", case.name);
            sections.insert(case.spec.clone());
        });
    }
    assert!(count >= 45, "{count} vectors of malformed input");
    let spec = include_str!("../SPEC.md");
    for section in sections {
        let heading = |line: &str| line.trim_start_matches('#').trim() == section && line.starts_with('#');
        assert!(spec.lines().any(heading), "SPEC.md has no section {section:?}");
    }
}

fn message(content: &Content) -> Message {
    let bytes = content.body.0.clone();
    let body = match content.codec.as_str() {
        "none" => Body::None,
        "raw" => Body::Raw(bytes),
        "json" => Body::Json(bytes),
        other => panic!("no codec is called {other}"),
    };
    Message { body, attachments: content.attachments.iter().map(|bulk| bulk.0.clone()).collect() }
}

fn headers(headers: &[(String, String)]) -> Vec<(Text, Text)> {
    headers.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

fn record(name: &str, given: &Value) -> AnyRecord {
    AnyRecord::decode(name, &record_bytes(name, given, name)).unwrap().unwrap()
}

fn perform(world: &mut World, act: &Act) {
    let side = &mut world.side;
    match act {
        Act::Connect { .. } | Act::Nothing {} => {}
        Act::Welcome { welcome } => {
            let AnyRecord::Welcome(welcome) = record("Welcome", welcome) else { unreachable!() };
            side.welcome(&welcome).unwrap();
        }
        Act::Call { command, headers: given, deadline_us, flags, channels, message: content } => {
            let declared = channels.iter().map(|channel| ChannelDeclaration {
                index: channel.index,
                direction: [Direction::Down, Direction::Up]
                    .into_iter()
                    .find(|direction| direction.name() == channel.direction)
                    .unwrap(),
                credit: channel.credit,
            });
            let request = Request {
                command: command.as_str().into(),
                headers: headers(given),
                deadline_us: deadline_us.map(|us| us.0),
                flags: flag_bits(flags),
                channels: declared.collect(),
                message: message(content),
                ..Request::default()
            };
            side.call(request).unwrap();
        }
        Act::Item { stream, channel, message: content } => {
            let sent = side.send_item(*stream, *channel, message(content)).unwrap();
            assert!(matches!(sent, Sent::Queued), "{sent:?}");
        }
        Act::End { stream, channel, code, message } => {
            let code = code.as_ref().map(|code| ErrorCode::from_name(code).unwrap());
            assert!(side.end_channel(*stream, *channel, code, message));
        }
        Act::Stop { stream, channel } => side.stop_channel(*stream, *channel),
        Act::Consume { stream, channel, credit } => side.give_credit(*stream, *channel, *credit),
        Act::Cancel { stream } => drop(side.cancel(*stream)),
        Act::Reply { stream, headers: given, message: content } => {
            side.reply(*stream, headers(given), message(content)).unwrap();
        }
        Act::Fail { stream, code, failure, message: content } => {
            let AnyRecord::Failure(failure) = record("Failure", failure) else { unreachable!() };
            let code = ErrorCode::from_name(code).unwrap();
            side.fail_call(*stream, code, failure, message(content)).unwrap();
        }
        Act::Ping { nonce } => side.ping(*nonce).unwrap(),
        Act::Drain { message } => side.drain(message),
        Act::Refuse { code, message } => side.refuse(ErrorCode::from_name(code).unwrap(), message),
    }
}

fn check_session(case: &mut SessionCase) {
    let by_hand = |side: Side| case.steps.iter().any(|step| step.from == side && step.acts.is_empty());
    let hello = case.steps.iter().flat_map(|step| &step.acts).find_map(|act| match act {
        Act::Connect { hello } => match record("Hello", hello) {
            AnyRecord::Hello(hello) => Some(hello),
            _ => None,
        },
        _ => None,
    });
    let settings = |side: &SideFields| Settings {
        max_frame: side.max_frame,
        features: feature_bits(&side.features),
        instance: side.instance.0,
        ..Settings::default()
    };
    let machine = |side: Side, settings: Settings| {
        (!by_hand(side)).then(|| World::of(side, settings, &hello.clone().unwrap_or_default()))
    };
    let mut client = machine(Side::Client, settings(&case.client));
    let mut daemon = machine(Side::Daemon, settings(&case.daemon));
    for step in &mut case.steps {
        let (from, to) = match step.from {
            Side::Client => (&mut client, &mut daemon),
            Side::Daemon => (&mut daemon, &mut client),
        };
        if let Some(from) = from {
            step.acts.iter().for_each(|act| perform(from, act));
            step.hex = Bulk(output(&mut from.side));
        }
        step.events = match to {
            Some(to) => {
                // An error is a part of the dialogue; what the side says to it is the next step.
                let _ = to.give(&step.hex.0, 0, usize::MAX);
                to.events()
            }
            None => Vec::new(),
        };
    }
    for world in [client, daemon].into_iter().flatten() {
        assert_eq!(world.side.unsent().bytes, 0, "{}: the session ends with bytes unsent", case.name);
        let open = (world.side.open_outbound(), world.side.open_inbound());
        assert_eq!(open, (0, 0), "{}: the session ends with open calls", case.name);
        assert_eq!(world.side.open_channels(), 0, "{}: the session ends with open channels", case.name);
    }
}

#[test]
fn sessions_run_as_written() {
    for path in files("sessions") {
        each(&path, "sessions", check_session);
    }
}

#[test]
fn the_specification_names_vectors_and_tests_that_exist() {
    let spec = include_str!("../SPEC.md");
    let mut vectors = std::collections::BTreeSet::new();
    for path in ["frames", "malformed", "records", "sessions"].into_iter().flat_map(files) {
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        vectors.extend(
            file["cases"].as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap().to_owned()),
        );
    }
    let sources = ["/tests", "/src"].map(|of| format!("{}{of}", env!("CARGO_MANIFEST_DIR")));
    let tests: String = sources
        .into_iter()
        .flat_map(|directory| std::fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let named = |what: &'static str| {
        let lists = spec.split(what).skip(1).map(|rest| rest.split(']').next().unwrap());
        lists.flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    };
    let used = named("[vector: ");
    assert!(used.len() > 100, "{} vectors are named", used.len());
    for name in used.iter().filter(|name| *name != "…") {
        assert!(vectors.contains(name), "SPEC.md names the vector {name}");
    }
    for name in named("[test: ").iter().filter(|name| *name != "…") {
        assert!(tests.contains(&format!("fn {name}(")), "SPEC.md names the test {name}");
    }
    let malformed: Vec<String> = files("malformed")
        .into_iter()
        .flat_map(|path| {
            let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            file["cases"]
                .as_array()
                .unwrap()
                .iter()
                .map(|case| case["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let unnamed: Vec<_> = malformed.iter().filter(|name| !used.contains(name)).collect();
    assert!(unnamed.len() <= 5, "SPEC.md has no rule for {unnamed:?}");
}
