//! The plugin `tags`, in the form that `tauri plugin new` gives one.

use serde::Deserialize;
use tauri::{
    Manager, Runtime,
    plugin::{Builder, TauriPlugin},
};

#[cfg(desktop)]
mod desktop;

mod commands;
mod error;
mod models;

pub use error::{Error, Result};

#[cfg(desktop)]
use desktop::Tags;

/// Extensions to [`tauri::App`] and [`tauri::AppHandle`] to access the tags APIs.
pub trait TagsExt<R: Runtime> {
    fn tags(&self) -> &Tags<R>;
}

impl<R: Runtime, T: Manager<R>> TagsExt<R> for T {
    fn tags(&self) -> &Tags<R> {
        self.state::<Tags<R>>().inner()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    max_per_picture: usize,
}

/// Initializes the plugin.
pub fn init<R: Runtime>() -> TauriPlugin<R, Option<Config>> {
    Builder::<R, Option<Config>>::new("tags")
        .invoke_handler(tauri::generate_handler![commands::tag, commands::tagged, commands::forget_all])
        .setup(|app, api| {
            #[cfg(desktop)]
            let tags = desktop::init(app, api)?;
            app.manage(tags);
            Ok(())
        })
        // What tauri-plugin's build script does with the directory `permissions`.
        .permissions(include_str!("permissions.toml"))
        .build()
}
