//! `core.monitor`: each call once its answer is written, told to who operates the daemon.
//!
//! Owns the form of a record and the filters. Nothing waits for whoever monitors: the channel leaves out what is not taken.

use std::time::{Duration, SystemTime};

use invoked_proto::body::Body;
use invoked_proto::name::CommandName;
use invoked_proto::registry::{ErrorCode, Lane, Overflow};
use serde_json::{Value, json};

use super::explain::{argument, invalid};
use super::{answered, handle};
use crate::async_runtime;
use crate::authority::{GlobScope, PeerQuestion, ScopeObjectMatch};
use crate::broker::{Bodies, CallRecord, Excerpt, Place};
use crate::ipc::{Channel, CommandArg, CommandItem, Fault, InvokeMessage, Outcome, Response};
use crate::session::Watcher;

/// Which calls are told.
#[derive(Debug)]
struct Wanted {
    command: Option<GlobScope>,
    peer: PeerQuestion,
    outcome: Option<Wish>,
}

/// How a call that is told ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Ok,
    Error,
    Code(ErrorCode),
}

pub(super) async fn monitor(message: InvokeMessage) -> Outcome {
    let calls =
        Channel::<Value>::from_command(CommandItem { name: "monitor", key: "calls", message: &message })?;
    if calls.overflow() == Overflow::Block {
        let text =
            "core.monitor: no call waits for whoever monitors: `calls` is opened with drop_oldest or latest";
        return Err(invalid(text).into());
    }
    let wanted = wanted(&message)?;
    let daemon = handle(&message)?;
    let bodies = argument::<bool>(&message, "monitor", "bodies")?.unwrap_or(false);
    let watched = calls.clone();
    let tell = Box::new(move |record: &CallRecord| {
        if wanted.is(record) {
            let mut told = to_json(record);
            if bodies {
                add_bodies(&mut told, &record.bodies);
            }
            // It never waits; what is not taken is counted by the channel.
            return calls.try_send(told).is_ok();
        }
        !calls.is_closed()
    });
    let watcher = Watcher { peer: message.peer().id, bodies, tell };
    let began = daemon.ask(move |hub| hub.monitor(watcher));
    let Some(monitor) = answered(began.await)? else {
        return Err(Fault::refusal(ErrorCode::ResourceExhausted, "too many monitors are running").into());
    };
    // At once when its reader leaves, and not with the next call: from then on nothing is recorded for it.
    drop(async_runtime::spawn(async move {
        watched.closed().await;
        // A daemon that has stopped has no monitors.
        let _ = daemon.ask(move |hub| hub.unmonitor(monitor)).await;
    }));
    Ok(Response::json(&Value::Null)?)
}

fn wanted(message: &InvokeMessage) -> Result<Wanted, crate::ipc::CallError> {
    let command: Option<String> = argument(message, "monitor", "command")?;
    let peer: Option<PeerQuestion> = argument(message, "monitor", "peer")?;
    let outcome: Option<String> = argument(message, "monitor", "outcome")?;
    let command = command.map(|pattern| {
        // A whole name may be written in any of its forms; a pattern has the one that is printed.
        let name = CommandName::parse(&pattern).map_or(pattern, |name| name.as_str().to_owned());
        GlobScope::of(&name).map_err(|error| invalid(format!("core.monitor: `command`: {error}")))
    });
    let peer = peer.unwrap_or_default();
    let known = PeerQuestion {
        uid: peer.uid,
        user: peer.user.clone(),
        pid: peer.pid,
        connection: peer.connection,
        ..PeerQuestion::default()
    };
    if peer != known {
        return Err(invalid("core.monitor: `peer` is of uid, user, pid and connection").into());
    }
    let outcome = outcome.map(|text| match text.as_str() {
        "ok" => Ok(Wish::Ok),
        "error" => Ok(Wish::Error),
        name => ErrorCode::from_name(name).map(Wish::Code).ok_or_else(|| {
            invalid(format!("core.monitor: `outcome` is ok, error or the name of a code, not {name:?}"))
        }),
    });
    Ok(Wanted { command: command.transpose()?, peer, outcome: outcome.transpose()? })
}

impl Wanted {
    fn is(&self, record: &CallRecord) -> bool {
        let PeerQuestion { uid, user, pid, connection, .. } = &self.peer;
        let peer = &record.peer;
        uid.is_none_or(|uid| uid == peer.uid)
            && pid.is_none_or(|pid| Some(pid) == peer.pid)
            && connection.is_none_or(|connection| connection == peer.id.0)
            && user.as_deref().is_none_or(|user| Some(user) == peer.user.as_deref())
            && self.command.as_ref().is_none_or(|glob| glob.matches(record.command.as_str()))
            && match self.outcome {
                None => true,
                Some(Wish::Ok) => record.code.is_none(),
                Some(Wish::Error) => record.code.is_some(),
                Some(Wish::Code(code)) => record.code == Some(code),
            }
    }
}

fn to_json(record: &CallRecord) -> Value {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
    let runs = record.place.map(|place| match place {
        Place::Inline | Place::InlineAsync => "inline",
        Place::Pool => "pool",
        Place::Workers => "workers",
        Place::Provider => "provider",
    });
    json!({
        "at_ms": at.and_then(|at| u64::try_from(at.as_millis()).ok()),
        "connection": record.peer.id.0,
        "uid": record.peer.uid,
        "user": record.peer.user,
        "pid": record.peer.pid,
        "command": record.command.as_str(),
        "outcome": record.code.map_or("ok", ErrorCode::name),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "lane": lane(record.lane),
        "runs": runs,
        "receive_us": micros(record.receive),
        "queue_us": micros(record.queue),
        "handler_us": micros(record.handler),
        "transfer_us": record.transfer.map(micros),
    })
}

/// Adds what of the bodies is shown, or why nothing is.
fn add_bodies(told: &mut Value, bodies: &Bodies) {
    let withheld = match bodies {
        Bodies::Kept(_) => None,
        Bodies::Sensitive => Some("sensitive"),
        Bodies::Unasked => Some("unasked"),
        Bodies::LeftOut => Some("resource_exhausted"),
    };
    let (request, reply) = match bodies {
        Bodies::Kept(kept) => (kept.request.as_ref(), kept.reply.as_ref()),
        _ => (None, None),
    };
    told["request"] = request.map_or(Value::Null, excerpt);
    told["reply"] = reply.map_or(Value::Null, excerpt);
    told["withheld"] = json!(withheld);
}

fn excerpt(excerpt: &Excerpt) -> Value {
    let Excerpt { body, len, attachments } = excerpt;
    let (codec, key, shown) = match body {
        Body::None => return json!({ "codec": "none", "bytes": 0, "attachments": attachments }),
        // What is cut in the middle of a character has a mark there.
        Body::Json(json) => ("json", "text", String::from_utf8_lossy(json).into_owned()),
        Body::Raw(bytes) => ("raw", "hex", bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    };
    let cut = body.bytes().len() < *len;
    json!({ "codec": codec, "bytes": len, key: shown, "cut": cut, "attachments": attachments })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Inline => "inline",
        Lane::Pool => "pool",
        Lane::Sealed => "sealed",
        Lane::File => "file",
    }
}
