use std::collections::HashMap;

use serde::Serialize;
use tauri::ipc::{Channel, InvokeBody, Request};
use tauri::{AppHandle, Manager, State};

use crate::error::Error;

#[derive(Default)]
pub struct Imports {
    by_name: tauri::async_runtime::Mutex<HashMap<String, Vec<u8>>>,
    count: tokio::sync::watch::Sender<usize>,
    counted: std::sync::atomic::AtomicUsize,
}

/// Runs as long as the application does.
pub async fn keep_count(app: AppHandle) {
    let imports = app.state::<Imports>();
    let mut count = imports.count.subscribe();
    while count.changed().await.is_ok() {
        let now = *count.borrow();
        imports.counted.store(now, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tauri::command]
pub async fn upload(request: Request<'_>, imports: State<'_, Imports>) -> Result<usize, Error> {
    let InvokeBody::Raw(upload_data) = request.body() else {
        return Err(Error::RequestBodyMustBeRaw);
    };
    let Some(name) = request.headers().get("File-Name") else {
        return Err(Error::MissingHeader("File-Name"));
    };
    let name = name.to_str().unwrap_or("unnamed").to_string();
    let mut by_name = imports.by_name.lock().await;
    by_name.insert(name, upload_data.to_vec());
    imports.count.send_replace(by_name.len());
    Ok(upload_data.len())
}

#[tauri::command]
pub fn uploads(imports: State<Imports>) -> usize {
    imports.counted.load(std::sync::atomic::Ordering::SeqCst)
}

#[tauri::command]
pub async fn checksum(name: String, imports: State<'_, Imports>) -> Result<u32, Error> {
    let data = imports.by_name.lock().await.get(&name).cloned().unwrap_or_default();
    let sum = tauri::async_runtime::spawn_blocking(move || data.iter().map(|byte| u32::from(*byte)).sum());
    Ok(sum.await?)
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "event", content = "data")]
pub enum DownloadEvent<'a> {
    Started { url: &'a str, download_id: usize, content_length: usize },
    Progress { download_id: usize, chunk_length: usize },
    Finished { download_id: usize },
}

#[tauri::command]
pub fn download(app: AppHandle, url: String, on_event: Channel<DownloadEvent>) {
    let content_length = 1000;
    let download_id = 1 + app.state::<Imports>().counted.load(std::sync::atomic::Ordering::SeqCst);

    on_event.send(DownloadEvent::Started { url: &url, download_id, content_length }).unwrap();

    for chunk_length in [15, 150, 35, 500, 300] {
        on_event.send(DownloadEvent::Progress { download_id, chunk_length }).unwrap();
    }

    on_event.send(DownloadEvent::Finished { download_id }).unwrap();
}
