//! Rules by executable and by unit, against real processes that are not what they seem: behind another mount namespace, after
//! an exec, gone, or with a number that was another's.
//!
//! All of it needs root: to be others, to have files that none but root can change, to make control groups.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use invoked_client::Address;
use invoked_proto::registry::{ErrorCode, FrameKind};
use invoked_proto::testing::AnyRecord;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::child::{Other, ROLE, STRANGER, can_be_others, copy_of, say};
use crate::harness::{Daemon, HANG, Start, eventually, set_mode};
use crate::peer::{RawPeer, greeting, raw_frame};

/// Where an heir finds that it may call, and whether its connection is one whose handshake it has to read.
const GO: &str = "INVOKED_DAEMON_TEST_GO";
const FRESH: &str = "INVOKED_DAEMON_TEST_FRESH";

/// Copies of this program in a place that none but root can change.
struct Programs {
    directory: TempDir,
}

impl Programs {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("invoked-test-").tempdir_in("/usr/local").unwrap();
        set_mode(directory.path(), 0o755);
        let programs = Programs { directory };
        let this = std::env::current_exe().unwrap();
        for program in [programs.gallery(), programs.other()] {
            // Most of this program is for debuggers. By another process: see `copy_of`.
            let stripped = Command::new("strip").arg("-o").arg(&program).arg(&this).status();
            assert!(stripped.expect("strip is installed, beside the linker").success());
            set_mode(&program, 0o755);
        }
        programs
    }

    /// The one that the rule means.
    fn gallery(&self) -> PathBuf {
        self.directory.path().join("gallery")
    }

    /// The same, as another file.
    fn other(&self) -> PathBuf {
        self.directory.path().join("other")
    }

    /// A file by which strangers who run the gallery may call `bench.echo`.
    fn rule(&self) -> String {
        rule(&format!("exe = \"{}\"", self.gallery().display()))
    }
}

fn rule(of_process: &str) -> String {
    format!(
        "identifier = \"gallery\"\npeers = [{{ uid = {STRANGER}, {of_process} }}]\npermissions = [\"bench:allow-echo\"]\n"
    )
}

/// A command line that runs a program as a stranger.
fn as_stranger(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.uid(STRANGER).gid(STRANGER).current_dir("/");
    command
}

fn caller(program: &Path, daemon: &Daemon) -> Other {
    let mut caller = Other::start_by(as_stranger(program), "caller", daemon.place());
    assert_eq!(caller.answer(), "connected");
    caller
}

#[track_caller]
fn assert_denied(answer: &str) {
    assert!(answer.starts_with("permission_denied"), "{answer}");
}

#[track_caller]
fn assert_allowed(answer: &str) {
    assert!(answer.starts_with("ok"), "{answer}");
}

fn socket(address: &Address) -> PathBuf {
    address.to_string().strip_prefix("unix:").expect("a path").into()
}

/// Opens a connection and calls, before it is told what to become.
pub(crate) fn turncoat(address: &Address) {
    let mut peer = RawPeer::open(&socket(address));
    say(call(&mut peer, 1));
    become_another(peer.socket, None);
}

/// Opens a connection and says hello, without waiting for an answer.
pub(crate) fn ghost(address: &Address) {
    let mut peer = RawPeer::connect(&socket(address));
    peer.send(&greeting());
    say("sent");
    become_another(peer.socket, Some(FRESH));
}

