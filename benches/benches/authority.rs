//! The authority alone: verdicts, path scopes, connecting peers, loading.
//!
//! A verdict must cost the same whether the policy has 10 capabilities or 10 000: `authorize/*` shows it. What grows with
//! the policy is loading it, and, for the first peer that matches the same capabilities, connecting.
//!
//! A policy is large in two ways: in capabilities, and in the commands that each of them grants. `1000-commands` are
//! policies in which each capability grants every command, as a set does.

use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use invoked::authority::{
    CompiledPolicy, Format, PathScope, PeerFacts, PluginManifest, Policy, ScopeDefault, ScopeKind, Source,
    UserDirectory, Verdict,
};

/// The uid of the daemon.
const OWN: u32 = 990;
/// The uid that is asked about.
const PEER: u32 = 1000;
/// Commands of the application, all of which a large policy grants.
const COMMANDS: usize = 1000;
/// Capabilities of one file.
const PER_FILE: usize = 100;

/// Policies by their number of capabilities.
const SIZES: [usize; 3] = [10, 1000, 10_000];

/// Whom the capabilities of a policy are for.
#[derive(Clone, Copy)]
enum Audience {
    /// Each for a uid of its own, beginning with [`PEER`].
    OneUidEach,
    /// Each for everyone: each peer's grants are made of all of them.
    Everyone,
}

impl Audience {
    fn name(self) -> &'static str {
        match self {
            Audience::OneUidEach => "one-uid-each",
            Audience::Everyone => "everyone",
        }
    }

    fn matcher(self, index: usize) -> String {
        match self {
            Audience::OneUidEach => format!("uid:{}", PEER as usize + index),
            Audience::Everyone => "everyone".to_owned(),
        }
    }
}

/// What each capability grants.
#[derive(Clone, Copy)]
enum Breadth {
    /// One command, the next one each.
    OneCommand,
    /// The set of all commands.
    AllCommands,
}

impl Breadth {
    fn name(self) -> &'static str {
        match self {
            Breadth::OneCommand => "1-command",
            Breadth::AllCommands => "1000-commands",
        }
    }

    fn permission(self, index: usize) -> String {
        match self {
            Breadth::OneCommand => format!("allow-{}", command(index % COMMANDS).replace('_', "-")),
            Breadth::AllCommands => "all".to_owned(),
        }
    }
}

/// A machine whose user database is empty: files name uids.
struct NoUsers;

impl UserDirectory for NoUsers {
    fn uid_of(&self, _: &str) -> Option<u32> {
        None
    }

    fn gid_of(&self, _: &str) -> Option<u32> {
        None
    }

    fn name_of(&self, _: u32) -> Option<String> {
        None
    }

