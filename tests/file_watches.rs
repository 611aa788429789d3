//! `fs.watch` end to end: real files, a daemon in this process, clients over its socket.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use invoked::transport::{Access, Listener};
use invoked_client::blocking::{Client, Subscription};
use invoked_client::{Address, Error, ErrorCode, Options, Overflow, Update};
use serde_json::{Value, json};

/// Far more than anything here takes: it is waited for only where a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    running: Option<invoked::Running>,
    address: Address,
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("shared/deep")).unwrap();
        fs::create_dir(root.join("capabilities")).unwrap();
        let shared = root.join("shared").display().to_string();
        let policy = format!(
            "identifier = 'watchers'\npeers = ['everyone']\npermissions = [{{ identifier = 'fs:read', \
             allow = ['{shared}', '{shared}/**'], deny = ['{shared}/secret*'] }}]"
        );
        fs::write(root.join("capabilities/all.toml"), policy).unwrap();
        let address: Address = format!("unix:{}/run/d.sock", root.display()).parse().unwrap();
        let running = invoked::Builder::default()
            .capabilities(root.join("capabilities"))
            .serve(Listener::bind(&address, Access::Owner).unwrap())
            .unwrap();
        Daemon { running: Some(running), address, root, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::connect(Options::new().address(self.address.clone())).unwrap()
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.root.join("shared").join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown().unwrap();
        }
    }
}

fn watch(client: &Client, path: &Path) -> Result<Subscription, Error> {
    let (call, events) = client.call("fs.watch").arg("path", path).subscribe("events", Overflow::DropOldest);
    call.send().map(|_| events)
}

/// The next change that is none of contents or attributes; those come as often as the kernel likes.
fn next(events: &mut Subscription) -> Value {
    loop {
        match events.next_timeout(PATIENCE).expect("the watch goes on").unwrap() {
            Update::Lagged(count) => panic!("{count} are missing"),
            Update::Item(item) => {
                let change: Value = item.json().unwrap();
                if change["kind"] != "modified" {
                    return change;
                }
            }
        }
    }
}

fn end(events: &mut Subscription) -> Option<ErrorCode> {
    loop {
        match events.next_timeout(PATIENCE) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.code(),
            None => return None,
        }
    }
}

#[test]
fn changes_in_a_directory_are_told_in_order_with_their_paths() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = watch(&client, &daemon.shared("")).unwrap();
    let (a, b) = (daemon.shared("a"), daemon.shared("b"));
    fs::write(&a, "x").unwrap();
    assert_eq!(next(&mut events), json!({"kind": "created", "path": a}));
    fs::rename(&a, &b).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "renamed", "from": a, "path": b}));
    fs::rename(&b, daemon.root.join("away")).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "removed", "path": b}));
    fs::rename(daemon.root.join("away"), &a).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "created", "path": a}));
    fs::remove_file(&a).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "removed", "path": a}));
    // What is deeper is another directory.
    fs::write(daemon.shared("deep/x"), "x").unwrap();
    fs::create_dir(daemon.shared("c")).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "created", "path": daemon.shared("c")}));
}

#[test]
fn contents_of_a_watched_file_are_told_as_modified() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let file = daemon.shared("file");
    fs::write(&file, "x").unwrap();
    let mut events = watch(&client, &file).unwrap();
    fs::write(&file, "y").unwrap();
    let Some(Ok(Update::Item(item))) = events.next_timeout(PATIENCE) else { panic!("nothing came") };
    assert_eq!(item.json::<Value>().unwrap(), json!({"kind": "modified", "path": file}));
}

#[test]
fn each_path_that_is_told_is_judged_not_only_what_is_watched() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = watch(&client, &daemon.shared("")).unwrap();
    fs::write(daemon.shared("secret"), "x").unwrap();
    fs::write(daemon.shared(".hidden"), "x").unwrap();
    // A name that comes out of what may not be told, and one that goes there.
    fs::rename(daemon.shared("secret"), daemon.shared("open")).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "created", "path": daemon.shared("open")}));
    fs::rename(daemon.shared("open"), daemon.shared("secret2")).unwrap();
    assert_eq!(next(&mut events), json!({"kind": "removed", "path": daemon.shared("open")}));
    fs::remove_file(daemon.shared("secret2")).unwrap();
    fs::write(daemon.shared("last"), "x").unwrap();
    assert_eq!(next(&mut events), json!({"kind": "created", "path": daemon.shared("last")}));
}

