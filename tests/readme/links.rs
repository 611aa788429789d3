//! Links of the documents to each other.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use crate::{markdown, root};

#[test]
fn each_relative_link_leads_somewhere() {
    let broken: Vec<String> = markdown().iter().flat_map(|(document, text)| broken(document, text)).collect();
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    let text = "# A b\n[x](nothing.md) [y](#a-b) [z](#no) [r](README.md#none) [d](docs) [w](https://example.org/x)\n\
        ```text\n[in a block](nothing.md)\n```\n`[in code](nothing.md)`\n";
    assert_eq!(broken("x.md", text).len(), 3, "{:?}", broken("x.md", text));
}

fn broken(document: &str, text: &str) -> Vec<String> {
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let leads = |target: &str| {
        if target.contains("://") || target.starts_with("mailto:") {
            return true;
        }
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        if path.is_empty() {
            return anchors(text).contains(anchor);
        }
        let Some(path) = inside(&folder.join(path)) else { return false };
        let path = root().join(path);
        match path.extension() {
            Some(md) if md == "md" && !anchor.is_empty() => {
                std::fs::read_to_string(path).is_ok_and(|text| anchors(&text).contains(anchor))
            }
            _ => path.exists(),
        }
    };
    let targets = prose(text).into_iter().flat_map(|line| targets(&line));
    targets.filter(|target| !leads(target)).map(|target| format!("{document}: {target}")).collect()
}

/// The path without `..`; `None` if it leaves the repository.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop().then_some(())?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// The lines outside of fences, without what stands in backticks.
fn prose(text: &str) -> Vec<String> {
    let mut in_fence = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        } else if !in_fence {
            lines.push(without_code(line));
        }
    }
    lines
}

/// Backticks inside of a link's text stay: only code that holds a whole link is left out.
fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    parts.map(|(index, part)| if index % 2 == 1 && part.contains("](") { "" } else { part }).collect()
}

/// What `](…)` names in a line.
fn targets(line: &str) -> Vec<String> {
    let rest = line.split("](").skip(1);
    rest.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.trim().to_owned()).collect()
}

/// The names of the headings, as they are linked to.
fn anchors(text: &str) -> HashSet<String> {
    let lines = prose_with_code(text);
    let headings =
        lines.iter().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(slug).collect()
}

fn prose_with_code(text: &str) -> Vec<&str> {
    let mut in_fence = false;
    text.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            in_fence ^= fence;
            !fence && !in_fence
        })
        .collect()
}
