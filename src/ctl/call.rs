//! `invokectl call`: one call, and its result to where it belongs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use invoked_client::blocking::Client;
use invoked_client::{Body, Call, Error, ErrorCode, Reply};
use invoked_proto::name::CommandName;
use serde_json::{Map, Value, json};

use super::args::{CallArgs, Global, Timeout};
use super::arguments::{Payload, PayloadBody, payload};
use super::connection::{connect_within, prefix};
use super::failure::Failure;
use super::interrupt::on_interrupt;
use super::output::{Output, Sink, write};

pub(super) fn run(global: &Global, args: &CallArgs, output: &Output) -> Result<(), Failure> {
    let Payload { body, attachments, texts, keys } =
        payload(&args.arguments, args.raw.as_deref(), &args.attach)?;
    let name = canonical(&args.name)?;
    let client = connect_within(global, args.timeout.for_connecting())?;
    let call = attachments.into_iter().fold(client.call(name.as_str()), Call::attach);
    let call = match body {
        PayloadBody::None => call,
        PayloadBody::Json(json) => call.json(json),
        PayloadBody::Raw(bytes) => call.raw(bytes),
    };
    let call = args.header.iter().fold(call, |call, (key, value)| call.header(key, value));
    let call = match args.timeout {
        Timeout::After(timeout) => call.timeout(timeout),
        Timeout::Never => call.no_timeout(),
    };
    match call.send() {
        Ok(reply) => deliver(&reply, args.output.as_deref(), output),
        Err(error) => {
            let hint = hint(&error, &client, name.as_str(), &texts, &keys, global);
            Err(Failure::Call { error: Box::new(error), hint })
        }
    }
}

/// The one spelling under which the daemon knows the command.
pub(super) fn canonical(name: &str) -> Result<CommandName, Failure> {
    CommandName::parse(name)
        .map_err(|error| Failure::Usage(format!("{name:?} is no command's name: {error}")))
}

fn deliver(reply: &Reply, file: Option<&Path>, output: &Output) -> Result<(), Failure> {
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => save(reply, file, output),
        None if output.is_json() => output.object(&object(reply)),
        None => show(reply, output),
    }
}

/// The result as one object: `result` or `raw`, and `attachments` if there are any.
fn object(reply: &Reply) -> Value {
    let raw = |bytes: &[u8]| json!({ "bytes": bytes.len(), "base64": base64(bytes) });
    let mut object = Map::new();
    match reply.body() {
        Body::None => drop(object.insert("result".to_owned(), Value::Null)),
        Body::Json(json) => match serde_json::from_slice::<Value>(json) {
            Ok(value) => drop(object.insert("result".to_owned(), value)),
            // Not what its codec says; the bytes are all there is to give.
            Err(_) => drop(object.insert("raw".to_owned(), raw(json))),
        },
        Body::Raw(bytes) => drop(object.insert("raw".to_owned(), raw(bytes))),
    }
    if !reply.attachments().is_empty() {
        let attachments = reply.attachments().iter().map(|bytes| raw(bytes)).collect();
        object.insert("attachments".to_owned(), Value::Array(attachments));
    }
    Value::Object(object)
}

/// What of a body goes to standard output.
#[derive(Debug, PartialEq, Eq)]
enum Printed<'a> {
    Nothing,
    Json(&'a [u8]),
    Bytes(&'a [u8]),
    /// Raw bytes, for which a terminal is no place.
    Kept(usize),
}

impl<'a> Printed<'a> {
    fn of(body: &'a Body, sink: Sink) -> Self {
        match (body, sink) {
            (Body::None, _) => Printed::Nothing,
            (Body::Json(json), _) => Printed::Json(json),
            (Body::Raw(bytes), Sink::Pipe) => Printed::Bytes(bytes),
            (Body::Raw(bytes), Sink::Terminal { .. }) => Printed::Kept(bytes.len()),
        }
    }
}

fn show(reply: &Reply, output: &Output) -> Result<(), Failure> {
    match Printed::of(reply.body(), output.sink()) {
        Printed::Nothing => {}
        Printed::Json(json) => output.json(json)?,
        Printed::Bytes(bytes) => write(bytes)?,
        Printed::Kept(len) => output.note(&kept_from_terminal(len)),
    }
    let count = reply.attachments().len();
    if count > 0 {
        let total: usize = reply.attachments().iter().map(bytes::Bytes::len).sum();
        output.note(&format!("and {count} attachments, {total} bytes: -o FILE saves them beside it"));
    }
    Ok(())
}

/// What stands in for raw bytes on a terminal.
fn kept_from_terminal(len: usize) -> String {
    format!("{len} raw bytes, not printed to a terminal: save them with -o FILE, or send them into a pipe")
}

/// Saves body and attachments: FILE, FILE.1, FILE.2, …
fn save(reply: &Reply, file: &Path, output: &Output) -> Result<(), Failure> {
    let mut saved = vec![(file.to_owned(), reply.bytes())];
    for (index, bytes) in reply.attachments().iter().enumerate() {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}", index + 1));
        saved.push((PathBuf::from(name), bytes));
    }
    for (path, bytes) in &saved {
        write_file(path, bytes).map_err(Failure::local(format!("can't write {}", path.display())))?;
        output.note(&format!("{} bytes in {}", bytes.len(), path.display()));
    }
    if output.is_json() {
        let files: Vec<Value> = saved
            .iter()
            .map(|(path, bytes)| json!({ "file": path.to_string_lossy(), "bytes": bytes.len() }))
            .collect();
        output.object(&json!({ "saved": files }))?;
    }
    Ok(())
}

