//! A second evaluator, written from the rules of the model and nothing else: it knows neither snapshots nor indexes
//! nor the order of files, and goes through everything for each question.

use super::{OWN, plugin};
use crate::authority::{
    PeerFacts, Permission, Platform, PluginManifest, ProcessFact, ScopeDefault, ScopeKind,
};

/// A capability as the reference has it; [`toml`](Self::toml) writes it down for the other evaluator.
#[derive(Clone, Debug)]
pub(super) struct Capability {
    pub(super) peers: Vec<Matcher>,
    /// Patterns over the names of [`NAMED`].
    pub(super) windows: Vec<&'static str>,
    pub(super) entries: Vec<Entry>,
    /// For calls of peers themselves, of `https://a.example`, of neither.
    pub(super) local: bool,
    pub(super) remote: bool,
    /// Where it applies; everywhere when empty. The policies of these tests are Linux's.
    pub(super) platforms: Vec<&'static str>,
}

/// `[peers]`, in a file of its own.
pub(super) const NAMED: [(&str, &[Matcher]); 3] = [
    ("main", &[Matcher::Uid(1000)]),
    ("side-1", &[Matcher::Both(1001, 100)]),
    ("side-2", &[Matcher::OwnUid, Matcher::Gid(7)]),
];
/// Patterns over them, with the names that they match, by hand.
pub(super) const WINDOWS: [(&str, &[&str]); 4] =
    [("main", &["main"]), ("side-*", &["side-1", "side-2"]), ("*-[!1]", &["side-2"]), ("?ain", &["main"])];

#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Uid(u32),
    Gid(u32),
    Both(u32, u32),
    OwnUid,
    Everyone,
    /// The daemon's own uid, running this file.
    Exe(&'static str),
    /// The daemon's own uid, in this unit.
    Unit(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) permission: &'static Shipped,
    pub(super) allow: Option<Vec<&'static str>>,
    pub(super) deny: Vec<&'static str>,
}

/// One identifier of the test's manifests, with what it stands for, sets written out.
#[derive(Debug)]
pub(super) struct Shipped {
    pub(super) identifier: &'static str,
    pub(super) takes_scope: bool,
    parts: &'static [Part],
}

#[derive(Debug)]
struct Part {
    plugin: &'static str,
    allow: &'static [&'static str],
    deny: &'static [&'static str],
    scope_allow: Option<&'static [&'static str]>,
    scope_deny: &'static [&'static str],
}

const NONE: Part = Part { plugin: "", allow: &[], deny: &[], scope_allow: None, scope_deny: &[] };
const P_A: Part = Part { plugin: "p", allow: &["p.a"], ..NONE };
const P_B: Part = Part { plugin: "p", allow: &["p.b"], ..NONE };
const P_C: Part = Part { plugin: "p", allow: &["p.c"], ..NONE };
const NOT_A: Part = Part { plugin: "p", deny: &["p.a"], ..NONE };
const MIXED: Part = Part { plugin: "p", allow: &["p.a", "p.c"], deny: &["p.b"], ..NONE };
const PUBLIC: Part =
    Part { plugin: "p", allow: &["p.a"], scope_allow: Some(&["/x"]), scope_deny: &["/z/1"], ..NONE };
const SCOPE: Part = Part { plugin: "p", ..NONE };
const HIDE: Part = Part { plugin: "p", scope_deny: &["/y"], ..NONE };
const DOCS: Part = Part { plugin: "p", scope_allow: Some(&["/z/*"]), scope_deny: &["/z/2"], ..NONE };
const Q_DOCS: Part = Part { plugin: "q", scope_allow: Some(&["/x"]), ..NONE };
const Q_A: Part = Part { plugin: "q", allow: &["q.a"], ..NONE };
const GREET: Part = Part { allow: &["greet"], ..NONE };
const PING: Part = Part { plugin: "core", allow: &["core.ping"], ..NONE };
const RELOAD: Part = Part { plugin: "core", allow: &["core.reload"], ..NONE };
const NOT_PING: Part = Part { plugin: "core", deny: &["core.ping"], ..NONE };
const NOT_STOP: Part = Part { plugin: "core", deny: &["core.provide"], ..NONE };
const PROVIDE: Part = Part { plugin: "core", allow: &["core.provide"], ..NONE };

