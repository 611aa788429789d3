//! Interfaces that providers register while the daemon runs.
//!
//! Owns what the daemon knows of such an interface: which plugin and major version it is of, and what its author wrote of each
//! command. It is read by the same code as an interface file, and as strictly.

use std::sync::Arc;

use foldhash::HashMap;
use invoked_proto::Text;
use invoked_proto::name::{CommandName, PluginName};
use serde_json::{Value, json};

use super::interface;
use super::source::{Findings, PolicyError, Source};

/// What a provider serves.
#[derive(Debug)]
pub struct ProvidedInterface {
    plugin: PluginName,
    major: u64,
    commands: HashMap<CommandName, Arc<ProvidedCommand>>,
    source: Source,
}

/// A command that a provider serves.
#[derive(Debug)]
pub struct ProvidedCommand {
    name: CommandName,
    text: Text,
    docs: String,
    arguments: Vec<Value>,
    takes_raw: bool,
    scoped: bool,
}

impl ProvidedInterface {
    /// Reads an interface, an OpenRPC document as in interface files.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<PolicyError>> {
        let source = Source::new("the interface", None, text);
        let mut findings = Findings::default();
        let shipped = interface::read(&source, &mut findings);
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let major = major(&document, &source, &mut findings);
        let Some((shipped, plugin)) = shipped
            .and_then(|shipped| Some((shipped.name.clone()?, shipped)))
            .map(|(name, shipped)| (shipped, name))
            .filter(|_| findings.errors.is_empty())
        else {
            findings.sort();
            return Err(findings.errors);
        };
        let methods = document["methods"].as_array().map_or(&[][..], Vec::as_slice);
        let mut commands = HashMap::default();
        for command in &shipped.commands {
            // The authority reports ill-formed names and those that are used twice.
            let Ok(name) = CommandName::new(Some(&plugin), &command.name.text) else { continue };
            let is_it = |method: &&Value| method["name"].as_str() == Some(name.as_str());
            let method = methods.iter().find(is_it).unwrap_or(&Value::Null);
            let provided = ProvidedCommand::new(name.clone(), method, command.scoped);
            commands.insert(name, Arc::new(provided));
        }
        Ok(ProvidedInterface { plugin, major, commands, source })
    }

    /// The plugin.
    #[must_use]
    pub fn plugin(&self) -> &str {
        self.plugin.as_str()
    }

    /// The major version of it.
    #[must_use]
    pub fn major(&self) -> u64 {
        self.major
    }

    /// The command of this canonical name.
    #[must_use]
    pub fn command(&self, name: &str) -> Option<&Arc<ProvidedCommand>> {
        self.commands.get(name)
    }

    /// All commands, in no order.
    pub fn commands(&self) -> impl Iterator<Item = &Arc<ProvidedCommand>> {
        self.commands.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Its text.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

impl ProvidedCommand {
    fn new(name: CommandName, method: &Value, scoped: bool) -> Self {
        let text_of = |key: &str| method[key].as_str().unwrap_or("").trim();
        let docs = match (text_of("summary"), text_of("description")) {
            ("", description) => description.to_owned(),
            (summary, "") => summary.to_owned(),
            (summary, description) => format!("{summary}\n\n{description}"),
        };
        let params = method["params"].as_array().map_or(&[][..], Vec::as_slice);
        let argument = |param: &Value| {
            let schema = &param["schema"];
            json!({
                "key": param["name"],
                "type": schema["title"].as_str().or_else(|| schema["type"].as_str()).unwrap_or("any"),
                "optional": param["required"].as_bool() != Some(true),
            })
        };
        ProvidedCommand {
            text: Text::from(name.as_str()),
            arguments: params.iter().map(argument).collect(),
            takes_raw: method["x-invoked"]["raw"].as_bool() == Some(true),
            docs,
            scoped,
            name,
        }
    }

    /// The canonical name.
    #[must_use]
    pub fn name(&self) -> &CommandName {
        &self.name
    }

    pub(crate) fn text(&self) -> Text {
        self.text.clone()
    }

    /// What its author wrote of it; the first line is a summary.
    #[must_use]
    pub fn docs(&self) -> &str {
        &self.docs
    }

    /// Its arguments: `key`, `type` and `optional` of each.
    #[must_use]
    pub fn arguments(&self) -> &[Value] {
        &self.arguments
    }

    /// Whether it says that its body is raw.
    #[must_use]
    pub fn takes_raw(&self) -> bool {
        self.takes_raw
    }

    /// Whether it looks at scopes.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.scoped
    }
}

/// The major version that `info.version` says; 0 if it says nothing.
fn major(document: &Value, source: &Source, findings: &mut Findings) -> u64 {
    let version = &document["info"]["version"];
    if version.is_null() {
        return 0;
    }
    let digits = version.as_str().and_then(|version| version.split('.').next());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(major) => major,
        None => {
            let error = source.at(0..1).error(format!("the version {version} does not begin with a number"));
            findings.error(error.with_help("\"info\": { \"version\": \"1.0.0\" }"));
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::ProvidedInterface;

    fn interface(version: serde_json::Value) -> String {
        json!({
            "openrpc": "1.3.2",
            "info": { "title": "text", "version": version },
            "methods": [
                { "name": "text.upper", "summary": "Makes it loud.", "description": "All of it.",
                  "params": [{ "name": "text", "required": true, "schema": { "type": "string" } },
                             { "name": "locale", "schema": { "title": "Locale" } }] },
                { "name": "text.lower", "x-invoked": { "scope": true, "raw": true } },
            ],
            "x-invoked": { "plugin": "text" },
        })
        .to_string()
    }

    #[test]
    fn an_interface_says_what_is_served() {
        let read = ProvidedInterface::parse(&interface(json!("2.1.0"))).unwrap();
        assert_eq!((read.plugin(), read.major(), read.len()), ("text", 2, 2));
        let upper = read.command("text.upper").unwrap();
        assert_eq!(upper.docs(), "Makes it loud.\n\nAll of it.");
        assert_eq!(
            upper.arguments(),
            [
                json!({ "key": "text", "type": "string", "optional": false }),
                json!({ "key": "locale", "type": "Locale", "optional": true }),
            ]
        );
        assert!(!upper.is_scoped() && !upper.takes_raw());
        let lower = read.command("text.lower").unwrap();
        assert!(lower.is_scoped() && lower.takes_raw());
        assert!(read.command("text.other").is_none());
    }

    #[test]
    fn its_major_is_that_of_its_version() {
        for (version, major) in
            [(json!(null), 0), (json!("0.9.1"), 0), (json!("1"), 1), (json!("12.0.0-rc.1"), 12)]
        {
            assert_eq!(ProvidedInterface::parse(&interface(version)).unwrap().major(), major);
        }
        for version in [json!("v1"), json!(""), json!(1), json!("99999999999999999999999")] {
            let errors = ProvidedInterface::parse(&interface(version)).unwrap_err();
            assert!(errors[0].to_string().contains("does not begin with a number"), "{errors:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        for (text, says) in [
            ("{", "the interface"),
            ("{}", "without \"x-invoked\""),
            (r#"{"x-invoked": {"plugin": "text"}, "methods": [{"name": "fs.read"}]}"#, "is not of plugin"),
        ] {
            let errors = ProvidedInterface::parse(text).unwrap_err();
            assert!(errors[0].to_string().contains(says), "{errors:?}");
        }
    }
}
