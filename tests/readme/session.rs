//! Three terminals on a clean clone: one in which a daemon runs, one for a provider at it, one in which commands end.
//!
//! What a reader types runs as it stands, by a shell, with two differences: ` --release` is left out, because a second
//! optimised build would cost minutes and show nothing more; and the daemon's address and configuration are those of
//! the test, so that nobody's own daemon is touched.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::blocks::{Block, matches};
use crate::root;

/// How long a command may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Session {
    clone: PathBuf,
    /// Where commands run that need no checkout; only this user may enter it.
    place: TempDir,
    daemon: Option<Daemon>,
    /// A process that goes on beside it, at the daemon.
    provider: Option<Daemon>,
    /// Of the clone, for as long as this lasts.
    _lock: File,
}

/// A process that goes on until the next one of its kind, or the end.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Session {
    /// Clones HEAD and builds it. Its build directory is its own, and stays for the next run: in that of the workspace the
    /// clone's packages have the same places as the workspace's, and cargo would take the ones for the others.
    pub(crate) fn on_a_clean_clone() -> Self {
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let lock = File::create(temporary.join("readme.lock")).expect("a lock file");
        lock.lock().expect("the lock of the clone");
        // Always the same place, so that each run replaces what the one before has built.
        let clone = temporary.join("readme");
        if clone.exists() {
            fs::remove_dir_all(&clone).expect("the last clone can be removed");
        }
        let cloned =
            Command::new("git").args(["clone", "--quiet", "--local"]).arg(root()).arg(&clone).status();
        assert!(cloned.expect("git runs").success(), "git clone failed");
        let session = Session {
            clone,
            place: TempDir::new().expect("a directory"),
            daemon: None,
            provider: None,
            _lock: lock,
        };
        let built = ["--offline", "--locked"].iter().any(|from| session.build(from));
        assert!(built, "the clone does not build");
        session
    }

    fn build(&self, from: &str) -> bool {
        let status = self.shell(&format!("cargo build {from} --bins --examples"), &self.clone).status();
        status.expect("a shell runs").success()
    }

    pub(crate) fn clone_dir(&self) -> &Path {
        &self.clone
    }

    /// A document begins: nothing runs, no file is there.
    pub(crate) fn begin(&mut self) {
        self.provider = None;
        self.daemon = None;
        self.place = TempDir::new().expect("a directory");
    }

    /// Does what a block says; those that say nothing to do are passed by.
    pub(crate) fn follow(&mut self, block: &Block) {
        if block.is(&["console"]) {
            for step in block.steps() {
                self.run(block, &step.command, &step.expected);
            }
        } else if block.is(&["console", "daemon"]) {
            let [step] = &block.steps()[..] else { panic!("{}: one command", block.place) };
            self.start(block, &step.command, &step.expected);
        } else if block.is(&["console", "provider"]) {
            let [step] = &block.steps()[..] else { panic!("{}: one command", block.place) };
            self.provide(block, &step.command, &step.expected);
        } else if block.is(&["text", "log"]) {
            self.await_lines(block, "log", &block.text.lines().map(str::to_owned).collect::<Vec<_>>());
        } else if block.is(&["toml"])
            && let Some(name) = block.text.lines().next().and_then(|line| line.strip_prefix("# "))
            && name.ends_with(".toml")
        {
            let path = self.place.path().join(name);
            fs::create_dir_all(path.parent().expect("a name")).expect("a directory");
            fs::write(path, &block.text).expect("a file of the sandbox");
        }
    }

    /// What `-o copy` of the first command saved.
    pub(crate) fn saved_copy_is_the_readme(&self) {
        let saved = fs::read(self.clone.join("copy")).expect("the README saves a copy");
        assert_eq!(saved, fs::read(self.clone.join("README.md")).expect("a README"));
    }

    /// The capability files of `examples/` are sound for the daemon of `examples/host.rs`.
    pub(crate) fn samples_are_sound(&self) {
        // A checkout may lie where a group may write, and files there would be refused.
        let samples = self.clone.join("examples/capabilities");
        let copy = format!("cp -R '{}' capabilities && chmod -R go-w capabilities", samples.display());
        let check = "examples/host --check-config --capabilities capabilities";
        let line = format!("{copy} && '{}'/{check}", self.clone.join("target/debug").display());
        let output = self.shell(&line, self.place.path()).output().expect("a shell runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, "org.example.notes: configuration and policy are sound (0 warnings)\n", "{err}");
    }

    fn run(&mut self, block: &Block, command: &str, expected: &[String]) {
        if command == "cargo test" {
            // It is what runs this.
            return;
        }
        let output = self.place.path().join("output");
        let file = File::create(&output).expect("a file");
        let mut shell = self.shell(command, self.directory(command));
        shell.stderr(file.try_clone().expect("a second handle")).stdout(file);
        let mut child = Daemon(shell.spawn().expect("a shell runs"));
        let start = Instant::now();
        while child.0.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < PATIENCE, "{}: {command}: does not end", block.place);
            std::thread::sleep(Duration::from_millis(5));
        }
        let actual = as_ana(&fs::read_to_string(&output).expect("UTF-8"));
        assert!(matches(expected, &actual), "{}\n", difference(block, command, expected, &actual));
    }

    fn start(&mut self, block: &Block, command: &str, expected: &[String]) {
        self.daemon = None;
        let create = |name| File::create(self.place.path().join(name)).expect("a file");
        let mut shell = self.shell(&format!("exec {command}"), self.directory(command));
        shell.stdout(create("out")).stderr(create("log"));
        self.daemon = Some(Daemon(shell.spawn().expect("a shell runs")));
        self.await_lines(block, "out", expected);
    }

    fn provide(&mut self, block: &Block, command: &str, expected: &[String]) {
        self.provider = None;
        let out = File::create(self.place.path().join("provider")).expect("a file");
        let mut shell = self.shell(&format!("exec {command}"), self.directory(command));
        shell.stderr(out.try_clone().expect("a second handle")).stdout(out);
        self.provider = Some(Daemon(shell.spawn().expect("a shell runs")));
        self.await_lines(block, "provider", expected);
    }

    /// Waits until the daemon has written what `expected` says.
    fn await_lines(&mut self, block: &Block, name: &str, expected: &[String]) {
        let path = self.place.path().join(name);
        let start = Instant::now();
        loop {
            let actual = as_ana(&fs::read_to_string(&path).expect("UTF-8"));
            if matches(expected, &actual) {
                return;
            }
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.0.try_wait().expect("a child"));
            if ended.is_some() || start.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.place.path().join("log")).unwrap_or_default();
                panic!("{}\nlog ({ended:?}):\n{log}", difference(block, name, expected, &actual));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A checkout is where `cargo` finds its package.
    fn directory(&self, command: &str) -> &Path {
        if command.starts_with("cargo ") { &self.clone } else { self.place.path() }
    }

    fn shell(&self, command: &str, directory: &Path) -> Command {
        let programs = self.clone.join("target/debug");
        let path = std::env::var("PATH").unwrap_or_default();
        let cargo = Path::new(env!("CARGO")).parent().expect("cargo lies somewhere");
        let mut shell = Command::new("sh");
        // Files that a group may write would be refused as a policy.
        shell
            .arg("-c")
            .arg(format!("umask 022; {}", command.replace(" --release", "")))
            .current_dir(directory);
        shell
            .env("PATH", format!("{}:{}:{path}", programs.display(), cargo.display()))
            .env("CARGO_TARGET_DIR", self.clone.join("target"))
            .env("CARGO_BUILD_BUILD_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme-build"))
            .env("CARGO_TERM_QUIET", "true")
            .env("INVOKED_ADDRESS", format!("unix:{}/run/invoked.sock", self.place.path().display()))
            .env("XDG_CONFIG_HOME", self.place.path().join("config"))
            .env("NO_COLOR", "1")
            .env_remove("INVOKED_CONFIG")
            .env_remove("INVOKED_LOG")
            .stdin(Stdio::null());
        shell
    }
}

