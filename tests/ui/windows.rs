#![allow(unused)]

extern crate invoked as tauri;

use tauri::{AppHandle, Emitter, Listener, Manager, Runtime};

#[tauri::command]
fn with_window(window: tauri::Window) {}

#[tauri::command]
async fn with_webview<R: Runtime>(app: AppHandle<R>, window: tauri::WebviewWindow<R>) {}

#[tauri::command]
fn emits(app: AppHandle) {
    app.emit("progress", 5).unwrap();
}

#[tauri::command]
fn listens(app: AppHandle) {
    app.listen("progress", |_| ());
}

#[tauri::command]
fn finds(app: AppHandle) {
    app.get_webview_window("main").unwrap();
    app.get_window("main");
    app.once("progress", |event| ());
    app.emit_filter("progress", 5, |target| true).unwrap();
}

#[tauri::command]
fn with_view(view: tauri::Webview) {}

fn set_up() {
    tauri::Builder::default().setup(|app| {
        app.webview_windows();
        app.emit_to("main", "ready", ())?;
        Ok(())
    });
}

mod config {
    /// A type with the same name is an argument like any other.
    #[derive(serde::Deserialize)]
    pub struct Window {
        pub width: u32,
    }

    #[tauri::command]
    pub fn resize(window: Window) {}
}

fn main() {}
