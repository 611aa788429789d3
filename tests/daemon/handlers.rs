//! Handlers that fail: each call is answered, and the daemon lives. A daemon embedded in this process.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use invoked::Config;
use invoked::ipc::{
    Command, CommandArg, CommandItem, Invoke, InvokeMessage, InvokeResolver, Outcome, Response,
};
use invoked::transport::{Access, Listener};
use invoked_client::blocking::Client;
use invoked_client::{Delivery, ErrorCode};
use invoked_proto::registry::limits;
use serde_json::Value;

use crate::harness::{Place, eventually};

/// Something that handlers wait for.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

pub(crate) struct Embedded {
    // Before the place, whose socket it removes.
    running: Option<invoked::Running>,
    pub(crate) place: Place,
}

impl Embedded {
    pub(crate) fn start(config: Config, commands: Vec<Command>) -> Self {
        let place = Place::new();
        let listener = Listener::bind(&place.address(), Access::Owner).unwrap();
        let builder =
            invoked::Builder::default().config(config).dev(place.path("files")).invoke_handler(commands);
        let running = builder.serve(listener).unwrap();
        Embedded { running: Some(running), place }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.place.options()).unwrap()
    }
}

fn ok() -> Outcome {
    Ok(Response::json("done")?)
}

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("while being dropped");
    }
}

#[test]
fn a_handler_that_panics_answers_internal_and_the_daemon_lives() {
    let commands = vec![
        Command::inline("inline", |_| panic!("inline")),
        Command::blocking("pool", |_| panic!("pool")),
        Command::future("future", |_| async { panic!("future") }),
        Command::future("before_future", |_| -> std::future::Ready<Outcome> { panic!("before its future") }),
        Command::future("later", |_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            panic!("later")
        }),
        Command::inline_future("polled", |_| async { panic!("polled") }),
        Command::inline_future("before_polled", |_| -> std::future::Ready<Outcome> {
            panic!("before its future")
        }),
        Command::inline_future("moved", |_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            panic!("moved")
        }),
        Command::deferred("deferred", |_| panic!("deferred")),
    ];
    let names: Vec<_> = commands.iter().map(Command::name).collect();
    let daemon = Embedded::start(Config::default(), commands);
    let client = daemon.client();
    for _ in 0..20 {
        for name in &names {
            let error = client.call(name).send().unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::Internal), "{name}: {error}");
            assert_eq!(error.delivery(), Delivery::Delivered, "{name}");
        }
        client.ping().unwrap();
    }
    let stats = crate::harness::stats(&client);
    assert_eq!((&stats["calls_in_flight"], &stats["handlers_elsewhere"]), (&1.into(), &1.into()), "{stats}");
}

#[test]
fn a_future_that_panics_when_dropped_is_answered_as_it_ended() {
    let hold = |grenade: Grenade| async move {
        let _grenade = grenade;
        std::future::pending::<Outcome>().await
    };
    let commands = vec![
        Command::future("future", move |_| hold(Grenade)),
        Command::inline_future("polled", move |_| hold(Grenade)),
    ];
    let daemon = Embedded::start(Config::default(), commands);
    let client = daemon.client();
    for name in ["future", "polled"] {
        let error = client.call(name).timeout(Duration::from_millis(50)).send().unwrap_err();
        assert!(error.is_deadline(), "{name}: {error}");
    }
    client.ping().unwrap();
}

#[test]
fn a_resolver_that_is_dropped_answers_internal_and_one_kept_answers_later() {
    let kept: Arc<Mutex<Vec<InvokeResolver>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let commands = vec![
        Command::deferred("drop", drop),
        Command::deferred("drop_later", |invoke: Invoke| {
            std::thread::spawn(move || drop(invoke));
        }),
        Command::deferred("keep", move |invoke: Invoke| keep.lock().unwrap().push(invoke.resolver)),
    ];
    let daemon = Embedded::start(Config::default(), commands);
    let client = daemon.client();
    for name in ["drop", "drop_later"] {
        let error = client.call(name).send().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Internal), "{name}");
        assert!(error.to_string().contains("without an answer"), "{name}: {error}");
    }
    let asking = std::thread::spawn({
        let client = client.clone();
        move || client.invoke::<String>("keep", &()).unwrap()
    });
    eventually("the call is not there", || !kept.lock().unwrap().is_empty());
    client.ping().expect("nobody waits for it");
    kept.lock().unwrap().pop().unwrap().resolve("later");
    assert_eq!(asking.join().unwrap(), "later");
}

