//! A daemon under `--dev` in a temporary directory, for a suite in another language.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub(crate) const INVOKED: &str = env!("CARGO_BIN_EXE_invoked");

/// A daemon of a test's own; it goes with the test.
pub(crate) struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let shared = directory.path().join("shared");
        std::fs::create_dir(&shared).expect("a directory");
        let child = Command::new(INVOKED)
            .args(["--user", "--dev", "--log", "off", "--address", &address(&directory)])
            .env_remove("INVOKED_CONFIG")
            .env("XDG_CONFIG_HOME", directory.path().join("config"))
            .current_dir(shared)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("invoked starts");
        let mut daemon = Daemon { child, directory };
        let mut ready = String::new();
        let stdout = daemon.child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut ready).expect("a line");
        assert!(ready.contains("listening on"), "{ready}");
        daemon
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> String {
        address(&self.directory)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn address(directory: &tempfile::TempDir) -> String {
    format!("unix:{}/run/test.sock", directory.path().display())
}