pub(super) static SHIPPED: [Shipped; 23] = [
    Shipped { identifier: "p:allow-a", takes_scope: true, parts: &[P_A] },
    Shipped { identifier: "p:allow-b", takes_scope: true, parts: &[P_B] },
    Shipped { identifier: "p:allow-c", takes_scope: false, parts: &[P_C] },
    Shipped { identifier: "p:deny-a", takes_scope: false, parts: &[NOT_A] },
    Shipped { identifier: "p:mixed", takes_scope: true, parts: &[MIXED] },
    Shipped { identifier: "p:public", takes_scope: true, parts: &[PUBLIC] },
    Shipped { identifier: "p:scope", takes_scope: true, parts: &[SCOPE] },
    Shipped { identifier: "p:hide", takes_scope: true, parts: &[HIDE] },
    Shipped { identifier: "p:default", takes_scope: true, parts: &[P_A, P_C] },
    Shipped { identifier: "p:all", takes_scope: true, parts: &[P_A, P_C, P_B, PUBLIC, HIDE] },
    Shipped { identifier: "p:docs", takes_scope: true, parts: &[DOCS] },
    Shipped { identifier: "p:read-docs", takes_scope: true, parts: &[P_B, DOCS] },
    Shipped { identifier: "p:elsewhere", takes_scope: false, parts: &[] },
    Shipped { identifier: "p:partly", takes_scope: true, parts: &[P_A] },
    Shipped { identifier: "q:across", takes_scope: true, parts: &[Q_A, Q_DOCS, P_C, HIDE] },
    Shipped { identifier: "q:allow-a", takes_scope: true, parts: &[Q_A] },
    Shipped { identifier: "allow-greet", takes_scope: false, parts: &[GREET] },
    Shipped { identifier: "core:default", takes_scope: false, parts: &[PING] },
    Shipped { identifier: "core:operate", takes_scope: false, parts: &[PING, RELOAD] },
    Shipped { identifier: "core:deny-ping", takes_scope: false, parts: &[NOT_PING] },
    Shipped { identifier: "core:deny-provide", takes_scope: false, parts: &[NOT_STOP] },
    Shipped { identifier: "core:allow-provide", takes_scope: false, parts: &[PROVIDE] },
    Shipped { identifier: "core:allow-reload", takes_scope: false, parts: &[RELOAD] },
];

pub(super) const COMMANDS: [&str; 9] =
    ["p.a", "p.b", "p.c", "q.a", "greet", "core.ping", "core.reload", "core.provide", "p.unknown"];
const SCOPED: [&str; 3] = ["p.a", "p.b", "q.a"];
pub(super) const PATTERNS: [&str; 5] = ["/x", "/y", "/z/*", "/**", "$PEER_HOME/f"];
pub(super) const PATHS: [&str; 7] = ["/x", "/y", "/z/1", "/z/2", "/home/ana/f", "/home/bob/f", "/z"];

/// The manifests that [`SHIPPED`] describes.
pub(super) fn manifests() -> [PluginManifest; 4] {
    let permission = |identifier: &str, allow: &[&str], deny: &[&str]| Permission {
        identifier: identifier.to_owned(),
        allow: allow.iter().map(|&c| c.to_owned()).collect(),
        deny: deny.iter().map(|&c| c.to_owned()).collect(),
        ..Permission::default()
    };
    let public = Permission {
        scope_allow: Some(vec!["/x".into()]),
        scope_deny: vec!["/z/1".into()],
        ..permission("public", &["a"], &[])
    };
    let docs = Permission {
        scope_allow: Some(vec!["/z/*".into()]),
        scope_deny: vec!["/z/2".into()],
        ..permission("docs", &[], &[])
    };
    let elsewhere = Permission {
        platforms: vec![Platform::Windows, Platform::MacOs],
        ..permission("elsewhere", &["c"], &["a"])
    };
    let here = Permission { platforms: vec![Platform::Linux], ..permission("here", &["a"], &[]) };
    let q_docs = Permission { scope_allow: Some(vec!["/x".into()]), ..permission("docs", &[], &[]) };
    let hide = Permission { scope_deny: vec!["/y".into()], ..permission("hide", &[], &[]) };
    [
        plugin("p")
            .scoped_command("a")
            .scoped_command("b")
            .command("c")
            .permission(permission("mixed", &["a", "c"], &["b"]))
            .permission(public)
            .permission(permission("scope", &[], &[]))
            .permission(hide)
            .permission(docs)
            .permission(elsewhere)
            .permission(here)
            .set("partly", "", ["here", "elsewhere"])
            .set("read-docs", "", ["allow-b", "docs"])
            .set("all", "", ["default", "allow-b", "public", "hide"])
            .default_set(["allow-a", "allow-c"])
            .scope(ScopeKind::Path, ScopeDefault::Nothing),
        plugin("q")
            .scoped_command("a")
            .permission(q_docs)
            .set("across", "", ["allow-a", "docs", "p:allow-c", "p:hide"])
            .scope(ScopeKind::Path, ScopeDefault::Everything),
        plugin("core").command("ping").command("reload").command("provide").default_set(["allow-ping"]).set(
            "operate",
            "",
            ["default", "allow-reload"],
        ),
        PluginManifest::application().command("greet"),
    ]
}

