//! Reading the files of a policy: the one part of the authority that performs I/O.
//!
//! Owns which files are read and whether they can be trusted: a file, each directory on the way to it, and each
//! symbolic link's directory must belong to root or the daemon's uid and be writable by nobody else. (A directory with
//! the sticky bit, `/tmp`, may be on the way, but may not be a directory of policy files.) Judges no content.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use invoked_proto::name::PluginName;

use super::document::Format;
use super::policy::{CompiledPolicy, Policy};
use super::source::{PolicyError, Source};

mod safety;
mod users;

pub use self::users::PasswdFiles;

/// The largest file of a policy, in bytes.
pub const MAX_FILE_LEN: u64 = 4 << 20;

/// A directory of files of a policy.
#[derive(Clone, Debug)]
pub struct PolicyDirectory {
    path: PathBuf,
    presence: Presence,
    contents: DirectoryContents,
}

/// What the files of a directory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryContents {
    /// Capability files, `*.toml` and `*.json`.
    Capabilities,
    /// Permission files, `*.toml` and `*.json`; those in a directory within it are of the plugin that it is called by.
    Permissions,
    /// Interface files, `*.json`.
    Interfaces,
}

/// What it means when a directory is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Somebody named it: an error.
    Required,
    /// It is where files would be: no files.
    Optional,
}

impl PolicyDirectory {
    /// A directory of capability files that somebody named.
    #[must_use]
    pub fn required(path: impl Into<PathBuf>) -> Self {
        let contents = DirectoryContents::Capabilities;
        PolicyDirectory { path: path.into(), presence: Presence::Required, contents }
    }

    /// The directory where capability files are looked for when nobody named one.
    #[must_use]
    pub fn optional(path: impl Into<PathBuf>) -> Self {
        PolicyDirectory { presence: Presence::Optional, ..Self::required(path) }
    }

    /// The same directory, of other files.
    #[must_use]
    pub fn of(mut self, contents: DirectoryContents) -> Self {
        self.contents = contents;
        self
    }

    /// What its files are.
    #[must_use]
    pub fn contents(&self) -> DirectoryContents {
        self.contents
    }

    /// Where it is, or would be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The files of a policy as they were read, to be judged with manifests and whatever else belongs to it.
#[derive(Clone, Debug, Default)]
pub struct PolicyFiles {
    files: Vec<(Source, Format, Belonging)>,
    warnings: Vec<PolicyError>,
}

/// What a file is, and whose.
#[derive(Clone, Debug)]
enum Belonging {
    Capability,
    /// The plugin that its directory is called by.
    Permission(Option<PluginName>),
    Interface,
}

impl PolicyFiles {
    /// Reads the files of `directories`, in order of their names.
    ///
    /// Hidden files and editors' backups are skipped, and what doesn't end as it must is skipped with a warning. Blocks on
    /// the disk: not for the loop.
    ///
    /// # Errors
    /// Everything that is wrong with directories and files, nothing of what is wrong with their content.
    pub fn read(directories: &[PolicyDirectory], own_uid: u32) -> Result<Self, Vec<PolicyError>> {
        let mut listing = Listing { own_uid, found: Vec::new(), errors: Vec::new(), warnings: Vec::new() };
        for directory in directories {
            listing.list(directory);
        }
        let Listing { found, mut errors, warnings, .. } = listing;
        let mut read_files = Vec::with_capacity(found.len());
        for file in found {
            match read(&file.path, own_uid) {
                Ok(text) => read_files.push((file, text)),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let names = names(read_files.iter().map(|(file, _)| &*file.path));
        let named = names.into_iter().zip(read_files).map(|(name, (file, text))| {
            (Source::new(name, Some(file.path), text), file.format, file.belonging)
        });
        Ok(PolicyFiles { files: named.collect(), warnings })
    }

    /// Adds the files to `policy` and compiles it. What they were skipped for is among the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with the content of files, or with the rest of the policy.
    pub fn compile(&self, mut policy: Policy<'_>) -> Result<CompiledPolicy, Vec<PolicyError>> {
        for (source, format, belonging) in &self.files {
            let source = source.clone();
            policy = match belonging {
                Belonging::Capability => policy.document(source, *format),
                Belonging::Permission(plugin) => policy.permission_file(source, *format, plugin.clone()),
                Belonging::Interface => policy.interface(source),
            };
        }
        let mut compiled = policy.compile()?;
        compiled.warnings.splice(0..0, self.warnings.iter().cloned());
        Ok(compiled)
    }
}

/// Reads the files of `directories`, adds them to `policy` and compiles it.
///
/// # Errors
/// Everything that is wrong with directories and files; if nothing is, everything that is wrong with their content.
pub fn load(policy: Policy<'_>, directories: &[PolicyDirectory]) -> Result<CompiledPolicy, Vec<PolicyError>> {
    PolicyFiles::read(directories, policy.own_uid())?.compile(policy)
}

/// How messages call each file: by its last part where that is enough, else by its path.
fn names<'p>(paths: impl Iterator<Item = &'p Path> + Clone) -> Vec<String> {
    let last = |path: &Path| path.file_name().unwrap_or(OsStr::new("")).to_os_string();
    let mut count: HashMap<_, usize> = HashMap::new();
    for path in paths.clone() {
        *count.entry(last(path)).or_default() += 1;
    }
    let name = |path: &Path| match count[&last(path)] {
        1 => last(path).to_string_lossy().into_owned(),
        _ => path.display().to_string(),
    };
    paths.map(name).collect()
}

struct Found {
    path: PathBuf,
    format: Format,
    belonging: Belonging,
}

/// What directories hold.
struct Listing {
    own_uid: u32,
    found: Vec<Found>,
    errors: Vec<PolicyError>,
    warnings: Vec<PolicyError>,
}

impl Listing {
    fn list(&mut self, directory: &PolicyDirectory) {
        let path = &directory.path;
        let absent = |error: &io::Error| {
            error.kind() == io::ErrorKind::NotFound && directory.presence == Presence::Optional
        };
        match std::fs::metadata(path) {
            Err(error) if absent(&error) => {}
            Err(error) => self.errors.push(unreadable(path, &error)),
            Ok(_) => match directory.contents {
                DirectoryContents::Capabilities => self.files(path, &Belonging::Capability),
                DirectoryContents::Permissions => self.files(path, &Belonging::Permission(None)),
                DirectoryContents::Interfaces => self.files(path, &Belonging::Interface),
            },
        }
    }

