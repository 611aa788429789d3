//! Paths and files that are meant to lead `fs` out of what a scope allows, or to hold it up: through a real daemon, with
//! real files. Nothing outside is read, written, made, or told of.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use invoked_client::blocking::Client;
use invoked_client::{Error, ErrorCode};
use rustix::fs::{CWD, Mode};

use crate::files::{granting, kind, write};
use crate::harness::{Daemon, Place, eventually, set_mode};

/// Everything below `files` that is not hidden.
pub(crate) const BELOW: &str = r#"{ identifier = "fs:read", allow = ["FILES", "FILES/**"] }, { identifier = "fs:write", allow = ["FILES/**"] }"#;

/// Every file, for tests of what is no matter of scopes.
const EVERYTHING: &str = r#"
  { identifier = "fs:read", allow = [{ path = "/**", dotfiles = true }] },
  { identifier = "fs:write", allow = [{ path = "/**", dotfiles = true }] },
"#;

pub(crate) fn call(client: &Client, command: &str, path: &Path) -> Result<invoked_client::Reply, Error> {
    client.call(command).arg("path", path).send()
}

/// What calls of every command that takes a path are refused with; each must be the same.
#[track_caller]
fn refused(client: &Client, path: &Path) {
    let mut refusals = Vec::new();
    for command in ["fs.read_file", "fs.read_dir", "fs.metadata"] {
        refusals.push((command, call(client, command, path).map(drop)));
    }
    for options in [[false, false], [true, false], [false, true]] {
        let [append, atomic] = options;
        let written = write(client, path, "intruder").arg("append", append).arg("atomic", atomic).send();
        refusals.push(("fs.write_file", written.map(drop)));
    }
    for (command, refusal) in refusals {
        let error = refusal.expect_err(command);
        assert!(error.is_permission_denied(), "{command} {}: {error}", path.display());
        let text = format!("this peer may not call {command} with path {path:?}");
        assert_eq!(error.message(), text, "it tells more");
    }
}

/// Every descriptor that calls opened is closed.
pub(crate) fn descriptors_are_back(daemon: &Daemon, before: usize) {
    eventually("descriptors are left open", || daemon.fds() <= before);
}

/// Everything below a directory, with what is in it.
pub(crate) fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            found.insert(path.clone(), fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
        } else if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// A directory beside `files`, with a file and a directory in it.
pub(crate) fn outside(place: &Place) -> PathBuf {
    let outside = place.path("outside");
    fs::create_dir_all(outside.join("directory")).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(outside.join("directory/secret"), "secret").unwrap();
    outside
}

