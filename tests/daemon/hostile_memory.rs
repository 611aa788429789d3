//! Memory and files that hostile peers send: each is refused, and nothing of it stays.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use invoked_client::blocking::Client;
use invoked_client::{Address, ErrorCode};
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, Hello, Lanes, Part, Place, Segment};
use invoked_proto::preface::Preface;
use invoked_proto::registry::{Codec, FrameKind, Lane, features, flags};
use invoked_proto::testing::{AnyRecord, frame};
use invoked_transport::Stream;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open};

use crate::child::{Other, options, say};
use crate::harness::{Daemon, Start, eventually, stats};
use crate::peer::{End, MAX_FRAME, RawPeer, record};
use crate::watch::Watch;

const TIB: u64 = 1 << 40;

/// A peer that has asked for all lanes, and was given them.
fn sending(daemon: &Daemon) -> RawPeer {
    let mut greeting = BytesMut::new();
    let features = features::ATTACHED_FDS | features::POOL | features::SEALED | features::FILE;
    Preface { version_min: 1, version_max: 1, max_frame: MAX_FRAME, features, instance: 1 }
        .encode(&mut greeting);
    greeting.extend_from_slice(&record(
        FrameKind::Hello,
        0,
        Hello { name: "raw".into(), ..Hello::default() },
    ));
    let mut peer = RawPeer::open_with_fds(&daemon.place().socket(), &greeting);
    let asked =
        Lanes { lanes: vec![Lane::Pool as u8, Lane::Sealed as u8, Lane::File as u8], ..Lanes::default() };
    peer.send(&record(FrameKind::Lanes, 0, asked));
    let told = peer.next_frame().expect("an answer");
    assert_eq!(told.header.known_kind(), Some(FrameKind::Lanes));
    peer
}

fn send(peer: &RawPeer, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let stream = Stream::from_fd(peer.socket.try_clone().unwrap().into()).unwrap();
    assert_eq!(stream.try_write(&[IoSlice::new(bytes)], fds).unwrap(), bytes.len());
}

fn memory(len: u64, seals: SealFlags) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

fn of_segments() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

fn sealed() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

fn introduction(len: u64) -> Bytes {
    let segment = Segment { segment: 3, generation: 1, len, ..Segment::default() };
    let header = Header { nfds: 1, ..Header::new(FrameKind::Segment, 0) };
    frame(header, &AnyRecord::from(segment).encode(), &[])
}

/// A call of `bench.echo` whose body is so many bytes somewhere.
fn call(stream: u64, len: u64, place: Place, nfds: u8) -> Bytes {
    let parts = vec![Part { codec: Codec::Raw, len, place }];
    let call = Call { command: "bench.echo".into(), parts, ..Call::default() };
    let header = Header { codec: Codec::Raw, nfds, ..Header::new(FrameKind::Call, stream) };
    frame(header, &AnyRecord::from(call).encode(), &[])
}

/// The bytes that a call is answered with, or its error.
fn answer(peer: &mut RawPeer, stream: u64) -> Result<Vec<u8>, ErrorCode> {
    let mut bytes = Vec::new();
    loop {
        let frame = peer.next_frame().expect("an answer");
        if frame.header.stream != stream {
            continue;
        }
        match frame.header.known_kind() {
            Some(FrameKind::Result | FrameKind::Data) => bytes.extend_from_slice(&frame.payload),
            Some(FrameKind::Error) => return Err(ErrorCode::from_u32(frame.header.arg).unwrap()),
            other => panic!("{other:?}"),
        }
        if frame.header.flags & flags::MORE == 0 {
            return Ok(bytes);
        }
    }
}

/// Nothing of a case is left.
fn check(watch: &Watch, daemon: &mut Daemon, case: &str) {
    watch.check(daemon, case);
    eventually(case, || {
        let now = stats(watch.operator());
        now["memory_file_bytes"] == 0 && now["received_fds"] == 0
    });
}

/// Files that are no memory, and one that is.
fn others(daemon: &Daemon) -> Vec<(&'static str, OwnedFd)> {
    let (reader, _writer) = std::io::pipe().unwrap();
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut others: Vec<(&str, OwnedFd)> = vec![
        ("a pipe", reader.into()),
        ("a socket", near.into()),
        ("a directory", File::open(daemon.place().path(".")).unwrap().into()),
        ("a device", File::open("/dev/zero").unwrap().into()),
    ];
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    match memfd_create("huge", flags) {
        Ok(file) => {
            ftruncate(&file, 2 << 20).unwrap();
            others.push(("huge pages", file));
        }
        Err(error) => eprintln!("this machine makes no files of huge pages: {error}"),
    }
    others
}

