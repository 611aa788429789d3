//! The clients of other languages, each by its own suite and its own tools, against the real daemon.
//!
//! A missing tool is said in one line, and fails the test where `CI` is set.
#![cfg(feature = "cli")]

mod c;
mod daemon;
mod python;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the clients are.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Where `.ci/install` puts tools: below the target directory.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory")
}

/// The first of `candidates` that can be run; without one, what can't be tested then and how to get it is said.
fn tool(candidates: &[PathBuf], what: &str) -> Option<PathBuf> {
    let runs =
        |path: &&PathBuf| Command::new(path).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = candidates.iter().find(runs).cloned();
    if found.is_none() {
        let name = candidates.last().expect("a candidate").display();
        let line = format!("{what} is not tested, as {name} is missing: `.ci/install` gets it\n");
        assert!(std::env::var_os("CI").is_none(), "{line}");
        // Not by a macro: the harness would keep what a passed test prints.
        std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
    }
    found
}
