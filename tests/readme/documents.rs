//! What documents say of sources and of each other, without running anything.

use invoked::config::Config;

use crate::{blocks_of, markdown, read};

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines < 200, "{lines} lines");
}

#[test]
fn the_readme_shows_what_its_test_needs() {
    let blocks = blocks_of("README.md");
    let commands: Vec<String> = blocks
        .iter()
        .filter(|block| block.info[..1] == ["console"])
        .flat_map(|b| b.steps())
        .map(|s| s.command)
        .collect();
    for command in [
        "cargo run --release -- --dev",
        "cargo run --release --bin invokectl -- call fs.read_file path=$PWD/README.md -o copy",
        "cargo run --release --bin invokectl -- tour",
        "cargo test",
    ] {
        assert!(commands.iter().any(|shown| shown == command), "{command} is not shown");
    }
    let policy: Vec<_> = blocks.iter().filter(|block| block.is(&["toml"])).collect();
    assert!(policy.len() == 1 && policy[0].text.lines().count() == 8, "one policy of eight lines");
    assert!(blocks.iter().any(|block| block.is(&["text", "log"])), "the denial in the daemon's log");
}

#[test]
fn the_configuration_reference_is_what_the_daemon_prints() {
    let shown = blocks_of("docs/operations.md").into_iter().find(|block| block.is(&["toml"]));
    assert_eq!(shown.expect("a reference").text, Config::default_text());
}

/// The files of the gallery that documents show parts of.
const GALLERY: [&str; 6] =
    ["build", "src/lib", "src/commands/albums", "src/commands/import", "examples/call", "tests/end_to_end"];

/// Examples are compiled and run; so what a document shows of them works.
#[test]
fn rust_in_the_docs_stands_in_an_example() {
    let mut sources = ["host", "embed", "blocking_caller", "provide", "provide_caller"]
        .map(|name| read(format!("examples/{name}.rs")))
        .to_vec();
    sources.extend(GALLERY.map(|name| read(format!("examples/gallery/{name}.rs"))));
    let mut count = 0;
    for (document, _) in markdown().iter().filter(|(document, _)| document.starts_with("docs/")) {
        for block in
            blocks_of(document).iter().filter(|block| block.info.first().is_some_and(|i| i == "rust"))
        {
            count += 1;
            let found = sources.iter().any(|source| contains_lines(source, &block.text));
            assert!(found, "{}: not in examples/:\n{}", block.place, block.text);
        }
    }
    assert!(count > 0, "docs/hosting.md shows examples");
}

/// Whether the lines of `part` stand in `source`, one after the other, however far indented.
fn contains_lines(source: &str, part: &str) -> bool {
    let trimmed = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let part = trimmed(part.trim());
    !part.is_empty() && format!("\n{}\n", trimmed(source)).contains(&format!("\n{part}\n"))
}

#[test]
fn an_excerpt_that_differs_is_found() {
    let source = "fn a() {\n    one();\n    two();\n}\n";
    assert!(contains_lines(source, "one();\ntwo();\n"));
    assert!(
        !contains_lines(source, "one();\nthree();\n")
            && !contains_lines(source, "\n")
            && !contains_lines(source, "wo();\n")
    );
}
