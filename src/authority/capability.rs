//! Capability files: what an administrator writes, read strictly.
//!
//! Owns the keys and their meaning. Permissions are only names here; `resolve` gives them their commands.

use std::sync::Arc;

use invoked_proto::name::PluginName;

use super::document::{Entry, Node, NodeValue};
use super::glob::{glob, tokens};
use super::identifier::Identifier;
use super::limits::{Ceilings, PeerLanes, PeerLimits, read_lanes, read_limits};
use super::matcher::{Matcher, MatcherContext, MatcherReader, NamedPeers};
use super::reader::{Table, TreeReader};
use super::remote::{self, CallContext};
use super::scope::{ScopeItem, ScopeLists};
use super::source::{Findings, Location, Source};

/// One capability as its file writes it, with its peers resolved.
#[derive(Debug)]
pub(crate) struct Capability {
    pub(crate) identifier: Arc<str>,
    pub(crate) location: Location,
    pub(crate) peers: Vec<Matcher>,
    pub(crate) context: CallContext,
    pub(crate) permissions: Vec<WrittenPermission>,
    pub(crate) provide: Vec<WrittenPlugin>,
    pub(crate) limits: PeerLimits,
    pub(crate) lanes: Option<PeerLanes>,
    /// False when `platforms` names others only: it is checked and then means nothing.
    pub(crate) here: bool,
}

/// An entry of `permissions`.
#[derive(Clone, Debug)]
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
    pub(crate) const NAMES: [(&'static str, Platform); 5] = [
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

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// The platform of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, platform)| *platform)
    }
}

/// Every key of a capability.
const KEYS: [&str; 13] = [
    "$schema",
    "description",
    "identifier",
    "lanes",
    "limits",
    "local",
    "peers",
    "permissions",
    "platforms",
    "provide",
    "remote",
    "webviews",
    "windows",
];
const FILE_KEYS: [&str; 3] = ["$schema", "capabilities", "peers"];

/// How files written for Tauri are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TauriFiles {
    /// What they name and isn't here is an error, as in every file.
    #[default]
    Strict,
    /// Permissions of plugins that aren't here, and windows that no named peer stands for, are warnings and grant
    /// nothing.
    Lenient,
}

