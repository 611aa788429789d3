use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tauri::Manager;
use tauri::ipc::{Channel, CommandScope, Response};
use tauri::path::BaseDirectory;
use tokio::io::AsyncReadExt;

use crate::error::Error;

/// What a capability file says behind `allow-read-picture`.
#[derive(Debug, Deserialize)]
pub struct PictureScope {
    path: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PictureInfo {
    byte_count: u64,
    is_file: bool,
}

fn matches(scope: &[Arc<PictureScope>], path: &Path) -> bool {
    scope.iter().any(|entry| path.starts_with(&entry.path))
}

#[tauri::command]
pub fn picture_info(path: PathBuf) -> Result<PictureInfo, Error> {
    let metadata = std::fs::metadata(path)?;
    Ok(PictureInfo { byte_count: metadata.len(), is_file: metadata.is_file() })
}

#[tauri::command]
pub async fn read_picture(path: PathBuf, scope: CommandScope<'_, PictureScope>) -> Result<Response, Error> {
    let path = tokio::fs::canonicalize(path).await?;
    if matches(scope.denies(), &path) || !matches(scope.allows(), &path) {
        return Err(Error::OutOfScope(path.display().to_string()));
    }
    let data = tokio::fs::read(path).await?;
    Ok(Response::new(data))
}

#[tauri::command]
pub async fn load_image(path: std::path::PathBuf, reader: Channel<&[u8]>) {
    // for simplicity this example does not include error handling
    let mut file = tokio::fs::File::open(path).await.unwrap();

    let mut chunk = vec![0; 4096];

    loop {
        let len = file.read(&mut chunk).await.unwrap();
        if len == 0 {
            // Length of zero means end of file.
            break;
        }
        reader.send(&chunk[..len]).unwrap();
    }
}

#[tauri::command]
pub fn app_dirs(app: tauri::AppHandle) -> tauri::Result<(PathBuf, PathBuf)> {
    let database = app.path().resolve("pictures.db", BaseDirectory::AppData)?;
    Ok((app.path().app_data_dir()?, database))
}
