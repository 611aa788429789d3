//! What the guide "Calling the Frontend from Rust" shows of channels.

use serde::Serialize;
use serde_json::{Value, json};
use tauri::testing::InvokeRequest;
use tauri::{AppHandle, ipc::Channel};
use tokio::io::AsyncReadExt;

use crate::app;

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "event", content = "data")]
enum DownloadEvent<'a> {
    Started { url: &'a str, download_id: usize, content_length: usize },
    Progress { download_id: usize, chunk_length: usize },
    Finished { download_id: usize },
}

#[tauri::command]
fn download(app: AppHandle, url: String, on_event: Channel<DownloadEvent>) {
    let _ = app;
    let content_length = 1000;
    let download_id = 1;

    on_event.send(DownloadEvent::Started { url: &url, download_id, content_length }).unwrap();
    for chunk_length in [15, 150, 35, 500, 300] {
        on_event.send(DownloadEvent::Progress { download_id, chunk_length }).unwrap();
    }
    on_event.send(DownloadEvent::Finished { download_id }).unwrap();
}

#[tauri::command]
async fn load_image(path: std::path::PathBuf, reader: tauri::ipc::Channel<&[u8]>) {
    // for simplicity this example does not include error handling
    let mut file = tokio::fs::File::open(path).await.unwrap();
    let mut chunk = vec![0; 4096];
    loop {
        let len = file.read(&mut chunk).await.unwrap();
        if len == 0 {
            break;
        }
        // Send the chunk to the frontend
        reader.send(&chunk).unwrap();
    }
}

/// A channel that a task keeps after the command's reply.
#[tauri::command]
async fn watch(on_tick: Channel<usize>) -> Result<(), String> {
    tauri::async_runtime::spawn(async move {
        for tick in 0..3 {
            if on_tick.send(tick).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// What channels carry that says for itself.
#[tauri::command]
fn bodies(channel: Channel) -> tauri::Result<()> {
    use tauri::ipc::InvokeResponseBody;
    channel.send(InvokeResponseBody::Json("[1]".into()))?;
    channel.send(InvokeResponseBody::Raw(vec![2]))
}

/// A channel inside a structure.
#[derive(serde::Deserialize)]
struct Options {
    on_progress: tauri::ipc::JavaScriptChannelId,
}

#[tauri::command]
fn nested(options: Options, message: &tauri::ipc::InvokeMessage) -> tauri::Result<()> {
    let channel: Channel<&str> = options.on_progress.channel_on(message)?;
    channel.send("nested")
}

#[test]
fn a_channel_brings_what_the_guide_says() {
    let app = app(tauri::generate_handler![download, load_image, watch, bodies, nested]);
    let ann = app.user(1000);
    let call = ann.call(InvokeRequest::new("download").arg("url", "https://a").channel("onEvent"));
    let events = call.items::<Value>("onEvent");
    assert_eq!(
        events[0],
        json!({ "event": "started", "data": { "url": "https://a", "downloadId": 1, "contentLength": 1000 } })
    );
    assert_eq!(events.len(), 7);

    let path = std::env::current_exe().unwrap();
    let call = ann.call(InvokeRequest::new("load_image").arg("path", &path).channel("reader"));
    let first = call.next_item("reader").unwrap().unwrap();
    assert!(matches!(first, tauri::ipc::InvokeResponseBody::Raw(bytes) if bytes.len() == 4096));
    drop(call);

    let call = ann.call(InvokeRequest::new("watch").channel("onTick"));
    assert_eq!(call.items::<usize>("onTick"), [0, 1, 2]);

    let call = ann.call(InvokeRequest::new("bodies").channel("channel"));
    assert_eq!(call.next_item("channel"), Ok(Some(tauri::ipc::InvokeResponseBody::Json("[1]".into()))));
    assert_eq!(call.next_item("channel"), Ok(Some(tauri::ipc::InvokeResponseBody::Raw(vec![2]))));

    let options = json!({ "on_progress": "__CHANNEL__:1" });
    let call = ann.call(InvokeRequest::new("nested").channel("unused").arg("options", &options));
    assert_eq!(call.items::<String>("unused"), ["nested"]);
}
