//! `core.provide`, `core.withdraw`: a peer says which commands it serves.

use invoked_proto::registry::ErrorCode;
use serde_json::{Value, json};

use super::handle;
use crate::config::Quotas;
use crate::daemon::InterfaceBounds;
use crate::ipc::{CommandArg, CommandItem, Fault, InvokeMessage, Outcome, Response};

/// What is looked at before an interface is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    bytes: usize,
    interfaces: InterfaceBounds,
}

impl Bounds {
    pub(super) fn of(quotas: &Quotas) -> Self {
        let interfaces =
            InterfaceBounds { commands: quotas.commands_per_interface, known: quotas.interfaces };
        Bounds { bytes: quotas.interface_bytes, interfaces }
    }
}

/// Lets the caller serve the commands of an interface.
pub(super) async fn provide(bounds: Bounds, message: InvokeMessage) -> Outcome {
    let peer = message.peer().id;
    let daemon = handle(&message)?;
    daemon.begin_providing(peer).await?;
    let take_over = item(&message, "provide", "takeOver", Option::<bool>::from_command)?;
    let text = message.argument("interface")?.ok_or_else(|| missing("interface"))?;
    if text.len() > bounds.bytes {
        let text = format!("an interface of {} bytes is above the limit of {}", text.len(), bounds.bytes);
        return Err(Fault::refusal(ErrorCode::TooLarge, text).into());
    }
    let (text, whom) = (text.to_owned(), (peer, message.peer().uid));
    let interface = daemon.provide(whom, text, take_over.unwrap_or(false), bounds.interfaces).await?;
    let mut commands: Vec<&str> = interface.commands().map(|command| command.name().as_str()).collect();
    commands.sort_unstable();
    Ok(Response::json(&json!({
        "plugin": interface.plugin(),
        "major": interface.major(),
        "commands": commands,
        "pending": false,
    }))?)
}

/// Takes back what the caller serves.
pub(super) async fn withdraw(message: InvokeMessage) -> Outcome {
    let plugin = item(&message, "withdraw", "plugin", String::from_command)?;
    let major = item(&message, "withdraw", "major", u64::from_command)?;
    let peer = message.peer().id;
    handle(&message)?.withdraw(peer, plugin, major).await?;
    Ok(Response::json(&Value::Null)?)
}

fn item<'a, T, E>(
    message: &'a InvokeMessage,
    name: &'static str,
    key: &'static str,
    read: impl FnOnce(CommandItem<'a>) -> Result<T, E>,
) -> Result<T, E> {
    read(CommandItem { name, key, message })
}

fn missing(key: &str) -> Fault {
    let text = format!("the command takes the argument `{key}`: an OpenRPC document");
    Fault::refusal(ErrorCode::InvalidArgument, text)
}
