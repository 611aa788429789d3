//! Processes that hold connections under other uids: no daemon lets one uid have all that there may be.
//!
//! A holder is this program again, told what to do by its environment and what to do next by lines on its standard input.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use invoked_client::blocking::Client;
use invoked_client::{Address, Options};

use crate::failure::Failure;

/// What a holder connects to, and how often: `N ADDRESS`.
const JOB: &str = "INVOKED_BENCH_HOLDER";

/// The first uid of holders. They need no entry in the list of users.
const FIRST_UID: u32 = 64_100;

/// Lines to a holder and from it.
const CALL: &str = "call";
const READY: &str = "ready";

/// How many connections each uid holds, this process's own first, so that the daemon lets them: a quarter of `room` at most, and of
/// what is left then so much that each after it could have the same. Fewer than `wanted` if more uids would not help.
pub(crate) fn shares(wanted: u64, room: u64, others: bool) -> Vec<u64> {
    let (mut left, mut missing, mut shares) = (room, wanted, Vec::new());
    let uids = if others { 8 } else { 1 };
    for uid in 1..=uids {
        let share = missing.min(room / 4).min(left / (uid + 1));
        if share == 0 {
            break;
        }
        shares.push(share);
        left -= share;
        missing -= share;
    }
    shares
}

/// Connections of one other uid, until it is dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts the `index`-th, which makes so many connections to `address`. Only root can; `directory` is one that everybody may
    /// search.
    pub(crate) fn start(
        index: u32,
        count: u64,
        address: &Address,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let program = directory.join("holder");
        if !program.exists() {
            // Where it was built may be nobody else's business.
            let own = std::env::current_exe().map_err(Failure::io("can't find this program"))?;
            fs::copy(own, &program).map_err(Failure::io("can't copy this program"))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&program, mode).map_err(Failure::io("can't change a mode"))?;
        }
        let uid = FIRST_UID + index;
        let mut command = Command::new(&program);
        command.env_clear().env(JOB, format!("{count} {address}")).current_dir("/").uid(uid).gid(uid);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().map_err(Failure::io(format!("can't start a process of uid {uid}")))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err(gone()) };
        let mut holder = Holder { child, input, output: BufReader::new(output) };
        holder.wait()?;
        Ok(holder)
    }

    /// Has a call answered on each connection.
    pub(crate) fn call(&mut self) -> Result<(), Failure> {
        writeln!(self.input, "{CALL}").map_err(Failure::io("a holder does not listen"))?;
        self.wait()
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(Failure::io("a holder can't be read"))?;
        if line.trim() == READY { Ok(()) } else { Err(gone()) }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn gone() -> Failure {
    Failure::io("a process of another uid ended")(std::io::ErrorKind::UnexpectedEof.into())
}

/// Runs as a holder, if that is what this process was started for.
pub(crate) fn run() -> Option<ExitCode> {
    let job = std::env::var(JOB).ok()?;
    Some(match hold(&job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("holder: {failure}");
            ExitCode::FAILURE
        }
    })
}

fn hold(job: &str) -> Result<(), Failure> {
    let invalid =
        || Failure::io("the job of a holder is not N ADDRESS")(std::io::ErrorKind::InvalidInput.into());
    let (count, address) = job.split_once(' ').ok_or_else(invalid)?;
    let count: u64 = count.parse().map_err(|_| invalid())?;
    let address: Address = address.parse()?;
    let connect = |_| Client::connect(Options::new().address(address.clone()).name("bench", ""));
    let clients = (0..count).map(connect).collect::<Result<Vec<_>, _>>()?;
    println!("{READY}");
    for line in std::io::stdin().lines() {
        let line = line.map_err(Failure::io("the bench is gone"))?;
        if line == CALL {
            clients.iter().try_for_each(call)?;
            println!("{READY}");
        }
    }
    Ok(())
}

/// A small call.
pub(crate) fn call(client: &Client) -> Result<(), Failure> {
    client.call("bench.bytes").arg("len", 64).send()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn each_uid_leaves_as_much_to_those_that_come() {
        assert_eq!(shares(1000, 19_744, true), [1000]);
        assert_eq!(shares(10_000, 19_744, true), [4936, 4936, 128]);
        assert_eq!(shares(10_000, 19_744, false), [4936], "only root can be others");
        assert_eq!(shares(10_000, 400, true), [100, 100, 50, 30, 20, 14, 10, 8], "as many as there may be");
        assert_eq!(shares(10_000, 3, true), [] as [u64; 0]);
    }
}
