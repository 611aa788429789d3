//! `invokectl call`, and what it takes to make a call: list, describe, whoami, ping.

use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::world::{Daemon, INVOKECTL, ctl};

#[test]
fn json_goes_there_and_back_with_every_digit() {
    let daemon = Daemon::start();
    let ended =
        daemon.ctl(&["call", "core.echo", "a=b", "n:=18446744073709551616", "l:=[1, 2.50]"]).expect(0);
    assert_eq!(ended.text(), "{\"a\":\"b\",\"n\":18446744073709551616,\"l\":[1,2.50]}\n");
    assert_eq!(ended.stderr, "");
    let ended = daemon.ctl(&["call", "core.echo", "{\"whole\": true}"]).expect(0);
    assert_eq!(ended.text(), "{\"whole\":true}\n");
    let ended = daemon.ctl_with(&["call", "core.echo", "-"], b"[1,2]").expect(0);
    assert_eq!(ended.text(), "[1,2]\n");
    assert_eq!(daemon.ctl(&["call", "core.ping"]).expect(0).text(), "\"pong\"\n");
    assert_eq!(
        daemon.ctl(&["call", "plugin:core|ping"]).expect(0).text(),
        "\"pong\"\n",
        "as Tauri writes it"
    );
}

#[test]
fn raw_bytes_go_to_a_pipe_as_they_are() {
    let daemon = Daemon::start();
    let bytes: Vec<u8> = (0..=255).collect();
    let ended = daemon.ctl_with(&["call", "core.echo", "--raw", "-"], &bytes).expect(0);
    assert_eq!(ended.stdout, bytes);
    assert_eq!(daemon.ctl(&["call", "bench.bytes", "len:=0"]).expect(0).stdout, b"");
}

#[test]
fn a_file_of_50_mb_is_copied_byte_for_byte() {
    let daemon = Daemon::start();
    let mut seed = 1_u64;
    let words = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_le_bytes()
    });
    let bytes: Vec<u8> = words.take(50_000_000 / 8).flatten().collect();
    let path = daemon.shared().join("big");
    std::fs::write(&path, &bytes).expect("written");
    let argument = format!("path={}", path.display());
    let ended = daemon.ctl(&["call", "fs.read_file", &argument, "-o", "copy"]).expect(0);
    assert_eq!(ended.stderr, "50000000 bytes in copy\n");
    assert_eq!(ended.text(), "");
    assert!(std::fs::read(daemon.shared().join("copy")).expect("saved") == bytes, "the copy differs");
    assert_eq!(std::fs::read_dir(daemon.shared()).expect("read").count(), 2, "no part is left");
}

#[test]
fn a_file_larger_than_any_message_is_saved_as_it_is() {
    let daemon = Daemon::start();
    let path = daemon.shared().join("huge");
    let file = std::fs::File::create(&path).expect("made");
    file.set_len(100_000_000).expect("sized");
    std::os::unix::fs::FileExt::write_all_at(&file, b"the end", 99_999_993).expect("written");
    let argument = format!("path={}", path.display());
    let ended = daemon.ctl(&["call", "fs.read_file", &argument, "-o", "copy"]).expect(0);
    assert_eq!(ended.stderr, "100000000 bytes in copy\n");
    let copy = std::fs::read(daemon.shared().join("copy")).expect("saved");
    assert!(copy.len() == 100_000_000 && copy.ends_with(b"\0the end"));
    let object = &daemon.ctl(&["-j", "call", "fs.read_file", &argument, "-o", "copy"]).expect(0).objects()[0];
    assert_eq!(object["saved"][0]["bytes"], 100_000_000);
    // Where its bytes are wanted there are too many.
    daemon.ctl(&["call", "fs.read_file", &argument]).expect(27);
}

