//! UTF-8 text that shares the memory it was received in.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// Immutable UTF-8 text; cloning it, and taking it out of a received record, copies nothing.
///
/// A text from the wire keeps the read buffer alive that it came in; whoever stores it for long calls
/// [`detach`](Self::detach).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Text(Bytes);

impl Text {
    /// A text over static memory.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Text(Bytes::from_static(text.as_bytes()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Every constructor takes a `str`; this check costs less than a wake-up and keeps the crate free of unsafe code.
        std::str::from_utf8(&self.0).expect("a Text is made from a str only")
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its length in bytes; like [`is_empty`](Self::is_empty) and [`as_bytes`](Self::as_bytes) without the check that
    /// [`as_str`](Self::as_str) makes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy that owns its memory and keeps no buffer alive.
    #[must_use]
    pub fn detach(&self) -> Self {
        Text(Bytes::copy_from_slice(&self.0))
    }

    /// `text`, which is a part of `owner`.
    pub(crate) fn sharing(owner: &Bytes, text: &str) -> Self {
        // `slice_ref` panics on a slice of other memory, and an empty text may point anywhere.
        Text(if text.is_empty() { Bytes::new() } else { owner.slice_ref(text.as_bytes()) })
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(Bytes::from(text.into_bytes()))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}
