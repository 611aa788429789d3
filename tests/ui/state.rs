#![allow(unused)]

extern crate invoked as tauri;

use std::sync::Mutex;

struct Notes(Vec<String>);

#[tauri::command]
fn unwrapped(notes: Mutex<Notes>) -> usize {
    0
}

fn main() {}