/// Takes the connection that is its standard input, and calls on it.
pub(crate) fn heir() {
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut peer = RawPeer::of(UnixStream::from(socket), std::env::var_os(FRESH).is_none());
    if let Some(go) = std::env::var_os(GO) {
        let start = Instant::now();
        while !Path::new(&go).exists() {
            assert!(start.elapsed() < HANG, "nobody lets it go on");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    say(call(&mut peer, 3));
}

/// Reads an order: `exec PROGRAM` becomes another program, `leave PROGRAM GO` leaves the connection to one and ends.
fn become_another(socket: UnixStream, fresh: Option<&str>) {
    let mut order = String::new();
    std::io::stdin().read_line(&mut order).unwrap();
    let words: Vec<&str> = order.split_whitespace().collect();
    let mut heir = Command::new(words[1]);
    heir.args(["--exact", "child_process", "--nocapture", "--test-threads=1"]).env(ROLE, "heir");
    heir.envs(fresh.map(|name| (name, "1"))).stdin(OwnedFd::from(socket));
    match words[0] {
        "exec" => panic!("{}", heir.exec()),
        "leave" => drop(heir.env(GO, words[2]).spawn().unwrap()),
        other => panic!("no order {other}"),
    }
}

fn call(peer: &mut RawPeer, stream: u64) -> String {
    peer.send(&raw_frame(stream, "bench.echo", b"x"));
    loop {
        let frame = peer.next_frame().expect("an answer");
        match frame.header.known_kind() {
            Some(FrameKind::Result) if frame.header.stream == stream => return "ok".to_owned(),
            Some(FrameKind::Error) if frame.header.stream == stream => {
                assert!(AnyRecord::decode("Failure", &frame.metadata).unwrap().is_ok());
                return ErrorCode::from_u32(frame.header.arg).unwrap().name().to_owned();
            }
            _ => {}
        }
    }
}

#[test]
fn an_executable_is_the_file_at_its_path() {
    if !can_be_others("rules by executable") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().capability("gallery.toml", &programs.rule()).run();
    assert_allowed(&caller(&programs.gallery(), &daemon).ask("bench.echo"));
    let from = daemon.log().len();
    assert_denied(&caller(&programs.other(), &daemon).ask("bench.echo"));
    daemon.await_line(from, &["denied: bench.echo", &format!("uid={STRANGER}")]);
    // A link to it is it: what runs is the file. A copy in a place that others may write is not.
    let (copy, _guard) = copy_of(&programs.gallery());
    let link = copy.with_file_name("gallery");
    std::os::unix::fs::symlink(programs.gallery(), &link).unwrap();
    assert_allowed(&caller(&link, &daemon).ask("bench.echo"));
    assert_denied(&caller(&copy, &daemon).ask("bench.echo"));
}

#[test]
fn a_file_that_others_may_change_is_no_executable_to_rely_on() {
    if !can_be_others("that a rule by executable wants a file of root's") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().capability("gallery.toml", &programs.rule()).run();
    let gallery = programs.gallery();
    set_mode(&gallery, 0o775);
    assert_denied(&caller(&gallery, &daemon).ask("bench.echo"));
    set_mode(&gallery, 0o755);
    set_mode(programs.directory.path(), 0o757);
    assert_denied(&caller(&gallery, &daemon).ask("bench.echo"));
    set_mode(programs.directory.path(), 0o755);
    std::os::unix::fs::chown(&gallery, Some(STRANGER), None).unwrap();
    assert_denied(&caller(&gallery, &daemon).ask("bench.echo"));
    std::os::unix::fs::chown(&gallery, Some(0), None).unwrap();
    assert_allowed(&caller(&gallery, &daemon).ask("bench.echo"));
}

#[test]
fn another_file_under_the_same_path_in_a_mount_namespace_is_another_file() {
    if !can_be_others("that a mount namespace fools no rule by executable") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().capability("gallery.toml", &programs.rule()).run();
    let (own, _guard) = copy_of(&programs.other());
    let script = "mount --bind \"$1\" \"$2\" && shift && exec setpriv --reuid=65533 --regid=65533 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(&own).arg(programs.gallery()).current_dir("/");
    let mut fraud = Other::start_by(command, "caller", daemon.place());
    assert_eq!(fraud.answer(), "connected");
    let shown = std::fs::read_link(format!("/proc/{}/exe", fraud.pid())).unwrap();
    assert_eq!(shown, programs.gallery(), "the path alone would be believed");
    assert_denied(&fraud.ask("bench.echo"));
    assert_allowed(&caller(&programs.gallery(), &daemon).ask("bench.echo"));
}

#[test]
fn an_exec_after_connect_loses_what_the_program_before_was_given() {
    if !can_be_others("that an exec loses the rights of a rule by executable") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().capability("gallery.toml", &programs.rule()).run();
    let mut turncoat = Other::start_by(as_stranger(&programs.gallery()), "turncoat", daemon.place());
    assert_allowed(&turncoat.answer());
    assert_denied(&turncoat.ask(&format!("exec {}", programs.other().display())));
    // And what it executes may be a script's interpreter, or itself anew: that one is the file again.
    let mut same = Other::start_by(as_stranger(&programs.gallery()), "turncoat", daemon.place());
    assert_allowed(&same.answer());
    assert_allowed(&same.ask(&format!("exec {}", programs.gallery().display())));
}

#[test]
fn a_connection_that_is_left_to_another_process_loses_them_too() {
    if !can_be_others("that a connection without its process has no rights by executable") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().capability("gallery.toml", &programs.rule()).run();
    let mut parent = Other::start_by(as_stranger(&programs.gallery()), "turncoat", daemon.place());
    assert_allowed(&parent.answer());
    let go = daemon.place().path("go");
    parent.order(&format!("leave {} {}", programs.gallery().display(), go.display()));
    parent.await_end();
    std::fs::write(&go, "").unwrap();
    assert_denied(&parent.answer());
}

#[test]
fn a_number_that_is_used_again_is_not_the_process_that_connected() {
    if !can_be_others("that a process number that is used again fools no rule by executable") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().capability("gallery.toml", &programs.rule()).run();
    // While the daemon stands still, a process connects, leaves its connection to another and ends; and its number goes to
    // one that runs what the rule means. Others may be quicker and keep the number: then all of it once more.
    daemon.signal(Signal::STOP);
    let start = Instant::now();
    let (mut ghost, go, _successor) = loop {
        let mut ghost = Other::start_by(as_stranger(&programs.other()), "ghost", daemon.place());
        assert_eq!(ghost.answer(), "sent");
        let go = daemon.place().path(&format!("go-{}", ghost.pid()));
        ghost.order(&format!("leave {} {}", programs.other().display(), go.display()));
        ghost.await_end();
        if let Some(successor) = recycle(ghost.pid(), &programs.gallery()) {
            break (ghost, go, successor);
        }
        std::fs::write(&go, "").unwrap();
        assert!(start.elapsed() < HANG, "others take each number");
    };
    let shown = std::fs::read_link(format!("/proc/{}/exe", ghost.pid())).unwrap();
    assert_eq!(shown, programs.gallery(), "the number alone would be believed");
    daemon.signal(Signal::CONT);
    std::fs::write(&go, "").unwrap();
    assert_denied(&ghost.answer());
    assert_allowed(&caller(&programs.gallery(), &daemon).ask("bench.echo"));
}

/// Kills what it holds when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program, which waits, under a number that a process had before. Nothing if others keep the number.
fn recycle(number: u32, program: &Path) -> Option<Ended> {
    for _ in 0..20 {
        let mut last = std::fs::OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid").unwrap();
        write!(last, "{}", number - 1).unwrap();
        let mut command = as_stranger(program);
        command.args(["--exact", "child_process", "--test-threads=1"]).env(ROLE, "waiting");
        command.env(crate::child::ADDRESS, "unix:/none").stdin(Stdio::piped()).stdout(Stdio::null());
        let child = Ended(command.spawn().unwrap());
        if child.0.id() == number {
            return Some(child);
        }
    }
    None
}

#[test]
fn a_peer_that_was_connected_when_a_rule_first_asks_is_not_matched_by_it() {
    if !can_be_others("that a rule by executable does not match who was connected before it") {
        return;
    }
    let programs = Programs::new();
    let daemon = Start::dev().everyone().run();
    let mut before = caller(&programs.gallery(), &daemon);
    daemon.place().write("capabilities/gallery.toml", programs.rule());
    eventually("the rule is not in force", || {
        caller(&programs.gallery(), &daemon).ask("bench.echo").starts_with("ok")
    });
    assert_denied(&before.ask("bench.echo"));
}

#[test]
fn descriptors_are_kept_for_those_only_whom_a_rule_matches_by_their_process() {
    if !can_be_others("how many descriptors rules by executable keep") {
        return;
    }
    let programs = Programs::new();
    // A watch has descriptors of its own, some time after the start.
    let start = Start::dev().everyone().config("[policy]\nwatch = false\n");
    let daemon = start.capability("gallery.toml", &programs.rule()).run();
    let none = daemon.fds();
    let other = caller(&programs.other(), &daemon);
    eventually("more than its socket is kept of one that no rule matches", || daemon.fds() == none + 1);
    let mut gallery = caller(&programs.gallery(), &daemon);
    assert_allowed(&gallery.ask("bench.echo"));
    assert_eq!(daemon.fds(), none + 3, "two sockets, and one directory of /proc");
    drop((other, gallery));
    eventually("descriptors are left behind", || daemon.fds() == none);
}

/// Control groups of a test, in a slice of their own; they go with it.
struct Groups {
    slice: PathBuf,
}

impl Groups {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let unified =
            mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("unified control groups");
        let root = PathBuf::from(unified.split(' ').nth(4).unwrap());
        let slice = root.join(format!("invokedtest{}.slice", std::process::id()));
        std::fs::create_dir(&slice).unwrap();
        Groups { slice }
    }

    fn group(&self, path: &str) -> PathBuf {
        let group = self.slice.join(path);
        std::fs::create_dir_all(&group).unwrap();
        group
    }

    /// A command line that runs this program in a group, as a stranger.
    fn stranger_in(&self, path: &str, program: &Path) -> Command {
        let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec setpriv --reuid=65533 --regid=65533 --clear-groups \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(self.group(path)).arg(program).current_dir("/");
        command
    }

    fn caller_in(&self, path: &str, program: &Path, daemon: &Daemon) -> Other {
        let mut caller = Other::start_by(self.stranger_in(path, program), "caller", daemon.place());
        assert_eq!(caller.answer(), "connected");
        caller
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Only what is empty can be removed, and a group is a moment after its last process.
        eventually("a control group is left behind", || {
            fn remove(group: &Path) -> bool {
                for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
                    if entry.path().is_dir() {
                        remove(&entry.path());
                    }
                }
                std::fs::remove_dir(group).is_ok()
            }
            remove(&self.slice)
        });
    }
}

