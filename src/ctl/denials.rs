//! `invokectl denials`: what was denied lately, and what is being denied.

use std::time::Duration;

use invoked_client::blocking::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::{DenialsArgs, Global};
use super::connection::connect;
use super::failure::Failure;
use super::output::Output;
use super::time::utc;

/// How long the daemon is asked to wait for a denial, and how long the call may take in all.
const WAIT: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Deserialize)]
struct Answer {
    denials: Vec<Value>,
    latest: u64,
    missed: Option<u64>,
}

/// A denial as the daemon lists it.
#[derive(Debug, Deserialize)]
pub(super) struct Denial {
    pub(super) decision: String,
    at_ms: Option<u64>,
    command: String,
    peer: Peer,
    argument: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    uid: u32,
    user: Option<String>,
    pid: Option<u32>,
    exe: Option<String>,
}

pub(super) fn run(global: &Global, args: &DenialsArgs, output: &Output) -> Result<(), Failure> {
    let client = connect(global)?;
    let since = args.since.map(milliseconds);
    let mut answer = ask(&client, &json!({ "since_ms": since, "limit": args.limit }))?;
    tell(&answer, output)?;
    if !args.follow {
        if answer.denials.is_empty() && !output.is_json() {
            output.note("no denials");
        }
        return Ok(());
    }
    loop {
        answer = ask(&client, &json!({ "after": answer.latest, "wait_ms": milliseconds(WAIT) }))?;
        tell(&answer, output)?;
    }
}

/// The latest denials, the oldest of them first.
pub(super) fn latest(client: &Client, limit: u64) -> Result<Vec<Denial>, Failure> {
    let answer = ask(client, &json!({ "limit": limit }))?;
    Ok(answer.denials.iter().filter_map(|denial| Denial::deserialize(denial).ok()).collect())
}

fn ask(client: &Client, wanted: &Value) -> Result<Answer, Failure> {
    let called = client.call("core.denials").args(wanted).idempotent().timeout(PATIENCE).send();
    Ok(called.map_err(|error| Failure::for_operators(error, None))?.json()?)
}

fn tell(answer: &Answer, output: &Output) -> Result<(), Failure> {
    if let Some(missed) = answer.missed.filter(|missed| *missed > 0) {
        if output.is_json() {
            output.object(&json!({ "missed": missed }))?;
        }
        output.note(&format!("{missed} more came and were not kept"));
    }
    for denial in &answer.denials {
        if output.is_json() {
            output.object(denial)?;
        } else if let Ok(denial) = Denial::deserialize(denial) {
            let at = denial.at_ms.map_or_else(|| "?".to_owned(), utc);
            output.text(&format!("{at}  {:<6}  {}", denial.decision, denial.shown()))?;
        }
    }
    Ok(())
}

impl Denial {
    /// Who was refused what, on one line.
    pub(super) fn shown(&self) -> String {
        let Peer { uid, user, pid, exe } = &self.peer;
        let mut text = format!("uid={uid}");
        text.extend(user.iter().map(|user| format!("({user})")));
        text.extend(pid.iter().map(|pid| format!(" pid={pid}")));
        text.extend(exe.iter().map(|exe| format!(" exe={exe}")));
        text.push_str(&format!("  {}", self.command));
        text.extend(self.argument.iter().map(|argument| format!(" {argument}")));
        // Each is one line, whatever a peer has sent.
        text.replace(['\n', '\t'], " ")
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
