//! Tauri's own cases: its files are read as they are, and resolve to what its snapshots say.
//!
//! Intended differences, each where the test meets it:
//!
//! 1. *Windows are peers.* The window `main` is the peer that `[peers]` calls so; a command of the snapshot is compared for
//!    each peer whose name its patterns match, so that patterns are compared by what they match and not by their text.
//! 2. *The global scope is a peer's*, not the process's: what the snapshot gives every window is here what the peers
//!    whose capabilities name it hold, and all of them together hold as much.
//! 3. *Commands are known.* Tauri takes any name that a permission writes; here a manifest has them, which this test
//!    makes from the names in the files.
//! 4. *Variables.* `$RESOURCE`, `$APP`, `$CONFIG` and `$DOWNLOAD` are no variables of path scopes here, so the scopes of
//!    these plugins are their commands' own business. With path scopes the files are refused where they name them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::debug::Debug;
use super::{Users, lines, plugin};
use crate::authority::{
    CompiledPolicy, Format, GrantScope, PeerFacts, Platform, PluginManifest, Policy, PolicyError, Remote,
    ScopeDefault, ScopeKind, Source,
};
use invoked_proto::name::PluginName;

/// The peers that stand for windows and webviews, with their uids.
const WINDOWS: [(&str, u32); 4] = [("main", 2001), ("external", 2002), ("child1", 2003), ("child2", 2004)];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tauri-acl")
}

