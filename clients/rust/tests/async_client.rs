//! The async client against a daemon behind a real socket.

mod daemon;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use daemon::{Daemon, eventually};
use invoked_client::{Body, Client, Delivery, ErrorCode, Reconnect};
use tokio::task::JoinSet;

async fn connect(daemon: &Daemon) -> Client {
    Client::connect(daemon.options()).await.expect("the daemon answers")
}

/// Waits for something that another thread does, while this runtime's tasks go on.
async fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn bodies_attachments_and_headers_come_back() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let call =
        client.call("test.echo").arg("name", "x").attach(vec![1, 2, 3]).attach("").header("trace-id", "abc");
    let reply = call.send().await.expect("echoed");
    assert_eq!(reply.body(), &Body::Json(Bytes::from_static(b"{\"name\":\"x\"}")));
    assert_eq!(reply.attachments(), [Bytes::from_static(&[1, 2, 3]), Bytes::new()]);
    assert_eq!(reply.header("trace-id"), Some("abc"));
    let pair: (u8, String) = client.invoke("test.echo", &(1, "a")).await.expect("echoed");
    assert_eq!(pair, (1, "a".to_owned()));
    client.ping().await.expect("there");
    assert_eq!(client.whoami().await.expect("known")["uid"], 0);
}

#[tokio::test]
async fn fifty_mebibytes_go_both_ways() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let body: Vec<u8> = (0..50 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let body = Bytes::from(body);
    let reply = client.call("test.echo").raw(body.clone()).send().await.expect("echoed");
    assert!(reply.into_bytes() == body, "the same bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_on_many_threads_get_each_answer_once() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let mut tasks = JoinSet::new();
    for task in 0..64_u32 {
        let client = client.clone();
        tasks.spawn(async move {
            for call in 0..300_u32 {
                let echoed: (u32, u32) = client.invoke("test.echo", &(task, call)).await.expect("echoed");
                assert_eq!(echoed, (task, call));
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic");
    }
    assert_eq!(daemon.calls(), 64 * 300);
}

#[tokio::test]
async fn large_calls_in_flight_together_do_not_block_each_other() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let mut tasks = JoinSet::new();
    for task in 0..8_u8 {
        let client = client.clone();
        tasks.spawn(async move {
            let body = Bytes::from(vec![task; 3 << 20]);
            let reply = client.call("test.echo").raw(body.clone()).send().await.expect("echoed");
            assert!(reply.into_bytes() == body);
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic");
    }
}

#[tokio::test]
async fn dropping_a_call_cancels_it_at_the_daemon() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let never = client.clone();
    let call = tokio::spawn(async move { never.call("test.never").send().await });
    soon("the call is there", || daemon.calls() == 1).await;
    call.abort();
    assert!(call.await.expect_err("aborted").is_cancelled());
    soon("the daemon is told", || daemon.cancels() == 1).await;
    client.ping().await.expect("the connection is as good as before");
}

#[tokio::test]
async fn a_call_that_is_polled_once_and_left_stops_nobody() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let mut left = pin!(client.call("test.late").send());
    let first = left.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending());
    for _ in 0..10 {
        client.ping().await.expect("answered");
    }
    left.await.expect("answered as well");
}

#[tokio::test]
async fn a_call_that_was_never_polled_is_never_sent() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    drop(client.call("test.echo").send());
    client.ping().await.expect("there");
    assert_eq!((daemon.calls(), daemon.cancels()), (1, 0));
}

#[tokio::test]
async fn a_deadline_is_sent_and_kept() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let reply = client.call("test.deadline").timeout(Duration::from_secs(3)).send().await.expect("asked");
    assert!((1..=3_000_000).contains(&reply.json::<u64>().expect("a number")));
    let error = client.call("test.never").timeout(Duration::from_millis(30)).send().await.expect_err("late");
    assert_eq!((error.is_deadline(), error.delivery()), (true, Delivery::Delivered));
    soon("the daemon is told", || daemon.cancels() == 1).await;
    let error = client.call("test.echo").timeout(Duration::ZERO).send().await.expect_err("late");
    assert_eq!((error.is_deadline(), error.delivery()), (true, Delivery::NotDelivered));
    client.ping().await.expect("the connection is as good as before");
}

