//! The blocking client against a daemon behind a real socket.

mod daemon;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use daemon::{Daemon, eventually};
use invoked_client::blocking::Client;
use invoked_client::{Body, Delivery, ErrorCode, Reconnect};

fn connect(daemon: &Daemon) -> Client {
    Client::connect(daemon.options()).expect("the daemon answers")
}

#[test]
fn bodies_attachments_and_headers_come_back() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    let reply = client
        .call("test.echo")
        .arg("name", "x")
        .attach(vec![1, 2, 3])
        .attach("")
        .header("trace-id", "abc")
        .send()
        .expect("echoed");
    assert_eq!(reply.body(), &Body::Json(Bytes::from_static(b"{\"name\":\"x\"}")));
    assert_eq!(reply.attachments(), [Bytes::from_static(&[1, 2, 3]), Bytes::new()]);
    assert_eq!(reply.header("trace-id"), Some("abc"));

    let reply = client.call("test.echo").raw(vec![0xff; 64]).send().expect("echoed");
    assert_eq!(reply.into_bytes(), vec![0xff; 64]);
    assert_eq!(client.call("test.echo").send().expect("echoed").body(), &Body::None);
    let sum: Vec<u32> = client.invoke("test.echo", &[1, 2]).expect("echoed");
    assert_eq!(sum, [1, 2]);
    client.ping().expect("there");
    assert_eq!(client.whoami().expect("known")["uid"], 0);
}

#[test]
fn fifty_mebibytes_go_both_ways() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    let body: Vec<u8> = (0..50 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let body = Bytes::from(body);
    let reply = client.call("test.echo").raw(body.clone()).send().expect("echoed");
    assert!(reply.into_bytes() == body, "the same bytes");
}

#[test]
fn large_calls_of_many_threads_do_not_block_each_other() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let client = &client;
            scope.spawn(move || {
                for size in [3 << 20, 10, 1 << 20] {
                    let body = Bytes::from(vec![thread; size]);
                    let reply = client.call("test.echo").raw(body.clone()).send().expect("echoed");
                    assert!(reply.into_bytes() == body);
                }
            });
        }
    });
}

#[test]
fn sixty_four_threads_get_each_answer_once() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..64_u32 {
            let (client, answered) = (&client, &answered);
            scope.spawn(move || {
                for call in 0..1000_u32 {
                    let echoed: (u32, u32) = client.invoke("test.echo", &(thread, call)).expect("echoed");
                    assert_eq!(echoed, (thread, call));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!((answered.into_inner(), daemon.calls()), (64_000, 64_000));
}

#[test]
fn errors_say_who_failed_and_how() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    let error = client.call("test.fail").send().expect_err("fails");
    assert!(error.is_application());
    assert_eq!(error.json::<serde_json::Value>().expect("json")["kind"], "gone");
    let error = client.call("test.denied").send().expect_err("denied");
    assert!(error.is_permission_denied());
    assert_eq!((error.decision(), error.delivery()), (Some("d-1"), Delivery::NotDelivered));
    assert!(client.call("test.unknown").send().expect_err("unknown").is_not_found());
    let error = client.call("test.echo").raw(vec![0; (64 << 20) + 1]).send().expect_err("too large");
    assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::TooLarge), Delivery::NotDelivered));
    let error = client.call("test.echo").header("Upper", "x").send().expect_err("a bad key");
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument));
    client.ping().expect("the connection is as good as before");
}

#[test]
fn a_deadline_is_sent_and_kept() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    let left: u64 = client
        .call("test.deadline")
        .timeout(Duration::from_secs(3))
        .send()
        .expect("asked")
        .json()
        .expect("a number");
    assert!((1..=3_000_000).contains(&left), "{left}");
    let left: u64 =
        client.call("test.deadline").no_timeout().send().expect("asked").json().expect("a number");
    assert_eq!(left, u64::MAX);

    let error = client.call("test.never").timeout(Duration::from_millis(30)).send().expect_err("late");
    assert!(error.is_deadline());
    assert_eq!(error.delivery(), Delivery::Delivered);
    client.ping().expect("the connection is as good as before");
    eventually("the daemon is told", || daemon.cancels() == 1);
    let error = client.call("test.echo").timeout(Duration::ZERO).send().expect_err("late");
    assert_eq!((error.is_deadline(), error.delivery()), (true, Delivery::NotDelivered));
}

