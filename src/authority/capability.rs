//! Capability files: what an administrator writes, read strictly.
//!
//! Owns the keys and their meaning. Permissions are only names here; `resolve` gives them their commands.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use invoked_proto::name::PluginName;

use super::document::{Entry, Node, NodeValue};
use super::identifier::Identifier;
use super::matcher::{Matcher, MatcherContext, MatcherReader, NamedPeers};
use super::scope::{ScopeItem, ScopeLists};
use super::source::{Findings, Location, PolicyError, Source};

/// One capability as its file writes it, with its peers resolved.
#[derive(Debug)]
pub(crate) struct Capability {
    pub(crate) identifier: Arc<str>,
    pub(crate) location: Location,
    pub(crate) peers: Vec<Matcher>,
    pub(crate) permissions: Vec<WrittenPermission>,
    pub(crate) provide: Vec<WrittenPlugin>,
    /// False when `platforms` names others only: it is checked and then means nothing.
    pub(crate) here: bool,
}

/// An entry of `permissions`.
#[derive(Debug)]
pub(crate) struct WrittenPermission {
    pub(crate) identifier: Identifier,
    pub(crate) location: Location,
    pub(crate) scope: ScopeLists,
}

/// An entry of `provide`.
#[derive(Debug)]
pub(crate) struct WrittenPlugin {
    /// The plugin, or `*`.
    pub(crate) name: String,
}

/// An operating system that capabilities and permissions may be limited to, with the names that Tauri's files use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// `linux`
    Linux,
    /// `macOS`
    MacOs,
    /// `windows`
    Windows,
    /// `android`
    Android,
    /// `iOS`
    Ios,
}

impl Platform {
    const NAMES: [(&'static str, Platform); 5] = [
        ("linux", Platform::Linux),
        ("macOS", Platform::MacOs),
        ("windows", Platform::Windows),
        ("android", Platform::Android),
        ("iOS", Platform::Ios),
    ];

    /// The platform that this code was compiled for; other Unix systems count as Linux.
    #[must_use]
    pub const fn current() -> Self {
        if cfg!(target_os = "macos") {
            Platform::MacOs
        } else if cfg!(windows) {
            Platform::Windows
        } else if cfg!(target_os = "android") {
            Platform::Android
        } else if cfg!(target_os = "ios") {
            Platform::Ios
        } else {
            Platform::Linux
        }
    }

    /// The platform of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, platform)| *platform)
    }
}

/// Every key of a capability. The second half has a meaning that this version doesn't know: to ignore one of them
/// would grant more than its author wrote, so they are refused.
const KEYS: [&str; 8] =
    ["$schema", "identifier", "description", "local", "peers", "permissions", "platforms", "provide"];
const UNSUPPORTED_KEYS: [&str; 5] = ["lanes", "limits", "remote", "webviews", "windows"];
const FILE_KEYS: [&str; 3] = ["$schema", "capabilities", "peers"];

/// What stays the same for all files of one policy.
pub(crate) struct CapabilityReader<'a> {
    pub(crate) matchers: MatcherContext<'a>,
    pub(crate) platform: Platform,
}

impl CapabilityReader<'_> {
    /// Collects what a file's `[peers]` table names, before any capability is read: any file may use the names.
    pub(crate) fn read_peers(
        &self,
        source: &Source,
        root: &Node,
        named: &mut NamedPeers,
        findings: &mut Findings,
    ) {
        let NodeValue::Table(entries) = &root.value else { return };
        let Some(peers) = entries.iter().find(|entry| entry.key == "peers") else { return };
        let NodeValue::Table(peers) = &peers.node.value else { return };
        let reader = MatcherReader { source, context: self.matchers, named: None };
        for Entry { key, key_span, node } in peers {
            let matchers = match &node.value {
                NodeValue::Array(items) => {
                    items.iter().flat_map(|item| reader.read(item, findings)).collect()
                }
                _ => reader.read(node, findings),
            };
            if key.is_empty() {
                findings.error(source.at(key_span.clone()).error("a peer without a name"));
            } else if named.insert(key.clone(), matchers).is_some() {
                findings.error(source.at(key_span.clone()).error(format!("\"@{key}\" is named twice")));
            }
        }
    }

    /// Reads the capabilities of one file: the file itself, a list, or `capabilities`.
    pub(crate) fn read_file(
        &self,
        source: &Source,
        root: &Node,
        named: &NamedPeers,
        findings: &mut Findings,
    ) -> Vec<Capability> {
        let file = FileReader { source, common: self, named };
        let list = match &root.value {
            NodeValue::Array(items) => items,
            NodeValue::Table(entries) if is_container(entries) => {
                file.refuse_unknown(entries, &FILE_KEYS, &[], findings);
                match entries.iter().find(|entry| entry.key == "capabilities").map(|entry| &entry.node) {
                    None => return Vec::new(),
                    Some(Node { value: NodeValue::Array(items), .. }) => items,
                    Some(node) => {
                        findings.error(file.wrong(node, "\"capabilities\"", "a list"));
                        return Vec::new();
                    }
                }
            }
            _ => return file.capability(root, findings).into_iter().collect(),
        };
        list.iter().filter_map(|node| file.capability(node, findings)).collect()
    }
}

