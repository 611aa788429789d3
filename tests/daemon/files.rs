//! The plugin `fs` beside reading whole files: parts, directories, metadata, and every way to write.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use invoked_client::blocking::Client;
use invoked_client::{Body, Call, Error, ErrorCode};
use serde_json::{Value, json};

use crate::child::{STRANGER, can_be_others};
use crate::harness::{Daemon, Start, set_mode};

/// Reading and writing below `files`, hidden files too, but not below `files/private`; `FILES` stands for the path.
const SHARED: &str = r#"
  { identifier = "fs:read", allow = ["FILES", { path = "FILES/**", dotfiles = true }], deny = ["FILES/private", "FILES/private/**"] },
  { identifier = "fs:write", allow = [{ path = "FILES/**", dotfiles = true }], deny = ["FILES/private/**"] },
"#;

/// A daemon whose caller has these permissions, in the directory `files`.
pub(crate) fn granting(permissions: &str) -> Start {
    let start = Start::plain();
    let files = start.place().path("files").canonicalize().unwrap();
    let permissions = permissions.replace("FILES", files.to_str().unwrap());
    let text = format!("identifier = \"files\"\npeers = [\"everyone\"]\npermissions = [{permissions}]\n");
    start.capability("files.toml", &text)
}

fn shared() -> Daemon {
    granting(SHARED).run()
}

pub(crate) fn write<'c>(
    client: &'c Client,
    path: &Path,
    contents: impl Into<bytes::Bytes>,
) -> Call<'c, Client> {
    client.call("fs.write_file").arg("path", path).attach_as("contents", contents)
}

/// The kind of the command's own error.
#[track_caller]
pub(crate) fn kind(error: &Error) -> String {
    let own: Value = error.json().unwrap_or_else(|| panic!("not the command's own error: {error}"));
    own["kind"].as_str().unwrap().to_owned()
}

fn list(client: &Client, path: &Path) -> Result<Vec<(String, String)>, Error> {
    let listed: Vec<Value> = client.call("fs.read_dir").arg("path", path).send()?.json()?;
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    Ok(listed.iter().map(|entry| (text(entry, "name"), text(entry, "kind"))).collect())
}

#[test]
fn a_part_of_a_file_is_read() {
    let daemon = shared();
    let client = daemon.client();
    let path = daemon.place().write("files/a", "0123456789");
    let read = |offset: Option<u64>, len: Option<u64>| {
        let call = client.call("fs.read_file").arg("path", &path).arg("offset", offset).arg("len", len);
        String::from_utf8(call.send().unwrap().bytes().to_vec()).unwrap()
    };
    for (offset, len, expected) in [
        (None, None, "0123456789"),
        (Some(0), Some(3), "012"),
        (Some(7), None, "789"),
        (Some(7), Some(99), "789"),
        (Some(10), None, ""),
        (Some(u64::MAX), Some(u64::MAX), ""),
        (None, Some(0), ""),
    ] {
        assert_eq!(read(offset, len), expected, "{offset:?} {len:?}");
    }
    // Of a file that is too large for one reply.
    let large = daemon.place().path("files/large");
    fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    let call =
        |len: u64| client.call("fs.read_file").arg("path", &large).arg("offset", 1_u64 << 39).arg("len", len);
    assert_eq!(call(1000).send().unwrap().bytes(), [0; 1000]);
    let error = call(1 << 30).send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooLarge));
    assert!(error.message().contains("`offset` and `len` read a part"), "{error}");
}

