//! Rights that are given up for one connection.

use crate::world::Daemon;

#[test]
fn a_narrowed_caller_has_what_it_keeps() {
    let daemon = Daemon::start();
    let listed = |words: &[&str]| daemon.ctl(words).expect(0).text();
    assert!(listed(&["list"]).contains("bench.echo"));
    let kept = listed(&["--narrow", "operate", "list"]);
    assert!(kept.contains("core.ping") && !kept.contains("bench.echo"), "{kept}");
    // Anywhere on the line, as other global flags.
    assert!(listed(&["list", "--narrow=operate", "--narrow=dev"]).contains("bench.echo"));
    let denied = daemon.ctl(&["--narrow", "operate", "call", "bench.bytes", "len:=1"]).expect(3);
    assert!(denied.stderr.contains("permission_denied"), "{}", denied.stderr);
}

#[test]
fn a_name_that_keeps_nothing_is_a_warning() {
    let daemon = Daemon::start();
    let ended = daemon.ctl(&["--narrow", "operat", "--narrow", "dev", "ping"]).expect(3);
    let warning = "warning: narrow: \"operat\" keeps nothing: no capability of this name applies to you";
    assert!(ended.stderr.contains(warning), "{}", ended.stderr);
    // Programs are told by the error alone, and nobody by -q.
    let ended = daemon.ctl(&["-j", "--narrow", "operat", "ping"]).expect(3);
    assert_eq!(ended.error()["code"], "permission_denied");
    assert!(!daemon.ctl(&["-q", "--narrow", "operat", "ping"]).expect(3).stderr.contains("warning"));
}

#[test]
fn limits_are_those_of_the_asker() {
    let daemon = Daemon::start();
    let value = |name: &str| {
        let rows = daemon.ctl(&["-j", "limits"]).expect(0).objects();
        let row = rows.into_iter().find(|row| row["name"] == name).expect("it is listed");
        row["value"].as_u64().expect("a number")
    };
    let before = [value("open_calls"), value("calls_per_connection"), value("calls_per_uid")];
    assert_eq!(before, [1024, 1024, 4096]);
    daemon.capability(
        "few.toml",
        "identifier = \"few\"\npeers = [\"self\"]\npermissions = []\nlimits = { open_calls = 7, calls_per_uid = 9 }\n",
    );
    daemon.ctl(&["call", "core.reload"]);
    let now = || [value("open_calls"), value("calls_per_connection"), value("calls_per_uid")];
    // The daemon may have read the file by itself, and then says that a reload has just run.
    let start = std::time::Instant::now();
    while now() != [7, 7, 9] {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", now());
    }
}
