//! A plugin that makes thumbnails, wherever it runs.

mod scope;

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ImageReader, Limits};
use invoked::authority::{ScopeDefault, ScopeKind, ScopeSchema};
use invoked::ipc::{CallError, CommandScope, InvokeError};
use invoked::plugin::{Builder, Plugin};
use invoked::{command, generate_handler};

pub use scope::{Pictures, Wanted};

/// The widest and highest picture that is read, and the memory that reading one may take.
const SIDE_MAX: u32 = 16_384;
const MEMORY_MAX: u64 = 512 << 20;

/// Makes a thumbnail of a picture.
///
/// It fits into a square of `side` pixels, and is a PNG. Which pictures, and how large a thumbnail, is said by the scope.
#[command]
pub fn make(path: PathBuf, side: u32, scope: CommandScope<'_, Pictures>) -> Result<Vec<u8>, CallError> {
    let file = open(&path, side, &scope)?;
    let thumbnail = decode(file).map_err(|error| InvokeError::json(&error))?.thumbnail(side, side);
    let mut png = Cursor::new(Vec::new());
    thumbnail
        .write_with_encoder(PngEncoder::new(&mut png))
        .map_err(|error| InvokeError::json(&error.to_string()))?;
    Ok(png.into_inner())
}

/// Opens a picture if the scope lets the caller have it. Asked about is the file that was opened, whatever links led to it; and
/// whoever may not have it does not learn whether it is there.
fn open(path: &Path, side: u32, scope: &CommandScope<'_, Pictures>) -> Result<File, CallError> {
    let shown = || serde_json::json!({ "path": path.to_string_lossy(), "side": side });
    match File::open(path) {
        Ok(file) => {
            let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let opened = opened.unwrap_or_else(|_| PathBuf::from("an unknown file"));
            scope.require(&Wanted { path: opened, side }, shown())?;
            Ok(file)
        }
        Err(error) => {
            scope.require(&Wanted { path: path.to_owned(), side }, shown())?;
            Err(InvokeError::json(&format!("{}: {error}", path.display())).into())
        }
    }
}

fn decode(file: File) -> Result<image::DynamicImage, String> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MEMORY_MAX);
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format();
    let mut reader = reader.map_err(|error| error.to_string())?;
    reader.limits(limits);
    reader.decode().map_err(|error| error.to_string())
}

/// The plugin `thumbs`.
///
/// # Panics
/// Never: the schema of its scopes is one.
pub fn plugin() -> Plugin {
    let schema = ScopeSchema::new(&scope::schema()).expect("the schema of this crate is one");
    Builder::new("thumbs")
        .invoke_handler(generate_handler![make])
        // Without a scope a grant gives no picture.
        .scope(ScopeKind::Schema(schema.into()), ScopeDefault::Nothing)
        .permissions(include_str!("permissions.toml"))
        .build()
}
