//! Shared memory and open files, with peers that hold what they were lent, give back what they were not, or die.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use bytes::BytesMut;
use invoked_client::blocking::Client;
use invoked_client::{Address, ErrorCode, Options, Reply};
use invoked_proto::header::Header;
use invoked_proto::metadata::{Hello, Lease, Release};
use invoked_proto::preface::Preface;
use invoked_proto::registry::{FrameKind, Lane, features};
use invoked_proto::testing::{AnyRecord, frame};

use crate::child::{Other, options, say};
use crate::files::granting;
use crate::harness::{Daemon, Start, eventually, stats};
use crate::peer::{End, MAX_FRAME, RawPeer, json_frame};
use crate::watch::Watch;

const GIB: u64 = 1 << 30;

/// What the daemon has read by `read(2)` and its kin, in bytes.
fn bytes_read(daemon: &Daemon) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
    let counted = |name: &str| -> u64 {
        let line = io.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    counted("rchar:") + counted("read_bytes:")
}

fn taking_files(daemon: &Daemon) -> Client {
    Client::connect(daemon.place().options().files(true)).unwrap()
}

#[test]
fn a_gibibyte_is_read_by_its_caller_and_not_by_the_daemon() {
    const READ: &str = r#"{ identifier = "fs:read", allow = ["FILES/**"] }, "core:allow-stats""#;
    let mut daemon = granting(READ).run();
    let path = daemon.place().path("files/large");
    let file = File::create(&path).unwrap();
    file.set_len(GIB).unwrap();
    for at in [0, 1 << 20, GIB / 2, GIB - 8] {
        file.write_all_at(&at.to_le_bytes(), at).unwrap();
    }
    let watch = Watch::start(&daemon);
    let client = taking_files(&daemon);
    let read = |offset: u64, len: Option<u64>| -> Reply {
        let call = client.call("fs.read_file").arg("path", &path).arg("offset", offset);
        match len {
            Some(len) => call.arg("len", len).send().unwrap(),
            None => call.send().unwrap(),
        }
    };
    let before = bytes_read(&daemon);
    let reply = read(0, None);
    let open = reply.file().expect("it comes as it is");
    assert_eq!((open.len(), open.offset(), reply.bytes().len()), (GIB, 0, 0));
    for at in [0, 1 << 20, GIB / 2, GIB - 8] {
        let mut found = [0; 8];
        assert_eq!(open.read_at(&mut found, at).unwrap(), 8);
        assert_eq!(u64::from_le_bytes(found), at);
    }
    assert_eq!(open.copy_to(&mut std::io::sink()).unwrap(), GIB);
    let part = read(1 << 20, Some(2 << 20));
    assert_eq!(part.file().unwrap().read_all().unwrap()[..8], (1_u64 << 20).to_le_bytes());
    assert_eq!(part.file().unwrap().len(), 2 << 20);
    assert_eq!(read(GIB - 100, Some(u64::MAX)).bytes().len(), 100, "a small part comes by itself");
    let daemon_read = bytes_read(&daemon) - before;
    assert!(daemon_read < 256 * 1024, "the daemon read {daemon_read} bytes");
    assert_eq!(stats(watch.operator())["files"], 2);
    // Nobody may write through it.
    assert!(open.as_file().write_at(b"x", 0).is_err());

    // Whoever takes no files is told what it can do.
    let error = daemon.client().call("fs.read_file").arg("path", &path).send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooLarge));
    drop((reply, part, client));
    watch.finish(&mut daemon, "open files");
}

