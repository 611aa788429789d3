//! `bench`: commands to measure with. Under `--dev` only, unless a host adds it.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use invoked_proto::body::Body;
use invoked_proto::registry::{ErrorCode, limits};
use serde_json::json;

use crate::ipc::{
    Argument, Channel, ChannelItem, ChannelReader, Command, CommandArg, CommandItem, Fault, InvokeError,
    InvokeMessage, Outcome, Response,
};
use crate::plugin::{self, Plugin};

/// `fill` writes a byte in so many.
const PAGE: usize = 4096;

/// The most memory that stays for replies of zeros.
const SHARED_ZEROS: usize = 16 << 20;

/// The plugin.
pub fn plugin() -> Plugin {
    let len = || Argument { key: "len", kind: "u32", optional: false };
    plugin::Builder::new("bench")
        .invoke_handler(vec![
            Command::inline("echo", echo)
                .docs("Answers with the body and the attachments of the call.")
                .takes_raw(),
            Command::inline("bytes", bytes).docs("Answers with `len` raw bytes.").argument(len()),
            Command::inline("fill", fill)
                .docs("Answers with `len` raw bytes, of which it writes one in 4096 where the caller reads them.")
                .argument(len()),
            Command::blocking("count", count)
                .docs("Sends `items` items of `size` raw bytes on the channel `to`, and answers with their number.")
                .argument(Argument { key: "items", kind: "u64", optional: false })
                .argument(Argument { key: "size", kind: "u32", optional: false })
                .argument(Argument { key: "to", kind: "Channel", optional: false }),
            Command::blocking("collect", collect)
                .docs("Takes what comes on the channel `from`, and answers with the numbers of items and bytes.")
                .argument(Argument { key: "from", kind: "ChannelReader", optional: false }),
            Command::inline("sink", sink)
                .docs("Takes everything and answers with the number of bytes.")
                .takes_raw(),
        ])
        .default_permissions(&[
            "allow-echo",
            "allow-bytes",
            "allow-collect",
            "allow-count",
            "allow-fill",
            "allow-sink",
        ])
        .build()
}

fn echo(message: &InvokeMessage) -> Outcome {
    let mut response = Response::from(message.body().clone());
    for attachment in message.attachments() {
        response = response.attach(attachment.clone());
    }
    Ok(response)
}

fn bytes(message: &InvokeMessage) -> Outcome {
    Ok(Response::from(Body::Raw(zeros("bytes", "len", message)?)))
}

fn fill(message: &InvokeMessage) -> Outcome {
    let mut reply = Response::alloc(length("fill", "len", message)?);
    reply.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    Ok(reply.into())
}

/// So many zero bytes as the argument says. Up to [`SHARED_ZEROS`] all replies have them in common: with new memory for each,
/// it would be the kernel's clearing of pages that is measured.
fn zeros(command: &str, key: &str, message: &InvokeMessage) -> Result<Bytes, InvokeError> {
    static LONGEST: Mutex<Bytes> = Mutex::new(Bytes::new());
    let len = length(command, key, message)?;
    if len > SHARED_ZEROS {
        return Ok(vec![0; len].into());
    }
    let mut longest = LONGEST.lock().unwrap_or_else(PoisonError::into_inner);
    if longest.len() < len {
        let mut bytes = vec![0_u8; len];
        // Memory that nobody has written is one page of zeros again and again, and quicker to read than any reply.
        bytes.iter_mut().step_by(PAGE).for_each(|byte| *byte = black_box(0));
        *longest = bytes.into();
    }
    Ok(longest.slice(..len))
}

/// A length that one message may have.
fn length(command: &str, key: &str, message: &InvokeMessage) -> Result<usize, InvokeError> {
    let len = u32::from_command(CommandItem { name: command, key, message })?;
    let max = u32::try_from(limits::MAX_MESSAGE).unwrap_or(u32::MAX);
    if len > max {
        let text = format!("bench.{command}: {key} is at most {max}");
        return Err(Fault::refusal(ErrorCode::InvalidArgument, text).into());
    }
    Ok(usize::try_from(len).expect("a u32 fits where a daemon runs"))
}

fn count(message: &InvokeMessage) -> Outcome {
    let items = u64::from_command(CommandItem { name: "count", key: "items", message })?;
    let item = zeros("count", "size", message)?;
    let to = Channel::<Response>::from_command(CommandItem { name: "count", key: "to", message })?;
    for _ in 0..items {
        to.send(Response::new(item.clone())).map_err(InvokeError::from)?;
    }
    Ok(Response::json(&items)?)
}

fn collect(message: &InvokeMessage) -> Outcome {
    let item = CommandItem { name: "collect", key: "from", message };
    let (mut items, mut bytes) = (0_u64, 0);
    for item in ChannelReader::<ChannelItem>::from_command(item)? {
        let item = item.map_err(Fault::from)?;
        items += 1;
        bytes += item.body.bytes().len() + item.attachments.iter().map(Bytes::len).sum::<usize>();
    }
    Ok(Response::json(&json!({ "items": items, "bytes": bytes }))?)
}

fn sink(message: &InvokeMessage) -> Outcome {
    let attached: usize = message.attachments().iter().map(Bytes::len).sum();
    Ok(Response::json(&(message.body().bytes().len() + attached))?)
}
