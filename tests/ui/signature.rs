#![allow(unused)]

use invoked::{command, generate_handler};

#[command]
fn generic<T: serde::Serialize>(value: T) -> String {
    String::new()
}

#[command]
fn implicit(value: impl Send) {}

#[command]
fn method(&self) {}

#[command]
unsafe fn unsound() {}

#[command]
fn tuple((a, b): (u8, u8)) {}

#[command]
fn nameless(_: String) {}

#[command]
fn twins(file_path: String, filePath: String) {}

fn main() {
    // Refused commands are not reported as missing, too.
    let _ = generate_handler![generic, implicit, method, unsound, tuple, nameless, twins];
}
