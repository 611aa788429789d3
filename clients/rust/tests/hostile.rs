//! Whoever listens is not what the client hoped for: no answer of his may hang it or make it panic.

mod daemon;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use daemon::{Daemon, Then, eventually, options, say};
use invoked_client::blocking::Client;
use invoked_client::{Error, ErrorCode, Options, Server};
use invoked_proto::preface::{Preface, encode_refusal};

/// Tries both clients; neither must hang.
fn connect(options: &Options) -> Vec<Result<(), Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let blocking = Client::connect(options.clone()).map(drop);
    let later = runtime.block_on(invoked_client::Client::connect(options.clone())).map(drop);
    vec![blocking, later]
}

fn preface(version: u16, max_frame: u32) -> BytesMut {
    let mut bytes = BytesMut::new();
    Preface { version_min: version, version_max: version, max_frame, features: 0, instance: 1 }
        .encode(&mut bytes);
    bytes
}

#[test]
fn what_is_no_daemon_is_told_from_one() {
    let bytes = [
        Vec::new(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 4096],
        preface(1, 81_920)[..20].to_vec(),
        preface(2, 81_920).to_vec(),
        preface(1, 0).to_vec(),
        [&preface(1, 81_920)[..], &[0xff; 4096]].concat(),
    ];
    for bytes in bytes {
        let (_directory, options) = say(bytes.clone(), Then::Close);
        for result in connect(&options) {
            let error = result.expect_err("no daemon");
            assert!(error.is_unavailable(), "{bytes:?}: {error:?}");
        }
    }
}

#[test]
fn silence_ends_with_the_connect_timeout() {
    for bytes in [Vec::new(), preface(1, 81_920).to_vec()] {
        let (_directory, options) = say(bytes, Then::StaySilent);
        for result in connect(&options.connect_timeout(Duration::from_millis(50))) {
            let error = result.expect_err("silent");
            assert!(error.is_unavailable() && error.to_string().contains("in time"), "{error}");
        }
    }
}

#[test]
fn a_refused_version_is_said_so() {
    let mut bytes = preface(0, 81_920);
    encode_refusal(ErrorCode::VersionMismatch, "this daemon has 7 to 9", &mut bytes);
    let (_directory, options) = say(bytes.to_vec(), Then::Close);
    for result in connect(&options) {
        let error = result.expect_err("refused");
        assert_eq!(error.code(), Some(ErrorCode::VersionMismatch));
        assert!(error.to_string().contains("this daemon has 7 to 9"), "{error}");
    }
}

/// Frames that a daemon must not send, or not like this, each in answer to a call on stream 1.
fn garbage() -> HashMap<&'static str, Vec<u8>> {
    let frame =
        |kind: u8, codec: u8, flags: u16, stream: u64, meta: &[u8], payload: &[u8], len: Option<u32>| {
            let whole = u32::try_from(meta.len() + payload.len()).expect("small");
            let mut bytes = len.unwrap_or(whole).to_le_bytes().to_vec();
            bytes.extend([kind, codec]);
            bytes.extend(flags.to_le_bytes());
            bytes.extend(stream.to_le_bytes());
            bytes.extend(u16::try_from(meta.len()).expect("small").to_le_bytes());
            bytes.extend([0, 0, 0, 0, 0, 0]);
            bytes.extend(meta);
            bytes.extend(payload);
            bytes
        };
    // RESULT: no headers, one raw part of N bytes inline, no extensions.
    let part = |len: &[u8]| [&[0, 1, 1][..], len, &[0, 0]].concat();
    HashMap::from([
        ("unknown kind", frame(0x7f, 0, 0, 0, &[], &[], None)),
        ("frame too large", frame(0x12, 1, 0, 1, &part(&[1]), &[1], Some(u32::MAX))),
        ("stream never opened", frame(0x12, 1, 0, 99, &part(&[1]), &[1], None)),
        ("result on stream 0", frame(0x12, 1, 0, 0, &part(&[1]), &[1], None)),
        ("empty record", frame(0x12, 1, 0, 1, &[], &[], None)),
        ("more bytes than announced", frame(0x12, 1, 0, 1, &part(&[1]), &[1, 2], None)),
        ("fewer without MORE", frame(0x12, 1, 0, 1, &part(&[9]), &[1], None)),
        ("codec of another part", frame(0x12, 2, 0, 1, &part(&[1]), &[1], None)),
        (
            "count of headers",
            frame(0x12, 1, 0, 1, &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[], None),
        ),
        ("a call to the client", frame(0x10, 0, 0, 2, &part(&[0]), &[], None)),
        ("data out of nowhere", frame(0x11, 0, 1, 1, &[], &[1], None)),
        ("a second welcome", frame(0x02, 0, 0, 0, &[0, 0, 0, 0, 0], &[], None)),
        ("half a frame, then nothing", vec![3, 0]),
    ])
}

