//! JSON Schemas of the files that people write, for their editors.
//!
//! Owns what of the strict reading a schema can say: keys, forms, the identifiers there are with what each is for, and the
//! values that each one's scope takes. Whether a user exists, or a file may be trusted, is the loader's to say, whose word
//! counts: what these schemas refuse it refuses too, and it refuses more. Draft 7, which most editors know.

use std::collections::{BTreeMap, BTreeSet};

use invoked_proto::name::CommandName;
use serde_json::{Map, Value, json};

use super::limits;
use super::registry::{PermissionInfo, PermissionKind, Registry};
use super::{Platform, matcher};

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// The form of an identifier, as a regular expression.
const IDENTIFIER: &str = "^([A-Za-z0-9_.:-]+:)?[A-Za-z0-9_-]+$";

impl Registry {
    /// A JSON Schema of capability files, with a description of each permission and set that is known, and scopes of the
    /// form that each takes. `summary` says what a command does, by its canonical name.
    #[must_use]
    pub fn capability_schema(&self, summary: &dyn Fn(&str) -> Option<String>) -> Value {
        let mut definitions = self.shared_definitions(summary);
        definitions.insert("capability".to_owned(), capability());
        definitions.insert("file".to_owned(), file());
        definitions.insert("matcher".to_owned(), matcher());
        definitions.insert("permission".to_owned(), self.entry());
        let names_peers = json!({ "properties": { "peers": { "type": "object" } }, "required": ["peers"] });
        json!({
            "$schema": DRAFT,
            "title": "A capability file of invoked",
            "description": "Who may call what, with which arguments.",
            "if": { "type": "array" },
            "then": { "items": reference("capability") },
            "else": {
                "if": { "anyOf": [{ "required": ["capabilities"] }, names_peers] },
                "then": reference("file"),
                "else": reference("capability"),
            },
            "definitions": definitions,
        })
    }

    /// A JSON Schema of permission files: the sets and permissions that are added to a plugin.
    #[must_use]
    pub fn permission_schema(&self, summary: &dyn Fn(&str) -> Option<String>) -> Value {
        let mut definitions = self.shared_definitions(summary);
        definitions.insert("member".to_owned(), member());
        definitions.insert("shippedPermission".to_owned(), shipped_permission());
        let members =
            json!({ "type": "array", "items": reference("member"), "description": "What it contains." });
        json!({
            "$schema": DRAFT,
            "title": "A permission file of invoked",
            "description": "Permissions and sets of a plugin, beside those that its commands have.",
            "type": "object",
            "properties": {
                "$schema": { "type": "string" },
                "plugin": {
                    "type": "string", "minLength": 1,
                    "description": "The plugin; without it the directory that the file is in names it.",
                },
                "default": {
                    "type": "object",
                    "description": "The set that is called default.",
                    "properties": { "description": text(), "permissions": members, "version": version() },
                    "additionalProperties": false,
                },
                "set": {
                    "type": "array",
                    "description": "Named sets of permissions.",
                    "items": {
                        "type": "object",
                        "properties": { "identifier": own_identifier(), "description": text(), "permissions": members },
                        "required": ["identifier", "permissions"],
                        "additionalProperties": false,
                    },
                },
                "permission": {
                    "type": "array",
                    "description": "Permissions of commands, of scopes, or of both.",
                    "items": reference("shippedPermission"),
                },
            },
            "additionalProperties": false,
            "anyOf": [{ "required": ["default"] }, { "required": ["set"] }, { "required": ["permission"] }],
            "allOf": self.typed_plugins(),
            "definitions": definitions,
        })
    }

    /// What both kinds of file refer to.
    fn shared_definitions(&self, summary: &dyn Fn(&str) -> Option<String>) -> Map<String, Value> {
        let mut definitions = Map::new();
        definitions.insert("identifier".to_owned(), self.identifier(summary));
        definitions.insert("platforms".to_owned(), platforms());
        let scoped: BTreeSet<Option<&str>> =
            self.permission_infos().flat_map(|info| info.scoped_plugins()).collect();
        for plugin in scoped {
            let name = scope_name(plugin);
            let schema = rebased(self.scope_schema(plugin), &format!("#/definitions/{name}"));
            definitions.insert(name, schema);
        }
        definitions
    }

