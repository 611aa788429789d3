//! What comes on the channels of a call, printed as it comes.
//!
//! It owns `--channel`. The result of the call is printed by others, once the channels have ended.

use std::thread;

use invoked_client::blocking::{Client, Items};
use invoked_client::{Call, Error, Item, Reply};
use serde_json::Value;

use super::delivery::{fields, show};
use super::failure::Failure;
use super::output::Output;

/// The arguments of a call with those that name its channels.
pub(super) fn with_channels(arguments: &[String], channels: &[String]) -> Vec<String> {
    // The client gives the same indices, in this order: `open` checks it.
    let named = channels.iter().zip(1..).map(|(key, index)| format!("{key}={}", placeholder(index)));
    arguments.iter().cloned().chain(named).collect()
}

fn placeholder(index: usize) -> String {
    format!("__CHANNEL__:{index}")
}

/// Declares the channels that the arguments name.
pub(super) fn open<'c, 'k>(
    call: Call<'c, Client>,
    channels: &'k [String],
) -> (Call<'c, Client>, Vec<(&'k str, Items)>) {
    channels.iter().zip(1..).fold((call, Vec::new()), |(call, mut opened), (key, index)| {
        let (call, items) = call.open_channel();
        assert_eq!(items.placeholder(), placeholder(index), "the client counts as we do");
        opened.push((key.as_str(), items));
        (call, opened)
    })
}

/// How a call with channels ended: the call, and what kept items from being printed.
pub(super) struct Ended {
    pub(super) outcome: Result<Reply, Error>,
    pub(super) items: Result<(), Failure>,
}

/// Sends a call and prints what comes on its channels, until it and they have ended.
pub(super) fn send(call: Call<'_, Client>, channels: Vec<(&str, Items)>, output: &Output) -> Ended {
    let running = match call.start() {
        Ok(running) => running,
        Err(error) => return Ended { outcome: Err(error), items: Ok(()) },
    };
    thread::scope(|scope| {
        let label = channels.len() > 1;
        let printing: Vec<_> = channels
            .into_iter()
            .map(|(key, items)| scope.spawn(move || print(key, items, label, output)))
            .collect();
        let outcome = running.wait();
        let printed = printing.into_iter().map(|thread| match thread.join() {
            Ok(printed) => printed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        Ended { outcome, items: printed.collect() }
    })
}

fn print(key: &str, items: Items, label: bool, output: &Output) -> Result<(), Failure> {
    for item in items {
        print_item(key, &item?, label, output)?;
    }
    Ok(())
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
