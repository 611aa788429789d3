//! The documents do what they say: their command lines run on a clean clone and print what stands below them, their
//! samples are in force, their excerpts and links lead somewhere.
//!
//! Checked as they are in the working tree: lengths, links, excerpts, the configuration reference. Checked in a clone of
//! HEAD: everything that runs.

mod blocks;
mod documents;
mod links;
mod session;

use std::path::{Path, PathBuf};
use std::process::Command;

use blocks::Block;
use session::Session;

/// The documents whose `console` blocks run, in order.
const RUN: &[&str] = &[
    "README.md",
    "docs/getting-started.md",
    "docs/hosting.md",
    "docs/providing.md",
    "docs/move-a-command.md",
    "docs/files.md",
    "docs/operations.md",
    "docs/debug-a-denial.md",
];

#[test]
fn the_command_lines_of_the_documents_do_what_they_say() {
    let mut session = Session::on_a_clean_clone();
    for document in RUN {
        let text =
            std::fs::read_to_string(session.clone_dir().join(document)).expect("a document of the clone");
        session.begin();
        for block in blocks::of(document, &text) {
            session.follow(&block);
        }
    }
    session.saved_copy_is_the_readme();
    session.begin();
    session.samples_are_sound();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The tracked Markdown files, and those that are about to be.
fn markdown() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names of files are UTF-8");
    let names: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
    // A file that is deleted and not yet committed is listed still.
    let there = names.into_iter().filter(|name| root().join(name).exists());
    there.map(|name| (name.display().to_string(), read(&name))).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of a document of the working tree.
fn blocks_of(document: &str) -> Vec<Block> {
    blocks::of(document, &read(document))
}
