//! Which values are raw bytes, and their bytes.
//!
//! `Vec<u8>`, `Bytes` and `&[u8]` are `Serialize` like any list, and would become arrays of numbers. A value may borrow, so
//! it has no `TypeId`; its type's name tells, and its own `Serialize` gives the bytes. If a type of another crate had
//! one of these names and were no list of bytes, it would be written as JSON like any other.

use std::any::type_name;
use std::fmt;

use bytes::Bytes;
use serde::ser::{Error, Impossible, SerializeSeq};
use serde::{Serialize, Serializer};

/// The bytes of a value whose type is raw bytes, copied; `None` for any other.
pub(super) fn bytes_of<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    let name = type_name::<T>();
    let names = [type_name::<Vec<u8>>(), type_name::<&[u8]>(), type_name::<&Vec<u8>>(), type_name::<Bytes>()];
    if names.contains(&name) { value.serialize(Collector).ok() } else { None }
}

/// A serializer that takes bytes, and lists of them.
struct Collector;

/// A serializer that takes one byte.
struct One;

struct List(Vec<u8>);

#[derive(Debug)]
struct NoBytes;

impl fmt::Display for NoBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not bytes")
    }
}

impl std::error::Error for NoBytes {}

impl Error for NoBytes {
    fn custom<T: fmt::Display>(_: T) -> Self {
        NoBytes
    }
}

impl SerializeSeq for List {
    type Ok = Vec<u8>;
    type Error = NoBytes;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NoBytes> {
        self.0.push(value.serialize(One)?);
        Ok(())
    }

    fn end(self) -> Result<Vec<u8>, NoBytes> {
        Ok(self.0)
    }
}

/// Refuses what the serializer does not take.
macro_rules! refuse {
    ($ok:ty; $($method:ident($($kind:ty),*)),* $(,)?) => {$(
        fn $method(self $(, _: $kind)*) -> Result<$ok, NoBytes> {
            Err(NoBytes)
        }
    )*};
}

/// What both serializers have in common.
macro_rules! refuse_compounds {
    ($ok:ty) => {
        type Ok = $ok;
        type Error = NoBytes;
        type SerializeTuple = Impossible<$ok, NoBytes>;
        type SerializeTupleStruct = Impossible<$ok, NoBytes>;
        type SerializeTupleVariant = Impossible<$ok, NoBytes>;
        type SerializeMap = Impossible<$ok, NoBytes>;
        type SerializeStruct = Impossible<$ok, NoBytes>;
        type SerializeStructVariant = Impossible<$ok, NoBytes>;

        refuse! { $ok;
            serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
            serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32), serialize_f64(f64),
            serialize_char(char), serialize_str(&str), serialize_none(), serialize_unit(),
            serialize_unit_struct(&'static str), serialize_unit_variant(&'static str, u32, &'static str),
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<$ok, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<$ok, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<$ok, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, NoBytes> {
            Err(NoBytes)
        }
        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, NoBytes> {
            Err(NoBytes)
        }
    };
}

impl Serializer for Collector {
    type SerializeSeq = List;

    refuse_compounds!(Vec<u8>);

    refuse! { Vec<u8>; serialize_u8(u8) }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Vec<u8>, NoBytes> {
        Ok(bytes.to_vec())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<List, NoBytes> {
        Ok(List(Vec::with_capacity(len.unwrap_or(0))))
    }
}

impl Serializer for One {
    type SerializeSeq = Impossible<u8, NoBytes>;

    refuse_compounds!(u8);

    refuse! { u8; serialize_bytes(&[u8]) }

    fn serialize_u8(self, byte: u8) -> Result<u8, NoBytes> {
        Ok(byte)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, NoBytes> {
        Err(NoBytes)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde::Serialize;

    use super::bytes_of;

    #[derive(Serialize)]
    struct Wrapped(Vec<u8>);

    #[test]
    fn bytes_are_raw_and_nothing_else_is() {
        let local = [1_u8, 2, 255];
        assert_eq!(bytes_of(&local.to_vec()), Some(local.to_vec()));
        assert_eq!(bytes_of(&&local[..]), Some(local.to_vec()), "also borrowed for a while");
        assert_eq!(bytes_of(&&local.to_vec()), Some(local.to_vec()));
        assert_eq!(bytes_of(&Bytes::copy_from_slice(&local)), Some(local.to_vec()));
        assert_eq!(bytes_of(&Vec::<u8>::new()), Some(Vec::new()));
        assert_eq!(bytes_of(&vec![1_u16]), None);
        assert_eq!(bytes_of(&local), None, "an array is a tuple");
        assert_eq!(bytes_of(&Wrapped(local.to_vec())), None);
        assert_eq!(bytes_of(&"text"), None);
        assert_eq!(bytes_of(&()), None);
    }
}
