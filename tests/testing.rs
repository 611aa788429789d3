//! The world for tests that programs get: it treats commands as a daemon with sockets does.

#![allow(clippy::unwrap_used)] // a test may fail by panicking

extern crate invoked as tauri;

use std::time::Duration;

use invoked::authority::{PeerFacts, ProcessFact};
use serde_json::{Value, json};
use tauri::ipc::{
    CancellationToken, Channel, CommandScope, Delivery, ErrorCode, InvokeBody, InvokeResponseBody, Peer, Raw,
    Request, Response,
};
use tauri::testing::{
    InvokeRequest, MockApp, assert_ipc_fault, assert_ipc_response, get_ipc_response, mock_app, mock_builder,
};
use tauri::{AppHandle, Manager};

#[tauri::command]
fn who(peer: Peer) -> Value {
    json!({ "uid": peer.uid, "gid": peer.gid, "groups": peer.groups, "pid": peer.pid })
}

#[tauri::command(inline)]
fn length(request: Request<'_>) -> usize {
    match request.body() {
        InvokeBody::Raw(bytes) => bytes.len(),
        InvokeBody::Json(json) => json.as_bytes().len(),
    }
}

#[tauri::command]
fn parts(first: Raw, second: Raw) -> Response {
    Response::new(first.to_vec()).attach(second.into_bytes()).header("parts", "2")
}

#[tauri::command]
fn count(to: u32, on_number: Channel<u32>) -> tauri::Result<u32> {
    for number in 1..=to {
        on_number.send(number)?;
    }
    Ok(to)
}

#[tauri::command]
async fn ticks(on_tick: Channel<Vec<u8>>) -> Result<usize, ()> {
    let mut sent = 0;
    while on_tick.send_async(vec![7; 1000]).await.is_ok() {
        sent += 1;
    }
    Ok(sent)
}

#[tauri::command]
async fn idle(cancelled: CancellationToken, app: AppHandle) {
    cancelled.cancelled().await;
    app.manage(Cancelled);
}

struct Cancelled;

#[tauri::command]
fn was_cancelled(app: AppHandle) -> bool {
    app.try_state::<Cancelled>().is_some()
}

#[tauri::command]
fn allowed(scope: CommandScope<'_, String>) -> Vec<String> {
    scope.allows().iter().map(|value| String::clone(value)).collect()
}

#[tauri::command]
fn large(len: usize) -> Vec<u8> {
    vec![5; len]
}

fn handler() -> tauri::ipc::InvokeHandler {
    tauri::generate_handler![who, length, parts, count, ticks, idle, was_cancelled, allowed, large]
}

fn app() -> MockApp {
    mock_app(mock_builder().invoke_handler(handler())).unwrap()
}

/// An application of which nobody may call anything yet.
fn closed() -> MockApp {
    MockApp::new(mock_builder().invoke_handler(handler())).unwrap()
}

#[test]
fn a_peer_is_whoever_the_test_says() {
    let facts = PeerFacts::new(1000, 100, [7, 8]).with_pid(4242);
    let expected = json!({ "uid": 1000, "gid": 100, "groups": [7, 8], "pid": 4242 });
    assert_ipc_response(&app().peer(facts), InvokeRequest::new("who"), Ok(expected));
    let as_tauri_has_it = InvokeRequest::new("plugin:core|ping");
    assert_ipc_response(&app().user(1000), as_tauri_has_it, Ok("pong"));
}

#[test]
fn bodies_attachments_and_headers_go_both_ways() {
    let app = app();
    let ann = app.user(1000);
    assert_ipc_response(&ann, InvokeRequest::new("length").raw("12345"), Ok(5));
    assert_ipc_response(&ann, InvokeRequest::new("length"), Ok(2));
    let request = InvokeRequest::new("parts").attach_as("first", "a").attach_as("second", "bc");
    let response = ann.invoke(request.clone()).unwrap();
    assert_eq!((response.as_body().bytes(), &response.attachments()[0][..]), (&b"a"[..], &b"bc"[..]));
    assert_eq!(get_ipc_response(&ann, request), Ok(InvokeResponseBody::Raw(b"a".to_vec())));
}

#[test]
fn a_large_message_arrives_in_pieces() {
    let app = app();
    let ann = app.user(1000);
    let large = ann.invoke(InvokeRequest::new("large").arg("len", &5_000_000)).unwrap();
    assert_eq!(large.as_body().bytes().len(), 5_000_000);
    let sent = InvokeRequest::new("length").raw(vec![1; 5_000_000]);
    assert_ipc_response(&ann, sent, Ok(5_000_000));
    let above = InvokeRequest::new("large").arg("len", &(70 << 20));
    assert!(ann.invoke(above).is_err());
    // The connection goes on.
    assert_ipc_response(&ann, InvokeRequest::new("length").raw("1"), Ok(1));
}

