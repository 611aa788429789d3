//! What the keys of a capability mean beside `peers` and `permissions`.

use invoked_proto::registry::Lane;

use super::{OWN, allows, ana, bob, compile, compiled, granted, lines, may, policy};
use crate::authority::{CompiledPolicy, Format, PeerFacts, PolicyError, Remote, Source, TauriFiles};

const PEERS: &str = "[peers]\nmain = 'user:ana'\neditor-1 = 'user:bob'\neditor-2 = 'uid:7'\n";

fn seven() -> PeerFacts {
    PeerFacts::new(7, 7, [])
}

fn from(facts: PeerFacts, realm: &str, account: &str) -> PeerFacts {
    facts.on_behalf_of(Remote { realm: realm.to_owned(), account: account.to_owned() })
}

fn with_keys(keys: &str) -> Result<CompiledPolicy, Vec<PolicyError>> {
    compile(&format!("{PEERS}[[capabilities]]\nidentifier = 'c'\npermissions = ['allow-greet']\n{keys}\n"))
}

/// The errors of a capability with these keys, which stand from line 8 on.
fn errors(keys: &str) -> String {
    with_keys(keys).map_or_else(|errors| lines(&errors), |_| String::new())
}

fn good(keys: &str) -> CompiledPolicy {
    with_keys(keys).unwrap_or_else(|errors| panic!("{keys}: {}", lines(&errors)))
}

#[test]
fn windows_and_webviews_are_named_peers_by_pattern() {
    for (keys, who) in [
        ("windows = ['main']", vec![ana()]),
        ("windows = ['editor-*']", vec![bob(), seven()]),
        ("windows = ['editor-[!2]']", vec![bob()]),
        ("windows = ['*']", vec![ana(), bob(), seven()]),
        ("webviews = ['editor-2']", vec![seven()]),
        ("windows = ['main']\nwebviews = ['editor-1']", vec![ana(), bob()]),
        ("windows = ['main']\npeers = ['@editor-2']", vec![ana(), seven()]),
    ] {
        let policy = good(keys);
        for facts in [ana(), bob(), seven(), PeerFacts::new(OWN, 1, [])] {
            assert_eq!(may(&policy, &facts, "greet"), who.contains(&facts), "{keys}: {facts}");
        }
    }
}

#[test]
fn a_window_without_a_named_peer_is_an_error_and_to_files_of_tauri_a_warning() {
    let help =
        "a window is a named peer here: [peers] \"other\" = \"user:…\"; or load it with --tauri-compat";
    assert_eq!(
        errors("windows = ['other']"),
        format!("t.toml:8:12: no [peers] table names \"other\"; {help}\n")
    );
    assert_eq!(
        errors("windows = ['mian']"),
        "t.toml:8:12: no [peers] table names \"mian\"; did you mean \"main\"?\n"
    );
    assert_eq!(errors("windows = []"), "t.toml:8:11: \"windows\" names nobody\n");
    assert_eq!(errors("windows = ['[']"), "t.toml:8:12: \"[\": `[` without `]`; `[[]` is a literal `[`\n");

    let text = format!(
        "{PEERS}[[capabilities]]\nidentifier = 'c'\nwindows = ['other', 'main']\n\
         permissions = ['allow-greet', 'window:default', {{ identifier = 'dialog:allow-open', allow = ['x'] }}]\n"
    );
    let load = |text: &str, tauri| {
        policy().tauri_files(tauri).document(Source::new("t.toml", None, text), Format::Toml).compile()
    };
    let strict = load(&text, TauriFiles::Strict).unwrap_err();
    assert_eq!(strict.len(), 3, "{}", lines(&strict));
    let compiled = load(&text, TauriFiles::Lenient).unwrap();
    assert_eq!(granted(&compiled, &ana()), ["greet"]);
    assert!(granted(&compiled, &bob()).is_empty());
    assert_eq!(
        lines(&compiled.warnings),
        "t.toml:7:12: no [peers] table names \"other\"; it grants nothing until one does\n\
         t.toml:8:31: \"window:default\" grants nothing: no plugin \"window\" is here\n\
         t.toml:8:64: \"dialog:allow-open\" grants nothing: no plugin \"dialog\" is here\n"
    );
    // A slip in the name of what is here stays an error.
    let slip = text.replace("allow-greet", "alow-greet");
    let errors = lines(&load(&slip, TauriFiles::Lenient).unwrap_err());
    assert_eq!(errors, "t.toml:8:16: unknown permission \"alow-greet\"; did you mean \"allow-greet\"?\n");
}

