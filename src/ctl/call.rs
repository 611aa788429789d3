//! `invokectl call`: one call, and what to do where it fails.

use std::path::Path;

use invoked_client::blocking::Client;
use invoked_client::{Call, Error, ErrorCode, Reply};
use invoked_proto::name::CommandName;
use serde_json::{Value, json};

use super::args::{CallArgs, Global, Timeout};
use super::arguments::{Payload, PayloadBody, payload};
use super::connection::{connect_within, prefix};
use super::delivery::{deliver, keep_attachments};
use super::failure::Failure;
use super::interrupt;
use super::items::{Ended, Wanted, send};
use super::output::Output;

pub(super) fn run(global: &Global, args: &CallArgs, output: &Output) -> Result<(), Failure> {
    let channels = Wanted { printed: &args.channel, lines: args.lines.as_ref() };
    let Payload { body, attachments, texts, keys } =
        payload(&channels.arguments(&args.arguments), args.raw.as_deref(), &args.attach)?;
    let name = canonical(&args.name)?;
    // What goes into a file may come as one.
    let saves = args.output.as_deref().is_some_and(|file| file != Path::new("-"));
    let client = connect_within(global, args.timeout.for_connecting(), saves)?;
    let call = attachments.into_iter().fold(client.call(name.as_str()), Call::attach);
    let call = match body {
        PayloadBody::None => call,
        PayloadBody::Json(json) => call.json(json),
        PayloadBody::Raw(bytes) => call.raw(bytes),
    };
    let call = args.header.iter().fold(call, |call, (key, value)| call.header(key, value));
    let call = match args.timeout {
        Timeout::After(timeout) => call.timeout(timeout),
        Timeout::Never => call.no_timeout(),
    };
    let ended =
        if channels.is_empty() { Ended::alone(call.send()) } else { send(channels.open(call), output) };
    let Ended { outcome, items, unprinted } = ended;
    if let Some(failure) = unprinted {
        return Err(failure);
    }
    if let Some(exit) = interrupt::exit_code() {
        return Err(interrupted(outcome, exit, args, output));
    }
    match outcome {
        Ok(reply) => {
            deliver(&reply, args.output.as_deref(), output)?;
            items.map_err(Failure::from)
        }
        Err(error) => {
            let hint = hint(&error, &client, name.as_str(), &texts, &keys, global);
            let kept = keep_attachments(error.attachments(), args.output.as_deref(), output);
            Err(Failure::Call { error: Box::new(error), hint, kept })
        }
    }
}

/// A signal has ended the call; its result may have come first, or its channels been all that went on.
fn interrupted(outcome: Result<Reply, Error>, exit: u8, args: &CallArgs, output: &Output) -> Failure {
    match outcome {
        Ok(reply) => match deliver(&reply, args.output.as_deref(), output) {
            Ok(()) => Failure::Interrupted { exit, error: None },
            Err(failure) => failure,
        },
        Err(error) => Failure::Interrupted { exit, error: Some(Box::new(error)) },
    }
}

/// The one spelling under which the daemon knows the command.
pub(super) fn canonical(name: &str) -> Result<CommandName, Failure> {
    CommandName::parse(name)
        .map_err(|error| Failure::Usage(format!("{name:?} is no command's name: {error}")))
}

/// What to do about an error, where the tool can tell.
fn hint(
    error: &Error,
    client: &Client,
    name: &str,
    texts: &[(String, String)],
    keys: &[String],
    global: &Global,
) -> Option<String> {
    match error.code()? {
        ErrorCode::InvalidArgument => {
            let typed = texts.iter().find_map(|(key, text)| typed_hint(error.message(), key, text));
            typed.or_else(|| described_hint(client, name, keys, global))
        }
        ErrorCode::NotFound => Some(format!("{} list tells the commands there are", prefix(global))),
        ErrorCode::PermissionDenied => Some(match error.decision() {
            Some(decision) => format!(
                "{} explain {decision} tells who operates the daemon why, and what would allow it",
                prefix(global)
            ),
            None => "the daemon's log says which capability is missing, and what would allow it".to_owned(),
        }),
        _ => None,
    }
}

/// `len=5` where a number is wanted: `len wants u32: len:=5`.
fn typed_hint(message: &str, key: &str, text: &str) -> Option<String> {
    if !message.contains(&format!("`{key}`")) || !message.contains("invalid type: string") {
        return None;
    }
    let (_, wanted) = message.rsplit_once("expected ")?;
    let wanted = wanted.split(" at line").next().unwrap_or(wanted);
    let is_json = serde_json::from_str::<Value>(text).is_ok_and(|value| !value.is_string());
    let value = if is_json { text } else { "JSON" };
    Some(format!("{key} wants {wanted}: {key}:={value}"))
}

/// What the command takes, if the daemon tells.
fn described_hint(client: &Client, name: &str, keys: &[String], global: &Global) -> Option<String> {
    let described: Value = client.invoke("core.describe", &json!({ "name": name })).ok()?;
    let arguments = described["arguments"].as_array()?;
    let known: Vec<&str> = arguments.iter().filter_map(|argument| argument["key"].as_str()).collect();
    let unknown: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !known.contains(key)).collect();
    let takes = if known.is_empty() { "no arguments".to_owned() } else { known.join(", ") };
    let more = format!("{} describe {name} tells more", prefix(global));
    if unknown.is_empty() || known.is_empty() {
        return Some(format!("{name} takes {takes}; {more}"));
    }
    Some(format!("{name} has no `{}`; it takes {takes}; {more}", unknown.join("`, `")))
}

#[cfg(test)]
mod tests {
    use super::typed_hint;

    #[test]
    fn text_where_a_number_is_wanted_has_a_hint() {
        let message =
            "argument `len` of bench.bytes: invalid type: string \"5\", expected u32 at line 1 column 3";
        assert_eq!(typed_hint(message, "len", "5").as_deref(), Some("len wants u32: len:=5"));
        assert_eq!(typed_hint(message, "len", "five").as_deref(), Some("len wants u32: len:=JSON"));
        assert_eq!(typed_hint(message, "other", "5"), None);
        assert_eq!(typed_hint("bench.bytes: missing `len`", "len", "5"), None);
    }
}
