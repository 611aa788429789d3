//! The steps in which a daemon hangs, dies and comes back.

use std::time::{Duration, Instant};

use invoked_client::{Delivery, Error};
use rustix::process::Signal;

use super::super::failure::Failure;
use super::super::status::shown;
use super::Shown;
use super::world::{World, wrong};

/// How long a caller waits for a daemon that hangs.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long the call has to leave the caller before its daemon is killed.
const HEAD_START: Duration = Duration::from_millis(200);

pub(super) fn deadline(world: &World) -> Result<Shown, Failure> {
    let typed = world.type_line(&["call", "core.ping", "--timeout", "1us"])?.expect_code(6)?;
    let client = world.sandbox.connect()?;
    let pid = world.sandbox.pid().unwrap_or(0);
    world.sandbox.signal(Signal::STOP)?;
    let start = Instant::now();
    let answer = client.call("core.ping").timeout(PATIENCE).send();
    let waited = start.elapsed();
    world.sandbox.signal(Signal::CONT)?;
    let error = failed(answer, "a daemon that is stopped")?;
    if !error.is_deadline() || waited < PATIENCE {
        return Err(wrong(&format!("after {} it says: {error}", shown(waited))));
    }
    // The daemon goes on as if nothing had been, on the same connection.
    let ping = client.ping()?;
    Ok(Shown {
        line: format!("{}\nkill -STOP {pid}; # a call with --timeout 200ms; kill -CONT {pid}", typed.line),
        answer: format!(
            "{}\nstopped: {error} ({}, after {})\ngoing on: answered in {}",
            typed.stderr.trim_end(),
            error.delivery(),
            shown(waited),
            shown(ping)
        ),
        meaning: "No call waits longer than its caller said, whatever the daemon does.",
    })
}

pub(super) fn crash(world: &mut World) -> Result<Shown, Failure> {
    let client = world.sandbox.connect()?;
    let pid = world.sandbox.pid().unwrap_or(0);
    // Stopped, it can't answer: so the call is open when the daemon dies.
    world.sandbox.signal(Signal::STOP)?;
    let caller = client.clone();
    let call = std::thread::spawn(move || caller.call("bench.sink").raw(vec![0; 1000]).send());
    std::thread::sleep(HEAD_START);
    world.sandbox.kill();
    let answer = call.join().map_err(|_| wrong("the caller panicked"))?;
    let error = failed(answer, "a daemon that is dead")?;
    if !error.is_unavailable() || error.delivery() == Delivery::Completed {
        return Err(wrong(&format!("the open call says: {error} ({})", error.delivery())));
    }
    let later = failed(client.call("core.ping").send(), "a daemon that is dead")?;
    if !later.is_unavailable() || later.delivery() != Delivery::NotDelivered {
        return Err(wrong(&format!("the next call says: {later} ({})", later.delivery())));
    }
    let typed = world.type_line(&["call", "core.ping"])?.expect_code(5)?;
    Ok(Shown {
        line: format!("kill -9 {pid} # while a call is open\n{}", typed.line),
        answer: format!(
            "the open call: {error} ({})\nthe next one: {later} ({})\n{}",
            error.delivery(),
            later.delivery(),
            typed.stderr.trim_end()
        ),
        meaning: "Each call ends with an error that says whether it may have run; none hangs, none is sent twice.",
    })
}

pub(super) fn takeover(world: &mut World) -> Result<Shown, Failure> {
    world.sandbox.kill();
    let socket = world.sandbox.address().socket_path().map(std::path::Path::to_owned);
    if socket.is_none_or(|path| path.symlink_metadata().is_err()) {
        return Err(wrong("the dead daemon left no socket"));
    }
    world.sandbox.start()?;
    let typed = world.type_line(&["ping", "-n", "1"])?.expect_code(0)?;
    let (status, said) = world.sandbox.second_daemon()?;
    let refused = said.trim_end().lines().last().unwrap_or("").to_owned();
    let pid = world.sandbox.pid().unwrap_or(0);
    if status.code() != Some(4) || !said.contains(&pid.to_string()) {
        return Err(wrong(&format!("a second daemon ended with {status}: {refused}")));
    }
    let again = format!("invoked --dev --address {}", world.sandbox.address());
    Ok(Shown {
        line: format!("{again} # after kill -9\n{}\n{again} # once more", typed.line),
        answer: format!("{}\n{refused}", typed.text()),
        meaning: "A dead daemon's socket is taken over; a living one's is not.",
    })
}

/// The error of a call that can't have succeeded.
fn failed<T>(answer: Result<T, Error>, who: &str) -> Result<Error, Failure> {
    match answer {
        Ok(_) => Err(wrong(&format!("{who} answered"))),
        Err(error) => Ok(error),
    }
}
