//! `invokectl monitor`: each call that the daemon serves, as it ends.

use std::time::Duration;

use invoked_client::{Overflow, Update};
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::{Global, MonitorArgs};
use super::connection::connect;
use super::failure::Failure;
use super::output::Output;
use super::time::utc;

/// What the daemon tells of a call.
#[derive(Debug, Deserialize)]
struct Record {
    at_ms: Option<u64>,
    uid: u32,
    user: Option<String>,
    pid: Option<u32>,
    command: String,
    outcome: String,
    bytes_in: u64,
    bytes_out: u64,
    runs: Option<String>,
    receive_us: u64,
    queue_us: u64,
    handler_us: u64,
    transfer_us: Option<u64>,
    // With `--bodies`.
    request: Option<Excerpt>,
    reply: Option<Excerpt>,
    withheld: Option<String>,
}

/// The beginning of a body.
#[derive(Debug, Deserialize)]
struct Excerpt {
    bytes: u64,
    text: Option<String>,
    hex: Option<String>,
    #[serde(default)]
    cut: bool,
    attachments: u64,
}

pub(super) fn run(global: &Global, args: &MonitorArgs, output: &Output) -> Result<(), Failure> {
    let client = connect(global)?;
    let (call, calls) = client.call("core.monitor").open_subscription(Overflow::DropOldest);
    let wanted = json!({
        "calls": calls.placeholder(),
        "command": args.command,
        "peer": args.peer,
        "outcome": args.outcome,
        "bodies": args.bodies,
    });
    call.args(&wanted).send().map_err(|error| Failure::for_operators(error, None))?;
    output.note("each call as it ends, until Ctrl-C");
    for update in calls {
        match update? {
            Update::Item(item) => tell(&item.json()?, output)?,
            Update::Lagged(count) if output.is_json() => output.object(&json!({ "lagged": count }))?,
            Update::Lagged(count) => output.text(&format!("… {count} calls are left out here"))?,
        }
    }
    Ok(())
}

fn tell(record: &Value, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.object(record);
    }
    match Record::deserialize(record) {
        Ok(record) => {
            output.text(&record.shown())?;
            record.bodies().into_iter().try_for_each(|line| output.text(&line))
        }
        // Of a daemon that tells it in another form.
        Err(_) => output.text(&record.to_string()),
    }
}

impl Record {
    /// All of it on one line.
    fn shown(&self) -> String {
        let Record { uid, user, pid, command, outcome, bytes_in, bytes_out, runs, .. } = self;
        let mut text = self.at_ms.map_or_else(|| "?".to_owned(), utc);
        text.push_str(&format!("  uid={uid}"));
        text.extend(user.iter().map(|user| format!("({user})")));
        text.extend(pid.iter().map(|pid| format!(" pid={pid}")));
        text.push_str(&format!("  {command}  {outcome}  {bytes_in} B in, {bytes_out} B out  "));
        match runs {
            None => text.push_str("not run"),
            Some(runs) => {
                let [receive, queue, handler] =
                    [self.receive_us, self.queue_us, self.handler_us].map(Duration::from_micros);
                text.push_str(&format!("{runs}: receive {receive:?}, queue {queue:?}, handler {handler:?}"));
            }
        }
        match self.transfer_us {
            Some(us) => text.push_str(&format!(", transfer {:?}", Duration::from_micros(us))),
            None => text.push_str(", its answer not taken"),
        }
        // It is one line, whatever a peer has sent.
        text.replace(['\n', '\t'], " ")
    }
}

impl Record {
    /// What is shown of its bodies, a line each.
    fn bodies(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.request.as_ref().map(|excerpt| format!("  request: {}", excerpt.shown())));
        lines.extend(self.reply.as_ref().map(|excerpt| format!("  reply: {}", excerpt.shown())));
        lines.extend(self.withheld.as_ref().map(|why| format!("  bodies withheld: {why}")));
        lines
    }
}

impl Excerpt {
    fn shown(&self) -> String {
        let Excerpt { bytes, text, hex, cut, attachments } = self;
        let mut shown = match (text, hex) {
            (Some(text), _) => text.replace(['\n', '\t'], " "),
            (None, Some(hex)) => format!("{bytes} raw bytes {hex}"),
            (None, None) => "none".to_owned(),
        };
        if *cut {
            shown.push_str(&format!("… ({bytes} B)"));
        }
        if *attachments > 0 {
            shown.push_str(&format!(" and {attachments} attachments"));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::{Excerpt, Record};

    #[test]
    fn a_call_is_one_line_with_its_time_split() {
        let mut record = Record {
            at_ms: Some(951_782_399_000),
            uid: 1000,
            user: Some("ana".to_owned()),
            pid: Some(42),
            command: "fs.read_file".to_owned(),
            outcome: "ok".to_owned(),
            bytes_in: 30,
            bytes_out: 4096,
            runs: Some("pool".to_owned()),
            receive_us: 0,
            queue_us: 40,
            handler_us: 1500,
            transfer_us: Some(12),
            request: None,
            reply: None,
            withheld: None,
        };
        assert_eq!(
            record.shown(),
            "2000-02-28 23:59:59Z  uid=1000(ana) pid=42  fs.read_file  ok  30 B in, 4096 B out  \
             pool: receive 0ns, queue 40µs, handler 1.5ms, transfer 12µs"
        );
        (record.runs, record.command, record.transfer_us) = (None, "a\nb".to_owned(), None);
        let shown = record.shown();
        assert!(shown.ends_with("  a b  ok  30 B in, 4096 B out  not run, its answer not taken"), "{shown}");
    }

    #[test]
    fn a_body_is_one_line_of_its_own() {
        let excerpt = |text: Option<&str>, hex: Option<&str>, cut| Excerpt {
            bytes: 2000,
            text: text.map(str::to_owned),
            hex: hex.map(str::to_owned),
            cut,
            attachments: 0,
        };
        assert_eq!(excerpt(Some("{\n\"a\":1}"), None, false).shown(), "{ \"a\":1}");
        assert_eq!(excerpt(None, Some("00ff"), true).shown(), "2000 raw bytes 00ff… (2000 B)");
        let both = Excerpt { attachments: 2, ..excerpt(None, None, false) };
        assert_eq!(both.shown(), "none and 2 attachments");
    }
}
