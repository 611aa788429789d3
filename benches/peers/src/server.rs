//! Servers: this program a second time, in a process of its own.
//!
//! It owns how they start, say that they are ready, and end.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use invoked::ctl::bench::Placement;
use invoked_benches::Programs;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::request::Fault;

/// How long a server may take to start, and to end when it is asked to.
const START: Duration = Duration::from_secs(15);
const END: Duration = Duration::from_secs(2);

/// What a server writes when it can be called.
const READY: &str = "ready";

/// With what and where servers are started.
pub(crate) struct Place<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) placement: &'a Placement,
}

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

/// The server of a peer, and the directory it has its socket in.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    address: PathBuf,
    // Removed when nothing uses it any more.
    _directory: TempDir,
}

impl Process {
    /// Starts a program on the processors of servers.
    pub(crate) fn start(place: &Place<'_>, command: &mut Command) -> Result<Self, Fault> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = place.placement.on_server(|| command.spawn())?;
        Ok(Process(child.map_err(|error| format!("can't start {name}: {error}"))?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended already.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.has_ended_by(Instant::now())
    }

    fn has_ended_by(&mut self, time: Instant) -> bool {
        while !matches!(self.0.try_wait(), Ok(Some(_))) {
            if Instant::now() >= time {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Process {
    /// Asks first: what has shared memory with a name can remove it then.
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        if !self.has_ended_by(Instant::now() + END) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

impl Server {
    /// Starts the server of the peer with this name, at a socket of its own.
    pub(crate) fn start(place: &Place<'_>, peer: &str) -> Result<Self, Fault> {
        let directory = tempfile::tempdir()?;
        let address = directory.path().join("socket");
        Self::start_at(place, peer, address, directory)
    }

    /// The same, at an address that is known already; `directory` lives as long as the server.
    pub(crate) fn start_at(
        place: &Place<'_>,
        peer: &str,
        address: PathBuf,
        directory: TempDir,
    ) -> Result<Self, Fault> {
        let said = directory.path().join("said");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", peer]).arg(&address);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&said)?);
        let mut process = Process::start(place, &mut command)?;
        let output = process.0.stdout.take().ok_or("a server without output")?;
        if !is_ready(output) {
            drop(process);
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            let last = last
                .map_or_else(|| format!("nothing was heard of it for {} s", START.as_secs()), str::to_owned);
            return Err(format!("its server did not start: {last}").into());
        }
        Ok(Server { process, address, _directory: directory })
    }

    pub(crate) fn address(&self) -> &Path {
        &self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Waits for a server's first line.
fn is_ready(output: std::process::ChildStdout) -> bool {
    let (sender, receiver) = mpsc::channel();
    // It ends with the line, or with the server.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        let _ = sender.send(read.is_ok() && line.trim() == READY);
    });
    receiver.recv_timeout(START).unwrap_or(false)
}

/// Said by a server as soon as it can be called.
pub(crate) fn ready() -> Result<(), Fault> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{READY}")?;
    Ok(output.flush()?)
}

/// A server ends with the process that started it.
pub(crate) fn end_with_parent() -> Result<(), Fault> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}