#[test]
fn a_unit_is_the_service_manager_s_and_not_one_that_a_user_made() {
    if !can_be_others("rules by unit") {
        return;
    }
    let (program, _copy) = copy_of(&std::env::current_exe().unwrap());
    let groups = Groups::new();
    let daemon = Start::dev().everyone().capability("unit.toml", &rule("unit = \"gallery.service\"")).run();
    for (path, allowed) in [
        ("gallery.service", true),
        ("gallery.service/inner", true),
        ("sub.slice/gallery.service", true),
        ("other.service", false),
        ("user@65533.service/app.slice/gallery.service", false),
        ("container/gallery.service", false),
    ] {
        let answer = groups.caller_in(path, &program, &daemon).ask("bench.echo");
        assert_eq!(answer.starts_with("ok"), allowed, "{path}: {answer}");
    }
    assert_denied(&caller(&program, &daemon).ask("bench.echo"));
    // One that is moved afterwards is in it no more.
    let mut moved = groups.caller_in("gallery.service", &program, &daemon);
    assert_allowed(&moved.ask("bench.echo"));
    std::fs::write(groups.group("other.service").join("cgroup.procs"), moved.pid().to_string()).unwrap();
    assert_denied(&moved.ask("bench.echo"));
    drop(moved);
}

#[test]
fn without_a_hold_on_processes_such_a_file_is_refused() {
    // The first question that the daemon asks of a socket is whether the kernel has SO_PEERPIDFD.
    let strace = |program: &str| {
        let mut strace = Command::new(program);
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=getsockopt"]);
        strace.args(["-e", "inject=getsockopt:error=ENOPROTOOPT:when=1"]);
        strace
    };
    let uid = rustix::process::geteuid().as_raw();
    let text = format!(
        "identifier = \"a\"\npeers = [{{ uid = {uid}, exe = \"/usr/bin/gallery\" }}]\npermissions = [\"bench:allow-echo\"]\n"
    );
    let start = Start::dev().capability("a.toml", &text).through(strace("strace"));
    let (exit, _) = start.try_run().err().expect("it did not start");
    assert_eq!(exit.code, Some(3), "{}", exit.stderr);
    for part in ["a.toml:2:10", "SO_PEERPIDFD", "Linux 6.5"] {
        assert!(exit.stderr.contains(part), "{part} is not in:\n{}", exit.stderr);
    }
}