#[test]
fn illegal_answers_end_the_connection_and_nothing_else() {
    let daemon = Daemon::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (what, bytes) in garbage() {
        let half = what.starts_with("half");
        let timeout = Duration::from_millis(if half { 50 } else { 20_000 });
        let client = Client::connect(daemon.options()).expect("there");
        let error = client.call("test.garbage").raw(bytes.clone()).timeout(timeout).send().expect_err(what);
        assert_eq!((error.is_unavailable(), error.is_deadline()), (!half, half), "{what}: {error:?}");
        assert!(half || !client.is_connected(), "{what}");

        let error = runtime.block_on(async {
            let client = invoked_client::Client::connect(daemon.options()).await.expect("there");
            client.call("test.garbage").raw(bytes).timeout(timeout).send().await.expect_err(what)
        });
        assert_eq!((error.is_unavailable(), error.is_deadline()), (!half, half), "{what}: {error:?}");
    }
}

#[test]
fn a_result_that_is_announced_and_never_sent_reserves_nothing() {
    let daemon = Daemon::start();
    let client = Client::connect(daemon.options()).expect("there");
    // 60 MiB announced, one byte sent, MORE set; then a part of 2^62 bytes.
    let announced = |len: [u8; 9]| {
        let meta = [&[0, 1, 1][..], &len, &[0, 0]].concat();
        let mut bytes = u32::try_from(meta.len() + 1).expect("small").to_le_bytes().to_vec();
        bytes.extend([0x12, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(u16::try_from(meta.len()).expect("small").to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(&meta);
        bytes.push(9);
        bytes
    };
    let huge = announced([0xfd, 0, 0, 0, 0, 0, 0, 0, 0x40]);
    let error = client.call("test.garbage").raw(huge).send().expect_err("too large");
    assert_eq!(error.code(), Some(ErrorCode::TooLarge));
    let client = Client::connect(daemon.options()).expect("there");
    let large = {
        let meta = [0, 1, 1, 0xfc, 0, 0, 0xc0, 3, 0, 0];
        let mut bytes = 11_u32.to_le_bytes().to_vec();
        bytes.extend([0x12, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(meta);
        bytes.push(9);
        bytes
    };
    let before = resident();
    let error =
        client.call("test.garbage").raw(large).timeout(Duration::from_millis(50)).send().expect_err("late");
    assert!(error.is_deadline(), "{error:?}");
    assert!(resident() < before + (30 << 20), "memory grows with what arrives");
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

#[test]
fn a_connect_that_fails_names_what_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let absent = directory.path().join("none.sock");
    for result in connect(&options(&absent)) {
        let error = result.expect_err("nobody");
        let text = error.to_string();
        assert!(error.is_unavailable() && error.is_retryable(), "{error:?}");
        assert!(text.contains("none.sock") && text.contains("comes from --address"), "{text}");
    }
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).expect("bound"));
    for result in connect(&options(&stale)) {
        let text = result.expect_err("nobody").to_string();
        assert!(text.contains("nothing listens") && text.contains("owned by"), "{text}");
    }
    std::fs::write(directory.path().join("file"), "x").expect("written");
    for result in connect(&options(&directory.path().join("file"))) {
        assert!(result.expect_err("a file").to_string().contains("not a socket"));
    }
}

const CHILD: &str = "INVOKED_TEST_LISTEN_AT";

/// Listens as another user, in a process of its own, and is refused. Needs root to become another user; without it, the
/// client's check is tried with the roles it can play: its own uid is trusted.
#[test]
fn a_server_of_another_user_is_refused_unless_expected() {
    if let Some(path) = std::env::var_os(CHILD) {
        // This is the other user's process.
        let _listener = UnixListener::bind(path).expect("bound");
        // Until its parent has gone, in whatever way.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("read");
        return;
    }
    let own = rustix::process::geteuid().as_raw();
    let daemon = Daemon::start();
    let client = Client::connect(daemon.options()).expect("its own user is trusted");
    assert_eq!(client.info().server_uid, own);
    if own != 0 {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).expect("open to all");
    let path = directory.path().join("d.sock");
    let own_copy = directory.path().join("test");
    std::fs::copy(std::env::current_exe().expect("this test"), &own_copy).expect("copied");
    let mut child = Command::new(&own_copy)
        .args(["--exact", "a_server_of_another_user_is_refused_unless_expected", "--nocapture"])
        .env(CHILD, &path)
        .uid(4242)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("another user's process");
    eventually("it listens", || path.exists());
    let options = options(&path).connect_timeout(Duration::from_millis(300));
    for result in connect(&options) {
        let error = result.expect_err("an impostor");
        assert!(error.is_unavailable() && !error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains("4242") && error.to_string().contains("trusts"), "{error}");
    }
    // It is accepted when it is expected, and then does not answer.
    for server in [Server::Uid(4242), Server::Anyone] {
        for result in connect(&options.clone().server(server)) {
            assert!(result.expect_err("silent").to_string().contains("in time"));
        }
    }
    drop(child.stdin.take());
    child.wait().expect("ours");
}