#[test]
fn segments_that_are_not_what_they_were_said_to_be_end_their_connection() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let mut cases: Vec<(String, OwnedFd, u64)> = of_segments()
        .iter()
        .map(|lacking| (format!("without {lacking:?}"), memory(4096, of_segments() - lacking), 4096))
        .collect();
    cases.extend(others(&daemon).into_iter().map(|(what, fd)| (what.to_owned(), fd, 4096)));
    cases.push(("smaller".to_owned(), memory(4096, of_segments()), 8192));
    cases.push(("1 TiB of nothing".to_owned(), memory(TIB, of_segments()), 4096));
    cases.push(("1 TiB, and says so".to_owned(), memory(TIB, of_segments()), TIB));
    match File::options().read(true).write(true).create_new(true).open("/dev/shm/invoked-hostile") {
        Ok(file) => {
            std::fs::remove_file("/dev/shm/invoked-hostile").unwrap();
            file.set_len(4096).unwrap();
            cases.push(("a file that answers for its seals".to_owned(), file.into(), 4096));
        }
        Err(error) => eprintln!("there is no /dev/shm to try: {error}"),
    }
    for (case, fd, len) in cases {
        let peer = sending(&daemon);
        send(&peer, &introduction(len), &[fd.as_fd()]);
        assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::AttachmentRefused)), "{case}");
        check(&watch, &mut daemon, &case);
    }
    // One that is, and parts of it.
    let mut honest = sending(&daemon);
    let whole = memory(4096, of_segments());
    send(&honest, &introduction(4096), &[whole.as_fd()]);
    let at = |offset| Place::Pool { segment: 3, generation: 1, offset };
    honest.send(&call(1, 4096, at(0), 0));
    assert_eq!(answer(&mut honest, 1), Ok(vec![0; 4096]));
    assert_eq!(stats(watch.operator())["memory_file_bytes"], 4096);
    honest.send(&call(3, 1, at(4096), 0));
    assert_eq!(honest.end(), End::GoAway(Some(ErrorCode::AttachmentRefused)));
    check(&watch, &mut daemon, "beyond a segment");
    watch.finish(&mut daemon, "segments");
}

