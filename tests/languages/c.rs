//! The client in C: built without a warning by each compiler, its tests under sanitizers and valgrind, its README's program.

#![allow(clippy::unwrap_used)] // a test may fail by panicking

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::daemon::Daemon;
use crate::{clients, tool};

const STRICT: &[&str] = &["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"];
const SANITIZED: &[&str] = &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

fn client() -> PathBuf {
    clients().join("c")
}

fn has(program: &str, what: &str) -> bool {
    tool(&[PathBuf::from(program)], what).is_some()
}

/// Runs a command that must succeed, and gives what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout
}

/// A directory for programs, and how to build them.
struct Workshop {
    directory: tempfile::TempDir,
    compiler: &'static str,
}

impl Workshop {
    /// None, with a line about it, where the compiler is missing.
    fn with(compiler: &'static str) -> Option<Self> {
        let there = has(compiler, "the client in C with one of its compilers");
        there.then(|| Workshop { directory: tempfile::tempdir().unwrap(), compiler })
    }

    fn build(&self, name: &str, sources: &[PathBuf], more: &[&str]) -> PathBuf {
        let program = self.directory.path().join(name);
        let mut command = Command::new(self.compiler);
        command.args(STRICT).args(more).arg("-I").arg(client()).args(sources).arg("-o").arg(&program);
        run(&mut command);
        program
    }

    /// A program of the client's tests that has the library by including its source.
    fn test_of_the_inside(&self, name: &str, more: &[&str]) -> PathBuf {
        self.build(name, &[client().join(format!("tests/{name}.c"))], more)
    }

    /// A program that has the library as any other program would.
    fn user(&self, name: &str, source: PathBuf, more: &[&str]) -> PathBuf {
        self.build(name, &[source, client().join("invoked.c")], more)
    }
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/vectors")
}

fn calls(program: &Path, daemon: &Daemon) -> String {
    let mut command = Command::new(program);
    command.arg(daemon.pid().to_string()).env("INVOKED_ADDRESS", daemon.address());
    run(&mut command)
}

fn every_vector_and_call(compiler: &'static str) {
    let Some(workshop) = Workshop::with(compiler) else { return };
    for flags in [&[][..], SANITIZED] {
        let program = workshop.test_of_the_inside("vectors", flags);
        let told = run(Command::new(program).arg(vectors()));
        assert!(told.ends_with(" 0 failures\n"), "{told}");
        let daemon = Daemon::start();
        let program = workshop.user("calls", client().join("tests/calls.c"), flags);
        assert!(calls(&program, &daemon).ends_with("the daemon is gone: every call ended\n"));
    }
}

#[test]
fn the_vectors_and_calls_hold_with_cc() {
    every_vector_and_call("cc");
}

#[test]
fn the_vectors_and_calls_hold_with_clang() {
    every_vector_and_call("clang");
}

#[test]
fn mutated_vectors_break_no_rule_of_memory() {
    let Some(workshop) = Workshop::with("cc") else { return };
    let program = workshop.test_of_the_inside("fuzz", SANITIZED);
    let told = run(Command::new(program).arg(vectors()).arg("20000"));
    assert!(told.contains("20000 inputs"), "{told}");
}

#[test]
fn valgrind_finds_nothing() {
    let Some(workshop) = Workshop::with("cc") else { return };
    if !has("valgrind", "the client in C under valgrind") {
        return;
    }
    let daemon = Daemon::start();
    let program = workshop.user("calls", client().join("tests/calls.c"), &[]);
    let mut command = Command::new("valgrind");
    command.args(["-q", "--error-exitcode=9", "--leak-check=full", "--track-fds=no"]).arg(program);
    command.arg(daemon.pid().to_string()).env("INVOKED_ADDRESS", daemon.address());
    run(&mut command);
}

#[test]
fn the_programs_of_the_readme_and_the_examples_run() {
    let Some(workshop) = Workshop::with("cc") else { return };
    let readme = std::fs::read_to_string(client().join("README.md")).unwrap();
    let code = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(code.lines().count() <= 15, "the first program has {} lines", code.lines().count());
    let source = workshop.directory.path().join("hello.c");
    std::fs::write(&source, code).unwrap();
    let daemon = Daemon::start();
    let hello = workshop.user("hello", source, SANITIZED);
    assert_eq!(run(Command::new(hello).env("INVOKED_ADDRESS", daemon.address())), "\"pong\"\n");
    for (name, wanted) in [("count", "1\n2\n3\n"), ("loop", "16 answers\n")] {
        let program = workshop.user(name, client().join(format!("examples/{name}.c")), SANITIZED);
        assert_eq!(run(Command::new(program).env("INVOKED_ADDRESS", daemon.address())), wanted, "{name}");
    }
}

#[test]
fn the_client_stays_small() {
    let lines = |name: &str| std::fs::read_to_string(client().join(name)).unwrap().lines().count();
    let all = lines("invoked.h") + lines("invoked.c");
    assert!(all < 3500, "{all} lines");
}
