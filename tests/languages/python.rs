//! The Python client: its unittest suite with a daemon, and its types.

use std::process::{Command, Output};

use crate::daemon::{Daemon, INVOKED};
use crate::{clients, target, tool};

#[test]
fn the_python_client_passes_its_suite() {
    let Some(python) = tool(&["python3".into()], "the Python client") else { return };
    let daemon = Daemon::start();
    let mut command = Command::new(python);
    command.args(["-W", "error", "-m", "unittest"]).current_dir(clients().join("python"));
    command.env("INVOKED_ADDRESS", daemon.address()).env("INVOKED_PROGRAM", INVOKED);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let said = passes(&mut command);
    // The suite leaves tests out where it has no daemon.
    assert!(said.contains("\nOK\n") && !said.contains("skipped"), "{said}");
}

#[test]
fn the_python_client_is_typed() {
    let candidates = [target().join("python/bin/mypy"), "mypy".into()];
    let Some(mypy) = tool(&candidates, "whether the types of the Python client are sound") else { return };
    let cache = target().join("tmp/mypy");
    let said = passes(Command::new(mypy).arg("--cache-dir").arg(cache).current_dir(clients().join("python")));
    assert!(said.contains("Success: no issues found"), "{said}");
}

/// Runs a command that must succeed, and gives what it said.
fn passes(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it was run before");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{said}");
    said
}