#[test]
fn files_that_are_not_what_they_were_said_to_be_end_their_call_alone() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let path = daemon.place().write("data", [7; 5000]);
    let opened = |flags| open(&path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let file = Place::File { fd: 0, offset: 0 };
    let seal = Place::Sealed { fd: 0 };
    let mut cases: Vec<(String, OwnedFd, u64, Place)> = sealed()
        .iter()
        .map(|lacking| (format!("without {lacking:?}"), memory(4096, sealed() - lacking), 4096, seal))
        .collect();
    for place in [file, seal] {
        let what = others(&daemon).into_iter().map(|(what, fd)| (what.to_owned(), fd, 4096, place));
        cases.extend(what);
    }
    cases.push(("a sealed one of another size".to_owned(), memory(4096, sealed()), 4097, seal));
    cases.push(("a sealed TiB".to_owned(), memory(TIB, sealed()), 4096, seal));
    cases.push(("a file as a sealed one".to_owned(), opened(OFlags::RDONLY), 5000, seal));
    cases.push(("a file that is shorter".to_owned(), opened(OFlags::RDONLY), 5001, file));
    cases.push(("one to be written".to_owned(), opened(OFlags::WRONLY), 5000, file));
    cases.push(("a mere path".to_owned(), opened(OFlags::PATH), 5000, file));
    let mut peer = sending(&daemon);
    let mut stream = 1;
    for (case, fd, len, place) in cases {
        send(&peer, &call(stream, len, place, 1), &[fd.as_fd()]);
        assert_eq!(answer(&mut peer, stream), Err(ErrorCode::AttachmentRefused), "{case}");
        stream += 2;
        // The same connection goes on, and what is sound is read.
        send(
            &peer,
            &call(stream, 4000, Place::File { fd: 0, offset: 1000 }, 1),
            &[opened(OFlags::RDONLY).as_fd()],
        );
        assert_eq!(answer(&mut peer, stream), Ok(vec![7; 4000]), "{case}");
        stream += 2;
    }
    let whole = memory(70_000, sealed());
    send(&peer, &call(stream, 70_000, seal, 1), &[whole.as_fd()]);
    assert_eq!(answer(&mut peer, stream), Ok(vec![0; 70_000]));
    // A sparse file costs its reader what is read of it, and no more.
    let sparse = memory(TIB, SealFlags::empty());
    let place = Place::File { fd: 0, offset: TIB / 2 };
    send(&peer, &call(stream + 2, 100_000, place, 1), &[sparse.as_fd()]);
    assert_eq!(answer(&mut peer, stream + 2), Ok(vec![0; 100_000]));
    // Two parts in one descriptor.
    let parts = vec![
        Part { codec: Codec::Raw, len: 10, place: file },
        Part { codec: Codec::Raw, len: 10, place: seal },
    ];
    let twice = Call { command: "bench.echo".into(), parts, ..Call::default() };
    let header = Header { codec: Codec::Raw, nfds: 1, ..Header::new(FrameKind::Call, stream + 4) };
    send(&peer, &frame(header, &AnyRecord::from(twice).encode(), &[]), &[opened(OFlags::RDONLY).as_fd()]);
    assert_eq!(answer(&mut peer, stream + 4), Err(ErrorCode::AttachmentRefused));
    drop(peer);
    check(&watch, &mut daemon, "files");
    watch.finish(&mut daemon, "files");
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_read_whole_or_refused() {
    // All of them: INVOKED_RACE_ROUNDS=100000.
    let rounds = std::env::var("INVOKED_RACE_ROUNDS").map_or(4000, |rounds| rounds.parse().unwrap());
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    const LEN: u64 = 200_000;
    let memory = memory(LEN, SealFlags::empty());
    let disk =
        File::options().read(true).write(true).create_new(true).open(daemon.place().path("cut")).unwrap();
    disk.set_len(LEN).unwrap();
    let files: [OwnedFd; 2] = [memory, disk.into()];
    let stop = Arc::new(AtomicBool::new(false));
    let cutter = std::thread::spawn({
        let (files, stop) = (files.each_ref().map(|file| file.try_clone().unwrap()), Arc::clone(&stop));
        move || {
            while !stop.load(Ordering::Relaxed) {
                for file in &files {
                    ftruncate(file, 0).unwrap();
                    ftruncate(file, LEN / 2).unwrap();
                    ftruncate(file, LEN).unwrap();
                }
            }
        }
    });
    let mut peer = sending(&daemon);
    let (mut whole, mut refused) = (0, 0);
    for round in 0..rounds {
        let stream = 2 * round + 1;
        let file = &files[usize::try_from(round % 2).unwrap()];
        send(&peer, &call(stream, LEN, Place::File { fd: 0, offset: 0 }, 1), &[file.as_fd()]);
        match answer(&mut peer, stream) {
            Ok(bytes) => {
                assert!(bytes.len() as u64 == LEN && bytes.iter().all(|byte| *byte == 0));
                whole += 1;
            }
            Err(code) => {
                assert_eq!(code, ErrorCode::AttachmentRefused);
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    cutter.join().unwrap();
    println!("{rounds} rounds: {whole} whole, {refused} refused");
    assert_eq!(whole + refused, rounds);
    assert!(refused > 0, "it is never cut in time");
    drop(peer);
    check(&watch, &mut daemon, "cut files");
    watch.finish(&mut daemon, "cut files");
}

/// Sends large bodies until it is killed.
pub(crate) fn sharer(address: &Address) {
    let client = Client::connect(options(address)).unwrap();
    let body = Bytes::from(vec![7; 3_000_000]);
    for round in 0.. {
        client.call("bench.echo").raw(body.clone()).send().unwrap();
        if round == 5 {
            say("sends");
        }
    }
}

#[test]
fn senders_that_die_in_the_middle_of_a_call_leave_nothing() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    for round in 0..5 {
        let mut sharers: Vec<_> = (0..3).map(|_| Other::start("sharer", daemon.place())).collect();
        for sharer in &mut sharers {
            assert_eq!(sharer.answer(), "sends");
        }
        assert!(stats(watch.operator())["memory_file_bytes"].as_u64().unwrap() >= 3 << 20);
        sharers.into_iter().for_each(Other::kill);
        check(&watch, &mut daemon, &format!("round {round}"));
    }
    watch.finish(&mut daemon, "killed senders");
}

#[test]
fn descriptors_that_no_frame_announces_or_that_are_cut_off_end_their_connection_alone() {
    let mut daemon = Start::dev().run();
    let watch = Watch::start(&daemon);
    let file = memory(10, SealFlags::empty());
    let peer = sending(&daemon);
    send(&peer, &frame(Header::new(FrameKind::Ping, 0), &[], &[]), &[file.as_fd()]);
    assert_eq!(peer.end(), End::GoAway(Some(ErrorCode::AttachmentRefused)));
    check(&watch, &mut daemon, "announced by none");

    // So few descriptors are left to the daemon that some of those that come are lost on the way.
    let mut peer = sending(&daemon);
    let limit = |files: &str| {
        let pid = format!("--pid={}", daemon.pid());
        let status = Command::new("prlimit").args([&pid, &format!("--nofile={files}:")]).status().unwrap();
        assert!(status.success());
    };
    limit(&(daemon.fds() + 3).to_string());
    let place = Place::File { fd: 0, offset: 0 };
    send(&peer, &call(1, 10, place, 16), &[file.as_fd(); 16]);
    assert_eq!(peer.next_frame().map(|frame| frame.header.kind), None, "it is closed");
    limit("4096");
    check(&watch, &mut daemon, "cut off");
    watch.finish(&mut daemon, "descriptors");
}

#[test]
fn descriptors_that_nothing_names_are_counted_and_closed() {
    let mut daemon = Start::dev().config("[quotas]\nreceived_fds_per_uid = 20").run();
    let watch = Watch::start(&daemon);
    let file = memory(10, SealFlags::empty());
    let mut peer = sending(&daemon);
    for round in 0..200_u64 {
        let stream = 2 * round + 1;
        send(&peer, &call(stream, 0, Place::Inline, 16), &[file.as_fd(); 16]);
        assert_eq!(answer(&mut peer, stream), Ok(Vec::new()), "round {round}");
    }
    drop(peer);
    check(&watch, &mut daemon, "named by nothing");
    watch.finish(&mut daemon, "named by nothing");
}