#[test]
fn no_spelling_and_no_link_leads_out() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let (files, outside) = (daemon.place().path("files"), outside(daemon.place()));
    fs::create_dir(files.join("deep")).unwrap();
    let before = tree(&outside);
    for (name, target) in [
        ("to-file", outside.join("secret")),
        ("to-file-relative", PathBuf::from("../outside/secret")),
        ("to-directory", outside.clone()),
        ("to-nothing", outside.join("new")),
        ("chain-1", PathBuf::from("chain-2")),
        ("chain-2", PathBuf::from("deep/chain-3")),
        ("deep/chain-3", PathBuf::from("../to-file")),
        ("through-proc", PathBuf::from(format!("/proc/self/root{}", outside.join("secret").display()))),
        ("through-cwd", PathBuf::from("/proc/self/cwd/../outside/secret")),
        ("to-root", PathBuf::from("/")),
    ] {
        symlink(target, files.join(name)).unwrap();
    }
    let text = |path: &str| files.join(path);
    for path in [
        text("../outside/secret"),
        text("deep/../../outside/secret"),
        text("./.././outside//secret"),
        text("../files/../outside/new"),
        text("to-file"),
        text("to-file-relative"),
        text("to-directory/secret"),
        text("to-directory/new"),
        text("to-directory/directory/../secret"),
        text("to-directory/../outside/secret"),
        text("to-nothing"),
        text("chain-1"),
        text("through-proc"),
        text("through-cwd"),
        text("to-root/etc/passwd"),
        text("to-root"),
        text("none/../../outside/secret"),
        text("to-directory"),
        text(".."),
        text("../files-not"),
        text("deep/none/../../../outside/secret"),
        outside.join("secret"),
        outside.join("none"),
        PathBuf::from("/"),
        PathBuf::from("//"),
        PathBuf::from("/proc/self/environ"),
        PathBuf::from("/proc/self/fd/0"),
        PathBuf::from("/dev/stdin"),
        PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), files.join("new").display())),
        PathBuf::from(format!("/proc/{}/cwd/new", daemon.pid())),
    ] {
        refused(&client, &path);
    }
    assert_eq!(tree(&outside), before);
    assert_eq!(fs::read_dir(&files).unwrap().count(), 10, "nothing is made inside either");
    // And what leads in does: also from outside, also twice.
    symlink(files.join("deep"), outside.join("in")).unwrap();
    symlink(outside.join("in"), files.join("out-and-in")).unwrap();
    for (path, real) in [
        (text("deep//../deep/./a"), "deep/a"),
        (outside.join("in/b"), "deep/b"),
        (text("out-and-in/c"), "deep/c"),
        (text("../files/d"), "d"),
        (text("to-directory/../files/e"), "e"),
    ] {
        write(&client, &path, real.to_owned()).send().unwrap();
        assert_eq!(fs::read_to_string(files.join(real)).unwrap(), real);
        assert_eq!(call(&client, "fs.read_file", &path).unwrap().bytes(), real.as_bytes());
    }
    daemon.await_line(0, &["denied: fs.write_file"]);
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn links_in_a_ring_and_links_to_nothing_end() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let files = daemon.place().path("files");
    for (name, target) in [("a", "b"), ("b", "a"), ("self", "self"), ("nothing", "none"), ("deep", "deep/x")]
    {
        symlink(target, files.join(name)).unwrap();
    }
    for name in ["a", "b/x", "self", "nothing", "nothing/x", "deep/y"] {
        refused(&client, &files.join(name));
    }
    assert!(!files.join("none").exists(), "a file is made where its name is, not where a link leads");
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn only_the_named_file_is_meant_whatever_its_name_looks_like() {
    let twins = [
        "caf\u{e9}",
        "cafe\u{301}",
        "CAF\u{c9}",
        "caf\u{e9} ",
        "caf\u{e9}.",
        "Caf\u{e9}",
        "caf\u{ff45}\u{301}",
    ];
    let daemon = granting(&format!(
        r#"{{ identifier = "fs:read", allow = ["FILES/{}", "FILES/[[]ab]*", "FILES/[*]"] }},
           {{ identifier = "fs:write", allow = ["FILES/{0}"] }}"#,
        twins[0]
    ))
    .run();
    let client = daemon.client();
    let files = daemon.place().path("files");
    for name in twins.iter().copied().chain(["a", "b", "*", "?", "[ab]c", "[ab]*", "ac", "**"]) {
        fs::write(files.join(name), name).unwrap();
    }
    for name in [twins[0], "*", "[ab]c", "[ab]*"] {
        assert_eq!(call(&client, "fs.read_file", &files.join(name)).unwrap().bytes(), name.as_bytes());
    }
    for name in twins[1..].iter().copied().chain(["a", "b", "?", "ac", "**", "**/a"]) {
        refused(&client, &files.join(name));
        assert!(name == "**/a" || fs::read_to_string(files.join(name)).unwrap() == name);
    }
    write(&client, &files.join(twins[0]), "written").send().unwrap();
    assert_eq!(fs::read_to_string(files.join(twins[0])).unwrap(), "written");
}

