//! One crate of handlers, hosted by a program, embedded in one, and provided to a daemon: all three answer alike, byte for
//! byte.
#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::unwrap_used)] // a test may fail by panicking

mod handlers;
mod transcript;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use invoked::Builder;
use invoked::provider::ProvideOptions;
use invoked::transport::{Access, Address, Listener};

/// What says to a child of this program which part it plays, and where.
const PART: &str = "THREE_WAYS_PART";
const PLACE: &str = "THREE_WAYS_PLACE";

const POLICY: &str = r#"
identifier = "ways"
peers = ["self"]
provide = ["ways"]
permissions = [
  "core:default",
  "ways:all",
  { identifier = "ways:allow-open", allow = ["https://a/"], deny = ["https://a/secret"] },
  "ways:no-b-secrets",
]
"#;

/// A directory with a policy, a file, and a place for a socket.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("policy")).unwrap();
        std::fs::write(directory.path().join("policy/ways.toml"), POLICY).unwrap();
        std::fs::write(directory.path().join("file"), vec![b'f'; 2 << 20]).unwrap();
        Place(directory)
    }
}

fn address(place: &Path) -> Address {
    format!("unix:{}/run/s.sock", place.display()).parse().unwrap()
}

fn with_policy<N>(builder: Builder<invoked::Wry, N>, place: &Path) -> Builder<invoked::Wry, N> {
    builder.capabilities(place.join("policy"))
}

fn with_handlers<N>(builder: Builder<invoked::Wry, N>, place: &Path) -> Builder<invoked::Wry, N> {
    builder
        .manage(handlers::Counter::default())
        .manage(handlers::Shared(place.join("file")))
        .plugin(handlers::plugin())
}

/// A part that another process plays; it ends with the test.
struct Part(Child);

impl Part {
    fn play(part: &str, place: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "plays_a_part"])
            .env(PART, part)
            .env(PLACE, place)
            .env_remove("INVOKED_CONFIG")
            .env("XDG_CONFIG_HOME", place.join("config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = |line: &String| line.contains("listening on") || line.contains("registered");
        lines.map(Result::unwrap).find(is_ready).expect("it gets ready");
        Part(child)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn plays_a_part() {
    let Some(part) = std::env::var_os(PART) else { return };
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let code = match part.to_str().unwrap() {
        "host" => {
            let address = address(&place).to_string();
            let words = ["host", "--user", "--log", "off", "--address", &address].map(Into::into);
            with_handlers(with_policy(Builder::new("org.example.ways"), &place), &place).run_with(words)
        }
        "provider" => {
            let options = ProvideOptions::from(address(&place));
            let builder = with_handlers(Builder::new("org.example.ways"), &place);
            let provider = builder.provide_blocking(options).unwrap();
            println!("registered {:?}", provider.provided());
            provider.wait().unwrap();
            ExitCode::SUCCESS
        }
        part => panic!("{part:?}"),
    };
    assert_eq!(code, ExitCode::SUCCESS);
}

#[test]
fn hosted_embedded_and_provided_commands_answer_alike() {
    let hosted = {
        let place = Place::new();
        let _host = Part::play("host", place.0.path());
        transcript::of(address(place.0.path()))
    };
    let embedded = {
        let place = Place::new();
        let listener = Listener::bind(&address(place.0.path()), Access::Owner).unwrap();
        let builder = with_handlers(with_policy(Builder::default(), place.0.path()), place.0.path());
        let daemon = builder.serve(listener).unwrap();
        let transcript = transcript::of(address(place.0.path()));
        daemon.shutdown().unwrap();
        transcript
    };
    let provided = {
        let place = Place::new();
        let listener = Listener::bind(&address(place.0.path()), Access::Owner).unwrap();
        // This daemon has none of the handlers.
        let daemon = with_policy(Builder::default(), place.0.path()).serve(listener).unwrap();
        let provider = Part::play("provider", place.0.path());
        let transcript = transcript::of(address(place.0.path()));
        drop(provider);
        daemon.shutdown().unwrap();
        transcript
    };
    assert!(embedded.len() > 20, "{embedded:?}");
    for (way, other) in [("hosted", &hosted), ("provided", &provided)] {
        assert_eq!(other.len(), embedded.len());
        for (entry, expected) in other.iter().zip(&embedded) {
            assert_eq!(entry, expected, "{way}");
        }
    }
}
