//! Ends that come from outside: callers and handlers that ignore them, processes that are killed. A daemon embedded in this
//! process, with real processes as its peers, and one that is killed itself.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use invoked::Config;
use invoked::ipc::{Channel, ChannelItem, ChannelReader, ChannelSource, Command, InvokeMessage, Response};
use invoked_client::blocking::Client;
use invoked_client::{Address, Delivery, ErrorCode};
use invoked_proto::header::Header;
use invoked_proto::metadata::{Call, ChannelDeclaration, Part};
use invoked_proto::registry::{Codec, Direction, FrameKind};
use invoked_proto::testing::{AnyRecord, frame};
use serde_json::Value;

use crate::child::{Other, code_of, options, say};
use crate::handlers::Embedded;
use crate::harness::{HANG, Start, eventually, stats};
use crate::peer::RawPeer;

/// The bytes of a call that are charged while its handler has them.
const BODY: usize = 100_000;

/// A handler that works on whatever happens, until it is let go; how many are at it.
fn deaf(free: &Arc<AtomicBool>, at_it: &Arc<AtomicUsize>) -> Command {
    let (free, at_it) = (Arc::clone(free), Arc::clone(at_it));
    Command::blocking("deaf", move |_: &InvokeMessage| {
        at_it.fetch_add(1, Ordering::SeqCst);
        while !free.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        at_it.fetch_sub(1, Ordering::SeqCst);
        Ok(Response::json("too late")?)
    })
}

/// Calls `deaf` as its input says: with a short deadline, or cancelled at the next line, or held until it is killed.
pub(crate) fn impatient(address: &Address) {
    let client = Client::connect(options(address)).unwrap();
    let mut order = String::new();
    while std::io::stdin().read_line(&mut order).unwrap() > 0 {
        let call = client.call("deaf").raw(vec![7; BODY]);
        match order.trim_end() {
            "deadline" => {
                let error = call.timeout(Duration::from_secs(1)).send().unwrap_err();
                say(format!("{} {:?}", code_of(&error), error.delivery()));
            }
            "cancel" => {
                let call = call.start().unwrap();
                say("started");
                std::io::stdin().read_line(&mut order).unwrap();
                drop(call);
                // What ends a call whose caller has left it is read with any answer.
                client.ping().unwrap();
                say("cancelled");
            }
            "hold" => {
                let held = call.no_timeout().start().unwrap();
                client.ping().unwrap();
                say("held");
                std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
                drop(held);
            }
            other => panic!("{other}"),
        }
        order.clear();
    }
}

#[test]
fn callers_of_handlers_that_ignore_their_end_are_let_go_and_the_work_stays_charged_until_it_ends() {
    let (free, at_it) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let daemon = Embedded::start(Config::default(), vec![deaf(&free, &at_it)]);
    let operator = daemon.client();
    let held = |calls: usize| {
        let stats = stats(&operator);
        // The operator's own question is a call too.
        stats["calls_in_flight"] == calls + 1
            && stats["message_bytes"].as_u64() >= Some((calls * BODY) as u64)
    };
    let mut caller = Other::start("impatient", &daemon.place);
    assert_eq!(caller.ask("deadline"), "deadline_exceeded Delivered");
    assert_eq!(at_it.load(Ordering::SeqCst), 1, "a second is time enough to begin");
    assert!(held(1), "the work of a call past its deadline is charged: {}", stats(&operator));
    assert_eq!(caller.ask("cancel"), "started");
    eventually("a second is at it", || at_it.load(Ordering::SeqCst) == 2);
    assert_eq!(caller.ask("now"), "cancelled");
    assert!(held(2), "that of one that was cancelled is: {}", stats(&operator));
    assert_eq!(caller.ask("hold"), "held");
    eventually("a third is at it", || held(3) && at_it.load(Ordering::SeqCst) == 3);
    caller.kill();
    eventually("its caller is gone", || stats(&operator)["peers"] == 1);
    assert!(held(3), "that of one whose caller is dead, too: {}", stats(&operator));
    assert_eq!(stats(&operator)["abandoned"], 3);
    free.store(true, Ordering::SeqCst);
    eventually("all is given back with its end", || {
        let stats = stats(&operator);
        stats["calls_in_flight"] == 1 && stats["message_bytes"].as_u64() < Some(BODY as u64)
    });
    assert_eq!(stats(&operator)["late_completions"], 3);
}

/// Opens a channel each way, takes one item, sends one, and then does nothing more.
pub(crate) fn receiver(address: &Address) {
    let client = Client::connect(options(address)).unwrap();
    let (call, mut items) = client.call("both").no_timeout().channel("down");
    let (call, mut sender) = call.channel_to("up");
    let call = call.start().unwrap();
    sender.send_raw(&b"up"[..]).unwrap();
    say(format!("took {}", items.next().unwrap().unwrap().bytes().len()));
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop((call, items, sender));
}

