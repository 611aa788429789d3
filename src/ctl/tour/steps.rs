//! The steps in which everything goes well, or is refused as it should be.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::bench::{Amount, Pin, Placement, command};
use super::super::failure::Failure;
use super::super::status::shown;
use super::Shown;
use super::world::{World, wrong};

/// Bytes of the file that is read through the daemon: more than one frame, one segment or one buffer holds.
const FILE: usize = 50_000_000;

/// How long the latencies are measured.
const LATENCY: Duration = Duration::from_millis(1500);

pub(super) fn start(world: &World) -> Result<Shown, Failure> {
    let address = world.sandbox.address();
    let pid = world.sandbox.pid().ok_or_else(|| wrong("no daemon runs"))?;
    let client = world.sandbox.connect()?;
    let info = client.info();
    Ok(Shown {
        line: format!("cd {} && invoked --dev --address {address}", world.sandbox.shared().display()),
        answer: format!("pid {pid}, instance {:016x}", info.daemon_instance),
        meaning: "A daemon listens, and shares one directory with the user who started it.",
    })
}

pub(super) fn json(world: &World) -> Result<Shown, Failure> {
    let typed = world.type_line(&["call", "core.echo", "greeting=hello", "n:=18446744073709551616"])?;
    let typed = typed.expect_code(0)?;
    let answer = typed.text();
    if answer != r#"{"greeting":"hello","n":18446744073709551616}"# {
        return Err(wrong(&format!("the answer is {answer}")));
    }
    Ok(Shown { line: typed.line, answer, meaning: "Another process called a command, with JSON in and out." })
}

pub(super) fn raw(world: &World) -> Result<Shown, Failure> {
    let shared = world.sandbox.shared();
    let (big, copy) = (shared.join("big"), shared.join("copy"));
    let bytes = noise(FILE);
    fs::write(&big, &bytes).map_err(Failure::local(big.display().to_string()))?;
    let path = format!("path={}", big.display());
    let typed = world.type_line(&["call", "fs.read_file", &path, "-o", "copy"])?.expect_code(0)?;
    let copied = fs::read(&copy).map_err(Failure::local(copy.display().to_string()))?;
    if copied != bytes {
        return Err(wrong("the copy is not the file"));
    }
    Ok(Shown {
        line: format!("{}\ncmp {} copy", typed.line, big.display()),
        answer: typed.stderr.trim_end().to_owned(),
        meaning: "The bytes of a 50 MB file went from process to process, and are the same.",
    })
}

pub(super) fn mixed(world: &World) -> Result<Shown, Failure> {
    let shared = world.sandbox.shared();
    let attached = [("first", noise(100_000)), ("second", Vec::new())];
    for (name, bytes) in &attached {
        fs::write(shared.join(name), bytes).map_err(Failure::local(*name))?;
    }
    let words = ["call", "core.echo", "note=both", "picture@first", "--attach", "second", "-o", "mixed"];
    let typed = world.type_line(&words)?.expect_code(0)?;
    let read = |name: &str| fs::read(shared.join(name)).map_err(Failure::local(name));
    let body: Value = serde_json::from_slice(&read("mixed")?).map_err(|error| wrong(&error.to_string()))?;
    if body != json!({ "note": "both", "picture": "__ATTACHMENT__:0" }) {
        return Err(wrong(&format!("the body is {body}")));
    }
    if read("mixed.1")? != attached[0].1 || read("mixed.2")? != attached[1].1 {
        return Err(wrong("the attachments are not the files"));
    }
    Ok(Shown {
        line: typed.line,
        answer: typed.stderr.trim_end().to_owned(),
        meaning: "JSON and raw attachments went there and back in one call, an empty one too.",
    })
}

pub(super) fn denial(world: &World) -> Result<Shown, Failure> {
    let private = world.sandbox.path().join("private");
    fs::write(&private, "nobody's business").map_err(Failure::local(private.display().to_string()))?;
    let path = format!("path={}", private.display());
    let typed = world.type_line(&["call", "fs.read_file", &path])?.expect_code(3)?;
    if !typed.stdout.is_empty() || !typed.stderr.contains("permission_denied") {
        return Err(wrong(&format!("it says {}", typed.stderr.trim())));
    }
    let name = private.display().to_string();
    let logged = world.await_log(&["fs.read_file", &name])?;
    Ok(Shown {
        line: typed.line,
        answer: format!("{}\nin the daemon's log:\n{logged}", typed.stderr.trim_end()),
        meaning: "Outside the shared directory nothing is read: the caller is told little, the log tells why.",
    })
}

pub(super) fn latency(world: &World) -> Result<Shown, Failure> {
    let placement = Placement::new(Pin::None)?;
    let client = world.sandbox.connect()?;
    let rows = command::run(&client, &placement, &[64, 65_536], Amount::Time(LATENCY), Pin::None)?;
    if rows.len() != 6 || rows.iter().any(|row| row.n == 0 || row.p50_ns == 0) {
        return Err(wrong("not everything was measured"));
    }
    let line = |row: &super::super::bench::Row| {
        let p50 = shown(Duration::from_nanos(row.p50_ns));
        let p99 = shown(Duration::from_nanos(row.p99_ns));
        format!("{:>6} B  {:<10} p50 {p50:>9}  p99 {p99:>9}  {:.2}x", row.size, row.system, row.ratio)
    };
    Ok(Shown {
        line: format!(
            "invokectl -a {} bench latency --size 64,64K --seconds {}",
            world.sandbox.address(),
            LATENCY.as_secs_f64().ceil()
        ),
        answer: rows.iter().map(line).collect::<Vec<_>>().join("\n"),
        meaning: "A call beside a bare Unix socket, blocking (uds) and on tokio, measured in turns.",
    })
}

/// Bytes that do not repeat (xorshift64).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