/// A file that holds named peers or several capabilities rather than being one.
fn is_container(entries: &[Entry]) -> bool {
    let has = |key| entries.iter().any(|entry| entry.key == key);
    let names_peers = |e: &Entry| e.key == "peers" && matches!(e.node.value, NodeValue::Table(_));
    has("capabilities") || (entries.iter().any(names_peers) && !has("identifier") && !has("permissions"))
}

struct FileReader<'a> {
    source: &'a Source,
    common: &'a CapabilityReader<'a>,
    named: &'a NamedPeers,
}

impl FileReader<'_> {
    fn at(&self, span: &Range<usize>) -> Location {
        self.source.at(span.clone())
    }

    fn wrong(&self, node: &Node, what: &str, wanted: &str) -> PolicyError {
        self.at(&node.span).error(format!("{what} is {wanted}, this is {}", node.kind()))
    }

    fn capability(&self, node: &Node, findings: &mut Findings) -> Option<Capability> {
        let NodeValue::Table(entries) = &node.value else {
            findings.error(self.wrong(node, "a capability", "a table"));
            return None;
        };
        self.refuse_unknown(entries, &KEYS, &UNSUPPORTED_KEYS, findings);
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
        for key in ["$schema", "description"] {
            if let Some(node) = find(key) {
                self.string(node, &format!("\"{key}\""), findings);
            }
        }
        self.local(find("local"), findings);
        let start = self.at(&(node.span.start..node.span.start));
        let identifier = self.identifier(find("identifier"), &start, findings);
        let location = find("identifier").map_or_else(|| start.clone(), |node| self.at(&node.span));
        let capability = Capability {
            identifier: identifier.unwrap_or_default().into(),
            peers: self.peers(find("peers"), &location, findings),
            permissions: self.permissions(find("permissions"), findings),
            provide: self.provide(find("provide"), findings),
            here: self.here(find("platforms"), findings),
            location,
        };
        if find("permissions").is_none() && find("provide").is_none() {
            let message = "a capability without \"permissions\" or \"provide\" gives nothing";
            findings.error(capability.location.error(message));
        }
        Some(capability)
    }

    fn refuse_unknown(
        &self,
        entries: &[Entry],
        known: &[&str],
        unsupported: &[&str],
        findings: &mut Findings,
    ) {
        for Entry { key, key_span, .. } in entries {
            if unsupported.contains(&key.as_str()) {
                let message = format!("the key \"{key}\" is not supported by this version");
                findings.error(self.at(key_span).error(message));
            } else if !known.contains(&key.as_str()) {
                let candidates = known.iter().chain(unsupported).copied();
                findings.error(
                    self.at(key_span).error(format!("unknown key \"{key}\"")).did_you_mean(key, candidates),
                );
            }
        }
    }

    /// `local = true` is what a capability means anyhow; `false` would leave bridged calls only, which don't exist.
    fn local(&self, node: Option<&Node>, findings: &mut Findings) {
        match node.map(|node| (node, &node.value)) {
            None | Some((_, NodeValue::Bool(true))) => {}
            Some((node, NodeValue::Bool(false))) => {
                findings
                    .error(self.at(&node.span).error("\"local\" = false is not supported by this version"));
            }
            Some((node, _)) => findings.error(self.wrong(node, "\"local\"", "true or false")),
        }
    }

    fn identifier(&self, node: Option<&Node>, start: &Location, findings: &mut Findings) -> Option<String> {
        let Some(node) = node else {
            findings.error(start.error("a capability without \"identifier\""));
            return None;
        };
        let text = self.string(node, "\"identifier\"", findings)?;
        let bad = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.:".contains(*c)));
        let message = match bad {
            _ if text.is_empty() => "an empty identifier".to_owned(),
            Some(c) => format!("the character {c:?} may not stand in an identifier"),
            None => return Some(text.to_owned()),
        };
        findings.error(self.at(&node.span).error(message));
        None
    }

    fn peers(&self, node: Option<&Node>, location: &Location, findings: &mut Findings) -> Vec<Matcher> {
        let help = "a capability applies to the peers that it names, for example peers = [\"user:ana\"]";
        let items = match node.map(|node| (node, &node.value)) {
            None => {
                findings.error(
                    location.error("a capability without \"peers\" applies to nobody").with_help(help),
                );
                return Vec::new();
            }
            Some((node, NodeValue::Array(items))) if items.is_empty() => {
                findings.error(self.at(&node.span).error("no peers: it applies to nobody").with_help(help));
                return Vec::new();
            }
            Some((_, NodeValue::Array(items))) => items,
            Some((node, NodeValue::Table(_))) => {
                let error = self.at(&node.span).error("a capability's \"peers\" is a list");
                findings.error(
                    error.with_help("in a file with a [peers] table, write capabilities as [[capabilities]]"),
                );
                return Vec::new();
            }
            Some((node, _)) => {
                findings.error(self.wrong(node, "\"peers\"", "a list"));
                return Vec::new();
            }
        };
        let (source, context) = (self.source, self.common.matchers);
        let reader = MatcherReader { source, context, named: Some(self.named) };
        items.iter().flat_map(|item| reader.read(item, findings)).collect()
    }

    fn permissions(&self, node: Option<&Node>, findings: &mut Findings) -> Vec<WrittenPermission> {
        let items = self.list(node, "\"permissions\"", findings);
        items.iter().filter_map(|item| self.permission(item, findings)).collect()
    }

    fn permission(&self, node: &Node, findings: &mut Findings) -> Option<WrittenPermission> {
        let (identifier, scope) = match &node.value {
            NodeValue::String(_) => (node, ScopeLists::default()),
            NodeValue::Table(entries) => {
                self.refuse_unknown(entries, &["identifier", "allow", "deny"], &[], findings);
                let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
                let Some(identifier) = find("identifier") else {
                    findings.error(self.at(&node.span).error("a permission without \"identifier\""));
                    return None;
                };
                let allow = find("allow").map(|list| self.scope_items(list, "\"allow\"", findings));
                let deny = find("deny").map(|list| self.scope_items(list, "\"deny\"", findings));
                (identifier, ScopeLists { allow, deny: deny.unwrap_or_default() })
            }
            _ => {
                findings.error(self.wrong(node, "a permission", "a string or a table"));
                return None;
            }
        };
        let location = self.at(&identifier.span);
        let text = self.string(identifier, "\"identifier\"", findings)?;
        match Identifier::parse(text) {
            Ok(identifier) => Some(WrittenPermission { identifier, location, scope }),
            Err(error) => {
                findings.error(location.error(format!("permission {text:?}: {error}")));
                None
            }
        }
    }

    fn scope_items(&self, node: &Node, key: &str, findings: &mut Findings) -> Vec<ScopeItem> {
        let items = self.list(Some(node), key, findings);
        items.iter().map(|item| ScopeItem::new(item.to_json(), Some(self.at(&item.span)))).collect()
    }

    fn provide(&self, node: Option<&Node>, findings: &mut Findings) -> Vec<WrittenPlugin> {
        let mut plugins = Vec::new();
        for item in self.list(node, "\"provide\"", findings) {
            let Some(name) = self.string(item, "an entry of \"provide\"", findings) else { continue };
            match PluginName::parse(name) {
                Err(error) if name != "*" => {
                    findings.error(self.at(&item.span).error(format!("plugin {name:?}: {error}")));
                }
                _ => plugins.push(WrittenPlugin { name: name.to_owned() }),
            }
        }
        plugins
    }

    fn here(&self, node: Option<&Node>, findings: &mut Findings) -> bool {
        let Some(node) = node else { return true };
        let mut platforms = HashSet::new();
        let items = self.list(Some(node), "\"platforms\"", findings);
        if items.is_empty() && matches!(node.value, NodeValue::Array(_)) {
            findings.error(self.at(&node.span).error("no platforms: it applies nowhere"));
        }
        for item in items {
            let Some(name) = self.string(item, "a platform", findings) else { continue };
            match Platform::parse(name) {
                Some(platform) => {
                    platforms.insert(platform);
                }
                None => {
                    let error = self.at(&item.span).error(format!("unknown platform \"{name}\""));
                    findings.error(error.did_you_mean(name, Platform::NAMES.map(|(known, _)| known)));
                }
            }
        }
        platforms.contains(&self.common.platform)
    }

    fn list<'n>(&self, node: Option<&'n Node>, what: &str, findings: &mut Findings) -> &'n [Node] {
        match node.map(|node| (node, &node.value)) {
            None => &[],
            Some((_, NodeValue::Array(items))) => items,
            Some((node, _)) => {
                findings.error(self.wrong(node, what, "a list"));
                &[]
            }
        }
    }

    fn string<'n>(&self, node: &'n Node, what: &str, findings: &mut Findings) -> Option<&'n str> {
        match &node.value {
            NodeValue::String(text) => Some(text),
            _ => {
                findings.error(self.wrong(node, what, "a string"));
                None
            }
        }
    }
}