fn sorted(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> (Source, Format) {
    let text = std::fs::read_to_string(path).unwrap();
    let format = if path.extension().is_some_and(|e| e == "json") { Format::Json } else { Format::Toml };
    let name = path.file_name().unwrap().to_str().unwrap();
    (Source::new(name, Some(path.to_owned()), text), format)
}

/// The permission files of a plugin, and a manifest with the commands that they name.
fn plugin_of(name: &str, scope: &ScopeKind) -> (PluginManifest, Vec<(Source, Format)>) {
    let files: Vec<_> =
        sorted(&fixtures().join("plugins").join(name)).iter().map(|path| read(path)).collect();
    let mut commands = BTreeSet::new();
    for (source, _) in &files {
        let table: toml::Table = source.text().parse().unwrap();
        for permission in table.get("permission").and_then(|p| p.as_array()).into_iter().flatten() {
            let lists = permission.get("commands").and_then(|c| c.as_table()).into_iter().flatten();
            let names = lists.filter_map(|(_, list)| list.as_array()).flatten();
            commands.extend(names.map(|name| name.as_str().unwrap().to_owned()));
        }
    }
    let manifest = plugin(name).scope(scope.clone(), ScopeDefault::Everything);
    (commands.into_iter().fold(manifest, PluginManifest::scoped_command), files)
}

fn load(case: &Path, platform: Platform, scope: &ScopeKind) -> Result<CompiledPolicy, Vec<PolicyError>> {
    let mut policy = Policy::new(5, &Users).platform(platform);
    let required = std::fs::read_to_string(case.join("required-plugins.json")).unwrap();
    for name in serde_json::from_str::<Vec<String>>(&required).unwrap() {
        let (manifest, files) = plugin_of(&name, scope);
        policy = policy.manifest(manifest);
        for (source, format) in files {
            policy = policy.permission_file(source, format, Some(PluginName::parse(&name).unwrap()));
        }
    }
    for path in sorted(case).iter().filter(|path| !path.ends_with("required-plugins.json")) {
        let (source, format) = read(path);
        policy = policy.document(source, format);
    }
    let peers: String = WINDOWS.iter().map(|(name, uid)| format!("{name} = \"uid:{uid}\"\n")).collect();
    policy.document(Source::new("peers.toml", None, format!("[peers]\n{peers}")), Format::Toml).compile()
}

/// A scope's two lists, with their values as JSON text; nothing where neither is written.
type Lists = Option<(Vec<String>, Vec<String>)>;

/// What a peer may call, and each grant's scope, in no order.
type Commands = BTreeMap<String, Vec<Lists>>;

fn lists(scope: &GrantScope) -> Lists {
    let text = |items: &[crate::authority::ScopeItem]| items.iter().map(|i| i.value().to_string()).collect();
    let lists = scope.lists();
    (!lists.is_absent()).then(|| (lists.allow.as_deref().map(text).unwrap_or_default(), text(&lists.deny)))
}

fn ours(policy: &CompiledPolicy, facts: &PeerFacts) -> Commands {
    let grants = policy.snapshot.peer(facts);
    let mut commands = Commands::new();
    for grant in grants.grants() {
        let mut scopes: Vec<Lists> = grant.scopes().iter().map(|scope| lists(scope)).collect();
        scopes.sort();
        commands.insert(grant.command().to_string(), scopes);
    }
    commands
}

/// What the snapshot gives a window's calls, local ones or those from `remote`.
fn theirs(snapshot: &Debug, window: &str, remote: Option<&str>) -> Commands {
    let mut commands = Commands::new();
    for (name, resolved) in snapshot.field("allowed_commands").map() {
        let mut scopes: Vec<Lists> = Vec::new();
        for command in resolved.list() {
            let named = ["windows", "webviews"].iter().flat_map(|key| command.field(key).list());
            let mut patterns = named.map(|pattern| pattern.field("original").text().to_owned());
            let context = match (command.field("context"), remote) {
                (Debug::Named(name, _), None) => name == "Local",
                // The pattern's last field is the text that it was read from.
                (context, Some(realm)) => context.last_text() == Some(realm),
                (other, None) => panic!("{other:?} is no context"),
            };
            if context && patterns.any(|pattern| pattern == window) {
                let scope = command.field("scope_id").some().map(|id| {
                    snapshot.field("command_scope").map().iter().find(|(key, _)| key == id).unwrap().1.clone()
                });
                scopes.push(scope.as_ref().map(scope_lists));
            }
        }
        scopes.sort();
        if !scopes.is_empty() {
            let name = name.text().strip_prefix("plugin:").unwrap().replace('|', ".");
            commands.insert(name, scopes);
        }
    }
    commands
}

fn scope_lists(scope: &Debug) -> (Vec<String>, Vec<String>) {
    let text = |key| scope.field(key).list().iter().map(|value| value.json().to_string()).collect();
    (text("allow"), text("deny"))
}

/// The platform that each snapshot was made on; those at the top are of every one.
fn snapshots(case: &str) -> Vec<(Platform, Debug)> {
    let name = format!("acl_tests__tests__{case}.snap");
    let folders = [
        ("", Platform::Linux),
        ("", Platform::MacOs),
        ("", Platform::Windows),
        ("linux", Platform::Linux),
        ("macOS", Platform::MacOs),
        ("windows", Platform::Windows),
    ];
    let mut found = Vec::new();
    for (folder, platform) in folders {
        let Ok(text) = std::fs::read_to_string(fixtures().join("snapshots").join(folder).join(&name)) else {
            continue;
        };
        let resolved = text.splitn(3, "---\n").nth(2).unwrap();
        found.push((platform, debug::parse(resolved)));
    }
    found
}

#[test]
fn each_case_resolves_to_what_its_snapshot_says() {
    let (mut cases, mut compared, mut grants) = (0, 0, 0);
    for case in sorted(&fixtures().join("capabilities")) {
        let name = case.file_name().unwrap().to_str().unwrap();
        let snapshots = snapshots(name);
        assert_eq!(snapshots.len(), 3, "{name} has a snapshot for each platform");
        for (platform, snapshot) in snapshots {
            let policy =
                load(&case, platform, &ScopeKind::Opaque).unwrap_or_else(|e| panic!("{name}: {}", lines(&e)));
            assert_eq!(lines(&policy.warnings), "", "{name}");
            assert!(snapshot.field("denied_commands").map().is_empty(), "{name} denies no command");
            for (window, uid) in WINDOWS {
                let local = PeerFacts::new(uid, uid, []);
                let realm = "https://tauri.app";
                let remote = Remote { realm: realm.to_owned(), account: "anybody".to_owned() };
                assert_eq!(
                    ours(&policy, &local),
                    theirs(&snapshot, window, None),
                    "{name} {platform:?} {window}"
                );
                assert_eq!(
                    ours(&policy, &local.clone().on_behalf_of(remote)),
                    theirs(&snapshot, window, Some(realm)),
                    "{name} {platform:?} {window} from {realm}"
                );
                compared += 2;
                grants += ours(&policy, &local).values().map(Vec::len).sum::<usize>();
            }
            assert_eq!(our_globals(&policy), their_globals(&snapshot), "{name} {platform:?}");
            cases += 1;
        }
    }
    assert_eq!((cases, compared), (8 * 3, 8 * 3 * 4 * 2));
    assert!(grants >= 3 * 20, "only {grants} grants were compared");
}

/// By plugin, the values of all peers together; see difference 2.
fn our_globals(policy: &CompiledPolicy) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    let mut globals: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for plugin in ["fs", "os", "ping"] {
        for (_, uid) in WINDOWS {
            let local = PeerFacts::new(uid, uid, []);
            let remote = Remote { realm: "https://tauri.app".to_owned(), account: "anybody".to_owned() };
            for facts in [local.clone(), local.on_behalf_of(remote)] {
                let grants = policy.snapshot.peer(&facts);
                for (allow, deny) in grants.global_scopes(plugin).iter().filter_map(|scope| lists(scope)) {
                    let all = globals.entry(plugin.to_owned()).or_default();
                    all.0.extend(allow);
                    all.1.extend(deny);
                }
            }
        }
    }
    globals
}