#[test]
fn a_capability_is_for_local_calls_unless_it_names_realms() {
    let bridged = || from(ana(), "https://app.example", "eve");
    let peers = "peers = ['user:ana']\n";
    for (keys, local, remote) in [
        ("", true, false),
        ("local = true", true, false),
        ("remote = { urls = ['https://app.example'] }", true, true),
        ("local = false\nremote = { urls = ['https://*.example'] }", false, true),
        (
            "local = false\nremote = { urls = ['https://other.example', 'https://app.example/*'] }",
            false,
            true,
        ),
        ("remote = { urls = ['https://other.example'] }", true, false),
        ("remote = { urls = ['https://app.example'], accounts = ['e*'] }", true, true),
        ("remote = { urls = ['https://app.example'], accounts = ['bob'] }", true, false),
        ("remote = { urls = ['https://app.example'], accounts = [] }", true, false),
    ] {
        let policy = good(&format!("{peers}{keys}"));
        assert_eq!(may(&policy, &ana(), "greet"), local, "{keys}");
        assert_eq!(may(&policy, &bridged(), "greet"), remote, "{keys}");
        // The bridge itself must be meant, too.
        assert!(!may(&policy, &from(bob(), "https://app.example", "eve"), "greet"), "{keys}");
    }
}

#[test]
fn what_root_holds_it_holds_for_its_own_calls() {
    let policy = good("peers = ['user:ana']");
    let root = PeerFacts::new(0, 0, []);
    assert!(may(&policy, &root, "core.ping"));
    let grants = policy.snapshot.peer(&from(root, "https://app.example", "eve"));
    assert!(!allows(&grants, "core.ping") && !grants.is_operator());
}

#[test]
fn realms_are_read_strictly() {
    let wanted = "a realm is an origin, such as https://app.example, or the name of a domain";
    for (keys, message) in [
        (
            "local = false",
            "8:9: neither local calls nor remote ones: it applies to nothing; \
             name realms: remote = { urls = [\"https://app.example\"] }"
                .to_owned(),
        ),
        ("local = 'no'", "8:9: \"local\" is true or false, this is a string".to_owned()),
        ("remote = {}", "8:10: \"remote\" without \"urls\" is for no realm".to_owned()),
        ("remote = { urls = [] }", "8:10: \"remote\" without \"urls\" is for no realm".to_owned()),
        ("remote = { urls = ['https://'] }", format!("8:20: \"https://\": {wanted}")),
        ("remote = { urls = ['https://a/b'] }", "8:20: \"https://a/b\": a realm has no path".to_owned()),
        ("remote = { url = ['a'] }", "8:12: unknown key \"url\"; did you mean \"urls\"?".to_owned()),
    ] {
        let expected = format!("t.toml:{message}\n");
        let got = errors(&format!("{keys}\npeers = ['user:ana']"));
        // A key that isn't known leaves none behind: both are said.
        assert!(got.starts_with(&expected), "{keys}: {got}");
    }
}

