//! What a call gave back, to where it belongs.
//!
//! It owns the files of `-o`, the object of `-j`, and what of a body goes to a terminal. It makes no call.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use invoked_client::{Body, OpenFile, Reply};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::interrupt::on_interrupt;
use super::output::{Output, Sink, write};

/// Prints a result, or saves it in `file`.
pub(super) fn deliver(reply: &Reply, file: Option<&Path>, output: &Output) -> Result<(), Failure> {
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => save(reply, file, output),
        None if output.is_json() => {
            output.object(&Value::Object(fields("result", reply.body(), reply.attachments())))
        }
        None => show(reply.body(), reply.attachments(), output),
    }
}

/// Raw bytes as programs get them.
pub(super) fn raw(bytes: &[u8]) -> Value {
    json!({ "bytes": bytes.len(), "base64": base64(bytes) })
}

/// A message as one object: its JSON under `name`, or `raw`, and `attachments` if there are any.
pub(super) fn fields(name: &str, body: &Body, attachments: &[Bytes]) -> Map<String, Value> {
    let mut object = Map::new();
    match body {
        Body::None => drop(object.insert(name.to_owned(), Value::Null)),
        Body::Json(json) => match serde_json::from_slice::<Value>(json) {
            Ok(value) => drop(object.insert(name.to_owned(), value)),
            // Not what its codec says; the bytes are all there is to give.
            Err(_) => drop(object.insert("raw".to_owned(), raw(json))),
        },
        Body::Raw(bytes) => drop(object.insert("raw".to_owned(), raw(bytes))),
    }
    if !attachments.is_empty() {
        let attachments = attachments.iter().map(|bytes| raw(bytes)).collect();
        object.insert("attachments".to_owned(), Value::Array(attachments));
    }
    object
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

/// Prints a message for people.
pub(super) fn show(body: &Body, attachments: &[Bytes], output: &Output) -> Result<(), Failure> {
    match Printed::of(body, output.sink()) {
        Printed::Nothing => {}
        Printed::Json(json) => output.json(json)?,
        Printed::Bytes(bytes) => write(bytes)?,
        Printed::Kept(len) => output.note(&kept_from_terminal(len)),
    }
    if !attachments.is_empty() {
        output.note(&and_attachments(attachments.iter()));
    }
    Ok(())
}

/// What stands in for raw bytes on a terminal.
fn kept_from_terminal(len: usize) -> String {
    format!("{len} raw bytes, not printed to a terminal: save them with -o FILE, or send them into a pipe")
}

/// Saves body and attachments: FILE, FILE.1, FILE.2, …
fn save(reply: &Reply, file: &Path, output: &Output) -> Result<(), Failure> {
    let body = reply.file().map_or(Content::Bytes(reply.bytes()), Content::File);
    let mut contents = vec![(file.to_owned(), body)];
    for (index, bytes) in reply.attachments().iter().enumerate() {
        contents.push((beside(file, index), Content::Bytes(bytes)));
    }
    let mut saved = Vec::with_capacity(contents.len());
    for (path, content) in contents {
        let len =
            save_as(&path, &content).map_err(Failure::local(format!("can't write {}", path.display())))?;
        output.note(&format!("{len} bytes in {}", path.display()));
        saved.push((path, len));
    }
    if output.is_json() {
        let files: Vec<Value> = saved.iter().map(|(path, len)| saved_as(path, *len)).collect();
        output.object(&json!({ "saved": files }))?;
    }
    Ok(())
}

/// Where the attachment `index`, counted from 0, is saved.
fn beside(file: &Path, index: usize) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", index + 1));
    PathBuf::from(name)
}

fn saved_as(path: &Path, len: u64) -> Value {
    json!({ "file": path.to_string_lossy(), "bytes": len })
}

