//! Reading capability files: the one part of the authority that performs I/O.
//!
//! Owns which files are read and whether they can be trusted: a file, each directory on the way to it, and each
//! symbolic link's directory must belong to root or the daemon's uid and be writable by nobody else. (A directory with
//! the sticky bit, `/tmp`, may be on the way, but may not be a capability directory.) Judges no content.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::document::Format;
use super::policy::{CompiledPolicy, Policy};
use super::source::{PolicyError, Source};

mod safety;
mod users;

pub use self::users::PasswdFiles;

/// The largest capability file, in bytes.
pub const MAX_FILE_LEN: u64 = 4 << 20;

/// A directory of capability files.
#[derive(Clone, Debug)]
pub struct PolicyDirectory {
    path: PathBuf,
    presence: Presence,
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
    /// A directory that somebody named.
    #[must_use]
    pub fn required(path: impl Into<PathBuf>) -> Self {
        PolicyDirectory { path: path.into(), presence: Presence::Required }
    }

    /// The directory where files are looked for when nobody named one.
    #[must_use]
    pub fn optional(path: impl Into<PathBuf>) -> Self {
        PolicyDirectory { path: path.into(), presence: Presence::Optional }
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
    documents: Vec<(Source, Format)>,
    warnings: Vec<PolicyError>,
}

impl PolicyFiles {
    /// Reads the capability files of `directories`, in order of their names.
    ///
    /// Files are those that end in `.toml` or `.json`; hidden files and editors' backups are skipped, anything else is
    /// skipped with a warning. Blocks on the disk: not for the loop.
    ///
    /// # Errors
    /// Everything that is wrong with directories and files, nothing of what is wrong with their content.
    pub fn read(directories: &[PolicyDirectory], own_uid: u32) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let mut files: Vec<(PathBuf, String, Format)> = Vec::new();
        for directory in directories {
            for (path, format) in list(directory, own_uid, &mut errors, &mut warnings) {
                match read(&path, own_uid) {
                    Ok(text) => files.push((path, text, format)),
                    Err(error) => errors.push(error),
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let named = names(&files).into_iter().zip(files);
        let documents =
            named.map(|(name, (path, text, format))| (Source::new(name, Some(path), text), format));
        Ok(PolicyFiles { documents: documents.collect(), warnings })
    }

    /// Adds the files to `policy` and compiles it. What they were skipped for is among the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with the content of files, or with the rest of the policy.
    pub fn compile(&self, mut policy: Policy<'_>) -> Result<CompiledPolicy, Vec<PolicyError>> {
        for (source, format) in &self.documents {
            policy = policy.document(source.clone(), *format);
        }
        let mut compiled = policy.compile()?;
        compiled.warnings.splice(0..0, self.warnings.iter().cloned());
        Ok(compiled)
    }
}

/// Reads the capability files of `directories`, adds them to `policy` and compiles it.
///
/// # Errors
/// Everything that is wrong with directories and files; if nothing is, everything that is wrong with their content.
pub fn load(policy: Policy<'_>, directories: &[PolicyDirectory]) -> Result<CompiledPolicy, Vec<PolicyError>> {
    PolicyFiles::read(directories, policy.own_uid())?.compile(policy)
}

/// How messages call each file: by its last part where that is enough, else by its path.
fn names(files: &[(PathBuf, String, Format)]) -> Vec<String> {
    let last = |path: &Path| path.file_name().unwrap_or(OsStr::new("")).to_os_string();
    let mut count: HashMap<_, usize> = HashMap::new();
    for (path, ..) in files {
        *count.entry(last(path)).or_default() += 1;
    }
    let name = |path: &Path| match count[&last(path)] {
        1 => last(path).to_string_lossy().into_owned(),
        _ => path.display().to_string(),
    };
    files.iter().map(|(path, ..)| name(path)).collect()
}

fn list(
    directory: &PolicyDirectory,
    own_uid: u32,
    errors: &mut Vec<PolicyError>,
    warnings: &mut Vec<PolicyError>,
) -> Vec<(PathBuf, Format)> {
    let path = &directory.path;
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.presence == Presence::Optional => {
            return Vec::new();
        }
        Err(error) => {
            errors.push(unreadable(path, &error));
            return Vec::new();
        }
        Ok(_) => {}
    }
    let entries = safety::check_directory(path, own_uid).and_then(|real| {
        let entries = std::fs::read_dir(real).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        entries.map_err(|error| unreadable(path, &error))
    });
    let mut files = Vec::new();
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(error);
            return Vec::new();
        }
    };
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let file = path.join(&name);
        match Path::new(&name).extension().and_then(OsStr::to_str) {
            _ if is_passed_over(&name) => {}
            Some("toml") => files.push((file, Format::Toml)),
            Some("json") => files.push((file, Format::Json)),
            _ => warnings.push(PolicyError::unplaced(
                file.display().to_string(),
                "skipped: a capability file ends in .toml or .json",
            )),
        }
    }
    files
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
