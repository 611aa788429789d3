//! The policy that is always there, and the one of `--dev`, both written as capability files.
//!
//! Owns these texts. They are read by the same code as any file, so what is printed is what is in force.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::path::PathScope;
use super::registry::{OPERATE, Registry};
use super::scope::is_plain;
use super::source::PolicyError;

/// The plugins of which `--dev` gives what is written for them; of the program's own, and of those that peers of the same uid
/// provide, it gives every command.
const BUILT_IN: [&str; 3] = ["bench", "core", "fs"];

/// What `--dev` shares.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// The directory that `fs` may touch: absolute, links resolved, not `/`.
    pub directory: PathBuf,
}

impl DevOptions {
    /// The directory as text.
    ///
    /// # Errors
    /// It is the root directory, not absolute, or not UTF-8.
    pub(crate) fn checked_directory(&self) -> Result<&str, PolicyError> {
        let refuse = |why: &str| {
            let message = format!("{}: {why}", self.directory.display());
            PolicyError::unplaced("--dev", message)
                .with_help("start it in the directory that you want to share")
        };
        match self.directory.to_str() {
            None => Err(refuse("its name is not UTF-8")),
            Some(_) if self.directory == Path::new("/") => {
                Err(refuse("--dev would share every file of the machine"))
            }
            Some(text) if !is_plain(text) => Err(refuse("not an absolute path with its links resolved")),
            Some(text) => Ok(text),
        }
    }
}

/// The capability by which root and the daemon's own uid operate it.
pub(crate) fn operate_policy(registry: &Registry) -> String {
    let held = ["core:default", OPERATE].into_iter().filter(|identifier| registry.has_permission(identifier));
    capability(
        "operate",
        "Root and the daemon's own uid operate it. No file can take this away.",
        r#"["uid:0", "self"]"#,
        held.map(quoted),
        None,
    )
}

/// The capability that `--dev` adds; `directory` is checked. Plugins that peers of another uid provide are `foreign`.
pub(crate) fn dev_policy(directory: &str, registry: &Registry, foreign: &HashSet<&str>) -> String {
    let literal = PathScope::escape(directory.trim_end_matches('/'));
    let mut held = Vec::new();
    if registry.has_permission("fs:default") {
        let allow = format!("[{}, {}]", quoted(&literal), quoted(format!("{literal}/**")));
        held.push(format!("{{ identifier = \"fs:default\", allow = {allow} }}"));
    }
    if registry.has_permission("bench:default") {
        held.push(quoted("bench:default"));
    }
    let is_other = |plugin: &str| BUILT_IN.contains(&plugin) || foreign.contains(plugin);
    let is_own = |plugin: Option<&str>| plugin.is_none_or(|plugin| !is_other(plugin));
    let mut own: Vec<_> = registry.commands().filter(|command| is_own(command.plugin())).collect();
    own.sort_unstable();
    held.extend(own.into_iter().map(|command| quoted(command.permission_allow())));
    capability(
        "dev",
        "What --dev gives the uid that started the daemon.",
        r#"["self"]"#,
        held.into_iter(),
        Some("[\"*\"]"),
    )
}

fn capability(
    identifier: &str,
    description: &str,
    peers: &str,
    permissions: impl Iterator<Item = String>,
    provide: Option<&str>,
) -> String {
    let mut text = format!(
        "[[capabilities]]\nidentifier = {}\ndescription = {}\n",
        quoted(identifier),
        quoted(description)
    );
    let mut line = |key: &str, value: &str| {
        writeln!(text, "{key} = {value}").expect("a String takes any text");
    };
    line("peers", peers);
    let permissions: String = permissions.map(|permission| format!("  {permission},\n")).collect();
    line("permissions", &format!("[\n{permissions}]"));
    if let Some(provide) = provide {
        line("provide", provide);
    }
    text
}

/// `text` as a TOML basic string.
pub(crate) fn quoted(text: impl AsRef<str>) -> String {
    let mut out = String::from('"');
    for c in text.as_ref().chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)).expect("a String takes any text"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use invoked_proto::name::PluginName;

    use super::{DevOptions, quoted};
    use crate::authority::load::PasswdFiles;
    use crate::authority::{PeerFacts, PluginManifest, Policy, Verdict};

    #[test]
    fn dev_refuses_to_share_the_root() {
        for (path, why) in [
            ("/", "/: --dev would share every file of the machine"),
            ("relative", "relative: not an absolute path with its links resolved"),
            ("/a/../b", "/a/../b: not an absolute path with its links resolved"),
        ] {
            let error = DevOptions { directory: PathBuf::from(path) }.checked_directory().unwrap_err();
            assert_eq!(error.message(), why);
        }
        assert!(DevOptions { directory: PathBuf::from("/srv/x") }.checked_directory().is_ok());
    }

    #[test]
    fn dev_gives_every_command_that_is_the_programs_own() {
        let plugin = |name| PluginManifest::new(PluginName::parse(name).unwrap()).command("x");
        let (dev, users) = (DevOptions { directory: PathBuf::from("/srv/x") }, PasswdFiles::default());
        let policy =
            [plugin("core"), plugin("fs"), plugin("tags"), PluginManifest::application().command("greet")]
                .into_iter()
                .fold(Policy::new(1, &users).dev(dev), Policy::manifest);
        let compiled = policy.compile().unwrap();
        let own = compiled.snapshot.peer(&PeerFacts::new(1, 1, []));
        let allowed = |name: &str| matches!(own.authorize(name), Verdict::Allow(_));
        assert_eq!(["core.x", "fs.x", "tags.x", "greet"].map(allowed), [false, false, true, true]);
    }

    #[test]
    fn quoted_text_is_read_back_by_toml() {
        for text in ["", "plain", "a\"b\\c", "tab\tnewline\nbell\u{7}del\u{7f}", "é 💡"] {
            let table: toml::Table = format!("x = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }
}
