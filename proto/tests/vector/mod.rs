//! The files under proto/vectors as types; an unknown field refuses the file.
#![allow(dead_code)] // each test binary that includes it uses a part

pub(crate) mod describe;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::mirror::{Big, Hex};

/// Runs of one byte at least this long are written as a repeat.
const RUN: usize = 64;

/// A file of cases.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File<C> {
    #[serde(rename = "$schema")]
    pub(crate) schema: String,
    pub(crate) kind: String,
    pub(crate) about: String,
    pub(crate) cases: Vec<C>,
}

/// A record: fields and bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordCase {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) record: String,
    pub(crate) fields: Value,
    pub(crate) hex: Bulk,
}

/// A preface, with the reason that follows it if it refuses.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrefaceCase {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) preface: PrefaceFields,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) hex: Bulk,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrefaceFields {
    pub(crate) version_min: u16,
    pub(crate) version_max: u16,
    pub(crate) max_frame: u32,
    pub(crate) features: Big,
    pub(crate) instance: Big,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) reason: String,
}

/// A whole frame.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FrameCase {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) header: HeaderFields,
    pub(crate) record: Option<RecordFields>,
    pub(crate) payload: Bulk,
    pub(crate) hex: Bulk,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderFields {
    pub(crate) len: u32,
    pub(crate) kind: String,
    pub(crate) codec: String,
    pub(crate) flags: Vec<String>,
    pub(crate) stream: u64,
    pub(crate) meta_len: u16,
    pub(crate) nfds: u8,
    pub(crate) arg: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordFields {
    pub(crate) record: String,
    pub(crate) fields: Value,
}

/// Bytes that come to one side, and what it makes of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputCase {
    pub(crate) name: String,
    pub(crate) about: String,
    /// The section of SPEC.md.
    pub(crate) spec: String,
    pub(crate) to: Side,
    pub(crate) after: After,
    pub(crate) features: Vec<String>,
    pub(crate) hex: Bulk,
    /// File descriptors that ride the first byte.
    pub(crate) fds: usize,
    /// What is wrong, as the crate names it; nothing if the input is legal.
    pub(crate) error: Option<String>,
    /// The code of the error.
    pub(crate) code: Option<String>,
    pub(crate) answer: Answer,
    pub(crate) events: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Client,
    Daemon,
}

/// How far the connection is when the input comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum After {
    Start,
    Preface,
    Greeted,
    Open,
    Called,
    Half,
    Ended,
    Draining,
    Channels,
    Taking,
}

/// What the receiver says to the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// The connection goes on.
    None,
    /// GOAWAY with the code, then close.
    Goaway,
    /// A refusing preface with the code, then close.
    Refusal,
    /// Nothing, and close.
    Close,
}

/// A whole dialogue.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionCase {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) client: SideFields,
    pub(crate) daemon: SideFields,
    pub(crate) steps: Vec<Step>,
}

/// What a side announces in its preface.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SideFields {
    pub(crate) max_frame: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) features: Vec<String>,
    pub(crate) instance: Big,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) about: String,
    pub(crate) from: Side,
    /// What the sender's owner asked for; empty where the bytes were written by hand.
    #[serde(rename = "do")]
    pub(crate) acts: Vec<Act>,
    pub(crate) hex: Bulk,
    /// What the receiver tells its owner.
    pub(crate) events: Vec<Value>,
}

/// Something that the owner of a connection asks of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Act {
    Connect {
        hello: Value,
    },
    Welcome {
        welcome: Value,
    },
    Call {
        command: String,
        headers: Vec<(String, String)>,
        deadline_us: Option<Big>,
        flags: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        channels: Vec<Declaration>,
        message: Content,
    },
    Item {
        stream: u64,
        channel: u32,
        message: Content,
    },
    End {
        stream: u64,
        channel: u32,
        code: Option<String>,
        message: String,
    },
    Stop {
        stream: u64,
        channel: u32,
    },
    Consume {
        stream: u64,
        channel: u32,
        credit: u64,
    },
    Cancel {
        stream: u64,
    },
    Reply {
        stream: u64,
        headers: Vec<(String, String)>,
        message: Content,
    },
    Fail {
        stream: u64,
        code: String,
        failure: Value,
        message: Content,
    },
    Ping {
        nonce: u32,
    },
    Drain {
        message: String,
    },
    Refuse {
        code: String,
        message: String,
    },
    /// Nothing is asked; the connection answers by itself.
    Nothing {},
}

