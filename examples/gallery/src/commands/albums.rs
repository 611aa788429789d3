use std::sync::Mutex;

use tauri::{AppHandle, Manager, Runtime, State};

use crate::error::AlbumError;
use crate::library::{Album, Library};

#[tauri::command]
pub fn create_album(
    album_name: String,
    cover_picture: Option<String>,
    library: State<'_, Mutex<Library>>,
) -> Result<usize, AlbumError> {
    let mut library = library.lock()?;
    if library.albums.contains_key(&album_name) {
        return Err(AlbumError::Exists(album_name));
    }
    library.albums.insert(album_name, Album { pictures: Vec::new(), cover_picture });
    Ok(library.albums.len())
}

#[tauri::command]
pub fn add_picture<R: Runtime>(
    app: AppHandle<R>,
    album_name: String,
    picture: String,
) -> Result<Album, AlbumError> {
    let state = app.state::<Mutex<Library>>();
    let mut library = state.lock()?;
    match library.albums.get_mut(&album_name) {
        Some(album) => {
            album.pictures.push(picture);
            Ok(album.clone())
        }
        None => Err(AlbumError::NotFound(album_name)),
    }
}

#[tauri::command(rename_all = "snake_case")]
pub fn rename_album(
    old_name: &str,
    new_name: String,
    library: State<'_, Mutex<Library>>,
) -> Result<(), AlbumError> {
    let mut library = library.lock()?;
    let album = library.albums.remove(old_name).ok_or_else(|| AlbumError::NotFound(old_name.into()))?;
    library.albums.insert(new_name, album);
    Ok(())
}

#[tauri::command]
pub async fn find_pictures(
    query: &str,
    library: State<'_, Mutex<Library>>,
) -> Result<Vec<String>, AlbumError> {
    let library = library.lock()?;
    let pictures = library.albums.values().flat_map(|album| &album.pictures);
    Ok(pictures.filter(|picture| picture.contains(query)).cloned().collect())
}

#[tauri::command(async)]
pub fn delete_album(album_name: &str, library: State<'_, Mutex<Library>>) -> Result<(), AlbumError> {
    match library.lock()?.albums.remove(album_name) {
        Some(_) => Ok(()),
        None => Err(AlbumError::NotFound(album_name.to_string())),
    }
}
