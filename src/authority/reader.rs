//! Reading keys of a parsed file strictly: what is unknown, or of the wrong kind, is an error where it stands.
//!
//! Owns what is the same for every kind of file: kinds of values, unknown keys, platforms.

use std::collections::HashSet;
use std::ops::Range;

use super::Platform;
use super::document::{Entry, Node, NodeValue};
use super::source::{Findings, Location, PolicyError, Source};

/// Reads nodes of one file.
#[derive(Clone, Copy)]
pub(crate) struct TreeReader<'a> {
    pub(crate) source: &'a Source,
}

impl<'a> TreeReader<'a> {
    pub(crate) fn at(self, span: &Range<usize>) -> Location {
        self.source.at(span.clone())
    }

    /// The error of a value of the wrong kind.
    pub(crate) fn wrong(self, node: &Node, what: &str, wanted: &str) -> PolicyError {
        self.at(&node.span).error(format!("{what} is {wanted}, this is {}", node.kind()))
    }

    /// The entries of a table whose keys are all among `known`; those that aren't are errors.
    pub(crate) fn table<'n>(
        self,
        node: &'n Node,
        what: &str,
        known: &[&str],
        findings: &mut Findings,
    ) -> Option<Table<'n>> {
        let NodeValue::Table(entries) = &node.value else {
            findings.error(self.wrong(node, what, "a table"));
            return None;
        };
        self.refuse_unknown(entries, known, findings);
        Some(Table(entries))
    }

    pub(crate) fn refuse_unknown(self, entries: &[Entry], known: &[&str], findings: &mut Findings) {
        for Entry { key, key_span, .. } in entries.iter().filter(|e| !known.contains(&e.key.as_str())) {
            let error = self.at(key_span).error(format!("unknown key \"{key}\""));
            findings.error(error.did_you_mean(key, known.iter().copied()));
        }
    }

    pub(crate) fn list<'n>(self, node: Option<&'n Node>, what: &str, findings: &mut Findings) -> &'n [Node] {
        match node.map(|node| (node, &node.value)) {
            None => &[],
            Some((_, NodeValue::Array(items))) => items,
            Some((node, _)) => {
                findings.error(self.wrong(node, what, "a list"));
                &[]
            }
        }
    }

    pub(crate) fn string<'n>(self, node: &'n Node, what: &str, findings: &mut Findings) -> Option<&'n str> {
        match &node.value {
            NodeValue::String(text) => Some(text),
            _ => {
                findings.error(self.wrong(node, what, "a string"));
                None
            }
        }
    }

    /// The strings of a list, each with its place.
    pub(crate) fn strings<'n>(
        self,
        node: Option<&'n Node>,
        what: &str,
        findings: &mut Findings,
    ) -> Vec<(&'n str, Location)> {
        let items = self.list(node, what, findings);
        let entry = format!("an entry of {what}");
        items.iter().filter_map(|n| Some((self.string(n, &entry, findings)?, self.at(&n.span)))).collect()
    }

    pub(crate) fn boolean(self, node: &Node, what: &str, findings: &mut Findings) -> Option<bool> {
        match node.value {
            NodeValue::Bool(value) => Some(value),
            _ => {
                findings.error(self.wrong(node, what, "true or false"));
                None
            }
        }
    }

    /// Keys that are for people and editors: only their kind is looked at.
    pub(crate) fn texts(self, table: Table<'_>, keys: &[&str], findings: &mut Findings) {
        for key in keys {
            if let Some(node) = table.get(key) {
                self.string(node, &format!("\"{key}\""), findings);
            }
        }
    }

    /// The platforms that a list names; `None` where there is no list.
    pub(crate) fn platforms(self, node: Option<&Node>, findings: &mut Findings) -> Option<HashSet<Platform>> {
        let node = node?;
        let names = self.strings(Some(node), "\"platforms\"", findings);
        if matches!(&node.value, NodeValue::Array(items) if items.is_empty()) {
            findings.error(self.at(&node.span).error("no platforms: it applies nowhere"));
        }
        let mut platforms = HashSet::new();
        for (name, location) in names {
            match Platform::parse(name) {
                Some(platform) => {
                    platforms.insert(platform);
                }
                None => {
                    let error = location.error(format!("unknown platform \"{name}\""));
                    findings.error(error.did_you_mean(name, Platform::NAMES.map(|(known, _)| known)));
                }
            }
        }
        Some(platforms)
    }
}

/// The entries of a table.
#[derive(Clone, Copy)]
pub(crate) struct Table<'n>(pub(crate) &'n [Entry]);

impl<'n> Table<'n> {
    pub(crate) fn get(self, key: &str) -> Option<&'n Node> {
        self.0.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }
}