/// What stays the same for all files of one policy.
pub(crate) struct CapabilityReader<'a> {
    pub(crate) matchers: MatcherContext<'a>,
    pub(crate) platform: Platform,
    pub(crate) ceilings: &'a Ceilings,
    pub(crate) tauri: TauriFiles,
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
        let file = FileReader { tree: TreeReader { source }, common: self, named };
        let list = match &root.value {
            NodeValue::Array(items) => items,
            NodeValue::Table(entries) if is_container(entries) => {
                file.tree.refuse_unknown(entries, &FILE_KEYS, findings);
                match Table(entries).get("capabilities") {
                    None => return Vec::new(),
                    Some(Node { value: NodeValue::Array(items), .. }) => items,
                    Some(node) => {
                        findings.error(file.tree.wrong(node, "\"capabilities\"", "a list"));
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
    tree: TreeReader<'a>,
    common: &'a CapabilityReader<'a>,
    named: &'a NamedPeers,
}

impl FileReader<'_> {
    fn capability(&self, node: &Node, findings: &mut Findings) -> Option<Capability> {
        let tree = self.tree;
        let table = tree.table(node, "a capability", &KEYS, findings)?;
        tree.texts(table, &["$schema", "description"], findings);
        let start = tree.at(&(node.span.start..node.span.start));
        let identifier = self.identifier(table.get("identifier"), &start, findings);
        let location = table.get("identifier").map_or_else(|| start.clone(), |node| tree.at(&node.span));
        let capability = Capability {
            identifier: identifier.unwrap_or_default().into(),
            peers: self.peers(table, &location, findings),
            context: remote::read(tree, table, findings),
            permissions: self.permissions(table.get("permissions"), findings),
            provide: self.provide(table.get("provide"), findings),
            limits: table
                .get("limits")
                .map(|node| read_limits(tree, node, self.common.ceilings, findings))
                .unwrap_or_default(),
            lanes: table.get("lanes").map(|node| read_lanes(tree, node, findings)),
            here: tree
                .platforms(table.get("platforms"), findings)
                .is_none_or(|platforms| platforms.contains(&self.common.platform)),
            location,
        };
        if ["permissions", "provide", "limits", "lanes"].into_iter().all(|key| table.get(key).is_none()) {
            let message = "a capability without \"permissions\" or \"provide\" gives nothing";
            findings.error(capability.location.error(message));
        }
        Some(capability)
    }

    fn identifier(&self, node: Option<&Node>, start: &Location, findings: &mut Findings) -> Option<String> {
        let Some(node) = node else {
            findings.error(start.error("a capability without \"identifier\""));
            return None;
        };
        let text = self.tree.string(node, "\"identifier\"", findings)?;
        let bad = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.:".contains(*c)));
        let message = match bad {
            _ if text.is_empty() => "an empty identifier".to_owned(),
            Some(c) => format!("the character {c:?} may not stand in an identifier"),
            None => return Some(text.to_owned()),
        };
        findings.error(self.tree.at(&node.span).error(message));
        None
    }

    /// Whom it applies to: `peers`, and the named peers that Tauri's `windows` and `webviews` stand for.
    fn peers(&self, table: Table<'_>, location: &Location, findings: &mut Findings) -> Vec<Matcher> {
        let help = "a capability applies to the peers that it names, for example peers = [\"user:ana\"]";
        let windows = ["windows", "webviews"].map(|key| table.get(key).map(|node| (key, node)));
        let mut matchers = Vec::new();
        for (key, node) in windows.into_iter().flatten() {
            self.windows(key, node, &mut matchers, findings);
        }
        let items = match table.get("peers").map(|node| (node, &node.value)) {
            None if windows.iter().all(Option::is_none) => {
                findings.error(
                    location.error("a capability without \"peers\" applies to nobody").with_help(help),
                );
                return matchers;
            }
            None => return matchers,
            Some((node, NodeValue::Array(items))) if items.is_empty() => {
                findings
                    .error(self.tree.at(&node.span).error("no peers: it applies to nobody").with_help(help));
                return matchers;
            }
            Some((_, NodeValue::Array(items))) => items,
            Some((node, NodeValue::Table(_))) => {
                let error = self.tree.at(&node.span).error("a capability's \"peers\" is a list");
                findings.error(
                    error.with_help("in a file with a [peers] table, write capabilities as [[capabilities]]"),
                );
                return matchers;
            }
            Some((node, _)) => {
                findings.error(self.tree.wrong(node, "\"peers\"", "a list"));
                return matchers;
            }
        };
        let (source, context) = (self.tree.source, self.common.matchers);
        let reader = MatcherReader { source, context, named: Some(self.named) };
        matchers.extend(items.iter().flat_map(|item| reader.read(item, findings)));
        matchers
    }

    /// `windows = ["main", "editor-*"]` is `peers = ["@main", …]`, with a pattern standing for each name that it matches.
    fn windows(&self, key: &str, node: &Node, matchers: &mut Vec<Matcher>, findings: &mut Findings) {
        let names = self.tree.strings(Some(node), &format!("\"{key}\""), findings);
        if matches!(&node.value, NodeValue::Array(items) if items.is_empty()) {
            findings.error(self.tree.at(&node.span).error(format!("\"{key}\" names nobody")));
        }
        for (text, location) in names {
            let pattern = match tokens(text) {
                Ok(pattern) => pattern,
                Err(error) => {
                    findings.error(location.error(format!("{text:?}: {error}")));
                    continue;
                }
            };
            let mut found = false;
            for (name, named) in self.named.iter().filter(|(name, _)| glob(&pattern, name)) {
                found = true;
                matchers.extend(named.iter().map(|matcher| matcher.standing_at(name, &location)));
            }
            if found {
                continue;
            }
            let nobody = location.error(format!("no [peers] table names \"{text}\""));
            if self.common.tauri == TauriFiles::Lenient {
                findings.warn(nobody.with_help("it grants nothing until one does"));
            } else {
                let near = super::source::nearest(text, self.named.keys().map(String::as_str));
                findings.error(match near {
                    Some(near) => nobody.with_help(format!("did you mean \"{near}\"?")),
                    None => nobody.with_help(format!(
                        "a window is a named peer here: [peers] {text:?} = \"user:…\"; or load it with --tauri-compat"
                    )),
                });
            }
        }
    }

    fn permissions(&self, node: Option<&Node>, findings: &mut Findings) -> Vec<WrittenPermission> {
        let items = self.tree.list(node, "\"permissions\"", findings);
        items.iter().filter_map(|item| self.permission(item, findings)).collect()
    }

    fn permission(&self, node: &Node, findings: &mut Findings) -> Option<WrittenPermission> {
        let (identifier, scope) = match &node.value {
            NodeValue::String(_) => (node, ScopeLists::default()),
            NodeValue::Table(_) => {
                let keys = ["identifier", "allow", "deny"];
                let table = self.tree.table(node, "a permission", &keys, findings)?;
                let Some(identifier) = table.get("identifier") else {
                    findings.error(self.tree.at(&node.span).error("a permission without \"identifier\""));
                    return None;
                };
                (identifier, scope_lists(self.tree, table, findings))
            }
            _ => {
                findings.error(self.tree.wrong(node, "a permission", "a string or a table"));
                return None;
            }
        };
        let location = self.tree.at(&identifier.span);
        let text = self.tree.string(identifier, "\"identifier\"", findings)?;
        match Identifier::parse(text) {
            Ok(identifier) => Some(WrittenPermission { identifier, location, scope }),
            Err(error) => {
                findings.error(location.error(format!("permission {text:?}: {error}")));
                None
            }
        }
    }

    fn provide(&self, node: Option<&Node>, findings: &mut Findings) -> Vec<WrittenPlugin> {
        let mut plugins = Vec::new();
        for (name, location) in self.tree.strings(node, "\"provide\"", findings) {
            match PluginName::parse(name) {
                Err(error) if name != "*" => {
                    findings.error(location.error(format!("plugin {name:?}: {error}")));
                }
                _ => plugins.push(WrittenPlugin { name: name.to_owned() }),
            }
        }
        plugins
    }
}

/// `allow` and `deny` of a table.
pub(crate) fn scope_lists(tree: TreeReader<'_>, table: Table<'_>, findings: &mut Findings) -> ScopeLists {
    let mut items = |key: &str| -> Option<Vec<ScopeItem>> {
        let node = table.get(key)?;
        let items = tree.list(Some(node), &format!("\"{key}\""), findings);
        Some(items.iter().map(|item| ScopeItem::new(item.to_json(), Some(tree.at(&item.span)))).collect())
    };
    ScopeLists { allow: items("allow"), deny: items("deny").unwrap_or_default() }
}
