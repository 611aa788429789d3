//! What a peer's announcements make us reserve: nothing. Alone in its binary, because it counts allocations.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a test may fail by panicking

use allocation_counter::{AllocationInfo, measure};
use bytes::{Bytes, BytesMut};
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::Request;
use invoked_proto::decoder::Decoder;
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, Part};
use invoked_proto::registry::{Codec, FrameKind, HEADER_LEN, flags, limits};
use invoked_proto::testing::{AnyRecord, Pair, Token, frame, output};

/// The most bytes that `run` held at once beyond what was held before.
fn most(run: impl FnOnce()) -> u64 {
    let AllocationInfo { bytes_max, .. } = measure(run);
    bytes_max
}

fn header(kind: FrameKind, len: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_LEN);
    Header { len, ..Header::new(kind, 1) }.encode(&mut bytes);
    bytes.freeze()
}

#[test]
fn a_header_alone_reserves_nothing() {
    let max_frame = limits::MAX_FRAME_CEILING as u32;
    let input = header(FrameKind::Call, max_frame);
    let mut decoder = Decoder::<Token>::new(max_frame);
    let held = most(|| {
        decoder.push(input.clone(), []);
        assert!(decoder.next_frame().unwrap().is_none());
    });
    assert!(held <= 256, "24 bytes that announce 1 MiB made the decoder hold {held}");
}

#[test]
fn a_decoder_holds_a_header_and_a_frame_at_most() {
    let max_frame = limits::MAX_FRAME as u32;
    let payload = vec![0; max_frame as usize];
    let whole = frame(Header::new(FrameKind::Call, 1), &[], &payload);
    for read in [1, 100, 4096, whole.len() - 1] {
        let mut decoder = Decoder::<Token>::new(max_frame);
        let AllocationInfo { bytes_current, bytes_max, .. } = measure(|| {
            let mut rest = whole.slice(..whole.len() - 1);
            while !rest.is_empty() {
                // What a socket brings is the caller's memory; only what is kept of it counts.
                decoder.push(rest.split_to(read.min(rest.len())), []);
                assert!(decoder.next_frame().unwrap().is_none());
            }
        });
        assert_eq!(decoder.peek().0.len(), whole.len() - 1);
        let frame = (HEADER_LEN + max_frame as usize) as i64;
        // The first slice of `whole` makes its counter of owners, 24 bytes.
        assert!(bytes_current <= frame + 24, "after reads of {read} the decoder keeps {bytes_current}");
        // While the buffer grows, the old one stands beside the new one.
        assert!(bytes_max < 2 * frame as u64, "reads of {read} made the decoder hold {bytes_max}");
        decoder.push(whole.slice(whole.len() - 1..), []);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame.payload.len(), payload.len());
    }
}

#[test]
fn an_announced_message_reserves_nothing() {
    let mut pair = Pair::open();
    let parts = vec![Part::inline(Codec::Raw, limits::MAX_MESSAGE as u64)];
    let record = AnyRecord::from(Call { command: "a.b".into(), parts: parts.clone(), ..Call::default() });
    let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, 1) };
    let input = frame(header, &record.encode(), &[1]);
    let now = pair.now;
    let held = most(|| pair.daemon.handle_input(now, input, []).unwrap());
    assert!(held < 4096, "a frame that announces 64 MiB made the connection hold {held}");

    let first = Bytes::from_static(&[1]);
    let held = most(|| {
        let mut assembly = Assembly::begin(parts, first).unwrap();
        assembly.push(&[2]).unwrap();
        assert_eq!(assembly.len(), 2);
    });
    assert!(held < 256, "2 bytes of 64 MiB made the assembly hold {held}");
}

#[test]
fn a_whole_message_is_held_once() {
    let len = 10 << 20;
    let parts = vec![Part::inline(Codec::Raw, len as u64)];
    let fragment = Bytes::from(vec![7; limits::FRAGMENT]);
    let mut message = None;
    let held = most(|| {
        let mut assembly = Assembly::begin(parts, fragment.clone()).unwrap();
        while !assembly.is_complete() {
            let rest = len - assembly.len();
            assembly.push(&fragment[..rest.min(fragment.len())]).unwrap();
        }
        message = Some(assembly.finish().unwrap());
    });
    assert_eq!(message.map(|message: Message| message.len()), Some(len));
    // While it grows for the last time, the old buffer stands beside the new one.
    assert!(held < 2 * len as u64, "a message of {len} bytes was held in {held}");
}

#[test]
fn a_length_inside_a_record_reserves_nothing() {
    let huge: &[u8] = &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let bombs: &[&[u8]] = &[
        huge,
        &[3, b'a', b'.', b'b', 0xfd, 0, 0, 0, 0, 1, 0, 0, 0],
        &[3, b'a', b'.', b'b', 0, 0, 0, 0xfb, 0xff, 0xff],
    ];
    for bomb in bombs {
        let bytes = Bytes::copy_from_slice(bomb);
        let held = most(|| assert!(AnyRecord::decode("Call", &bytes).unwrap().is_err()));
        assert!(held <= (4 * limits::MAX_METADATA) as u64, "{bomb:02x?} made the decoder hold {held}");
    }
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    let mut pair = Pair::open();
    let held = most(|| {
        for _ in 0..100 {
            let body = Body::Raw(Bytes::from(vec![0; 60_000]));
            let message = Message::from(body);
            let request = Request { command: "bench.echo".into(), message, ..Request::default() };
            let stream = pair.client.call(request).unwrap();
            let bytes = output(&mut pair.client);
            pair.daemon.handle_input(pair.now, bytes, []).unwrap();
            while pair.daemon.poll_event().is_some() {}
            pair.daemon.reply(stream, Vec::new(), Message::default()).unwrap();
            let bytes = output(&mut pair.daemon);
            pair.client.handle_input(pair.now, bytes, []).unwrap();
            while pair.client.poll_event().is_some() {}
        }
    });
    let left = measure(|| drop(output(&mut pair.client))).bytes_current;
    assert_eq!(left, 0);
    assert!(held < 1 << 20, "100 calls, one after the other, held {held} at once");
}
