//! What a call of `write_file` asks for, in both forms: named arguments, or a raw body with headers.
//!
//! It decides nothing about files.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use invoked_proto::body::{AttachmentRef, Body};
use invoked_proto::registry::ErrorCode;
use rustix::fs::Mode;
use serde::Deserialize;
use serde::de::Visitor;

use super::super::argument;
use crate::ipc::{CallError, Fault, InvokeMessage};

/// Every argument of the command.
const KNOWN: &[&str] = &["path", "contents", "append", "create", "new", "mode", "atomic"];

/// A call, read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) contents: Bytes,
    pub(super) options: Options,
}

/// How it is to be written. As the header `options` it is a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    /// Adds at the end.
    pub(super) append: bool,
    /// Makes a file that is not there.
    pub(super) create: bool,
    /// Refuses a file that is there.
    #[serde(alias = "createNew")]
    pub(super) new: bool,
    /// Of a file that is made, before the daemon's umask.
    pub(super) mode: Option<FileMode>,
    /// All or nothing, by renaming.
    pub(super) atomic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { append: false, create: true, new: false, mode: None, atomic: false }
    }
}

impl Request {
    pub(super) fn read(message: &InvokeMessage) -> Result<Self, CallError> {
        let request = match message.body() {
            Body::Raw(bytes) => Request {
                path: decoded(required_header(message, "path")?)?,
                contents: bytes.clone(),
                options: header(message, "options")?.map_or_else(|| Ok(Options::default()), options)?,
            },
            Body::Json(_) | Body::None => {
                let flag = |key| argument::<Option<bool>>(message, key, KNOWN);
                Request {
                    path: argument(message, "path", KNOWN)?,
                    contents: contents(message)?,
                    options: Options {
                        append: flag("append")?.unwrap_or(false),
                        create: flag("create")?.unwrap_or(true),
                        new: flag("new")?.unwrap_or(false),
                        mode: argument(message, "mode", KNOWN)?,
                        atomic: flag("atomic")?.unwrap_or(false),
                    },
                }
            }
        };
        request.options.check()?;
        Ok(request)
    }
}

impl Options {
    fn check(&self) -> Result<(), Fault> {
        if self.atomic && self.append {
            return Err(invalid(
                "`append` and `atomic` exclude each other: what is replaced is not added to",
            ));
        }
        if self.new && !self.create {
            return Err(invalid("`new` and `create:=false` leave nothing that could be written"));
        }
        Ok(())
    }
}

/// An attachment, or text. Text that looks like the name of an attachment is one: a client that forgot to attach it is told.
fn contents(message: &InvokeMessage) -> Result<Bytes, Fault> {
    let Some(json) = message.argument("contents")? else { return Err(missing_contents()) };
    if json.starts_with('"') {
        let text: Cow<'_, str> = serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
        if AttachmentRef::parse(&text).is_none() {
            return Ok(Bytes::from(text.into_owned()));
        }
    }
    message.attachment("contents")?.cloned().ok_or_else(missing_contents)
}

fn missing_contents() -> Fault {
    invalid("missing `contents`: an attachment (contents@FILE) or text (contents=TEXT)")
}

/// The one header of this key. Of two, two readers could take different ones.
fn header<'a>(message: &'a InvokeMessage, key: &str) -> Result<Option<&'a str>, Fault> {
    let mut found =
        message.headers().iter().filter(|(name, _)| *name == key).map(|(_, value)| value.as_str());
    match (found.next(), found.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(invalid(format!("the header `{key}` is there twice"))),
    }
}

fn required_header<'a>(message: &'a InvokeMessage, key: &str) -> Result<&'a str, Fault> {
    header(message, key)?.ok_or_else(|| {
        invalid(format!("a raw body needs the header `{key}`; or send `path` and `contents` as arguments"))
    })
}

fn options(json: &str) -> Result<Options, Fault> {
    serde_json::from_str(json).map_err(|error| invalid(format!("the header `options`: {error}")))
}

/// Undoes percent-encoding (RFC 3986, 2.1), which front ends need, as a header of theirs takes no other characters.
fn decoded(text: &str) -> Result<String, Fault> {
    let wrong = || invalid("the header `path`: not percent-encoded UTF-8; a `%` itself is written %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, left)) = rest.split_first() {
        rest = left;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, left) = left.split_at_checked(2).ok_or_else(wrong)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit(digits[0]).ok_or_else(wrong)?, digit(digits[1]).ok_or_else(wrong)?);
        bytes.push(high << 4 | low);
        rest = left;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn invalid(text: impl fmt::Display) -> Fault {
    Fault::refusal(ErrorCode::InvalidArgument, format!("fs.write_file: {text}"))
}

/// Permission bits: a number, or octal digits as text. The bits above them, by which a program gets the rights of its file's
/// owner, are nobody's to give away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileMode(u32);

impl From<FileMode> for Mode {
    fn from(mode: FileMode) -> Self {
        Mode::from_raw_mode(mode.0)
    }
}

impl FileMode {
    const MAX: u32 = 0o777;
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FileModeVisitor)
    }
}

struct FileModeVisitor;

impl Visitor<'_> for FileModeVisitor {
    type Value = FileMode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permission bits: octal digits as text, \"0600\", or a number up to {}", FileMode::MAX)
    }

    fn visit_u64<E: serde::de::Error>(self, bits: u64) -> Result<FileMode, E> {
        let mode = u32::try_from(bits).ok().filter(|bits| *bits <= FileMode::MAX);
        mode.map(FileMode).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(bits), &self))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<FileMode, E> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let is_octal = !digits.is_empty() && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let bits = u32::from_str_radix(digits, 8).ok().filter(|bits| is_octal && *bits <= FileMode::MAX);
        bits.map(FileMode).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::{FileMode, Options, decoded, options};

    #[test]
    fn paths_are_percent_decoded() {
        for (encoded, path) in
            [("/a", "/a"), ("%2Fa%20b", "/a b"), ("/%C3%a9", "/é"), ("/é", "/é"), ("/100%25", "/100%")]
        {
            assert_eq!(decoded(encoded).unwrap(), path);
        }
        for wrong in ["/a%", "/a%2", "/a%2x", "/%+1", "/%ff", "/%c3"] {
            assert!(decoded(wrong).unwrap_err().message.contains("percent-encoded"), "{wrong}");
        }
    }

    #[test]
    fn options_are_read_strictly_in_both_spellings() {
        assert_eq!(options("{}").unwrap(), Options::default());
        let all = r#"{"append":false,"create":true,"createNew":true,"mode":384}"#;
        let read = options(all).unwrap();
        assert!(read.new && read.create && read.mode == Some(FileMode(0o600)));
        for wrong in [
            r#"{"baseDir":1}"#,
            r#"{"new":true,"new":false}"#,
            r#"{"new":true,"createNew":false}"#,
            "[1]",
            "x",
        ] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mode_is_octal_text_or_a_number() {
        let read = |json: &str| serde_json::from_str::<FileMode>(json);
        for (json, mode) in
            [("384", 0o600), ("\"600\"", 0o600), ("\"0644\"", 0o644), ("\"0o777\"", 0o777), ("0", 0)]
        {
            assert_eq!(read(json).unwrap(), FileMode(mode), "{json}");
        }
        // 600 and 644 as numbers are other bits than they look like, and have some that nobody may set.
        for json in [
            "600", "644", "755", "512", "\"1777\"", "\"4755\"", "\"8\"", "\"\"", "\"+7\"", "-1", "1.5",
            "true",
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains("octal digits as text"), "{json}: {error}");
        }
    }
}