#[test]
fn capabilities_and_the_configuration_decide_who_gets_files() {
    let gets = |start: Start| {
        let daemon = start.run();
        let path = daemon.place().path("files/a");
        File::create(&path).unwrap().set_len(2 << 20).unwrap();
        let reply = taking_files(&daemon).call("fs.read_file").arg("path", &path).send().unwrap();
        assert_eq!(reply.bytes().len(), if reply.file().is_some() { 0 } else { 2 << 20 });
        reply.file().is_some()
    };
    let with = |lanes: &str| {
        let start = Start::plain();
        let files = start.place().path("files").canonicalize().unwrap();
        let text = format!(
            "identifier = 'f'\npeers = ['everyone']\npermissions = [{{ identifier = 'fs:read', allow = ['{}/**'] }}]\n{lanes}",
            files.display()
        );
        start.capability("f.toml", &text)
    };
    assert!(gets(with("")));
    assert!(gets(with("lanes = ['file']")));
    assert!(!gets(with("lanes = ['pool']")));
    assert!(!gets(with("").config("[lanes]\nfile_from = 0")));
    assert!(gets(with("").config("[lanes]\nfile_from = 2097152")), "n");
    assert!(!gets(with("").config("[lanes]\nfile_from = 2097153")), "n - 1");
    assert!(!gets(with("").config("[quotas]\nunconfirmed_fds_per_uid = 0")), "no room");
}

/// Waits until no peer is written to any more: only those that have left give their memory back.
fn await_no_memory(watch: &Watch) {
    eventually("memory is given back", || stats(watch.operator())["segment_bytes"] == 0);
}

/// Holds what it was lent until it is killed.
pub(crate) fn holder(address: &Address) {
    let client = Client::connect(options(address).files(true)).unwrap();
    let call = |len: u32| client.call("bench.bytes").arg("len", len).send().unwrap();
    let held: Vec<Reply> = (0..20).map(|i| call(100_000 * (i + 1))).collect();
    say("holds");
    // It goes on: calls are on their way when it is killed.
    loop {
        drop(call(3_000_000));
        assert_eq!(held.len(), 20);
    }
}

#[test]
fn receivers_killed_while_they_hold_leases_leave_nothing() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    for round in 0..5 {
        let mut holders: Vec<_> = (0..3).map(|_| Other::start("holder", daemon.place())).collect();
        for holder in &mut holders {
            assert_eq!(holder.answer(), "holds");
        }
        assert!(stats(watch.operator())["segment_bytes"].as_u64().unwrap() > 60 << 20);
        holders.into_iter().for_each(Other::kill);
        watch.check(&mut daemon, &format!("round {round}"));
        await_no_memory(&watch);
    }
    watch.finish(&mut daemon, "killed receivers");
}

/// A peer that reads large results in memory, as far as the daemon can know.
fn sharing(daemon: &Daemon) -> RawPeer {
    let mut greeting = BytesMut::new();
    let features = features::ATTACHED_FDS | features::POOL;
    let preface = Preface { version_min: 1, version_max: 1, max_frame: MAX_FRAME, features, instance: 1 };
    preface.encode(&mut greeting);
    let hello = Hello { name: "raw".into(), lanes: vec![Lane::Pool as u8], ..Hello::default() };
    greeting.extend_from_slice(&said(FrameKind::Hello, AnyRecord::from(hello)));
    RawPeer::open_with_fds(&daemon.place().socket(), &greeting)
}

fn said(kind: FrameKind, record: AnyRecord) -> bytes::Bytes {
    frame(Header::new(kind, 0), &record.encode(), b"")
}

fn release(fds: u32, leases: Vec<Lease>) -> bytes::Bytes {
    said(FrameKind::Release, Release { fds, leases, ..Release::default() }.into())
}

