//! Every record under its name, to bytes and back, so that vectors, properties and fuzzers reach them without a
//! connection.

use bytes::{BufMut, Bytes, BytesMut};

use crate::coding::{self, Record};
use crate::error::RecordError;
use crate::header::Header;
use crate::metadata::{
    Call, Credit, End, Failure, GoAway, Grant, Hello, Item, Lanes, OriginStamp, Release, Reply, Segment,
    Ungrant, Welcome,
};
use crate::registry::HEADER_LEN;

macro_rules! any_record {
    ($($name:ident),*) => {
        /// A record of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)] // each variant is the record of that name
        pub enum AnyRecord {
            $($name($name),)*
            OriginStamp(OriginStamp),
        }

        impl AnyRecord {
            /// The names of all records, as SPEC.md has them.
            pub const NAMES: &[&str] = &[$(stringify!($name),)* "OriginStamp"];

            /// The record's name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(AnyRecord::$name(_) => stringify!($name),)*
                    AnyRecord::OriginStamp(_) => "OriginStamp",
                }
            }

            /// Reads `bytes` as the record called `name`; `None` if there is no such record.
            ///
            /// # Errors
            /// The rule of SPEC.md, "Records", that the bytes break.
            pub fn decode(name: &str, bytes: &Bytes) -> Option<Result<Self, RecordError>> {
                match name {
                    $(stringify!($name) => Some(coding::decode(bytes).map(AnyRecord::$name)),)*
                    "OriginStamp" => Some(OriginStamp::decode(bytes).map(AnyRecord::OriginStamp)),
                    _ => None,
                }
            }

            /// The record's bytes, whether or not they keep the limits.
            #[must_use]
            pub fn encode(&self) -> Bytes {
                let mut bytes = BytesMut::new();
                match self {
                    $(AnyRecord::$name(record) => coding::encode_into(record, &mut bytes),)*
                    AnyRecord::OriginStamp(record) => coding::encode_into(record, &mut bytes),
                };
                bytes.freeze()
            }

            /// Checks the counts and forms that decoding would check.
            ///
            /// # Errors
            /// The rule of SPEC.md, "Records", that the record breaks.
            pub fn validate(&self) -> Result<(), RecordError> {
                match self {
                    $(AnyRecord::$name(record) => record.validate(),)*
                    AnyRecord::OriginStamp(_) => Ok(()),
                }
            }
        }

        $(
            impl From<$name> for AnyRecord {
                fn from(record: $name) -> Self {
                    AnyRecord::$name(record)
                }
            }
        )*
    };
}

any_record!(
    Hello, Welcome, GoAway, Call, Item, End, Reply, Failure, Credit, Release, Segment, Lanes, Grant, Ungrant
);

impl From<OriginStamp> for AnyRecord {
    fn from(record: OriginStamp) -> Self {
        AnyRecord::OriginStamp(record)
    }
}

/// A frame: `header` with its lengths set to those of `metadata` and `payload`.
///
/// # Panics
/// If a length does not fit the header.
#[must_use]
pub fn frame(header: Header, metadata: &[u8], payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + metadata.len() + payload.len());
    let len = u32::try_from(metadata.len() + payload.len()).expect("a test's frame is small");
    let meta_len = u16::try_from(metadata.len()).expect("a test's metadata is small");
    Header { len, meta_len, ..header }.encode(&mut bytes);
    bytes.put_slice(metadata);
    bytes.put_slice(payload);
    bytes.freeze()
}
