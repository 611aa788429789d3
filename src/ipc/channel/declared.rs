//! The channels that a call declares, how arguments name them, and how each is taken once.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use invoked_proto::registry::ErrorCode;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::{Channel, ChannelReader, ReceivingEnd, SendingEnd};
use crate::ipc::argument::CommandItem;
use crate::ipc::error::{Fault, InvokeError};
use crate::ipc::runtime::Runtime;

/// How a channel stands in JSON arguments, before its index.
const PLACEHOLDER: &str = "__CHANNEL__:";

/// The channels that a call declares; copies share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeclaredChannels(Option<Arc<Mutex<Vec<Declared>>>>);

/// A channel under its index; `None` once it was taken.
type Declared = (u32, Option<HandlerEnd>);

/// The handler's end of a channel, whichever way its items go.
#[derive(Debug)]
pub(crate) enum HandlerEnd {
    Sending(SendingEnd),
    Receiving(ReceivingEnd),
}

impl DeclaredChannels {
    pub(crate) fn new(channels: impl IntoIterator<Item = (u32, HandlerEnd)>) -> Self {
        let channels: Vec<Declared> = channels.into_iter().map(|(index, end)| (index, Some(end))).collect();
        DeclaredChannels((!channels.is_empty()).then(|| Arc::new(Mutex::new(channels))))
    }

    /// Takes the channel of an index, if it is one that `choose` wants.
    fn take<E>(
        &self,
        index: u32,
        choose: impl FnOnce(HandlerEnd) -> Result<E, HandlerEnd>,
    ) -> Result<E, Fault> {
        let bad = |text: String| Fault::refusal(ErrorCode::InvalidArgument, text);
        let undeclared = || bad(format!("the call declares no channel {index}"));
        let mut channels =
            self.0.as_ref().ok_or_else(undeclared)?.lock().unwrap_or_else(PoisonError::into_inner);
        let found = channels.iter_mut().find(|(declared, _)| *declared == index);
        let (_, slot) = found.ok_or_else(undeclared)?;
        let end = slot.take().ok_or_else(|| bad(format!("channel {index} is taken already")))?;
        choose(end).map_err(|end| {
            *slot = Some(end);
            bad(format!("channel {index} goes the other way"))
        })
    }

    pub(crate) fn channel<T>(&self, index: u32) -> Result<Channel<T>, Fault> {
        let end = self.take(index, |end| match end {
            HandlerEnd::Sending(end) => Ok(end),
            other @ HandlerEnd::Receiving(_) => Err(other),
        });
        end.map(|end| Channel::new(index, end))
    }

    pub(crate) fn reader<T>(&self, index: u32) -> Result<ChannelReader<T>, Fault> {
        let end = self.take(index, |end| match end {
            HandlerEnd::Receiving(end) => Ok(end),
            other @ HandlerEnd::Sending(_) => Err(other),
        });
        end.map(|end| ChannelReader::new(index, end))
    }
}

/// A call, as the command sees it, whose channels can be taken: [`InvokeMessage`](crate::ipc::InvokeMessage) and
/// [`Request`](crate::ipc::Request).
pub trait ChannelSource {
    /// Takes the channel of this index that the call declares. Each is taken once.
    ///
    /// # Errors
    /// `invalid_argument` if the call declares none of this index on which the command sends, or it was taken before.
    fn channel<T>(&self, index: u32) -> Result<Channel<T>, Fault>;

    /// The same for a channel on which the caller sends.
    ///
    /// # Errors
    /// As [`channel`](Self::channel).
    fn channel_reader<T>(&self, index: u32) -> Result<ChannelReader<T>, Fault>;
}

impl<S: ChannelSource> ChannelSource for &S {
    fn channel<T>(&self, index: u32) -> Result<Channel<T>, Fault> {
        (**self).channel(index)
    }

    fn channel_reader<T>(&self, index: u32) -> Result<ChannelReader<T>, Fault> {
        (**self).channel_reader(index)
    }
}

/// A channel as it stands in JSON arguments: `"__CHANNEL__:<index>"`.
///
/// For a channel inside a structure: the structure has a field of this type, and the command takes the channel out with
/// [`channel_on`](Self::channel_on). It names a channel only if the call declares one of that index; else it is a string
/// like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JavaScriptChannelId(u32);

impl JavaScriptChannelId {
    /// Takes the channel of this index that the call declares. In Tauri a webview stands in the place of the call.
    ///
    /// # Errors
    /// As [`ChannelSource::channel`].
    pub fn channel_on<T>(&self, call: impl ChannelSource) -> Result<Channel<T>, Fault> {
        call.channel(self.0)
    }

    /// The same for a channel on which the caller sends.
    ///
    /// # Errors
    /// As [`ChannelSource::channel`].
    pub fn reader_on<T>(&self, call: impl ChannelSource) -> Result<ChannelReader<T>, Fault> {
        call.channel_reader(self.0)
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.0
    }
}

/// A text that is no channel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected a channel, \"{PLACEHOLDER}<index>\"")]
pub struct NotAChannelId;

impl FromStr for JavaScriptChannelId {
    type Err = NotAChannelId;

    fn from_str(text: &str) -> Result<Self, NotAChannelId> {
        let index = text.strip_prefix(PLACEHOLDER).ok_or(NotAChannelId)?;
        // One way to write each: `parse` would take a sign and leading zeros.
        let is_plain = index.bytes().all(|byte| byte.is_ascii_digit()) && !index.starts_with('0');
        let index = index.parse().ok().filter(|_| is_plain);
        index.map(JavaScriptChannelId).ok_or(NotAChannelId)
    }
}

impl fmt::Display for JavaScriptChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PLACEHOLDER}{}", self.0)
    }
}

impl Serialize for JavaScriptChannelId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JavaScriptChannelId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The channel that an argument names.
pub(super) fn claim<R: Runtime, C>(
    item: CommandItem<'_, R>,
    take: impl FnOnce(JavaScriptChannelId) -> Result<C, Fault>,
) -> Result<C, InvokeError> {
    let bad = |text: String| Fault::refusal(ErrorCode::InvalidArgument, text);
    let (name, key) = (item.message.name(), item.key);
    let Some(json) = item.message.argument(key)? else {
        return Err(bad(format!("{name}: missing `{key}`, a channel: \"{PLACEHOLDER}<index>\"")).into());
    };
    let id: JavaScriptChannelId =
        serde_json::from_str(json).map_err(|error| bad(format!("argument `{key}` of {name}: {error}")))?;
    Ok(take(id).map_err(|fault| Fault {
        message: format!("argument `{key}` of {name}: {}", fault.message),
        ..fault
    })?)
}
