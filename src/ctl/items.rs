//! The channels of a call: what comes on them printed as it comes, and lines of standard input sent.
//!
//! It owns `--channel` and `--lines`. The result of the call is printed by others, once the channels have ended.

use std::io::BufRead;
use std::thread;

use invoked_client::blocking::{Canceller, Client, ItemSender, Subscription};
use invoked_client::{Call, Error, ErrorCode, Item, Overflow, Reply, Update};
use serde_json::{Value, json};

use super::delivery::{fields, show};
use super::failure::Failure;
use super::interrupt::under_way;
use super::output::Output;

/// A channel that is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Printed {
    key: String,
    overflow: Overflow,
}

/// Reads `KEY`, `KEY=drop_oldest` and the like.
pub(super) fn printed(text: &str) -> Result<Printed, String> {
    let (key, overflow) = match text.split_once('=') {
        None => (text, Overflow::Block),
        Some((key, name)) => {
            let all = [Overflow::Block, Overflow::DropOldest, Overflow::Latest];
            let known = all.into_iter().find(|overflow| overflow.name() == name);
            let wrong =
                || format!("a channel has {} after its =, not {name:?}", all.map(Overflow::name).join(", "));
            (key, known.ok_or_else(wrong)?)
        }
    };
    if key.is_empty() {
        return Err("the key of an argument stands first".to_owned());
    }
    Ok(Printed { key: key.to_owned(), overflow })
}

/// Which arguments are channels: `--channel` in their order, then `--lines`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) printed: &'a [Printed],
    pub(super) lines: Option<&'a String>,
}

impl<'a> Wanted<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.printed.is_empty() && self.lines.is_none()
    }

    /// The arguments of a call with those that name its channels.
    pub(super) fn arguments(self, given: &[String]) -> Vec<String> {
        // The client gives the same indices, in this order: `open` checks it.
        let keys = self.printed.iter().map(|printed| &printed.key).chain(self.lines).zip(1..);
        let named = keys.map(|(key, index)| format!("{key}={}", placeholder(index)));
        given.iter().cloned().chain(named).collect()
    }

    /// Declares the channels that the arguments name.
    pub(super) fn open<'c>(self, mut call: Call<'c, Client>) -> Open<'c, 'a> {
        let mut printed = Vec::new();
        for (Printed { key, overflow }, index) in self.printed.iter().zip(1..) {
            let updates;
            (call, updates) = call.open_subscription(*overflow);
            assert_eq!(updates.placeholder(), placeholder(index), "the client counts as we do");
            printed.push((key.as_str(), updates));
        }
        let mut lines = None;
        if self.lines.is_some() {
            let sender;
            (call, sender) = call.open_channel_to();
            assert_eq!(sender.placeholder(), placeholder(printed.len() + 1), "the client counts as we do");
            lines = Some(sender);
        }
        Open { call, printed, lines }
    }
}

fn placeholder(index: usize) -> String {
    format!("__CHANNEL__:{index}")
}

/// A call with its channels, not sent yet.
pub(super) struct Open<'c, 'k> {
    call: Call<'c, Client>,
    printed: Vec<(&'k str, Subscription)>,
    lines: Option<ItemSender>,
}

/// How a call with channels ended: the call, and what became of its items.
pub(super) struct Ended {
    pub(super) outcome: Result<Reply, Error>,
    /// How channels ended that ended badly.
    pub(super) items: Result<(), Error>,
    /// What kept items from being printed; the call was cancelled then.
    pub(super) unprinted: Option<Failure>,
}

impl Ended {
    /// Of a call without channels, or that could not be sent.
    pub(super) fn alone(outcome: Result<Reply, Error>) -> Self {
        Ended { outcome, items: Ok(()), unprinted: None }
    }
}

/// Sends a call, prints what comes on its channels, and sends the lines of standard input, until it and they have ended.
///
/// The first interrupt asks the daemon to cancel the call, or to stop the channels that it left open; what came until they end
/// is printed.
pub(super) fn send(open: Open<'_, '_>, output: &Output) -> Ended {
    let Open { call, printed: channels, lines } = open;
    let running = match call.start() {
        Ok(running) => running,
        Err(error) => return Ended::alone(Err(error)),
    };
    let canceller = running.canceller();
    let interrupted = canceller.clone();
    let _under_way = under_way(move || interrupted.cancel());
    if let Some(sender) = lines {
        // Not waited for: a call may end before its input does, and the tool then ends with it.
        drop(thread::spawn(move || send_lines(sender)));
    }
    thread::scope(|scope| {
        let label = channels.len() > 1;
        let canceller = &canceller;
        let printing: Vec<_> = channels
            .into_iter()
            .map(|(key, updates)| scope.spawn(move || print(key, updates, label, canceller, output)))
            .collect();
        let mut ended = Ended::alone(running.wait());
        for thread in printing {
            match thread.join() {
                Ok(Ok(end)) => ended.items = ended.items.and(end),
                Ok(Err(failure)) => drop(ended.unprinted.get_or_insert(failure)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        ended
    })
}

/// Sends the lines of standard input as texts. That the command takes no more is no error: its result says why.
fn send_lines(mut sender: ItemSender) {
    for line in std::io::stdin().lock().lines() {
        match line {
            Ok(line) if sender.send(&line).is_ok() => {}
            Ok(_) => return,
            Err(error) => {
                return sender.fail(ErrorCode::DataLoss, &format!("reading standard input: {error}"));
            }
        }
    }
    sender.close();
}

/// Prints what comes on a channel, and gives how it ended. Where that fails the call is cancelled: nobody sees its items.
fn print(
    key: &str,
    updates: Subscription,
    label: bool,
    canceller: &Canceller,
    output: &Output,
) -> Result<Result<(), Error>, Failure> {
    for update in updates {
        match update {
            Err(error) => return Ok(Err(error)),
            Ok(update) => print_update(key, update, label, output).inspect_err(|_| canceller.cancel())?,
        }
    }
    Ok(Ok(()))
}

fn print_update(key: &str, update: Update, label: bool, output: &Output) -> Result<(), Failure> {
    match update {
        Update::Item(item) => print_item(key, &item, label, output),
        Update::Lagged(count) if output.is_json() => {
            output.object(&json!({ "channel": key, "lagged": count }))
        }
        Update::Lagged(count) => {
            output.note(&format!("{key}: {count} left out here"));
            Ok(())
        }
    }
}

fn print_item(key: &str, item: &Item, label: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        let mut object = fields("item", item.body(), item.attachments());
        object.insert("channel".to_owned(), Value::from(key));
        return output.object(&Value::Object(object));
    }
    if label {
        output.note(&format!("{key}:"));
    }
    show(item.body(), item.attachments(), output)
}

#[cfg(test)]
mod tests {
    use super::{Overflow, Printed, printed};

    #[test]
    fn a_channel_says_what_it_does_where_too_little_is_taken() {
        let channel = |key: &str, overflow| Ok(Printed { key: key.to_owned(), overflow });
        assert_eq!(printed("to"), channel("to", Overflow::Block));
        assert_eq!(printed("to=block"), channel("to", Overflow::Block));
        assert_eq!(printed("to=drop_oldest"), channel("to", Overflow::DropOldest));
        assert_eq!(printed("to=latest"), channel("to", Overflow::Latest));
        let wrong = printed("to=newest").unwrap_err();
        assert_eq!(wrong, "a channel has block, drop_oldest, latest after its =, not \"newest\"");
        assert!(printed("=latest").is_err());
    }
}