    /// Every identifier, with what it is for.
    fn identifier(&self, summary: &dyn Fn(&str) -> Option<String>) -> Value {
        let mut known: Vec<Value> = self
            .permission_infos()
            .map(|info| json!({ "const": info.identifier, "description": described(&info, summary) }))
            .collect();
        let plugins: BTreeSet<&str> = self.permission_infos().filter_map(|info| info.plugin).collect();
        let here: Vec<String> = plugins.into_iter().map(|name| name.replace('.', "\\.")).collect();
        known.push(json!({
            "type": "string",
            "pattern": "^[A-Za-z0-9_.:-]+:[A-Za-z0-9_-]+$",
            "not": { "pattern": format!("^({}):[^:]*$", here.join("|")) },
            "description": "Of a plugin that is not here: pending, until a peer provides it.",
        }));
        json!({ "description": "A permission, or a set of them.", "oneOf": known })
    }

    /// An entry of `permissions`. The values of a scope have the form of the plugin whose commands look at them; where none
    /// does, a scope is an error.
    fn entry(&self) -> Value {
        let mut unscoped = Vec::new();
        let mut by_plugin: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for info in self.permission_infos() {
            let plugins = info.scoped_plugins();
            if plugins.is_empty() {
                unscoped.push(info.identifier);
            }
            for plugin in plugins {
                by_plugin.entry(plugin).or_default().push(info.identifier);
            }
        }
        let is_one_of = |identifiers: &[&str]| json!({ "properties": { "identifier": { "enum": identifiers } }, "required": ["identifier"] });
        let typed = by_plugin.iter().map(|(plugin, identifiers)| {
            let list = json!({ "items": reference(&scope_name(*plugin)) });
            json!({ "if": is_one_of(identifiers), "then": { "properties": { "allow": list, "deny": list } } })
        });
        let never = (!unscoped.is_empty()).then(|| {
            let none = json!({ "properties": { "allow": false, "deny": false } });
            json!({ "if": is_one_of(&unscoped), "then": none })
        });
        let rules: Vec<Value> = typed.chain(never).collect();
        let mut table = json!({
            "properties": {
                "identifier": reference("identifier"),
                "allow": list("The arguments that it allows. Without it, what the plugin says; [] is none."),
                "deny": list("Arguments that are denied, whatever allows them."),
            },
            "additionalProperties": false,
            "required": ["identifier"],
        });
        if !rules.is_empty() {
            table["allOf"] = Value::Array(rules);
        }
        json!({
            "description": "A permission or set, alone or with a scope.",
            "if": { "type": "object" },
            "then": table,
            "else": reference("identifier"),
        })
    }

    /// What a permission file may say that names its plugin: commands that it has, scope values of its form.
    fn typed_plugins(&self) -> Vec<Value> {
        let mut by_plugin: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for command in self.commands() {
            if let Some(plugin) = command.plugin() {
                by_plugin.entry(plugin).or_default().push(command.command());
            }
        }
        let rules = by_plugin.into_iter().map(|(plugin, mut commands)| {
            commands.sort_unstable();
            let names = json!({ "items": { "enum": commands } });
            let mut then = json!({ "commands": { "properties": { "allow": names, "deny": names } } });
            if self.permission_infos().any(|info| info.scoped_plugins().contains(&Some(plugin))) {
                let values = json!({ "items": reference(&scope_name(Some(plugin))) });
                then["scope"] = json!({ "properties": { "allow": values, "deny": values } });
            }
            json!({
                "if": { "properties": { "plugin": { "const": plugin } }, "required": ["plugin"] },
                "then": { "properties": { "permission": { "items": { "properties": then } } } },
            })
        });
        // A list of rules may not be empty.
        rules.chain([Value::Bool(true)]).collect()
    }
}

