//! Capabilities that a program adds while its daemon runs.
//!
//! Owns how they are written: by a builder, or as the text of a file. They become the same tree that files are read
//! into, so they are judged by the same rules; their errors have a name where those of files have a line.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::capability::Platform;
use super::document::{Format, Node, NodeValue};
use super::source::{Findings, PolicyError, Source};

/// Builds a capability at run time, with what a capability file may say.
///
/// No step fails by itself and none panics: what is wrong with one is told by [`build`](Self::build), or by
/// [`RuntimeAuthority::add_capability`](crate::RuntimeAuthority::add_capability), together with what only the whole
/// policy can tell: unknown permissions and users, scope values of the wrong form.
///
/// ```
/// use invoked::authority::CapabilityBuilder;
///
/// let capability = CapabilityBuilder::new("pictures")
///     .description("What the importer may read while it runs.")
///     .peer("user:ana")
///     .permission("core:default")
///     .permission_scoped("fs:allow-read-file", vec!["$PEER_HOME/Pictures/**"], Vec::new())
///     .build()?;
/// assert_eq!(capability.identifier(), "pictures");
/// # Ok::<(), Vec<invoked::authority::PolicyError>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CapabilityBuilder {
    identifier: String,
    keys: Map<String, Value>,
    wrong: Vec<String>,
}

/// A capability that can be added to a running daemon.
///
/// Made by a [`CapabilityBuilder`], or from the text of a capability file that has one capability, TOML or JSON, as
/// `include_str!` gives it.
pub trait RuntimeCapability {
    /// The capability, of which the form is right.
    ///
    /// # Errors
    /// Everything that is wrong with its form.
    fn build(self) -> Result<AddedCapability, Vec<PolicyError>>;
}

/// A capability without a file.
#[derive(Clone, Debug)]
pub struct AddedCapability {
    identifier: Arc<str>,
    source: Source,
    written: Written,
}

#[derive(Clone, Debug)]
enum Written {
    /// In the source.
    Text(Format),
    Tree(Arc<Value>),
}

impl CapabilityBuilder {
    /// A capability that so far matches nobody and grants nothing.
    pub fn new(identifier: impl Into<String>) -> Self {
        let identifier = identifier.into();
        let mut keys = Map::new();
        keys.insert("identifier".to_owned(), identifier.clone().into());
        CapabilityBuilder { identifier, keys, wrong: Vec::new() }
    }

    /// For people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.keys.insert("description".to_owned(), Value::String(text.into()));
        self
    }

    /// Adds peers: `"user:ana"`, `"uid:1000"`, `"group:dev"`, `"self"`, `"everyone"`, `"@name"` of a file, and so on.
    pub fn peer(self, matcher: impl Into<String>) -> Self {
        self.push("peers", Value::String(matcher.into()))
    }

    /// Adds peers of which all of several things must hold, as a table in a file says it: `[("user", "ana"), ("exe",
    /// "/usr/bin/x")]`.
    pub fn peer_with<'a>(mut self, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut table = Map::new();
        for (key, value) in fields {
            if table.insert(key.to_owned(), value.into()).is_some() {
                self.wrong.push(format!("a peer with two of {key:?}"));
            }
        }
        self.push("peers", Value::Object(table))
    }

    /// Adds a permission, as its plugin scopes it.
    pub fn permission(self, identifier: impl Into<String>) -> Self {
        self.push("permissions", Value::String(identifier.into()))
    }

    /// Adds a permission with scope values. An empty `allowed` allows no argument, as `allow = []` in a file.
    pub fn permission_scoped<T: Serialize>(
        mut self,
        identifier: impl Into<String>,
        allowed: Vec<T>,
        denied: Vec<T>,
    ) -> Self {
        let identifier = identifier.into();
        let mut entry = json!({ "identifier": identifier });
        for (key, values) in [("allow", allowed), ("deny", denied)] {
            match serde_json::to_value(values) {
                Ok(values) => entry[key] = values,
                Err(error) => self.wrong.push(format!("a value of {key:?} of \"{identifier}\": {error}")),
            }
        }
        self.push("permissions", entry)
    }

    /// Limits it to a platform; several add up. Without any it holds on all.
    pub fn platform(self, platform: Platform) -> Self {
        self.push("platforms", platform.name().into())
    }

    /// Lets its peers serve a plugin, or `*`.
    pub fn provide(self, plugin: impl Into<String>) -> Self {
        self.push("provide", Value::String(plugin.into()))
    }

    /// Sets what its peers may hold at once, by a name that `limits` in a file may have.
    pub fn limit(mut self, name: impl Into<String>, value: u64) -> Self {
        self.keys.entry("limits").or_insert_with(|| json!({}))[name.into()] = value.into();
        self
    }

    /// The capability.
    ///
    /// # Errors
    /// Everything that is wrong with the steps.
    pub fn build(self) -> Result<AddedCapability, Vec<PolicyError>> {
        let source = Source::named(format!("capability {:?} (added at run time)", self.identifier));
        if !self.wrong.is_empty() {
            let error = |text| PolicyError::unplaced(source.name(), text);
            return Err(self.wrong.into_iter().map(error).collect());
        }
        Ok(AddedCapability {
            identifier: self.identifier.into(),
            source,
            written: Written::Tree(Arc::new(Value::Object(self.keys))),
        })
    }

    fn push(mut self, key: &str, value: Value) -> Self {
        let list = self.keys.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(value);
        }
        self
    }
}

impl RuntimeCapability for CapabilityBuilder {
    fn build(self) -> Result<AddedCapability, Vec<PolicyError>> {
        CapabilityBuilder::build(self)
    }
}

impl RuntimeCapability for AddedCapability {
    fn build(self) -> Result<AddedCapability, Vec<PolicyError>> {
        Ok(self)
    }
}

impl<T: AsRef<str>> RuntimeCapability for T {
    fn build(self) -> Result<AddedCapability, Vec<PolicyError>> {
        let text = self.as_ref();
        let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::Toml };
        let source = Source::new("capability added at run time", None, text);
        let mut findings = Findings::default();
        let Some(root) = Node::parse(&source, format, &mut findings) else { return Err(findings.errors) };
        let refuse = |message: &str| Err(vec![source.at(0..0).error(message)]);
        let NodeValue::Table(entries) = &root.value else { return refuse("a capability is a table") };
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.value);
        match find("identifier") {
            _ if find("capabilities").is_some() => refuse("one capability is added at a time"),
            Some(NodeValue::String(identifier)) => Ok(AddedCapability {
                identifier: identifier.as_str().into(),
                source: source.clone(),
                written: Written::Text(format),
            }),
            _ => refuse("a capability without \"identifier\""),
        }
    }
}

impl AddedCapability {
    /// What it is called, and removed by.
    #[must_use]
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The tree that a file would be read into.
    pub(crate) fn parse(&self, findings: &mut Findings) -> Option<Node> {
        match &self.written {
            Written::Text(format) => Node::parse(&self.source, *format, findings),
            Written::Tree(value) => Some(Node::unplaced(value)),
        }
    }
}
