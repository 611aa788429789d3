//! The authority alone: verdicts, path scopes, connecting peers, loading.
//!
//! A verdict must cost the same whether the policy has 10 capabilities or 10 000: `authorize/*` shows it. What grows with
//! the policy is loading it, and, for the first peer with its facts, connecting.

use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;

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
    let mut group = criterion.benchmark_group("authorize");
    for capabilities in SIZES {
        let policy = compile(&documents(capabilities, Audience::Everyone));
        let grants = policy.snapshot.peer(&peer(PEER));
        let known: Vec<String> = (0..COMMANDS.min(capabilities)).map(command).collect();
        let unknown: Vec<String> = known.iter().map(|name| format!("{name}x")).collect();
        assert!(known.iter().all(|name| matches!(grants.authorize(name), Verdict::Allow(_))));
        assert!(unknown.iter().all(|name| matches!(grants.authorize(name), Verdict::Deny(_))));
        for (verdict, names) in [("allow", &known), ("deny", &unknown)] {
            group.bench_function(BenchmarkId::new(verdict, capabilities), |b| {
                let mut turn = names.iter().cycle();
                b.iter(|| {
                    let name = turn.next().expect("a cycle of at least one");
                    let verdict = grants.authorize(black_box(name));
                    black_box(matches!(verdict, Verdict::Allow(_)))
                });
            });
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

/// What a peer gets when it connects: the first with its facts, whose grants are compiled, and the next ones.
fn connecting(criterion: &mut Criterion) {
    let capabilities = 10_000;
    let mut group = criterion.benchmark_group("connect/10000-capabilities");
    group.sample_size(20);
    for audience in [Audience::OneUidEach, Audience::Everyone] {
        let documents = documents(capabilities, audience);
        let mut strangers = Strangers::new(&documents);
        group.bench_function(BenchmarkId::new("first", audience.name()), |b| {
            b.iter_batched(
                || strangers.next(),
                |(policy, facts)| (policy.snapshot.peer(&facts), policy),
                BatchSize::SmallInput,
            );
        });
        let policy = compile(&documents);
        let facts = peer(PEER);
        assert!(matches!(policy.snapshot.peer(&facts).authorize(&command(0)), Verdict::Allow(_)));
        group.bench_function(BenchmarkId::new("again", audience.name()), |b| {
            b.iter(|| policy.snapshot.peer(black_box(&facts)));
        });
    }
    group.finish();
}

/// Peers of different uids, and a policy that has not seen them. It lives as long as the bench: criterion runs the bench's
/// closure several times, and a peer that comes again is another measurement.
struct Strangers<'a> {
    documents: &'a [Source],
    policy: Rc<CompiledPolicy>,
    seen: u32,
}

impl<'a> Strangers<'a> {
    /// Peers of one policy. A policy keeps what it compiled, so it is replaced before it has grown.
    const PER_POLICY: u32 = 256;

    fn new(documents: &'a [Source]) -> Self {
        Strangers { documents, policy: Rc::new(compile(documents)), seen: 0 }
    }

    fn next(&mut self) -> (Rc<CompiledPolicy>, PeerFacts) {
        if self.seen == Self::PER_POLICY {
            *self = Self::new(self.documents);
        }
        self.seen += 1;
        (Rc::clone(&self.policy), peer(PEER + self.seen))
    }
}

/// Text to snapshot, without reading files.
fn loading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for capabilities in SIZES {
        let documents = documents(capabilities, Audience::OneUidEach);
        group.throughput(Throughput::Elements(capabilities as u64));
        group.bench_function(BenchmarkId::from_parameter(capabilities), |b| b.iter(|| compile(&documents)));
    }
    group.finish();
}

fn compile(documents: &[Source]) -> CompiledPolicy {
    let fs = PluginManifest::new("fs".parse().expect("a legal name"))
        .scoped_command("read_file")
        .scope(ScopeKind::Path, ScopeDefault::Nothing);
    let application = (0..COMMANDS).map(command).fold(PluginManifest::application(), PluginManifest::command);
    let policy = Policy::new(OWN, &NoUsers).manifest(fs).manifest(application);
    let add = |policy: Policy<'static>, source: &Source| policy.document(source.clone(), Format::Toml);
    documents.iter().fold(policy, add).compile().expect("these files have no errors")
}

/// Capability files, each capability of which grants one command.
fn documents(capabilities: usize, audience: Audience) -> Vec<Source> {
    let all: Vec<usize> = (0..capabilities).collect();
    let files = all.chunks(PER_FILE).enumerate();
    files
        .map(|(file, capabilities)| {
            let mut text = String::new();
            for index in capabilities {
                let permission = command(index % COMMANDS).replace('_', "-");
                writeln!(
                    text,
                    "[[capabilities]]\nidentifier = 'c{index}'\npeers = ['{}']\npermissions = ['allow-{permission}']\n",
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
