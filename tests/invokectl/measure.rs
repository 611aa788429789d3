//! `bench`, `tour` and completion. No time is asserted, only that everything is measured and verified.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::{Daemon, Ended, INVOKECTL, ctl, run};

fn rows(ended: &Ended) -> Vec<(String, u64, u64)> {
    let mut rows = Vec::new();
    for row in ended.objects() {
        let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"));
        let keys = ["p50_ns", "p90_ns", "p99_ns", "p999_ns"].map(number);
        assert!(keys[0] > 0 && keys.is_sorted(), "{row}");
        assert!(
            number("mean_ns") > 0 && row["mode"] == "inline" && row["ratio"].as_f64() > Some(0.0),
            "{row}"
        );
        rows.push((row["system"].as_str().expect("text").to_owned(), number("size"), number("n")));
    }
    rows
}

#[test]
fn latency_of_a_running_daemon_is_rows_of_every_system_and_size() {
    let daemon = Daemon::start();
    let words = ["-j", "bench", "latency", "--size", "64,4K", "--count", "30"];
    let mut expected = Vec::new();
    for size in [64, 4096] {
        expected.extend(["uds", "tokio-uds", "hosted"].map(|system| (system.to_owned(), size, 30)));
    }
    assert_eq!(rows(&daemon.ctl(&words).expect(0)), expected);
    let stats = &daemon.ctl(&["-j", "stats"]).expect(0).objects()[0];
    assert!(stats["calls"].as_u64() > Some(60), "it is this daemon that was measured: {stats}");
}

#[test]
fn latency_starts_a_daemon_of_its_own_to_pin_it() {
    let ended = ctl(&["-j", "bench", "latency", "--size", "64", "--count", "5", "--pin", "one"]).expect(0);
    assert_eq!(rows(&ended).len(), 3);
    assert!(ended.objects().iter().all(|row| row["pin"] == "one"));
    let table =
        ctl(&["bench", "latency", "--size", "64", "--count", "5", "--self-contained"]).expect(0).text();
    assert!(table.starts_with("SIZE") && table.contains("P99.9") && table.contains("1.00x"), "{table}");
}

#[test]
fn latency_of_a_daemon_that_was_named_and_does_not_answer_is_an_error() {
    ctl(&["-a", "unix:/no/such.sock", "bench", "latency", "--count", "1"]).expect(5);
}

#[test]
fn throughput_is_rows_of_every_load_beside_the_floor() {
    let daemon = Daemon::start();
    let words =
        ["-j", "bench", "throughput", "--in-flight", "1,16", "--connections", "1,3", "--count", "200"];
    let mut rows = daemon.ctl(&words).expect(0).objects().into_iter();
    for (connections, in_flight) in [(1, 1), (1, 16), (3, 1), (3, 16)] {
        for (system, mode) in [("uds", "batched"), ("hosted", "inline")] {
            let row = rows.next().expect("a row");
            let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"));
            assert_eq!(
                (&row["system"], &row["mode"], &row["pin"]),
                (&json!(system), &json!(mode), &json!("none"))
            );
            assert_eq!(
                (number("connections"), number("in_flight"), number("size")),
                (connections, in_flight, 64)
            );
            assert_eq!(number("n"), 200);
            let calls = number("calls_per_s");
            assert!(calls > 0 && number("bytes_per_s").abs_diff(calls * 64) <= 64, "{row}");
            assert!(number("cpu_ns_per_call") > 0 && row["ratio"].as_f64() > Some(0.0), "{row}");
            assert!(["p50_ns", "p90_ns", "p99_ns", "p999_ns"].map(number).is_sorted(), "{row}");
            assert!(number("p50_ns") > 0 && number("mean_ns") > 0, "{row}");
        }
    }
    assert!(rows.next().is_none());
    let stats = &daemon.ctl(&["-j", "stats"]).expect(0).objects()[0];
    assert!(stats["calls"].as_u64() > Some(4 * 200), "it is this daemon that was measured: {stats}");
    daemon.ctl(&["bench", "throughput", "--in-flight", "0"]).expect(2);
}

