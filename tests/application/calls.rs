//! Commands that call commands, and what is held for a caller.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use invoked_client::blocking::Client;
use serde_json::{Value, json};
use tauri::ipc::{CallError, CancellationToken, Peer, Response};
use tauri::{AppHandle, Manager, Resource, ResourceId, State};

use super::{Log, World};

/// Who calls, and how.
#[tauri::command]
fn who(peer: Peer, log: State<'_, Log>) -> Value {
    log.add("who");
    json!({ "pid": peer.pid, "uid": peer.uid })
}

#[tauri::command]
async fn as_daemon(app: AppHandle) -> Result<Value, CallError> {
    app.invoke("who", &json!({})).await
}

#[tauri::command]
async fn as_caller(app: AppHandle) -> Result<Response, CallError> {
    app.call("who").for_caller()?.send().await
}

/// Calls itself, one deeper, until that is refused.
#[tauri::command]
async fn recurse(depth: u32, app: AppHandle) -> Result<u32, CallError> {
    let args = json!({ "depth": depth + 1 });
    match app.call("recurse").for_caller()?.args(&args)?.send().await {
        Ok(reply) => Ok(serde_json::from_slice(reply.as_body().bytes()).unwrap()),
        Err(_) => Ok(depth),
    }
}

/// Waits until nobody waits for it.
#[tauri::command]
async fn idle(cancelled: CancellationToken, log: State<'_, Log>) -> Result<(), ()> {
    log.add("idle begins");
    cancelled.cancelled().await;
    log.add("idle ends");
    Ok(())
}

#[tauri::command]
async fn waits_for_idle(app: AppHandle) -> Result<Response, CallError> {
    app.call("idle").for_caller()?.send().await
}

/// Gives up on a call by dropping it.
#[tauri::command]
async fn gives_up(app: AppHandle) -> Result<bool, CallError> {
    let call = app.call("idle").for_caller()?.send();
    Ok(tokio_timeout(Duration::from_millis(300), call).await.is_none())
}

async fn tokio_timeout<F: Future>(after: Duration, future: F) -> Option<F::Output> {
    let sleep = tauri::async_runtime::spawn_blocking(move || std::thread::sleep(after));
    let (mut future, mut sleep) = (Box::pin(future), Box::pin(sleep));
    std::future::poll_fn(move |context| {
        use std::task::Poll;
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        sleep.as_mut().poll(context).map(|_| None)
    })
    .await
}

struct Door(AppHandle);

impl Resource for Door {
    fn name(&self) -> Cow<'_, str> {
        "door".into()
    }
    fn close(self: Arc<Self>) {
        self.0.state::<Log>().add("door closed");
    }
}

#[tauri::command]
fn open_door(app: AppHandle) -> ResourceId {
    let door = Door(app.detached());
    app.resources_table().add(door)
}

#[tauri::command]
fn knock(rid: ResourceId, app: AppHandle) -> tauri::Result<String> {
    let door: Arc<Door> = app.resources_table().get(rid)?;
    Ok(door.name().into_owned())
}

fn handler() -> tauri::ipc::InvokeHandler {
    tauri::generate_handler![
        who,
        as_daemon,
        as_caller,
        recurse,
        idle,
        waits_for_idle,
        gives_up,
        open_door,
        knock,
        super::history
    ]
}

const ALL: &str = r#"["core:default", "allow-who", "allow-as-daemon", "allow-as-caller", "allow-recurse", "allow-idle",
    "allow-waits-for-idle", "allow-gives-up", "allow-open-door", "allow-knock", "allow-history"]"#;

fn log(client: &Client) -> Vec<String> {
    client.invoke("history", &json!({})).unwrap()
}

/// Waits until a line is in the log.
fn await_line(client: &Client, line: &str) {
    while !log(client).iter().any(|found| found == line) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_calls_as_the_daemon_or_for_its_caller() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let daemon = world.builder(ALL).invoke_handler(handler()).serve(world.listener())?;
    let client = world.client();
    let uid = json!(rustix_uid());
    // Both run in this process; a peer without a process is the daemon itself.
    let as_daemon: Value = client.invoke("as_daemon", &json!({}))?;
    assert_eq!(as_daemon, json!({ "pid": std::process::id(), "uid": uid }));
    let as_caller: Value = client.invoke("as_caller", &json!({}))?;
    assert_eq!(as_caller, client.invoke::<Value>("who", &json!({}))?);
    assert_eq!(log(&client), ["who", "who", "who"]);
    daemon.shutdown()?;
    Ok(())
}

fn rustix_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[test]
fn a_call_for_the_caller_has_no_more_rights_than_the_caller() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let some = r#"["allow-as-daemon", "allow-as-caller", "allow-history"]"#;
    let daemon = world.builder(some).invoke_handler(handler()).serve(world.listener())?;
    let client = world.client();
    for command in ["as_daemon", "as_caller"] {
        let error = client.invoke::<Value>(command, &json!({})).unwrap_err();
        assert!(error.is_permission_denied(), "{command}: {error}");
    }
    assert!(log(&client).is_empty());
    daemon.shutdown()?;
    Ok(())
}

#[test]
fn calls_nest_sixteen_deep() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let daemon = world.builder(ALL).invoke_handler(handler()).serve(world.listener())?;
    assert_eq!(world.client().invoke::<u32>("recurse", &json!({ "depth": 0 }))?, 16);
    daemon.shutdown()?;
    Ok(())
}

#[test]
fn a_nested_call_ends_with_the_call_that_made_it() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let daemon = world.builder(ALL).invoke_handler(handler()).serve(world.listener())?;
    let client = world.client();
    let call = client.call("waits_for_idle").timeout(Duration::from_millis(300));
    let error = call.send().unwrap_err();
    assert_eq!(error.code().map(|code| code.name()), Some("deadline_exceeded"));
    await_line(&client, "idle ends");
    assert!(client.invoke::<bool>("gives_up", &json!({}))?);
    while log(&client).len() < 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(log(&client), ["idle begins", "idle ends", "idle begins", "idle ends"]);
    daemon.shutdown()?;
    Ok(())
}

#[test]
fn resources_are_their_connections_and_end_with_it() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let daemon = world.builder(ALL).invoke_handler(handler()).serve(world.listener())?;
    let (ann, bob) = (world.client(), world.client());
    let rids: Vec<ResourceId> = (0..3).map(|_| ann.invoke("open_door", &json!({})).unwrap()).collect();
    let knock = |client: &Client, rid| client.invoke::<String>("knock", &json!({ "rid": rid }));
    assert_eq!(knock(&ann, rids[0])?, "door");
    assert_eq!(knock(&bob, rids[0]).unwrap_err().code().map(|code| code.name()), Some("not_found"));
    let close = |client: &Client| client.invoke::<()>("core.close_resource", &json!({ "rid": rids[0] }));
    assert!(close(&bob).is_err());
    close(&ann)?;
    assert!(close(&ann).is_err() && knock(&ann, rids[0]).is_err());
    assert_eq!(log(&bob), ["door closed"]);
    drop(ann);
    while log(&bob).len() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon.shutdown()?;
    Ok(())
}
