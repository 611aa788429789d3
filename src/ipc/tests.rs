//! Commands as `#[command]` makes them, called without a daemon.
//!
//! How and where they run, and what a panic answers, is the runner's and not tested here.

mod handlers;
mod vocabulary;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use invoked_macros::{command, generate_handler};
use invoked_proto::body::{Body, Message};
use invoked_proto::name::PluginName;
use invoked_proto::registry::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Argument, CallError, CancellationToken, Command, Execution, Fault, InvokeBody, InvokeError,
    InvokeMessage, InvokeResponseBody, IpcResponse, Origin, Outcome, Peer, PeerId, Request, Response, State,
    StateManager, WireCall,
};
use crate::app::{AppHandle, PackageInfo};
use crate::authority::load::PasswdFiles;
use crate::authority::{Format, Grant, Instance, PeerFacts, PluginManifest, Policy, Source, Verdict};

// The call.

fn message(body: Body) -> InvokeMessage {
    let state = StateManager::default();
    state.manage(Counter(AtomicU32::new(41)));
    state.manage(Mutex::new(String::from("kept")));
    let peer = Peer {
        id: PeerId(7),
        uid: 1000,
        gid: 1000,
        groups: vec![10],
        pid: Some(4242),
        user: Some("ann".to_owned()),
        program: None,
    };
    let call = WireCall {
        command: "test.command".into(),
        headers: vec![("trace".into(), "abc".into())],
        message: Message { body, attachments: vec![Bytes::from_static(b"attached")] },
        peer: Arc::new(peer),
        grant: grant(),
        deadline: None,
        depth: 0,
        behalf: Arc::default(),
        stream: 3,
        channels: crate::ipc::DeclaredChannels::default(),
        lanes: None,
    };
    let app = AppHandle::new(state, PackageInfo::default(), Instance::User, None);
    InvokeMessage::new(call, &app, None)
}

/// A grant as the authority gives it.
fn grant() -> Arc<Grant> {
    let text = "identifier = 'tests'\npeers = ['uid:1000']\npermissions = ['test:allow-command']";
    let compiled = Policy::new(999, &PasswdFiles::default())
        .manifest(PluginManifest::new(PluginName::parse("test").unwrap()).command("command"))
        .document(Source::new("tests.toml", None, text), Format::Toml)
        .compile()
        .expect("the policy has no errors");
    match compiled.snapshot.peer(&PeerFacts::new(1000, 1000, [])).authorize("test.command") {
        Verdict::Allow(grant) => Arc::clone(grant),
        Verdict::Deny(denial) => panic!("denied: {denial:?}"),
    }
}