#[test]
fn a_body_is_parsed_as_deep_as_its_limit_and_no_deeper() {
    let take = Command::blocking("take", |message: &InvokeMessage| {
        Value::from_command(CommandItem { name: "take", key: "value", message })?;
        ok()
    });
    let daemon = Embedded::start(Config::default(), vec![take]);
    let client = daemon.client();
    // The body's object is one level of it.
    let nested = |depth: usize, open: &str, close: &str| {
        format!("{{\"value\":{}1{}}}", open.repeat(depth - 1), close.repeat(depth - 1))
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let call = |depth| client.call("take").json(nested(depth, open, close)).send();
        call(limits::MAX_JSON_DEPTH).unwrap_or_else(|error| panic!("{open} at the limit: {error}"));
        for depth in [limits::MAX_JSON_DEPTH + 1, 200, 1_000_000] {
            let error = call(depth).unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{open} {depth}: {error}");
            assert!(error.to_string().contains("recursion limit"), "{open} {depth}: {error}");
        }
    }
    // What no argument asks for is skipped and not parsed.
    let beside = format!("{{\"value\":1,\"other\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    client.call("take").json(beside).send().expect("skipped");
    client.ping().expect("the connection lives on");
}

#[test]
fn a_full_pool_answers_resource_exhausted_and_the_loop_goes_on() {
    let gate = Arc::new(Gate::default());
    let waiting = Arc::clone(&gate);
    let mut config = Config::default();
    (config.runtime.pool_threads, config.runtime.pool_queue) =
        (NonZeroU16::new(2).unwrap(), NonZeroU16::new(3).unwrap());
    let daemon = Embedded::start(
        config,
        vec![Command::blocking("wait", move |_| {
            waiting.wait();
            ok()
        })],
    );
    let client = daemon.client();
    let call = || {
        let client = client.clone();
        std::thread::spawn(move || client.call("wait").send())
    };
    let running: Vec<_> = (0..2).map(|_| call()).collect();
    eventually("two run", || gate.waiting.load(Ordering::SeqCst) == 2);
    let queued: Vec<_> = (0..3).map(|_| call()).collect();
    eventually("three wait", || crate::harness::stats(&client)["handlers_elsewhere"] == 6);
    for _ in 0..10 {
        let error = client.call("wait").send().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::ResourceExhausted), "{error}");
        assert_eq!(error.delivery(), Delivery::NotDelivered);
        client.ping().expect("the loop is not stuck");
    }
    gate.open();
    for call in running.into_iter().chain(queued) {
        call.join().unwrap().expect("those that were taken end well");
    }
    eventually("nothing is left", || crate::harness::stats(&client)["calls_in_flight"] == 1);
}

#[test]
fn an_inline_handler_that_holds_the_loop_runs_elsewhere_from_then_on() {
    let threads: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
    let seen = Arc::clone(&threads);
    let run = move |_: &InvokeMessage| {
        seen.lock().unwrap().push(std::thread::current().id());
        std::thread::sleep(Duration::from_millis(30));
        ok()
    };
    let where_is_the_loop: Arc<Mutex<Option<ThreadId>>> = Arc::default();
    let here = Arc::clone(&where_is_the_loop);
    let commands = vec![
        Command::inline("slow", run),
        Command::inline("quick", move |_| {
            *here.lock().unwrap() = Some(std::thread::current().id());
            ok()
        }),
    ];
    let daemon = Embedded::start(Config::default(), commands);
    let client = daemon.client();
    client.call("quick").send().unwrap();
    for _ in 0..6 {
        client.call("slow").send().unwrap();
    }
    client.call("quick").send().unwrap();
    let the_loop = where_is_the_loop.lock().unwrap().unwrap();
    let ran: Vec<bool> = threads.lock().unwrap().iter().map(|thread| *thread == the_loop).collect();
    // Once may be the machine's fault.
    assert_eq!((ran[0], ran[4], ran[5]), (true, false, false), "on the loop: {ran:?}");
}

#[test]
fn a_handler_whose_caller_left_is_told_and_charged_until_it_ends() {
    let gate = Arc::new(Gate::default());
    let waiting = Arc::clone(&gate);
    let daemon = Embedded::start(
        Config::default(),
        vec![Command::blocking("wait", move |message: &InvokeMessage| {
            waiting.wait();
            assert!(message.cancellation().is_cancelled(), "it was not told");
            ok()
        })],
    );
    let operator = daemon.client();
    let caller = daemon.client();
    let error = caller.call("wait").timeout(Duration::from_millis(50)).send().unwrap_err();
    assert!(error.is_deadline() && error.delivery() == Delivery::Delivered, "{error}");
    eventually("the handler runs", || gate.waiting.load(Ordering::SeqCst) == 1);
    drop(caller);
    eventually("the caller is gone", || crate::harness::stats(&operator)["peers"] == 1);
    assert_eq!(crate::harness::stats(&operator)["calls_in_flight"], 2, "its slot is charged until it ends");
    gate.open();
    eventually("the slot is free", || crate::harness::stats(&operator)["calls_in_flight"] == 1);
    assert_eq!(crate::harness::stats(&operator)["late_completions"], 1);
}

#[test]
fn an_embedded_daemon_that_is_dropped_stops_and_removes_its_socket() {
    let mut daemon = Embedded::start(Config::default(), vec![Command::inline("quick", |_| ok())]);
    let client = daemon.client();
    client.call("quick").send().unwrap();
    daemon.running.take().unwrap().shutdown().unwrap();
    assert!(!daemon.place.socket().exists());
    let error = client.call("quick").send().unwrap_err();
    assert!(error.is_unavailable() && error.delivery() == Delivery::NotDelivered, "{error}");
}
