//! Where the user's and the application's files are.

use std::marker::PhantomData;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authority::Instance;
use crate::error::{Error, Result};
use crate::ipc::{Runtime, Wry};

/// A directory that paths are resolved against. On the wire it is its number, as in Tauri.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
#[repr(u16)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the method of `PathResolver` of its name, where it is told what it is
pub enum BaseDirectory {
    Audio = 1,
    Cache,
    Config,
    Data,
    LocalData,
    Document,
    Download,
    Picture,
    Public,
    Video,
    Resource,
    Temp,
    AppConfig,
    AppData,
    AppLocalData,
    AppCache,
    AppLog,
    Desktop,
    Executable,
    Font,
    Home,
    Runtime,
    Template,
}

impl BaseDirectory {
    const ALL: [BaseDirectory; 23] = {
        use BaseDirectory::{
            AppCache, AppConfig, AppData, AppLocalData, AppLog, Audio, Cache, Config, Data, Desktop,
            Document, Download, Executable, Font, Home, LocalData, Picture, Public, Resource, Runtime, Temp,
            Template, Video,
        };
        [
            Audio,
            Cache,
            Config,
            Data,
            LocalData,
            Document,
            Download,
            Picture,
            Public,
            Video,
            Resource,
            Temp,
            AppConfig,
            AppData,
            AppLocalData,
            AppCache,
            AppLog,
            Desktop,
            Executable,
            Font,
            Home,
            Runtime,
            Template,
        ]
    };

    /// Its name in a path, `$HOME`.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            BaseDirectory::Audio => "$AUDIO",
            BaseDirectory::Cache => "$CACHE",
            BaseDirectory::Config => "$CONFIG",
            BaseDirectory::Data => "$DATA",
            BaseDirectory::LocalData => "$LOCALDATA",
            BaseDirectory::Document => "$DOCUMENT",
            BaseDirectory::Download => "$DOWNLOAD",
            BaseDirectory::Picture => "$PICTURE",
            BaseDirectory::Public => "$PUBLIC",
            BaseDirectory::Video => "$VIDEO",
            BaseDirectory::Resource => "$RESOURCE",
            BaseDirectory::Temp => "$TEMP",
            BaseDirectory::AppConfig => "$APPCONFIG",
            BaseDirectory::AppData => "$APPDATA",
            BaseDirectory::AppLocalData => "$APPLOCALDATA",
            BaseDirectory::AppCache => "$APPCACHE",
            BaseDirectory::AppLog => "$APPLOG",
            BaseDirectory::Desktop => "$DESKTOP",
            BaseDirectory::Executable => "$EXE",
            BaseDirectory::Font => "$FONT",
            BaseDirectory::Home => "$HOME",
            BaseDirectory::Runtime => "$RUNTIME",
            BaseDirectory::Template => "$TEMPLATE",
        }
    }

    /// The directory of this name in a path, `$HOME`.
    #[must_use]
    pub fn from_variable(variable: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|base| base.variable() == variable)
    }
}

impl From<BaseDirectory> for u16 {
    fn from(base: BaseDirectory) -> u16 {
        base as u16
    }
}

impl TryFrom<u16> for BaseDirectory {
    type Error = String;

    fn try_from(number: u16) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|base| *base as u16 == number);
        found.ok_or_else(|| format!("there is no base directory {number}"))
    }
}

/// Directories, as the XDG specifications name them: of the user whose daemon it is, and of the application.
///
/// The application's are named by its identifier; those of a daemon of the system lie in `/etc`, `/var/lib`,
/// `/var/cache` and `/var/log`. None is created.
#[derive(Debug, Clone)]
pub struct PathResolver<R: Runtime = Wry> {
    app: String,
    instance: Instance,
    runtime: PhantomData<R>,
}