#[test]
fn attachments_are_found_by_the_argument_that_names_them() {
    let found = |text| message(json(text)).attachment("data").map(Option::<&Bytes>::cloned);
    assert_eq!(found(r#"{"data":"__ATTACHMENT__:0"}"#), Ok(Some(Bytes::from_static(b"attached"))));
    let escaped = r#"{"data":"\u005f\u005fATTACHMENT__:0"}"#;
    assert_eq!(found(escaped), Ok(Some(Bytes::from_static(b"attached"))), "the same string");
    for absent in ["{}", r#"{"data":null}"#, r#"{"other":"__ATTACHMENT__:0"}"#] {
        assert_eq!(found(absent), Ok(None), "{absent}");
    }
    for (text, why) in [
        (r#"{"data":"__ATTACHMENT__:1"}"#, "the call has no attachment 1; it has 1, counted from 0"),
        (r#"{"data":"__ATTACHMENT__:00"}"#, "not an attachment"),
        (r#"{"data":"text"}"#, "not an attachment"),
        (r#"{"data":[1,2]}"#, "not an attachment"),
        (r#"{"data":""}"#, "not an attachment"),
        (
            r#"{"data":"__ATTACHMENT__:0","again":"__ATTACHMENT__:0"}"#,
            "argument `data` of test.command: names the same attachment as `again`",
        ),
        (r#"{"data":"__ATTACHMENT__:0","data":"x"}"#, "key \"data\" stands twice"),
        ("[1]", "not one JSON object"),
    ] {
        let fault = found(text).unwrap_err();
        assert_eq!(fault.code, ErrorCode::InvalidArgument);
        assert!(fault.message.contains(why), "{text}: {}", fault.message);
    }
    let fault = message(Body::Raw(Bytes::new())).attachment("data").unwrap_err();
    assert!(fault.message.contains("the body is raw"), "{}", fault.message);
}

fn json(text: &'static str) -> Body {
    Body::Json(Bytes::from_static(text.as_bytes()))
}

/// Runs a command where nothing in it waits.
fn run(command: &Command, body: Body) -> Outcome {
    let message = message(body);
    match &command.execution {
        Execution::Inline(run) | Execution::Blocking(run) => run(&message),
        Execution::Async(start) | Execution::InlineAsync(start) => {
            let mut future = start(message);
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => panic!("the command waits"),
            }
        }
        Execution::Deferred(_) => panic!("#[command] makes no deferred commands"),
    }
}

#[track_caller]
fn replies(command: &Command, body: Body, expected: Body) {
    let response = run(command, body).unwrap_or_else(|error| panic!("{} fails: {error:?}", command.name()));
    assert_eq!(response.as_body(), &expected);
}

#[track_caller]
fn fault(command: &Command, body: Body) -> Fault {
    match run(command, body) {
        Err(CallError::Framework(fault)) => fault,
        other => panic!("not an error of the framework: {other:?}"),
    }
}

#[track_caller]
fn application_error(command: &Command, body: Body) -> Body {
    match run(command, body) {
        Err(CallError::Application(error)) => error.body().clone(),
        other => panic!("not an error of the application: {other:?}"),
    }
}

/// The only command of a handler.
fn only(handler: super::InvokeHandler) -> Command {
    let [command] = <[Command; 1]>::try_from(handler.commands).expect("one command was given");
    command
}

// Arguments.

/// Greets someone.
///
/// Politely.
#[command]
fn greet(name: String) -> String {
    format!("Hello, {name}!")
}

#[command]
fn shout(text: Option<String>, times: Option<u8>) -> String {
    text.unwrap_or_else(|| "hey".to_owned()).repeat(usize::from(times.unwrap_or(1)))
}

#[command]
fn open(file_path: String, _read_only: bool) -> String {
    file_path
}

#[command(rename_all = "snake_case")]
fn open_snake(file_path: String) -> String {
    file_path
}

#[command(rename = "type")]
fn kind_of(r#type: String) -> String {
    r#type
}

#[derive(Deserialize)]
struct Point {
    x: i32,
    y: i32,
}

#[command]
fn sum(Point { x, y }: Point, mut extra: Vec<i32>) -> i32 {
    extra.push(x);
    extra.iter().sum::<i32>() + y
}

#[command]
fn borrowed(name: &str, names: Vec<&str>, maybe: Option<&str>) -> usize {
    name.len() + names.concat().len() + maybe.map_or(0, str::len)
}

#[test]
fn arguments_come_by_their_keys() {
    let greet = only(generate_handler![greet]);
    replies(&greet, json(r#"{"name":"Ann","unused":1}"#), json(r#""Hello, Ann!""#));
    let sum = only(generate_handler![sum]);
    replies(&sum, json(r#"{"point":{"x":1,"y":2},"extra":[3,4]}"#), json("10"));
}

#[test]
fn optional_arguments_may_be_absent_or_null() {
    let shout = only(generate_handler![shout]);
    replies(&shout, Body::None, json(r#""hey""#));
    replies(&shout, json("{}"), json(r#""hey""#));
    replies(&shout, json(r#"{"text":null,"times":2}"#), json(r#""heyhey""#));
}

#[test]
fn keys_are_camel_case_unless_renamed() {
    let open = only(generate_handler![open]);
    replies(&open, json(r#"{"filePath":"/a","readOnly":true}"#), json(r#""/a""#));
    let snake = only(generate_handler![open_snake]);
    replies(&snake, json(r#"{"file_path":"/a"}"#), json(r#""/a""#));
    let kind = only(generate_handler![kind_of]);
    assert_eq!(kind.name(), "type");
    replies(&kind, json(r#"{"type":"t"}"#), json(r#""t""#));
}

#[test]
fn a_missing_argument_is_named_and_so_is_its_near_twin() {
    let open = only(generate_handler![open]);
    let missing = fault(&open, json(r#"{"readOnly":true}"#));
    assert_eq!(missing.code, ErrorCode::InvalidArgument);
    assert_eq!(missing.message, "test.command: missing `filePath`");
    let twin = fault(&open, json(r#"{"file_path":"/a"}"#));
    assert_eq!(twin.message, "test.command: missing `filePath`; the call has `file_path`");
}

#[test]
fn a_wrong_argument_is_named() {
    let greet = only(generate_handler![greet]);
    let wrong = fault(&greet, json(r#"{"name":5}"#));
    assert_eq!(wrong.code, ErrorCode::InvalidArgument);
    assert!(wrong.message.starts_with("argument `name` of test.command: invalid type"), "{}", wrong.message);
    assert_eq!(fault(&greet, json("[1]")).code, ErrorCode::InvalidArgument);
    assert_eq!(fault(&greet, Body::Raw(Bytes::from_static(b"Ann"))).code, ErrorCode::InvalidArgument);
    assert_eq!(fault(&greet, json(r#"{"name":"a","name":"b"}"#)).code, ErrorCode::InvalidArgument);
}

#[test]
fn arguments_may_borrow_from_the_call() {
    let borrowed = only(generate_handler![borrowed]);
    replies(&borrowed, json(r#"{"name":"abc","names":["d"],"maybe":"ef"}"#), json("6"));
    replies(&borrowed, json(r#"{"name":"abc","names":[]}"#), json("3"));
}

#[test]
fn borrowed_strings_may_have_escapes() {
    let borrowed = only(generate_handler![borrowed]);
    replies(&borrowed, json(r#"{"name":"abc","names":["d"],"maybe":"ef"}"#), json("6"));
    replies(&borrowed, json(r#"{"name":"a\nc","names":["\u00e4","\""],"maybe":"\\f"}"#), json("8"));
    // More than is unescaped for anything but one string.
    let many = format!(r#"{{"name":"","names":["\n","{}"]}}"#, "x".repeat(70_000));
    assert_eq!(fault(&borrowed, Body::Json(many.into())).code, ErrorCode::InvalidArgument);
    let long = format!(r#"{{"name":"\n{}","names":[]}}"#, "x".repeat(70_000));
    replies(&borrowed, Body::Json(long.into()), json("70001"));
}

// What the call gives.

struct Counter(AtomicU32);

#[command]
fn count(counter: State<'_, Counter>) -> u32 {
    counter.0.fetch_add(1, Ordering::Relaxed) + 1
}

#[command]
fn unmanaged(_state: State<'_, Vec<u64>>) {}

#[command]
fn raw_length(request: Request<'_>) -> Result<usize, String> {
    match request.body() {
        InvokeBody::Raw(bytes) => Ok(bytes.len() + request.attachments().len()),
        _ => Err("not raw".to_owned()),
    }
}

#[command]
fn who(peer: &Peer, owned: Peer, origin: Origin, token: CancellationToken, message: &InvokeMessage) -> bool {
    *peer == owned
        && origin.local() == Some(peer)
        && !token.is_cancelled()
        && message.name() == "test.command"
}

#[test]
fn state_is_found_by_type() {
    replies(&only(generate_handler![count]), Body::None, json("42"));
    let missing = fault(&only(generate_handler![unmanaged]), Body::None);
    assert_eq!(missing.code, ErrorCode::Internal);
    assert!(missing.message.contains("Vec<u64>"), "{}", missing.message);
}

#[test]
fn a_request_reads_raw_bodies() {
    let raw = only(generate_handler![raw_length]);
    replies(&raw, Body::Raw(Bytes::from_static(b"1234")), json("5"));
    assert_eq!(application_error(&raw, json("{}")), json(r#""not raw""#));
}

#[test]
fn peer_origin_and_token_need_no_keys() {
    replies(&only(generate_handler![who]), Body::None, json("true"));
}

// Outputs.

type Aliased<T> = Result<T, String>;

#[derive(Debug, Serialize, thiserror::Error)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
enum OpenError {
    #[error("gone")]
    Gone { path: String },
}

struct Custom;

impl From<Custom> for InvokeError {
    fn from(_: Custom) -> Self {
        InvokeError::json(&json!({"custom": true})).attach(&b"more"[..])
    }
}

struct Lines(Vec<&'static str>);

impl IpcResponse for Lines {
    fn body(self) -> crate::Result<InvokeResponseBody> {
        Ok(InvokeResponseBody::Raw(self.0.join("\n").into_bytes()))
    }
}

mod outputs {
    use super::{
        Aliased, Bytes, CallError, Custom, ErrorCode, Fault, InvokeError, Lines, OpenError, Outcome,
        Response, State, command,
    };

    #[command]
    pub(super) fn nothing() {}

    #[command]
    pub(super) fn bytes() -> Vec<u8> {
        vec![0, 255]
    }

    #[command]
    pub(super) fn shared_bytes() -> Result<Bytes, String> {
        Ok(Bytes::from_static(b"shared"))
    }

    #[command]
    pub(super) fn slice() -> &'static [u8] {
        b"slice"
    }

    #[command]
    pub(super) fn lines() -> Lines {
        Lines(vec!["a", "b"])
    }

    #[command]
    pub(super) fn response() -> Outcome {
        Ok(Response::new(vec![1]).header("etag", "x"))
    }

    /// Gives what ends with the call.
    #[command]
    pub(super) fn words<'a>(text: &'a str, separator: &str) -> Result<Vec<&'a str>, &'a str> {
        if text.is_empty() { Err("no text") } else { Ok(text.split(separator).collect()) }
    }

    #[command]
    pub(super) fn aliased(fail: bool) -> Aliased<u8> {
        if fail { Err("failed".to_owned()) } else { Ok(1) }
    }

    #[command]
    pub(super) fn unit_result(fail: bool) -> Result<(), OpenError> {
        if fail { Err(OpenError::Gone { path: "/a".to_owned() }) } else { Ok(()) }
    }

    #[command]
    pub(super) fn converted() -> Result<(), Custom> {
        Err(Custom)
    }

    #[command]
    pub(super) fn raw_error() -> Result<(), Vec<u8>> {
        Err(vec![9])
    }

    #[command]
    pub(super) fn own_error() -> Result<(), InvokeError> {
        Err(InvokeError::raw(&b"own"[..]))
    }

    #[command]
    pub(super) fn framework() -> Result<(), Fault> {
        Err(Fault::new(ErrorCode::Unavailable, "busy"))
    }

    #[command]
    pub(super) fn either(framework: bool) -> Result<(), CallError> {
        let fault = Fault::new(ErrorCode::Unavailable, "busy");
        if framework { Err(fault.into()) } else { Err(InvokeError::json("mine").into()) }
    }

    /// Has the names that the macro's own code has.
    #[command(root = "crate")]
    pub(super) fn output(call: u8, message: u8, argument1: u8, value: u8) -> u8 {
        call + message + argument1 + value
    }

    #[command]
    pub(super) fn locked(state: State<'_, std::sync::Mutex<String>>) -> Result<String, String> {
        state.lock().map(|text| text.clone()).map_err(|error| error.to_string())
    }
}

#[test]
fn values_travel_as_json_and_bytes_raw() {
    let raw = |bytes: &'static [u8]| Body::Raw(Bytes::from_static(bytes));
    replies(&only(generate_handler![outputs::nothing]), Body::None, json("null"));
    replies(&only(generate_handler![outputs::bytes]), Body::None, raw(&[0, 255]));
    replies(&only(generate_handler![outputs::shared_bytes]), Body::None, raw(b"shared"));
    replies(&only(generate_handler![outputs::slice]), Body::None, raw(b"slice"));
    replies(&only(generate_handler![self::outputs::lines]), Body::None, raw(b"a\nb"));
    replies(&only(generate_handler![outputs::response]), Body::None, raw(&[1]));
    replies(&only(generate_handler![outputs::locked]), Body::None, json(r#""kept""#));
    let named = json(r#"{"call":1,"message":2,"argument1":3,"value":4}"#);
    replies(&only(generate_handler![outputs::output]), named, json("10"));
    replies(
        &only(generate_handler![outputs::words]),
        json(r#"{"text":"a b","separator":" "}"#),
        json(r#"["a","b"]"#),
    );
}

#[test]
fn the_trait_sends_the_same_bytes_raw() {
    let raw = |bytes: &'static [u8]| Body::Raw(Bytes::from_static(bytes));
    assert_eq!(vec![1_u8].into_response().unwrap().as_body(), &raw(&[1]));
    assert_eq!(Bytes::from_static(b"b").into_response().unwrap().as_body(), &raw(b"b"));
    assert_eq!(IpcResponse::into_response(&b"s"[..]).unwrap().as_body(), &raw(b"s"));
    assert_eq!(vec![1_u16].into_response().unwrap().as_body(), &json("[1]"));
}

#[test]
fn a_result_that_is_no_json_is_internal() {
    #[command]
    fn keyless() -> BTreeMap<Vec<u8>, u8> {
        BTreeMap::from([(vec![1], 1)])
    }
    assert_eq!(fault(&only(generate_handler![keyless]), Body::None).code, ErrorCode::Internal);
}

#[test]
fn errors_of_the_application_keep_their_form() {
    let aliased = only(generate_handler![outputs::aliased]);
    replies(&aliased, json(r#"{"fail":false}"#), json("1"));
    assert_eq!(application_error(&aliased, json(r#"{"fail":true}"#)), json(r#""failed""#));
    let unit = only(generate_handler![outputs::unit_result]);
    replies(&unit, json(r#"{"fail":false}"#), json("null"));
    let gone = application_error(&unit, json(r#"{"fail":true}"#));
    assert_eq!(gone, json(r#"{"kind":"gone","detail":{"path":"/a"}}"#));
    let words = only(generate_handler![outputs::words]);
    assert_eq!(application_error(&words, json(r#"{"text":"","separator":" "}"#)), json(r#""no text""#));
    let converted = application_error(&only(generate_handler![outputs::converted]), Body::None);
    assert_eq!(converted, json(r#"{"custom":true}"#));
    let raw = application_error(&only(generate_handler![outputs::raw_error]), Body::None);
    assert_eq!(raw, Body::Raw(Bytes::from_static(&[9])));
    let own = application_error(&only(generate_handler![outputs::own_error]), Body::None);
    assert_eq!(own, Body::Raw(Bytes::from_static(b"own")));
}

#[test]
fn errors_of_the_framework_stay_the_frameworks() {
    let unavailable = fault(&only(generate_handler![outputs::framework]), Body::None);
    assert_eq!(unavailable, Fault::new(ErrorCode::Unavailable, "busy"));
    let either = only(generate_handler![outputs::either]);
    assert_eq!(fault(&either, json(r#"{"framework":true}"#)).code, ErrorCode::Unavailable);
    assert_eq!(application_error(&either, json(r#"{"framework":false}"#)), json(r#""mine""#));
}

// Where they run, and what is told of them.

#[command]
async fn later(
    counter: State<'_, Counter>,
    name: &str,
    request: Request<'_>,
    peer: &Peer,
) -> Result<String, String> {
    std::future::ready(()).await;
    let trace = request.headers().find("trace").unwrap_or_default();
    Ok(format!("{name} {} {trace} {}", counter.0.load(Ordering::Relaxed), peer.uid))
}

#[command]
async fn later_bytes(text: String) -> Vec<u8> {
    std::future::ready(text).await.into_bytes()
}

#[command(async)]
fn on_workers() -> u8 {
    1
}

#[command(inline)]
fn in_place() -> u8 {
    2
}

#[command(inline, rename = "polled")]
async fn in_place_future() -> u8 {
    3
}

#[test]
fn an_async_command_borrows_from_its_call() {
    let later = only(generate_handler![later]);
    replies(&later, json(r#"{"name":"Ann"}"#), json(r#""Ann 41 abc 1000""#));
    assert_eq!(fault(&later, json("{}")).message, "test.command: missing `name`");
    let bytes = only(generate_handler![later_bytes]);
    replies(&bytes, json(r#"{"text":"x"}"#), Body::Raw(Bytes::from_static(b"x")));
}

#[test]
fn the_signature_and_the_attribute_say_where_a_command_runs() {
    let handler = generate_handler![greet, later, on_workers, in_place, in_place_future];
    let places: Vec<_> =
        handler.commands.iter().map(|command| (command.name(), command.execution.name())).collect();
    let expected = [
        ("greet", "blocking"),
        ("later", "async"),
        ("on_workers", "async"),
        ("in_place", "inline"),
        ("polled", "inline async"),
    ];
    assert_eq!(places, expected);
    replies(&handler.commands[2], Body::None, json("1"));
    replies(&handler.commands[3], Body::None, json("2"));
    replies(&handler.commands[4], Body::None, json("3"));
}

#[test]
fn a_handler_leaves_out_what_cfg_leaves_out() {
    let handler = generate_handler![
        greet,
        #[cfg(any())]
        absent,
        self::count,
    ];
    let names: Vec<_> = handler.commands.iter().map(Command::name).collect();
    assert_eq!(names, ["greet", "count"]);
    assert!(generate_handler![].commands.is_empty());
}

#[test]
fn docs_and_arguments_are_told() {
    let greet = only(generate_handler![greet]);
    assert_eq!(greet.docs, "Greets someone.\n\nPolitely.");
    assert_eq!(greet.arguments, [Argument { key: "name", kind: "String", optional: false }]);
    assert!(!greet.takes_raw);
    let shout = only(generate_handler![shout]);
    let times = Argument { key: "times", kind: "Option<u8>", optional: true };
    assert_eq!((shout.docs, &shout.arguments[1]), ("", &times));
    assert!(only(generate_handler![who]).arguments.is_empty());
    assert!(only(generate_handler![raw_length]).takes_raw);
    let later = only(generate_handler![later]);
    assert_eq!(later.arguments, [Argument { key: "name", kind: "&str", optional: false }]);
    assert!(!later.takes_raw);
}

#[test]
fn a_command_is_still_a_function() {
    assert_eq!(greet("Ann".to_owned()), "Hello, Ann!");
}