#[test]
fn limits_are_those_of_the_matching_capabilities_the_larger_of_two() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'all'\npeers = ['everyone']\nlimits = { open_calls = 4, max_message = 1024 }\n\
         [[capabilities]]\nidentifier = 'ana'\npeers = ['user:ana']\nlimits = { open_calls = 16, calls_per_uid = 8 }\n",
    );
    let limits = |facts: &PeerFacts| policy.snapshot.peer(facts).limits().iter().collect::<Vec<_>>();
    assert_eq!(limits(&bob()), [("max_message", 1024), ("open_calls", 4)]);
    assert_eq!(limits(&ana()), [("calls_per_uid", 8), ("max_message", 1024), ("open_calls", 16)]);
    assert_eq!(policy.snapshot.peer(&bob()).limits().get("open_channels"), None);
    // Narrowing gives up grants, not limits: these could rise by it.
    let narrowed = policy.snapshot.peer_narrowed(&bob(), &["nothing"]).grants;
    assert_eq!(narrowed.limits().get("open_calls"), Some(4));
}

#[test]
fn limits_that_are_unknown_or_above_the_daemons_own_are_refused() {
    for (limits, message) in [
        ("open_cals = 1", "8:12: unknown key \"open_cals\"; did you mean \"open_calls\"?"),
        ("handshake_max = 1", "8:12: unknown key \"handshake_max\""),
        ("open_calls = 1025", "8:25: \"open_calls\" is at most 1024 in this daemon"),
        (
            "connections_per_uid = 16385",
            "8:34: \"connections_per_uid\" is at most 16384 in this daemon, which is \"connections\"",
        ),
        ("open_calls = 0", "8:25: \"open_calls\" is a whole number from 1 to 1024"),
        ("open_calls = -1", "8:25: \"open_calls\" is a whole number from 1 to 1024"),
        ("open_calls = 1.5", "8:25: \"open_calls\" is a whole number from 1 to 1024"),
        ("open_calls = 'many'", "8:25: \"open_calls\" is a whole number from 1 to 1024"),
    ] {
        let expected = format!("t.toml:{message}\n");
        assert_eq!(errors(&format!("limits = {{ {limits} }}\npeers = ['user:ana']")), expected, "{limits}");
    }
    good("limits = { open_calls = 1024, connections_per_uid = 16384 }\npeers = ['user:ana']");
    let text =
        "identifier = 'c'\npeers = ['user:ana']\nlimits = { max_message = 2048, reply_bytes_per_uid = 9 }";
    let compile = |ceiling| {
        let policy = policy().ceiling("max_message", ceiling).ceiling("reply_bytes", 9);
        policy.document(Source::new("t.toml", None, text), Format::Toml).compile()
    };
    assert!(compile(2048).is_ok());
    let errors = lines(&compile(2047).unwrap_err());
    assert_eq!(errors, "t.toml:3:26: \"max_message\" is at most 2047 in this daemon\n");
}

#[test]
fn lanes_are_what_any_matching_capability_allows() {
    let policy = compiled(
        "[[capabilities]]\nidentifier = 'all'\npeers = ['group:dev']\nlanes = ['inline', 'sealed']\n\
         [[capabilities]]\nidentifier = 'bob'\npeers = ['user:bob']\nlanes = ['file']\n",
    );
    assert!(policy.snapshot.peer(&ana()).lanes().is_none());
    let grants = policy.snapshot.peer(&bob());
    let allowed =
        [Lane::Inline, Lane::Pool, Lane::Sealed, Lane::File].map(|lane| grants.lanes().unwrap().allows(lane));
    assert_eq!(allowed, [true, false, true, true]);
    assert_eq!(
        errors("lanes = ['fiel', 'ring']\npeers = ['user:ana']"),
        "t.toml:8:10: unknown lane \"fiel\"; did you mean \"file\"?\n\
         t.toml:8:18: unknown lane \"ring\"; the lanes are \"inline\", \"pool\", \"sealed\" and \"file\"\n"
    );
}

#[test]
fn an_empty_list_of_lanes_leaves_the_frames() {
    let policy = good("lanes = []\npeers = ['user:ana']");
    let grants = policy.snapshot.peer(&ana());
    assert!(grants.lanes().unwrap().allows(Lane::Inline) && !grants.lanes().unwrap().allows(Lane::File));
}