#[test]
fn hidden_files_are_neither_read_nor_made_nor_listed_unless_the_scope_writes_the_dot() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let files = daemon.place().path("files");
    fs::create_dir(files.join(".git")).unwrap();
    fs::write(files.join(".git/config"), "x").unwrap();
    fs::write(files.join(".env"), "x").unwrap();
    symlink(".env", files.join("env")).unwrap();
    symlink(".git", files.join("git")).unwrap();
    for name in [".env", ".git", ".git/config", ".new", ".git/new", "env", "git/config", "git/new"] {
        refused(&client, &files.join(name));
    }
    let listed = call(&client, "fs.read_dir", &files).unwrap();
    assert_eq!(listed.bytes(), br#"[{"name":"env","kind":"link"},{"name":"git","kind":"link"}]"#);
    let daemon = granting(r#"{ identifier = "fs:read", allow = ["FILES/.env"] }"#).run();
    let path = daemon.place().write("files/.env", "x");
    assert_eq!(call(&daemon.client(), "fs.read_file", &path).unwrap().bytes(), b"x");
}

#[test]
fn names_that_are_no_text_are_outside_of_every_scope() {
    let daemon = granting(EVERYTHING).run();
    let client = daemon.client();
    let files = daemon.place().path("files");
    let odd = files.join(OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("a"), "x").unwrap();
    fs::write(files.join(OsStr::from_bytes(b"odd\xfe")), "x").unwrap();
    symlink(&odd, files.join("link")).unwrap();
    for name in ["link", "link/a", "link/new"] {
        refused(&client, &files.join(name));
    }
    assert_eq!(fs::read_dir(&odd).unwrap().count(), 1);
    let listed = call(&client, "fs.read_dir", &files).unwrap();
    assert_eq!(listed.bytes(), br#"[{"name":"link","kind":"link"}]"#);
    // Nor can one be asked for: neither as JSON nor as a header.
    let bytes = [b"{\"path\":\"", odd.as_os_str().as_bytes(), b"\"}"].concat();
    let error = client.call("fs.metadata").json(bytes).send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
    let error = client.call("fs.write_file").header("path", "/tmp/odd%ff").raw("x").send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
}

#[test]
fn the_longest_names_work_and_longer_ones_are_errors() {
    let daemon = granting(EVERYTHING).run();
    let client = daemon.client();
    let files = daemon.place().path("files").canonicalize().unwrap();
    write(&client, &files.join("x".repeat(255)), "x").send().unwrap();
    let room = 4095 - files.as_os_str().len() - 1;
    let longest = files.join("x/".repeat(room / 2)).join("x".repeat(room % 2));
    let longest = PathBuf::from(longest.into_os_string().into_string().unwrap().trim_end_matches('/'));
    for path in [files.join("x".repeat(256)), longest] {
        for error in [
            call(&client, "fs.read_file", &path).unwrap_err(),
            call(&client, "fs.read_dir", &path).unwrap_err(),
            write(&client, &path, "x").send().unwrap_err(),
        ] {
            assert!(["io", "not_found"].contains(&kind(&error).as_str()), "{error}");
        }
    }
    for path in [files.join("x/".repeat(2048)), PathBuf::from("/x".repeat(5_000_000))] {
        let refused = [call(&client, "fs.read_file", &path), write(&client, &path, "x").send()];
        for error in refused.map(Result::unwrap_err) {
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument));
            assert!(error.message().ends_with("`path` is longer than 4095 bytes"), "{error}");
        }
    }
    // A path that the kernel takes, to a place that has none: links shorten it.
    let part = "d".repeat(200);
    let deep = (0..15).fold(files.clone(), |path, _| path.join(&part));
    fs::create_dir_all(&deep).unwrap();
    symlink(&deep, files.join("link")).unwrap();
    let deeper = (0..8).fold(files.join("link"), |path, _| path.join(&part));
    fs::create_dir_all(&deeper).unwrap();
    fs::write(deeper.join("a"), "x").unwrap();
    for error in [
        call(&client, "fs.read_file", &deeper.join("a")).unwrap_err(),
        write(&client, &deeper.join("new"), "x").send().unwrap_err(),
    ] {
        assert!(error.is_application() || error.is_permission_denied(), "{error}");
    }
    assert_eq!(fs::read_dir(&deeper).unwrap().count(), 1);
    client.ping().unwrap();
    fs::remove_dir_all(files.join(&part)).unwrap();
}

#[test]
fn what_is_no_regular_file_is_neither_opened_nor_waited_for() {
    let daemon = granting(EVERYTHING).run();
    let client = daemon.client();
    let files = daemon.place().path("files");
    rustix::fs::mkfifoat(CWD, files.join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(files.join("socket")).unwrap();
    let paths = ["pipe", "socket"].map(|name| files.join(name)).into_iter();
    for path in paths.chain(["/dev/null", "/dev/zero", "/dev/tty"].map(PathBuf::from)) {
        assert_eq!(
            kind(&call(&client, "fs.read_file", &path).unwrap_err()),
            "not_a_file",
            "{}",
            path.display()
        );
        for atomic in [false, true] {
            let error = write(&client, &path, "x").arg("atomic", atomic).send().unwrap_err();
            assert_eq!(kind(&error), "not_a_file", "{}", path.display());
        }
        let told: serde_json::Value = call(&client, "fs.metadata", &path).unwrap().json().unwrap();
        assert_eq!(told["kind"], "other");
    }
    // The views of other processes are no paths, even where every path is allowed.
    for path in
        ["/proc/self/fd/0", "/proc/self/exe", "/proc/self/root/etc/hostname", "/proc/thread-self/cwd/x"]
    {
        let error = call(&client, "fs.read_file", Path::new(path)).unwrap_err();
        assert!(error.is_permission_denied() || error.is_application(), "{path}: {error}");
        assert!(write(&client, Path::new(path), "x").send().is_err(), "{path}");
    }
}

#[test]
fn a_hard_link_is_a_name_like_any_other() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let (files, outside) = (daemon.place().path("files"), outside(daemon.place()));
    fs::hard_link(outside.join("secret"), files.join("name")).unwrap();
    assert_eq!(call(&client, "fs.read_file", &files.join("name")).unwrap().bytes(), b"secret");
    refused(&client, &outside.join("secret"));
    descriptors_are_back(&daemon, descriptors);
}

