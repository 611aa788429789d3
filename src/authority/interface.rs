//! Interface files: manifests of plugins that a provider serves, installed so that policies for it are checked before
//! it comes.
//!
//! Owns what the authority reads of such a manifest, which is an OpenRPC document: the names of methods, and what
//! `x-invoked` says of permissions and scopes. Everything else is for clients, and only has to be JSON.

use std::sync::Arc;

use invoked_proto::name::{CommandName, PluginName};

use super::document::{Format, Node, NodeValue};
use super::permission_file::read_contents;
use super::reader::{Table, TreeReader};
use super::schema::ScopeSchema;
use super::scope::{ScopeDefault, ScopeKind};
use super::shipped::{Place, ShippedCommand, ShippedPlugin, Written};
use super::source::{Findings, Source};

const FILE_KEYS: [&str; 7] =
    ["$schema", "components", "externalDocs", "info", "methods", "openrpc", "x-invoked"];
const OWN_KEYS: [&str; 6] = ["default", "defaultScope", "permission", "plugin", "scope", "set"];

/// Reads a whole file.
pub(crate) fn read(source: &Source, findings: &mut Findings) -> Option<ShippedPlugin> {
    let root = Node::parse(source, Format::Json, findings)?;
    let tree = TreeReader { source };
    let table = tree.table(&root, "an interface", &FILE_KEYS, findings)?;
    let start = tree.at(&(root.span.start..root.span.start + 1));
    let Some(own) = table.get("x-invoked") else {
        let error = start.error("an interface without \"x-invoked\"");
        findings.error(error.with_help("it names the plugin: \"x-invoked\": { \"plugin\": \"NAME\" }"));
        return None;
    };
    let own = tree.table(own, "\"x-invoked\"", &OWN_KEYS, findings)?;
    let (name, place) = plugin(tree, own, findings)?;
    let methods = tree.list(table.get("methods"), "\"methods\"", findings);
    Some(ShippedPlugin {
        commands: methods.iter().filter_map(|node| method(tree, node, &name, findings)).collect(),
        contents: read_contents(tree, own, findings),
        scope: scope_kind(tree, own.get("scope"), findings),
        default_scope: default_scope(tree, own.get("defaultScope"), findings),
        name: Some(name),
        place,
    })
}

fn plugin(tree: TreeReader<'_>, own: Table<'_>, findings: &mut Findings) -> Option<(PluginName, Place)> {
    let Some(node) = own.get("plugin") else {
        let at = own.0.first().map_or(0..0, |entry| entry.key_span.clone());
        findings.error(tree.at(&at).error("\"x-invoked\" without \"plugin\""));
        return None;
    };
    let text = tree.string(node, "\"plugin\"", findings)?;
    let location = tree.at(&node.span);
    match PluginName::parse(text) {
        Ok(name) => Some((name, Place::File(location))),
        Err(error) => {
            findings.error(location.error(format!("plugin {text:?}: {error}")));
            None
        }
    }
}

/// A method, called as on the wire: `thumbs.resize`. It looks at scopes where its `x-invoked` has `"scope": true`.
fn method(
    tree: TreeReader<'_>,
    node: &Node,
    plugin: &PluginName,
    findings: &mut Findings,
) -> Option<ShippedCommand> {
    let NodeValue::Table(entries) = &node.value else {
        findings.error(tree.wrong(node, "a method", "a table"));
        return None;
    };
    let table = Table(entries);
    let Some(name) = table.get("name") else {
        findings.error(tree.at(&(node.span.start..node.span.start + 1)).error("a method without \"name\""));
        return None;
    };
    let text = tree.string(name, "\"name\"", findings)?;
    let location = tree.at(&name.span);
    let scoped = table.get("x-invoked").and_then(|own| match &own.value {
        NodeValue::Table(entries) => Table(entries).get("scope"),
        _ => {
            findings.error(tree.wrong(own, "\"x-invoked\"", "a table"));
            None
        }
    });
    let scoped =
        scoped.and_then(|node| tree.boolean(node, "\"scope\" of a method", findings)).unwrap_or(false);
    let inner = match CommandName::parse(text) {
        Err(error) => Err(format!("method {text:?}: {error}")),
        Ok(command) => match text.strip_prefix(plugin.as_str()).and_then(|rest| rest.strip_prefix('.')) {
            Some(inner) if command.plugin() == Some(plugin.as_str()) => Ok(inner.to_owned()),
            _ => Err(format!(
                "method \"{text}\" is not of plugin \"{plugin}\": its name would be \"{plugin}.…\""
            )),
        },
    };
    match inner {
        Ok(text) => Some(ShippedCommand { name: Written { text, place: Place::File(location) }, scoped }),
        Err(message) => {
            findings.error(location.error(message));
            None
        }
    }
}

/// `"path"`, `"glob"`, `"prefix"`, or a JSON Schema.
fn scope_kind(tree: TreeReader<'_>, node: Option<&Node>, findings: &mut Findings) -> ScopeKind {
    let Some(node) = node else { return ScopeKind::Opaque };
    let location = tree.at(&node.span);
    match &node.value {
        NodeValue::String(kind) => match kind.as_str() {
            "path" => ScopeKind::Path,
            "glob" => ScopeKind::Glob,
            "prefix" => ScopeKind::Prefix,
            _ => {
                let error = location.error(format!("unknown kind of scope \"{kind}\""));
                findings.error(error.did_you_mean(kind, ["path", "glob", "prefix"]));
                ScopeKind::Opaque
            }
        },
        NodeValue::Table(_) | NodeValue::Bool(_) => match ScopeSchema::new(&node.to_json()) {
            Ok(schema) => ScopeKind::Schema(Arc::new(schema)),
            Err(error) => {
                findings.error(location.error(format!("the schema of scopes: {error}")));
                ScopeKind::Opaque
            }
        },
        _ => {
            findings.error(tree.wrong(node, "\"scope\"", "a kind or a JSON Schema"));
            ScopeKind::Opaque
        }
    }
}

/// What a grant without a scope may touch: nothing, unless the interface says otherwise.
fn default_scope(tree: TreeReader<'_>, node: Option<&Node>, findings: &mut Findings) -> ScopeDefault {
    let Some(node) = node else { return ScopeDefault::Nothing };
    match &node.value {
        NodeValue::String(text) if text == "everything" => ScopeDefault::Everything,
        NodeValue::String(text) if text == "nothing" => ScopeDefault::Nothing,
        NodeValue::Array(items) => ScopeDefault::Items(items.iter().map(Node::to_json).collect()),
        _ => {
            findings.error(tree.wrong(
                node,
                "\"defaultScope\"",
                "\"everything\", \"nothing\" or a list of values",
            ));
            ScopeDefault::Nothing
        }
    }
}
