//! Commands as they are written for Tauri, with `extern crate invoked as tauri;`.
//!
//! `examples/gallery` does the same with `tauri = { package = "invoked" }`, as a process; here the commands of it are
//! compiled a second time, beside what guides for Tauri show, and called in this process. `vocabulary` holds the table of
//! `docs/vocabulary.md` to what is there.

#![allow(clippy::unwrap_used, dead_code)] // written as guides are
#![allow(elided_lifetimes_in_paths, unreachable_pub, clippy::wildcard_imports)]

extern crate invoked as tauri;

mod applications;
mod calling_rust;
mod calling_the_frontend;
mod plugin;
mod state_management;
mod vocabulary;

#[path = "../../examples/gallery/src/commands/mod.rs"]
mod commands;
#[path = "../../examples/gallery/src/error.rs"]
mod error;
#[path = "../../examples/gallery/src/library.rs"]
mod library;

use std::sync::Mutex;

use serde_json::json;
use tauri::testing::{InvokeRequest, MockApp, MockPeer, assert_ipc_response, mock_app, mock_builder};

/// The answer of a command, and its own error, as JSON.
pub(crate) fn answer(
    peer: &MockPeer,
    command: &str,
    args: serde_json::Value,
) -> Result<serde_json::Value, serde_json::Value> {
    use tauri::ipc::CallError;
    match peer.invoke(InvokeRequest::new(command).args(&args)) {
        Ok(response) => Ok(serde_json::from_slice(response.as_body().bytes()).unwrap()),
        Err(CallError::Application(error)) => Err(serde_json::from_slice(error.body().bytes()).unwrap()),
        Err(CallError::Framework(fault)) => panic!("{command}: {fault}"),
    }
}

pub(crate) fn app(handler: impl Into<tauri::ipc::InvokeHandler>) -> MockApp {
    mock_app(mock_builder().invoke_handler(handler)).unwrap()
}

#[test]
fn the_commands_of_the_gallery_are_the_same_here() {
    let handler = tauri::generate_handler![
        commands::albums::create_album,
        commands::albums::add_picture,
        commands::albums::delete_album,
        commands::files::picture_info,
        commands::import::checksum,
    ];
    let builder = mock_builder()
        .manage(Mutex::new(library::Library::default()))
        .manage(commands::import::Imports::default())
        .invoke_handler(handler);
    let app = mock_app(builder).unwrap();
    let ann = app.user(1000);
    let album = json!({ "albumName": "cats" });
    assert_ipc_response(&ann, InvokeRequest::new("create_album").args(&album), Ok(1));
    assert_eq!(
        answer(&ann, "create_album", album.clone()),
        Err(json!({ "kind": "exists", "message": "there is an album cats already" }))
    );
    assert_eq!(answer(&ann, "delete_album", album), Ok(json!(null)));
    assert_eq!(answer(&ann, "checksum", json!({ "name": "none" })), Ok(json!(0)));
}