/// What is shipped with a permission about it; of an implicit one also what its command does.
fn described(info: &PermissionInfo<'_>, summary: &dyn Fn(&str) -> Option<String>) -> String {
    let (allows, denies) = (names_in(info.allows()), names_in(info.denies()));
    if !info.description.is_empty() {
        return match (&allows[..], info.kind) {
            ([one], PermissionKind::Command) => match summary(one).filter(|text| !text.is_empty()) {
                Some(text) => format!("{} {text}", info.description),
                None => info.description.to_owned(),
            },
            _ => info.description.to_owned(),
        };
    }
    match (allows.is_empty(), denies.is_empty()) {
        (false, true) => format!("Allows {}.", allows.join(", ")),
        (true, false) => format!("Denies {}, whatever allows it.", denies.join(", ")),
        (false, false) => format!("Allows {}; denies {}.", allows.join(", "), denies.join(", ")),
        (true, true) => "Allows and denies no command.".to_owned(),
    }
}

/// Each once, in order.
fn names_in<'r>(commands: impl Iterator<Item = &'r CommandName>) -> Vec<&'r str> {
    let names: BTreeSet<&str> = commands.map(CommandName::as_str).collect();
    names.into_iter().collect()
}

fn capability() -> Value {
    let required = |keys: &[&str]| -> Value {
        json!({ "anyOf": keys.iter().map(|key| json!({ "required": [key] })).collect::<Vec<_>>() })
    };
    let limits: Map<String, Value> =
        limits::names().map(|name| (name.to_owned(), json!({ "type": "integer", "minimum": 1 }))).collect();
    json!({
        "type": "object",
        "description": "What some peers may do.",
        "properties": {
            "$schema": { "type": "string" },
            "identifier": {
                "type": "string", "pattern": "^[A-Za-z0-9_.:-]+$",
                "description": "Its name, unique among all files.",
            },
            "description": text(),
            "peers": {
                "type": "array", "minItems": 1, "items": reference("matcher"),
                "description": "Whom it applies to: peers that any of these matches.",
            },
            "windows": names("Named peers, as Tauri's files have them; * and ? stand for any text."),
            "webviews": names("The same."),
            "permissions": {
                "type": "array", "items": reference("permission"), "description": "What they may do.",
            },
            "provide": {
                "type": "array", "items": { "type": "string", "minLength": 1 },
                "description": "Plugins that these peers may serve; \"*\" for any.",
            },
            "platforms": reference("platforms"),
            "limits": {
                "type": "object", "properties": limits, "additionalProperties": false,
                "description": "What such a peer may hold at once, in place of what the daemon's configuration says.",
            },
            "lanes": {
                "type": "array", "items": { "enum": limits::lanes().collect::<Vec<_>>() },
                "description": "Lanes that bodies may take.",
            },
            "local": {
                "type": "boolean",
                "description": "Whether it is for calls of the peers themselves, as it is unless false.",
            },
            "remote": {
                "type": "object", "additionalProperties": false, "required": ["urls"],
                "description": "Calls that these peers, bridges, pass on.",
                "properties": {
                    "urls": { "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1 } },
                    "accounts": { "type": "array", "items": { "type": "string" } },
                },
            },
        },
        "additionalProperties": false,
        "required": ["identifier"],
        "allOf": [
            required(&["permissions", "provide", "limits", "lanes"]),
            required(&["peers", "windows", "webviews"]),
        ],
    })
}

fn file() -> Value {
    json!({
        "type": "object",
        "description": "Named peers, and capabilities.",
        "properties": {
            "$schema": { "type": "string" },
            "peers": {
                "type": "object",
                "description": "Peers that any file may name, as \"@name\".",
                "propertyNames": { "minLength": 1 },
                "additionalProperties": {
                    "if": { "type": "array" },
                    "then": { "items": reference("matcher") },
                    "else": reference("matcher"),
                },
            },
            "capabilities": { "type": "array", "items": reference("capability") },
        },
        "additionalProperties": false,
    })
}

fn matcher() -> Value {
    let name = || json!({ "type": "string", "minLength": 1 });
    let id = || json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+$" }] });
    let beside_a_user = json!({ "anyOf": [{ "required": ["user"] }, { "required": ["uid"] }] });
    let mut properties = json!({
        "user": name(), "uid": id(), "group": name(), "gid": id(),
        "exe": {
            "type": "string", "minLength": 1,
            "description": "The file that its process runs; a pattern as of path scopes.",
        },
        "unit": {
            "type": "string", "minLength": 1,
            "description": "The unit that its process is in; * and ? stand for any text.",
        },
    });
    // The reader's list is the one that counts.
    properties
        .as_object_mut()
        .expect("an object")
        .retain(|key, _| matcher::SUPPORTED.contains(&key.as_str()));
    json!({
        "description": "A peer: a word, or a table whose fields must all match.",
        "if": { "type": "object" },
        "then": {
            "minProperties": 1,
            "properties": properties,
            "additionalProperties": false,
            "dependencies": { "exe": beside_a_user, "unit": beside_a_user },
        },
        "else": {
            "type": "string",
            "pattern": "^(everyone|self|user:.+|group:.+|uid:[0-9]+|gid:[0-9]+|@.+)$",
        },
    })
}

fn shipped_permission() -> Value {
    let commands = |description: &str| json!({ "type": "array", "items": { "type": "string" }, "description": description });
    json!({
        "type": "object",
        "properties": {
            "identifier": own_identifier(),
            "description": text(),
            "version": version(),
            "commands": {
                "type": "object",
                "properties": {
                    "allow": commands("Commands of the plugin that it allows."),
                    "deny": commands("Commands of the plugin that it denies, whatever allows them."),
                },
                "additionalProperties": false,
            },
            "scope": {
                "type": "object",
                "properties": {
                    "allow": list("Arguments that whoever holds it may use."),
                    "deny": list("Arguments that whoever holds it may not use."),
                },
                "additionalProperties": false,
            },
            "platforms": reference("platforms"),
        },
        "required": ["identifier"],
        "additionalProperties": false,
    })
}

/// A member of a set: one of its plugin's, or one that has its plugin's name before it.
fn member() -> Value {
    let own =
        json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+$", "description": "Of the same plugin." });
    json!({ "anyOf": [own, reference("identifier")] })
}

fn own_identifier() -> Value {
    json!({
        "type": "string", "pattern": IDENTIFIER,
        "description": "Its name; the plugin's, and a colon, stand before it where it is used.",
    })
}

fn platforms() -> Value {
    json!({
        "type": "array", "items": { "enum": Platform::NAMES.map(|(name, _)| name) },
        "description": "Where it applies; everywhere without it.",
    })
}

fn names(description: &str) -> Value {
    let items = json!({ "type": "string", "minLength": 1 });
    json!({ "type": "array", "minItems": 1, "items": items, "description": description })
}

fn list(description: &str) -> Value {
    json!({ "type": "array", "description": description })
}

fn text() -> Value {
    json!({ "type": "string", "description": "For people." })
}

fn version() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

fn scope_name(plugin: Option<&str>) -> String {
    plugin.map_or_else(|| "scope".to_owned(), |plugin| format!("scope:{plugin}"))
}

/// A schema that stands at `place` of another document: its references lead there.
fn rebased(schema: Value, place: &str) -> Value {
    match schema {
        Value::Array(items) => items.into_iter().map(|item| rebased(item, place)).collect(),
        Value::Object(map) => {
            let moved = map.into_iter().map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(text)) => {
                    let moved = text.strip_prefix('#').map_or(text.clone(), |rest| format!("{place}{rest}"));
                    (key, Value::String(moved))
                }
                // An identifier of its own would take the references along.
                ("$id" | "$schema", _) => ("$comment".to_owned(), Value::from("part of another schema")),
                // Values, not schemas.
                ("const" | "enum" | "default" | "examples", value) => (key, value),
                (_, value) => (key, rebased(value, place)),
            });
            Value::Object(moved.collect())
        }
        other => other,
    }
}
