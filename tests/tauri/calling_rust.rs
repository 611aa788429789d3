//! What the guide "Calling Rust from the Frontend" shows.

use std::path::PathBuf;

use serde_json::json;

use crate::{answer, app};

#[tauri::command]
fn my_custom_command() {
    println!("I was invoked from JavaScript!");
}

mod passing {
    #[tauri::command]
    pub fn with_argument(invoke_message: String) -> String {
        invoke_message
    }

    #[tauri::command(rename_all = "snake_case")]
    pub fn in_snake_case(invoke_message: String) -> String {
        invoke_message
    }
}

#[derive(serde::Serialize)]
struct CustomResponse {
    message: String,
    other_val: usize,
}

struct Database;

async fn some_other_function() -> Option<String> {
    Some("response".into())
}

#[tauri::command]
async fn query(number: usize, database: tauri::State<'_, Database>) -> Result<CustomResponse, String> {
    let _database: &Database = &database;
    let result: Option<String> = some_other_function().await;
    if let Some(message) = result {
        Ok(CustomResponse { message, other_val: 42 + number })
    } else {
        Err("No result".into())
    }
}

#[tauri::command]
fn login(user: String, password: String) -> Result<String, String> {
    if user == "tauri" && password == "tauri" {
        // resolve
        Ok("logged_in".to_string())
    } else {
        // reject
        Err("invalid credentials".to_string())
    }
}

// create the error type that represents all errors possible in our program
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("failed to parse as string: {0}")]
    Utf8(#[from] std::str::Utf8Error),
}

#[derive(serde::Serialize)]
#[serde(tag = "kind", content = "message")]
#[serde(rename_all = "camelCase")]
enum ErrorKind {
    Io(String),
    Utf8(String),
}

impl serde::Serialize for Error {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: serde::ser::Serializer,
    {
        let error_message = self.to_string();
        let error_kind = match self {
            Self::Io(_) => ErrorKind::Io(error_message),
            Self::Utf8(_) => ErrorKind::Utf8(error_message),
        };
        error_kind.serialize(serializer)
    }
}

#[tauri::command]
fn read(path: PathBuf) -> Result<Vec<u8>, Error> {
    let data = std::fs::read(path)?;
    std::str::from_utf8(&data)?;
    Ok(data)
}

#[tauri::command]
fn read_file() -> tauri::ipc::Response {
    let data = vec![1, 2, 3];
    tauri::ipc::Response::new(data)
}

// Declare the async function using String instead of &str, as &str is borrowed and thus unsupported
#[tauri::command]
async fn owned(value: String) -> String {
    std::future::ready(()).await;
    value
}

// Return a Result<String, ()> to bypass the borrowing issue
#[tauri::command]
async fn borrowed(value: &str) -> Result<String, ()> {
    std::future::ready(()).await;
    Ok(format!("{value}!"))
}

#[tauri::command(async, rename = "renamed", root = "tauri")]
#[allow(clippy::too_many_arguments)]
fn many(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, mut h: Vec<u8>, i: Option<u8>) -> Vec<u8> {
    h.extend([a, b, c, d, e, f, g]);
    h.extend(i);
    h
}

#[tauri::command]
fn rejects_by_hand() -> Result<(), tauri::ipc::InvokeError> {
    Err(tauri::ipc::InvokeError::from("by hand"))
}

/// An error that says for itself what the caller gets.
struct Coded(u8);

impl From<Coded> for tauri::ipc::InvokeError {
    fn from(error: Coded) -> Self {
        tauri::ipc::InvokeError::from(serde_json::json!({ "code": error.0 }))
    }
}

#[tauri::command]
fn coded() -> Result<(), Coded> {
    Err(Coded(7))
}

/// A result that says for itself what is sent.
struct Lines(Vec<&'static str>);

impl tauri::ipc::IpcResponse for Lines {
    fn body(self) -> tauri::Result<tauri::ipc::InvokeResponseBody> {
        Ok(tauri::ipc::InvokeResponseBody::Json(serde_json::to_string(&self.0.join("\n"))?))
    }
}

#[tauri::command]
fn lines() -> Lines {
    Lines(vec!["a", "b"])
}

#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    let builder = tauri::testing::mock_builder().manage(Database).invoke_handler(tauri::generate_handler![
        my_custom_command,
        passing::with_argument,
        passing::in_snake_case,
        query,
        login,
        read,
        read_file,
        owned,
        borrowed,
        many,
        rejects_by_hand,
        coded,
        lines,
    ]);
    let app = tauri::testing::mock_app(builder).unwrap();
    let ann = app.user(1000);
    let ask = |command: &str, args| answer(&ann, command, args);
    assert_eq!(ask("my_custom_command", json!({})), Ok(json!(null)));
    assert_eq!(ask("with_argument", json!({ "invokeMessage": "Hello!" })), Ok(json!("Hello!")));
    assert_eq!(ask("in_snake_case", json!({ "invoke_message": "Hello!" })), Ok(json!("Hello!")));
    assert_eq!(ask("query", json!({ "number": 1 })), Ok(json!({ "message": "response", "other_val": 43 })));
    assert_eq!(ask("login", json!({ "user": "tauri", "password": "tauri" })), Ok(json!("logged_in")));
    assert_eq!(
        ask("login", json!({ "user": "tauri", "password": "0j4rijw8=" })),
        Err(json!("invalid credentials"))
    );
    let error = ask("read", json!({ "path": "path/that/does/not/exist" })).unwrap_err();
    assert_eq!(error["kind"], "io");
    assert_eq!(ask("owned", json!({ "value": "a" })), Ok(json!("a")));
    assert_eq!(ask("borrowed", json!({ "value": "a\n\"b\"" })), Ok(json!("a\n\"b\"!")));
    let args = json!({ "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": [0] });
    let renamed = ann.invoke(tauri::testing::InvokeRequest::new("renamed").args(&args)).unwrap();
    assert_eq!(renamed.as_body().bytes(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(ask("rejects_by_hand", json!({})), Err(json!("by hand")));
    assert_eq!(ask("coded", json!({})), Err(json!({ "code": 7 })));
    assert_eq!(ask("lines", json!({})), Ok(json!("a\nb")));
    let raw = ann.invoke(tauri::testing::InvokeRequest::new("read_file")).unwrap();
    assert_eq!(raw.as_body(), &tauri::ipc::Body::Raw(vec![1, 2, 3].into()));
}

#[test]
fn a_command_in_a_module_of_a_module_is_found() {
    mod outer {
        pub mod inner {
            #[tauri::command]
            pub fn deep() -> u8 {
                1
            }
        }
        pub use inner::*;
    }
    let app = app(tauri::generate_handler![outer::deep]);
    assert_eq!(answer(&app.user(1), "deep", json!({})), Ok(json!(1)));
}
