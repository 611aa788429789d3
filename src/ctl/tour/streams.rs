//! The steps in which items go through channels.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::interrupt::on_interrupt;
use super::Shown;
use super::world::{World, wrong};

/// Items that are sent, of one byte each.
const ITEMS: usize = 20_000;

/// How long the daemon may take to let go of a call that was cancelled.
const RELEASE: Duration = Duration::from_secs(5);

pub(super) fn items(world: &World) -> Result<Shown, Failure> {
    let count = format!("items:={ITEMS}");
    let words = ["-j", "call", "bench.count", &count, "size:=1", "--channel", "to"];
    let typed = world.type_line(&words)?.expect_code(0)?;
    let text = typed.text();
    let lines: Vec<&str> = text.lines().collect();
    let item = json!({ "channel": "to", "raw": { "base64": "AA==", "bytes": 1 } });
    let Some((result, items)) = lines.split_last() else { return Err(wrong("nothing was printed")) };
    if items.len() != ITEMS || !items.iter().all(|line| parsed(line) == item) {
        return Err(wrong(&format!("{} items came, or others than were sent", items.len())));
    }
    if parsed(result) != json!({ "result": ITEMS }) {
        return Err(wrong(&format!("the result is {result}")));
    }
    Ok(Shown {
        line: typed.line,
        answer: format!("{}\n… {} more, in order\n{result}", items[0], ITEMS - 1),
        meaning: "A command sent items while it ran, no faster than they were taken, and its result behind them.",
    })
}

pub(super) fn lines(world: &World) -> Result<Shown, Failure> {
    let typed = world.type_line_with(&["call", "bench.collect", "--lines", "from"], b"one\ntwo\nthree\n")?;
    let typed = typed.expect_code(0)?;
    let answer = typed.text();
    // As JSON strings, with their quotes.
    if parsed(&answer) != json!({ "items": 3, "bytes": 17 }) {
        return Err(wrong(&format!("the answer is {answer}")));
    }
    Ok(Shown {
        line: format!(r"printf 'one\ntwo\nthree\n' | {}", typed.line),
        answer,
        meaning: "A caller sent items to a command that runs, and the command knew when they were all there.",
    })
}

pub(super) fn cancel(world: &World) -> Result<Shown, Failure> {
    let words = ["-j", "call", "bench.count", "items:=1000000000000", "size:=1", "--channel", "to"];
    let (mut command, line) = world.command(&words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(Failure::local("can't run invokectl"))?;
    let pid = Pid::from_child(&child);
    let _cleanup = on_interrupt(move || {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    });
    let shown = interrupted(world, &mut child, pid, line);
    // It has ended if all went well.
    drop(child.kill());
    drop(child.wait());
    shown
}

/// Interrupts a call after its first item.
fn interrupted(world: &World, child: &mut Child, pid: Pid, line: String) -> Result<Shown, Failure> {
    let failed = || Failure::local("can't read what invokectl prints");
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(wrong("its output is not here"));
    };
    let mut printed = BufReader::new(stdout).lines();
    let first = printed.next().transpose().map_err(failed())?.unwrap_or_default();
    kill_process(pid, Signal::INT).map_err(|error| Failure::local("can't signal invokectl")(error.into()))?;
    let mut items = 1_u64;
    for line in printed {
        if line.map_err(failed())? != first {
            return Err(wrong("something else than items was printed"));
        }
        items += 1;
    }
    let mut told = String::new();
    stderr.read_to_string(&mut told).map_err(failed())?;
    let status = child.wait().map_err(failed())?;
    if status.code() != Some(130) || parsed(&told)["error"]["code"] != "cancelled" {
        return Err(wrong(&format!("it ended with {status}: {}", told.trim())));
    }
    let (channels, bytes) = released(world)?;
    Ok(Shown {
        line: format!("{line} # and Ctrl-C"),
        answer: format!(
            "{first}\n… {} more\n{}\nexit code 130; the daemon holds {channels} channels and {bytes} B of items",
            items - 1,
            told.trim()
        ),
        meaning: "A call was cancelled in the middle of its items: its handler ended, and what it held is free again.",
    })
}

/// Waits until no call but the question is open and nothing is held for channels: how many there are, and bytes of items.
fn released(world: &World) -> Result<(Value, Value), Failure> {
    let client = world.sandbox.connect()?;
    let start = Instant::now();
    loop {
        let stats: Value = client.invoke("core.stats", &json!({}))?;
        if stats["calls_in_flight"] == 1 && stats["channels"] == 0 && stats["item_bytes"] == 0 {
            return Ok((stats["channels"].clone(), stats["item_bytes"].clone()));
        }
        if start.elapsed() > RELEASE {
            return Err(wrong(&format!("the daemon still holds something: {stats}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}