fn their_globals(snapshot: &Debug) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    let globals = snapshot.field("global_scope").map();
    let globals = globals.iter().map(|(plugin, scope)| (plugin.text().to_owned(), scope_lists(scope)));
    globals.filter(|(_, (allow, deny))| !allow.is_empty() || !deny.is_empty()).collect()
}

/// Difference 4.
#[test]
fn variables_that_are_only_tauris_are_refused_where_a_path_scope_names_them() {
    let case = fixtures().join("capabilities/scope");
    let errors = lines(&load(&case, Platform::Linux, &ScopeKind::Path).unwrap_err());
    for (place, variable) in
        [("read-resources.toml:5:1", "RESOURCE"), ("scope.toml:4:1", "APP"), ("scope.toml:10:1", "DOWNLOAD")]
    {
        let found = errors.lines().any(|line| {
            line.starts_with(&format!("{place}: ")) && line.contains(&format!("unknown variable ${variable}"))
        });
        assert!(found, "{place}: {variable}\n{errors}");
    }
    assert!(!errors.contains("$TEMP") && !errors.contains("$HOME"), "{errors}");
}

/// What `{:#?}` prints, read back.
mod debug {
    use serde_json::{Map, Value};

    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum Debug {
        Text(String),
        /// A number, or a character.
        Atom(String),
        List(Vec<Debug>),
        Map(Vec<(Debug, Debug)>),
        /// A struct or a variant; the names of a tuple's fields are empty.
        Named(String, Vec<(String, Debug)>),
    }

    impl Debug {
        pub(super) fn field(&self, name: &str) -> &Debug {
            let Debug::Named(_, fields) = self else { panic!("{self:?} has no fields") };
            &fields.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no field {name}")).1
        }

        pub(super) fn list(&self) -> &[Debug] {
            let Debug::List(items) = self else { panic!("{self:?} is no list") };
            items
        }

        pub(super) fn map(&self) -> &[(Debug, Debug)] {
            let Debug::Map(entries) = self else { panic!("{self:?} is no map") };
            entries
        }

        pub(super) fn text(&self) -> &str {
            let Debug::Text(text) = self else { panic!("{self:?} is no text") };
            text
        }

