//! A gallery of pictures, as a Tauri application has it: `main.rs` is the template's, the commands are in `commands`, and
//! `tags` is a plugin.

mod commands;
mod error;
mod library;
mod tags;

use std::sync::Mutex;

use tauri::Manager;

use library::Library;

// Learn more about Tauri commands at https://tauri.app/develop/calling-rust/
#[tauri::command]
fn greet(name: &str) -> String {
    format!("Hello, {}! You've been greeted from Rust!", name)
}

#[cfg_attr(mobile, tauri::mobile_entry_point)]
pub fn run() {
    tauri::Builder::default()
        .plugin(tags::init())
        .manage(commands::import::Imports::default())
        .setup(|app| {
            app.manage(Mutex::new(Library::default()));

            let handle = app.handle().clone();
            tauri::async_runtime::spawn(async move {
                commands::import::keep_count(handle).await;
            });
            Ok(())
        })
        .invoke_handler(tauri::generate_handler![
            greet,
            commands::albums::create_album,
            commands::albums::add_picture,
            commands::albums::rename_album,
            commands::albums::find_pictures,
            commands::albums::delete_album,
            commands::files::picture_info,
            commands::files::read_picture,
            commands::files::load_image,
            commands::files::app_dirs,
            commands::import::upload,
            commands::import::download,
            commands::import::uploads,
            commands::import::checksum,
        ])
        .run(tauri::generate_context!())
        .expect("error while running tauri application");
}
