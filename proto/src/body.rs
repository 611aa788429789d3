//! Messages: a body and its attachments, and how they are put together from fragments.

use std::fmt;

use bytes::Bytes;

use crate::decoder::append_within;
use crate::error::PeerError;
use crate::metadata::{Part, Place};
use crate::registry::Codec;
use crate::registry::limits::MAX_PARTS;

/// The body of a message. "None" and "empty" differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Body {
    /// No body.
    #[default]
    None,
    /// Bytes without structure.
    Raw(Bytes),
    /// One JSON text, unparsed.
    Json(Bytes),
}

impl Body {
    /// The body's codec.
    #[must_use]
    pub const fn codec(&self) -> Codec {
        match self {
            Body::None => Codec::None,
            Body::Raw(_) => Codec::Raw,
            Body::Json(_) => Codec::Json,
        }
    }

    /// The body's bytes; none for [`Body::None`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::None => &[],
            Body::Raw(bytes) | Body::Json(bytes) => bytes,
        }
    }

    /// The body's bytes, shared; none for [`Body::None`].
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Body::None => Bytes::new(),
            Body::Raw(bytes) | Body::Json(bytes) => bytes,
        }
    }

    fn of(codec: Codec, bytes: Bytes) -> Self {
        match codec {
            Codec::None => Body::None,
            Codec::Raw => Body::Raw(bytes),
            Codec::Json => Body::Json(bytes),
        }
    }
}

/// A body and its raw attachments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Part 0.
    pub body: Body,
    /// The other parts, in order.
    pub attachments: Vec<Bytes>,
}

impl From<Body> for Message {
    fn from(body: Body) -> Self {
        Message { body, attachments: Vec::new() }
    }
}

impl Message {
    /// Bytes of all parts together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.bytes().len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }

    /// True if no part has a byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part list that announces this message with all bytes in the frames.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::with_capacity(1 + self.attachments.len());
        parts.push(Part::inline(self.body.codec(), self.body.bytes().len() as u64));
        parts.extend(self.attachments.iter().map(|a| Part::inline(Codec::Raw, a.len() as u64)));
        parts
    }

    /// Copies what shares a buffer more than four times its size, so that keeping a small message keeps no large
    /// buffer. `buffer` is the capacity that the bytes of a received message share.
    #[must_use]
    pub fn detach(mut self, buffer: usize) -> Self {
        if self.len() * 4 < buffer {
            let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
            self.body = match &self.body {
                Body::None => Body::None,
                Body::Raw(bytes) => Body::Raw(copy(bytes)),
                Body::Json(bytes) => Body::Json(copy(bytes)),
            };
            self.attachments = self.attachments.iter().map(copy).collect();
        }
        self
    }
}

/// How JSON names an attachment of its own message: `"__ATTACHMENT__:<index>"`, counted from 0 (SPEC.md, "Messages").
///
/// ```
/// use invoked_proto::body::AttachmentRef;
///
/// assert_eq!(AttachmentRef(2).to_string(), "__ATTACHMENT__:2");
/// assert_eq!(AttachmentRef::parse("__ATTACHMENT__:2"), Some(AttachmentRef(2)));
/// assert_eq!(AttachmentRef::parse("__ATTACHMENT__:02"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentRef(pub usize);

impl AttachmentRef {
    const PREFIX: &str = "__ATTACHMENT__:";

    /// Reads the text of a JSON string; `None` if it is any other string. Whether the message has such an attachment is not
    /// asked: [`of`](Self::of) does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        let one_spelling = digits == "0" || !digits.starts_with(['0', '+']);
        let index: usize = digits.parse().ok().filter(|_| one_spelling)?;
        (index < MAX_PARTS - 1).then_some(AttachmentRef(index))
    }

    /// The attachment among those of its message; `None` if there is none of this index.
    #[must_use]
    pub fn of(self, attachments: &[Bytes]) -> Option<&Bytes> {
        attachments.get(self.0)
    }
}

impl fmt::Display for AttachmentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

/// The number of inline bytes that `parts` announce, `None` if they overflow.
#[must_use]
pub fn inline_len(parts: &[Part]) -> Option<u64> {
    parts.iter().filter(|p| p.place == Place::Inline).try_fold(0_u64, |sum, part| sum.checked_add(part.len))
}

/// The number of bytes that `parts` announce and that are held in memory, in the frames or outside of them; `None` if they
/// overflow.
#[must_use]
pub fn held_len(parts: &[Part]) -> Option<u64> {
    let is_held = |part: &&Part| !matches!(part.place, Place::File { .. });
    parts.iter().filter(is_held).try_fold(0_u64, |sum, part| sum.checked_add(part.len))
}

/// The number of bytes that `parts` announce, wherever they are; `None` if they overflow.
#[must_use]
pub fn whole_len(parts: &[Part]) -> Option<u64> {
    parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.len))
}

/// A message on its way in: memory grows with what arrives, not with what is announced.
#[derive(Debug)]
pub struct Assembly {
    parts: Vec<Part>,
    expected: usize,
    received: Received,
    /// The parts that are not inline, where they were found, in order.
    outside: Vec<Bytes>,
}

#[derive(Debug)]
enum Received {
    /// The first fragment, shared with the read buffer; often it is everything.
    Shared(Bytes),
    /// More than one fragment.
    Copied(Vec<u8>),
}

