//! Other processes: this test binary, started again with a role, perhaps as another user.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use invoked_transport::{Access, Address, BindFault, Listener, Stream, process_env};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tempfile::TempDir;

const ROLE: &str = "INVOKED_TEST_ROLE";
const ADDRESS: &str = "INVOKED_TEST_ADDRESS";

/// What a child prints before each answer, to tell it from what the test harness prints.
const MARK: &str = "child: ";

/// An unprivileged user that nobody is.
pub(crate) const STRANGER: u32 = 47_110;
/// The group of [`STRANGER`].
pub(crate) const STRANGERS: u32 = 47_120;

/// A directory for one test, of mode 0755, so that other users can reach what is in it.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        set_mode(directory.path(), 0o755);
        Self { directory }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The address of a socket in a directory of its own.
    pub(crate) fn address(&self) -> Address {
        Address::unix(self.path("s/invoked.sock")).expect("short enough")
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Leaves a socket that nobody listens on. It never listened: a listener's descriptor, closed here, may live on for a moment in
/// a child that another test is about to start.
pub(crate) fn leave_dead_socket(path: &Path) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("short enough")).expect("bound");
}

/// Whether this process can start others as other users and give them files: as root, but not as the root of a user namespace
/// that has no other users (`unshare -Ur`). Where it can't, says so, and fails under the gate (CI).
pub(crate) fn can_be_others() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").expect("readable");
    let has_strangers = map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().expect("a number"));
        let (first, length) = (numbers.next().expect("three"), numbers.nth(1).expect("three"));
        (first..first + length).contains(&STRANGER.into())
    });
    let can = rustix::process::geteuid().is_root() && has_strangers;
    if !can {
        assert!(std::env::var_os("CI").is_none(), "the gate needs root: this test acts as other users");
        // Straight to the descriptor: the harness would swallow what a passing test prints.
        let text = b"NOT TESTED, for want of root: what other users may do\n";
        rustix::io::write(std::io::stderr(), text).expect("written");
    }
    can
}

/// A child process to be started.
pub(crate) struct Start {
    command: Command,
    /// Where the copy of the program lies while it runs.
    _copy: Option<TempDir>,
}

impl Start {
    pub(crate) fn new(role: &str, address: &Address) -> Self {
        Self::program(&std::env::current_exe().expect("this program"), None, role, address)
    }

    /// As the user [`STRANGER`]; only root can.
    pub(crate) fn as_stranger(role: &str, address: &Address) -> Self {
        let copy = tempfile::tempdir().expect("a directory");
        set_mode(copy.path(), 0o755);
        // The build directory may be closed to others.
        let program = copy.path().join("child");
        // Not by this process: a child that another test starts meanwhile would hold the copy open for writing, and a program
        // that is open for writing can't be started.
        let copied =
            Command::new("cp").arg(std::env::current_exe().expect("this program")).arg(&program).status();
        assert!(copied.expect("cp").success());
        let mut start = Self::program(&program, Some(copy), role, address);
        start.command.uid(STRANGER).gid(STRANGERS).current_dir("/");
        start
    }

    /// Through another program that starts what it is given, such as `setpriv`.
    pub(crate) fn through(wrapper: &[&str], role: &str, address: &Address) -> Self {
        let direct = Self::new(role, address);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(direct.command.get_program()).args(direct.command.get_args());
        command.env(ROLE, role).env(ADDRESS, address.to_string());
        Self { command, _copy: None }
    }

    fn program(program: &Path, copy: Option<TempDir>, role: &str, address: &Address) -> Self {
        let mut command = Command::new(program);
        command.args(["--exact", "child_process", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(ADDRESS, address.to_string());
        Self { command, _copy: copy }
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub(crate) fn spawn(mut self) -> Running {
        self.command.stdout(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, answers, _copy: self._copy }
    }

    /// Runs it to its end, without input, and gives its one answer.
    pub(crate) fn answer(self) -> String {
        let mut running = self.stdin(Stdio::null()).spawn();
        let answer = running.next();
        running.finish();
        answer
    }
}

/// A running child, killed when dropped.
pub(crate) struct Running {
    child: Child,
    answers: BufReader<ChildStdout>,
    _copy: Option<TempDir>,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next answer.
    pub(crate) fn next(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.answers.read_line(&mut line).expect("its output"),
                0,
                "the child ended without an answer"
            );
            // The harness leaves its own text on the line that an answer ends.
            if let Some((_, answer)) = line.trim_end().split_once(MARK) {
                return answer.to_string();
            }
        }
    }

    /// Ends it without giving it a chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    fn finish(mut self) {
        self.answers.read_to_string(&mut String::new()).expect("the rest");
        assert!(self.child.wait().expect("reaped").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the role that the environment gives, or tells that there is none.
pub(crate) fn play() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let address: Address = std::env::var(ADDRESS).expect("set with the role").parse().expect("an address");
    match role.as_str() {
        "echo" => say(address.to_string()),
        "connect" => connect(&address),
        "hello" => hello(&address),
        "serve" => serve(&address),
        "race" => race(&address),
        "narrow umask" => narrow_umask(&address),
        "activated" => activated(),
        "leaks" => crate::leaks::count(&address),
        other => panic!("there is no role {other}"),
    }
    true
}

pub(crate) fn say(text: impl AsRef<OsStr>) {
    println!("\n{MARK}{}", text.as_ref().display());
}

fn connect(address: &Address) {
    match Stream::connect(address) {
        Ok(_) => say("connected"),
        Err(error) => say(error.to_string()),
    }
}

/// Connects, and stays until the other side closes.
fn hello(address: &Address) {
    let stream = Stream::connect(address).expect("connected");
    say("connected");
    stream.wait(invoked_transport::Interest::Read, None).expect("waited");
}

fn serve(address: &Address) {
    let _listener = Listener::bind(address, Access::Everyone).expect("bound");
    say("bound");
    std::thread::sleep(Duration::MAX);
}

/// Waits until its standard input ends, as that of all others does at the same moment, and tries to listen.
fn race(address: &Address) {
    say("waiting");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the start");
    match Listener::bind(address, Access::Owner) {
        Ok(_listener) => {
            say("bound");
            std::thread::sleep(Duration::MAX);
        }
        Err(error) => match error.fault {
            BindFault::InUse { pid } => {
                say(pid.map_or("in use".to_string(), |pid| format!("in use by {pid}")))
            }
            other => say(format!("failed: {other}")),
        },
    }
}

fn narrow_umask(address: &Address) {
    use std::os::unix::fs::PermissionsExt;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let _listener = Listener::bind(address, Access::Everyone).expect("bound");
    let socket = address.socket_path().expect("a path");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o7777;
    say(format!("{:o} {:o}", mode(socket.parent().expect("a directory")), mode(socket)));
}

/// Takes the listener that was passed to it, twice.
fn activated() {
    match Listener::inherited(&process_env) {
        Ok(Some(listener)) => {
            assert!(Listener::inherited(&process_env).expect("taken").is_none());
            listener.try_accept().expect("a connection waits");
            say(listener.address().to_string());
        }
        Ok(None) => say("nothing"),
        Err(error) => say(error.to_string()),
    }
}
