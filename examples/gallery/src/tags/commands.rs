use tauri::{
    AppHandle, Runtime, command,
    ipc::{CommandScope, GlobalScope},
};

use super::models::*;
use super::{Error, Result, TagsExt};

#[command]
pub(crate) async fn tag<R: Runtime>(
    app: AppHandle<R>,
    payload: TagRequest,
    command_scope: CommandScope<'_, Entry>,
    global_scope: GlobalScope<'_, Entry>,
) -> Result<TagResponse> {
    let denied = command_scope.denies().iter().chain(global_scope.denies());
    for entry in denied {
        if payload.tags.contains(&entry.tag) {
            return Err(Error::Forbidden(entry.tag.clone()));
        }
    }
    app.tags().tag(payload)
}

#[command]
pub(crate) fn tagged<R: Runtime>(app: AppHandle<R>, tag: &str) -> Vec<String> {
    app.tags().tagged(tag)
}

#[command]
pub(crate) async fn forget_all<R: Runtime>(app: AppHandle<R>) {
    app.tags().forget_all()
}
