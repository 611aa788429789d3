//! The policies that documents show: each is loaded, every line of the table below it is asked, and an editor would take it.

use std::path::{Path, PathBuf};

use invoked_proto::name::PluginName;
use serde_json::Value;

use super::editors::{capabilities, complaints, validator};
use super::{OWN, PeerFacts, Users, ana, bob, lines};
use crate::authority::{
    CompiledPolicy, DevOptions, Format, PathScope, PluginManifest, Policy, PolicyError, ProcessFact,
    ProcessFacts, Source, Verdict,
};
use crate::config::Config;
use crate::plugin::TauriPlugin;
use crate::plugins;

/// A fenced block and the text up to the next one.
struct Block<'d> {
    info: &'d str,
    text: String,
    after: Vec<&'d str>,
}

impl Block<'_> {
    fn info(&self) -> Vec<&str> {
        self.info.split(' ').collect()
    }

    /// Whether it is a capability file, and not a configuration or a result.
    fn is_policy(&self) -> bool {
        let begins = |line: &str| {
            let line = line.trim_start();
            line.starts_with("identifier") || line.starts_with("\"identifier\"") || line == "[[capabilities]]"
        };
        matches!(self.info()[..], ["toml" | "json"]) && self.text.lines().any(begins)
    }

    fn format(&self) -> Format {
        if self.info == "json" { Format::Json } else { Format::Toml }
    }
}

fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(info), false) => {
                blocks.push(Block { info, text: String::new(), after: Vec::new() });
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => blocks.last_mut().unwrap().text.push_str(&format!("{line}\n")),
            (None, false) => blocks.last_mut().into_iter().for_each(|block| block.after.push(line)),
        }
    }
    blocks
}

/// README.md and docs/, by name.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        (name, std::fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// The daemon of the documents: the plugins that there are, and the commands of the application that they show.
fn policy() -> Policy<'static> {
    let built_in: [TauriPlugin; 3] =
        [plugins::core::plugin(&Config::default()), plugins::fs::plugin(), plugins::bench::plugin()];
    let host = ["greet", "add", "count", "export", "wait_for"];
    let gallery = ["create_album", "delete_album", "download", "upload"];
    let application =
        host.into_iter().chain(gallery).fold(PluginManifest::application(), PluginManifest::command);
    let application = application.scoped_command("read_picture");
    let policy = Policy::new(OWN, &Users).process_facts(ProcessFacts::Confirmed);
    let policy = policy.manifest(application);
    built_in.into_iter().fold(policy, |policy, plugin| {
        policy.manifest(plugin.assemble().expect("a built-in plugin").manifest().clone())
    })
}

fn load(block: &Block<'_>, beside: &[&Block<'_>]) -> Result<CompiledPolicy, Vec<PolicyError>> {
    let source = Source::new("gallery.toml", None, block.text.as_str());
    let mut policy = policy().document(source, block.format());
    if block.text.contains("$DIR") {
        policy = policy.dev(DevOptions { directory: "/srv/shared".into() });
    }
    for file in beside {
        let source = Source::new("beside", None, file.text.as_str());
        policy = match file.info()[..] {
            ["toml", "permissions", plugin] => {
                policy.permission_file(source, Format::Toml, Some(PluginName::parse(plugin).unwrap()))
            }
            _ => policy.interface(source),
        };
    }
    policy.compile()
}

fn value(text: &str, format: Format) -> Value {
    match format {
        Format::Json => serde_json::from_str(text).unwrap(),
        Format::Toml => serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap(),
    }
}

/// `ana`, `bob (/usr/bin/gallery)`
fn peer(written: &str) -> PeerFacts {
    let (name, program) = match written.split_once(" (") {
        Some((name, program)) => (name, Some(program.trim_end_matches(')'))),
        None => (written, None),
    };
    let facts = match name {
        "ana" => ana(),
        "bob" => bob(),
        "root" => PeerFacts::new(0, 0, []).with_names(&Users),
        "self" => PeerFacts::new(OWN, OWN, []),
        "mallory" => PeerFacts::new(6666, 6666, []),
        other => panic!("no peer {other}"),
    };
    match program {
        Some(program) => facts.with_executable(ProcessFact::Known(program.into())),
        None => facts,
    }
}

/// `| ana | `fs.read_file` | `/a` | allowed |`, or several in a comment that is not shown, with `;` between.
fn rows<'l>(line: &'l str) -> Vec<[&'l str; 4]> {
    let row = |text: &'l str| -> Option<[&'l str; 4]> {
        let cells: Vec<&str> = text.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        match cells[..] {
            [who, command, argument, verdict @ ("allowed" | "denied")] => {
                Some([who, command, argument, verdict])
            }
            _ => None,
        }
    };
    if let Some(hidden) = line.strip_prefix("<!--").and_then(|line| line.strip_suffix("-->")) {
        return hidden.split(';').filter_map(row).collect();
    }
    let shown = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    shown.and_then(row).into_iter().collect()
}