macro_rules! directories {
    ($($(#[$docs:meta])* $method:ident: $base:ident;)*) => {$(
        $(#[$docs])*
        ///
        /// # Errors
        /// [`Error::UnknownPath`] if the environment doesn't tell.
        pub fn $method(&self) -> Result<PathBuf> {
            self.directory(BaseDirectory::$base)
        }
    )*};
}

impl<R: Runtime> PathResolver<R> {
    pub(crate) fn new(app: &str, instance: Instance) -> Self {
        PathResolver { app: app.to_owned(), instance, runtime: PhantomData }
    }

    directories! {
        /// The user's music, `XDG_MUSIC_DIR`.
        audio_dir: Audio;
        /// `$XDG_CACHE_HOME`, or `~/.cache`.
        cache_dir: Cache;
        /// `$XDG_CONFIG_HOME`, or `~/.config`.
        config_dir: Config;
        /// `$XDG_DATA_HOME`, or `~/.local/share`.
        data_dir: Data;
        /// The same as [`data_dir`](Self::data_dir).
        local_data_dir: LocalData;
        /// The user's documents, `XDG_DOCUMENTS_DIR`.
        document_dir: Document;
        /// The user's downloads, `XDG_DOWNLOAD_DIR`.
        download_dir: Download;
        /// The user's pictures, `XDG_PICTURES_DIR`.
        picture_dir: Picture;
        /// What the user shares, `XDG_PUBLICSHARE_DIR`.
        public_dir: Public;
        /// The user's videos, `XDG_VIDEOS_DIR`.
        video_dir: Video;
        /// Where the program's executable is.
        resource_dir: Resource;
        /// The directory for temporary files.
        temp_dir: Temp;
        /// The application's configuration.
        app_config_dir: AppConfig;
        /// The application's data.
        app_data_dir: AppData;
        /// The same as [`app_data_dir`](Self::app_data_dir).
        app_local_data_dir: AppLocalData;
        /// The application's cache.
        app_cache_dir: AppCache;
        /// The application's logs.
        app_log_dir: AppLog;
        /// The user's desktop, `XDG_DESKTOP_DIR`.
        desktop_dir: Desktop;
        /// The user's programs, `~/.local/bin`.
        executable_dir: Executable;
        /// The user's fonts.
        font_dir: Font;
        /// The user's home, `$HOME`.
        home_dir: Home;
        /// `$XDG_RUNTIME_DIR`.
        runtime_dir: Runtime;
        /// The user's templates, `XDG_TEMPLATES_DIR`.
        template_dir: Template;
    }

    /// `path` below the base directory.
    ///
    /// # Errors
    /// [`Error::UnknownPath`] if the environment doesn't tell where the base is, [`Error::PathEscapes`] if `path` leaves
    /// it by `..` or is absolute.
    pub fn resolve(&self, path: impl AsRef<Path>, base: BaseDirectory) -> Result<PathBuf> {
        let path = path.as_ref();
        let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !stays {
            return Err(Error::PathEscapes(path.to_owned()));
        }
        Ok(self.directory(base)?.join(path))
    }

    /// A path that may begin with a variable: `$HOME/notes`.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve) for a path with a variable.
    pub fn parse(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let mut parts = path.components();
        let first = parts.next().and_then(|part| part.as_os_str().to_str());
        match first.and_then(BaseDirectory::from_variable) {
            Some(base) => self.resolve(parts.as_path(), base),
            None => Ok(path.to_owned()),
        }
    }

    fn directory(&self, base: BaseDirectory) -> Result<PathBuf> {
        let found = match base {
            BaseDirectory::Home => variable("HOME"),
            BaseDirectory::Temp => Some(std::env::temp_dir()),
            BaseDirectory::Runtime => variable("XDG_RUNTIME_DIR"),
            BaseDirectory::Cache => variable("XDG_CACHE_HOME").or_else(|| below_home(".cache")),
            BaseDirectory::Config => variable("XDG_CONFIG_HOME").or_else(|| below_home(".config")),
            BaseDirectory::Data | BaseDirectory::LocalData => data(),
            BaseDirectory::Executable => variable("XDG_BIN_HOME").or_else(|| below_home(".local/bin")),
            BaseDirectory::Font => data().map(|data| data.join("fonts")),
            BaseDirectory::Resource => {
                std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()))
            }
            BaseDirectory::Audio => user_directory("XDG_MUSIC_DIR"),
            BaseDirectory::Desktop => user_directory("XDG_DESKTOP_DIR"),
            BaseDirectory::Document => user_directory("XDG_DOCUMENTS_DIR"),
            BaseDirectory::Download => user_directory("XDG_DOWNLOAD_DIR"),
            BaseDirectory::Picture => user_directory("XDG_PICTURES_DIR"),
            BaseDirectory::Public => user_directory("XDG_PUBLICSHARE_DIR"),
            BaseDirectory::Template => user_directory("XDG_TEMPLATES_DIR"),
            BaseDirectory::Video => user_directory("XDG_VIDEOS_DIR"),
            BaseDirectory::AppConfig => self.of_app("/etc", BaseDirectory::Config),
            BaseDirectory::AppData | BaseDirectory::AppLocalData => {
                self.of_app("/var/lib", BaseDirectory::Data)
            }
            BaseDirectory::AppCache => self.of_app("/var/cache", BaseDirectory::Cache),
            BaseDirectory::AppLog => match self.instance {
                Instance::System => Some(Path::new("/var/log").join(&self.app)),
                Instance::User => data().map(|data| data.join(&self.app).join("logs")),
            },
        };
        found.filter(|path| path.is_absolute()).ok_or(Error::UnknownPath(base.variable()))
    }

    /// The application's directory in one of the system's, or in one of the user's.
    fn of_app(&self, system: &str, user: BaseDirectory) -> Option<PathBuf> {
        match self.instance {
            Instance::System => Some(Path::new(system).join(&self.app)),
            Instance::User => Some(self.directory(user).ok()?.join(&self.app)),
        }
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn below_home(path: &str) -> Option<PathBuf> {
    Some(variable("HOME")?.join(path))
}

fn data() -> Option<PathBuf> {
    variable("XDG_DATA_HOME").or_else(|| below_home(".local/share"))
}

/// A directory that `user-dirs.dirs` names.
fn user_directory(key: &str) -> Option<PathBuf> {
    let config = variable("XDG_CONFIG_HOME").or_else(|| below_home(".config"))?;
    let text = std::fs::read_to_string(config.join("user-dirs.dirs")).ok()?;
    named_directory(&text, key, &variable("HOME")?)
}

/// Finds `KEY="$HOME/x"` or `KEY="/x"` in the text of `user-dirs.dirs`. One that is the home itself is switched off.
fn named_directory(text: &str, key: &str, home: &Path) -> Option<PathBuf> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let value = line.strip_prefix('"')?.strip_suffix('"')?;
    let path = match value.strip_prefix("$HOME") {
        Some(below) => home.join(below.trim_start_matches('/')),
        None => PathBuf::from(value),
    };
    (path != home).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{BaseDirectory, PathResolver, named_directory};
    use crate::authority::Instance;
    use crate::error::Error;
    use crate::ipc::Wry;

    #[test]
    fn a_system_daemon_keeps_its_files_where_the_system_does() {
        let paths = PathResolver::<Wry>::new("org.acme.photos", Instance::System);
        assert_eq!(paths.app_config_dir().unwrap(), Path::new("/etc/org.acme.photos"));
        assert_eq!(paths.app_data_dir().unwrap(), Path::new("/var/lib/org.acme.photos"));
        assert_eq!(paths.app_log_dir().unwrap(), Path::new("/var/log/org.acme.photos"));
    }

    #[test]
    fn a_resolved_path_stays_below_its_base() {
        let paths = PathResolver::<Wry>::new("a", Instance::System);
        let resolved = paths.resolve("b/./c", BaseDirectory::AppData).unwrap();
        assert_eq!(resolved, Path::new("/var/lib/a/b/c"));
        for path in ["../x", "b/../../x", "/etc/passwd"] {
            let error = paths.resolve(path, BaseDirectory::AppData).unwrap_err();
            assert!(matches!(error, Error::PathEscapes(_)), "{path}: {error}");
        }
        assert_eq!(paths.parse("$APPCONFIG/x").unwrap(), Path::new("/etc/a/x"));
        assert!(paths.parse("$APPCONFIG/../x").is_err());
        assert_eq!(paths.parse("/plain").unwrap(), Path::new("/plain"));
    }

    #[test]
    fn user_directories_are_read_as_the_desktop_writes_them() {
        let text = "# comment\nXDG_MUSIC_DIR=\"$HOME/Music\"\nXDG_VIDEOS_DIR=\"/media/v\"\nXDG_DESKTOP_DIR=\"$HOME/\"\n";
        let home = Path::new("/home/ann");
        assert_eq!(named_directory(text, "XDG_MUSIC_DIR", home), Some(PathBuf::from("/home/ann/Music")));
        assert_eq!(named_directory(text, "XDG_VIDEOS_DIR", home), Some(PathBuf::from("/media/v")));
        assert_eq!(named_directory(text, "XDG_DESKTOP_DIR", home), None);
        assert_eq!(named_directory(text, "XDG_TEMPLATES_DIR", home), None);
    }

    #[test]
    fn base_directories_have_tauris_numbers() {
        assert_eq!(serde_json::to_string(&BaseDirectory::AppData).unwrap(), "14");
        assert_eq!(serde_json::from_str::<BaseDirectory>("23").unwrap(), BaseDirectory::Template);
        assert!(serde_json::from_str::<BaseDirectory>("0").is_err());
        for base in BaseDirectory::ALL {
            assert_eq!(BaseDirectory::from_variable(base.variable()), Some(base));
        }
    }
}
