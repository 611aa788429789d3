//! What else a call gives and takes: bodies, headers, attachments, scopes, deadlines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_macros::{command, generate_handler};
use invoked_proto::body::{Body, Message};
use invoked_proto::name::PluginName;
use invoked_proto::registry::ErrorCode;
use serde::Deserialize;

use super::{fault, json, only, replies};
use crate::app::{AppHandle, PackageInfo};
use crate::authority::load::PasswdFiles;
use crate::authority::{
    Format, Grant, Instance, PathScope, PeerFacts, PluginManifest, Policy, ScopeDefault, ScopeKind, Source,
    Verdict,
};
use crate::ipc::{
    CallbackFn, Command, CommandScope, Deadline, Execution, GlobalScope, InvokeBody, InvokeMessage,
    InvokeResponseBody, IpcResponse, Outcome, Peer, PeerId, Raw, Request, Response, StateManager, WireCall,
};

/// Runs a blocking command on a call with these attachments and this grant.
fn run(command: &Command, body: Body, attachments: Vec<Bytes>, grant: Arc<Grant>) -> Outcome {
    let peer = Peer {
        id: PeerId(1),
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
        pid: None,
        user: None,
        program: None,
    };
    let call = WireCall {
        command: "test.command".into(),
        headers: vec![("authorization".into(), "token".into())],
        message: Message { body, attachments },
        peer: Arc::new(peer),
        grant,
        deadline: Some(Instant::now() + Duration::from_secs(3600)),
        depth: 0,
        behalf: Arc::default(),
        stream: 41,
        channels: crate::ipc::DeclaredChannels::default(),
        lanes: None,
    };
    let app = AppHandle::new(StateManager::default(), PackageInfo::default(), Instance::User, None);
    let Execution::Blocking(run) = &command.execution else { panic!("it blocks") };
    run(&InvokeMessage::new(call, &app, None))
}

/// The grant of a policy with this entry of `permissions`, and these of permissions without commands.
fn grant(scoped: bool, entries: &str) -> Arc<Grant> {
    let text = format!("identifier = 'tests'\npeers = ['uid:1000']\npermissions = [{entries}]");
    let mut manifest = PluginManifest::new(PluginName::parse("test").unwrap())
        .scope(ScopeKind::of::<PathScope>(), ScopeDefault::Nothing)
        .permission(crate::authority::Permission {
            identifier: "scope".to_owned(),
            scope_deny: vec!["/srv/global/**".into()],
            ..Default::default()
        });
    manifest = if scoped { manifest.scoped_command("command") } else { manifest.command("command") };
    let compiled = Policy::new(999, &PasswdFiles::default())
        .manifest(manifest)
        .document(Source::new("tests.toml", None, text), Format::Toml)
        .compile()
        .expect("the policy has no errors");
    match compiled.snapshot.peer(&PeerFacts::new(1000, 1000, [])).authorize("test.command") {
        Verdict::Allow(grant) => Arc::clone(grant),
        Verdict::Deny(denial) => panic!("denied: {denial:?}"),
    }
}

fn plain() -> Arc<Grant> {
    grant(false, "'test:allow-command'")
}

#[track_caller]
fn gives(outcome: Outcome, expected: &'static str) {
    assert_eq!(outcome.expect("it succeeds").as_body(), &json(expected));
}

// The request, as a guide of Tauri's has it.

#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the body is not raw")]
    NotRaw,
    #[error("no authorization")]
    NoAuthorization,
}

impl serde::Serialize for UploadError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.to_string().as_ref())
    }
}

#[command]
#[allow(elided_lifetimes_in_paths)] // as guides write it
fn upload(request: Request) -> Result<String, UploadError> {
    let InvokeBody::Raw(data) = request.body() else { return Err(UploadError::NotRaw) };
    let Some(authorization) = request.headers().get("Authorization") else {
        return Err(UploadError::NoAuthorization);
    };
    Ok(format!("{} {}", authorization.to_str().unwrap_or_default(), data.len()))
}

#[command]
fn either(request: Request<'_>) -> u64 {
    match request.body() {
        InvokeBody::Raw(bytes) => bytes.len() as u64,
        InvokeBody::Json(json) => json["len"].as_u64().unwrap_or(99),
    }
}

