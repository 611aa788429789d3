//! The records once more, as SPEC.md has them: the shape that vectors give in JSON, and that a second encoder turns
//! into bytes. Shares no type with the crate, so that a field lost or moved there shows here.
#![allow(dead_code)] // each test binary that includes it uses a part
#![allow(clippy::cast_possible_truncation)]
#![allow(clippy::mem_forget)] // in what the derive of the second encoder makes

use std::fmt;

use invoked_proto::metadata as wire;
use invoked_proto::testing::AnyRecord;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wincode::{SchemaRead, SchemaWrite};

/// Bytes, in JSON two hexadecimal digits each.
#[derive(Debug, Clone, PartialEq, Eq, SchemaWrite, SchemaRead)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Hex {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let legal = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
        if !digits.len().is_multiple_of(2) || !digits.iter().all(legal) {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>().map(Hex)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Hex::parse(&text).ok_or_else(|| D::Error::custom("not lower-case hexadecimal"))
    }
}

/// A u64, in JSON a number while a double holds it exactly and decimal text above that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SchemaWrite, SchemaRead)]
pub(crate) struct Big(pub(crate) u64);

impl Serialize for Big {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 < 1 << 53 { serializer.serialize_u64(self.0) } else { serializer.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Big {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Number(number) => number.as_u64().map(Big),
            serde_json::Value::String(text) => text.parse().ok().map(Big),
            _ => None,
        }
        .ok_or_else(|| D::Error::custom("not a u64"))
    }
}

macro_rules! mirror {
    ($($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, SchemaWrite, SchemaRead)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }
    )*};
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, SchemaWrite, SchemaRead)]
#[serde(rename_all = "lowercase")]
#[wincode(tag_encoding = "u8")]
pub(crate) enum Codec {
    None,
    Raw,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, SchemaWrite, SchemaRead)]
#[serde(rename_all = "lowercase")]
#[wincode(tag_encoding = "u8")]
pub(crate) enum Direction {
    Down,
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, SchemaWrite, SchemaRead)]
#[serde(rename_all = "snake_case")]
#[wincode(tag_encoding = "u8")]
pub(crate) enum Delivery {
    NotDelivered,
    Delivered,
    Completed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, SchemaWrite, SchemaRead)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Place {
    Inline,
    Pool { segment: u32, generation: u32, offset: Big },
    Sealed { fd: u8 },
    File { fd: u8, offset: Big },
}

mirror! {
    struct Extension { tag: u16, value: Hex, }
    struct HeaderField { key: String, value: String, }
    struct Part { codec: Codec, len: Big, place: Place, }
    struct Channel { index: u32, direction: Direction, credit: Big, }
    struct Limit { id: u16, value: Big, }
    struct Lease { segment: u32, generation: u32, offset: Big, }
    struct Hello {
        name: String,
        version: String,
        library: String,
        manifest_hash: Option<Hex>,
        lanes: Vec<u8>,
        narrow: Option<Vec<String>>,
        extensions: Vec<Extension>,
    }
    struct Welcome {
        peer: Big,
        limits: Vec<Limit>,
        catalogue: Big,
        warnings: Vec<String>,
        extensions: Vec<Extension>,
    }
    struct GoAway { last_stream: Big, message: String, extensions: Vec<Extension>, }
    struct Call {
        command: String,
        headers: Vec<HeaderField>,
        deadline_us: Option<Big>,
        channels: Vec<Channel>,
        parts: Vec<Part>,
        extensions: Vec<Extension>,
    }
    struct Item { parts: Vec<Part>, extensions: Vec<Extension>, }
    struct End { code: Option<u32>, message: String, extensions: Vec<Extension>, }
    struct Reply { headers: Vec<HeaderField>, parts: Vec<Part>, extensions: Vec<Extension>, }
    struct Failure {
        message: String,
        delivery: Delivery,
        retryable: bool,
        retry_after_ms: Option<Big>,
        decision: Option<String>,
        parts: Vec<Part>,
        extensions: Vec<Extension>,
    }
    struct Credit { bytes: Big, extensions: Vec<Extension>, }
    struct Release { fds: u32, leases: Vec<Lease>, extensions: Vec<Extension>, }
    struct Segment { segment: u32, generation: u32, len: Big, extensions: Vec<Extension>, }
    struct Lanes { lanes: Vec<u8>, extensions: Vec<Extension>, }
    struct Grant { grant: Big, generation: Big, scopes: Hex, extensions: Vec<Extension>, }
    struct Ungrant { grant: Big, extensions: Vec<Extension>, }
    struct OriginStamp { uid: u32, gid: u32, peer: Big, pid: Option<u32>, grant: Big, }
}

