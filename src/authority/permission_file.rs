//! Permission files, in Tauri's format: what a plugin ships beside its code, or an administrator adds to it.
//!
//! Owns the keys and their kinds. Whether the commands exist is `register`'s business.

use invoked_proto::name::PluginName;

use super::capability::scope_lists;
use super::document::{Node, NodeValue};
use super::reader::{Table, TreeReader};
use super::scope::ScopeLists;
use super::shipped::{DEFAULT, Place, ShippedContents, ShippedPermission, ShippedSet, Written};
use super::source::{Findings, Source};

/// A permission file, read.
#[derive(Debug)]
pub(crate) struct PermissionFile {
    /// The plugin that its key `plugin` names, and where.
    pub(crate) plugin: Option<(PluginName, Place)>,
    /// Where an error about the whole file stands.
    pub(crate) place: Place,
    pub(crate) contents: ShippedContents,
}

const FILE_KEYS: [&str; 5] = ["$schema", "default", "permission", "plugin", "set"];
const DEFAULT_KEYS: [&str; 3] = ["description", "permissions", "version"];
const SET_KEYS: [&str; 3] = ["description", "identifier", "permissions"];
const PERMISSION_KEYS: [&str; 6] = ["commands", "description", "identifier", "platforms", "scope", "version"];
const LIST_KEYS: [&str; 2] = ["allow", "deny"];

/// Reads a whole file.
pub(crate) fn read(source: &Source, root: &Node, findings: &mut Findings) -> Option<PermissionFile> {
    let tree = TreeReader { source };
    let before = findings.errors.len();
    let table = tree.table(root, "a permission file", &FILE_KEYS, findings)?;
    tree.texts(table, &["$schema"], findings);
    let start = tree.at(&(root.span.start..root.span.start));
    let contents = read_contents(tree, table, findings);
    // A key that isn't known may have been meant to be one of these.
    if findings.errors.len() == before
        && ["default", "permission", "set"].iter().all(|key| table.get(key).is_none())
    {
        findings.error(
            start.error("a permission file without \"default\", \"set\" or \"permission\" adds nothing"),
        );
    }
    let plugin = table.get("plugin").and_then(|node| {
        let text = tree.string(node, "\"plugin\"", findings)?;
        let location = tree.at(&node.span);
        match PluginName::parse(text) {
            Ok(name) => Some((name, Place::File(location))),
            Err(error) => {
                findings.error(location.error(format!("plugin {text:?}: {error}")));
                None
            }
        }
    });
    Some(PermissionFile { plugin, place: Place::File(start), contents })
}

/// Reads `default`, `set` and `permission` of a table.
pub(crate) fn read_contents(
    tree: TreeReader<'_>,
    table: Table<'_>,
    findings: &mut Findings,
) -> ShippedContents {
    let reader = ContentsReader { tree };
    let permissions = tree.list(table.get("permission"), "\"permission\"", findings);
    let permissions = permissions.iter().filter_map(|node| reader.permission(node, findings)).collect();
    let sets = tree.list(table.get("set"), "\"set\"", findings);
    let mut sets: Vec<ShippedSet> = sets.iter().filter_map(|node| reader.set(node, findings)).collect();
    sets.extend(table.get("default").and_then(|node| reader.default(node, findings)));
    ShippedContents { permissions, sets }
}

#[derive(Clone, Copy)]
struct ContentsReader<'a> {
    tree: TreeReader<'a>,
}

impl ContentsReader<'_> {
    fn default(self, node: &Node, findings: &mut Findings) -> Option<ShippedSet> {
        let table = self.tree.table(node, "\"default\"", &DEFAULT_KEYS, findings)?;
        self.version(table, findings);
        let place = Place::File(self.tree.at(&node.span));
        Some(ShippedSet {
            identifier: Written { text: DEFAULT.to_owned(), place },
            description: self.description(table, findings),
            members: self.names(table.get("permissions"), "\"permissions\"", findings),
        })
    }

    fn set(self, node: &Node, findings: &mut Findings) -> Option<ShippedSet> {
        let table = self.tree.table(node, "a set", &SET_KEYS, findings)?;
        let identifier = self.identifier(node, table, "set", findings);
        if table.get("permissions").is_none() {
            findings.error(self.tree.at(&node.span).error("a set without \"permissions\" contains nothing"));
        }
        Some(ShippedSet {
            description: self.description(table, findings),
            members: self.names(table.get("permissions"), "\"permissions\"", findings),
            identifier: identifier?,
        })
    }

    fn permission(self, node: &Node, findings: &mut Findings) -> Option<ShippedPermission> {
        let table = self.tree.table(node, "a permission", &PERMISSION_KEYS, findings)?;
        self.version(table, findings);
        let identifier = self.identifier(node, table, "permission", findings);
        let commands = table
            .get("commands")
            .and_then(|node| self.tree.table(node, "\"commands\"", &LIST_KEYS, findings))
            .unwrap_or(Table(&[]));
        let scope = table
            .get("scope")
            .and_then(|node| self.tree.table(node, "\"scope\"", &LIST_KEYS, findings))
            .map_or_else(ScopeLists::default, |table| scope_lists(self.tree, table, findings));
        let platforms = self.tree.platforms(table.get("platforms"), findings);
        Some(ShippedPermission {
            description: self.description(table, findings),
            allow: self.names(commands.get("allow"), "\"allow\"", findings),
            deny: self.names(commands.get("deny"), "\"deny\"", findings),
            scope,
            platforms: platforms.into_iter().flatten().collect(),
            identifier: identifier?,
        })
    }

    fn identifier(
        self,
        node: &Node,
        table: Table<'_>,
        what: &str,
        findings: &mut Findings,
    ) -> Option<Written> {
        let Some(identifier) = table.get("identifier") else {
            let location = self.tree.at(&(node.span.start..node.span.start));
            findings.error(location.error(format!("a {what} without \"identifier\"")));
            return None;
        };
        let text = self.tree.string(identifier, "\"identifier\"", findings)?.to_owned();
        Some(Written { text, place: Place::File(self.tree.at(&identifier.span)) })
    }

    fn names(self, node: Option<&Node>, what: &str, findings: &mut Findings) -> Vec<Written> {
        let names = self.tree.strings(node, what, findings);
        let written =
            |(text, location): (&str, _)| Written { text: text.to_owned(), place: Place::File(location) };
        names.into_iter().map(written).collect()
    }

    fn description(self, table: Table<'_>, findings: &mut Findings) -> String {
        let node = table.get("description");
        let text = node.and_then(|node| self.tree.string(node, "\"description\"", findings));
        text.unwrap_or_default().to_owned()
    }

    /// Tauri's files may carry one; it has no meaning yet, there or here.
    fn version(self, table: Table<'_>, findings: &mut Findings) {
        if let Some(node) = table.get("version")
            && !matches!(&node.value, NodeValue::Number(number) if number.as_u64().is_some_and(|n| n > 0))
        {
            findings.error(self.tree.at(&node.span).error("\"version\" is a whole number from 1"));
        }
    }
}
