//! `invokectl list`: what this caller may call.

use serde::Deserialize;

use super::args::Global;
use super::connection::connect;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Deserialize)]
struct Discovered {
    commands: Vec<Listed>,
}

/// A command that the caller may call.
#[derive(Debug, Deserialize, serde::Serialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) summary: String,
}

pub(super) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let commands = listed(&connect(global)?)?;
    if output.is_json() {
        return commands.iter().try_for_each(|command| output.object(command));
    }
    if commands.is_empty() {
        output.note("this daemon lets you call nothing; a capability file would");
        return Ok(());
    }
    let rows = commands.into_iter().map(|command| vec![command.name, command.summary]).collect();
    output.table(&["name", "summary"], rows)
}

/// Asks the daemon.
pub(super) fn listed(client: &invoked_client::blocking::Client) -> Result<Vec<Listed>, Failure> {
    let discovered: Discovered = client.call("core.discover").idempotent().send()?.json()?;
    Ok(discovered.commands)
}
