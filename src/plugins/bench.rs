//! `bench`: commands to measure with. Under `--dev` only, unless a host adds it.

use bytes::Bytes;
use invoked_proto::body::Body;

use crate::ipc::{Argument, CallError, Command, CommandArg, CommandItem, InvokeMessage, Outcome, Response};
use crate::plugin::{self, Plugin};

/// The plugin.
pub fn plugin() -> Plugin {
    let bytes_len = Argument { key: "len", kind: "u32", optional: false };
    plugin::Builder::new("bench")
        .invoke_handler(vec![
            Command::inline("echo", echo)
                .docs("Answers with the body and the attachments of the call.")
                .takes_raw(),
            Command::inline("bytes", bytes).docs("Answers with `len` raw bytes.").argument(bytes_len),
            Command::inline("sink", sink)
                .docs("Takes everything and answers with the number of bytes.")
                .takes_raw(),
        ])
        .default_permissions(&["allow-echo", "allow-bytes", "allow-sink"])
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
    let len = u32::from_command(CommandItem { name: "bytes", key: "len", message })?;
    let max = u32::try_from(invoked_proto::registry::limits::MAX_MESSAGE).unwrap_or(u32::MAX);
    if len > max {
        let text = format!("bench.bytes: len is at most {max}");
        let code = invoked_proto::registry::ErrorCode::InvalidArgument;
        return Err(CallError::Framework(crate::ipc::Fault::refusal(code, text)));
    }
    let len = usize::try_from(len).expect("a u32 fits where a daemon runs");
    Ok(Response::from(Body::Raw(Bytes::from(vec![0_u8; len]))))
}

fn sink(message: &InvokeMessage) -> Outcome {
    let attached: usize = message.attachments().iter().map(Bytes::len).sum();
    Ok(Response::json(&(message.body().bytes().len() + attached))?)
}
