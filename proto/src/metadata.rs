//! The records that stand in the metadata of frames (SPEC.md, "Records").
//!
//! A record ends in [`Extensions`], so that it grows without a new record. Fields stand in the order of their
//! declaration; the encoding is in `coding.rs`.

use bytes::{Bytes, BytesMut};

use crate::coding::{self, Blob, Record, wire};
use crate::error::RecordError;
use crate::registry::{Codec, Delivery, Direction, limits, tags};
use crate::text::Text;

wire! {
    /// One extension of a record.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Extension {
        /// What it is; see [`tags`].
        pub tag: u16,
        /// Its value, in the form that SPEC.md gives for the tag.
        pub value: Blob,
    }
}

wire! {
    /// The extensions of a record, by strictly ascending tag.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Extensions(Vec<Extension>);
}

impl Extensions {
    /// No extension.
    #[must_use]
    pub const fn none() -> Self {
        Extensions(Vec::new())
    }

    /// The value under `tag`.
    #[must_use]
    pub fn find(&self, tag: u16) -> Option<&Bytes> {
        self.0.iter().find(|e| e.tag == tag).map(|e| &e.value.0)
    }

    /// Sets the value under `tag`.
    pub fn insert(&mut self, tag: u16, value: Bytes) {
        let value = Blob(value);
        match self.0.binary_search_by_key(&tag, |e| e.tag) {
            Ok(at) => self.0[at].value = value,
            Err(at) => self.0.insert(at, Extension { tag, value }),
        }
    }

    /// The extensions in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Bytes)> {
        self.0.iter().map(|e| (e.tag, &e.value.0))
    }

    fn validate(&self) -> Result<(), RecordError> {
        at_most(self.0.len(), limits::MAX_EXTENSIONS, "extensions")?;
        if self.0.windows(2).any(|pair| pair[0].tag >= pair[1].tag) {
            return Err(RecordError::TagOrder);
        }
        self.0.iter().try_for_each(Extension::check)
    }
}

impl Extension {
    /// A critical extension must be known, and have the form that SPEC.md gives for it.
    fn check(&self) -> Result<(), RecordError> {
        let value = &self.value.0;
        let well_formed = match self.tag {
            tags::PARENT | tags::ON_BEHALF => value.len() == size_of::<u64>(),
            tags::DEPTH => value.len() == size_of::<u8>(),
            tags::ORIGIN => return OriginStamp::decode(value).map(drop),
            tag if tags::is_critical(tag) && !tags::is_known(tag) => {
                return Err(RecordError::UnknownTag(tag));
            }
            _ => true,
        };
        if well_formed { Ok(()) } else { Err(RecordError::Malformed("value of an extension")) }
    }
}

/// Where the bytes of a part are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the frames.
    Inline,
    /// In a segment introduced by SEGMENT.
    Pool {
        /// The segment.
        segment: u32,
        /// Its generation; a stale one is refused.
        generation: u32,
        /// First byte inside the segment.
        offset: u64,
    },
    /// In a sealed memory file that rides the frame.
    Sealed {
        /// Which of the frame's file descriptors.
        fd: u8,
    },
    /// In an open regular file that rides the frame.
    File {
        /// Which of the frame's file descriptors.
        fd: u8,
        /// First byte inside the file.
        offset: u64,
    },
}

wire! {
    /// One part of a message: the body (part 0) or an attachment.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Part {
        /// How the bytes are to be read; attachments are raw.
        pub codec: Codec,
        /// How many bytes.
        pub len: u64,
        /// Where they are.
        pub place: Place,
    }
}

impl Part {
    /// A part whose bytes stand in the frames.
    #[must_use]
    pub const fn inline(codec: Codec, len: u64) -> Self {
        Part { codec, len, place: Place::Inline }
    }
}

wire! {
    /// A channel that a call declares.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChannelDeclaration {
        /// Its index, 1 or more, unique in the call.
        pub index: u32,
        /// Which way the items go.
        pub direction: Direction,
        /// Bytes that the receiver takes at once; 0 for a channel on which the caller sends.
        pub credit: u64,
    }
}

/// Key and value of a header.
pub type HeaderField = (Text, Text);