#[test]
fn attachments_are_saved_beside_the_body() {
    let daemon = Daemon::start();
    let shared = daemon.shared();
    std::fs::write(shared.join("in"), b"attached").expect("written");
    daemon.ctl(&["-q", "call", "bench.echo", "picture@in", "--attach", "in", "-o", "out"]).expect(0);
    let read = |name: &str| std::fs::read(shared.join(name)).expect("saved");
    assert_eq!(read("out"), br#"{"picture":"__ATTACHMENT__:0"}"#);
    assert_eq!((read("out.1"), read("out.2")), (b"attached".to_vec(), b"attached".to_vec()));
}

#[test]
fn a_call_has_up_to_16_attachments_and_needs_no_body_for_them() {
    let daemon = Daemon::start();
    let shared = daemon.shared();
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(shared.join("large"), &bytes).expect("written");
    std::fs::write(shared.join("empty"), b"").expect("written");
    let attach = |count: usize| {
        let one = |index| ["--attach", if index % 2 == 0 { "large" } else { "empty" }];
        (0..count).flat_map(one).collect::<Vec<_>>()
    };
    daemon.ctl(&[&["-q", "call", "core.echo", "-o", "out"], &attach(16)[..]].concat()).expect(0);
    let read = |name: &str| std::fs::read(shared.join(name)).expect("saved");
    assert_eq!(read("out"), b"");
    for index in 0..16 {
        let expected = if index % 2 == 0 { &bytes[..] } else { b"" };
        assert!(read(&format!("out.{}", index + 1)) == expected, "attachment {index} differs");
    }
    let object = &daemon.ctl(&["-j", "call", "core.echo", "a@empty"]).expect(0).objects()[0];
    assert_eq!(object["result"]["a"], "__ATTACHMENT__:0");
    assert_eq!(object["attachments"][0]["bytes"], 0);
    let ended = daemon.ctl(&[&["call", "core.echo"], &attach(17)[..]].concat()).expect(9);
    assert!(ended.stderr.contains("a call has 16 attachments at most, and this one 17"), "{}", ended.stderr);
}

#[test]
fn what_can_not_be_written_is_told_and_leaves_nothing() {
    let daemon = Daemon::start();
    let ended = daemon.ctl(&["call", "core.ping", "-o", "no/such/directory"]).expect(10);
    assert!(ended.stderr.contains("no/such/directory"), "{}", ended.stderr);
    daemon.ctl(&["call", "core.ping", "-o", "/dev/null"]).expect(0);
    let ended = daemon.ctl(&["call", "core.ping", "-o", "/dev/full"]).expect(10);
    assert!(ended.stderr.contains("/dev/full"), "{}", ended.stderr);
}

#[test]
fn mistakes_come_with_the_way_out() {
    let daemon = Daemon::start();
    let told = |words: &[&str], code| daemon.ctl(words).expect(code).stderr;
    assert!(told(&["call", "bench.bytes", "len=5"], 9).contains("len wants u32: len:=5"));
    let text = told(&["call", "fs.read_file", "pth=/x"], 9);
    assert!(text.contains("fs.read_file has no `pth`; it takes path"), "{text}");
    assert!(told(&["call", "bench.bytes", "word"], 2).contains("key=text"));
    assert!(told(&["call", "no such name"], 2).contains("no command's name"));
    assert!(told(&["call", "core.nothing"], 4).contains("list tells the commands"));
}

#[test]
fn a_command_is_found_and_described_with_a_line_that_works() {
    let daemon = Daemon::start();
    let listed = daemon.ctl(&["list"]).expect(0).text();
    assert!(
        listed.lines().any(|line| line.starts_with("fs.read_file") && line.contains("regular file")),
        "{listed}"
    );
    let described = daemon.ctl(&["describe", "bench.bytes"]).expect(0).text();
    assert!(described.contains("bench:allow-bytes"), "{described}");
    let line = described.lines().last().expect("a line to paste");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], "invokectl");
    assert_eq!(ctl(&words[1..]).expect(0).stdout.len(), 64);
}

#[test]
fn the_line_that_writes_a_file_works_where_a_policy_allows_it() {
    let daemon = Daemon::sharing_for_writing();
    std::fs::write(daemon.shared().join("FILE"), b"in").expect("written");
    let described = daemon.ctl(&["describe", "fs.write_file"]).expect(0).text();
    let line = described.lines().last().expect("a line to paste").to_owned();
    assert!(line.ends_with(" call fs.write_file path=$PWD/FILE contents@FILE"), "{line}");
    let line = line.replace("$PWD/FILE", &daemon.shared().join("copy").display().to_string());
    let words: Vec<&str> = line.split(' ').skip(3).collect();
    let ended = daemon.ctl(&words).expect(0);
    assert_eq!((ended.text().as_str(), ended.stderr.as_str()), ("", ""));
    assert_eq!(std::fs::read(daemon.shared().join("copy")).expect("made"), b"in");
    // Text, standard input, and the options.
    let path = format!("path={}", daemon.shared().join("copy").display());
    let words = ["call", "fs.write_file", &path];
    daemon.ctl(&[&words[..], &["contents= more", "append:=true"]].concat()).expect(0);
    daemon.ctl_with(&[&words[..], &["contents@-", "append:=true"]].concat(), b"\xff").expect(0);
    assert_eq!(std::fs::read(daemon.shared().join("copy")).expect("made"), b"in more\xff");
    let error = daemon.ctl(&[&["-j"], &words[..], &["contents=x", "new:=true"]].concat()).expect(1).error();
    assert_eq!(error["body"]["kind"], "exists");
    let ended = daemon.ctl(&[&words[..], &["contents=x", "mode:=600"]].concat()).expect(9);
    assert!(ended.stderr.contains("octal digits as text"), "{}", ended.stderr);
    let ended = daemon.ctl(&words).expect(9);
    assert!(ended.stderr.contains("contents@FILE"), "{}", ended.stderr);
}

