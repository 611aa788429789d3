//! Two daemons at one address, what a dead one left, and races.

use std::io::Read;
use std::process::{Command, Stdio};

use invoked_client::blocking::Client;

use crate::harness::{Place, Start};

#[test]
fn a_second_daemon_refuses_and_names_the_first() {
    let first = Start::plain().run();
    let flags = ["--user", "--address"];
    let second = Command::new(env!("CARGO_BIN_EXE_invoked"))
        .args(flags)
        .arg(first.place().address().to_string())
        .env_clear()
        .env("HOME", first.place().path("home"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains(&format!("pid {}", first.pid())), "{stderr}");
    assert!(stderr.contains(&first.place().address().to_string()), "{stderr}");
    first.client().ping().expect("the first goes on");
}

#[test]
fn the_socket_of_a_killed_daemon_is_taken_over() {
    let first = Start::plain().run();
    let instance = first.client().daemon_instance();
    let place = first.kill();
    assert!(place.socket().exists(), "a killed daemon leaves its socket");
    let second = Start::plain().at(place).run();
    let client = second.client();
    client.ping().unwrap();
    assert_ne!(client.daemon_instance(), instance, "its clients can tell");
}

/// Starts three at once and gives their pids and exit codes; the one that is still there has none.
fn race(place: &Place, config: &std::path::Path) -> (u32, Vec<(Option<i32>, String)>) {
    let start = |_| {
        Command::new(env!("CARGO_BIN_EXE_invoked"))
            .args(["--user", "--log", "error", "--config"])
            .arg(config)
            .arg("--address")
            .arg(place.address().to_string())
            .env_clear()
            .env("HOME", place.path("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut children: Vec<_> = (0..3).map(start).collect();
    let mut winner = None;
    let mut losers = Vec::new();
    // Each says one line and goes on, or none and ends.
    let mut pids = Vec::new();
    for child in &mut children {
        let mut first = [0; 1];
        let said = child.stdout.as_mut().unwrap().read(&mut first).unwrap();
        if said == 1 {
            pids.push(child.id());
        } else {
            let mut text = String::new();
            child.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
            losers.push((child.wait().unwrap().code(), text));
        }
    }
    if let [only] = pids[..] {
        winner = Some(only);
        let client = Client::connect(place.options()).expect("the winner answers");
        client.ping().unwrap();
    }
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    (winner.unwrap_or_else(|| panic!("{} daemons listen at once: {losers:?}", pids.len())), losers)
}

#[test]
fn of_those_that_start_at_once_200_times_exactly_one_serves() {
    let place = Place::new();
    let config = place.write("invoked.toml", "");
    for round in 0..200 {
        // From the second round on, the socket of a daemon that was killed lies there.
        let (winner, losers) = race(&place, &config);
        assert_eq!(losers.len(), 2, "round {round}");
        for (code, stderr) in losers {
            assert_eq!(code, Some(4), "round {round}: {stderr}");
            let names_it =
                stderr.contains(&format!("pid {winner}")) || stderr.contains("another daemon listens");
            assert!(names_it, "round {round}, the winner is {winner}: {stderr}");
        }
    }
}