#[test]
fn items_of_channels_are_measured_beside_a_socket_that_carries_the_same_bytes() {
    let daemon = Daemon::start();
    let words = ["-j", "bench", "channels", "--size", "0,64,70000", "--count", "400"];
    let mut rows = daemon.ctl(&words).expect(0).objects().into_iter();
    for size in [0, 64, 70_000] {
        for (system, mode) in
            [("uds", "single"), ("uds", "batched"), ("hosted", "blocking"), ("hosted", "async")]
        {
            let row = rows.next().expect("a row");
            assert_eq!(
                (&row["system"], &row["mode"], &row["size"]),
                (&json!(system), &json!(mode), &json!(size))
            );
            assert_eq!(row["n"], 400, "{row}");
            let keys = ["items_per_s", "cpu_ns_per_item"];
            assert!(keys.iter().all(|key| row[key].as_u64() > Some(0)), "{row}");
            assert_eq!(row["bytes_per_s"].as_u64() > Some(0), size > 0, "{row}");
            assert!(row["ratio"].as_f64() > Some(0.0), "{row}");
        }
    }
    assert!(rows.next().is_none());
}

#[test]
fn rates_are_a_table_for_people() {
    for (words, heading) in [
        (["bench", "throughput", "--in-flight", "4", "--connections", "1", "--count", "40"], "IN FLIGHT"),
        (["bench", "channels", "--size", "64", "--pin", "one", "--count", "40"], "ITEMS/S"),
    ] {
        let text = ctl(&words).expect(0).text();
        assert!(text.starts_with("SIZE") && text.contains(heading) && text.contains("1.00x"), "{text}");
        assert!(!text.contains('?'), "the processor time of a daemon of its own is known: {text}");
    }
}

#[test]
fn the_tour_verifies_every_step_and_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("a directory");
    let ended =
        run(Command::new(INVOKECTL).args(["-j", "tour"]).env("TMPDIR", temporary.path()), b"").expect(0);
    let lines = ended.objects();
    let (sum, steps) = lines.split_last().expect("lines");
    let names: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    let expected = [
        "start", "json", "raw", "mixed", "items", "lines", "cancel", "denial", "provide", "killed",
        "deadline", "crash", "takeover", "latency",
    ];
    assert_eq!(names, expected);
    assert!(steps.iter().all(|step| step["ok"] == true && step["line"].is_string()), "{lines:?}");
    assert_eq!(sum["tour"]["failed"], Value::Array(Vec::new()));
    assert_eq!(std::fs::read_dir(temporary.path()).expect("read").count(), 0, "nothing is left");
}

#[test]
fn one_step_of_the_tour_is_told_to_people() {
    let text = ctl(&["tour", "denial"]).expect(0).text();
    for part in [
        "$ invokectl -a unix:",
        "permission_denied",
        "denied: fs.read_file for uid",
        "✓",
        "2 of 2 steps verified",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    ctl(&["tour", "nowhere"]).expect(2);
}

#[test]
fn a_tour_that_is_kept_can_be_tried_and_ended() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut tour = Command::new(INVOKECTL);
    tour.args(["-j", "tour", "json", "--keep"]).env("TMPDIR", temporary.path());
    let lines = run(&mut tour, b"").expect(0).objects();
    let kept = &lines.last().expect("a line")["kept"];
    let address = kept["address"].as_str().expect("text");
    ctl(&["-a", address, "call", "core.shutdown"]).expect(0);
    assert!(kept["pid"].as_u64().is_some() && kept["directory"].is_string(), "{kept}");
}

#[test]
fn completion_offers_the_live_daemon_s_commands() {
    let daemon = Daemon::start();
    for shell in ["bash", "zsh", "fish"] {
        assert!(ctl(&["completion", shell]).expect(0).text().contains("invokectl"), "{shell}");
    }
    let address = daemon.address();
    let mut asked = Command::new(INVOKECTL);
    asked.args(["--", "invokectl", "-a", &address, "call", "fs."]);
    // As fish asks; `run` would take the variable away.
    let ended = asked.env("COMPLETE", "fish").output().expect("it ends");
    let offered = String::from_utf8_lossy(&ended.stdout);
    assert!(offered.contains("fs.read_file"), "{offered}{}", String::from_utf8_lossy(&ended.stderr));
}
