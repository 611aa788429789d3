//! What the guide "Plugin Development" shows.

use std::collections::HashMap;
use std::sync::Mutex;

use serde::Deserialize;
use serde_json::json;
use tauri::ipc::{Channel, CommandScope, GlobalScope};
use tauri::plugin::{Builder, TauriPlugin};
use tauri::testing::{InvokeRequest, MockApp, mock_builder};
use tauri::{AppHandle, Manager, Runtime, command};

#[derive(Deserialize)]
struct Config {
    timeout: usize,
}

struct DummyStore(Mutex<HashMap<String, String>>);

struct Timeout(usize);

#[derive(Debug, Deserialize)]
struct Entry {
    binary: String,
}

#[command]
async fn upload<R: Runtime>(app: AppHandle<R>, on_progress: Channel<u8>, url: String) -> tauri::Result<()> {
    // implement command logic here
    app.state::<DummyStore>().0.lock().unwrap().insert(url, "done".into());
    on_progress.send(100)
}

#[command]
async fn stored<R: tauri::Runtime>(app: tauri::AppHandle<R>) -> Result<(usize, usize), String> {
    let store = app.state::<DummyStore>();
    let count = store.0.lock().map_err(|error| error.to_string())?.len();
    Ok((count, app.state::<Timeout>().0))
}

#[command]
async fn spawn<R: tauri::Runtime>(
    app: tauri::AppHandle<R>,
    command_scope: CommandScope<'_, Entry>,
    global_scope: GlobalScope<'_, Entry>,
) -> Result<(Vec<String>, Vec<String>), String> {
    let _ = app;
    let names = |entries: &[std::sync::Arc<Entry>]| entries.iter().map(|e| e.binary.clone()).collect();
    Ok((names(command_scope.allows()), names(global_scope.denies())))
}

fn init<R: Runtime>() -> TauriPlugin<R, Config> {
    Builder::<R, Config>::new("awesome")
        .invoke_handler(tauri::generate_handler![upload, stored, spawn])
        .setup(|app, api| {
            let timeout = api.config().timeout;
            app.manage(Timeout(timeout));
            app.manage(DummyStore(Default::default()));

            let app_ = app.clone();
            std::thread::spawn(move || {
                app_.state::<DummyStore>().0.lock().unwrap().insert("tick".into(), "tock".into());
            })
            .join()
            .unwrap();
            Ok(())
        })
        .permissions(
            r#"
            [default]
            description = "Uploads."
            permissions = ["allow-upload", "allow-stored"]

            [[permission]]
            identifier = "no-shells"
            description = "What nothing of this plugin may start."

            [[permission.scope.deny]]
            binary = "sh"
            "#,
        )
        .build()
}

#[test]
fn a_plugin_of_the_guide_is_set_up_and_called() {
    let builder = mock_builder().plugin(init()).plugin_config("awesome", json!({ "timeout": 30 }));
    let app = MockApp::new(builder).unwrap();
    app.add_capability(
        r#"{ "identifier": "main", "peers": ["uid:1000"], "permissions": ["awesome:default", "awesome:no-shells",
            { "identifier": "awesome:allow-spawn", "allow": [{ "binary": "ls" }] }] }"#,
    )
    .unwrap();
    let ann = app.user(1000);
    let upload = InvokeRequest::new("plugin:awesome|upload").arg("url", "a").channel("onProgress");
    assert_eq!(ann.call(upload).items::<u8>("onProgress"), [100]);
    assert_eq!(crate::answer(&ann, "plugin:awesome|stored", json!({})), Ok(json!([2, 30])));
    assert_eq!(crate::answer(&ann, "awesome.spawn", json!({})), Ok(json!([["ls"], ["sh"]])));
    let denied = app.user(1001).invoke(InvokeRequest::new("awesome.stored"));
    assert!(matches!(denied, Err(tauri::ipc::CallError::Framework(_))), "{denied:?}");
}