impl Assembly {
    /// Begins a message of `parts` with its first fragment. The caller has checked [`inline_len`] against its limit.
    ///
    /// # Errors
    /// [`PeerError::MessageLength`] if the announced length does not fit this machine or is already exceeded.
    pub fn begin(parts: Vec<Part>, first: Bytes) -> Result<Self, PeerError> {
        let expected = inline_len(&parts).and_then(|len| usize::try_from(len).ok());
        let expected = expected.ok_or(PeerError::MessageLength)?;
        if first.len() > expected {
            return Err(PeerError::MessageLength);
        }
        let received = if first.len() == expected {
            Received::Shared(first)
        } else {
            // It will be copied anyway; until the rest comes it must not keep a whole read buffer for a few bytes.
            let mut copied = Vec::new();
            append_within(&mut copied, &first, expected);
            Received::Copied(copied)
        };
        Ok(Assembly { parts, expected, received, outside: Vec::new() })
    }

    /// Begins a message as [`begin`](Self::begin) does, some of whose parts may be elsewhere than in the frames: `find` gives
    /// their bytes. They are held, and given back if the message is dropped.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), and those of `find`.
    pub fn begin_with(
        parts: Vec<Part>,
        first: Bytes,
        find: impl FnMut(&Part) -> Result<Bytes, PeerError>,
    ) -> Result<Self, PeerError> {
        let elsewhere = parts.iter().filter(|part| part.place != Place::Inline);
        let outside = elsewhere.map(find).collect::<Result<_, _>>()?;
        Ok(Assembly { outside, ..Assembly::begin(parts, first)? })
    }

    /// True if parts are elsewhere than in the frames and were not given yet.
    #[must_use]
    pub fn lacks_outside(&self) -> bool {
        let elsewhere = self.parts.iter().filter(|part| part.place != Place::Inline);
        elsewhere.count() != self.outside.len()
    }

    /// Gives the bytes of the parts that are elsewhere than in the frames, in their order.
    ///
    /// # Errors
    /// [`PeerError::MessageLength`] if they are not as many, or not as long, as was announced.
    pub fn give_outside(&mut self, outside: Vec<Bytes>) -> Result<(), PeerError> {
        let elsewhere = self.parts.iter().filter(|part| part.place != Place::Inline);
        if !elsewhere.map(|part| part.len).eq(outside.iter().map(|bytes| bytes.len() as u64)) {
            return Err(PeerError::MessageLength);
        }
        self.outside = outside;
        Ok(())
    }

    /// Adds a fragment.
    ///
    /// # Errors
    /// [`PeerError::MessageLength`] if it is more than was announced.
    pub fn push(&mut self, fragment: &[u8]) -> Result<(), PeerError> {
        if fragment.len() > self.expected - self.len() {
            return Err(PeerError::MessageLength);
        }
        if let Received::Copied(copied) = &mut self.received {
            append_within(copied, fragment, self.expected);
        }
        Ok(())
    }

    /// Bytes received.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.received {
            Received::Shared(bytes) => bytes.len(),
            Received::Copied(bytes) => bytes.len(),
        }
    }

    /// True while no byte has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True once every announced byte is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.len() == self.expected
    }

    /// The message.
    ///
    /// # Errors
    /// [`PeerError::MessageLength`] if bytes are missing; [`PeerError::Feature`] if a part is elsewhere and nothing was said of
    /// it.
    pub fn finish(self) -> Result<Message, PeerError> {
        self.finish_detached(0)
    }

    /// The message. Inline bytes that share a buffer more than four times their size are copied, so that keeping a small
    /// message keeps no large buffer. `buffer` is the capacity of the buffer that the first fragment came in.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_detached(self, buffer: usize) -> Result<Message, PeerError> {
        if !self.is_complete() {
            return Err(PeerError::MessageLength);
        }
        if self.lacks_outside() {
            return Err(PeerError::Feature);
        }
        let mut bytes = match self.received {
            Received::Shared(bytes) if bytes.len() * 4 < buffer => Bytes::copy_from_slice(&bytes),
            Received::Shared(bytes) => bytes,
            Received::Copied(bytes) => Bytes::from(bytes),
        };
        let mut outside = self.outside.into_iter();
        let mut take = |part: &Part| {
            if part.place != Place::Inline {
                return outside.next().unwrap_or_default();
            }
            // The sum fitted a usize, so each length does.
            bytes.split_to(usize::try_from(part.len).unwrap_or(usize::MAX).min(bytes.len()))
        };
        let Some((first, attachments)) = self.parts.split_first() else {
            return Err(PeerError::BodyMismatch);
        };
        let body = Body::of(first.codec, take(first));
        Ok(Message { body, attachments: attachments.iter().map(take).collect() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::AttachmentRef;

    #[test]
    fn only_one_spelling_names_an_attachment() {
        for index in 0..16 {
            assert_eq!(AttachmentRef::parse(&AttachmentRef(index).to_string()), Some(AttachmentRef(index)));
        }
        for other in [
            "",
            "__ATTACHMENT__:",
            "__ATTACHMENT__:00",
            "__ATTACHMENT__:01",
            "__ATTACHMENT__:+1",
            "__ATTACHMENT__:-1",
            "__ATTACHMENT__: 1",
            "__ATTACHMENT__:1 ",
            "__ATTACHMENT__:16",
            "__ATTACHMENT__:99999999999999999999999",
            "__attachment__:1",
            "__ATTACHMENT__:\u{ff11}",
            " __ATTACHMENT__:1",
            "__CHANNEL__:1",
        ] {
            assert_eq!(AttachmentRef::parse(other), None, "{other:?}");
        }
        let attachments = [Bytes::from_static(b"a")];
        assert_eq!(AttachmentRef(0).of(&attachments), Some(&attachments[0]));
        assert_eq!(AttachmentRef(1).of(&attachments), None);
    }
}
