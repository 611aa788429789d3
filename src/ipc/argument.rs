//! How a call becomes the arguments of a function.

use std::sync::Arc;

use invoked_proto::registry::ErrorCode;
use serde::Deserialize;

use super::cancellation::CancellationToken;
use super::error::{Fault, InvokeError};
use super::invoke::{InvokeMessage, Request};
use super::peer::{Origin, Peer};
use super::runtime::{Runtime, Wry};
use super::state::{State, StateManager};
use crate::app::{AppHandle, Calling, Webview, WebviewWindow, Window};

/// One argument of a command, as `#[command]` asks for it.
///
/// It is a serde `Deserializer` of that one argument: an implementation of [`CommandArg`] may write
/// `Vec::<String>::deserialize(item)`.
#[derive(Debug)]
pub struct CommandItem<'a, R: Runtime = Wry> {
    /// The command, within its plugin.
    pub name: &'a str,
    /// The key on the wire.
    pub key: &'a str,
    /// The call.
    pub message: &'a InvokeMessage<R>,
}

impl<R: Runtime> Clone for CommandItem<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: Runtime> Copy for CommandItem<'_, R> {}

impl<'a, R: Runtime> CommandItem<'a, R> {
    /// The argument's JSON text; `null` if the call has none: that is how an `Option` is left out.
    fn json(&self) -> Result<&'a str, Fault> {
        Ok(self.message.argument(self.key)?.unwrap_or("null"))
    }
}

/// What may stand as an argument of a command: everything that is `Deserialize`, taken from the call's JSON object by its
/// key, and the types that the call itself gives.
///
/// The latter are [`State`], [`Request`], [`Raw`](super::Raw), [`CommandScope`](super::CommandScope),
/// [`GlobalScope`](super::GlobalScope), [`AppHandle`], [`Peer`] and `&Peer`, [`Origin`], [`Deadline`](super::Deadline),
/// [`CancellationToken`] and `&`[`InvokeMessage`].
///
/// ```
/// use invoked::Runtime;
/// use invoked::ipc::{CommandArg, CommandItem, InvokeError};
///
/// /// The value of a header.
/// struct Trace(Option<String>);
///
/// impl<'de, R: Runtime> CommandArg<'de, R> for Trace {
///     fn from_command(command: CommandItem<'de, R>) -> Result<Self, InvokeError> {
///         Ok(Trace(command.message.headers().find("trace").map(str::to_owned)))
///     }
/// }
///
/// #[invoked::command]
/// fn traced(trace: Trace) -> bool { trace.0.is_some() }
/// # let _handler = invoked::generate_handler![traced];
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can not be an argument of a command",
    label = "neither `Deserialize` nor given by the call",
    note = "derive `serde::Deserialize` for it, so that callers can send it",
    note = "a value that commands share is taken as `State<'_, T>` and managed in the builder"
)]
pub trait CommandArg<'de, R: Runtime = Wry>: Sized {
    /// Takes the argument from the call.
    ///
    /// # Errors
    /// `invalid_argument` if the call has no such argument or one of another form.
    fn from_command(command: CommandItem<'de, R>) -> Result<Self, InvokeError>;
}

#[diagnostic::do_not_recommend]
impl<'de, R: Runtime, T: Deserialize<'de>> CommandArg<'de, R> for T {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        let json = item.json()?;
        serde_json::from_str(json).or_else(|error| {
            // `&str` can't borrow `"a\nb"` from the call as it stands there.
            let unescaped = item.message.received().unescaped_argument(item.key);
            let value = unescaped.and_then(|value| T::deserialize(value).ok());
            value.ok_or_else(|| wrong::<T, R>(&item, json, &error).into())
        })
    }
}

/// Says what is wrong with an argument, and where in it.
fn wrong<'de, T: Deserialize<'de>, R: Runtime>(
    item: &CommandItem<'de, R>,
    json: &'de str,
    error: &serde_json::Error,
) -> Fault {
    let bad = |text: String| Fault::refusal(ErrorCode::InvalidArgument, text);
    let (key, name) = (item.key, item.message.name());
    if item.message.argument(key).is_ok_and(|found| found.is_none()) {
        return bad(missing(item));
    }
    // Read a second time, now that it matters where the error is.
    let located = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(json));
    match located.err().map(|error| error.path().to_string()) {
        Some(path) if path != "." => bad(format!("argument `{key}` of {name}: at `{path}`: {error}")),
        _ => bad(format!("argument `{key}` of {name}: {error}")),
    }
}

/// Says that an argument is missing, and whether a near twin was sent.
pub(super) fn missing<R: Runtime>(item: &CommandItem<'_, R>) -> String {
    let flat = |key: &str| key.replace(['_', '-'], "").to_lowercase();
    let twin = item
        .message
        .argument_names()
        .ok()
        .and_then(|mut names| names.find(|name| flat(name) == flat(item.key)).map(str::to_owned));
    let command = item.message.name();
    match twin {
        Some(twin) => format!("{command}: missing `{}`; the call has `{twin}`", item.key),
        None => format!("{command}: missing `{}`", item.key),
    }
}

impl<'de, R: Runtime, T: Send + Sync + 'static> CommandArg<'de, R> for State<'de, T> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        let found = item.message.state().find::<T>();
        found.ok_or_else(|| Fault::refusal(ErrorCode::Internal, StateManager::missing::<T>()).into())
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for Request<'de> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(Request::new(item.message.received()))
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for &'de InvokeMessage<R> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(item.message)
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for AppHandle<R> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        let message = item.message;
        let calling = Calling {
            peer: Arc::clone(message.peer()),
            deadline: message.deadline(),
            depth: message.received().depth(),
            behalf: message.received().behalf(),
            stream: message.callback().0,
            cancellation: message.cancellation().clone(),
        };
        Ok(message.app().with_calling(Some(Arc::new(calling))))
    }
}

// Not `Arc<Peer>`: neither the trait's blanket impl nor the language lets that one be. `InvokeMessage::peer` has it.
impl<'de, R: Runtime> CommandArg<'de, R> for &'de Peer {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(item.message.peer())
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for Peer {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(Peer::clone(item.message.peer()))
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for Origin {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(item.message.origin().clone())
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for CancellationToken {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(item.message.cancellation().clone())
    }
}

/// The macro refuses these with a reason; the impls only keep a second, less helpful, error away.
macro_rules! without_windows {
    ($($name:ident)*) => {$(
        impl<'de, R: Runtime> CommandArg<'de, R> for $name<R> {
            fn from_command(_: CommandItem<'de, R>) -> Result<Self, InvokeError> {
                Err(Fault::refusal(ErrorCode::Unimplemented, "a daemon has no windows").into())
            }
        }
    )*};
}

without_windows!(Window Webview WebviewWindow);

/// Answers each request of serde's from the argument's JSON text.
macro_rules! from_json {
    ($($method:ident($($name:ident: $kind:ty),*))*) => {$(
        fn $method<V: serde::de::Visitor<'de>>(self, $($name: $kind,)* visitor: V) -> Result<V::Value, Self::Error> {
            let json = self.json().map_err(|fault| serde::de::Error::custom(fault.message))?;
            let mut json = serde_json::Deserializer::from_str(json);
            let value = serde::Deserializer::$method(&mut json, $($name,)* visitor)?;
            json.end()?;
            Ok(value)
        }
    )*};
}

impl<'de, R: Runtime> serde::Deserializer<'de> for CommandItem<'de, R> {
    type Error = serde_json::Error;

    from_json! {
        deserialize_any() deserialize_bool()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option() deserialize_unit()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_seq() deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map() deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier() deserialize_ignored_any()
    }
}
