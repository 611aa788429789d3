//! From the global flags to a connected client.

use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_client::{AddressOptions, Options, Scope};

use super::args::Global;
use super::failure::Failure;
use super::output::Output;

/// Connects as the flags say, and tells what the daemon warns of.
pub(super) fn connect(global: &Global) -> Result<Client, Failure> {
    let client = Client::connect(options(global))?;
    for warning in client.info().warnings {
        Output::new(global).note(&format!("warning: {warning}"));
    }
    Ok(client)
}

/// Connects as the flags say, within `limit`; with `files` large results may come as open files.
pub(super) fn connect_within(global: &Global, limit: Duration, files: bool) -> Result<Client, Failure> {
    Ok(Client::connect(options(global).connect_timeout(limit).files(files))?)
}

pub(super) fn options(global: &Global) -> Options {
    let options =
        Options::new().address_options(address_options(global)).name("invokectl", env!("CARGO_PKG_VERSION"));
    if global.narrow.is_empty() { options } else { options.narrow(&global.narrow) }
}

pub(super) fn address_options(global: &Global) -> AddressOptions {
    AddressOptions { explicit: global.address.clone(), scope: scope(global), app: global.app.clone() }
}

pub(super) fn scope(global: &Global) -> Scope {
    match (global.system, global.user) {
        (true, _) => Scope::System,
        (_, true) => Scope::User,
        _ => Scope::Auto,
    }
}

/// The beginning of a line to paste that reaches the same daemon.
pub(super) fn prefix(global: &Global) -> String {
    let mut text = "invokectl".to_owned();
    if let Some(address) = &global.address {
        text.push_str(&format!(" -a {address}"));
    }
    if let Some(app) = &global.app {
        text.push_str(&format!(" --app {}", app.as_str()));
    }
    match scope(global) {
        Scope::System => text.push_str(" --system"),
        Scope::User => text.push_str(" --user"),
        Scope::Auto => {}
    }
    text
}
