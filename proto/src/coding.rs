//! Records to bytes and back: the one place that knows the encoding.
//!
//! The encoding is bincode's standard configuration (SPEC.md, "Records"). Three rules are added here, because the
//! package does not enforce them: a record takes exactly the bytes it was given, its integers are minimal, and
//! no length inside it can reserve more than four times the largest metadata.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::enc::write::{SizeWriter, Writer};
use bincode::error::{DecodeError as BincodeDecodeError, EncodeError as BincodeEncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::{BufMut, Bytes, BytesMut};

use crate::error::RecordError;
use crate::metadata::{Extensions, Place};
use crate::registry::{Codec, Delivery, Direction, limits};
use crate::text::Text;

/// What a guard of bincode counts is memory, not bytes of input, so it is set above what the limits of SPEC.md
/// allow a legal record to need.
const ALLOCATION_GUARD: usize = 4 * limits::MAX_METADATA;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<ALLOCATION_GUARD>,
>;

fn config() -> Config {
    bincode::config::standard().with_limit::<ALLOCATION_GUARD>()
}

/// Gives a type the encoding of records: its fields, or the number of its variant and then its fields, in the order of
/// their declaration.
macro_rules! wire {
    ($item:item) => {
        #[derive(::bincode::Encode, ::bincode::BorrowDecode)]
        #[bincode(decode_context = "::bytes::Bytes")]
        $item
    };
}
pub(crate) use wire;

/// A record of frame metadata.
pub(crate) trait Record: Encode + for<'a> BorrowDecode<'a, Bytes> {
    /// What closes the record.
    fn extensions(&self) -> &Extensions;

    /// Checks the counts and lengths that SPEC.md sets for this record.
    fn validate(&self) -> Result<(), RecordError>;
}

/// Decodes one record that must fill `bytes` exactly.
///
/// Text and byte strings of the result share the memory of `bytes`.
pub(crate) fn decode<R: Record>(bytes: &Bytes) -> Result<R, RecordError> {
    let record: R = decode_exact(bytes)?;
    record.validate()?;
    Ok(record)
}

/// Like [`decode`], for a value that stands inside a record and has no counts of its own to check.
pub(crate) fn decode_exact<T>(bytes: &Bytes) -> Result<T, RecordError>
where
    T: Encode + for<'a> BorrowDecode<'a, Bytes>,
{
    let (value, used): (T, usize) =
        bincode::borrow_decode_from_slice_with_context(bytes, config(), bytes.clone())
            .map_err(|error| refusal(&error))?;
    if used != bytes.len() {
        return Err(RecordError::TrailingBytes);
    }
    // bincode takes 251 0x05 0x00 for 5; a second spelling of the same record is refused.
    if encoded_len(&value) != used {
        return Err(RecordError::NotMinimal);
    }
    Ok(value)
}

/// The number of bytes that `value` takes.
pub(crate) fn encoded_len<T: Encode>(value: &T) -> usize {
    let mut encoder = bincode::enc::EncoderImpl::new(SizeWriter::default(), config());
    value.encode(&mut encoder).expect("counting bytes can not fail");
    encoder.into_writer().bytes_written
}

/// Appends the bytes of `value` to `out` and returns how many they are.
pub(crate) fn encode_into<T: Encode>(value: &T, out: &mut BytesMut) -> usize {
    let before = out.len();
    bincode::encode_into_writer(value, Growing(out), config()).expect("a growing buffer takes every record");
    out.len() - before
}

/// A writer over a buffer that grows.
struct Growing<'a>(&'a mut BytesMut);

impl Writer for Growing<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BincodeEncodeError> {
        self.0.put_slice(bytes);
        Ok(())
    }
}

fn refusal(error: &BincodeDecodeError) -> RecordError {
    match error {
        BincodeDecodeError::UnexpectedEnd { .. } => RecordError::Truncated,
        BincodeDecodeError::LimitExceeded => RecordError::LimitExceeded,
        BincodeDecodeError::Utf8 { .. } => RecordError::NotUtf8,
        _ => RecordError::BadValue,
    }
}

impl Encode for Text {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), BincodeEncodeError> {
        // A string is encoded as its bytes are.
        self.as_bytes().encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Text {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, BincodeDecodeError> {
        let text = <&'de str as BorrowDecode<'de, Bytes>>::borrow_decode(decoder)?;
        Ok(Text::sharing(decoder.context(), text))
    }
}

/// A byte string of a record; it shares the record's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Bytes);

impl Encode for Blob {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), BincodeEncodeError> {
        self.0.as_ref().encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Blob {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, BincodeDecodeError> {
        let bytes = <&'de [u8] as BorrowDecode<'de, Bytes>>::borrow_decode(decoder)?;
        // `slice_ref` panics on a slice of other memory, and an empty slice may point anywhere.
        Ok(Blob(if bytes.is_empty() { Bytes::new() } else { decoder.context().slice_ref(bytes) }))
    }
}

/// Small enumerations travel as their number in one byte; an unknown number refuses the record.
macro_rules! code_as_byte {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), BincodeEncodeError> {
                self.as_u8().encode(encoder)
            }
        }
        impl<'de> BorrowDecode<'de, Bytes> for $name {
            fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
                decoder: &mut D,
            ) -> Result<Self, BincodeDecodeError> {
                let byte = <u8 as BorrowDecode<'de, Bytes>>::borrow_decode(decoder)?;
                $name::from_u8(byte).ok_or(BincodeDecodeError::Other("unknown number of an enumeration"))
            }
        }
    )*};
}

code_as_byte!(Codec, Delivery, Direction);

/// The variant's number as a u32 like a derived enumeration's; by hand, because `wire!` hides the names of fields of
/// variants from the derive.
impl Encode for Place {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), BincodeEncodeError> {
        match *self {
            Place::Inline => 0_u32.encode(encoder),
            Place::Pool { segment, generation, offset } => {
                1_u32.encode(encoder)?;
                (segment, generation, offset).encode(encoder)
            }
            Place::Sealed { fd } => {
                2_u32.encode(encoder)?;
                fd.encode(encoder)
            }
            Place::File { fd, offset } => {
                3_u32.encode(encoder)?;
                (fd, offset).encode(encoder)
            }
        }
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Place {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, BincodeDecodeError> {
        match <u32 as BorrowDecode<'de, Bytes>>::borrow_decode(decoder)? {
            0 => Ok(Place::Inline),
            1 => {
                let (segment, generation, offset) = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
                Ok(Place::Pool { segment, generation, offset })
            }
            2 => Ok(Place::Sealed { fd: BorrowDecode::<'de, Bytes>::borrow_decode(decoder)? }),
            3 => {
                let (fd, offset) = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
                Ok(Place::File { fd, offset })
            }
            _ => Err(BincodeDecodeError::Other("unknown place of a part")),
        }
    }
}