/// What is wrong with a sample.
fn check_sample(block: &Block<'_>, beside: &[&Block<'_>]) -> Result<(), String> {
    let compiled = load(block, beside).map_err(|errors| lines(&errors))?;
    let (mut allowed_some, mut denied_some) = (false, false);
    for [who, command, argument, verdict] in block.after.iter().flat_map(|line| rows(line)) {
        let grants = compiled.snapshot.peer(&peer(who));
        let allowed = match grants.authorize(command) {
            Verdict::Deny(_) => false,
            Verdict::Allow(_) if argument.is_empty() => true,
            Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(argument)).is_allowed(),
        };
        if allowed != (verdict == "allowed") {
            return Err(format!("{who} {command} {argument} is not {verdict}"));
        }
        (allowed_some, denied_some) = (allowed_some || allowed, denied_some || !allowed);
    }
    if !(allowed_some && denied_some) {
        return Err("below a sample stand a line that is allowed and one that is denied".to_owned());
    }
    let (editor, value) = (capabilities(compiled.snapshot.registry()), value(&block.text, block.format()));
    if editor.is_valid(&value) { Ok(()) } else { Err(complaints(&editor, &value)) }
}

#[test]
fn every_policy_of_the_documents_does_what_stands_below_it() {
    let mut samples = 0;
    for (name, document) in documents() {
        // Files that the next sample is read with.
        let blocks = blocks(&document);
        let mut beside = Vec::new();
        for block in &blocks {
            match block.info()[..] {
                ["toml", "permissions", _] | ["json", "interface"] => beside.push(block),
                _ if block.is_policy() => {
                    let checked = check_sample(block, &std::mem::take(&mut beside));
                    checked.unwrap_or_else(|wrong| panic!("{name}: {wrong}\n{}", block.text));
                    samples += 1;
                }
                _ => {}
            }
        }
        assert!(beside.is_empty(), "{name}: a file that no sample is read with");
    }
    assert!(samples >= 12, "{samples} samples");
}

#[test]
fn a_sample_without_an_allowed_and_a_denied_line_is_found() {
    let sample = "```toml\nidentifier = 'a'\npeers = ['user:ana']\npermissions = ['allow-greet']\n```\n";
    let check = |rows: &str| {
        let text = format!("{sample}{rows}");
        let blocks = blocks(&text);
        assert!(blocks[0].is_policy());
        check_sample(&blocks[0], &[])
    };
    let (allowed, denied) = ("| ana | `greet` | | allowed |", "| bob | `greet` | | denied |");
    assert_eq!(
        check(&format!("\n| peer | command | argument | |\n|---|---|---|---|\n{allowed}\n{denied}\n")),
        Ok(())
    );
    assert_eq!(check("\n<!-- ana | greet | | allowed; bob | greet | | denied -->\n"), Ok(()));
    let wrong = "| bob | `greet` | | allowed |";
    for rows in ["", allowed, denied, &format!("{allowed}\n{wrong}"), &format!("{denied}\n{wrong}")] {
        assert!(check(rows).is_err(), "{rows}");
    }
    for text in [
        "```toml\n[listen]\naccess = 'owner'\n```",
        "```json\n{\"a\":1}\n```",
        "```toml refused\nidentifier = 1\n```",
    ] {
        assert!(!blocks(text)[0].is_policy(), "{text}");
    }
}

#[test]
fn the_policy_guide_says_what_is_refused_and_why() {
    let (_, document) = documents().into_iter().find(|(name, _)| name == "docs/policy.md").unwrap();
    let blocks = blocks(&document);
    let editor = capabilities(policy().compile().unwrap().snapshot.registry());
    let mut outputs = 0;
    for (i, block) in blocks.iter().enumerate() {
        match block.info()[..] {
            ["toml", "refused"] => {
                let errors = load(block, &[]).expect_err("this sample is refused");
                assert_eq!(lines(&errors), blocks[i + 1].text);
                assert!(!editor.is_valid(&value(&block.text, Format::Toml)), "an editor takes it");
                outputs += 1;
            }
            ["text", "explain", identifier, who, command, argument] => {
                let named = |b: &&Block<'_>| b.text.contains(&format!("= \"{identifier}\""));
                let compiled = load(blocks.iter().find(named).unwrap(), &[]).unwrap();
                let explanation =
                    compiled.snapshot.explain(&peer(who), command, Some(&Value::from(argument)));
                assert_eq!(format!("{explanation}\n"), block.text);
                outputs += 1;
            }
            ["toml", "permissions", _] | ["json", "interface"] | ["toml" | "json" | "text"] => {}
            // `tests/readme` types these.
            ["console"] | ["console", "daemon"] => {}
            ref other => panic!("a block that nothing checks: {other:?}"),
        }
    }
    assert!(outputs >= 2, "{outputs} outputs");
}

#[test]
fn an_editor_takes_the_examples_and_the_permission_files_of_the_documents() {
    let snapshot = policy().compile().unwrap().snapshot;
    let editor = capabilities(snapshot.registry());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/capabilities");
    let mut count = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let format = if is_json { Format::Json } else { Format::Toml };
        let value = value(&std::fs::read_to_string(&path).unwrap(), format);
        assert!(editor.is_valid(&value), "{}: {}", path.display(), complaints(&editor, &value));
        count += 1;
    }
    assert!(count >= 3, "{count} examples");
    let editor = validator(&snapshot.registry().permission_schema(&|_| None));
    let mut count = 0;
    for (name, document) in documents() {
        for block in blocks(&document).iter().filter(|block| block.info.starts_with("toml permissions")) {
            let value = value(&block.text, Format::Toml);
            assert!(editor.is_valid(&value), "{name}: {}", complaints(&editor, &value));
            count += 1;
        }
    }
    assert!(count >= 1, "{count} permission files");
}