    fn home_of(&self, _: u32) -> Option<PathBuf> {
        None
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    verdicts(&mut criterion);
    path_scopes(&mut criterion);
    connecting(&mut criterion);
    loading(&mut criterion);
    criterion.final_summary();
}

/// One verdict; the commands are asked for in turn, so that a large table is not in the cache by luck.
fn verdicts(criterion: &mut Criterion) {
    let shapes = [
        (Audience::Everyone, Breadth::OneCommand),
        (Audience::OneUidEach, Breadth::AllCommands),
        (Audience::Everyone, Breadth::AllCommands),
    ];
    let mut group = criterion.benchmark_group("authorize");
    for (audience, breadth) in shapes {
        for capabilities in SIZES {
            let policy = compile(&documents(capabilities, audience, breadth));
            let grants = policy.snapshot.peer(&peer(PEER));
            let known = grants.grants().map(|grant| grant.command().to_string()).collect::<Vec<_>>();
            let unknown: Vec<String> = known.iter().map(|name| format!("{name}x")).collect();
            assert_eq!(
                known.len(),
                if capabilities == 10 && matches!(breadth, Breadth::OneCommand) { 10 } else { COMMANDS }
            );
            assert!(unknown.iter().all(|name| matches!(grants.authorize(name), Verdict::Deny(_))));
            for (verdict, names) in [("allow", &known), ("deny", &unknown)] {
                let name = format!("{verdict}/{}/{}", audience.name(), breadth.name());
                group.bench_function(BenchmarkId::new(name, capabilities), |b| {
                    let mut turn = names.iter().cycle();
                    b.iter(|| {
                        let name = turn.next().expect("a cycle of at least one");
                        let verdict = grants.authorize(black_box(name));
                        black_box(matches!(verdict, Verdict::Allow(_)))
                    });
                });
            }
        }
    }
    group.finish();
}

/// One path against the scope of one grant.
fn path_scopes(criterion: &mut Criterion) {
    let one = "allow = ['/srv/photos/**']".to_owned();
    let many: Vec<String> = (0..10).map(|i| format!("'/srv/*/{i}/**/thumbs/*.png'")).collect();
    let many = format!("allow = [{}, '/srv/photos/**'], deny = ['/srv/**/private/**']", many.join(", "));
    let file = Path::new("/srv/photos/2024/12/holidays/lake.png");
    let elsewhere = Path::new("/etc/ssl/certs/ca-certificates.crt");
    let mut group = criterion.benchmark_group("path-scope");
    for (name, lists) in [("1-pattern", one), ("12-patterns", many)] {
        let text = format!(
            "identifier = 'c'\npeers = ['everyone']\n\
             permissions = [{{ identifier = 'fs:allow-read-file', {lists} }}]"
        );
        let policy = compile(&[Source::new("scope.toml", None, text)]);
        let grants = policy.snapshot.peer(&peer(PEER));
        let Verdict::Allow(grant) = grants.authorize("fs.read_file") else { panic!("the file allows it") };
        assert!(grant.check::<PathScope>(file).is_allowed());
        assert!(!grant.check::<PathScope>(elsewhere).is_allowed());
        for (verdict, path) in [("inside", file), ("outside", elsewhere)] {
            group.bench_function(BenchmarkId::new(name, verdict), |b| {
                b.iter(|| grant.check::<PathScope>(black_box(path)).is_allowed());
            });
        }
    }
    group.finish();
}

/// What a peer gets when it connects: the first with its facts, whose grants are compiled, and the next ones. `all` is
/// 10 000 peers of as many uids, each once, to a policy that has not seen any.
fn connecting(criterion: &mut Criterion) {
    const CAPABILITIES: usize = 10_000;
    let mut group = criterion.benchmark_group("connect/10000-capabilities");
    group.sample_size(10);
    let shapes = [
        (Audience::OneUidEach, Breadth::OneCommand),
        (Audience::OneUidEach, Breadth::AllCommands),
        (Audience::Everyone, Breadth::OneCommand),
        (Audience::Everyone, Breadth::AllCommands),
    ];
    for (audience, breadth) in shapes {
        let documents = documents(CAPABILITIES, audience, breadth);
        let name = format!("{}/{}", audience.name(), breadth.name());
        group.bench_function(BenchmarkId::new("first", &name), |b| {
            b.iter_batched_ref(
                || compile(&documents),
                |policy| policy.snapshot.peer(&peer(PEER)),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("all", &name), |b| {
            b.iter_batched_ref(
                || compile(&documents),
                |policy| {
                    let uids = PEER..PEER + u32::try_from(CAPABILITIES).expect("a small number");
                    uids.map(|uid| policy.snapshot.peer(&peer(uid)).grants().count()).sum::<usize>()
                },
                BatchSize::PerIteration,
            );
        });
        let policy = compile(&documents);
        let facts = peer(PEER);
        let held = policy.snapshot.peer(&facts);
        assert!(matches!(held.authorize(&command(0)), Verdict::Allow(_)));
        group.bench_function(BenchmarkId::new("again", &name), |b| {
            b.iter(|| policy.snapshot.peer(black_box(&facts)));
        });
    }
    group.finish();
}

/// Text to snapshot, without reading files.
fn loading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for breadth in [Breadth::OneCommand, Breadth::AllCommands] {
        for capabilities in SIZES {
            let documents = documents(capabilities, Audience::OneUidEach, breadth);
            group.throughput(Throughput::Elements(capabilities as u64));
            group.bench_function(BenchmarkId::new(breadth.name(), capabilities), |b| {
                b.iter(|| compile(&documents));
            });
        }
    }
    group.finish();
}

fn compile(documents: &[Source]) -> CompiledPolicy {
    let fs = PluginManifest::new("fs".parse().expect("a legal name"))
        .scoped_command("read_file")
        .scope(ScopeKind::Path, ScopeDefault::Nothing);
    let application = (0..COMMANDS).map(command).fold(PluginManifest::application(), PluginManifest::command);
    let all: Vec<String> = (0..COMMANDS).map(|i| Breadth::OneCommand.permission(i)).collect();
    let application = application.set("all", "Every command.", all.iter().map(String::as_str));
    let policy = Policy::new(OWN, &NoUsers).manifest(fs).manifest(application);
    let add = |policy: Policy<'static>, source: &Source| policy.document(source.clone(), Format::Toml);
    documents.iter().fold(policy, add).compile().expect("these files have no errors")
}

/// Capability files.
fn documents(capabilities: usize, audience: Audience, breadth: Breadth) -> Vec<Source> {
    let all: Vec<usize> = (0..capabilities).collect();
    let files = all.chunks(PER_FILE).enumerate();
    files
        .map(|(file, capabilities)| {
            let mut text = String::new();
            for index in capabilities {
                let permission = breadth.permission(*index);
                writeln!(
                    text,
                    "[[capabilities]]\nidentifier = 'c{index}'\npeers = ['{}']\npermissions = ['{permission}']\n",
                    audience.matcher(*index),
                )
                .expect("a string takes everything");
            }
            Source::new(format!("{file:04}.toml"), None, text)
        })
        .collect()
}

fn command(index: usize) -> String {
    format!("command_{index}")
}

fn peer(uid: u32) -> PeerFacts {
    PeerFacts::new(uid, uid, [])
}
