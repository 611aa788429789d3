//! Threads call, take items, send some and leave, all on one connection.

use std::time::Duration;

use invoked_proto::registry::{Delivery, ErrorCode};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, MaxSteps, Runner};

use crate::blocking::Client;
use crate::daemon::{ITEMS, Saw, serve};
use crate::dial::connect_to;
use crate::options::Options;
use crate::parking::forget_all;
use crate::socket::pair;

/// Schedules of each kind for each test.
const SCHEDULES: usize = 300;

/// How many times a schedule of the second kind takes the turn from a thread that would go on.
const CHANGES: usize = 3;

/// Runs `test` under chance, and under priorities that change a few times (PCT).
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = std::sync::Arc::new(test);
    let once = std::sync::Arc::clone(&test);
    let config = || {
        let mut config = Config::new();
        config.stack_size = 0x4_0000;
        config.max_steps = MaxSteps::FailAfter(100_000);
        config
    };
    Runner::new(RandomScheduler::new(SCHEDULES), config()).run(move || once());
    Runner::new(PctScheduler::new(CHANGES, SCHEDULES), config()).run(move || test());
}

/// A client and the daemon that it talks to, which lets it have so many calls open and dies after so many answers.
fn connect(slots: u64, lives: usize) -> (Client, JoinHandle<Saw>) {
    let (near, far) = pair();
    forget_all();
    connect_to(near);
    let daemon = thread::spawn(move || serve(far, slots, lives));
    let options = Options::new().busy_poll(Duration::ZERO).no_timeout();
    (Client::connect(options).unwrap(), daemon)
}

fn body(thread: usize, call: usize) -> Vec<u8> {
    // Now and then more than the socket takes at once.
    vec![u8::try_from(thread * 16 + call).unwrap(); if call == 1 { 300 } else { 3 }]
}

#[test]
fn each_thread_gets_its_own_answers() {
    for slots in [1, 2, 16] {
        explore(move || {
            let (client, daemon) = connect(slots, usize::MAX);
            let callers: Vec<_> = (0..3)
                .map(|at| {
                    let client = client.clone();
                    thread::spawn(move || {
                        for call in 0..2 {
                            let reply = client.call("a.echo").raw(body(at, call)).send().unwrap();
                            assert_eq!(reply.bytes(), body(at, call));
                        }
                    })
                })
                .collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            drop(client);
            let saw = daemon.join().unwrap();
            assert_eq!((saw.calls, saw.cancels), (6, 0));
        });
    }
}

#[test]
fn a_slot_that_is_free_is_taken_while_another_thread_reads_on() {
    explore(|| {
        let (client, daemon) = connect(2, usize::MAX);
        // Its answer comes after those of the others, of which one at a time has a slot.
        let calls = ["a.last", "a.echo", "a.echo", "a.echo"];
        let callers = calls.map(|command| {
            let client = client.clone();
            thread::spawn(move || {
                assert_eq!(client.call(command).raw(body(0, 0)).send().unwrap().bytes(), body(0, 0))
            })
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        drop(client);
        assert_eq!(daemon.join().unwrap().calls, 4);
    });
}

#[test]
fn threads_take_items_and_send_some_while_another_calls() {
    explore(|| {
        let (client, daemon) = connect(16, usize::MAX);
        let (call, items) = client.call("a.both").raw(body(0, 0)).open_channel();
        let (call, mut sender) = call.open_channel_to();
        let call = call.start().unwrap();
        let taking = thread::spawn(move || {
            let came: Vec<usize> = items.map(|item| item.unwrap().bytes().len()).collect();
            assert_eq!(came, (1..=ITEMS).rev().collect::<Vec<_>>());
        });
        let sending = thread::spawn(move || {
            (1..=3).for_each(|len| sender.send_raw(vec![7; len]).unwrap());
            sender.close();
        });
        let other = client.call("a.echo").raw(body(1, 1)).send().unwrap();
        assert_eq!(other.bytes(), body(1, 1));
        assert_eq!(call.wait().unwrap().bytes(), body(0, 0));
        taking.join().unwrap();
        sending.join().unwrap();
        // What it has said must have gone out before it leaves.
        client.call("a.echo").send().unwrap();
        drop(client);
        let saw = daemon.join().unwrap();
        assert_eq!((saw.items, saw.ends), (vec![1, 2, 3], vec![None]));
    });
}

#[test]
fn who_leaves_a_call_or_a_channel_holds_up_nobody() {
    explore(|| {
        let (client, daemon) = connect(2, usize::MAX);
        let left = client.call("a.echo").raw(body(0, 0)).start().unwrap();
        let (call, items) = client.call("a.items").raw(body(1, 0)).open_channel();
        let call = call.start().unwrap();
        let leaving = [thread::spawn(move || drop(left)), thread::spawn(move || drop(items))];
        let caller = {
            let client = client.clone();
            thread::spawn(move || client.call("a.echo").raw(body(2, 1)).send().unwrap().bytes().len())
        };
        assert_eq!(call.wait().unwrap().bytes(), body(1, 0));
        assert_eq!(caller.join().unwrap(), body(2, 1).len());
        leaving.into_iter().for_each(|thread| thread.join().unwrap());
        client.call("a.echo").send().unwrap();
        drop(client);
        let saw = daemon.join().unwrap();
        assert!(saw.cancels <= 1 && saw.stops <= 1, "{saw:?}");
    });
}

#[test]
fn the_end_of_the_daemon_ends_every_wait_with_a_verdict() {
    for lives in 0..3 {
        explore(move || {
            let (near, far) = pair();
            forget_all();
            connect_to(near);
            let daemon = thread::spawn(move || serve(far, 1, lives));
            let options = Options::new().busy_poll(Duration::ZERO).no_timeout();
            let Ok(client) = Client::connect(options) else {
                assert_eq!(lives, 0, "it serves until it dies");
                daemon.join().unwrap();
                return;
            };
            let callers: Vec<_> = (0..3)
                .map(|at| {
                    let client = client.clone();
                    thread::spawn(move || match client.call("a.echo").raw(body(at, at % 2)).send() {
                        Ok(reply) => {
                            assert_eq!(reply.bytes(), body(at, at % 2));
                            1
                        }
                        Err(error) => {
                            assert_eq!(error.code(), Some(ErrorCode::Unavailable), "{error}");
                            assert_ne!(error.delivery(), Delivery::Completed);
                            0
                        }
                    })
                })
                .collect();
            let answered: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
            assert_eq!(answered, lives, "what was answered is read");
            daemon.join().unwrap();
        });
    }
}