#[test]
fn a_follower_s_deadline_passes_while_another_thread_reads() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| client.call("test.hold").send());
        eventually("the first call is there", || daemon.calls() == 1);
        let error = client.call("test.never").timeout(Duration::from_millis(30)).send().expect_err("late");
        assert!(error.is_deadline());
        client.call("test.release").send().expect("released");
        leader.join().expect("no panic").expect("answered");
    });
}

#[test]
fn calls_beyond_the_limit_wait_for_a_slot() {
    let daemon = Daemon::start_with_limit(2);
    let client = connect(&daemon);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    client.call("test.echo").arg("x", 1).send().expect("never refused");
                }
            });
        }
    });
    assert_eq!(daemon.calls(), 800);
    // Slots of calls that were given up come back when the daemon has ended them.
    for _ in 0..6 {
        let error = client.call("test.never").timeout(Duration::from_millis(5)).send().expect_err("late");
        assert!(error.is_deadline());
    }
    client.ping().expect("a slot is free");
}

#[test]
fn a_dying_daemon_ends_a_hundred_calls_with_a_verdict() {
    let mut daemon = Daemon::start();
    let client = connect(&daemon);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..100).map(|_| scope.spawn(|| client.call("test.never").send())).collect();
        eventually("all are there", || daemon.calls() == 100);
        daemon.kill();
        for call in calls {
            let error = call.join().expect("no panic").expect_err("lost");
            assert!(error.is_unavailable() && error.is_retryable());
            assert_eq!(error.delivery(), Delivery::Delivered);
        }
    });
    assert!(!client.is_connected());
    let error = client.call("test.echo").send().expect_err("nobody is there");
    assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::NotDelivered));
}

#[test]
fn a_lost_connection_is_renewed_only_when_asked() {
    let mut daemon = Daemon::start();
    let client = connect(&daemon);
    let instance = client.daemon_instance();
    assert_eq!((client.generation(), client.info().peer), (1, 7));
    daemon.restart();
    assert!(client.call("test.echo").send().expect_err("lost").is_unavailable());
    assert!(client.call("test.echo").send().expect_err("still lost").is_unavailable());
    assert_eq!((client.is_connected(), daemon.connections()), (false, 1));
    client.reconnect().expect("the daemon is back");
    client.ping().expect("connected");
    assert!(client.is_connected());
    assert_eq!(client.generation(), 2);
    assert_ne!(client.daemon_instance(), instance);
}

#[test]
fn reconnecting_by_itself_sends_again_only_what_is_safe() {
    let mut daemon = Daemon::start();
    let automatic = Client::connect(daemon.options().reconnect(Reconnect::Automatic)).expect("there");
    let resending = Client::connect(daemon.options().reconnect(Reconnect::AutomaticResend)).expect("there");
    daemon.restart();
    assert!(automatic.ping().expect_err("this call finds the loss").is_unavailable());
    automatic.ping().expect("the next one connects");
    resending.ping().expect("nothing had been delivered");
    assert_eq!((automatic.generation(), resending.generation()), (2, 2));

    let before = daemon.calls();
    let error = resending.call("test.die").send().expect_err("lost in mid-call");
    assert_eq!(error.delivery(), Delivery::Delivered);
    assert_eq!(daemon.calls(), before + 1, "what may have run is not sent again");
    resending.ping().expect("the next call connects");
    assert_eq!(resending.generation(), 3);

    let before = daemon.calls();
    resending.call("test.die").idempotent().send().expect_err("lost twice");
    assert_eq!(daemon.calls(), before + 2, "an idempotent call is sent again, once");
    assert_eq!(resending.generation(), 4);
}

#[test]
fn a_draining_daemon_gets_no_new_calls_and_finishes_the_old() {
    let daemon = Daemon::start();
    let client = connect(&daemon);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| client.call("test.late").send());
        eventually("it is there", || daemon.calls() == 1);
        client.call("test.drain").send().expect("drains");
        let error = client.call("test.echo").send().expect_err("draining");
        assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::NotDelivered));
        assert!(error.to_string().contains("restarting"), "{error}");
        held.join().expect("no panic").expect("finished");
    });
    let started = Instant::now();
    assert!(!client.is_connected());
    assert!(started.elapsed() < Duration::from_secs(3), "looking does not wait");
}