/// Writes beside the file and renames, so that nobody sees half of it; what is no regular file is written as it is.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let existing = fs::metadata(path);
    if existing.as_ref().is_ok_and(|meta| !meta.is_file()) {
        return File::options().write(true).open(path)?.write_all(bytes);
    }
    // A link keeps leading there.
    let target = if existing.is_ok() { fs::canonicalize(path)? } else { path.to_owned() };
    let mut part = target.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let file = File::create_new(&part)?;
    let cleanup = part.clone();
    let _guard = on_interrupt(move || drop(fs::remove_file(cleanup)));
    let written = fill(file, bytes, existing.ok()).and_then(|()| fs::rename(&part, &target));
    if written.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&part));
    }
    written
}

fn fill(mut file: File, bytes: &[u8], replaced: Option<fs::Metadata>) -> std::io::Result<()> {
    if let Some(replaced) = replaced {
        file.set_permissions(replaced.permissions())?;
    }
    file.write_all(bytes)
}

/// What to do about an error, where the tool can tell.
fn hint(
    error: &Error,
    client: &Client,
    name: &str,
    texts: &[(String, String)],
    keys: &[String],
    global: &Global,
) -> Option<String> {
    match error.code()? {
        ErrorCode::InvalidArgument => {
            let typed = texts.iter().find_map(|(key, text)| typed_hint(error.message(), key, text));
            typed.or_else(|| described_hint(client, name, keys, global))
        }
        ErrorCode::NotFound => Some(format!("{} list tells the commands there are", prefix(global))),
        ErrorCode::PermissionDenied => {
            Some("the daemon's log says which capability is missing, and what would allow it".to_owned())
        }
        _ => None,
    }
}

/// `len=5` where a number is wanted: `len wants u32: len:=5`.
fn typed_hint(message: &str, key: &str, text: &str) -> Option<String> {
    if !message.contains(&format!("`{key}`")) || !message.contains("invalid type: string") {
        return None;
    }
    let (_, wanted) = message.rsplit_once("expected ")?;
    let wanted = wanted.split(" at line").next().unwrap_or(wanted);
    let is_json = serde_json::from_str::<Value>(text).is_ok_and(|value| !value.is_string());
    let value = if is_json { text } else { "JSON" };
    Some(format!("{key} wants {wanted}: {key}:={value}"))
}

/// What the command takes, if the daemon tells.
fn described_hint(client: &Client, name: &str, keys: &[String], global: &Global) -> Option<String> {
    let described: Value = client.invoke("core.describe", &json!({ "name": name })).ok()?;
    let arguments = described["arguments"].as_array()?;
    let known: Vec<&str> = arguments.iter().filter_map(|argument| argument["key"].as_str()).collect();
    let unknown: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !known.contains(key)).collect();
    let takes = if known.is_empty() { "no arguments".to_owned() } else { known.join(", ") };
    let more = format!("{} describe {name} tells more", prefix(global));
    if unknown.is_empty() || known.is_empty() {
        return Some(format!("{name} takes {takes}; {more}"));
    }
    Some(format!("{name} has no `{}`; it takes {takes}; {more}", unknown.join("`, `")))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let sextet = (group >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use invoked_client::Body;

    use super::{Printed, Sink, base64, kept_from_terminal, typed_hint, write_file};

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn raw_bytes_go_to_a_pipe_and_never_to_a_terminal() {
        let raw = Body::Raw(b"\x1b[2J"[..].into());
        for colours in [true, false] {
            assert_eq!(Printed::of(&raw, Sink::Terminal { colours }), Printed::Kept(4));
        }
        assert_eq!(Printed::of(&raw, Sink::Pipe), Printed::Bytes(b"\x1b[2J"));
        assert_eq!(Printed::of(&Body::None, Sink::Pipe), Printed::Nothing);
    }

    #[test]
    fn a_terminal_is_told_how_to_get_raw_bytes() {
        let text = kept_from_terminal(7);
        assert!(text.starts_with("7 raw bytes") && text.contains("-o FILE"));
    }

    #[test]
    fn text_where_a_number_is_wanted_has_a_hint() {
        let message =
            "argument `len` of bench.bytes: invalid type: string \"5\", expected u32 at line 1 column 3";
        assert_eq!(typed_hint(message, "len", "5").as_deref(), Some("len wants u32: len:=5"));
        assert_eq!(typed_hint(message, "len", "five").as_deref(), Some("len wants u32: len:=JSON"));
        assert_eq!(typed_hint(message, "other", "5"), None);
        assert_eq!(typed_hint("bench.bytes: missing `len`", "len", "5"), None);
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write_file(&file, b"first").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        symlink(&file, &link).expect("linked");
        write_file(&link, b"second").expect("written");
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).expect("read"), b"second");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(write_file(&dir.path().join("no/such/dir"), b"").is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 2, "no part is left");
    }
}