#[test]
fn what_the_scope_does_not_allow_is_not_watched_and_nothing_is_told_of_it() {
    let daemon = Daemon::start();
    let client = daemon.client();
    symlink(&daemon.root, daemon.shared("out")).unwrap();
    fs::write(daemon.shared("secret"), "x").unwrap();
    let paths = ["out", "secret", "..", "out/gone", "secret-gone"].map(|name| daemon.shared(name));
    for path in paths.iter().map(PathBuf::as_path).chain([Path::new("/"), Path::new("/etc")]) {
        let error = watch(&client, path).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::PermissionDenied), "{}: {error}", path.display());
    }
    let error = watch(&client, &daemon.shared("gone")).unwrap_err();
    assert_eq!(error.json::<Value>().unwrap()["kind"], "not_found");
    // A channel that blocks would make somebody wait for it.
    let (call, _items) = client.call("fs.watch").arg("path", daemon.shared("")).channel("events");
    let error = call.send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
}

#[test]
fn a_directory_that_is_moved_is_told_no_more_whatever_takes_its_name() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = watch(&client, &daemon.shared("deep")).unwrap();
    fs::rename(daemon.shared("deep"), daemon.root.join("elsewhere")).unwrap();
    symlink(daemon.root.join("elsewhere"), daemon.shared("deep")).unwrap();
    fs::write(daemon.root.join("elsewhere/x"), "x").unwrap();
    let last = events.next_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(last.code(), Some(ErrorCode::Aborted), "{last}");
    // A directory above it as well, of which the kernel tells nothing.
    fs::create_dir_all(daemon.shared("b/c")).unwrap();
    let mut events = watch(&client, &daemon.shared("b/c")).unwrap();
    fs::rename(daemon.shared("b"), daemon.shared("d")).unwrap();
    assert_eq!(end(&mut events), Some(ErrorCode::Aborted));
}

#[test]
fn two_watch_the_same_directory_and_one_may_leave() {
    let daemon = Daemon::start();
    let (one, two) = (daemon.client(), daemon.client());
    let mut first = watch(&one, &daemon.shared("")).unwrap();
    let mut second = watch(&two, &daemon.shared(".")).unwrap();
    fs::write(daemon.shared("a"), "").unwrap();
    let created = json!({"kind": "created", "path": daemon.shared("a")});
    assert_eq!((next(&mut first), next(&mut second)), (created.clone(), created));
    drop((first, one));
    fs::remove_file(daemon.shared("a")).unwrap();
    assert_eq!(next(&mut second), json!({"kind": "removed", "path": daemon.shared("a")}));
}

#[test]
fn a_connection_watches_so_many_paths_and_gets_them_back_when_it_wants_no_more() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut all: Vec<Subscription> = (0..64).map(|_| watch(&client, &daemon.shared("")).unwrap()).collect();
    let error = watch(&client, &daemon.shared("")).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ResourceExhausted), "{error}");
    all.pop();
    // That its reader left is told to the daemon, and comes to the watch a moment later.
    let again = std::iter::repeat_with(|| watch(&client, &daemon.shared("")));
    all.extend(again.take(10_000).find_map(Result::ok));
    assert_eq!(all.len(), 64, "none was given back");
    fs::write(daemon.shared("a"), "").unwrap();
    for events in &mut all {
        assert_eq!(next(events)["kind"], "created");
    }
}

#[test]
fn a_policy_that_takes_the_grant_away_ends_the_watch() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = watch(&client, &daemon.shared("")).unwrap();
    let policy = "identifier = 'nobody'\npeers = ['everyone']\npermissions = ['core:default']";
    fs::write(daemon.root.join("capabilities/all.toml"), policy).unwrap();
    // Whichever reads it first: this, or the daemon by itself.
    let reloading = daemon.running.as_ref().unwrap().handle().clone();
    drop(invoked::async_runtime::block_on(async move { reloading.reload().await }));
    assert_eq!(end(&mut events), Some(ErrorCode::Revoked));
}
