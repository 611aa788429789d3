//! `#[command]` as its users meet it: commands as they are written for Tauri, and what the compiler says of wrong ones.
//!
//! What commands do once they compile is tested in `src/ipc/tests.rs`. After a change of a message, run this with
//! `TRYBUILD=overwrite` and read the difference.

extern crate invoked as tauri;

use std::collections::HashMap;
use std::sync::Mutex;

use tauri::ipc::{InvokeHandler, State};

struct Cache(Mutex<HashMap<String, Vec<u8>>>);

mod files {
    use super::{Cache, State};

    #[tauri::command]
    pub(super) async fn read(path: &str, cache: State<'_, Cache>) -> Result<Vec<u8>, String> {
        let cache = cache.0.lock().map_err(|error| error.to_string())?;
        cache.get(path).cloned().ok_or_else(|| format!("no {path}"))
    }
}

#[tauri::command(rename_all = "snake_case")]
fn greet(first_name: String) -> String {
    format!("Hello, {first_name}!")
}

#[tauri::command(async)]
fn tick() {}

#[test]
fn commands_written_for_tauri_compile() {
    let handler: InvokeHandler = tauri::generate_handler![greet, files::read, self::tick];
    let told = format!("{handler:?}");
    for part in ["\"greet\"", "\"first_name\"", "\"read\"", "\"path\"", "\"tick\""] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(!told.contains("cache"), "state is no argument of the caller's: {told}");
}

#[test]
fn wrong_commands_are_refused_with_a_reason() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
