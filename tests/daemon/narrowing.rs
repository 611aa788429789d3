//! Rights that a peer gives up in HELLO, in the same write as its first calls.

use invoked_client::blocking::Client;
use invoked_proto::metadata::Hello;
use invoked_proto::registry::{ErrorCode, FrameKind};

use crate::harness::{Start, eventually};
use crate::peer::{MAX_FRAME, RawPeer, json_frame, preface, raw_frame, record};

/// What gives the daemon's uid `bench.echo` again, under another name.
const ECHO: &str = "identifier = \"more\"\npeers = [\"self\"]\npermissions = [\"bench:allow-echo\"]\n";

fn hello(names: &[&str]) -> Vec<u8> {
    let names = names.iter().map(|name| (*name).into()).collect();
    let hello = Hello { name: "raw".into(), narrow: Some(names), ..Hello::default() };
    [&preface(1, 1, MAX_FRAME)[..], &record(FrameKind::Hello, 0, hello)].concat()
}

#[test]
fn early_calls_have_the_rights_that_are_left() {
    let daemon = Start::dev().run();
    let mut peer = RawPeer::connect(&daemon.place().socket());
    let early = [
        &hello(&["operate", "no-such"])[..],
        &raw_frame(1, "bench.echo", b"x"),
        &json_frame(3, "core.ping", b"{}"),
    ];
    peer.send(&early.concat());
    let welcome = peer.next_frame().unwrap();
    assert_eq!(welcome.header.known_kind(), Some(FrameKind::Welcome));
    let text = String::from_utf8_lossy(&welcome.metadata).into_owned();
    assert!(text.contains("no-such") && !text.contains("\"operate\""), "{text}");
    assert_eq!(peer.failure(1).0, ErrorCode::PermissionDenied);
    let answer = peer.next_frame().unwrap();
    assert_eq!((answer.header.stream, answer.header.known_kind()), (3, Some(FrameKind::Result)));
}

#[test]
fn no_change_of_the_files_gives_them_back() {
    let daemon = Start::dev().run();
    let options = || daemon.place().options();
    let narrowed = Client::connect(options().narrow(["operate"])).unwrap();
    let wide = Client::connect(options()).unwrap();
    let denies = "identifier = \"no\"\npeers = [\"self\"]\npermissions = [\"bench:deny-echo\"]\n";
    let echo = |client: &Client| client.call("bench.echo").raw("x").send();
    assert!(echo(&wide).is_ok() && echo(&narrowed).unwrap_err().is_permission_denied());
    daemon.place().write("capabilities/no.toml", denies);
    eventually("the denial is not in force", || echo(&wide).is_err());
    std::fs::remove_file(daemon.place().path("capabilities/no.toml")).unwrap();
    daemon.place().write("capabilities/more.toml", ECHO);
    eventually("the grant is not in force", || echo(&wide).is_ok());
    assert!(echo(&narrowed).unwrap_err().is_permission_denied());
    narrowed.ping().unwrap();
}