#[test]
fn a_request_has_body_and_headers_in_tauris_form() {
    let upload = only(generate_handler![upload]);
    gives(run(&upload, Body::Raw(Bytes::from_static(b"12345")), Vec::new(), plain()), r#""token 5""#);
    assert_eq!(super::application_error(&upload, Body::None), json(r#""the body is not raw""#));
    let either = only(generate_handler![either]);
    replies(&either, json(r#"{"len":7}"#), json("7"));
    replies(&either, Body::None, json("99"));
}

// Attachments.

#[command]
fn joined(title: String, first: Raw, second: Raw) -> Vec<u8> {
    [title.as_bytes(), &first, &second].concat()
}

#[test]
fn an_attachment_is_an_argument() {
    let joined = only(generate_handler![joined]);
    let attachments = || vec![Bytes::from_static(b"b"), Bytes::from_static(b"c")];
    let body = json(r#"{"title":"a","first":"__ATTACHMENT__:0","second":"__ATTACHMENT__:1"}"#);
    let response = run(&joined, body, attachments(), plain()).unwrap();
    assert_eq!(response.as_body(), &Body::Raw(Bytes::from_static(b"abc")));
    for (body, expected) in [
        (r#"{"title":"a","first":"__ATTACHMENT__:0"}"#, "test.command: missing `second`"),
        (r#"{"title":"a","first":"__ATTACHMENT__:0","second":"__ATTACHMENT__:2"}"#, "has no attachment 2"),
        (r#"{"title":"a","first":"__ATTACHMENT__:1","second":"__ATTACHMENT__:1"}"#, "the same attachment"),
        (r#"{"title":"a","first":[1,2],"second":"__ATTACHMENT__:1"}"#, "not an attachment"),
    ] {
        let Err(crate::ipc::CallError::Framework(fault)) = run(&joined, json(body), attachments(), plain())
        else {
            panic!("{body} is refused");
        };
        assert_eq!(fault.code, ErrorCode::InvalidArgument);
        assert!(fault.message.contains(expected), "{}", fault.message);
    }
    assert_eq!(
        joined.arguments.iter().map(|argument| argument.kind).collect::<Vec<_>>(),
        ["String", "Raw", "Raw"]
    );
}

// Deadline and id.

#[command]
fn left(deadline: Deadline, message: &InvokeMessage) -> (bool, bool, u64) {
    let CallbackFn(id) = message.callback();
    (deadline.has_passed(), deadline.remaining().is_some_and(|left| left > Duration::from_secs(60)), id)
}

#[command]
fn unbounded(deadline: Deadline) -> bool {
    deadline.at().is_none() && !deadline.has_passed()
}

#[test]
fn deadline_and_id_come_with_the_call() {
    gives(run(&only(generate_handler![left]), Body::None, Vec::new(), plain()), "[false,true,41]");
    replies(&only(generate_handler![unbounded]), Body::None, json("true"));
}

// Scopes.

#[command]
fn touch(
    path: std::path::PathBuf,
    scope: CommandScope<'_, PathScope>,
    global: GlobalScope<'_, PathScope>,
) -> (bool, usize, usize) {
    (scope.matches(&path), scope.allows().len() + scope.denies().len(), global.denies().len())
}

/// A scope value of the command's own, looked through by hand.
#[derive(Debug, Deserialize)]
struct Entry {
    host: String,
}

#[command]
fn hosts(scope: CommandScope<'_, Entry>) -> Vec<String> {
    scope.allows().iter().map(|entry| entry.host.clone()).collect()
}

#[test]
fn a_command_sees_the_scopes_of_its_grant() {
    let touch = only(generate_handler![touch]);
    assert!(touch.scoped, "taking a scope makes it scoped");
    let entries =
        "{ identifier = 'test:allow-command', allow = ['/srv/**'], deny = ['/srv/x/*'] }, 'test:scope'";
    for (path, expected) in [
        (r#"{"path":"/srv/a"}"#, "[true,2,1]"),
        (r#"{"path":"/srv/x/a"}"#, "[false,2,1]"),
        (r#"{"path":"/srv/global/a"}"#, "[false,2,1]"),
        (r#"{"path":"/etc/a"}"#, "[false,2,1]"),
    ] {
        gives(run(&touch, json(path), Vec::new(), grant(true, entries)), expected);
    }
    gives(
        run(&touch, json(r#"{"path":"/srv/a"}"#), Vec::new(), grant(true, "'test:allow-command'")),
        "[false,0,0]",
    );
}

#[command]
fn require(path: &str, scope: CommandScope<'_, PathScope>) -> Result<(), crate::ipc::Fault> {
    scope.require(std::path::Path::new(path), path)
}

#[test]
fn a_scope_refuses_in_the_words_of_the_daemon() {
    let require = only(generate_handler![require]);
    let entries = "{ identifier = 'test:allow-command', allow = ['/srv/**'] }";
    gives(run(&require, json(r#"{"path":"/srv/a"}"#), Vec::new(), grant(true, entries)), "null");
    match run(&require, json(r#"{"path":"/etc/a"}"#), Vec::new(), grant(true, entries)) {
        Err(crate::ipc::CallError::Framework(fault)) => {
            assert_eq!(fault.code, ErrorCode::PermissionDenied);
            assert_eq!(fault.message, "this peer may not call test.command with \"/etc/a\"");
            assert!(fault.scope_refused().is_some(), "the operator is told why");
        }
        other => panic!("it is refused: {other:?}"),
    }
}

#[test]
fn a_scope_that_was_not_declared_is_no_scope() {
    // Were it taken, everything would be allowed, whatever the files say.
    let fault = fault(&only(generate_handler![touch]), json(r#"{"path":"/srv/a"}"#));
    assert_eq!(fault.code, ErrorCode::Internal);
    assert!(fault.message.contains("is not registered as scoped"), "{}", fault.message);
}

#[test]
fn a_deny_value_that_the_command_cannot_read_denies_the_call() {
    let hosts = only(generate_handler![hosts]);
    // These values are paths; the command reads them as something else.
    let denies = "{ identifier = 'test:allow-command', allow = ['/srv/**'], deny = ['/srv/x'] }";
    match run(&hosts, Body::None, Vec::new(), grant(true, denies)) {
        Err(crate::ipc::CallError::Framework(fault)) => assert_eq!(fault.code, ErrorCode::PermissionDenied),
        other => panic!("it is denied: {other:?}"),
    }
    let allows = "{ identifier = 'test:allow-command', allow = ['/srv/**'] }";
    gives(run(&hosts, Body::None, Vec::new(), grant(true, allows)), "[]");
}

// Replies.

#[test]
fn a_reply_is_made_of_bytes_of_json_or_of_a_file() {
    let raw = |bytes: &'static [u8]| Body::Raw(Bytes::from_static(bytes));
    assert_eq!(Response::new(vec![1_u8]).as_body(), &raw(&[1]));
    assert_eq!(Response::new("[1]".to_owned()).as_body(), &json("[1]"));
    assert_eq!(Response::new(InvokeResponseBody::Raw(vec![2])).as_body(), &raw(&[2]));
    let mut buffer = Response::alloc(3);
    buffer[1] = 9;
    assert_eq!(buffer.into_response().unwrap().as_body(), &raw(&[0, 9, 0]));
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"file").unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    assert_eq!(Response::from_file(&file).unwrap().as_body(), &raw(b"file"));
    file.set_len(invoked_proto::registry::limits::MAX_MESSAGE as u64 + 1).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    assert_eq!(Response::from_file(&file).unwrap_err().code, ErrorCode::TooLarge);
}

#[test]
fn the_body_of_whatever_is_returned_has_tauris_form() {
    assert_eq!("x".body().unwrap(), InvokeResponseBody::Json(r#""x""#.to_owned()));
    assert_eq!(vec![1_u8].body().unwrap(), InvokeResponseBody::Raw(vec![1]));
    assert_eq!(Response::new(vec![1_u8]).attach("y").body().unwrap(), InvokeResponseBody::Raw(vec![1]));
}