fn texts(texts: &[invoked_proto::Text]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn hex(bytes: &[u8]) -> Hex {
    Hex(bytes.to_vec())
}

fn extensions(extensions: &wire::Extensions) -> Vec<Extension> {
    extensions.iter().map(|(tag, value)| Extension { tag, value: hex(value) }).collect()
}

fn headers(headers: &[wire::HeaderField]) -> Vec<HeaderField> {
    let field =
        |(key, value): &wire::HeaderField| HeaderField { key: key.to_string(), value: value.to_string() };
    headers.iter().map(field).collect()
}

fn parts(parts: &[wire::Part]) -> Vec<Part> {
    use invoked_proto::registry;
    let part = |part: &wire::Part| Part {
        codec: match part.codec {
            registry::Codec::None => Codec::None,
            registry::Codec::Raw => Codec::Raw,
            registry::Codec::Json => Codec::Json,
        },
        len: Big(part.len),
        place: match part.place {
            wire::Place::Inline => Place::Inline,
            wire::Place::Pool { segment, generation, offset } => {
                Place::Pool { segment, generation, offset: Big(offset) }
            }
            wire::Place::Sealed { fd } => Place::Sealed { fd },
            wire::Place::File { fd, offset } => Place::File { fd, offset: Big(offset) },
        },
    };
    parts.iter().map(part).collect()
}

fn channels(channels: &[wire::ChannelDeclaration]) -> Vec<Channel> {
    use invoked_proto::registry;
    let channel = |channel: &wire::ChannelDeclaration| Channel {
        index: channel.index,
        direction: match channel.direction {
            registry::Direction::Down => Direction::Down,
            registry::Direction::Up => Direction::Up,
        },
        credit: Big(channel.credit),
    };
    channels.iter().map(channel).collect()
}

fn delivery(delivery: invoked_proto::registry::Delivery) -> Delivery {
    use invoked_proto::registry;
    match delivery {
        registry::Delivery::NotDelivered => Delivery::NotDelivered,
        registry::Delivery::Delivered => Delivery::Delivered,
        registry::Delivery::Completed => Delivery::Completed,
    }
}

fn json(mirror: impl Serialize) -> serde_json::Value {
    serde_json::to_value(mirror).expect("a mirror is plain data")
}

/// The fields of `record`, as vectors write them.
pub(crate) fn fields(record: &AnyRecord) -> serde_json::Value {
    match record {
        AnyRecord::Hello(r) => json(Hello {
            name: r.name.to_string(),
            version: r.version.to_string(),
            library: r.library.to_string(),
            manifest_hash: r.manifest_hash.as_ref().map(|blob| hex(&blob.0)),
            lanes: r.lanes.clone(),
            narrow: r.narrow.as_ref().map(|narrow| texts(narrow)),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::Welcome(r) => json(Welcome {
            peer: Big(r.peer),
            limits: r.limits.iter().map(|&(id, value)| Limit { id, value: Big(value) }).collect(),
            catalogue: Big(r.catalogue),
            warnings: texts(&r.warnings),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::GoAway(r) => json(GoAway {
            last_stream: Big(r.last_stream),
            message: r.message.to_string(),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::Call(r) => json(Call {
            command: r.command.to_string(),
            headers: headers(&r.headers),
            deadline_us: r.deadline_us.map(Big),
            channels: channels(&r.channels),
            parts: parts(&r.parts),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::Item(r) => json(Item { parts: parts(&r.parts), extensions: extensions(&r.extensions) }),
        AnyRecord::End(r) => {
            json(End { code: r.code, message: r.message.to_string(), extensions: extensions(&r.extensions) })
        }
        AnyRecord::Reply(r) => json(Reply {
            headers: headers(&r.headers),
            parts: parts(&r.parts),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::Failure(r) => json(Failure {
            message: r.message.to_string(),
            delivery: delivery(r.delivery),
            retryable: r.retryable,
            retry_after_ms: r.retry_after_ms.map(Big),
            decision: r.decision.as_ref().map(ToString::to_string),
            parts: parts(&r.parts),
            extensions: extensions(&r.extensions),
        }),
        other => fields_of_the_connection(other),
    }
}

fn fields_of_the_connection(record: &AnyRecord) -> serde_json::Value {
    match record {
        AnyRecord::Credit(r) => json(Credit { bytes: Big(r.bytes), extensions: extensions(&r.extensions) }),
        AnyRecord::Release(r) => {
            let lease = |l: &wire::Lease| Lease {
                segment: l.segment,
                generation: l.generation,
                offset: Big(l.offset),
            };
            let leases = r.leases.iter().map(lease).collect();
            json(Release { fds: r.fds, leases, extensions: extensions(&r.extensions) })
        }
        AnyRecord::Segment(r) => json(Segment {
            segment: r.segment,
            generation: r.generation,
            len: Big(r.len),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::Lanes(r) => json(Lanes { lanes: r.lanes.clone(), extensions: extensions(&r.extensions) }),
        AnyRecord::Grant(r) => json(Grant {
            grant: Big(r.grant),
            generation: Big(r.generation),
            scopes: hex(&r.scopes.0),
            extensions: extensions(&r.extensions),
        }),
        AnyRecord::Ungrant(r) => json(Ungrant { grant: Big(r.grant), extensions: extensions(&r.extensions) }),
        AnyRecord::OriginStamp(r) => {
            json(OriginStamp { uid: r.uid, gid: r.gid, peer: Big(r.peer), pid: r.pid, grant: Big(r.grant) })
        }
        other => panic!("{} has no mirror", other.name()),
    }
}

/// The bytes that the second encoder makes of `fields`, after it has read them back.
///
/// # Errors
/// What keeps `fields` from being those of the record `name`.
pub(crate) fn second_encoding(name: &str, fields: &serde_json::Value) -> Result<Vec<u8>, String> {
    match name {
        "Hello" => encode::<Hello>(fields),
        "Welcome" => encode::<Welcome>(fields),
        "GoAway" => encode::<GoAway>(fields),
        "Call" => encode::<Call>(fields),
        "Item" => encode::<Item>(fields),
        "End" => encode::<End>(fields),
        "Reply" => encode::<Reply>(fields),
        "Failure" => encode::<Failure>(fields),
        "Credit" => encode::<Credit>(fields),
        "Release" => encode::<Release>(fields),
        "Segment" => encode::<Segment>(fields),
        "Lanes" => encode::<Lanes>(fields),
        "Grant" => encode::<Grant>(fields),
        "Ungrant" => encode::<Ungrant>(fields),
        "OriginStamp" => encode::<OriginStamp>(fields),
        _ => Err(format!("no record is called {name}")),
    }
}

type Config = wincode::config::Configuration<
    true,
    { wincode::config::DEFAULT_PREALLOCATION_SIZE_LIMIT },
    wincode::len::BincodeLen,
    wincode::int_encoding::LittleEndian,
    wincode::int_encoding::VarInt,
>;

fn encode<M>(fields: &serde_json::Value) -> Result<Vec<u8>, String>
where
    M: DeserializeOwned + Serialize + PartialEq + fmt::Debug,
    M: SchemaWrite<Config, Src = M> + for<'de> SchemaRead<'de, Config, Dst = M>,
{
    let mirror: M = serde_json::from_value(fields.clone()).map_err(|error| error.to_string())?;
    if json(&mirror) != *fields {
        return Err(format!("a field is missing, or written in another form: {}", json(&mirror)));
    }
    let config: Config = wincode::config::Configuration::default().with_varint_encoding();
    let bytes = wincode::config::serialize(&mirror, config).map_err(|error| error.to_string())?;
    let back: M = wincode::config::deserialize(&bytes, config).map_err(|error| error.to_string())?;
    if back == mirror { Ok(bytes) } else { Err("the second encoder does not read what it wrote".to_owned()) }
}