#[test]
fn who_and_whether_are_told() {
    let daemon = Daemon::start();
    let uid = rustix::process::getuid().as_raw().to_string();
    assert!(daemon.ctl(&["whoami"]).expect(0).text().contains(&format!("uid {uid}")));
    let pinged = daemon.ctl(&["ping", "-n", "3", "--interval", "0s"]).expect(0).text();
    assert_eq!(pinged.lines().count(), 5, "address, three times, sum: {pinged}");
    assert_eq!(daemon.ctl(&["ping", "-n", "1"]).expect(0).text().lines().count(), 2);
    let limits = daemon.ctl(&["limits"]).expect(0).text();
    assert!(limits.contains("max_message"), "{limits}");
    let quotas: Vec<&str> =
        limits.lines().filter(|line| line.split_whitespace().nth(2) == Some("quota")).collect();
    assert!(
        !quotas.is_empty() && quotas.iter().all(|line| line.ends_with('.')),
        "without a meaning: {limits}"
    );
    assert!(daemon.ctl(&["stats"]).expect(0).text().contains("calls_in_flight"));
}

#[test]
fn an_interrupt_ends_a_call_that_waits_with_130() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("s.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let child = Command::new(INVOKECTL)
        .args(["-a", &format!("unix:{}", socket.display()), "call", "core.ping"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Once it has connected it watches for signals; nobody answers it.
    let connection = listener.accept().expect("it connects");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    drop(connection);
}

#[test]
fn items_of_channels_are_printed_as_they_come_and_the_result_behind_them() {
    let daemon = Daemon::start();
    let count = ["call", "bench.count", "items:=3", "size:=2", "--channel", "to"];
    let ended = daemon.ctl(&count).expect(0);
    assert_eq!(ended.stdout, b"\0\0\0\0\0\x003\n");
    let json: Vec<&str> = count.into_iter().chain(["-j"]).collect();
    let ended = daemon.ctl(&json).expect(0);
    let item = "{\"channel\":\"to\",\"raw\":{\"base64\":\"AAA=\",\"bytes\":2}}\n";
    assert_eq!(ended.text(), format!("{item}{item}{item}{{\"result\":3}}\n"));
    // More than every buffer holds.
    let ended =
        daemon.ctl(&["call", "bench.count", "items:=1000", "size:=20000", "--channel", "to"]).expect(0);
    assert_eq!(ended.stdout.len(), 1000 * 20_000 + "1000\n".len());
    // The call's error is told once.
    let ended = daemon.ctl(&["call", "bench.count", "items:=3", "size=x", "--channel", "to"]).expect(9);
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    let ended = daemon.ctl(&["call", "bench.count", "items:=3", "size:=2", "to=x"]).expect(9);
    assert!(ended.stderr.contains("expected a channel"), "{}", ended.stderr);
}

#[test]
fn a_channel_that_may_leave_items_out_prints_them_and_how_many_are_missing() {
    let daemon = Daemon::start();
    for overflow in ["drop_oldest", "latest"] {
        let channel = format!("to={overflow}");
        let args = ["call", "bench.count", "items:=20000", "size:=0", "--channel", &channel, "-j"];
        let ended = daemon.ctl(&args).expect(0);
        let mut sum = 0;
        for line in ended.text().lines() {
            let told: serde_json::Value = serde_json::from_str(line).expect("json");
            sum += if told["raw"].is_object() { 1 } else { told["lagged"].as_u64().unwrap_or(0) };
        }
        assert_eq!(sum, 20_000, "{overflow}");
    }
    let ended = daemon.ctl(&["call", "bench.count", "--channel", "to=newest"]).expect(2);
    assert!(ended.stderr.contains("block, drop_oldest, latest"), "{}", ended.stderr);
}

#[test]
fn lines_of_standard_input_are_sent_on_a_channel() {
    let daemon = Daemon::start();
    let lines: String = (0..2000).map(|index| format!("{index}\n")).collect();
    let ended = daemon.ctl_with(&["call", "bench.collect", "--lines", "from"], lines.as_bytes()).expect(0);
    let told: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("json");
    // The digits, and the quotes around each.
    let bytes = 10 + 90 * 2 + 900 * 3 + 1000 * 4 + 2000 * 2;
    assert_eq!(told, serde_json::json!({ "items": 2000, "bytes": bytes }));
}

#[test]
fn describe_tells_of_channels() {
    let daemon = Daemon::start();
    let ended = daemon.ctl(&["describe", "bench.count"]).expect(0);
    assert!(ended.text().contains("to: Channel\n"), "{}", ended.text());
    let line = ended.text().lines().last().unwrap_or_default().to_owned();
    assert!(line.ends_with("call bench.count items:=64 size:=64 --channel to"), "{line}");
    let ended = daemon.ctl(&["describe", "fs.watch"]).expect(0);
    let line = ended.text().lines().last().unwrap_or_default().to_owned();
    assert!(line.ends_with("call fs.watch path=$PWD/FILE --channel events=drop_oldest"), "{line}");
}
