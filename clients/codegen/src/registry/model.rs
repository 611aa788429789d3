//! What `proto/registry.toml` may say, as serde types. Unknown keys are errors.

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Version, magic and the sizes of the fixed parts.
    pub wire: Wire,
    /// `[[codec]]`: how a part is encoded.
    pub codec: Vec<Named>,
    /// `[[direction]]`: which way a channel flows.
    pub direction: Vec<Named>,
    /// `[[overflow]]`: what a channel does whose receiver takes too little.
    pub overflow: Vec<Named>,
    /// `[[delivery]]`: what became of a call that failed.
    pub delivery: Vec<Named>,
    /// `[[lane]]`: where the bytes of a part stand.
    pub lane: Vec<Named>,
    /// `[[frame]]`: kinds of frames.
    pub frame: Vec<Frame>,
    /// `[[flag]]`: bits of a header's flags.
    pub flag: Vec<Bit>,
    /// `[[feature]]`: bits of the preface's features.
    pub feature: Vec<Bit>,
    /// `[[tag]]`: extensions of metadata records.
    pub tag: Vec<Tag>,
    /// `[[error]]`: error codes.
    pub error: Vec<ErrorCode>,
    /// `[[limit]]`: limits of the protocol.
    pub limit: Vec<Limit>,
    /// `[[quota]]`: quotas of the daemon.
    pub quota: Vec<Quota>,
}

/// `[wire]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wire {
    /// The wire version.
    pub version: u16,
    /// The first bytes of a preface.
    pub magic: [u8; 8],
    /// Bytes of a preface.
    pub preface_len: usize,
    /// Bytes of a frame header.
    pub header_len: usize,
}

/// A named byte.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// `snake_case`.
    pub name: String,
    /// The byte on the wire.
    pub value: u8,
    /// A sentence.
    pub doc: String,
}

/// A kind of frame.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// Upper case, as SPEC.md writes it.
    pub name: String,
    /// Byte 4 of the header.
    pub value: u8,
    /// Which streams it may name.
    pub stream: Stream,
    /// The metadata record it carries, if any.
    pub record: Option<String>,
    /// Whether this version gives it no meaning.
    #[serde(default)]
    pub reserved: bool,
    /// A sentence.
    pub doc: String,
}

/// Which streams a kind of frame may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Stream 0 only.
    Zero,
    /// A stream that it opens.
    Opens,
    /// A stream that is open.
    Open,
    /// Any.
    Any,
}

/// A bit of a set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bit {
    /// Upper case.
    pub name: String,
    /// Its position, from 0.
    pub bit: u8,
    /// Whether this version gives it no meaning.
    #[serde(default)]
    pub reserved: bool,
    /// A sentence.
    pub doc: String,
}

/// An extension of metadata records.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// `snake_case`.
    pub name: String,
    /// The tag on the wire.
    pub value: u16,
    /// Who may write it.
    pub from: From,
    /// A sentence.
    pub doc: String,
}

/// Who may write an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The side that calls.
    Caller,
    /// The daemon only.
    Daemon,
    /// Anyone.
    Any,
}

/// An error code.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorCode {
    /// `snake_case`.
    pub name: String,
    /// `arg` of an ERROR frame.
    pub value: u32,
    /// The exit code of `invokectl`.
    pub exit: u8,
    /// Whether the same call may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// A sentence.
    pub doc: String,
}

/// A limit of the protocol.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// `snake_case`; ends in `_ms` exactly if the unit is `ms`.
    pub name: String,
    /// Its id in WELCOME, if it is announced.
    pub id: Option<u16>,
    /// The default.
    pub value: u64,
    /// What the value counts.
    pub unit: Unit,
    /// A sentence.
    pub doc: String,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Milliseconds.
    Ms,
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

impl Unit {
    /// The unit as the registry writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::Bytes => "bytes",
            Self::Count => "count",
        }
    }
}

/// A quota of the daemon; not part of the wire.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// `snake_case`, the key under `[quotas]`.
    pub name: String,
    /// The default.
    pub value: u64,
    /// A sentence.
    pub doc: String,
}
