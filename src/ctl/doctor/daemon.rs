//! Whether a daemon can be reached, and where, and as whom.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use invoked_client::blocking::Client;
use invoked_transport::{choose_address, describe_gid, describe_uid, process_env};
use serde_json::Value;

use super::super::args::Global;
use super::super::connection::{address_options, options, prefix};
use super::super::status::shown;
use super::Finding;

pub(super) fn findings(global: &Global) -> Vec<Finding> {
    const CHECK: &str = "address";
    let chosen = match choose_address(&address_options(global), &process_env) {
        Ok(chosen) => chosen,
        Err(error) => {
            return vec![Finding::fail(CHECK, error.to_string(), "name one: -a unix:/path/to.sock")];
        }
    };
    let detail = format!("{} (from {})", chosen.address, chosen.source);
    let mut findings = vec![Finding::ok(CHECK, detail)];
    findings.extend(chosen.address.socket_path().map(socket));
    match Client::connect(options(global)) {
        Ok(client) => findings.extend(answering(global, &client)),
        Err(error) => findings.push(Finding::fail("daemon", error.message(), "start one: invoked --dev")),
    }
    findings
}

fn socket(path: &Path) -> Finding {
    const CHECK: &str = "socket";
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_socket() => {
            let (owner, group) = (describe_uid(meta.uid()), describe_gid(meta.gid()));
            Finding::ok(CHECK, format!("owner {owner}, group {group}, mode {:04o}", meta.mode() & 0o7777))
        }
        Ok(_) => Finding::fail(
            CHECK,
            format!("{} is no socket", path.display()),
            "name another address, or move that file away",
        ),
        Err(error) => Finding::warn(
            CHECK,
            format!("{}: {error}", path.display()),
            "a daemon makes it when it starts; its directory may keep you out",
        ),
    }
}

fn answering(global: &Global, client: &Client) -> Vec<Finding> {
    let info = client.info();
    let served = format!("served by {}", describe_uid(info.server_uid));
    let daemon = match client.ping() {
        Ok(time) => Finding::ok(
            "daemon",
            format!("answers in {}, {served}, instance {:016x}", shown(time), info.daemon_instance),
        ),
        Err(error) if error.is_permission_denied() => Finding::warn(
            "daemon",
            format!("is there, {served}, and lets you call nothing"),
            "its operator's capability files decide; its log says what is missing",
        ),
        Err(error) => Finding::fail("daemon", error.to_string(), "its log may tell why"),
    };
    let warnings = info.warnings.iter().map(|warning| {
        Finding::warn("daemon", format!("it warns: {warning}"), "this may need a newer invokectl or daemon")
    });
    let mut findings: Vec<Finding> = std::iter::once(daemon).chain(warnings).collect();
    if let Ok(me) = client.whoami() {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let detail = format!("uid {} ({}), see {} list", text(&me["uid"]), text(&me["user"]), prefix(global));
        findings.push(Finding::ok("you", detail));
    }
    findings
}
