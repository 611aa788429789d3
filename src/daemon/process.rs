//! What rules may look at of a peer's process, read when it connects.
//!
//! Owns the order: read, confirm, keep a hold if some rule relies on it. Blocks, so it is not for the loop.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use invoked_transport::{ControlGroup, FileId, Process, ProcessError};

use crate::authority::{PeerFacts, PolicySnapshot, ProcessFact, unit_of};
use crate::session::ProcessClaim;

/// Adds what `policy` asks of the process behind a pidfd to `facts`, as far as some rule matches by it: what is not watched must
/// not be believed later, when another policy asks. The claim is to be asked before each call.
pub(super) fn gather(
    pidfd: &OwnedFd,
    policy: &PolicySnapshot,
    mut facts: PeerFacts,
) -> (PeerFacts, Option<ProcessClaim>) {
    let needed = policy.needed_facts(facts.uid);
    let process = match Process::of(pidfd.as_fd()) {
        Ok(process) => process,
        Err(error) => {
            facts.executable = if needed.executable { unknown(&error) } else { ProcessFact::NotRead };
            facts.unit = if needed.unit { unknown(&error) } else { ProcessFact::NotRead };
            return (facts, None);
        }
    };
    let mut file = needed.executable.then(|| executable(&process));
    let mut group = needed.unit.then(|| unit(&process));
    facts.executable = fact(file.as_ref());
    facts.unit = fact(group.as_ref());
    let relied = policy.relied_facts(&facts);
    if !relied.executable {
        facts.executable = unwatched(facts.executable);
        file = None;
    }
    if !relied.unit {
        facts.unit = unwatched(facts.unit);
        group = None;
    }
    let file = file.and_then(Result::ok).map(|(_, file)| file);
    let group = group.and_then(Result::ok).map(|(_, group)| group);
    (facts, relied.any().then(|| ProcessClaim::new(process, file, group)))
}

/// What was found, as rules look at it.
fn fact<T: Clone, H>(found: Option<&Result<(T, H), Unconfirmed>>) -> ProcessFact<T> {
    match found {
        None => ProcessFact::NotRead,
        Some(Ok((found, _))) => ProcessFact::Known(found.clone()),
        Some(Err(error)) => unknown(error),
    }
}

fn unwatched<T>(fact: ProcessFact<T>) -> ProcessFact<T> {
    match fact {
        ProcessFact::Known(_) | ProcessFact::NotRead => ProcessFact::NotRead,
        ProcessFact::Unknown(why) => ProcessFact::Unknown(why),
    }
}

/// The unit, and the control group by which it was told.
fn unit(process: &Process) -> Result<(String, (ControlGroup, String)), Unconfirmed> {
    let group = process.control_group()?;
    let path = group.path()?;
    match unit_of(&path) {
        Some(unit) => Ok((unit, (group, path))),
        None => Err(Unconfirmed::NoUnit(path)),
    }
}

/// The path that leads, in this mount namespace, to the very file that the process runs, and that none but root can change.
fn executable(process: &Process) -> Result<(PathBuf, FileId), Unconfirmed> {
    let running = process.executable()?;
    let here = FileId::of_trusted(&running.path)?;
    if here == running.id { Ok((running.path, here)) } else { Err(Unconfirmed::Another(running.path)) }
}

/// Why it can't be told what a process runs, or where it is.
#[derive(Debug, thiserror::Error)]
enum Unconfirmed {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("it runs another file than the one that lies at {} here", .0.display())]
    Another(PathBuf),
    #[error("its control group {0:?} is of no unit")]
    NoUnit(String),
}

fn unknown<T>(why: &dyn std::error::Error) -> ProcessFact<T> {
    ProcessFact::Unknown(why.to_string())
}
