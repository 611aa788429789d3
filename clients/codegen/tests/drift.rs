//! The generated files in the repository are what the registry gives, and the check can fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use invoked_codegen::registry::{self, Error};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate is two levels down").to_owned()
}

/// A copy of the files that the generator reads and writes.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    for path in [registry::SOURCE, registry::RUST, registry::PYTHON, registry::C, registry::SPEC] {
        let parent = Path::new(path).parent().expect("no file is the root");
        fs::create_dir_all(dir.path().join(parent)).expect("the directory is new and ours");
        fs::copy(root().join(path), dir.path().join(path)).expect("the repository holds the file");
    }
    dir
}

fn codegen(root: &Path, check: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_invoked-codegen"));
    command.arg("registry").arg("--root").arg(root);
    if check {
        command.arg("--check");
    }
    command.output().expect("cargo built the binary for this test")
}

#[test]
fn generated_files_match_the_registry() {
    for output in registry::generate(&root()).unwrap() {
        assert!(!output.is_stale(), "{}", output.difference());
    }
}

#[test]
fn generated_rust_is_what_rustfmt_prints() {
    let output = Command::new("rustfmt")
        .args(["--check", "--edition", "2024", "--config-path"])
        .arg(root())
        .arg(root().join(registry::RUST))
        .output()
        .expect("rustfmt is part of the toolchain");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn check_fails_names_the_file_and_writes_nothing_when_a_number_changes() {
    let dir = copy();
    let source = dir.path().join(registry::SOURCE);
    let text = fs::read_to_string(&source).unwrap();
    let changed =
        text.replace("name = \"handshake_max\"\nvalue = 4096", "name = \"handshake_max\"\nvalue = 4097");
    assert_ne!(text, changed);
    fs::write(&source, changed).unwrap();

    let before = fs::read_to_string(dir.path().join(registry::RUST)).unwrap();
    let output = codegen(dir.path(), true);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for needle in [
        registry::RUST,
        registry::PYTHON,
        registry::C,
        registry::SPEC,
        "+    pub const HANDSHAKE_MAX: usize = 4_097;",
        "+    HANDSHAKE_MAX: Final = 4_097",
        "+#define INVOKED_HANDSHAKE_MAX UINT64_C(4097)",
    ] {
        assert!(stderr.contains(needle), "{needle} is not in:\n{stderr}");
    }
    assert_eq!(before, fs::read_to_string(dir.path().join(registry::RUST)).unwrap());

    assert_eq!(codegen(dir.path(), false).status.code(), Some(0));
    assert_eq!(codegen(dir.path(), true).status.code(), Some(0));
}

#[test]
fn a_missing_generated_file_is_written_and_prose_around_the_tables_is_kept() {
    let dir = copy();
    for path in [registry::RUST, registry::PYTHON] {
        fs::remove_file(dir.path().join(path)).unwrap();
    }
    let spec = dir.path().join(registry::SPEC);
    let text = fs::read_to_string(&spec).unwrap();
    fs::write(&spec, format!("{text}\nLast words.\n")).unwrap();
    assert_eq!(codegen(dir.path(), false).status.code(), Some(0));
    assert!(fs::read_to_string(&spec).unwrap().ends_with("\nLast words.\n"));
    for path in [registry::RUST, registry::PYTHON] {
        assert_eq!(
            fs::read_to_string(dir.path().join(path)).unwrap(),
            fs::read_to_string(root().join(path)).unwrap()
        );
    }
}

#[test]
fn a_spec_without_a_marker_is_refused_by_name() {
    for broken in ["<!-- generated: tags -->", "<!-- /generated -->"] {
        let dir = copy();
        let spec = dir.path().join(registry::SPEC);
        let text = fs::read_to_string(&spec).unwrap().replacen(broken, "", 1);
        fs::write(&spec, text).unwrap();
        assert!(matches!(registry::generate(dir.path()), Err(Error::Marker(_))), "{broken}");
    }
}