impl Capability {
    pub(super) fn toml(&self, identifier: &str) -> String {
        let list = |values: &[&str]| values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ");
        let peers: Vec<String> = self.peers.iter().map(Matcher::toml).collect();
        let entries: Vec<String> = self
            .entries
            .iter()
            .map(|entry| {
                let allow = entry.allow.as_ref().map(|allow| format!(", allow = [{}]", list(allow)));
                let deny = (!entry.deny.is_empty()).then(|| format!(", deny = [{}]", list(&entry.deny)));
                let (allow, deny) = (allow.unwrap_or_default(), deny.unwrap_or_default());
                format!("{{ identifier = \"{}\"{allow}{deny} }}", entry.permission.identifier)
            })
            .collect();
        let mut text = format!("identifier = \"{identifier}\"\npermissions = [{}]\n", entries.join(", "));
        if !peers.is_empty() {
            text.push_str(&format!("peers = [{}]\n", peers.join(", ")));
        }
        if !self.windows.is_empty() {
            text.push_str(&format!("windows = [{}]\n", list(&self.windows)));
        }
        if !self.platforms.is_empty() {
            text.push_str(&format!("platforms = [{}]\n", list(&self.platforms)));
        }
        if self.remote {
            text.push_str("remote = { urls = [\"https://*.example\"] }\n");
        }
        text.push_str(&format!("local = {}\n", self.local));
        text
    }

    fn matches(&self, peer: &PeerFacts) -> bool {
        let here = self.platforms.is_empty() || self.platforms.contains(&"linux");
        let meant = match &peer.remote {
            None => self.local,
            Some(remote) => self.remote && remote.realm == "https://a.example",
        };
        let stands_for = |window: &&str| WINDOWS.iter().find(|(pattern, _)| pattern == window).unwrap().1;
        let named = |name: &&str| NAMED.iter().find(|(known, _)| known == name).unwrap().1;
        let mut windows = self.windows.iter().flat_map(stands_for).flat_map(named);
        here && meant && (self.peers.iter().any(|m| m.matches(peer)) || windows.any(|m| m.matches(peer)))
    }
}

impl Matcher {
    pub(super) fn toml(&self) -> String {
        match self {
            Matcher::Uid(uid) => format!("\"uid:{uid}\""),
            Matcher::Gid(gid) => format!("{{ gid = {gid} }}"),
            Matcher::Both(uid, gid) => format!("{{ uid = {uid}, gid = {gid} }}"),
            Matcher::OwnUid => "\"self\"".to_owned(),
            Matcher::Everyone => "\"everyone\"".to_owned(),
            Matcher::Exe(path) => format!("{{ uid = {OWN}, exe = \"{path}\" }}"),
            Matcher::Unit(unit) => format!("{{ uid = {OWN}, unit = \"{unit}\" }}"),
        }
    }

    fn matches(&self, peer: &PeerFacts) -> bool {
        let in_group = |gid: u32| gid != 65_534 && (peer.gid == gid || peer.groups.contains(&gid));
        match *self {
            Matcher::Uid(uid) => peer.uid == uid,
            Matcher::Gid(gid) => in_group(gid),
            Matcher::Both(uid, gid) => peer.uid == uid && in_group(gid),
            Matcher::OwnUid => peer.uid == OWN,
            Matcher::Everyone => true,
            Matcher::Exe(path) => {
                peer.uid == OWN
                    && matches!(&peer.executable, ProcessFact::Known(e) if e.to_str() == Some(path))
            }
            Matcher::Unit(unit) => peer.uid == OWN && peer.unit == ProcessFact::Known(unit.to_owned()),
        }
    }
}

