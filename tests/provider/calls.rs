//! Calls that the daemon makes: what comes of them, and which are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use invoked::authority::PrefixScope;
use invoked::ipc::{Body, CancellationToken, CommandScope, ErrorCode, Request, Response, State};
use invoked::{AppHandle, Manager, Resource, ResourceId, command, generate_handler};
use invoked_proto::metadata::OriginStamp;
use serde_json::json;

use crate::script::{Answer, CALLER, Place};

#[derive(Default)]
struct Count(AtomicU32);

#[command]
fn upper(text: String, count: State<'_, Arc<Count>>) -> Result<String, String> {
    count.0.fetch_add(1, Ordering::Relaxed);
    if text.is_empty() { Err("nothing to write".to_owned()) } else { Ok(text.to_uppercase()) }
}

#[command(inline)]
fn reversed(request: Request<'_>) -> Vec<u8> {
    request.body().bytes().iter().rev().copied().collect()
}

#[command]
fn bytes(len: usize) -> invoked::Result<Response> {
    let mut buffer = Response::alloc(len);
    buffer.fill(7);
    Ok(buffer.into())
}

#[command]
async fn idle(cancelled: CancellationToken, count: State<'_, Arc<Count>>) -> Result<(), String> {
    cancelled.cancelled().await;
    count.0.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[command]
fn open_url(url: String, scope: CommandScope<'_, PrefixScope>) -> Result<(), invoked::ipc::Fault> {
    scope.require(url.as_str(), url.as_str())
}

struct Held;
impl Resource for Held {}

#[command]
fn hold(app: AppHandle) -> ResourceId {
    app.resources_table().add(Held)
}

#[command]
fn held(app: AppHandle) -> usize {
    app.resources_table().names().count()
}

fn builder(count: &Arc<Count>) -> invoked::Builder<invoked::Wry, invoked::Named> {
    invoked::Builder::new("text")
        .manage(Arc::clone(count))
        .invoke_handler(generate_handler![upper, reversed, bytes, idle, open_url, hold, held])
}

#[test]
fn json_raw_large_and_failing_commands_answer_as_they_do_in_a_daemon() {
    let (place, count) = (Place::new(), Arc::default());
    let (provider, mut daemon) = place.serve(builder(&count));
    daemon.grant("text.upper");
    assert_eq!(daemon.call("text.upper", &json!({ "text": "hello" })).json(), json!("HELLO"));
    let Answer::Error(code, text, body) = daemon.call("text.upper", &json!({ "text": "" })) else { panic!() };
    assert_eq!((code, text.as_str()), (ErrorCode::Application, ""));
    assert_eq!(body.body, Body::Json(Bytes::from_static(b"\"nothing to write\"")));
    let wrong = daemon.call("text.upper", &json!({ "txt": 1 }));
    assert_eq!(wrong.error().0, ErrorCode::InvalidArgument);

    let other = OriginStamp { grant: 6, ..CALLER };
    daemon.grant_scopes(6, 1, &json!({ "command": "text.reversed" }));
    let raw: Bytes = (0..300_000_u32).map(|i| i.to_le_bytes()[0]).collect::<Vec<_>>().into();
    let stream = daemon.start("text.reversed", Body::Raw(raw.clone()), other, Vec::new());
    let Answer::Result(message) = daemon.answer(stream) else { panic!() };
    assert_eq!(message.body, Body::Raw(raw.iter().rev().copied().collect()));

    daemon.grant_scopes(8, 1, &json!({ "command": "text.bytes" }));
    let large =
        daemon.call_for("text.bytes", &json!({ "len": 5_000_000 }), OriginStamp { grant: 8, ..CALLER });
    let Answer::Result(message) = large else { panic!() };
    assert!(message.body.bytes().len() == 5_000_000 && message.body.bytes().iter().all(|byte| *byte == 7));
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    // Without its daemon it has nobody to take its leave of.
    drop(daemon);
    drop(provider);
}

#[test]
fn a_call_without_a_grant_that_holds_runs_nothing() {
    let (place, count) = (Place::new(), Arc::default());
    let (_provider, mut daemon) = place.serve(builder(&count));
    let args = json!({ "text": "x" });
    let refused = |answer: Answer, code| assert_eq!(answer.error().0, code, "{answer:?}");
    refused(daemon.call("text.upper", &args), ErrorCode::PermissionDenied);
    daemon.grant("text.upper");
    assert_eq!(daemon.call("text.upper", &args).json(), json!("X"));
    daemon.connection.ungrant(CALLER.grant).unwrap();
    refused(daemon.call("text.upper", &args), ErrorCode::PermissionDenied);
    // A grant that is given again is a new one; one for another command, or one that can't be read, is none.
    daemon.grant("text.upper");
    assert_eq!(daemon.call("text.upper", &args).json(), json!("X"));
    refused(daemon.call("text.reversed", &args), ErrorCode::Internal);
    daemon.grant_scopes(9, 1, &json!({ "command": 1 }));
    refused(
        daemon.call_for("text.upper", &args, OriginStamp { grant: 9, ..CALLER }),
        ErrorCode::PermissionDenied,
    );
    daemon.grant_scopes(10, 1, &json!({ "command": "text.nothing" }));
    refused(daemon.call_for("text.nothing", &args, OriginStamp { grant: 10, ..CALLER }), ErrorCode::NotFound);
    let nobody = daemon
        .send(invoked_proto::connection::Request { command: "text.upper".into(), ..Default::default() });
    refused(daemon.answer(nobody), ErrorCode::Internal);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

#[test]
fn scopes_are_those_of_the_grant_and_the_newest_generation_counts() {
    let (place, count) = (Place::new(), Arc::default());
    let (_provider, mut daemon) = place.serve(builder(&count));
    let scopes = json!({ "command": "text.open_url", "allow": ["https://a/"], "deny": ["https://a/secret"] });
    daemon.grant_scopes(5, 2, &scopes);
    let verdict = |daemon: &mut crate::script::Script, url: &str| match daemon
        .call("text.open_url", &json!({ "url": url }))
    {
        Answer::Result(_) => true,
        answer => {
            let (code, text) = answer.error();
            assert_eq!(code, ErrorCode::PermissionDenied);
            assert_eq!(text, format!("this peer may not call text.open_url with {url:?}"));
            false
        }
    };
    assert!(verdict(&mut daemon, "https://a/x"));
    assert!(!verdict(&mut daemon, "https://a/secret/x"));
    assert!(!verdict(&mut daemon, "https://b/"));
    let wider = json!({ "command": "text.open_url", "allow": ["https://b/"] });
    daemon.grant_scopes(5, 1, &wider);
    assert!(!verdict(&mut daemon, "https://b/"), "an older generation changes nothing");
    daemon.grant_scopes(5, 3, &wider);
    assert!(verdict(&mut daemon, "https://b/"));
    assert!(!verdict(&mut daemon, "https://a/x"));
}

#[test]
fn cancel_and_deadline_reach_the_handler() {
    let (place, count) = (Place::new(), Arc::default());
    let (_provider, mut daemon) = place.serve(builder(&count));
    daemon.grant("text.idle");
    let stream = daemon.start("text.idle", Body::None, CALLER, Vec::new());
    daemon.connection.cancel(stream);
    assert_eq!(daemon.answer(stream).error().0, ErrorCode::Cancelled);
    let mut extensions = invoked_proto::metadata::Extensions::none();
    extensions.insert(invoked_proto::registry::tags::ORIGIN, CALLER.encode());
    let late = daemon.send(invoked_proto::connection::Request {
        command: "text.idle".into(),
        deadline_us: Some(20_000),
        extensions,
        ..Default::default()
    });
    assert_eq!(daemon.answer(late).error().0, ErrorCode::DeadlineExceeded);
    while count.0.load(Ordering::Relaxed) < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_is_held_for_one_caller_is_not_another_s_and_goes_with_its_last_grant() {
    let (place, count) = (Place::new(), Arc::default());
    let (_provider, mut daemon) = place.serve(builder(&count));
    let give = |daemon: &mut crate::script::Script| {
        daemon.grant_scopes(5, 1, &json!({ "command": "text.hold" }));
        daemon.grant_scopes(6, 1, &json!({ "command": "text.held" }));
    };
    give(&mut daemon);
    let holds = CALLER;
    let asks = OriginStamp { grant: 6, ..CALLER };
    let another = OriginStamp { peer: 78, ..asks };
    for rid in 1..=2 {
        assert_eq!(daemon.call_for("text.hold", &json!({}), holds).json(), json!(rid));
    }
    assert_eq!(daemon.call_for("text.held", &json!({}), asks).json(), json!(2));
    assert_eq!(daemon.call_for("text.held", &json!({}), another).json(), json!(0));
    daemon.connection.ungrant(5).unwrap();
    assert_eq!(daemon.call_for("text.held", &json!({}), asks).json(), json!(2), "it has another grant");
    daemon.connection.ungrant(6).unwrap();
    give(&mut daemon);
    assert_eq!(daemon.call_for("text.held", &json!({}), asks).json(), json!(0));
}
