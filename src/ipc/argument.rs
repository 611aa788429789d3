//! How a call becomes the arguments of a function.

use invoked_proto::registry::ErrorCode;
use serde::Deserialize;

use super::cancellation::CancellationToken;
use super::error::Fault;
use super::invoke::{InvokeMessage, Request};
use super::peer::{Origin, Peer};
use super::state::{State, StateManager};

/// One argument of a command, as `#[command]` asks for it.
#[derive(Debug, Clone, Copy)]
pub struct CommandItem<'a> {
    /// The command, for error texts.
    pub command: &'static str,
    /// The key on the wire.
    pub key: &'static str,
    /// The call.
    pub message: &'a InvokeMessage,
}

/// What may stand as an argument of a command: everything that is `Deserialize`, taken from the call's JSON object by its
/// key, and the types that the call itself gives.
///
/// The latter are [`State`], [`Request`], [`Peer`] and `&Peer`, [`Origin`], [`CancellationToken`] and
/// `&`[`InvokeMessage`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` can not be an argument of a command",
    label = "neither `Deserialize` nor given by the call",
    note = "derive `serde::Deserialize` for it, so that callers can send it",
    note = "a value that commands share is taken as `State<'_, T>` and managed in the builder"
)]
pub trait CommandArg<'a>: Sized {
    /// Takes the argument from the call.
    ///
    /// # Errors
    /// `invalid_argument` if the call has no such argument or one of another form.
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault>;
}

#[diagnostic::do_not_recommend]
impl<'a, T: Deserialize<'a>> CommandArg<'a> for T {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        let bad = |text: String| Fault::refusal(ErrorCode::InvalidArgument, text);
        let Some(json) = item.message.argument(item.key)? else {
            // An absent argument is a null one: that is how an Option is left out.
            return serde_json::from_str("null").map_err(|_| bad(missing(&item)));
        };
        serde_json::from_str(json).or_else(|error| {
            // `&str` can't borrow `"a\nb"` from the call as it stands there.
            let unescaped = item.message.unescaped_argument(item.key);
            unescaped
                .and_then(|value| T::deserialize(value).ok())
                .ok_or_else(|| bad(format!("argument `{}` of {}: {error}", item.key, item.message.command())))
        })
    }
}

/// Says that an argument is missing, and whether a near twin was sent.
fn missing(item: &CommandItem<'_>) -> String {
    let flat = |key: &str| key.replace(['_', '-'], "").to_lowercase();
    let twin = item
        .message
        .argument_names()
        .ok()
        .and_then(|mut names| names.find(|name| flat(name) == flat(item.key)).map(str::to_owned));
    let command = item.message.command();
    match twin {
        Some(twin) => format!("{command}: missing `{}`; the call has `{twin}`", item.key),
        None => format!("{command}: missing `{}`", item.key),
    }
}

impl<'a, T: Send + Sync + 'static> CommandArg<'a> for State<'a, T> {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        let found = item.message.state().find::<T>();
        found.ok_or_else(|| Fault::refusal(ErrorCode::Internal, StateManager::missing::<T>()))
    }
}

impl<'a> CommandArg<'a> for Request<'a> {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        Ok(Request::new(item.message))
    }
}

impl<'a> CommandArg<'a> for &'a InvokeMessage {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        Ok(item.message)
    }
}

// Not `Arc<Peer>`: neither the trait's blanket impl nor the language lets that one be. `InvokeMessage::peer` has it.
impl<'a> CommandArg<'a> for &'a Peer {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        Ok(item.message.peer())
    }
}

impl<'a> CommandArg<'a> for Peer {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        Ok(Peer::clone(item.message.peer()))
    }
}

impl<'a> CommandArg<'a> for Origin {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        Ok(item.message.origin().clone())
    }
}

impl<'a> CommandArg<'a> for CancellationToken {
    fn from_command(item: CommandItem<'a>) -> Result<Self, Fault> {
        Ok(item.message.cancellation().clone())
    }
}