    /// The files of a directory that is there.
    fn files(&mut self, path: &Path, belonging: &Belonging) {
        let entries = safety::check_directory(path, self.own_uid).and_then(|real| {
            let entries = std::fs::read_dir(real).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            entries.map_err(|error| unreadable(path, &error))
        });
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.errors.push(error),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for name in entries.iter().map(std::fs::DirEntry::file_name).filter(|name| !is_passed_over(name)) {
            let file = path.join(&name);
            let extension = Path::new(&name).extension().and_then(OsStr::to_str);
            let (format, what) = match (extension, belonging) {
                (Some("json"), _) => (Some(Format::Json), ""),
                (_, Belonging::Interface) => (None, "an interface file ends in .json"),
                (Some("toml"), _) => (Some(Format::Toml), ""),
                (_, Belonging::Permission(None)) if file.is_dir() => {
                    self.files_of_plugin(&file, &name.to_string_lossy());
                    continue;
                }
                (_, Belonging::Permission(_)) => (None, "a permission file ends in .toml or .json"),
                (_, Belonging::Capability) => (None, "a capability file ends in .toml or .json"),
            };
            match format {
                Some(format) => self.found.push(Found { path: file, format, belonging: belonging.clone() }),
                None => self
                    .warnings
                    .push(PolicyError::unplaced(file.display().to_string(), format!("skipped: {what}"))),
            }
        }
    }

    /// The permission files of one plugin.
    fn files_of_plugin(&mut self, path: &Path, name: &str) {
        match PluginName::parse(name) {
            Ok(plugin) => self.files(path, &Belonging::Permission(Some(plugin))),
            Err(error) => {
                let message = format!("a directory of permission files is called by their plugin: {error}");
                self.errors.push(PolicyError::unplaced(path.display().to_string(), message));
            }
        }
    }
}

/// Whether a file of this name is no file of a policy whatever it holds: hidden ones, and editors' backups.
pub(crate) fn is_passed_over(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

fn read(path: &Path, own_uid: u32) -> Result<String, PolicyError> {
    let bytes = safety::read_file(path, own_uid, MAX_FILE_LEN)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let name = path.display().to_string();
        let valid = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
        let source = Source::new(name, Some(path.to_owned()), valid);
        source.at(at..at).error("from here on it is not UTF-8")
    })
}

fn unreadable(path: &Path, error: &io::Error) -> PolicyError {
    PolicyError::unplaced(path.display().to_string(), format!("can't be read: {error}"))
}
