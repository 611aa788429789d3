//! Arguments that the call itself gives and that are small.

use std::ops::Deref;
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_proto::registry::ErrorCode;

use super::argument::{CommandArg, CommandItem, missing};
use super::error::{Fault, InvokeError};
use super::runtime::Runtime;

/// An attachment of the call, as an argument: the bytes that the argument of this name names.
///
/// In the JSON arguments stands `"__ATTACHMENT__:<index>"` for it (SPEC.md, "Message body"); clients write that by
/// themselves. An attachment is one argument's: a call that names it by two is refused. The bytes are not copied. For
/// an attachment that may be left out, take a [`Request`](super::Request) and ask it.
///
/// ```
/// use invoked::ipc::Raw;
///
/// #[invoked::command]
/// fn thumbnail(width: u32, picture: Raw) -> usize { picture.len() / width as usize }
/// # let _handler = invoked::generate_handler![thumbnail];
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(Bytes);

impl Raw {
    /// The bytes, shared.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Raw {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for Raw {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        match item.message.attachment(item.key)? {
            Some(bytes) => Ok(Raw(bytes.clone())),
            None => Err(Fault::refusal(ErrorCode::InvalidArgument, missing(&item)).into()),
        }
    }
}

/// When the caller of a command gives up, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The instant; `None` if the call has no deadline.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.0
    }

    /// The time that is left, none once it has passed; `None` if the call has no deadline.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.0?.saturating_duration_since(Instant::now()))
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.remaining().is_some_and(|left| left.is_zero())
    }
}

impl<'de, R: Runtime> CommandArg<'de, R> for Deadline {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        Ok(Deadline(item.message.deadline()))
    }
}

/// The id that correlates a reply with its call: the number of the call's stream, never used twice on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallbackFn(pub u64);