#[test]
fn a_channel_brings_its_items_and_ends() {
    let app = app();
    let ann = app.user(1000);
    let call = ann.call(InvokeRequest::new("count").arg("to", &5000).channel("onNumber"));
    assert_eq!(call.items::<u32>("onNumber"), (1..=5000).collect::<Vec<_>>());
    assert_eq!(call.wait().unwrap().as_body().bytes(), b"5000");
}

#[test]
fn a_channel_holds_back_a_command_whose_items_nobody_takes() {
    let app = app();
    let ann = app.user(1000);
    let call = ann.call(InvokeRequest::new("ticks").channel("onTick"));
    for _ in 0..100 {
        assert_eq!(call.next_item("onTick").unwrap(), Some(InvokeResponseBody::Raw(vec![7; 1000])));
    }
    call.stop("onTick");
    let sent: usize = serde_json::from_slice(call.wait().unwrap().as_body().bytes()).unwrap();
    // What was taken, what its credit lets wait, and what waits in the daemon.
    assert!((100..10_000).contains(&sent), "{sent} items were sent");
}

#[test]
fn a_call_is_cancelled_by_hand_by_time_and_by_leaving() {
    let app = app();
    let (ann, bob) = (app.user(1000), app.user(1001));
    let call = ann.call(InvokeRequest::new("idle"));
    call.cancel();
    let Err(tauri::ipc::CallError::Framework(fault)) = call.wait() else { panic!("it is cancelled") };
    assert_eq!(fault.code, ErrorCode::Cancelled);
    let short = InvokeRequest::new("idle").timeout(Duration::from_millis(20));
    assert_ipc_fault(&bob, short, ErrorCode::DeadlineExceeded);
    let was_cancelled = |peer: &tauri::testing::MockPeer| {
        peer.invoke(InvokeRequest::new("was_cancelled")).unwrap().as_body().bytes() == b"true"
    };
    while !was_cancelled(&bob) {
        std::thread::sleep(Duration::from_millis(2));
    }
    // A peer that leaves ends its calls; nobody is told, and the daemon goes on.
    let left = bob.call(InvokeRequest::new("idle"));
    drop((left, bob));
    assert!(was_cancelled(&ann));
}

#[test]
fn without_a_policy_nobody_may_call() {
    let app = closed();
    let fault = match app.user(1000).invoke(InvokeRequest::new("who")) {
        Err(tauri::ipc::CallError::Framework(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!((fault.code, fault.delivery), (ErrorCode::PermissionDenied, Delivery::NotDelivered));
}

#[test]
fn a_policy_tells_peers_apart_and_scopes_what_they_may() {
    let app = closed();
    let capability = |identifier: &str, peers: &str, permissions: &str| {
        app.add_capability(format!(
            "identifier = '{identifier}'\npeers = {peers}\npermissions = {permissions}"
        ))
    };
    capability("ops", "['gid:20']", "['allow-who']").unwrap();
    capability("ann", "['uid:1000']", "[{ identifier = 'allow-allowed', allow = ['a', 'b'] }]").unwrap();
    assert!(capability("bad", "['uid:1000']", "['allow-nothing']").is_err());
    assert!(app.peer(PeerFacts::new(1, 20, [])).invoke(InvokeRequest::new("who")).is_ok());
    assert!(app.peer(PeerFacts::new(1, 1, [20])).invoke(InvokeRequest::new("who")).is_ok());
    let ann = app.user(1000);
    assert_ipc_fault(&ann, InvokeRequest::new("who"), ErrorCode::PermissionDenied);
    assert_ipc_response(&ann, InvokeRequest::new("allowed"), Ok(["a", "b"]));
    // It is in force for peers that are there already.
    capability("more", "['uid:1000']", "['allow-who']").unwrap();
    assert!(ann.invoke(InvokeRequest::new("who")).is_ok());
}

#[test]
fn a_peer_may_narrow_itself_and_run_a_program() {
    let app = closed();
    for (identifier, permission) in [("one", "allow-who"), ("two", "allow-length")] {
        let text =
            format!("identifier = '{identifier}'\npeers = ['everyone']\npermissions = ['{permission}']");
        app.add_capability(text).unwrap();
    }
    let facts = PeerFacts::new(1000, 1000, []);
    let narrowed = app.connect(facts.clone(), Some(&["two"])).unwrap();
    assert_ipc_fault(&narrowed, InvokeRequest::new("who"), ErrorCode::PermissionDenied);
    assert_ipc_response(&narrowed, InvokeRequest::new("length").raw("1"), Ok(1));
    let program = facts.with_executable(ProcessFact::Known("/usr/bin/gallery".into()));
    assert!(app.peer(program).invoke(InvokeRequest::new("who")).is_ok());
}

#[test]
fn a_command_that_panics_harms_nobody() {
    #[tauri::command]
    fn panics() {
        panic!("on purpose");
    }
    let app = mock_app(mock_builder().invoke_handler(tauri::generate_handler![panics])).unwrap();
    let ann = app.user(1000);
    for _ in 0..3 {
        assert_ipc_fault(&ann, InvokeRequest::new("panics"), ErrorCode::Internal);
    }
}