/// Saves the attachments of an error beside `file`, in which a result would be, and gives where each one is. The file itself
/// is left alone: what stands there is a result. An error is not lost to a full disk, so what can not be written is told
/// and stays where it was.
pub(super) fn keep_attachments(
    attachments: &[Bytes],
    file: Option<&Path>,
    output: &Output,
) -> Vec<Option<PathBuf>> {
    let Some(file) = file.filter(|file| *file != Path::new("-")) else {
        return vec![None; attachments.len()];
    };
    let keep = |(index, bytes): (usize, &Bytes)| {
        let path = beside(file, index);
        match write_file(&path, bytes) {
            Ok(()) => Some(path),
            Err(error) => {
                output.note(&format!("can't write {}: {error}", path.display()));
                None
            }
        }
    };
    attachments.iter().enumerate().map(keep).collect()
}

/// The attachments of an error, for programs: where they are, or what they are.
pub(super) fn kept_objects(attachments: &[Bytes], kept: &[Option<PathBuf>]) -> Vec<Value> {
    let object = |(index, bytes): (usize, &Bytes)| match kept.get(index) {
        Some(Some(path)) => saved_as(path, bytes.len() as u64),
        _ => raw(bytes),
    };
    attachments.iter().enumerate().map(object).collect()
}

/// The attachments of an error, for people, a line each.
pub(super) fn kept_lines(attachments: &[Bytes], kept: &[Option<PathBuf>]) -> String {
    let is_kept = |index: usize| kept.get(index).is_some_and(Option::is_some);
    let mut text = String::new();
    for (path, bytes) in kept.iter().zip(attachments) {
        if let Some(path) = path {
            text.push_str(&format!("{} bytes in {}\n", bytes.len(), path.display()));
        }
    }
    let left: Vec<&Bytes> = attachments
        .iter()
        .enumerate()
        .filter(|(index, _)| !is_kept(*index))
        .map(|(_, bytes)| bytes)
        .collect();
    if !left.is_empty() {
        text.push_str(&and_attachments(left.into_iter()));
        text.push('\n');
    }
    text
}

/// That there is more than what is shown.
fn and_attachments<'a>(attachments: impl Iterator<Item = &'a Bytes>) -> String {
    let (count, total) = attachments.fold((0, 0), |(count, total), bytes| (count + 1, total + bytes.len()));
    let plural = if count == 1 { "" } else { "s" };
    format!("and {count} attachment{plural}, {total} bytes: -o FILE saves them beside it")
}

/// Writes beside the file and renames, so that nobody sees half of it; what is no regular file is written as it is.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    save_as(path, &Content::Bytes(bytes)).map(drop)
}

/// What a file is to have.
enum Content<'a> {
    Bytes(&'a [u8]),
    /// What the daemon gave open.
    File(&'a OpenFile),
}

impl Content<'_> {
    /// Writes it, and gives the number of bytes.
    fn write_to(&self, to: &mut File) -> std::io::Result<u64> {
        match self {
            Content::Bytes(bytes) => to.write_all(bytes).map(|()| bytes.len() as u64),
            Content::File(file) => file.copy_to(to),
        }
    }
}

/// The same for any content; gives the number of bytes.
fn save_as(path: &Path, content: &Content<'_>) -> std::io::Result<u64> {
    let existing = fs::metadata(path);
    if existing.as_ref().is_ok_and(|meta| !meta.is_file()) {
        return content.write_to(&mut File::options().write(true).open(path)?);
    }
    // A link keeps leading there.
    let target = if existing.is_ok() { fs::canonicalize(path)? } else { path.to_owned() };
    let mut part = target.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let file = File::create_new(&part)?;
    let cleanup = part.clone();
    let _guard = on_interrupt(move || drop(fs::remove_file(cleanup)));
    let written = fill(file, content, existing.ok()).and_then(|len| fs::rename(&part, &target).map(|()| len));
    if written.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&part));
    }
    written
}

fn fill(mut file: File, content: &Content<'_>, replaced: Option<fs::Metadata>) -> std::io::Result<u64> {
    if let Some(replaced) = replaced {
        file.set_permissions(replaced.permissions())?;
    }
    content.write_to(&mut file)
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

    use super::{Printed, Sink, base64, kept_from_terminal, write_file};

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
