//! Grants as a daemon gives them to a provider: the resolved scopes of one command, as one JSON text.
//!
//! Owns the form of that text (SPEC.md, "Grants"). Everything in it is the daemon's word; a text that can't be read gives no
//! grant, so its calls are refused.

use std::sync::Arc;

use invoked_proto::name::CommandName;
use serde::Deserialize;
use serde_json::Value;

use super::grants::{Grant, GrantId};
use super::scope::{GrantScope, ScopeItem, ScopeLists};
use super::source::Source;

/// The text of GRANT. What else stands in it is for later versions.
#[derive(Debug, Deserialize)]
struct Written {
    command: String,
    /// Absent: everything. Empty: nothing. Else any of these.
    #[serde(default)]
    allow: Option<Vec<Value>>,
    #[serde(default)]
    deny: Vec<Value>,
    #[serde(default)]
    global: Option<WrittenGlobal>,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// What scope-only permissions of the plugin say.
#[derive(Debug, Deserialize)]
struct WrittenGlobal {
    #[serde(default)]
    allow: Vec<Value>,
    #[serde(default)]
    deny: Vec<Value>,
}

/// Reads the scopes of a grant. `is_scoped` says which commands look at theirs.
///
/// # Errors
/// What is wrong with the text, for the log.
pub(crate) fn read(
    id: u64,
    scopes: &[u8],
    is_scoped: impl FnOnce(&CommandName) -> bool,
) -> Result<Grant, String> {
    let written: Written =
        serde_json::from_slice(scopes).map_err(|error| format!("the scopes of grant {id}: {error}"))?;
    let command = CommandName::parse(&written.command)
        .map_err(|error| format!("grant {id}, command {:?}: {error}", written.command))?;
    let capability: Arc<str> = written.capabilities.join(", ").into();
    let location = Source::named("the daemon's policy").at(0..0);
    let scope = |permission: String, lists| {
        Arc::new(GrantScope {
            capability: Arc::clone(&capability),
            permission: permission.into(),
            location: location.clone(),
            lists,
            given_up: false,
        })
    };
    let own = ScopeLists { allow: written.allow.map(|values| items(&values)), deny: items(&written.deny) };
    let own = scope(command.permission_allow(), own);
    let global = written.global.map(|global| {
        let lists = ScopeLists { allow: Some(items(&global.allow)), deny: items(&global.deny) };
        scope(command.plugin().unwrap_or_default().to_owned(), lists)
    });
    let is_scoped = is_scoped(&command);
    Ok(Grant::given(GrantId::new(id), command, is_scoped, own, global.into_iter().collect()))
}

fn items(values: &[Value]) -> Vec<ScopeItem> {
    values.iter().map(|value| ScopeItem::new(value.clone(), None)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::read;
    use crate::authority::{Grant, PathScope, PrefixScope};

    fn grant(text: &str) -> Grant {
        read(1, text.as_bytes(), |_| true).unwrap()
    }

    fn allows(grant: &Grant, path: &str) -> bool {
        grant.check::<PathScope>(Path::new(path)).is_allowed()
    }

    #[test]
    fn the_three_states_of_a_scope_are_kept_apart() {
        let everything = grant(r#"{"command": "thumbs.make", "deny": ["/srv/private/**"]}"#);
        let nothing = grant(r#"{"command": "thumbs.make", "allow": []}"#);
        let some = grant(r#"{"command": "thumbs.make", "allow": ["/srv/*.png"], "deny": ["/srv/x.png"]}"#);
        let verdicts = |path| [&everything, &nothing, &some].map(|grant| allows(grant, path));
        assert_eq!(verdicts("/srv/a.png"), [true, false, true]);
        assert_eq!(verdicts("/srv/x.png"), [true, false, false]);
        assert_eq!(verdicts("/srv/private/a.png"), [false, false, false]);
        assert_eq!(verdicts("/etc/a.png"), [true, false, false]);
    }

    #[test]
    fn what_is_given_to_the_whole_plugin_counts_for_each_command() {
        let text = r#"{"command": "web.get", "allow": ["https://a/"],
            "global": {"allow": ["https://b/"], "deny": ["https://a/secret"]}, "capabilities": ["one"], "later": 1}"#;
        let grant = grant(text);
        let allowed = |url: &str| grant.check::<PrefixScope>(url).is_allowed();
        assert_eq!(
            ["https://a/x", "https://b/x", "https://a/secret", "https://c/"].map(allowed),
            [true, true, false, false]
        );
        assert_eq!(grant.global_scopes()[0].capability(), "one");
    }

    #[test]
    fn a_command_that_looks_at_no_scope_is_not_held_to_one() {
        let grant = read(1, br#"{"command": "web.get", "allow": []}"#, |_| false).unwrap();
        assert!(grant.check::<PrefixScope>("anything").is_allowed());
    }

    #[test]
    fn a_text_that_is_no_grant_gives_none() {
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"command": ""}"#,
            r#"{"command": "a.b", "allow": "x"}"#,
            r#"{"command": "A b"}"#,
        ] {
            assert!(read(1, wrong.as_bytes(), |_| true).is_err(), "{wrong}");
        }
    }
}
