//! The handlers. Nothing here says where they run.

use std::path::PathBuf;
use std::sync::Mutex;

use invoked::authority::{Permission, PermissionSet, PrefixScope, ScopeDefault, ScopeKind};
use invoked::ipc::{
    CallError, CancellationToken, Channel, ChannelReader, Command, CommandScope, Deadline, Fault, Invoke,
    InvokeError, Peer, Raw, RecvError, Request, Response, State,
};
use invoked::plugin::{Builder, Plugin};
use invoked::{AppHandle, Manager, Resource, ResourceId, command, generate_handler};
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct Counter(Mutex<u32>);

/// A file that is there.
pub(crate) struct Shared(pub(crate) PathBuf);

/// Greets somebody.
#[command]
fn greet(first_name: &str) -> String {
    format!("Hello, {first_name}!")
}

#[command(inline)]
fn reversed(request: Request<'_>) -> Vec<u8> {
    request.body().bytes().iter().rev().copied().collect()
}

#[command]
fn joined(left: Raw, right: Raw, between: String) -> Vec<u8> {
    [&left[..], between.as_bytes(), &right[..]].concat()
}

#[command]
fn count(counter: State<'_, Counter>) -> u32 {
    let mut count = counter.0.lock().unwrap();
    *count += 1;
    *count
}

#[command]
fn count_down(from: u32, on_number: Channel<u32>) -> invoked::Result<()> {
    (0..=from).rev().try_for_each(|number| on_number.send(number))
}

/// Goes on sending after it has answered.
#[command]
fn later(items: Channel<Vec<u8>>) -> &'static str {
    invoked::async_runtime::spawn(async move {
        for size in [0, 1, 70_000, 300_000] {
            if items.send_async(vec![1; size]).await.is_err() {
                return;
            }
        }
    });
    "soon"
}

#[command]
fn add_up(mut numbers: ChannelReader<u64>) -> Result<u64, RecvError> {
    numbers.try_fold(0, |sum, number| Ok(sum + number?))
}

#[command]
fn open(url: String, scope: CommandScope<'_, PrefixScope>) -> Result<String, Fault> {
    scope.require(url.as_str(), url.as_str())?;
    Ok(format!("opened {url}, one of {} allowed", scope.allows().len()))
}

#[derive(Serialize)]
#[serde(tag = "kind")]
enum Failed {
    Nothing { at: u32 },
}

#[command]
async fn fails(how: String) -> Result<(), CallError> {
    Err(match how.as_str() {
        "json" => InvokeError::json(&Failed::Nothing { at: 3 }).into(),
        "raw" => InvokeError::raw(vec![0, 159, 146, 150]).into(),
        _ => Fault::new(invoked::ipc::ErrorCode::FailedPrecondition, "not now").into(),
    })
}

#[command]
fn panics() {
    panic!("as it must");
}

#[command]
async fn idle(started: Channel<()>, cancelled: CancellationToken) -> invoked::Result<()> {
    started.send_async(()).await?;
    cancelled.cancelled().await;
    Ok(())
}

#[command]
fn large(len: usize) -> Response {
    let mut buffer = Response::alloc(len);
    buffer.iter_mut().zip((0..=250).cycle()).for_each(|(byte, value)| *byte = value);
    buffer.into()
}

#[command]
fn file(shared: State<'_, Shared>) -> invoked::Result<Response> {
    Ok(Response::from_file(&std::fs::File::open(&shared.0)?)?)
}

#[command]
fn mirrored(request: Request<'_>) -> Response {
    let header = request.headers().get("x-word").and_then(|value| value.to_str().ok()).unwrap_or("none");
    Response::new(b"body".to_vec())
        .header("x-back", header)
        .attach(b"first".to_vec())
        .attach(vec![7; 100_000])
}

#[command(inline)]
async fn who(peer: &Peer, deadline: Deadline) -> Value {
    json!([peer.uid, peer.gid, peer.pid, peer.user, deadline.remaining().is_some()])
}

#[command]
async fn nested(app: AppHandle) -> Result<Value, CallError> {
    let own: String = app.invoke("ways.greet", &json!({ "firstName": "own" })).await?;
    let reply = app.call("ways.greet").for_caller()?.args(&json!({ "firstName": "caller" }))?.send().await?;
    let caller: Value = serde_json::from_slice(reply.as_body().bytes()).unwrap();
    let denied = app.call("ways.forbidden").for_caller()?.send().await.unwrap_err();
    let CallError::Framework(denied) = denied else { return Ok(Value::Null) };
    Ok(json!([own, caller, denied.code.name()]))
}

#[command]
fn forbidden() -> &'static str {
    "nobody may"
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

pub(crate) fn plugin() -> Plugin {
    let deferred = Command::deferred("deferred", |invoke: Invoke| {
        let Invoke { message, resolver } = invoke;
        let len = message.body().bytes().len();
        std::thread::spawn(move || resolver.resolve(len));
    });
    let all = [
        "greet",
        "reversed",
        "joined",
        "count",
        "count-down",
        "later",
        "add-up",
        "fails",
        "panics",
        "idle",
        "large",
        "file",
        "mirrored",
        "who",
        "nested",
        "hold",
        "held",
        "deferred",
    ];
    Builder::new("ways")
        .invoke_handler(generate_handler![
            greet, reversed, joined, count, count_down, later, add_up, open, fails, panics, idle, large,
            file, mirrored, who, nested, forbidden, hold, held
        ])
        .invoke_handler(vec![deferred])
        .scope(ScopeKind::Prefix, ScopeDefault::Nothing)
        .permission(Permission {
            identifier: "no-b-secrets".to_owned(),
            description: "Opens what is on b, without its secrets.".to_owned(),
            scope_allow: Some(vec![json!("https://b/")]),
            scope_deny: vec![json!("https://b/secret")],
            ..Permission::default()
        })
        .set(PermissionSet {
            identifier: "all".to_owned(),
            description: "All but the forbidden.".to_owned(),
            permissions: all.iter().map(|name| format!("allow-{name}")).collect(),
        })
        .build()
}
