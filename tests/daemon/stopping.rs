//! How the daemon stops, and how it takes a socket that another program opened for it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_client::{Delivery, Error, ErrorCode};
use invoked_proto::header::Header;
use invoked_proto::registry::{Codec, FrameKind, flags};
use invoked_proto::testing::{AnyRecord, frame};
use rustix::process::Signal;

use crate::harness::{Daemon, Start, eventually, stats};
use crate::peer::{End, RawPeer, json_frame, raw_call};

/// A call that is open until [`Held::release`]: its message is not whole.
struct Held {
    peer: RawPeer,
}

fn hold(daemon: &Daemon) -> Held {
    let mut peer = RawPeer::open(&daemon.place().socket());
    let header = Header { codec: Codec::Raw, flags: flags::MORE, ..Header::new(FrameKind::Call, 1) };
    peer.send(&frame(header, &AnyRecord::from(raw_call("bench.echo", 3)).encode(), b"on"));
    let client = daemon.client();
    eventually("the call is not open", || stats(&client)["calls_in_flight"] == 2);
    Held { peer }
}

impl Held {
    fn release(&mut self) {
        let header = Header { flags: flags::CONT, ..Header::new(FrameKind::Data, 1) };
        self.peer.send(&frame(header, &[], b"e"));
    }
}

#[test]
fn a_terminated_daemon_lets_open_calls_end_and_takes_no_new_ones() {
    let daemon = Start::dev().run();
    let idle = daemon.client();
    let mut held = hold(&daemon);
    daemon.signal(Signal::TERM);
    daemon.await_line(0, &["open calls may end"]);
    eventually("the socket is still there", || !daemon.place().socket().exists());
    let error = Client::connect(daemon.place().options()).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    // Whoever has no call open is told and let go; a call that it makes now was not delivered.
    let error = idle.call("core.ping").send().unwrap_err();
    assert!(error.is_unavailable() && error.delivery() == Delivery::NotDelivered, "{error}");

    let notice = held.peer.next_frame().unwrap();
    assert_eq!((notice.header.known_kind(), notice.header.arg), (Some(FrameKind::GoAway), 0));
    // A call that crosses the notice is not run.
    held.peer.send(&json_frame(3, "core.ping", b"{}"));
    held.release();
    let answer = held.peer.next_frame().unwrap();
    assert_eq!((answer.header.known_kind(), answer.header.stream), (Some(FrameKind::Result), 1));
    assert_eq!(&answer.payload[..], b"one");
    assert_eq!(held.peer.end(), End::Closed);
    let (exit, place) = daemon.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(!place.socket().exists());
}

#[test]
fn callers_at_work_while_the_daemon_stops_lose_nothing() {
    let daemon = Start::dev().run();
    let options = daemon.place().options();
    let start = |_| {
        let client = Client::connect(options.clone()).unwrap();
        std::thread::spawn(move || -> (u64, Error) {
            for sent in 0.. {
                let body = vec![3; (sent as usize * 977) % 60_000];
                match client.call("bench.echo").raw(body.clone()).send() {
                    Ok(reply) => assert_eq!(reply.bytes(), body),
                    Err(error) => return (sent, error),
                }
            }
            unreachable!("a number without end")
        })
    };
    let callers: Vec<_> = (0..8).map(start).collect();
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    for caller in callers {
        let (sent, error) = caller.join().unwrap();
        assert!(sent > 0);
        assert_eq!(error.code(), Some(ErrorCode::Unavailable), "{error}");
        // Calls that were taken are answered before the daemon stops; the last one was not taken.
        assert_eq!(error.delivery(), Delivery::NotDelivered, "{error}");
    }
    assert_eq!(daemon.wait().0.code, Some(0));
}

#[test]
fn calls_that_do_not_end_hold_the_daemon_no_longer_than_configured() {
    let daemon = Start::dev().config("[runtime]\ndrain_timeout_ms = 300\n").run();
    let held = hold(&daemon);
    daemon.signal(Signal::TERM);
    let (exit, place) = daemon.wait();
    assert_eq!(exit.code, Some(0));
    assert!(exit.stderr.contains("stopping while calls are open"), "{}", exit.stderr);
    assert!(!place.socket().exists());
    assert!(matches!(held.peer.end(), End::GoAway(None)), "told to go, and closed");
}

#[test]
fn peers_that_have_not_said_who_they_are_do_not_hold_a_stopping_daemon() {
    let config = "[runtime]\nhandshake_timeout_ms = 60000\ndrain_timeout_ms = 60000\n[quotas]\nhandshakes_per_uid = 1\n";
    let daemon = Start::dev().config(config).run();
    let client = daemon.client();
    // One has the only turn, the others wait for it.
    let silent: Vec<_> = (0..5).map(|_| RawPeer::connect(&daemon.place().socket())).collect();
    eventually("they are not all there", || stats(&client)["peers"] == 6);
    daemon.signal(Signal::TERM);
    let start = std::time::Instant::now();
    assert_eq!(daemon.wait().0.code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(20), "they held it for {:?}", start.elapsed());
    for peer in silent {
        assert!(matches!(peer.end(), End::Closed | End::Refused(..)));
    }
}

#[test]
fn a_second_interrupt_ends_a_daemon_that_drains() {
    let daemon = Start::dev().config("[runtime]\ndrain_timeout_ms = 60000\n").run();
    let _held = hold(&daemon);
    daemon.signal(Signal::INT);
    daemon.await_line(0, &["open calls may end"]);
    daemon.signal(Signal::INT);
    let (exit, place) = daemon.wait();
    assert_eq!(exit.code, Some(130));
    assert!(!place.socket().exists(), "its name went first");
}

#[test]
fn an_operator_can_stop_it_by_a_call() {
    let daemon = Start::plain().run();
    daemon.client().call("core.shutdown").send().expect("the call itself is answered");
    let (exit, place) = daemon.wait();
    assert_eq!(exit.code, Some(0));
    assert!(!place.socket().exists());
}

#[test]
fn a_socket_that_is_not_its_own_any_more_is_left_alone() {
    let daemon = Start::plain().run();
    let socket = daemon.place().socket();
    std::fs::remove_file(&socket).unwrap();
    let other = UnixListener::bind(&socket).unwrap();
    daemon.signal(Signal::TERM);
    let (exit, place) = daemon.wait();
    assert_eq!(exit.code, Some(0));
    assert!(place.socket().exists(), "another daemon's socket is gone");
    drop(other);
}

#[test]
fn an_inherited_socket_is_served_and_left_where_it_is() {
    let start = Start::dev();
    let directory = start.place().path("run");
    std::fs::create_dir(&directory).unwrap();
    let listener = UnixListener::bind(start.place().socket()).unwrap();
    // What systemd does: the socket is descriptor 3, and the variables name this process.
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 0</dev/null"]);
    let daemon = start.through(shell).stdin(OwnedFd::from(listener)).run();
    let address = daemon.place().address().to_string();
    assert!(daemon.ready_line().contains(&address), "{}", daemon.ready_line());
    daemon.client().ping().unwrap();
    daemon.signal(Signal::TERM);
    let (exit, place) = daemon.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(place.socket().exists(), "whoever made the socket removes it");
}