#[test]
fn a_directory_is_listed_as_far_as_the_scope_goes() {
    let start = granting(
        r#"{ identifier = "fs:read", allow = ["FILES", "FILES/**"], deny = ["FILES/private", "FILES/private/**"] }"#,
    );
    let daemon = start.run();
    let client = daemon.client();
    let files = daemon.place().path("files");
    assert_eq!(list(&client, &files).unwrap(), []);
    for name in ["b", "a", ".hidden", "with [glob] *", "\u{e9}", "e\u{301}", "line\nbreak"] {
        fs::write(files.join(name), "").unwrap();
    }
    fs::write(files.join(OsStr::from_bytes(b"not\xfftext")), "").unwrap();
    for name in ["private", "directory"] {
        fs::create_dir(files.join(name)).unwrap();
    }
    symlink("/etc/passwd", files.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, files.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let entry = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
    let mut expected = vec![
        entry("a", "file"),
        entry("b", "file"),
        entry("directory", "directory"),
        entry("e\u{301}", "file"),
        entry("line\nbreak", "file"),
        entry("link", "link"),
        entry("pipe", "other"),
        entry("with [glob] *", "file"),
        entry("\u{e9}", "file"),
    ];
    expected.sort();
    assert_eq!(list(&client, &files).unwrap(), expected);
    assert_eq!(list(&client, &files.join("directory")).unwrap(), []);
    assert!(list(&client, &files.join("private")).unwrap_err().is_permission_denied());
    assert!(list(&client, daemon.place().path("home").as_path()).unwrap_err().is_permission_denied());
    assert_eq!(kind(&list(&client, &files.join("a")).unwrap_err()), "not_a_directory");
    assert_eq!(kind(&list(&client, &files.join("none")).unwrap_err()), "not_found");
    // More than one frame, and more than one read of the directory.
    let many = files.join("directory");
    for index in 0..3_000 {
        fs::write(many.join(format!("{index:0>200}")), "").unwrap();
    }
    assert_eq!(list(&client, &many).unwrap().len(), 3_000);
}

#[test]
fn metadata_tells_what_is_there() {
    let daemon = shared();
    let client = daemon.client();
    let path = daemon.place().write("files/a", "12345");
    let told = |path: &Path| {
        client.call("fs.metadata").arg("path", path).send().map(|reply| reply.json::<Value>().unwrap())
    };
    set_mode(&path, 0o440);
    let modified = filetime(&path, 1_700_000_000, 123_000_000);
    let expected = json!({ "kind": "file", "len": 5, "modified": modified, "readonly": true, "mode": 0o440 });
    assert_eq!(told(&path).unwrap(), expected);
    symlink(&path, daemon.place().path("files/link")).unwrap();
    assert_eq!(told(&daemon.place().path("files/link")).unwrap(), expected, "links are followed");
    filetime(&path, -1, 500_000_000);
    assert_eq!(told(&path).unwrap()["modified"], -500, "half a second before 1970");
    let directory: Value = told(&daemon.place().path("files")).unwrap();
    assert_eq!((&directory["kind"], &directory["readonly"]), (&json!("directory"), &json!(false)));
    assert_eq!(kind(&told(&daemon.place().path("files/none")).unwrap_err()), "not_found");
    assert!(told(Path::new("/etc/passwd")).unwrap_err().is_permission_denied());
    assert!(
        told(Path::new("/etc/no-such-file")).unwrap_err().is_permission_denied(),
        "the same as one that is"
    );
}

/// Sets when a file was modified; gives that in milliseconds.
fn filetime(path: &Path, secs: i64, nanos: i64) -> i64 {
    let time = rustix::fs::Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
    secs * 1000 + nanos / 1_000_000
}

#[test]
fn every_form_of_a_call_writes_the_bytes_as_they_are() {
    let daemon = shared();
    let client = daemon.client();
    let files = daemon.place().path("files");
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(3_000_001).collect();
    let path = files.join("a");
    let reply = write(&client, &path, bytes.clone()).send().unwrap();
    assert_eq!((reply.body(), reply.attachments().len()), (&Body::None, 0));
    assert!(fs::read(&path).unwrap() == bytes);
    // Shorter than what was there.
    client.call("fs.write_file").arg("path", &path).arg("contents", "t\u{e9}xt\n").send().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "t\u{e9}xt\n");
    write(&client, &path, "").send().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    // As Tauri's front end sends it.
    let encoded = format!("{}%2Fwith%20space%C3%A9", files.to_str().unwrap());
    let raw = |options: &str| {
        client
            .call("fs.write_file")
            .header("path", &encoded)
            .header("options", options)
            .raw(bytes.clone())
            .send()
    };
    raw(r#"{"createNew":true,"mode":384}"#).unwrap();
    let made = files.join("with space\u{e9}");
    assert!(fs::read(&made).unwrap() == bytes);
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o600);
    assert_eq!(kind(&raw(r#"{"createNew":true}"#).unwrap_err()), "exists");
    client.call("fs.write_file").header("path", &encoded).raw("").send().unwrap();
    assert_eq!(fs::metadata(&made).unwrap().len(), 0);
}

#[test]
fn options_say_what_may_happen_to_a_file() {
    let daemon = shared();
    let client = daemon.client();
    let files = daemon.place().path("files");
    let (there, fresh) = (daemon.place().write("files/there", "old"), files.join("fresh"));
    let text = |path: &Path| fs::read_to_string(path).unwrap();

    write(&client, &there, "+").arg("append", true).send().unwrap();
    assert_eq!(text(&there), "old+");
    assert_eq!(kind(&write(&client, &there, "x").arg("new", true).send().unwrap_err()), "exists");
    assert_eq!(
        kind(&write(&client, &there, "x").arg("new", true).arg("atomic", true).send().unwrap_err()),
        "exists"
    );
    assert_eq!(text(&there), "old+");
    for atomic in [false, true] {
        let absent =
            write(&client, &fresh, "x").arg("create", false).arg("atomic", atomic).send().unwrap_err();
        assert_eq!(kind(&absent), "not_found");
        assert!(!fresh.exists());
    }
    write(&client, &fresh, "a").arg("append", true).arg("mode", "0640").send().unwrap();
    assert_eq!((text(&fresh).as_str(), fs::metadata(&fresh).unwrap().mode() & 0o777), ("a", 0o640));
    write(&client, &fresh, "b").arg("mode", "0600").send().unwrap();
    assert_eq!(fs::metadata(&fresh).unwrap().mode() & 0o777, 0o640, "the mode is for a file that is made");
    fs::create_dir(files.join("directory")).unwrap();
    assert_eq!(kind(&write(&client, &files.join("directory"), "x").send().unwrap_err()), "not_a_file");
    assert_eq!(kind(&write(&client, &files.join("none/x"), "x").send().unwrap_err()), "not_found");
    assert_eq!(kind(&write(&client, &there.join("x"), "x").send().unwrap_err()), "not_a_directory");
    let slash = format!("{}/", files.join("slash").display());
    assert_eq!(kind(&write(&client, Path::new(&slash), "x").send().unwrap_err()), "not_found");
}

#[test]
fn atomic_gives_a_whole_file_with_the_owner_and_mode_of_the_old_one() {
    let daemon = shared();
    let client = daemon.client();
    let files = daemon.place().path("files");
    let path = daemon.place().write("files/a", "old");
    set_mode(&path, 0o4604);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
        set_mode(&path, 0o4604);
    }
    fs::hard_link(&path, files.join("other-name")).unwrap();
    symlink("a", files.join("link")).unwrap();
    write(&client, &files.join("link"), "new").arg("atomic", true).send().unwrap();
    assert!(files.join("link").is_symlink(), "a link keeps leading there");
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(fs::read_to_string(files.join("other-name")).unwrap(), "old", "another file has the name now");
    let made = fs::metadata(&path).unwrap();
    assert_eq!(made.mode() & 0o7777, 0o604, "without the bit that gives its owner's rights");
    assert!(!is_root || (made.uid(), made.gid()) == (STRANGER, STRANGER));
    let long = files.join("x".repeat(255));
    write(&client, &long, "long").arg("atomic", true).arg("mode", "0600").send().unwrap();
    assert_eq!(
        (fs::read(&long).unwrap(), fs::metadata(&long).unwrap().mode() & 0o777),
        (b"long".to_vec(), 0o600)
    );
    let left = fs::read_dir(&files)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(left.count(), 0, "no part is left");
}

#[test]
fn calls_that_mean_nothing_or_two_things_change_nothing() {
    let daemon = shared();
    let client = daemon.client();
    let path = daemon.place().write("files/a", "old");
    let call = || client.call("fs.write_file");
    let json = |extra: &str| call().json(format!("{{\"path\":{path:?}{extra}}}"));
    let header = path.to_str().unwrap();
    for (call, why) in [
        (json(""), "missing `contents`: an attachment (contents@FILE) or text (contents=TEXT)"),
        (json(",\"contents\":null"), "missing `contents`"),
        (json(",\"contents\":[1,2]"), "`contents` of fs.write_file: not an attachment"),
        (json(",\"contents\":\"__ATTACHMENT__:0\""), "the call has no attachment 0"),
        (json(",\"contents\":\"a\",\"contents\":\"b\""), "key \"contents\" stands twice"),
        (json(",\"path\":\"/etc/x\",\"contents\":\"b\""), "key \"path\" stands twice"),
        (json(",\"p\\u0061th\":\"/etc/x\",\"contents\":\"b\""), "key \"path\" stands twice"),
        (
            json(",\"contents\":\"x\",\"createNew\":true"),
            "fs.write_file has no argument `createNew`; it takes path, contents,",
        ),
        (json(",\"contents\":\"x\",\"append\":1"), "argument `append`"),
        (json(",\"contents\":\"x\",\"mode\":600"), "octal digits as text"),
        (json(",\"contents\":\"x\",\"append\":true,\"atomic\":true"), "exclude each other"),
        (json(",\"contents\":\"x\",\"new\":true,\"create\":false"), "leave nothing that could be written"),
        (call().raw("x"), "a raw body needs the header `path`"),
        (call().raw("x").header("path", "/%zz"), "percent-encoded"),
        (call().raw("x").header("path", "/a%00b"), "has a NUL byte"),
        (call().raw("x").header("path", header).header("path", header), "the header `path` is there twice"),
        (
            call().raw("x").header("path", header).header("options", "{\"baseDir\":1}"),
            "unknown field `baseDir`",
        ),
        (
            call().raw("x").header("path", header).header("options", "{\"new\":true,\"new\":false}"),
            "duplicate field",
        ),
        (call().arg("path", "a").arg("contents", "x"), "`path` is absolute, and \"a\" is not"),
        (call().arg("path", "/a\0b").arg("contents", "x"), "has a NUL byte"),
        (call().json("[1]"), "not one JSON object"),
        (call(), "missing `path`"),
    ] {
        let error = call.send().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{why}: {error}");
        assert!(error.message().contains(why), "{why:?} is not in {error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(fs::read_dir(daemon.place().path("files")).unwrap().count(), 1);
    for twice in [r#"{"path":"/a","path":"/b"}"#, r#"{"path":"/a","\u0070ath":"/b"}"#] {
        for command in ["fs.read_file", "fs.read_dir", "fs.metadata"] {
            let error = client.call(command).json(twice).send().unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{command}: {error}");
            assert!(error.message().contains("key \"path\" stands twice"), "{command}: {error}");
        }
    }
    // Reading takes no argument that it doesn't know either.
    let error = client.call("fs.read_file").arg("path", &path).arg("ofset", 1).send().unwrap_err();
    assert!(error.message().contains("has no argument `ofset`; it takes path, offset, len"), "{error}");
}

#[test]
fn the_default_set_reads_and_does_not_write() {
    let daemon = granting(r#"{ identifier = "fs:default", allow = ["FILES", "FILES/**"] }"#).run();
    let client = daemon.client();
    let path = daemon.place().write("files/a", "x");
    for command in ["fs.read_file", "fs.metadata"] {
        client.call(command).arg("path", &path).send().unwrap();
    }
    assert_eq!(list(&client, &daemon.place().path("files")).unwrap().len(), 1);
    assert!(write(&client, &path, "y").send().unwrap_err().is_permission_denied());

    let daemon = granting(r#"{ identifier = "fs:write", allow = ["FILES/**"] }"#).run();
    let (client, path) = (daemon.client(), daemon.place().path("files/a"));
    write(&client, &path, "y").send().unwrap();
    assert!(client.call("fs.read_file").arg("path", &path).send().unwrap_err().is_permission_denied());
    let daemon = Start::dev().run();
    let error = write(&daemon.client(), &daemon.place().path("files/a"), "y").send().unwrap_err();
    assert!(error.is_permission_denied(), "--dev shares its directory to be read: {error}");
}

#[test]
fn what_the_system_forbids_is_told_as_such() {
    if !can_be_others("that files of others are refused by the system") {
        return;
    }
    let daemon = granting(SHARED).uid(STRANGER).everyone().run();
    let client = daemon.client();
    let path = daemon.place().write("files/of-root", "x");
    set_mode(&path, 0o600);
    fs::create_dir(daemon.place().path("files/locked")).unwrap();
    set_mode(&daemon.place().path("files/locked"), 0o700);
    let locked = daemon.place().path("files/locked/x");
    for path in [&path, &locked] {
        let error = client.call("fs.read_file").arg("path", path).send().unwrap_err();
        assert_eq!(kind(&error), "permission_denied", "{error}");
        for atomic in [false, true] {
            let error = write(&client, path, "y").arg("atomic", atomic).send().unwrap_err();
            assert_eq!(kind(&error), "permission_denied", "{error}");
        }
    }
    let error = list(&client, &daemon.place().path("files/locked")).unwrap_err();
    assert_eq!(kind(&error), "permission_denied", "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "x");
    // What everybody may write, and belongs to somebody else, can't be replaced by a file of the same owner.
    set_mode(&path, 0o666);
    let error = write(&client, &path, "y").arg("atomic", true).send().unwrap_err();
    assert!(kind(&error) == "permission_denied" && error.to_string().contains("without `atomic`"), "{error}");
    write(&client, &path, "y").send().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "y");
    assert_eq!(fs::read_dir(daemon.place().path("files")).unwrap().count(), 2, "no part is left");
}
