//! Random policies: the compiled evaluator against the reference, and what explanations promise.

use std::path::Path;

use proptest::prelude::{Just, ProptestConfig};
use proptest::sample::{select, subsequence};
use proptest::strategy::Strategy;
use proptest::test_runner::{TestCaseError, TestRunner};
use proptest::{collection, prop_assert, prop_assert_eq, prop_oneof};
use serde_json::Value;

use super::reference::{
    COMMANDS, Capability, Entry, Matcher, NAMED, PATHS, PATTERNS, Question, SHIPPED, WINDOWS, allowed,
    manifests,
};
use super::{OWN, Users, ana, bob, lines};
use crate::authority::{
    CompiledPolicy, Format, PathScope, PeerFacts, PeerGrants, Platform, Policy, PolicySnapshot, ProcessFact,
    ProcessFacts, Remote, Source, Verdict,
};

fn capabilities() -> impl Strategy<Value = Vec<Capability>> {
    let matcher = prop_oneof![
        2 => select(&[0, OWN, 1000, 1001][..]).prop_map(Matcher::Uid),
        2 => select(&[100, 1000, 7][..]).prop_map(Matcher::Gid),
        1 => (select(&[1000, 1001][..]), select(&[100, 7][..])).prop_map(|(uid, gid)| Matcher::Both(uid, gid)),
        1 => Just(Matcher::OwnUid),
        2 => Just(Matcher::Everyone),
        1 => select(&["/usr/bin/x", "/usr/bin/y"][..]).prop_map(Matcher::Exe),
        1 => Just(Matcher::Unit("a.service")),
    ];
    let patterns = || subsequence(&PATTERNS[..], 0..=2);
    let entry =
        (select(SHIPPED.each_ref().to_vec()), proptest::option::weighted(0.7, patterns()), patterns(), 0..4)
            .prop_map(|(permission, allow, deny, denies)| Entry {
                permission,
                allow: allow.filter(|_| permission.takes_scope),
                // Denials outweigh everything: with one in every entry nothing would be left to compare.
                deny: if permission.takes_scope && denies == 0 { deny } else { Vec::new() },
            });
    let windows = collection::vec(select(&WINDOWS[..]).prop_map(|(pattern, _)| pattern), 0..2);
    let context = prop_oneof![6 => Just((true, false)), 1 => Just((true, true)), 1 => Just((false, true))];
    let platforms = prop_oneof![
        6 => Just(&[][..]),
        1 => Just(&["linux", "windows"][..]),
        1 => Just(&["macOS"][..]),
    ];
    let capability =
        (collection::vec(matcher, 0..3), windows, collection::vec(entry, 0..5), context, platforms).prop_map(
            |(mut peers, windows, entries, (local, remote), platforms)| {
                if peers.is_empty() && windows.is_empty() {
                    peers.push(Matcher::Everyone);
                }
                Capability { peers, windows, entries, local, remote, platforms: platforms.to_vec() }
            },
        );
    collection::vec(capability, 0..5)
}

fn from(facts: PeerFacts, realm: &str) -> PeerFacts {
    facts.on_behalf_of(Remote { realm: realm.to_owned(), account: "eve".to_owned() })
}

fn peers() -> Vec<PeerFacts> {
    let plain = |uid, groups: &[u32]| PeerFacts::new(uid, uid, groups);
    vec![
        ana(),
        bob(),
        plain(1001, &[7, 65_534]),
        plain(0, &[100]),
        plain(OWN, &[]),
        plain(OWN, &[]).with_executable(ProcessFact::Known("/usr/bin/x".into())),
        plain(OWN, &[])
            .with_executable(ProcessFact::Known("/usr/bin/y".into()))
            .with_unit(ProcessFact::Known("a.service".to_owned())),
        plain(65_534, &[100]),
        from(ana(), "https://a.example"),
        from(plain(OWN, &[7]), "https://a.example"),
        from(ana(), "http://a.example"),
        plain(5, &[7, 100]),
    ]
}

fn compile(capabilities: &[Capability], more: Option<&str>) -> CompiledPolicy {
    let policy = Policy::new(OWN, &Users).process_facts(ProcessFacts::Confirmed);
    let mut policy = manifests().into_iter().fold(policy, Policy::manifest);
    policy = policy.platform(Platform::Linux);
    let named: String = NAMED
        .iter()
        .map(|(name, matchers)| {
            let matchers: Vec<_> = matchers.iter().map(Matcher::toml).collect();
            format!("{name} = [{}]\n", matchers.join(", "))
        })
        .collect();
    policy = policy.document(Source::new("peers.toml", None, format!("[peers]\n{named}")), Format::Toml);
    let texts = capabilities.iter().enumerate().map(|(i, capability)| capability.toml(&format!("c{i}")));
    for (i, text) in texts.chain(more.map(str::to_owned)).enumerate() {
        policy = policy.document(Source::new(format!("{i}.toml"), None, text), Format::Toml);
    }
    policy.compile().unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

fn verdict(snapshot: &PolicySnapshot, peer: &PeerFacts, command: &str, path: &str) -> bool {
    verdict_of(&snapshot.peer(peer), command, path)
}

fn verdict_of(grants: &PeerGrants, command: &str, path: &str) -> bool {
    match grants.authorize(command) {
        Verdict::Allow(grant) => grant.check::<PathScope>(Path::new(path)).is_allowed(),
        Verdict::Deny(_) => false,
    }
}

/// Failures are fixed and named, not kept in a file.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) })
}

