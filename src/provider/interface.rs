//! What a provider registers: one OpenRPC document for each plugin, generated from the table of commands.
//!
//! Owns the writing of it; `authority::interface` reads it at the daemon.

use invoked_proto::name::PluginName;
use serde_json::{Map, Value, json};

use crate::authority::{Permission, PermissionSet, Platform, PluginManifest, ScopeDefault, ScopeKind};
use crate::ipc::{Argument, Command};

/// The interface of one plugin, in `version`.
///
/// # Errors
/// What is wrong with a permission text that the plugin ships.
pub(super) fn document(
    plugin: &PluginName,
    version: &str,
    commands: &[Command],
    manifest: &PluginManifest,
) -> Result<Value, String> {
    let methods: Vec<Value> = commands.iter().map(|command| method(plugin, command)).collect();
    let mut own = Map::from_iter([("plugin".to_owned(), json!(plugin.as_str()))]);
    let (mut permissions, mut sets, mut default) = (Vec::new(), Vec::new(), None);
    permissions.extend(manifest.permissions.iter().map(permission));
    sets.extend(manifest.sets.iter().map(set));
    if !manifest.default.is_empty() {
        default = Some(json!({ "permissions": manifest.default }));
    }
    for text in &manifest.permission_texts {
        let mut table = read(text).map_err(|error| format!("permissions of plugin {plugin}: {error}"))?;
        take_list(&mut table, "permission", &mut permissions);
        take_list(&mut table, "set", &mut sets);
        if let Some(value) = table.remove("default") {
            default = Some(value);
        }
    }
    for (key, list) in [("permission", permissions), ("set", sets)] {
        if !list.is_empty() {
            own.insert(key.to_owned(), list.into());
        }
    }
    own.extend(default.map(|value| ("default".to_owned(), value)));
    own.extend(scope_kind(&manifest.scope).map(|value| ("scope".to_owned(), value)));
    own.insert("defaultScope".to_owned(), default_scope(&manifest.default_scope));
    Ok(json!({
        "openrpc": "1.3.2",
        "info": { "title": plugin.as_str(), "version": version },
        "methods": methods,
        "x-invoked": own,
    }))
}

fn method(plugin: &PluginName, command: &Command) -> Value {
    let (summary, description) = match command.docs.split_once('\n') {
        Some((summary, rest)) => (summary, rest.trim()),
        None => (command.docs, ""),
    };
    let mut method = json!({
        "name": format!("{}.{}", plugin.as_str(), command.name()),
        "paramStructure": "by-name",
        "params": command.arguments.iter().map(param).collect::<Vec<_>>(),
        "result": { "name": "result", "schema": true },
        "x-invoked": {
            "scope": command.is_scoped(),
            "raw": command.takes_raw,
            "runs": command.execution.name(),
        },
    });
    for (key, text) in [("summary", summary), ("description", description)] {
        if !text.is_empty() {
            method[key] = text.into();
        }
    }
    method
}

fn param(argument: &Argument) -> Value {
    let mut schema = schema(argument.kind);
    schema.insert("title".to_owned(), argument.kind.into());
    json!({ "name": argument.key, "required": !argument.optional, "schema": schema })
}

/// A JSON Schema of the types that every language has; of any other, everything. It is titled by the type as it is written.
fn schema(kind: &str) -> Map<String, Value> {
    let kind: String = kind.chars().filter(|c| !c.is_whitespace()).collect();
    let inner = |name: &str| kind.strip_prefix(name)?.strip_prefix('<')?.strip_suffix('>');
    let of = |value: Value| match value {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    if let Some(item) = inner("Vec") {
        return of(json!({ "type": "array", "items": schema(item) }));
    }
    if let Some(item) = inner("Option") {
        return of(json!({ "anyOf": [schema(item), { "type": "null" }] }));
    }
    of(match kind.as_str() {
        "String" | "&str" | "&'_str" => json!({ "type": "string" }),
        "bool" => json!({ "type": "boolean" }),
        "f32" | "f64" => json!({ "type": "number" }),
        "u8" | "u16" | "u32" | "u64" | "usize" => json!({ "type": "integer", "minimum": 0 }),
        "i8" | "i16" | "i32" | "i64" | "isize" => json!({ "type": "integer" }),
        _ => Value::Null,
    })
}

fn permission(permission: &Permission) -> Value {
    let mut scope = json!({ "deny": permission.scope_deny });
    if let Some(allow) = &permission.scope_allow {
        scope["allow"] = allow.clone().into();
    }
    let mut written = json!({
        "identifier": permission.identifier,
        "description": permission.description,
        "commands": { "allow": permission.allow, "deny": permission.deny },
    });
    if permission.scope_allow.is_some() || !permission.scope_deny.is_empty() {
        written["scope"] = scope;
    }
    if !permission.platforms.is_empty() {
        let names: Vec<&str> = permission.platforms.iter().copied().map(Platform::name).collect();
        written["platforms"] = names.into();
    }
    written
}

fn set(set: &PermissionSet) -> Value {
    json!({
        "identifier": set.identifier,
        "description": set.description,
        "permissions": set.permissions,
    })
}

/// `None` where only the commands know.
fn scope_kind(kind: &ScopeKind) -> Option<Value> {
    match kind {
        ScopeKind::Path => Some("path".into()),
        ScopeKind::Glob => Some("glob".into()),
        ScopeKind::Prefix => Some("prefix".into()),
        ScopeKind::Schema(schema) => Some(schema.as_value().clone()),
        ScopeKind::Opaque | ScopeKind::Checked(_) => None,
    }
}

fn default_scope(default: &ScopeDefault) -> Value {
    match default {
        ScopeDefault::Everything => "everything".into(),
        ScopeDefault::Nothing => "nothing".into(),
        ScopeDefault::Items(items) => items.clone().into(),
    }
}

/// A permission file: TOML, or JSON if it begins with a brace.
fn read(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    toml::from_str(text).map_err(|error| error.to_string())
}

fn take_list(table: &mut Map<String, Value>, key: &str, into: &mut Vec<Value>) {
    match table.remove(key) {
        Some(Value::Array(list)) => into.extend(list),
        // The daemon says what is wrong with it.
        Some(other) => into.push(other),
        None => {}
    }
}
