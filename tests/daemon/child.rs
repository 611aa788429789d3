//! Other processes: this test binary, started again with a role, perhaps as another user.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use invoked_client::blocking::Client;
use invoked_client::{Address, Error, Options, Server};
use tempfile::TempDir;

use crate::harness::{HANG, Place, set_mode};

pub(crate) const ROLE: &str = "INVOKED_DAEMON_TEST_ROLE";
pub(crate) const ADDRESS: &str = "INVOKED_DAEMON_TEST_ADDRESS";

/// What a child prints before each answer, to tell it from what the test harness prints.
const MARK: &str = "child: ";

/// An unprivileged uid that nobody is; not the overflow uid, which no rule may match.
pub(crate) const STRANGER: u32 = 65_533;

/// A copy of a program where every user can start it: the build directory may be closed to others.
pub(crate) fn copy_of(program: &Path) -> (PathBuf, Option<TempDir>) {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    let copy = directory.path().join("program");
    // Not by this process: a child that another test starts meanwhile would hold the copy open for writing, and a
    // program that is open for writing can't be started.
    assert!(Command::new("cp").arg(program).arg(&copy).status().unwrap().success());
    set_mode(&copy, 0o755);
    (copy, Some(directory))
}

/// Whether this process can start others as [`STRANGER`]. Where it can't, says once per test which part is left out, and fails
/// under the gate (CI).
pub(crate) fn can_be_others(left_out: &str) -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let knows_strangers = map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap());
        let (first, length) = (numbers.next().unwrap(), numbers.nth(1).unwrap());
        (first..first + length).contains(&u64::from(STRANGER))
    });
    let can = rustix::process::geteuid().is_root() && knows_strangers;
    if !can {
        assert!(std::env::var_os("CI").is_none(), "the gate needs root for this: {left_out}");
        // Straight to the descriptor: the harness would swallow what a passing test prints.
        let text = format!("NOT TESTED, for want of root: {left_out}\n");
        rustix::io::write(std::io::stderr(), text.as_bytes()).unwrap();
    }
    can
}

/// A running child, killed when dropped.
pub(crate) struct Other {
    child: Child,
    answers: BufReader<ChildStdout>,
    orders: ChildStdin,
    _copy: Option<TempDir>,
}

impl Other {
    /// As this user.
    pub(crate) fn start(role: &str, place: &Place) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), None, role, place)
    }

    /// As [`STRANGER`].
    pub(crate) fn start_stranger(role: &str, place: &Place) -> Self {
        let (program, copy) = copy_of(&std::env::current_exe().unwrap());
        let mut command = Command::new(program);
        command.uid(STRANGER).gid(STRANGER).current_dir("/");
        Self::spawn(command, copy, role, place)
    }

    /// By a command line of the test's own, to which the arguments of a role are added.
    pub(crate) fn start_by(command: Command, role: &str, place: &Place) -> Self {
        Self::spawn(command, None, role, place)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself, and is no more.
    pub(crate) fn await_end(&mut self) {
        self.child.wait().unwrap();
    }

    fn spawn(mut command: Command, copy: Option<TempDir>, role: &str, place: &Place) -> Self {
        command.args(["--exact", "child_process", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(ADDRESS, place.address().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let answers = BufReader::new(child.stdout.take().unwrap());
        let orders = child.stdin.take().unwrap();
        Other { child, answers, orders, _copy: copy }
    }

    /// Waits for its next answer.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the child ended without an answer");
            // The harness leaves its own text on the line that an answer ends.
            if let Some((_, answer)) = line.trim_end().split_once(MARK) {
                return answer.to_owned();
            }
        }
    }

    /// Gives it an order.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// Gives it an order and waits for the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Ends it without giving it a chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the role that the environment gives; false if there is none.
pub(crate) fn play() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let address: Address = std::env::var(ADDRESS).unwrap().parse().unwrap();
    match role.as_str() {
        "caller" => caller(&address),
        "mixed" => crate::killed::mixed_workload(&address),
        "holder" => crate::lanes::holder(&address),
        "sharer" => crate::hostile_memory::sharer(&address),
        "steady" => crate::steady::caller(&address),
        "turncoat" => crate::processes::turncoat(&address),
        "heir" => crate::processes::heir(),
        "ghost" => crate::processes::ghost(&address),
        "waiting" => await_end(),
        "impatient" => crate::ends::impatient(&address),
        "receiver" => crate::ends::receiver(&address),
        "answering" => crate::providers::answering(&address),
        "hoarding" => crate::providers::hoarding(&address),
        "silent" => crate::silence::many_silent(&address),
        other => panic!("there is no role {other}"),
    }
    true
}

pub(crate) fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{MARK}{}", text.as_ref()).unwrap();
    out.flush().unwrap();
}

pub(crate) fn options(address: &Address) -> Options {
    Options::new()
        .address(address.clone())
        .name("child", "1")
        .server(Server::Anyone)
        .connect_timeout(HANG)
        .timeout(HANG)
}

/// Connects, and then makes the call that each line of its input names: a command, perhaps a space and JSON arguments.
fn caller(address: &Address) {
    let client = match Client::connect(options(address)) {
        Ok(client) => client,
        Err(error) => return say(format!("not connected: {error}")),
    };
    say("connected");
    let mut order = String::new();
    while std::io::stdin().read_line(&mut order).unwrap() > 0 {
        let (command, arguments) = order.trim_end().split_once(' ').unwrap_or((order.trim_end(), "{}"));
        let outcome = client.call(command).json(arguments.to_owned()).send();
        say(match outcome {
            Ok(reply) => format!("ok {}", String::from_utf8_lossy(reply.bytes())),
            Err(error) => format!("{} {error}", code_of(&error)),
        });
        order.clear();
    }
}

pub(crate) fn code_of(error: &Error) -> &'static str {
    error.code().map_or("none", invoked_client::ErrorCode::name)
}

/// Waits until whoever started this process lets it go on, or is gone.
pub(crate) fn await_end() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
