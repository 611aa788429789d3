//! Who a command is told that calls it, and whom a provider takes for its daemon.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use invoked::ipc::Peer;
use invoked::provider::{ProvideError, ProvideOptions, Server};
use invoked::transport::{Access, Address, Listener};
use invoked::{command, generate_handler};
use invoked_proto::metadata::OriginStamp;
use serde_json::{Value, json};

use crate::script::{CALLER, HANG, Place};

/// An unprivileged uid that nobody is.
const STRANGER: u32 = 4711;

#[command]
fn who(peer: &Peer) -> Value {
    json!([peer.id.0, peer.uid, peer.gid, peer.pid, peer.user, peer.groups, peer.program])
}

fn builder() -> invoked::Builder<invoked::Wry, invoked::Named> {
    invoked::Builder::new("text").invoke_handler(generate_handler![who])
}

#[test]
fn a_command_sees_the_process_that_calls_and_not_the_daemon() {
    let place = Place::new();
    let (_provider, mut daemon) = place.serve(builder());
    daemon.grant("text.who");
    let seen = daemon.call("text.who", &json!({})).json();
    assert_eq!(seen, json!([77, 4711, 815, 42, null, [], null]));
    let root = OriginStamp { uid: 0, gid: 0, peer: 78, pid: None, grant: 5 };
    assert_eq!(
        daemon.call_for("text.who", &json!({}), root).json(),
        json!([78, 0, 0, null, "root", [], null])
    );
    // The daemon never gives a number twice; if it did, nobody would be taken for somebody else.
    let thief = OriginStamp { uid: 12, ..CALLER };
    assert_eq!(daemon.call_for("text.who", &json!({}), thief).json()[1], 12);
}

/// What another user's daemon says is not believed, as it says who calls.
#[test]
fn a_daemon_of_another_user_is_not_served_unless_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(STRANGER), Some(STRANGER)).expect("tests run as root");
    let address = format!("unix:{}/run/daemon.sock", directory.path().display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "identity::listens_as_another_user"])
        .env("PROVIDER_TEST_ADDRESS", &address)
        .uid(STRANGER)
        .gid(STRANGER)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let address: Address = address.parse().unwrap();
    let path = directory.path().join("run/daemon.sock");
    let start = std::time::Instant::now();
    while !path.exists() && start.elapsed() < HANG {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let provide = |server| {
        let options = ProvideOptions::new().address(address.clone()).server(server);
        builder().provide_blocking(options).expect_err("nobody answers there")
    };
    for server in [Server::Trusted, Server::Uid(12)] {
        let error = provide(server);
        let text = error.to_string();
        assert!(text.contains("is served by uid 4711") && !error.may_pass(), "{text}");
    }
    // This one is, and says nothing: its handshake is waited for, and no longer.
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(matches!(provide(Server::Uid(STRANGER)), ProvideError::Connect { may_pass: true, .. }));
}

#[test]
#[ignore = "run by another test, as another user"]
fn listens_as_another_user() {
    let Some(address) = std::env::var_os("PROVIDER_TEST_ADDRESS") else { return };
    let address: Address = address.to_str().unwrap().parse().unwrap();
    let listener = Listener::bind(&address, Access::Everyone).unwrap();
    // Until the other one closes its end.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    drop(listener);
}