/// Every question of this test's world.
fn questions() -> impl Iterator<Item = (PeerFacts, &'static str, &'static str)> {
    peers().into_iter().flat_map(|peer| {
        COMMANDS.iter().flat_map(move |command| {
            let peer = peer.clone();
            PATHS.iter().map(move |path| (peer.clone(), *command, *path))
        })
    })
}

#[test]
fn the_compiled_evaluator_agrees_with_the_reference() {
    let (mut yes, mut no) = (0_u64, 0_u64);
    let mut runner = runner(400);
    let counters = std::cell::RefCell::new((&mut yes, &mut no));
    let result = runner.run(&capabilities(), |capabilities| {
        let snapshot = compile(&capabilities, None).snapshot;
        for (peer, command, path) in questions() {
            let question = Question { peer: &peer, command, path, kept: None };
            let expected = allowed(&capabilities, &question);
            let got = verdict(&snapshot, &peer, command, path);
            prop_assert_eq!(got, expected, "{} {} {}", peer, command, path);
            let mut counters = counters.borrow_mut();
            *(if got { &mut *counters.0 } else { &mut *counters.1 }) += 1;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    // A comparison of denials with denials would prove little.
    assert!(yes + no >= 100_000, "{yes} allowed, {no} denied");
    assert!(yes > (yes + no) / 10 && no > (yes + no) / 10, "{yes} allowed, {no} denied");
}

#[test]
fn a_narrowed_peer_may_do_what_the_reference_says_and_never_more_than_before() {
    let (mut compared, mut lost) = (0_u64, 0_u64);
    let mut runner = runner(150);
    let counters = std::cell::RefCell::new((&mut compared, &mut lost));
    let kept = subsequence(&["c0", "c1", "c2", "c3", "operate", "nothing"][..], 0..=4);
    let result = runner.run(&(capabilities(), kept), |(capabilities, kept)| {
        let kept: Vec<String> = kept.into_iter().map(str::to_owned).collect();
        let snapshot = compile(&capabilities, None).snapshot;
        for peer in peers() {
            let whole = snapshot.peer(&peer);
            let narrowed = snapshot.peer_narrowed(&peer, &kept).grants;
            for (command, path) in COMMANDS.iter().flat_map(|c| PATHS.iter().map(move |path| (*c, *path))) {
                let question = Question { peer: &peer, command, path, kept: Some(&kept) };
                let expected = allowed(&capabilities, &question);
                let got = verdict_of(&narrowed, command, path);
                prop_assert_eq!(got, expected, "{} keeping {:?}: {} {}", peer, kept, command, path);
                let before = verdict_of(&whole, command, path);
                prop_assert!(before || !got, "{} gained {} {}", peer, command, path);
                let mut counters = counters.borrow_mut();
                *counters.0 += 1;
                *counters.1 += u64::from(before && !got);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(compared >= 50_000 && lost > compared / 20, "{lost} of {compared} verdicts were narrowed away");
}

#[test]
fn explain_gives_the_verdict_and_what_it_proposes_allows_that_and_no_more() {
    let mut runner = runner(400);
    let one = (capabilities(), 0..peers().len(), select(&COMMANDS[..]), select(&PATHS[..]));
    let mut proposed = 0_u32;
    let counter = std::cell::RefCell::new(&mut proposed);
    let result = runner.run(&one, |(capabilities, peer, command, path)| {
        let peer = &peers()[peer];
        let before = compile(&capabilities, None).snapshot;
        let explanation = before.explain(peer, command, Some(&Value::from(path)));
        prop_assert_eq!(explanation.is_allowed(), verdict(&before, peer, command, path));
        prop_assert!(explanation.is_allowed() == explanation.to_string().starts_with("allowed: "));
        let Some((_, toml)) = explanation.would_be_allowed_by() else { return Ok(()) };
        prop_assert!(!explanation.is_allowed(), "what is allowed needs no file");
        **counter.borrow_mut() += 1;
        let after = compile(&capabilities, Some(toml)).snapshot;
        only_adds(&before, &after, (peer, command, path), toml)?;
        // Where it did not help, a deny stands in the way, and then nothing more is proposed.
        let still = after.explain(peer, command, Some(&Value::from(path)));
        prop_assert!(still.is_allowed() || still.would_be_allowed_by().is_none(), "{toml}");
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(proposed >= 10, "only {proposed} proposals were tried");
}

/// `after` allows what `before` does, and of the rest at most this one question's answer has changed.
///
/// What is proposed names a uid, so peers of that uid in other groups get the command too; what scopes they hold by those
/// groups is theirs, and not looked at here.
fn only_adds(
    before: &PolicySnapshot,
    after: &PolicySnapshot,
    (peer, command, path): (&PeerFacts, &str, &str),
    toml: &str,
) -> Result<(), TestCaseError> {
    let scoped = ["p.a", "p.b", "q.a"].contains(&command);
    let uid = peer.uid;
    let same_user_elsewhere = |other: &PeerFacts| other.uid == uid && other != peer;
    for (other, other_command, other_path) in questions().filter(|(other, ..)| !same_user_elsewhere(other)) {
        let was = verdict(before, &other, other_command, other_path);
        let is = verdict(after, &other, other_command, other_path);
        let same = other.uid == uid && other_command == command && (!scoped || other_path == path);
        prop_assert!(was == is || (same && is), "{toml} changes {} {} {}", other, other_command, other_path);
    }
    Ok(())
}
