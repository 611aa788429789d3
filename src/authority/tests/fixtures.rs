//! The files under tests/fixtures/capabilities: what is wrong with each of `bad`, and that `good` loads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{ana, granted, lines, policy};
use crate::authority::{CompiledPolicy, Format, PolicyError, Source};

fn fixtures(folder: &str) -> (PathBuf, BTreeSet<String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/capabilities").join(folder);
    let names = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let names = names.collect();
    (folder, names)
}

fn compile_file(path: &Path) -> Result<CompiledPolicy, Vec<PolicyError>> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let format = if name.ends_with(".json") { Format::Json } else { Format::Toml };
    let text = std::fs::read_to_string(path).unwrap();
    policy().document(Source::new(name, Some(path.to_owned()), text), format).compile()
}

/// Each file of `bad` has a twin ending in `.stderr` with every line that it gives.
#[test]
fn each_bad_file_gives_its_errors_with_line_and_column() {
    let (folder, names) = fixtures("bad");
    let files: Vec<_> = names.iter().filter(|name| !name.ends_with(".stderr")).collect();
    assert!(files.len() >= 30, "only {} fixtures", files.len());
    let mut wrong = String::new();
    for name in files {
        let expected = std::fs::read_to_string(folder.join(format!("{name}.stderr"))).unwrap_or_default();
        let got = compile_file(&folder.join(name))
            .map_or_else(|errors| lines(&errors), |_| "no error\n".to_owned());
        if got != expected {
            wrong.push_str(&format!("--- {name}\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "these give other errors than their .stderr says:\n{wrong}");
}

#[test]
fn an_error_has_what_a_report_with_a_caret_needs() {
    let (folder, _) = fixtures("bad");
    let path = folder.join("permission-unknown.toml");
    let errors = compile_file(&path).unwrap_err();
    let [error] = &errors[..] else { panic!("{}", lines(&errors)) };
    assert_eq!(error.path(), Some(&*path));
    let span = error.span().unwrap();
    assert_eq!(&error.text().unwrap()[span], "\"fs:alow-read-file\"");
    assert_eq!(error.message(), "unknown permission \"fs:alow-read-file\"");
    assert_eq!(error.help(), Some("did you mean \"fs:allow-read-file\"?"));
}

#[test]
fn good_files_load_without_a_warning() {
    let (folder, names) = fixtures("good");
    for name in names {
        let compiled = compile_file(&folder.join(&name)).unwrap_or_else(|e| panic!("{name}: {}", lines(&e)));
        assert_eq!(lines(&compiled.warnings), "", "{name}");
        // Who may provide plugins says so by this command.
        let provides = std::fs::read_to_string(folder.join(&name)).unwrap().contains("provide");
        let expected = ["core.provide", "fs.flush", "fs.read_file", "greet"];
        assert_eq!(granted(&compiled, &ana()), expected[usize::from(!provides)..], "{name}");
    }
}
