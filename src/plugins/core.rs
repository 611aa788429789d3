//! `core`: what every daemon tells, and what its operator may do.

use std::collections::BTreeMap;

use invoked_proto::registry::{ErrorCode, quotas};
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::{AppHandle, Manager, ResourceId};
use crate::authority::{PermissionSet, Verdict};
use crate::broker::Listed as Provided;
use crate::commands::RegisteredCommand;
use crate::config::Config;
use crate::daemon::{DaemonHandle, ReloadError};
use crate::ipc::{
    Argument, CallError, Command, CommandArg, CommandItem, Fault, InvokeError, InvokeMessage, Outcome,
    Response,
};
use crate::plugin::{self, Plugin};

pub(crate) mod explain;
mod monitor;
mod provide;
pub(crate) mod schema;

/// The plugin.
pub fn plugin(config: &Config) -> Plugin {
    let name = Argument { key: "name", kind: "String", optional: false };
    let limits = limits_of(config);
    let operate = PermissionSet {
        identifier: "operate".to_owned(),
        description: "What an operator of the daemon may do: see its state, reload its policy, stop it."
            .to_owned(),
        permissions: [
            "default",
            "allow-explain",
            "allow-denials",
            "allow-monitor",
            "allow-schema",
            "allow-stats",
            "allow-limits",
            "allow-reload",
            "allow-shutdown",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    let providing = provide::Bounds::of(&config.quotas);
    let argument = |key, kind| Argument { key, kind, optional: true };
    plugin::Builder::new("core")
        .invoke_handler(vec![
            Command::inline("ping", |_| Ok(Response::json("pong")?)).docs("Answers \"pong\"."),
            Command::inline("echo", echo)
                .docs("Answers with the body and the attachments of the call.")
                .takes_raw(),
            Command::inline("whoami", whoami).docs("Tells the caller who it is to the daemon."),
            Command::future("discover", discover).docs("Lists the commands that the caller may call."),
            Command::future("describe", describe)
                .docs("Tells about one command that the caller may call.")
                .argument(name),
            Command::future("explain", explain::explain)
                .docs(
                    "Tells why a call is, or would be, allowed or denied.\n\nAsked by `decision`, the id of a denial, or by \
                     `peer` (`uid`, `user`, `gid`, `groups`, or of a connected one `pid` or `connection`), `command` and \
                     `arguments`.",
                )
                .argument(argument("decision", "String"))
                .argument(argument("peer", "PeerQuestion"))
                .argument(argument("command", "String"))
                .argument(argument("arguments", "Map<String, Value>")),
            Command::future("denials", explain::denials)
                .docs(
                    "Lists the latest denials.\n\nThose after the one with the sequence number `after`, not older than \
                     `since_ms`, the newest `limit` of them; with `wait_ms` it waits so long for one.",
                )
                .argument(argument("after", "u64"))
                .argument(argument("since_ms", "u64"))
                .argument(argument("limit", "u64"))
                .argument(argument("wait_ms", "u64")),
            Command::future("monitor", monitor::monitor)
                .docs(
                    "Tells each call on the channel `calls` once its answer is written; with `bodies` also the beginnings of its \
                     bodies, but never those of a SENSITIVE call.\n\nIt is answered \
                     at once; the channel lives on until its reader leaves. Only calls of commands that `command`, a pattern \
                     as fs.*, matches, of `peer` (`uid`, `user`, `pid` or `connection`), and that ended with `outcome` (ok, \
                     error, or a code as permission_denied).",
                )
                .argument(Argument { key: "calls", kind: "Subscription", optional: false })
                .argument(argument("command", "String"))
                .argument(argument("peer", "PeerQuestion"))
                .argument(argument("outcome", "String"))
                .argument(argument("bodies", "bool")),
            Command::future("schema", schema::schema)
                .docs("Gives JSON Schemas of capability and permission files, for editors."),
            Command::future("provide", move |message| provide::provide(providing, message))
                .docs(
                    "Lets the caller serve the commands of `interface`, an OpenRPC document as in interface files.\n\nA \
                     capability must let it: provide = [\"NAME\"]. With `takeOver` it takes the name from whoever serves it now.",
                )
                .argument(Argument { key: "interface", kind: "OpenRPC", optional: false })
                .argument(argument("takeOver", "bool")),
            Command::future("withdraw", provide::withdraw)
                .docs("Takes back what the caller serves under `plugin` in version `major`; open calls go on.")
                .argument(Argument { key: "plugin", kind: "String", optional: false })
                .argument(Argument { key: "major", kind: "u64", optional: false }),
            Command::future("stats", stats).docs("Tells the counters of the daemon."),
            Command::future("limits", move |message| limits_for(limits.clone(), message))
                .docs("Tells the limits and quotas in force for the caller."),
            Command::future("reload", reload).docs("Reads the policy's files again, all or nothing."),
            Command::blocking("close_resource", close_resource)
                .docs("Closes what a command holds for this connection under the number `rid`.")
                .argument(Argument { key: "rid", kind: "u32", optional: false }),
            Command::inline("shutdown", shutdown).docs("Lets open calls end, then stops the daemon."),
        ])
        .set(operate)
        .default_permissions(&[
            "allow-ping",
            "allow-echo",
            "allow-whoami",
            "allow-discover",
            "allow-describe",
            "allow-close-resource",
        ])
        .build()
}

fn echo(message: &InvokeMessage) -> Outcome {
    let response = Response::from(message.body().clone());
    Ok(message.attachments().iter().fold(response, |response, part| response.attach(part.clone())))
}

fn whoami(message: &InvokeMessage) -> Outcome {
    let peer = message.peer();
    Ok(Response::json(&json!({
        "peer": peer.id.0,
        "uid": peer.uid,
        "gid": peer.gid,
        "groups": peer.groups,
        "pid": peer.pid,
        "user": peer.user,
        "program": peer.program,
    }))?)
}

/// A command, as `discover` lists it.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    summary: String,
}

async fn discover(message: InvokeMessage) -> Outcome {
    let peer = message.peer().id;
    let daemon = handle(&message)?;
    let listed = daemon.ask(move |hub| {
        hub.with_broker(|broker| {
            let Some(grants) = broker.grants(peer) else { return Vec::new() };
            let hosted = broker.commands().sorted().into_iter();
            let hosted = hosted.map(|(name, command)| (name.to_owned(), summary(command.docs()).to_owned()));
            let provided = broker.all_provided().into_iter();
            let provided = provided.map(|(name, listed)| (name, summary(listed.command.docs()).to_owned()));
            let all: BTreeMap<String, String> = provided.chain(hosted).collect();
            let allowed =
                all.into_iter().filter(|(name, _)| matches!(grants.authorize(name), Verdict::Allow(_)));
            allowed.map(|(name, summary)| Listed { name, summary }).collect()
        })
    });
    Ok(Response::json(&json!({ "commands": answered(listed.await)? }))?)
}

async fn describe(message: InvokeMessage) -> Outcome {
    let name = String::from_command(CommandItem { name: "describe", key: "name", message: &message })?;
    let peer = message.peer().id;
    let daemon = handle(&message)?;
    let found = daemon.ask(move |hub| {
        hub.with_broker(|broker| {
            let grants = broker.grants(peer).ok_or_else(gone)?;
            let canonical = invoked_proto::name::CommandName::parse(&name)
                .map_err(|error| Fault::refusal(ErrorCode::InvalidArgument, format!("{name:?}: {error}")))?;
            let name = canonical.as_str();
            let is_allowed = matches!(grants.authorize(name), Verdict::Allow(_));
            match (is_allowed, broker.commands().find(name), broker.provided(name)) {
                (true, Some(command), _) => Ok(describe_command(&command)),
                (true, None, Some(listed)) => Ok(describe_provided(&listed)),
                (true, None, None) if broker.policy().registry().has_command(name) => {
                    let text = format!("nobody provides {name} now");
                    Err(Fault::refusal(ErrorCode::Unavailable, text))
                }
                // The same answer as a call of it would get: it must not tell more.
                _ => {
                    let refusal = broker.policy().refusal(&grants, name);
                    let code = match refusal.code {
                        crate::authority::RefusalCode::NotFound => ErrorCode::NotFound,
                        crate::authority::RefusalCode::PermissionDenied => ErrorCode::PermissionDenied,
                    };
                    Err(Fault::refusal(code, refusal.message))
                }
            }
        })
    });
    Ok(Response::json(&answered(found.await)??)?)
}

fn describe_command(command: &RegisteredCommand) -> Value {
    let name = command.command_name();
    let arguments: Vec<Value> = command
        .arguments()
        .iter()
        .map(|argument| json!({ "key": argument.key, "type": argument.kind, "optional": argument.optional }))
        .collect();
    json!({
        "name": name.as_str(),
        "docs": command.docs(),
        "arguments": arguments,
        "body": if command.takes_raw() { "raw" } else { "arguments" },
        "runs": command.execution().name(),
        "scoped": command.is_scoped(),
        "permission": name.permission_allow(),
    })
}

fn describe_provided(listed: &Provided) -> Value {
    let command = &listed.command;
    json!({
        "name": command.name().as_str(),
        "docs": command.docs(),
        "arguments": command.arguments(),
        "body": if command.takes_raw() { "raw" } else { "arguments" },
        "runs": "provider",
        "scoped": command.is_scoped(),
        "permission": command.name().permission_allow(),
        "major": listed.major,
        "provider": listed.peer.0,
    })
}

async fn stats(message: InvokeMessage) -> Outcome {
    let daemon = handle(&message)?;
    let stats = daemon.ask(|hub| {
        let stats = hub.with_broker(crate::broker::Broker::stats);
        (stats, hub.running())
    });
    let (stats, running) = answered(stats.await)?;
    let mut value =
        serde_json::to_value(stats).map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
    value["handlers_elsewhere"] = Value::from(running);
    Ok(Response::json(&value)?)
}

fn limits_of(config: &Config) -> Value {
    let limits: Vec<Value> = config
        .limits_in_force()
        .map(|(limit, value)| json!({ "name": limit.name, "value": value, "unit": limit.unit, "doc": limit.doc }))
        .collect();
    let mut quotas = serde_json::to_value(&config.quotas).expect("quotas are plain numbers");
    quotas["reloads_per_second"] = Value::from(quotas::RELOADS_PER_SECOND);
    json!({ "limits": limits, "quotas": quotas })
}

/// The same for the caller, of whom capabilities may say something else. Of two values under one name the last counts.
async fn limits_for(mut limits: Value, message: InvokeMessage) -> Outcome {
    let peer = message.peer().id;
    let daemon = handle(&message)?;
    let own = daemon.ask(move |hub| hub.with_broker(|broker| broker.limits(peer))).await;
    for (name, value) in answered(own)? {
        let listed = limits["limits"].as_array_mut().into_iter().flatten();
        for limit in listed.filter(|limit| limit["name"] == name) {
            limit["value"] = value.into();
        }
        let quota = if name == "open_calls" { "calls_per_connection" } else { name };
        if let Some(quota) = limits["quotas"].get_mut(quota) {
            *quota = value.into();
        }
    }
    Ok(Response::json(&limits)?)
}

async fn reload(message: InvokeMessage) -> Outcome {
    match handle(&message)?.reload().await {
        Ok(reloaded) => {
            let warnings: Vec<String> = reloaded.warnings.iter().map(ToString::to_string).collect();
            Ok(Response::json(&json!({
                "revision": reloaded.revision,
                "capabilities": reloaded.capabilities,
                "warnings": warnings,
            }))?)
        }
        Err(ReloadError::Policy(errors)) => {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let text = "the policy has errors; the old one stays in force";
            Err(CallError::from(InvokeError::json(&json!({ "message": text, "errors": texts }))))
        }
        Err(error @ ReloadError::TooOften { retry_after }) => {
            let fault = Fault::refusal(ErrorCode::ResourceExhausted, error.to_string());
            Err(fault.with_retry_after(retry_after).into())
        }
        Err(error @ ReloadError::Stopped) => {
            Err(Fault::new(ErrorCode::Unavailable, error.to_string()).into())
        }
    }
}

/// Closes what a command holds for the caller's connection.
fn close_resource(message: &InvokeMessage) -> Outcome {
    let rid = ResourceId::from_command(CommandItem { name: "close_resource", key: "rid", message })?;
    let app = AppHandle::from_command(CommandItem { name: "close_resource", key: "", message })?;
    // Without its table, so that a `close` that takes long keeps nobody from it.
    let resource = app.resources_table().take_any(rid)?;
    resource.close();
    Ok(Response::json(&Value::Null)?)
}

fn shutdown(message: &InvokeMessage) -> Outcome {
    handle(message)?.shutdown();
    Ok(Response::json(&Value::Null)?)
}

fn handle(message: &InvokeMessage) -> Result<DaemonHandle, Fault> {
    let found = message.state().find::<DaemonHandle>().map(|handle| handle.inner().clone());
    found.ok_or_else(|| Fault::new(ErrorCode::Internal, "the daemon manages its handle"))
}

fn answered<T>(answer: Option<T>) -> Result<T, Fault> {
    answer.ok_or_else(gone)
}

fn gone() -> Fault {
    Fault::new(ErrorCode::Unavailable, "the daemon is stopping")
}

fn summary(docs: &str) -> &str {
    docs.lines().next().unwrap_or("")
}
