//! A directory and a daemon of the tool's own, for measuring and for the tour.
//!
//! It owns both and leaves neither behind, unless it is told to. The daemon reads no file of the user's or the machine's.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File};
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use invoked_client::blocking::Client;
use invoked_client::{Address, Options};
use rustix::process::{Pid, Signal, kill_process};

use super::failure::Failure;
use super::interrupt::{OnInterrupt, on_interrupt};

/// How long a daemon may take to listen.
const START: Duration = Duration::from_secs(15);

/// Longer than this, a temporary directory leaves no room for a socket's name.
const LONGEST_BASE: usize = 60;

/// A daemon under `--dev`, in a directory of its own.
#[derive(Debug)]
pub(super) struct Sandbox {
    // The daemon goes before the directory that it uses.
    daemon: Option<Daemon>,
    directory: Directory,
    address: Address,
}

/// A temporary directory that only this user may enter.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    cleanup: Option<OnInterrupt>,
    at_end: AtEnd,
}

#[derive(Debug)]
struct Daemon {
    child: Child,
    cleanup: Option<OnInterrupt>,
    at_end: AtEnd,
}

/// What becomes of a thing when the tool is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Remove,
    Leave,
}

impl Sandbox {
    /// Makes the directory; no daemon runs yet.
    pub(super) fn new() -> Result<Self, Failure> {
        let directory = Directory::new().map_err(Failure::local("can't make a temporary directory"))?;
        for name in ["shared", "config"] {
            let path = directory.path.join(name);
            fs::create_dir(&path).map_err(Failure::local(path.display().to_string()))?;
        }
        let address = Address::unix(directory.path.join("run/invoked.sock"))
            .map_err(|error| Failure::Usage(format!("{error}; set TMPDIR to a shorter path")))?;
        Ok(Sandbox { daemon: None, directory, address })
    }

    /// Makes the directory and starts a daemon in it.
    pub(super) fn started() -> Result<Self, Failure> {
        let mut sandbox = Self::new()?;
        sandbox.start()?;
        Ok(sandbox)
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory.path
    }

    /// The directory that the daemon shares under `--dev`.
    pub(super) fn shared(&self) -> PathBuf {
        self.directory.path.join("shared")
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// How to connect to the daemon.
    pub(super) fn options(&self) -> Options {
        Options::new().address(self.address.clone()).name("invokectl", env!("CARGO_PKG_VERSION"))
    }

    /// Connects to the daemon.
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.options())?)
    }

    /// The daemon's pid, while one runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|daemon| daemon.child.id())
    }

    /// What the daemons have logged so far.
    pub(super) fn log(&self) -> String {
        fs::read(self.log_path())
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Starts the daemon, and waits until it listens.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        if self.daemon.is_some() {
            return Ok(());
        }
        let mut command = self.daemon_command()?;
        let child = command.spawn().map_err(Failure::local(format!("can't start {}", program(&command))))?;
        let mut daemon = Daemon::new(child);
        let start = Instant::now();
        loop {
            if invoked_transport::Stream::try_connect(&self.address).is_ok() {
                self.daemon = Some(daemon);
                return Ok(());
            }
            if let Ok(Some(status)) = daemon.child.try_wait() {
                let text = format!("the daemon ended with {status}: {}", self.log().trim());
                return Err(Failure::local("can't start a daemon")(io::Error::other(text)));
            }
            if start.elapsed() > START {
                let text = format!("it does not listen after {} s", START.as_secs());
                return Err(Failure::local("can't start a daemon")(io::Error::other(text)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tries to start another daemon at the same address; gives how it ended, and what it said.
    pub(super) fn second_daemon(&self) -> Result<(ExitStatus, String), Failure> {
        let mut command = self.daemon_command()?;
        command.stderr(Stdio::piped());
        let ended = command.output().map_err(Failure::local(format!("can't start {}", program(&command))))?;
        Ok((ended.status, String::from_utf8_lossy(&ended.stderr).into_owned()))
    }

    /// Sends the daemon a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        kill_process(Pid::from_child(&daemon.child), signal)
            .map_err(|error| Failure::local("can't signal the daemon")(error.into()))
    }

    /// Kills the daemon as `kill -9` does, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        self.daemon = None;
    }

    /// Leaves daemon and directory as they are when this is dropped.
    pub(super) fn keep(mut self) {
        (self.directory.cleanup, self.directory.at_end) = (None, AtEnd::Leave);
        if let Some(daemon) = &mut self.daemon {
            (daemon.cleanup, daemon.at_end) = (None, AtEnd::Leave);
        }
    }

    fn daemon_command(&self) -> Result<Command, Failure> {
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.map_err(Failure::local("can't write the daemon's log"))?;
        let mut command = Command::new(sibling("invoked")?);
        command.args(["--user", "--dev", "--log", "info", "--address"]).arg(self.address.to_string());
        for variable in ["INVOKED_ADDRESS", "INVOKED_CONFIG", "INVOKED_LOG", "NOTIFY_SOCKET", "LISTEN_FDS"] {
            command.env_remove(variable);
        }
        command
            .env("XDG_CONFIG_HOME", self.directory.path.join("config"))
            .env("NO_COLOR", "1")
            .current_dir(self.shared())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C is for the tool, which then ends its daemon.
            .process_group(0);
        Ok(command)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path.join("daemon.log")
    }
}

impl Directory {
    fn new() -> io::Result<Self> {
        let base = std::env::temp_dir();
        let base = if base.as_os_str().len() > LONGEST_BASE { PathBuf::from("/tmp") } else { base };
        // The daemon's path scopes are compared with links resolved.
        let base = base.canonicalize()?;
        let name = format!("invokectl-{:08x}", RandomState::new().hash_one(std::process::id()) >> 32);
        let path = base.join(name);
        // It must not be there: what is there is somebody else's.
        DirBuilder::new().mode(0o700).create(&path)?;
        let cleanup = path.clone();
        let cleanup = Some(on_interrupt(move || drop(fs::remove_dir_all(cleanup))));
        Ok(Directory { path, cleanup, at_end: AtEnd::Remove })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.at_end == AtEnd::Remove {
            // What can't be removed lies in a temporary directory.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

impl Daemon {
    fn new(child: Child) -> Self {
        let pid = Pid::from_child(&child);
        // Not yet waited for, so the number is still this process's.
        let cleanup = Some(on_interrupt(move || {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }));
        Daemon { child, cleanup, at_end: AtEnd::Remove }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.cleanup = None;
        if self.at_end == AtEnd::Remove {
            // It may have ended by itself.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A program that stands beside this one.
pub(super) fn sibling(name: &str) -> Result<PathBuf, Failure> {
    let me = std::env::current_exe().map_err(Failure::local("can't find this program's own file"))?;
    let path = me.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if path.exists() {
        return Ok(path);
    }
    let text = format!("{} is not there: build or install `{name}` beside invokectl", path.display());
    Err(Failure::local("can't start a daemon")(io::Error::new(io::ErrorKind::NotFound, text)))
}

fn program(command: &Command) -> String {
    Path::new(command.get_program()).display().to_string()
}