/// Calls for a mebibyte; the bytes of payload that come, which are none if it lies in memory.
fn a_mebibyte(peer: &mut RawPeer, stream: u64) -> usize {
    peer.send(&json_frame(stream, "bench.bytes", br#"{"len":1048576}"#));
    let mut payload = 0;
    loop {
        let frame = peer.next_frame().expect("an answer");
        match frame.header.known_kind() {
            Some(FrameKind::Segment) => continue,
            Some(FrameKind::Result | FrameKind::Data) => payload += frame.payload.len(),
            other => panic!("{other:?}"),
        }
        if frame.header.flags & invoked_proto::registry::flags::MORE == 0 {
            return payload;
        }
    }
}

#[test]
fn a_peer_that_gives_nothing_back_is_sent_what_it_may_hold_and_the_rest_inline() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let mut peer = sharing(&daemon);
    let came: Vec<usize> = (0..80).map(|i| a_mebibyte(&mut peer, 2 * i + 1)).collect();
    // A segment each, of which it confirms none.
    assert_eq!(came.iter().position(|payload| *payload > 0), Some(64), "{came:?}");
    assert!(came[64..].iter().all(|payload| *payload == 1 << 20));
    let now = stats(watch.operator());
    assert_eq!((now["pooled"].as_u64(), now["pool_fallbacks"].as_u64()), (Some(64), Some(16)));
    // Others of its uid have no descriptors to send either, until it has gone; their bytes come all the same.
    let other = daemon.client();
    let reply = other.call("bench.bytes").arg("len", 1 << 20).send().unwrap();
    assert_eq!(reply.bytes().len(), 1 << 20);
    drop((peer, other));
    watch.check(&mut daemon, "gone");
    await_no_memory(&watch);
    let reply = watch.operator().call("bench.bytes").arg("len", 1 << 20).send().unwrap();
    assert_eq!((reply.bytes().len(), &stats(watch.operator())["pooled"]), (1 << 20, &65.into()));
}

#[test]
fn what_was_not_lent_can_not_be_given_back() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let at = |segment, generation, offset| Lease { segment, generation, offset };
    for (case, bytes) in [
        ("a lease of nobody's", release(0, vec![at(9, 1, 0)])),
        ("a stale generation", release(0, vec![at(0, 0, 0)])),
        ("inside a lease", release(0, vec![at(0, 1, 1)])),
        ("twice", release(0, vec![at(0, 1, 0), at(0, 1, 0)])),
        ("more descriptors than came", release(2, Vec::new())),
    ] {
        let mut peer = sharing(&daemon);
        assert_eq!(a_mebibyte(&mut peer, 1), 0, "{case}: it lies in memory");
        peer.send(&bytes);
        assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::Protocol)), "{case}");
        watch.check(&mut daemon, case);
        await_no_memory(&watch);
    }
    let mut honest = sharing(&daemon);
    assert_eq!(a_mebibyte(&mut honest, 1), 0);
    honest.send(&release(1, vec![at(0, 1, 0)]));
    assert_eq!(a_mebibyte(&mut honest, 3), 0);
    assert_eq!(stats(watch.operator())["segment_bytes"], 1 << 20, "the same memory");
    drop(honest);
    watch.finish(&mut daemon, "leases");
}

#[test]
fn a_peer_without_the_feature_gets_the_same_bytes_inline() {
    let daemon = Start::dev().run();
    let mut plain = RawPeer::open_with_channels(&daemon.place().socket());
    assert_eq!(a_mebibyte(&mut plain, 1), 1 << 20);
    let options: Options = daemon.place().options().shared_memory(false);
    let reply = Client::connect(options).unwrap().call("bench.bytes").arg("len", 1 << 20).send().unwrap();
    assert!(reply.bytes().len() == 1 << 20 && reply.bytes().iter().all(|byte| *byte == 0));
}

#[test]
fn descriptors_that_the_kernel_lets_on_their_way_later_are_sent_then() {
    let mut crowded = Command::new("strace");
    // The first writes with descriptors; others are a `send`, or come later.
    crowded.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=sendmsg"]);
    crowded.args(["-e", "inject=sendmsg:error=ETOOMANYREFS:when=1..5"]);
    let mut daemon = Start::dev().through(crowded).run();
    let client = daemon.client();
    let reply = client.call("bench.bytes").arg("len", 1 << 20).send().unwrap();
    assert_eq!(reply.bytes().len(), 1 << 20);
    client.ping().unwrap();
    let stats = stats(&client);
    assert_eq!((stats["pooled"].as_u64(), stats["pool_fallbacks"].as_u64()), (Some(1), Some(0)));
    assert!(daemon.is_running());
}
