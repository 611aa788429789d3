//! A daemon in a process and a directory of its own, and what /proc says about it.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use invoked_client::blocking::Client;
use invoked_client::{Address, Options};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing that a test waits for takes this long; it only keeps a broken daemon from hanging the run.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Waits for something that another process does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < HANG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory for one daemon that other users can reach into.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        for name in ["home", "files", "capabilities"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            set_mode(&directory.path().join(name), 0o755);
        }
        Place(directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        set_mode(&path, 0o644);
        path
    }

    pub(crate) fn give_to(&self, uid: u32) {
        for path in
            [self.0.path().to_owned(), self.path("home"), self.path("files"), self.path("capabilities")]
        {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/invoked.sock")
    }

    pub(crate) fn address(&self) -> Address {
        Address::unix(self.socket()).unwrap()
    }

    pub(crate) fn options(&self) -> Options {
        // Some tests run the daemon as another user.
        Options::new()
            .address(self.address())
            .name("test", "1")
            .server(invoked_client::Server::Anyone)
            .connect_timeout(HANG)
            .timeout(HANG)
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A daemon to be started.
pub(crate) struct Start {
    place: Place,
    flags: Vec<String>,
    config: String,
    uid: Option<u32>,
    wrapper: Option<Command>,
    stdin: Stdio,
    /// The directory of capability files, if it is named by a flag.
    capabilities: Option<PathBuf>,
}

impl Start {
    /// Without `--dev`: only root and the daemon's own uid may operate it, unless a capability says more.
    pub(crate) fn plain() -> Self {
        let place = Place::new();
        Start {
            capabilities: Some(place.path("capabilities")),
            place,
            flags: Vec::new(),
            config: String::new(),
            uid: None,
            wrapper: None,
            stdin: Stdio::null(),
        }
    }

    /// With `--dev`, in the directory `files` of its place.
    pub(crate) fn dev() -> Self {
        Self::plain().flag("--dev")
    }

    /// At the place of an earlier daemon.
    pub(crate) fn at(self, place: Place) -> Self {
        Start { capabilities: Some(place.path("capabilities")), place, ..self }
    }

    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Looks for capability files here.
    pub(crate) fn capabilities_at(self, path: PathBuf) -> Self {
        Start { capabilities: Some(path), ..self }
    }

    /// Looks for capability files where they are when nobody says: `capabilities.d` beside the configuration.
    pub(crate) fn capabilities_by_rule(self) -> Self {
        Start { capabilities: None, ..self }
    }

    pub(crate) fn everyone(self) -> Self {
        self.flag("--access").flag("everyone")
    }

    /// Adds lines to the configuration file.
    pub(crate) fn config(mut self, lines: &str) -> Self {
        writeln!(self.config, "{lines}").unwrap();
        self
    }

    /// Adds a capability file.
    pub(crate) fn capability(self, name: &str, text: &str) -> Self {
        self.place.write(&format!("capabilities/{name}"), text);
        self
    }

    /// Runs it as another user; only root can.
    pub(crate) fn uid(mut self, uid: u32) -> Self {
        self.place.give_to(uid);
        self.uid = Some(uid);
        self
    }

    /// Starts it through another program, which is given the program and its arguments.
    pub(crate) fn through(mut self, wrapper: Command) -> Self {
        self.wrapper = Some(wrapper);
        self
    }

    /// Gives it something as its standard input.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn run(self) -> Daemon {
        match self.try_run() {
            Ok(daemon) => daemon,
            Err((exit, _)) => panic!("the daemon ended with {:?}: {}", exit.code, exit.stderr),
        }
    }

    /// Starts it and waits until it is ready or has ended.
    pub(crate) fn try_run(mut self) -> Result<Daemon, (Exit, Place)> {
        let (mut command, copy) = self.command();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let reading = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(read) = stderr.read(&mut buffer) {
                    if read == 0 {
                        break;
                    }
                    log.lock().unwrap().extend_from_slice(&buffer[..read]);
                }
            }
        });
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        if !ready.contains("listening on") {
            let status = child.wait().unwrap();
            reading.join().unwrap();
            let stderr = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
            return Err((Exit { code: status.code(), stderr }, self.place));
        }
        // What it still says must find a reader.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Ok(Daemon { place: Some(self.place), child, log, reading: Some(reading), ready, _copy: copy })
    }

    fn command(&mut self) -> (Command, Option<TempDir>) {
        let (program, copy) = match self.uid {
            Some(_) => crate::child::copy_of(Path::new(env!("CARGO_BIN_EXE_invoked"))),
            None => (PathBuf::from(env!("CARGO_BIN_EXE_invoked")), None),
        };
        let mut command = match &self.wrapper {
            Some(wrapper) => {
                let mut command = Command::new(wrapper.get_program());
                command.args(wrapper.get_args()).arg(program);
                command
            }
            None => Command::new(program),
        };
        let config = self.place.write("invoked.toml", &self.config);
        command.arg("--user").arg("--config").arg(config).args(&self.flags);
        command.arg("--address").arg(format!("unix:{}", self.place.socket().display()));
        if let Some(directory) = &self.capabilities {
            command.arg("--capabilities").arg(directory);
        }
        command.env_clear().env("HOME", self.place.path("home")).env("PATH", "/usr/bin:/bin");
        command.env("RUST_BACKTRACE", "1").current_dir(self.place.path("files"));
        command
            .stdin(std::mem::replace(&mut self.stdin, Stdio::null()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        (command, copy)
    }
}

/// How a daemon ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

/// A daemon that runs; killed when dropped.
pub(crate) struct Daemon {
    place: Option<Place>,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    reading: Option<JoinHandle<()>>,
    ready: String,
    _copy: Option<TempDir>,
}

impl Daemon {
    pub(crate) fn place(&self) -> &Place {
        self.place.as_ref().expect("taken only at its end")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The line by which it said that it is ready.
    pub(crate) fn ready_line(&self) -> &str {
        &self.ready
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.place().options()).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Everything that it has written to standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until its log has all of `parts` in one line after the first `from` bytes.
    pub(crate) fn await_line(&self, from: usize, parts: &[&str]) {
        let start = Instant::now();
        loop {
            let log = self.log();
            let found = log[from..].lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found {
                return;
            }
            assert!(start.elapsed() < HANG, "no line of the log has {parts:?}:\n{}", &log[from..]);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> (Exit, Place) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < HANG, "the daemon does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        };
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        let code = status.code().or(status.signal().map(|signal| -signal));
        (Exit { code, stderr: self.log() }, self.place.take().unwrap())
    }

    /// Kills it without a chance to clean up.
    pub(crate) fn kill(self) -> Place {
        self.signal(Signal::KILL);
        self.wait().1
    }

    /// How many descriptors it has open.
    pub(crate) fn fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// What of its memory is resident and its own, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `core.stats`.
pub(crate) fn stats(client: &Client) -> Value {
    client.invoke("core.stats", &Value::Null).unwrap()
}