        /// What is in a `Some`.
        pub(super) fn some(&self) -> Option<&Debug> {
            match self {
                Debug::Named(name, fields) if name == "Some" => Some(&fields[0].1),
                Debug::Named(name, _) if name == "None" => None,
                other => panic!("{other:?} is no option"),
            }
        }

        /// The text that stands last in it.
        pub(super) fn last_text(&self) -> Option<&str> {
            match self {
                Debug::Text(text) => Some(text),
                Debug::Named(_, fields) => fields.last().and_then(|(_, value)| value.last_text()),
                _ => None,
            }
        }

        /// A value of Tauri's `Value`, which has the variants that are met here.
        pub(super) fn json(&self) -> Value {
            match self {
                Debug::Named(name, fields) if name == "Map" => {
                    let entries = fields[0].1.map().iter().map(|(k, v)| (k.text().to_owned(), v.json()));
                    Value::Object(entries.collect::<Map<_, _>>())
                }
                Debug::Named(name, fields) if name == "String" => Value::from(fields[0].1.text()),
                other => panic!("{other:?} is no value of a scope"),
            }
        }
    }

    pub(super) fn parse(text: &str) -> Debug {
        let mut reader = Reader { rest: text };
        let value = reader.value();
        assert!(reader.rest.trim().is_empty(), "text after the value: {}", reader.rest);
        value
    }

    struct Reader<'t> {
        rest: &'t str,
    }

    impl Reader<'_> {
        fn value(&mut self) -> Debug {
            match self.peek() {
                '"' => Debug::Text(self.quoted('"')),
                '\'' => Debug::Atom(self.quoted('\'')),
                '[' => Debug::List(self.until(']', Reader::value)),
                '{' => Debug::Map(self.until('}', |reader| {
                    let key = reader.value();
                    reader.expect(':');
                    (key, reader.value())
                })),
                c if c.is_ascii_digit() || c == '-' => Debug::Atom(self.word()),
                _ => {
                    let name = self.word();
                    match self.peek() {
                        '{' => Debug::Named(
                            name,
                            self.until('}', |reader| {
                                let key = reader.word();
                                reader.expect(':');
                                (key, reader.value())
                            }),
                        ),
                        '(' => Debug::Named(name, self.until(')', |reader| (String::new(), reader.value()))),
                        _ => Debug::Named(name, Vec::new()),
                    }
                }
            }
        }

        /// The items up to `end`, each followed by a comma.
        fn until<T>(&mut self, end: char, item: impl Fn(&mut Self) -> T) -> Vec<T> {
            self.rest = &self.rest[1..];
            let mut items = Vec::new();
            while self.peek() != end {
                items.push(item(self));
                if self.peek() != end {
                    self.expect(',');
                }
            }
            self.expect(end);
            items
        }

        fn peek(&mut self) -> char {
            self.rest = self.rest.trim_start();
            self.rest.chars().next().unwrap_or('\0')
        }

        fn expect(&mut self, wanted: char) {
            assert_eq!(self.peek(), wanted, "{}", &self.rest[..self.rest.len().min(60)]);
            self.rest = &self.rest[1..];
        }

        fn word(&mut self) -> String {
            self.rest = self.rest.trim_start();
            let end = self
                .rest
                .find(|c: char| !c.is_alphanumeric() && !"_-.".contains(c))
                .unwrap_or(self.rest.len());
            assert!(end > 0, "a word is expected: {}", &self.rest[..self.rest.len().min(60)]);
            let (word, rest) = self.rest.split_at(end);
            self.rest = rest;
            word.to_owned()
        }

        fn quoted(&mut self, quote: char) -> String {
            let mut text = String::new();
            let mut chars = self.rest[1..].char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => text.extend(chars.next().map(|(_, c)| c)),
                    c if c == quote => {
                        self.rest = &self.rest[at + 2..];
                        return text;
                    }
                    c => text.push(c),
                }
            }
            panic!("a quote without its end");
        }
    }
}