wire! {
    /// HELLO: who connects.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Hello {
        /// The program, for people; nothing is decided by it.
        pub name: Text,
        /// The program's version, for people.
        pub version: Text,
        /// The client library and its version.
        pub library: Text,
        /// Hash of the manifest that the client was generated from, if it was.
        pub manifest_hash: Option<Blob>,
        /// Lanes that the client can receive; see the registry.
        pub lanes: Vec<u8>,
        /// Capabilities that the client keeps of those it has; absent keeps all. It can not be undone.
        pub narrow: Option<Vec<Text>>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// WELCOME: the daemon's answer.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Welcome {
        /// The peer id that the daemon gave this connection.
        pub peer: u64,
        /// Limits in force, by their id in the registry.
        pub limits: Vec<(u16, u64)>,
        /// Revision of the catalogue of commands.
        pub catalogue: u64,
        /// Warnings for the client's author.
        pub warnings: Vec<Text>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// GOAWAY: no stream above `last_stream` was or will be taken.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct GoAway {
        /// The last stream of the receiver that the sender took.
        pub last_stream: u64,
        /// Why, for people.
        pub message: Text,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// CALL.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Call {
        /// The command's name; the daemon looks it up, and answers an ill-formed one as an unknown one.
        pub command: Text,
        /// Headers of the application.
        pub headers: Vec<HeaderField>,
        /// Microseconds left until the caller gives up; absent takes the daemon's default, `u64::MAX` is none.
        pub deadline_us: Option<u64>,
        /// Channels that the call opens.
        pub channels: Vec<ChannelDeclaration>,
        /// The body and the attachments.
        pub parts: Vec<Part>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// The first DATA frame of a channel's item.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Item {
        /// The body and the attachments.
        pub parts: Vec<Part>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// The DATA frame with END that ends a channel.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct End {
        /// Absent: it ended well. Else an error code.
        pub code: Option<u32>,
        /// Why, for people.
        pub message: Text,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// RESULT.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Reply {
        /// Headers of the application.
        pub headers: Vec<HeaderField>,
        /// The body and the attachments.
        pub parts: Vec<Part>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// ERROR; its code stands in the frame header.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Failure {
        /// What went wrong, for people; empty for an application's error.
        pub message: Text,
        /// Whether the command may have run.
        pub delivery: Delivery,
        /// Whether the same call may succeed later.
        pub retryable: bool,
        /// Milliseconds after which to try again.
        pub retry_after_ms: Option<u64>,
        /// Id of the authorization decision, for `invokectl explain`.
        pub decision: Option<Text>,
        /// The body and the attachments of an application's error.
        pub parts: Vec<Part>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// CREDIT.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Credit {
        /// Bytes that may be sent beyond what was allowed before; never 0.
        pub bytes: u64,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// Names a slot of a segment.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Lease {
        /// The segment.
        pub segment: u32,
        /// Its generation.
        pub generation: u32,
        /// First byte of the slot.
        pub offset: u64,
    }
}

wire! {
    /// RELEASE.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Release {
        /// File descriptors received since the last RELEASE.
        pub fds: u32,
        /// Slots given back.
        pub leases: Vec<Lease>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// SEGMENT; the segment's file descriptor rides the frame, unless it is given up.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Segment {
        /// The segment's number, chosen by its writer.
        pub segment: u32,
        /// Its generation.
        pub generation: u32,
        /// Its size in bytes; 0 gives it up.
        pub len: u64,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// LANES.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Lanes {
        /// Lanes by number; those that the receiver doesn't know are ignored.
        pub lanes: Vec<u8>,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// GRANT.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Grant {
        /// The grant.
        pub grant: u64,
        /// Grows with each change of the grant's scopes.
        pub generation: u64,
        /// The resolved scopes, one JSON text.
        pub scopes: Blob,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// UNGRANT.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Ungrant {
        /// The grant.
        pub grant: u64,
        /// Extensions.
        pub extensions: Extensions,
    }
}

wire! {
    /// The value of the `origin` extension: whom the daemon calls for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct OriginStamp {
        /// The caller's user.
        pub uid: u32,
        /// The caller's group.
        pub gid: u32,
        /// The caller's peer id.
        pub peer: u64,
        /// The caller's process, if the kernel named it.
        pub pid: Option<u32>,
        /// The grant that allowed the call.
        pub grant: u64,
    }
}

impl Grant {
    /// A grant with its scopes, one JSON text.
    #[must_use]
    pub fn new(grant: u64, generation: u64, scopes: Bytes) -> Self {
        Grant { grant, generation, scopes: Blob(scopes), extensions: Extensions::none() }
    }

