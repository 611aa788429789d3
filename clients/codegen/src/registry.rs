//! `proto/registry.toml`: read it, check it, and write the files made from it.
//!
//! Owns the list of generated files and their comparison with what is on disk. What the file may say is in
//! [`model`], whether it may say it in [`validate`], and what is written in `rust`, `python`, `c` and `spec`.

mod c;
pub mod model;
mod python;
mod rust;
mod spec;
pub mod validate;

use std::path::{Path, PathBuf};
use std::{fs, io};

use model::Registry;

/// Where the registry stands, from the root of the repository.
pub const SOURCE: &str = "proto/registry.toml";
/// The generated Rust constants, from the root of the repository.
pub const RUST: &str = "proto/src/registry.rs";
/// The generated Python constants, from the root of the repository.
pub const PYTHON: &str = "clients/python/src/invoked/registry.py";
/// The generated constants of the C client, from the root of the repository.
pub const C: &str = "clients/c/invoked_registry.h";
/// The document whose tables are generated, from the root of the repository.
pub const SPEC: &str = "proto/SPEC.md";

/// Why nothing could be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file, as it was opened.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The registry is not the TOML that [`model`] describes.
    #[error("{SOURCE}: {0}")]
    Syntax(#[from] toml::de::Error),
    /// The registry contradicts itself.
    #[error("{SOURCE}: {0}")]
    Invalid(#[from] validate::Invalid),
    /// SPEC.md lacks a table's markers, or has them in the wrong order.
    #[error("{SPEC}: no `<!-- generated: {0} -->` with a `<!-- /generated -->` after it")]
    Marker(&'static str),
}

/// One generated file: what it should hold and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    path: &'static str,
    wanted: String,
    found: String,
}

impl Output {
    /// The file's path from the root of the repository.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// What the file should hold.
    #[must_use]
    pub fn wanted(&self) -> &str {
        &self.wanted
    }

    /// Whether the file on disk differs from what would be written.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.wanted != self.found
    }

    /// The lines that differ, as a hunk for a person to read; it names the file and the command that mends it.
    #[must_use]
    pub fn difference(&self) -> String {
        let found: Vec<&str> = self.found.lines().collect();
        let wanted: Vec<&str> = self.wanted.lines().collect();
        let start = found.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
        let rest = found.len().min(wanted.len()) - start;
        let end = found.iter().rev().zip(wanted.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
        let mut text = format!(
            "{path} differs from {SOURCE}; run `cargo run -p invoked-codegen -- registry`\n\
             --- {path} (on disk)\n+++ {path} (generated)\n@@ line {line} @@\n",
            path = self.path,
            line = start + 1
        );
        for line in &found[start..found.len() - end] {
            text += &format!("-{line}\n");
        }
        for line in &wanted[start..wanted.len() - end] {
            text += &format!("+{line}\n");
        }
        text
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file can't be written.
    pub fn write(&self, root: &Path) -> Result<(), Error> {
        let path = root.join(self.path);
        fs::write(&path, &self.wanted).map_err(|source| Error::Io { path, source })
    }
}

/// Parses and validates the text of a registry.
///
/// # Errors
///
/// [`Error::Syntax`] if it is not the expected TOML (unknown keys included), [`Error::Invalid`] if it contradicts
/// itself.
pub fn parse(text: &str) -> Result<Registry, Error> {
    let registry: Registry = toml::from_str(text)?;
    validate::validate(&registry)?;
    Ok(registry)
}

/// Generates every file made from the registry of the repository at `root`, and writes nothing.
///
/// A missing file of constants counts as an empty one; `SPEC.md` must be there, with its markers.
///
/// # Errors
///
/// [`Error::Io`], [`Error::Syntax`], [`Error::Invalid`] and [`Error::Marker`], as they say.
pub fn generate(root: &Path) -> Result<Vec<Output>, Error> {
    let registry = parse(&read(root, SOURCE)?)?;
    let constants = |path, wanted| Ok::<_, Error>(Output { path, wanted, found: read_or_empty(root, path)? });
    let found_spec = read(root, SPEC)?;
    let wanted_spec = spec::fill(&found_spec, &registry)?;
    Ok(vec![
        constants(RUST, rust::file(&registry))?,
        constants(PYTHON, python::file(&registry))?,
        constants(C, c::file(&registry))?,
        Output { path: SPEC, wanted: wanted_spec, found: found_spec },
    ])
}

fn read_or_empty(root: &Path, path: &str) -> Result<String, Error> {
    match read(root, path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

fn read(root: &Path, path: &str) -> Result<String, Error> {
    let path = root.join(path);
    fs::read_to_string(&path).map_err(|source| Error::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn a_difference_shows_only_the_lines_that_differ() {
        let output = Output { path: "f", wanted: "a\nnew\nz\n".into(), found: "a\nold\nolder\nz\n".into() };
        assert!(output.is_stale());
        let text = output.difference();
        assert!(text.contains("@@ line 2 @@\n-old\n-older\n+new\n"), "{text}");
        assert!(!text.contains("-z") && !text.contains("+a"), "{text}");
    }

    #[test]
    fn repeated_lines_do_not_overlap_in_a_difference() {
        let output = Output { path: "f", wanted: "a\na\na\n".into(), found: "a\na\n".into() };
        assert!(output.difference().ends_with("@@ line 3 @@\n+a\n"));
    }
}