/// A channel that a call declares.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declaration {
    pub(crate) index: u32,
    pub(crate) direction: String,
    pub(crate) credit: u64,
}

/// A message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    pub(crate) codec: String,
    pub(crate) body: Bulk,
    pub(crate) attachments: Vec<Bulk>,
}

/// Bytes in hexadecimal; long runs of one byte as a repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bulk(pub(crate) Bytes);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Piece {
    Literal(Hex),
    Run(Run),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    repeat: Hex,
    times: usize,
}

impl Bulk {
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        for run in self.0.chunk_by(|a, b| a == b) {
            if run.len() < RUN {
                literal.extend_from_slice(run);
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(Hex(std::mem::take(&mut literal))));
            }
            pieces.push(Piece::Run(Run { repeat: Hex(vec![run[0]]), times: run.len() }));
        }
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Literal(Hex(literal)));
        }
        pieces
    }
}

impl Serialize for Bulk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.pieces().as_slice() {
            [Piece::Literal(hex)] => hex.serialize(serializer),
            pieces => pieces.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bulk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let pieces: Vec<Piece> = match value {
            Value::String(text) => {
                vec![Piece::Literal(Hex::parse(&text).ok_or_else(|| D::Error::custom("not hexadecimal"))?)]
            }
            list => serde_json::from_value(list).map_err(D::Error::custom)?,
        };
        let mut bytes = BytesMut::new();
        for piece in pieces {
            match piece {
                Piece::Literal(hex) => bytes.extend_from_slice(&hex.0),
                Piece::Run(run) => bytes.extend_from_slice(&run.repeat.0.repeat(run.times)),
            }
        }
        Ok(Bulk(bytes.freeze()))
    }
}

/// The directory of the vectors.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// All files of one directory of the vectors, by name.
pub(crate) fn files(of: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory().join(of)).expect("the directory is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no vectors of {of}");
    paths
}

/// Reads a file, gives its cases to `check`, and writes what came out if INVOKED_BLESS is set; else compares.
pub(crate) fn each<C: DeserializeOwned + Serialize>(
    path: &Path,
    kind: &str,
    mut check: impl FnMut(&mut C),
) -> usize {
    let text = fs::read_to_string(path).expect("a readable file");
    let mut file: File<C> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(file.kind, kind, "{}", path.display());
    assert_eq!(file.schema, "../../schema/vector.schema.json", "{}", path.display());
    file.cases.iter_mut().for_each(&mut check);
    let given: Value = serde_json::from_str(&text).expect("it was read before");
    let now = serde_json::to_value(&file).expect("a file of cases is plain data");
    if now == given {
        return file.cases.len();
    }
    if std::env::var_os("INVOKED_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&file).expect("a file of cases is plain data");
        fs::write(path, text + "\n").expect("a writable file");
        return file.cases.len();
    }
    let mut differences = Vec::new();
    compare(&given, &now, "", &mut differences);
    panic!("{}: {} differences\n{}", path.display(), differences.len(), differences.join("\n"));
}

/// Where two values differ, in words.
fn compare(given: &Value, now: &Value, at: &str, differences: &mut Vec<String>) {
    match (given, now) {
        _ if given == now => {}
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                let name =
                    a.get("name").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
                compare(a, b, &format!("{at}/{name}"), differences);
            }
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            for (key, value) in a {
                compare(value, &b[key], &format!("{at}/{key}"), differences);
            }
        }
        _ => differences.push(format!("{at}: the file has {given}, the crate has {now}")),
    }
}