#[tokio::test]
async fn errors_say_who_failed_and_how() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let error = client.call("test.fail").send().await.expect_err("fails");
    assert_eq!(error.json::<serde_json::Value>().expect("json")["kind"], "gone");
    let error = client.call("test.denied").send().await.expect_err("denied");
    assert!(error.is_permission_denied());
    let error = client.call("test.echo").raw(vec![0; (64 << 20) + 1]).send().await.expect_err("too large");
    assert_eq!(error.code(), Some(ErrorCode::TooLarge));
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_for_a_slot() {
    let daemon = Daemon::start_with_limit(2);
    let client = connect(&daemon).await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        tasks.spawn(async move { client.call("test.echo").send().await });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic").expect("never refused");
    }
    for _ in 0..6 {
        let error =
            client.call("test.never").timeout(Duration::from_millis(5)).send().await.expect_err("late");
        assert!(error.is_deadline());
    }
    // A caller that gives up while it waits for a slot takes none with it.
    let hold = [client.call("test.late").send(), client.call("test.late").send()];
    let mut hold = hold.map(Box::pin);
    let mut context = Context::from_waker(Waker::noop());
    for call in &mut hold {
        assert!(matches!(call.as_mut().poll(&mut context), Poll::Pending));
    }
    let error = client.call("test.echo").timeout(Duration::from_millis(5)).send().await.expect_err("no slot");
    assert_eq!((error.is_deadline(), error.delivery()), (true, Delivery::NotDelivered));
    for call in hold {
        call.await.expect("answered");
    }
    client.ping().await.expect("a slot is free");
}

#[tokio::test]
async fn a_dying_daemon_ends_a_hundred_calls_with_a_verdict() {
    let mut daemon = Daemon::start();
    let client = connect(&daemon).await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        tasks.spawn(async move { client.call("test.never").send().await });
    }
    soon("all are there", || daemon.calls() == 100).await;
    daemon.kill();
    while let Some(result) = tasks.join_next().await {
        let error = result.expect("no panic").expect_err("lost");
        assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::Delivered));
    }
    assert!(!client.is_connected());
    let error = client.call("test.echo").send().await.expect_err("nobody is there");
    assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::NotDelivered));
}

#[tokio::test]
async fn reconnecting_is_visible_and_sends_again_only_what_is_safe() {
    let mut daemon = Daemon::start();
    let explicit = connect(&daemon).await;
    let automatic = Client::connect(daemon.options().reconnect(Reconnect::Automatic)).await.expect("there");
    let resending =
        Client::connect(daemon.options().reconnect(Reconnect::AutomaticResend)).await.expect("there");
    let instance = explicit.daemon_instance();
    daemon.restart();
    soon("the loss is noticed", || !explicit.is_connected() && !automatic.is_connected()).await;
    assert!(explicit.ping().await.expect_err("lost").is_unavailable());
    explicit.reconnect().await.expect("the daemon is back");
    explicit.ping().await.expect("connected");
    assert_eq!(explicit.generation(), 2);
    assert_ne!(explicit.daemon_instance(), instance);
    automatic.ping().await.expect("connects first");

    let error = automatic.call("test.die").idempotent().send().await.expect_err("lost in mid-call");
    assert_eq!(error.delivery(), Delivery::Delivered);
    let before = daemon.calls();
    resending.call("test.die").send().await.expect_err("what may have run is not sent again");
    assert_eq!(daemon.calls(), before + 1);
    resending.call("test.die").idempotent().send().await.expect_err("lost twice");
    assert_eq!(daemon.calls(), before + 3);
}

#[tokio::test]
async fn tasks_that_find_the_same_loss_make_one_connection() {
    let mut daemon = Daemon::start();
    let client = Client::connect(daemon.options().reconnect(Reconnect::Automatic)).await.expect("there");
    daemon.restart();
    soon("the loss is noticed", || !client.is_connected()).await;
    let before = daemon.connections();
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        tasks.spawn(async move { client.ping().await });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic").expect("connected");
    }
    assert_eq!((daemon.connections() - before, client.generation()), (1, 2));
}

#[tokio::test]
async fn a_draining_daemon_gets_no_new_calls_and_finishes_the_old() {
    let daemon = Daemon::start();
    let client = connect(&daemon).await;
    let late = client.clone();
    let late = tokio::spawn(async move { late.call("test.late").send().await });
    soon("it is there", || daemon.calls() == 1).await;
    client.call("test.drain").send().await.expect("drains");
    let error = client.call("test.echo").send().await.expect_err("draining");
    assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::NotDelivered));
    late.await.expect("no panic").expect("finished");
}

#[test]
fn a_client_outlives_its_runtime_without_hanging() {
    let daemon = Daemon::start();
    let first = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let client = Arc::new(first.block_on(connect(&daemon)));
    let second = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    second.block_on(client.ping()).expect("another runtime may call");
    let waiting = Arc::clone(&client);
    let call = std::thread::spawn(move || second.block_on(waiting.call("test.never").no_timeout().send()));
    eventually("the call is there", || daemon.calls() == 2);
    drop(first);
    let error = call.join().expect("no panic").expect_err("nobody reads any more");
    assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::Delivered));
    assert!(!client.is_connected());
}

#[test]
fn the_last_clone_closes_the_connection() {
    let daemon = Daemon::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = connect(&daemon).await;
        client.ping().await.expect("there");
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1, "the driver");
        drop(client);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    });
}
