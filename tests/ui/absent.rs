#![allow(unused)]

extern crate invoked as tauri;

// What `docs/vocabulary.md` says is not here.
use tauri::async_runtime::Runtime;
use tauri::async_runtime::set;
use tauri::mobile_entry_point;
use tauri::path::SafePathBuf;
use tauri::plugin::{PermissionState, PluginHandle};
use tauri::test::{INVOKE_KEY, noop_assets};
use tauri::{Assets, Env, Event, EventId, EventTarget, RunEvent, Theme, Url, VERSION};
use tauri::{WebviewUrl, WebviewWindowBuilder, WindowEvent, is_dev};
use tauri::{http, image, menu, process, scope, tray, utils, webview, window};

fn main() {}
