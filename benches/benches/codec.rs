//! The codec alone: headers, whole calls between two connections in one thread, input in pieces.
//!
//! No socket and no clock: what is timed is `invoked-proto`, and one copy of the bytes where a kernel would make it.

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use invoked_proto::body::{Body, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Settings, Transmit};
use invoked_proto::decoder::Decoder;
use invoked_proto::header::Header;
use invoked_proto::metadata::{Hello, Welcome};
use invoked_proto::registry::{Codec, FrameKind, HEADER_LEN};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    headers(&mut criterion);
    handshake(&mut criterion);
    calls(&mut criterion);
    split_input(&mut criterion);
    criterion.final_summary();
}

fn headers(criterion: &mut Criterion) {
    let header = Header { len: 96, codec: Codec::Raw, meta_len: 32, ..Header::new(FrameKind::Call, 12_345) };
    let mut bytes = [0; HEADER_LEN];
    header.write(&mut bytes);
    let max_frame = Settings::default().max_frame;
    let mut group = criterion.benchmark_group("header");
    group.bench_function("encode", |b| {
        let mut out = [0; HEADER_LEN];
        b.iter(|| {
            black_box(&header).write(&mut out);
            black_box(&out);
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| Header::decode(black_box(&bytes), max_frame).expect("a legal header"));
    });
    group.finish();
}

fn handshake(criterion: &mut Criterion) {
    criterion.bench_function("connection/handshake", |b| b.iter(Wire::open));
}

/// A call with a raw body of 64 bytes and a reply of each size: encoded, decoded, answered, encoded, decoded.
fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection/call");
    for size in [64, 64 * 1024, 1024 * 1024] {
        let mut wire = Wire::open();
        let body = Bytes::from(vec![7; 64]);
        let answer = Bytes::from(vec![7; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("reply", size), |b| {
            b.iter(|| {
                let got = wire.call(body.clone(), answer.clone());
                assert_eq!(got, size);
            });
        });
    }
    group.finish();
}

/// 256 frames of 64 bytes each, and one of 64 KiB, cut as reads may cut them.
fn split_input(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decoder");
    for (name, frames, size) in [("256x64B", 256, 64), ("1x64KiB", 1, 64 * 1024)] {
        let input = frames_of(frames, size);
        group.throughput(Throughput::Bytes(input.len() as u64));
        for read in [1, 61, 4096, usize::MAX] {
            let id = if read == usize::MAX { "whole".to_owned() } else { read.to_string() };
            group.bench_function(BenchmarkId::new(name, id), |b| {
                b.iter(|| assert_eq!(decode(&input, read), frames));
            });
        }
    }
    group.finish();
}

fn frames_of(count: usize, size: u32) -> Bytes {
    let header = Header { len: size, codec: Codec::Raw, ..Header::new(FrameKind::Data, 1) };
    let mut bytes = BytesMut::new();
    for _ in 0..count {
        header.encode(&mut bytes);
        let end = bytes.len() + size as usize;
        bytes.resize(end, 7);
    }
    bytes.freeze()
}

fn decode(input: &Bytes, read: usize) -> usize {
    let mut decoder = Decoder::<OwnedFd>::new(Settings::default().max_frame);
    let mut rest = input.clone();
    let mut frames = 0;
    while !rest.is_empty() {
        decoder.push(rest.split_to(read.min(rest.len())), []);
        while let Some(frame) = decoder.next_frame().expect("legal frames") {
            black_box(frame);
            frames += 1;
        }
    }
    frames
}

/// A client and a daemon, and a buffer in the place of the socket.
struct Wire {
    client: Connection<OwnedFd>,
    daemon: Connection<OwnedFd>,
    transmit: Transmit<OwnedFd>,
    buffer: BytesMut,
    now: Instant,
}

impl Wire {
    /// Both after the handshake.
    fn open() -> Self {
        let now = Instant::now();
        let settings = Settings::default();
        let mut wire = Wire {
            client: Connection::client(settings, &Hello::default(), now).expect("a default HELLO is legal"),
            daemon: Connection::daemon(settings, now),
            transmit: Transmit::default(),
            buffer: BytesMut::new(),
            now,
        };
        wire.reach_daemon();
        assert!(matches!(wire.daemon.poll_event(), Some(Event::Greeted(_))));
        wire.daemon.welcome(&Welcome::default()).expect("a HELLO waits");
        wire.reach_client();
        assert!(matches!(wire.client.poll_event(), Some(Event::Welcomed(_))));
        wire
    }

    /// One call; gives the length of the reply that came.
    fn call(&mut self, body: Bytes, answer: Bytes) -> usize {
        let message = Message::from(Body::Raw(body));
        let request = Request { command: "bench.bytes".into(), message, ..Request::default() };
        let sent = self.client.call(request).expect("the connection is open");
        self.reach_daemon();
        let Some(Event::Called { stream, more: More::Whole, .. }) = self.daemon.poll_event() else {
            panic!("the call came whole");
        };
        assert_eq!(stream, sent);
        let message = Message::from(Body::Raw(answer));
        self.daemon.reply(stream, Vec::new(), message).expect("it waits for an answer");
        self.reach_client();
        let mut got = 0;
        loop {
            let (payload, more) = match self.client.poll_event() {
                Some(Event::Replied { payload, more, .. } | Event::Continued { payload, more, .. }) => {
                    (payload, more)
                }
                other => panic!("not a reply: {other:?}"),
            };
            got += payload.len();
            if more == More::Whole {
                return got;
            }
        }
    }

    fn reach_daemon(&mut self) {
        carry(&mut self.client, &mut self.daemon, &mut self.transmit, &mut self.buffer, self.now);
    }

    fn reach_client(&mut self) {
        carry(&mut self.daemon, &mut self.client, &mut self.transmit, &mut self.buffer, self.now);
    }
}

fn carry(
    from: &mut Connection<OwnedFd>,
    to: &mut Connection<OwnedFd>,
    transmit: &mut Transmit<OwnedFd>,
    buffer: &mut BytesMut,
    now: Instant,
) {
    while from.poll_transmit(transmit) {
        while !transmit.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            let filled = transmit.slices(&mut slices);
            let before = buffer.len();
            for slice in &slices[..filled] {
                buffer.extend_from_slice(slice);
            }
            transmit.advance(buffer.len() - before);
        }
        to.handle_input(now, buffer.split().freeze(), []).expect("a legal peer");
    }
}
