//! What applications do beside what guides show: tasks that go on, channels that are kept, helpers that borrow state.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tauri::async_runtime::{self, JoinHandle};
use tauri::ipc::{Channel, InvokeBody, InvokeResponseBody, Request, Response};
use tauri::test::{InvokeRequest, mock_app, mock_builder};
use tauri::{AppHandle, Manager, Runtime, State};

use crate::answer;

type CommandResult<T, E = String> = Result<T, E>;

#[derive(Clone, Default)]
pub struct Store {
    inner: Arc<Mutex<HashMap<String, Value>>>,
}

#[derive(Default)]
pub struct Jobs {
    running: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
    listeners: Mutex<Vec<Channel<Progress>>>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    job_id: u32,
    percent: f32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    max_results: Option<usize>,
    filter: HashMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("store: {0}")]
    Store(String),
    #[error(transparent)]
    Tauri(#[from] tauri::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Serialize for AppError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn lookup(store: &State<'_, Store>, key: &str) -> Option<Value> {
    store.inner.lock().ok()?.get(key).cloned()
}

#[tauri::command]
async fn set(store: State<'_, Store>, key: String, value: Value) -> CommandResult<()> {
    store.inner.lock().map_err(|e| e.to_string())?.insert(key, value);
    Ok(())
}

#[tauri::command]
async fn get(store: State<'_, Store>, key: &str) -> Result<Value, AppError> {
    lookup(&store, key).ok_or_else(|| AppError::Store(format!("no {key}")))
}

#[tauri::command]
fn search(store: State<Store>, options: Option<Options>, _unused: Option<bool>) -> Vec<String> {
    let options = options.unwrap_or_default();
    let inner = store.inner.lock().unwrap();
    let mut keys: Vec<_> = inner.keys().filter(|key| !options.filter.contains_key(*key)).cloned().collect();
    keys.sort();
    keys.truncate(options.max_results.unwrap_or(usize::MAX));
    keys
}

/// A task that goes on after the reply, on a channel that it keeps.
#[tauri::command]
async fn start_job<R: Runtime>(
    app: AppHandle<R>,
    job_id: u32,
    on_progress: Channel<Progress>,
) -> Result<(), AppError> {
    let jobs = app.state::<Jobs>();
    let stop = jobs.stop.clone();
    let handle = app.clone();
    let task = async_runtime::spawn(async move {
        let mut percent = 0.0;
        while !stop.load(Ordering::SeqCst) {
            percent += 0.5;
            if on_progress.send(Progress { job_id, percent }).is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let store = handle.state::<Store>().inner().clone();
        store.inner.lock().unwrap().insert("finished".into(), job_id.into());
    });
    *jobs.running.lock().unwrap() = Some(task);
    Ok(())
}

#[tauri::command]
async fn stop_job(app: AppHandle) -> Result<(), AppError> {
    let task = {
        let jobs = app.state::<Jobs>();
        jobs.stop.store(true, Ordering::SeqCst);
        jobs.running.lock().unwrap().take()
    };
    if let Some(task) = task {
        task.await?;
    }
    Ok(())
}

/// A channel that waits in the state for what a thread will say.
#[tauri::command]
fn subscribe(jobs: State<'_, Jobs>, listener: Channel<Progress>) {
    jobs.listeners.lock().unwrap().push(listener);
}

#[tauri::command]
fn publish(app: AppHandle) {
    std::thread::spawn(move || {
        let jobs = app.state::<Jobs>();
        for listener in jobs.listeners.lock().unwrap().drain(..) {
            let _ = listener.send(Progress { job_id: listener.id(), percent: 100.0 });
        }
    });
}

#[tauri::command]
async fn describe(request: Request<'_>) -> Result<String, String> {
    let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("none");
    let len = match request.body() {
        InvokeBody::Raw(data) => data.len(),
        InvokeBody::Json(value) => value["data"].as_array().map_or(0, |list| list.len()),
    };
    Ok(format!("{kind} {len}"))
}

#[tauri::command]
fn packed(json: bool) -> Result<Response, AppError> {
    if json {
        return Ok(Response::new(serde_json::to_string(&[1, 2])?));
    }
    Ok(Response::new(InvokeResponseBody::Raw(vec![1, 2])))
}

#[test]
fn what_applications_do_works() {
    let builder = mock_builder().manage(Store::default()).manage(Jobs::default()).invoke_handler(
        tauri::generate_handler![set, get, search, start_job, stop_job, subscribe, publish, describe, packed],
    );
    let app = mock_app(builder).unwrap();
    let ann = app.user(1000);
    let ask = |command: &str, args: Value| answer(&ann, command, args);
    for key in ["a", "b", "c"] {
        assert_eq!(ask("set", json!({ "key": key, "value": { "n": [1] } })), Ok(Value::Null));
    }
    assert_eq!(ask("get", json!({ "key": "a" })), Ok(json!({ "n": [1] })));
    assert_eq!(ask("get", json!({ "key": "x" })), Err(json!("store: no x")));
    assert_eq!(ask("search", json!({})), Ok(json!(["a", "b", "c"])));
    let options = json!({ "maxResults": 1, "filter": { "a": "" } });
    assert_eq!(ask("search", json!({ "options": options })), Ok(json!(["b"])));

    let job = ann.call(InvokeRequest::new("start_job").arg("jobId", &7).channel("onProgress"));
    let first = job.next_item("onProgress").unwrap().unwrap().deserialize::<Value>().unwrap();
    assert_eq!(first, json!({ "jobId": 7, "percent": 0.5 }));
    assert_eq!(ask("stop_job", json!({})), Ok(Value::Null));
    assert_eq!(ask("get", json!({ "key": "finished" })), Ok(json!(7)));

    let kept = ann.call(InvokeRequest::new("subscribe").channel("listener"));
    kept.wait().unwrap();
    ask("publish", json!({})).unwrap();
    assert_eq!(kept.items::<Value>("listener"), [json!({ "jobId": 1, "percent": 100.0 })]);

    let raw = InvokeRequest::new("describe").raw("12345").header("content-type", "text/plain");
    assert_eq!(ann.invoke(raw).unwrap().as_body().bytes(), br#""text/plain 5""#);
    assert_eq!(ask("describe", json!({ "data": [1, 2] })), Ok(json!("none 2")));
    assert_eq!(ask("packed", json!({ "json": true })), Ok(json!([1, 2])));
    let raw = ann.invoke(InvokeRequest::new("packed").arg("json", &false)).unwrap();
    assert_eq!(raw.as_body(), &tauri::ipc::Body::Raw(vec![1, 2].into()));
}