/// A daemon on a disk of 100 KB at `files/small`, which only it sees.
fn on_a_small_disk() -> Daemon {
    let start = granting(BELOW);
    let small = start.place().path("files/small");
    fs::create_dir(&small).unwrap();
    let mut wrapper = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        wrapper.arg("--map-root-user");
    }
    let script = format!("mount -t tmpfs -o size=100k none {} && exec \"$@\"", small.display());
    wrapper.args(["--mount", "sh", "-c", &script, "sh"]);
    start.through(wrapper).run()
}

#[test]
fn a_full_disk_is_told_and_leaves_no_half_file() {
    let daemon = on_a_small_disk();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let small = daemon.place().path("files/small");
    let read =
        |name: &str| call(&client, "fs.read_file", &small.join(name)).map(|reply| reply.bytes().to_vec());
    write(&client, &small.join("kept"), "kept").send().unwrap();
    for atomic in [false, true] {
        let error =
            write(&client, &small.join("new"), vec![1; 1_000_000]).arg("atomic", atomic).send().unwrap_err();
        assert_eq!(kind(&error), "no_space", "{error}");
        assert!(error.to_string().contains("of 1000000 bytes"), "{error}");
        let listed = call(&client, "fs.read_dir", &small).unwrap();
        assert_eq!(listed.bytes(), br#"[{"name":"kept","kind":"file"}]"#, "a part is left");
    }
    let error =
        write(&client, &small.join("kept"), vec![1; 1_000_000]).arg("atomic", true).send().unwrap_err();
    assert_eq!(kind(&error), "no_space", "{error}");
    assert_eq!(read("kept").unwrap(), b"kept", "what could not be replaced is as it was");
    // In place there is no such promise, but it is told how far it came.
    let error = write(&client, &small.join("kept"), vec![1; 1_000_000]).send().unwrap_err();
    assert_eq!(kind(&error), "no_space", "{error}");
    write(&client, &small.join("kept"), vec![2; 50_000]).send().expect("there is room again");
    assert_eq!(read("kept").unwrap(), [2; 50_000]);
    // The daemon has a descriptor of the memory that it sends with.
    drop(client);
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn a_limit_on_the_size_of_files_does_not_end_the_daemon() {
    let mut wrapper = Command::new("prlimit");
    wrapper.arg("--fsize=10000");
    let mut daemon = granting(BELOW).through(wrapper).run();
    let client = daemon.client();
    let path = daemon.place().path("files/a");
    let error = write(&client, &path, vec![1; 1_000_000]).send().unwrap_err();
    assert_eq!(kind(&error), "io");
    assert!(error.to_string().contains("after 10000 of 1000000 bytes"), "{error}");
    assert!(!path.exists());
    write(&client, &path, "x").send().unwrap();
    assert!(daemon.is_running());
}

#[test]
fn a_home_with_the_characters_of_a_pattern_is_that_home_alone() {
    if !rustix::process::geteuid().is_root() {
        return drop(granting(BELOW).run().client());
    }
    let start = granting(
        r#"{ identifier = "fs:read", allow = ["$PEER_HOME/**"] }, { identifier = "fs:write", allow = ["$PEER_HOME/**"] }"#,
    );
    let files = start.place().path("files").canonicalize().unwrap();
    for home in ["[ab]", "a", "*", "x"] {
        fs::create_dir(files.join(home)).unwrap();
        fs::write(files.join(home).join("file"), home).unwrap();
    }
    let users = format!("root:x:0:0::{}:/bin/sh\n", files.join("[ab]").display());
    let users = start.place().write("passwd", users);
    set_mode(&users, 0o644);
    let mut wrapper = Command::new("unshare");
    let script = format!("mount --bind {} /etc/passwd && exec \"$@\"", users.display());
    wrapper.args(["--mount", "sh", "-c", &script, "sh"]);
    let daemon = start.through(wrapper).run();
    let client = daemon.client();
    assert_eq!(call(&client, "fs.read_file", &files.join("[ab]/file")).unwrap().bytes(), b"[ab]");
    for home in ["a", "*", "x"] {
        refused(&client, &files.join(home).join("file"));
    }
}
