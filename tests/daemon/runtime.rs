//! A program that embeds a daemon changes its policy while it runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use invoked::authority::{CapabilityBuilder, PeerFacts};
use invoked::ipc::{Command, InvokeError, Response};
use invoked::transport::{Access, Listener};
use invoked::{ChangeError, DaemonHandle, Running};
use invoked_client::Options;
use invoked_client::blocking::Client;

use crate::child::code_of;
use crate::harness::{HANG, eventually, set_mode};

/// How often the handler of `count` was called.
type Calls = Arc<AtomicUsize>;

struct Embedded {
    daemon: Running,
    calls: Calls,
    directory: tempfile::TempDir,
}

impl Embedded {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy");
        std::fs::create_dir(&policy).unwrap();
        set_mode(&policy, 0o755);
        let calls = Calls::default();
        let counted = Arc::clone(&calls);
        let commands = vec![
            Command::blocking("count", move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                Ok(Response::json("counted")?)
            }),
            Command::blocking("wait", |message| {
                // Until it is told that nobody waits for it.
                let cancelled = message.cancellation().clone();
                eventually("the handler was not told", || cancelled.is_cancelled());
                Ok(Response::json("waited")?)
            }),
            Command::inline("add_inline", |message| {
                let handle = message.state().find::<DaemonHandle>().expect("managed").inner().clone();
                match handle.authority().add_capability_blocking(count("inline")) {
                    Err(ChangeError::OnTheLoop) => Ok(Response::json("refused")?),
                    other => Err(InvokeError::json(&format!("{other:?}")).into()),
                }
            }),
        ];
        let mut config = invoked::Config::default();
        config.policy.watch = false;
        let daemon = invoked::Builder::default()
            .config(config)
            .invoke_handler(commands)
            .capabilities(policy)
            .serve(Listener::bind(&address(directory.path()), Access::Owner).unwrap())
            .unwrap();
        Embedded { daemon, calls, directory }
    }

    fn client(&self) -> Client {
        let options =
            Options::new().address(address(self.directory.path())).connect_timeout(HANG).timeout(HANG);
        Client::connect(options).unwrap()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join("policy").join(name);
        std::fs::write(&path, text).unwrap();
        set_mode(&path, 0o644);
        path
    }

    fn reload(&self) -> Result<invoked::Reloaded, invoked::ReloadError> {
        std::thread::sleep(std::time::Duration::from_millis(1050));
        runtime().block_on(self.daemon.handle().reload())
    }
}

fn address(directory: &std::path::Path) -> invoked_client::Address {
    format!("unix:{}/run/app.sock", directory.display()).parse().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn count(name: &str) -> CapabilityBuilder {
    CapabilityBuilder::new(name).peer("self").permission("allow-count")
}

fn calls(client: &Client, command: &str) -> Result<String, &'static str> {
    let reply = client.call(command).send();
    reply.map(|reply| reply.json().unwrap()).map_err(|error| code_of(&error))
}

#[test]
fn what_is_added_is_in_force_at_once_survives_reloads_and_is_removed() {
    let embedded = Embedded::new();
    let (client, authority) = (embedded.client(), embedded.daemon.handle().authority());
    assert_eq!(calls(&client, "count"), Err("permission_denied"));
    assert_eq!(embedded.calls.load(Ordering::SeqCst), 0, "a denied call reached its handler");
    let own = PeerFacts::new(rustix::process::geteuid().as_raw(), 0, []);
    assert!(authority.authorize(&own, "count").is_err());
    let told = authority.explain(&own, "count", None).to_string();
    assert!(told.contains("denied: count"), "{told}");

    let added = runtime().block_on(authority.add_capability(count("counting"))).unwrap();
    assert_eq!(added.revision, authority.policy().revision());
    assert_eq!(calls(&client, "count").as_deref(), Ok("counted"));
    assert!(authority.authorize(&own, "count").is_ok());

    embedded.file("a.toml", "identifier = 'a'\npeers = ['self']\npermissions = ['allow-wait']\n");
    embedded.reload().unwrap();
    assert_eq!(calls(&client, "count").as_deref(), Ok("counted"), "a reload took it away");
    // A file that takes its name is refused, and changes nothing.
    let twin =
        embedded.file("b.toml", "identifier = 'counting'\npeers = ['self']\npermissions = ['allow-wait']\n");
    assert!(matches!(embedded.reload(), Err(invoked::ReloadError::Policy(_))));
    std::fs::remove_file(twin).unwrap();

    runtime().block_on(authority.remove_capability("counting")).unwrap();
    assert_eq!(calls(&client, "count"), Err("permission_denied"));
    assert_eq!(embedded.calls.load(Ordering::SeqCst), 2);
    let again = runtime().block_on(authority.remove_capability("counting")).unwrap_err();
    assert!(matches!(again, ChangeError::NotAdded(name) if name == "counting"));
}

#[test]
fn what_is_removed_ends_the_calls_that_it_allowed() {
    let embedded = Embedded::new();
    let (client, authority) = (embedded.client(), embedded.daemon.handle().authority());
    let waiting = CapabilityBuilder::new("waiting").peer("self").permission("allow-wait");
    authority.add_capability_blocking(waiting).unwrap();
    let ended = std::thread::spawn({
        let client = client.clone();
        move || calls(&client, "wait")
    });
    eventually("the call is not open", || crate::harness::stats(&client)["calls_in_flight"] == 2);
    authority.remove_capability_blocking("waiting").unwrap();
    assert_eq!(ended.join().unwrap(), Err("revoked"));
}

#[test]
fn what_is_not_sound_or_there_already_changes_nothing() {
    let embedded = Embedded::new();
    let authority = embedded.daemon.handle().authority();
    authority.add_capability_blocking(count("one")).unwrap();
    let revision = authority.policy().revision();
    for (capability, wrong) in [
        (count("one"), "a second capability \"one\""),
        (count("two").permission("allow-nothing"), "unknown permission \"allow-nothing\""),
    ] {
        let error = authority.add_capability_blocking(capability).unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
    assert_eq!(authority.policy().revision(), revision);
    // Files that are broken meanwhile are no concern of a change at run time.
    embedded.file("bad.toml", "identifier = 7\n");
    authority
        .add_capability_blocking("identifier = 'text'\npeers = ['self']\npermissions = ['allow-wait']")
        .unwrap();
    assert!(embedded.reload().is_err());
}

#[test]
fn an_inline_command_is_told_that_it_can_not_wait() {
    let embedded = Embedded::new();
    let authority = embedded.daemon.handle().authority();
    let inline = CapabilityBuilder::new("in").peer("self").permission("allow-add-inline");
    authority.add_capability_blocking(inline).unwrap();
    assert_eq!(calls(&embedded.client(), "add_inline").as_deref(), Ok("refused"));
}

#[test]
fn changes_from_many_threads_come_one_after_the_other() {
    let embedded = Embedded::new();
    let authority = embedded.daemon.handle().authority();
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (authority, failed) = (authority.clone(), &failed);
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("t{thread}-{round}");
                    let result = authority.add_capability_blocking(count(&name)).map(drop);
                    failed.lock().unwrap().extend(result.err().map(|error| error.to_string()));
                }
            });
        }
    });
    assert_eq!(*failed.lock().unwrap(), Vec::<String>::new());
    assert_eq!(authority.policy().capability_count(), 21, "twenty, and the embedded one");
}
