//! A daemon under `--dev` in a temporary directory, and lines typed to it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

pub(crate) const INVOKECTL: &str = env!("CARGO_BIN_EXE_invokectl");
const INVOKED: &str = env!("CARGO_BIN_EXE_invoked");

/// A daemon of a test's own; it goes with the test.
pub(crate) struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

/// How a line ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"))
    }

    /// With a capability by which the shared directory may be written too.
    pub(crate) fn sharing_for_writing() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let capabilities = directory.path().join("config/invoked/capabilities.d");
        std::fs::create_dir_all(&capabilities).expect("a directory");
        let text = "identifier = 'write'\npeers = ['self']\n\
            permissions = [{ identifier = 'fs:write', allow = ['$DIR/**'] }]\n";
        std::fs::write(capabilities.join("write.toml"), text).expect("written");
        Self::start_in(directory)
    }

    pub(crate) fn start_in(directory: tempfile::TempDir) -> Self {
        std::fs::create_dir(directory.path().join("shared")).expect("a directory");
        let mut child = Command::new(INVOKED)
            .args(["--user", "--dev", "--log", "off", "--address", &address(directory.path())])
            .env_remove("INVOKED_CONFIG")
            .env("XDG_CONFIG_HOME", directory.path().join("config"))
            .current_dir(directory.path().join("shared"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("invoked starts");
        let mut ready = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut ready).expect("a line");
        assert!(ready.contains("listening on"), "{ready}");
        Daemon { child, directory }
    }

    pub(crate) fn address(&self) -> String {
        address(self.directory.path())
    }

    /// Puts a capability file where the daemon looks for them.
    pub(crate) fn capability(&self, name: &str, text: &str) {
        let directory = self.directory.path().join("config/invoked/capabilities.d");
        std::fs::create_dir_all(&directory).expect("a directory");
        let new = directory.join(format!(".{name}"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, directory.join(name)).expect("renamed");
    }

    /// The directory that the daemon shares.
    pub(crate) fn shared(&self) -> PathBuf {
        self.directory.path().canonicalize().expect("it is there").join("shared")
    }

    /// Runs `invokectl -a ADDRESS` with these words.
    pub(crate) fn ctl(&self, words: &[&str]) -> Ended {
        self.ctl_with(words, b"")
    }

    /// The same with something on standard input.
    pub(crate) fn ctl_with(&self, words: &[&str], input: &[u8]) -> Ended {
        let address = self.address();
        let words: Vec<&str> = ["-a", &address].into_iter().chain(words.iter().copied()).collect();
        run(Command::new(INVOKECTL).args(words).current_dir(self.shared()), input)
    }

    /// Starts `invokectl -a ADDRESS` with these words, which goes on by itself.
    pub(crate) fn follow(&self, words: &[&str]) -> Following {
        let mut child = Command::new(INVOKECTL)
            .args(["-a", &self.address()])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("invokectl starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Following { child, lines }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("signalled");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }
}

/// A process that prints one object a line; it ends with the test.
pub(crate) struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    /// The next line; waits for it.
    pub(crate) fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        object(&line)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test may have killed it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("text")
    }

    /// Standard output as one object a line.
    pub(crate) fn objects(&self) -> Vec<Value> {
        self.text().lines().map(object).collect()
    }

    /// Standard error as the one object that `-j` promises for an error.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line: {}", self.stderr);
        let mut object = object(lines[0]);
        assert_eq!(object.as_object().map(serde_json::Map::len), Some(1), "{object}");
        object["error"].take()
    }
}

/// Runs invokectl without a daemon.
pub(crate) fn ctl(words: &[&str]) -> Ended {
    run(Command::new(INVOKECTL).args(words), b"")
}

pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ended {
    for variable in ["INVOKED_ADDRESS", "INVOKED_CONFIG", "COMPLETE"] {
        command.env_remove(variable);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("invokectl starts");
    // It may end without reading it.
    drop(child.stdin.take().expect("piped").write_all(input));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    Ended { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

fn object(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(value.is_object(), "{line}");
    value
}

fn address(directory: &Path) -> String {
    format!("unix:{}/run/test.sock", directory.display())
}