    /// The scopes, one JSON text.
    #[must_use]
    pub fn scopes(&self) -> &Bytes {
        &self.scopes.0
    }
}

impl OriginStamp {
    /// Reads the value of an `origin` extension.
    ///
    /// # Errors
    /// The rule of SPEC.md, "Records", that it breaks.
    pub fn decode(value: &Bytes) -> Result<Self, RecordError> {
        coding::decode_exact(value)
    }

    /// The value of an `origin` extension.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        coding::encode_into(self, &mut bytes);
        bytes.freeze()
    }
}

fn at_most(count: usize, max: usize, what: &'static str) -> Result<(), RecordError> {
    if count <= max { Ok(()) } else { Err(RecordError::TooMany(what)) }
}

/// The key of the one reserved header of a call: which major version of a provided plugin is to serve it, in decimal.
pub const MAJOR_HEADER: &str = ":major";

/// Keys are lower-case tokens; those that begin with a colon belong to the protocol, which has the keys in `known`.
fn check_headers(headers: &[HeaderField], known: &[&str]) -> Result<(), RecordError> {
    at_most(headers.len(), limits::MAX_HEADERS, "headers")?;
    let legal = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(byte);
    let is_key = |key: &Text| !key.is_empty() && key.as_bytes().iter().all(legal);
    let bad = headers.iter().any(|(key, _)| !is_key(key) && !known.contains(&key.as_str()));
    if bad { Err(RecordError::Malformed("header key")) } else { Ok(()) }
}

/// Part 0 is the body; the others are raw. A body of kind "none" has no bytes.
fn check_parts(parts: &[Part]) -> Result<(), RecordError> {
    at_most(parts.len(), limits::MAX_PARTS, "parts")?;
    let (body, attachments) = parts.split_first().ok_or(RecordError::Malformed("list of parts"))?;
    if body.codec == Codec::None && (body.len != 0 || body.place != Place::Inline) {
        return Err(RecordError::Malformed("part 0"));
    }
    if attachments.iter().any(|part| part.codec != Codec::Raw) {
        return Err(RecordError::Malformed("attachment"));
    }
    Ok(())
}

impl Record for Hello {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        at_most(self.lanes.len(), 16, "lanes")?;
        at_most(self.narrow.as_ref().map_or(0, Vec::len), limits::MAX_HEADERS, "capabilities")?;
        self.extensions.validate()
    }
}

impl Record for Welcome {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        at_most(self.limits.len(), 64, "limits")?;
        at_most(self.warnings.len(), 16, "warnings")?;
        self.extensions.validate()
    }
}

impl Record for Call {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        if self.command.is_empty() || self.command.len() > limits::MAX_NAME {
            return Err(RecordError::Malformed("command name"));
        }
        check_headers(&self.headers, &[MAJOR_HEADER])?;
        at_most(self.channels.len(), limits::MAX_CHANNELS_PER_CALL, "channels")?;
        for (at, channel) in self.channels.iter().enumerate() {
            let twice = self.channels[..at].iter().any(|earlier| earlier.index == channel.index);
            if channel.index == 0 || twice {
                return Err(RecordError::Malformed("channel index"));
            }
        }
        check_parts(&self.parts)?;
        self.extensions.validate()
    }
}

impl Record for Item {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        check_parts(&self.parts)?;
        self.extensions.validate()
    }
}

impl Record for Reply {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        check_headers(&self.headers, &[])?;
        check_parts(&self.parts)?;
        self.extensions.validate()
    }
}

impl Record for Failure {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        check_parts(&self.parts)?;
        self.extensions.validate()
    }
}

impl Record for Credit {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        if self.bytes == 0 {
            return Err(RecordError::Malformed("credit"));
        }
        self.extensions.validate()
    }
}

impl Record for Release {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        at_most(self.leases.len(), 1024, "leases")?;
        self.extensions.validate()
    }
}

impl Record for Lanes {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    fn validate(&self) -> Result<(), RecordError> {
        at_most(self.lanes.len(), 16, "lanes")?;
        self.extensions.validate()
    }
}

/// Records whose only rules are those of their extensions.
macro_rules! plain_records {
    ($($name:ident),*) => {$(
        impl Record for $name {
            fn extensions(&self) -> &Extensions {
                &self.extensions
            }

            fn validate(&self) -> Result<(), RecordError> {
                self.extensions.validate()
            }
        }
    )*};
}

plain_records!(GoAway, End, Segment, Grant, Ungrant);
