//! Rules about the repository as a whole: layers, `unsafe`, packages and licences, and what no file may say.
//!
//! Each rule is a function over text, so each has a test that feeds it a bad sample and sees it fail.

mod files;
mod layers;
mod lexer;
mod licence;
mod packages;
mod unsafe_code;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files that git tracks and that are there, from the root.
fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "ls-files", "-z"])
        .output()
        .expect("the tests of the repository need git");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).expect("the repository has no file name outside UTF-8");
    let files: Vec<PathBuf> =
        list.split_terminator('\0').map(PathBuf::from).filter(|path| root().join(path).is_file()).collect();
    assert!(files.contains(&PathBuf::from("Cargo.toml")), "git lists no Cargo.toml");
    files
}

/// The tracked Rust sources, each with its path from the root.
fn sources() -> Vec<(String, String)> {
    let rust =
        tracked().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let text = std::fs::read_to_string(root().join(&path)).expect("sources are UTF-8");
        (path.to_string_lossy().into_owned(), text)
    })
    .collect()
}

/// Fails with one line per violation.
#[track_caller]
fn none_of(what: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{what}:\n  {}", violations.join("\n  "));
}