/// A question: may this peer, keeping only what `kept` names, call this command with this path?
pub(super) struct Question<'q> {
    pub(super) peer: &'q PeerFacts,
    pub(super) command: &'q str,
    pub(super) path: &'q str,
    /// `None` for a peer that is not narrowed.
    pub(super) kept: Option<&'q [String]>,
}

/// A permission as a matching capability gives it.
struct Held<'c> {
    entry: &'c Entry,
    part: &'static Part,
    /// The peer kept its capability.
    kept: bool,
}

/// The answer, by the rules.
pub(super) fn allowed(capabilities: &[Capability], question: &Question<'_>) -> bool {
    let Question { peer, command, path, kept } = *question;
    if peer.uid == 65_534 {
        return false;
    }
    let keeps = |name: &str| kept.is_none_or(|kept| kept.iter().any(|k| k == name));
    // Rule 5: the embedded policy, which nothing takes away, for calls of these peers themselves.
    if peer.remote.is_none()
        && (peer.uid == 0 || peer.uid == OWN)
        && matches!(command, "core.ping" | "core.reload")
        && keeps("operate")
    {
        return true;
    }
    let plugin = command.split_once('.').map_or("", |(plugin, _)| plugin);
    let mut held = Vec::new();
    for (i, capability) in capabilities.iter().enumerate().filter(|(_, c)| c.matches(peer)) {
        let kept = keeps(&format!("c{i}"));
        for entry in &capability.entries {
            held.extend(entry.permission.parts.iter().map(|part| Held { entry, part, kept }));
        }
    }
    // Rule 1: a deny of a capability that matches, kept or not.
    if held.iter().any(|h| h.part.deny.contains(&command)) {
        return false;
    }
    let about: Vec<&Held<'_>> = held.iter().filter(|h| h.part.allow.contains(&command)).collect();
    let granting: Vec<&Held<'_>> = about.iter().copied().filter(|h| h.kept).collect();
    if granting.is_empty() || !SCOPED.contains(&command) {
        return !granting.is_empty();
    }
    // A permission without commands is a scope of its plugin; in a set with commands of that plugin, of these.
    let only_scope = |p: &Part| p.allow.is_empty() && p.deny.is_empty() && p.plugin == plugin;
    let has_commands =
        |e: &Entry| e.permission.parts.iter().any(|p| p.plugin == plugin && !p.allow.is_empty());
    let global: Vec<&Held<'_>> =
        held.iter().filter(|h| only_scope(h.part) && !has_commands(h.entry)).collect();
    let beside = |h: &Held<'_>| -> Vec<&'static Part> {
        let parts = h.entry.permission.parts.iter();
        let own = std::iter::once(h.part);
        own.chain(parts.filter(|p| only_scope(p) && has_commands(h.entry))).collect()
    };
    let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, peer, path) == Some(true));
    // Rule 2: no applicable deny matches; one whose meaning is not known denies everything.
    let denies =
        |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, peer, path) != Some(false));
    if about.iter().any(|h| denies(&h.entry.deny) || beside(h).iter().any(|p| denies(p.scope_deny)))
        || global.iter().any(|h| denies(&h.entry.deny) || denies(h.part.scope_deny))
    {
        return false;
    }
    // Rules 2 and 3: some single grant allows it.
    let of = |own: Option<&Vec<&'static str>>, shipped: &[&Part]| -> Option<bool> {
        let shipped: Vec<_> = shipped.iter().filter_map(|part| part.scope_allow).collect();
        match own {
            Some(own) if own.is_empty() => Some(false),
            None if shipped.is_empty() => None,
            own => Some(own.is_some_and(|own| any(own)) || shipped.iter().any(|patterns| any(patterns))),
        }
    };
    let default = plugin == "q";
    granting.iter().any(|h| of(h.entry.allow.as_ref(), &beside(h)).unwrap_or(default))
        || global.iter().any(|h| h.kept && of(h.entry.allow.as_ref(), &[h.part]) == Some(true))
}

/// The patterns of this test, each by hand. `None`: its variable has no value for this peer.
fn matches(pattern: &str, peer: &PeerFacts, path: &str) -> Option<bool> {
    match pattern {
        "/z/*" => Some(matches!(path, "/z/1" | "/z/2")),
        "/**" => Some(true),
        "$PEER_HOME/f" => peer.home.as_ref().map(|home| format!("{}/f", home.display()) == path),
        literal => Some(literal == path),
    }
}