fn difference(block: &Block, what: &str, expected: &[String], actual: &[String]) -> String {
    let (expected, actual) = (expected.join("\n"), actual.join("\n"));
    format!("{}: {what}\nexpected:\n{expected}\n\nfound:\n{actual}", block.place)
}

/// The lines as the documents have them: whoever runs this is ana there, with uid 1000, and each process has one pid.
fn as_ana(text: &str) -> Vec<String> {
    let uid = fs::metadata("/proc/self").expect("this process").uid();
    let lines = text.lines().map(|line| {
        let line = line.replace(&format!("uid-{uid}-"), "uid-1000-");
        let line = line.replace(&format!("\"uid:{uid}\""), "\"uid:1000\"");
        let line = between(&line, &format!("uid={uid}("), ")", "uid=1000(ana)");
        // Without an entry in the user database.
        let line = line.replace(&format!("for uid={uid} pid="), "for uid=1000(ana) pid=");
        pids(&line)
    });
    lines.collect()
}

/// Replaces what begins with `begin` and ends with `end`.
fn between(line: &str, begin: &str, end: &str, by: &str) -> String {
    match line.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1))) {
        Some((before, after)) => format!("{before}{by}{after}"),
        None => line.to_owned(),
    }
}

fn pids(line: &str) -> String {
    let mut parts = line.split("pid=");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| {
        format!("{line}pid=4242{}", part.trim_start_matches(|c: char| c.is_ascii_digit()))
    })
}

#[test]
fn whoever_runs_this_is_ana() {
    let uid = fs::metadata("/proc/self").expect("this process").uid();
    let text = format!("uid={uid}(somebody) pid=7, uid-{uid}-x\npeers = [\"uid:{uid}\"] pid=1 pid=2");
    assert_eq!(
        as_ana(&text),
        ["uid=1000(ana) pid=4242, uid-1000-x", "peers = [\"uid:1000\"] pid=4242 pid=4242"]
    );
    assert_eq!(as_ana(&format!("for uid={uid} pid=7")), ["for uid=1000(ana) pid=4242"]);
}
