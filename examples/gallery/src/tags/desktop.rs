use std::collections::BTreeMap;
use std::sync::Mutex;

use tauri::{AppHandle, Runtime, plugin::PluginApi};

use super::models::*;
use super::{Config, Error, Result};

pub fn init<R: Runtime>(app: &AppHandle<R>, api: PluginApi<R, Option<Config>>) -> Result<Tags<R>> {
    let max_per_picture = api.config().as_ref().map_or(3, |config| config.max_per_picture);
    Ok(Tags { _app: app.clone(), max_per_picture, by_picture: Mutex::default() })
}

/// Access to the tags APIs.
pub struct Tags<R: Runtime> {
    _app: AppHandle<R>,
    max_per_picture: usize,
    by_picture: Mutex<BTreeMap<String, Vec<String>>>,
}

impl<R: Runtime> Tags<R> {
    pub fn tag(&self, payload: TagRequest) -> Result<TagResponse> {
        let mut by_picture = self.by_picture.lock().unwrap();
        let tags = by_picture.entry(payload.picture_name).or_default();
        if tags.len() + payload.tags.len() > self.max_per_picture {
            return Err(Error::TooMany(self.max_per_picture));
        }
        tags.extend(payload.tags);
        Ok(TagResponse { tag_count: tags.len() })
    }

    pub fn tagged(&self, tag: &str) -> Vec<String> {
        let by_picture = self.by_picture.lock().unwrap();
        let tagged = by_picture.iter().filter(|(_, tags)| tags.iter().any(|found| found == tag));
        tagged.map(|(picture, _)| picture.clone()).collect()
    }

    pub fn forget_all(&self) {
        self.by_picture.lock().unwrap().clear();
    }
}
