//! docs/policy.md: every sample is loaded, and every line of the table below it is asked.

use std::path::Path;

use invoked_proto::name::PluginName;
use serde_json::Value;

use super::{PeerFacts, Users, ana, bob, lines, policy};
use crate::authority::{CompiledPolicy, Format, PathScope, PolicyError, Source, Verdict};

/// A fenced block and the text up to the next one.
struct Block<'d> {
    info: &'d str,
    text: String,
    after: Vec<&'d str>,
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

fn load(block: &Block<'_>, beside: &[&Block<'_>]) -> Result<CompiledPolicy, Vec<PolicyError>> {
    let format = if block.info == "json" { Format::Json } else { Format::Toml };
    let mut policy = policy().document(Source::new("gallery.toml", None, block.text.as_str()), format);
    for file in beside {
        let source = Source::new("beside", None, file.text.as_str());
        policy = match file.info.split(' ').collect::<Vec<_>>()[..] {
            ["toml", "permissions", plugin] => {
                policy.permission_file(source, Format::Toml, Some(PluginName::parse(plugin).unwrap()))
            }
            _ => policy.interface(source),
        };
    }
    policy.compile()
}

fn peer(name: &str) -> PeerFacts {
    match name {
        "ana" => ana(),
        "bob" => bob(),
        "root" => PeerFacts::new(0, 0, []).with_names(&Users),
        "mallory" => PeerFacts::new(6666, 6666, []),
        other => panic!("no peer {other}"),
    }
}

/// `| ana | `fs.read_file` | `/a` | allowed |`
fn row(line: &str) -> Option<[&str; 4]> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(|c| c.trim().trim_matches('`')).collect();
    match cells[..] {
        [who, command, argument, verdict @ ("allowed" | "denied"), ""] => {
            Some([who, command, argument, verdict])
        }
        _ => None,
    }
}

fn check_sample(block: &Block<'_>, beside: &[&Block<'_>]) {
    let compiled = load(block, beside).unwrap_or_else(|errors| panic!("{}\n{}", block.text, lines(&errors)));
    let mut seen = (false, false);
    for [who, command, argument, verdict] in block.after.iter().filter_map(|line| row(line)) {
        let grants = compiled.snapshot.peer(&peer(who));
        let allowed = match grants.authorize(command) {
            Verdict::Deny(_) => false,
            Verdict::Allow(_) if argument.is_empty() => true,
            Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(argument)).is_allowed(),
        };
        assert_eq!(allowed, verdict == "allowed", "{who} {command} {argument}\n{}", block.text);
        seen = (seen.0 || allowed, seen.1 || !allowed);
    }
    assert_eq!(seen, (true, true), "a sample shows something allowed and something denied:\n{}", block.text);
}

#[test]
fn every_sample_of_the_policy_guide_does_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md");
    let document = std::fs::read_to_string(path).unwrap();
    let blocks = blocks(&document);
    let (mut samples, mut outputs) = (0, 0);
    // Files that the next sample is read with.
    let mut beside = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        match block.info.split(' ').collect::<Vec<_>>()[..] {
            ["toml", "permissions", _] | ["json", "interface"] => beside.push(block),
            ["toml" | "json"] => {
                check_sample(block, &std::mem::take(&mut beside));
                samples += 1;
            }
            ["toml", "refused"] => {
                let errors = load(block, &[]).expect_err("this sample is refused");
                assert_eq!(lines(&errors), blocks[i + 1].text);
                outputs += 1;
            }
            ["text"] => {}
            // `tests/readme` types these.
            ["console"] | ["console", "daemon"] => {}
            ["text", "explain", identifier, who, command, argument] => {
                let named = |b: &&Block<'_>| b.text.contains(&format!("= \"{identifier}\""));
                let compiled = load(blocks.iter().find(named).unwrap(), &[]).unwrap();
                let explanation =
                    compiled.snapshot.explain(&peer(who), command, Some(&Value::from(argument)));
                assert_eq!(format!("{explanation}\n"), block.text);
                outputs += 1;
            }
            ref other => panic!("a block that nothing checks: {other:?}"),
        }
    }
    assert!(beside.is_empty(), "a file that no sample is read with");
    assert!(samples >= 7 && outputs >= 2, "{samples} samples, {outputs} outputs");
}