#[test]
fn a_handler_learns_at_once_that_its_peer_was_killed() {
    let (tell, told) = mpsc::channel();
    // It sends more than every window takes, so that it waits when its peer dies; and it reads on.
    let both = Command::blocking("both", move |message: &InvokeMessage| {
        let down: Channel<Vec<u8>> = message.channel(1)?;
        let mut up: ChannelReader<ChannelItem> = message.channel_reader(2)?;
        let tell = tell.clone();
        let sending = tell.clone();
        std::thread::spawn(move || {
            let code = loop {
                match down.send(vec![7; 10_000]) {
                    Ok(()) => {}
                    Err(invoked::Error::Channel(invoked::ipc::SendError::Closed { code })) => break code,
                    Err(error) => panic!("{error}"),
                }
            };
            // Whatever is sent from now on fails without waiting.
            assert!((0..100).all(|_| down.send(vec![0]).is_err() && down.is_closed()));
            sending.send(("sending", code)).unwrap();
        });
        std::thread::spawn(move || {
            assert_eq!(up.recv().unwrap().unwrap().body.bytes(), b"up");
            let Some(Err(invoked::ipc::RecvError::Closed { code, .. })) = up.recv() else { panic!("an end") };
            tell.send(("reading", code)).unwrap();
        });
        Ok(Response::json("it goes on")?)
    });
    let daemon = Embedded::start(Config::default(), vec![both]);
    let operator = daemon.client();
    let mut peer = Other::start("receiver", &daemon.place);
    assert_eq!(peer.answer(), "took 10000");
    // A sender that waits is woken when half of what may wait has gone, so more than half may be all that there is.
    eventually("the sender waits", || stats(&operator)["item_bytes"].as_u64() > Some(32 * 1024));
    assert!(told.try_recv().is_err(), "nothing has ended");
    peer.kill();
    let mut ends = [told.recv_timeout(HANG).unwrap(), told.recv_timeout(HANG).unwrap()];
    ends.sort_unstable_by_key(|(who, _)| *who);
    assert_eq!(ends, [("reading", ErrorCode::Unavailable), ("sending", ErrorCode::Unavailable)]);
    eventually("nothing is left", || {
        let stats = stats(&operator);
        (&stats["channels"], &stats["item_bytes"], &stats["peers"]) == (&0.into(), &0.into(), &1.into())
    });
}

#[test]
fn a_caller_learns_at_once_that_the_daemon_it_sends_to_was_killed() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let (call, mut sender) = client.call("bench.collect").no_timeout().channel_to("from");
    let (other, mut items) =
        client.call("bench.count").arg("items", 1_u64 << 40).arg("size", 100).channel("to");
    let (call, other) = (call.start().unwrap(), other.no_timeout().start().unwrap());
    sender.send_raw(vec![7; 1000]).unwrap();
    assert_eq!(items.next().unwrap().unwrap().bytes().len(), 100);
    daemon.kill();
    // What is in the socket already may still come; then each says how it ended.
    let end = items.find_map(Result::err).expect("the channel ends badly");
    assert_eq!(end.code(), Some(ErrorCode::Unavailable), "{end}");
    let error = sender.send_raw(vec![7; 1000]).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unavailable), "{error}");
    for call in [call, other] {
        let error = call.wait().unwrap_err();
        assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::Unavailable), Delivery::Delivered));
    }
}

#[test]
fn a_handler_that_ends_with_an_error_stops_who_sends_to_it() {
    let fail = Command::blocking("fail", |message: &InvokeMessage| {
        let mut up: ChannelReader<ChannelItem> = message.channel_reader(1)?;
        drop(up.recv());
        panic!("in the middle of it")
    });
    let daemon = Embedded::start(Config::default(), vec![fail]);
    let client = daemon.client();
    let (call, mut sender) = client.call("fail").channel_to("up");
    let call = call.start().unwrap();
    let error = loop {
        if let Err(error) = sender.send_raw(vec![7; 100_000]) {
            break error;
        }
    };
    assert!(matches!(error.code(), Some(ErrorCode::Cancelled | ErrorCode::Internal)), "{error}");
    assert_eq!(call.wait().unwrap_err().code(), Some(ErrorCode::Internal));
    client.invoke::<Value>("core.ping", &Value::Null).unwrap();
}

#[test]
fn a_sender_to_a_peer_that_reads_nothing_is_told_when_that_is_disconnected() {
    let (tell, told) = mpsc::channel();
    let flood = Command::blocking("flood", move |message: &InvokeMessage| {
        let down: Channel<Vec<u8>> = message.channel(1)?;
        let code = loop {
            match down.send(vec![7; 10_000]) {
                Ok(()) => {}
                Err(invoked::Error::Channel(invoked::ipc::SendError::Closed { code })) => break code,
                Err(error) => panic!("{error}"),
            }
        };
        tell.send(code).unwrap();
        Ok(Response::json("nobody reads it")?)
    });
    let mut config = Config::default();
    config.runtime.slow_consumer_timeout_ms = 500;
    let daemon = Embedded::start(config, vec![flood]);
    let operator = daemon.client();
    let mut peer = RawPeer::open_with_channels(&daemon.place.socket());
    let call = Call {
        command: "flood".into(),
        channels: vec![ChannelDeclaration { index: 1, direction: Direction::Down, credit: 1 << 40 }],
        parts: vec![Part::inline(Codec::None, 0)],
        ..Call::default()
    };
    peer.send(&frame(Header::new(FrameKind::Call, 1), &AnyRecord::from(call).encode(), &[]));
    assert_eq!(told.recv_timeout(HANG).unwrap(), ErrorCode::Unavailable);
    eventually("nothing is left", || {
        let stats = stats(&operator);
        (&stats["channels"], &stats["item_bytes"], &stats["peers"]) == (&0.into(), &0.into(), &1.into())
    });
}
