//! The main job: bytes come as they are, of any size up to the limit, and not beyond.

use std::process::Command;

use invoked_client::ErrorCode;
use invoked_client::blocking::Client;
use invoked_proto::registry::limits;

use crate::harness::Start;

/// Bytes without a pattern that a wrong offset would repeat.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn read(client: &Client, path: &std::path::Path) -> Result<invoked_client::Reply, invoked_client::Error> {
    client.call("fs.read_file").arg("path", path).send()
}

#[test]
fn a_file_of_50_mb_comes_as_it_is() {
    let daemon = Start::dev().run();
    let bytes = noise(50_000_000);
    let path = daemon.place().write("files/big", &bytes);
    let reply = read(&daemon.client(), &path).unwrap();
    assert!(reply.bytes() == bytes, "{} bytes came, not the same", reply.bytes().len());
}

#[test]
fn the_command_line_copies_a_file_of_50_mb() {
    let daemon = Start::dev().run();
    let bytes = noise(50_000_000);
    let path = daemon.place().write("files/big", &bytes);
    let copy = daemon.place().path("copy");
    let output = Command::new(env!("CARGO_BIN_EXE_invokectl"))
        .arg("-a")
        .arg(daemon.place().address().to_string())
        .args(["call", "fs.read_file", &format!("path={}", path.display()), "-o"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(copy).unwrap() == bytes, "another file");
}

#[test]
fn every_size_comes_and_one_byte_beyond_the_limit_is_too_large() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let fragment = limits::FRAGMENT;
    for len in [0, 1, fragment - 1, fragment, fragment + 1, limits::MAX_MESSAGE] {
        let bytes = noise(len);
        let path = daemon.place().write("files/some", &bytes);
        let reply = read(&client, &path).unwrap_or_else(|error| panic!("{len}: {error}"));
        assert!(reply.bytes() == bytes, "{len} bytes: not the same");
        drop(reply);
        let reply = client.call("bench.echo").raw(bytes.clone()).send();
        let reply = reply.unwrap_or_else(|error| panic!("echo of {len}: {error}"));
        assert!(reply.bytes() == bytes, "echo of {len} bytes: not the same");
    }
    let path = daemon.place().write("files/some", noise(limits::MAX_MESSAGE + 1));
    assert_eq!(read(&client, &path).unwrap_err().code(), Some(ErrorCode::TooLarge));
    let error = client.call("bench.sink").raw(vec![0; limits::MAX_MESSAGE + 1]).send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooLarge));
    client.ping().expect("the connection lives on");
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_the_daemon_too() {
    use invoked_proto::header::Header;
    use invoked_proto::registry::{Codec, FrameKind, flags};
    use invoked_proto::testing::{AnyRecord, frame};

    let daemon = Start::dev().config("[quotas]\nmax_message = 1000").run();
    let mut peer = crate::peer::RawPeer::open(&daemon.place().socket());
    let call = |stream, len: u64, here: usize| {
        let flags = if here as u64 == len { 0 } else { flags::MORE };
        let header = Header { codec: Codec::Raw, flags, ..Header::new(FrameKind::Call, stream) };
        frame(header, &AnyRecord::from(crate::peer::raw_call("bench.sink", len)).encode(), &vec![7; here])
    };
    peer.send(&call(1, 1000, 1000));
    let answer = peer.next_frame().unwrap();
    assert_eq!(answer.header.known_kind(), Some(FrameKind::Result));
    for (stream, len) in [(3, 1001), (5, u64::from(u32::MAX)), (7, 1 << 62)] {
        peer.send(&call(stream, len, 1));
        assert_eq!(peer.failure(stream).0, ErrorCode::TooLarge, "{len}");
    }
    peer.send(&call(9, 1, 1));
    assert_eq!(peer.next_frame().unwrap().header.stream, 9);
}

#[test]
fn what_is_outside_of_the_scope_or_no_file_is_refused_and_named() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let outside = daemon.place().write("outside", "secret");
    let link = daemon.place().path("files/link");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    for path in [&outside, &link, &daemon.place().path("files/../outside")] {
        let from = daemon.log().len();
        let error = read(&client, path).unwrap_err();
        assert!(error.is_permission_denied(), "{}: {error}", path.display());
        daemon.await_line(from, &["denied: fs.read_file"]);
    }
    let missing = read(&client, &daemon.place().path("files/missing")).unwrap_err();
    assert!(missing.is_application());
    assert_eq!(missing.json::<serde_json::Value>().unwrap()["kind"], "not_found");
    let directory = read(&client, &daemon.place().path("files")).unwrap_err();
    assert!(directory.is_application(), "{directory}");
    assert_eq!(client.call("fs.read_file").send().unwrap_err().code(), Some(ErrorCode::InvalidArgument));
    for relative in ["", "files/some", "./some", "~/some"] {
        let error = read(&client, std::path::Path::new(relative)).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{relative:?}: {error}");
        assert!(error.to_string().contains("is absolute"), "{relative:?}: {error}");
    }
}
