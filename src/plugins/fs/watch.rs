//! `watch`: what changes at a path, told on a channel. Behind the feature `watch`.
//!
//! It owns what is told to whom: each path is judged by the caller's scopes before it is told, and nothing waits for the
//! caller, as the channel leaves out what is not taken. What the kernel says comes from [`Watches`].

mod queue;
mod watches;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use invoked_proto::registry::{ErrorCode, Overflow};
use serde::Serialize;
use serde_json::Value;

use self::queue::Raw;
use self::watches::Watch;
pub(super) use self::watches::Watches;
use super::{Asked, argument};
use crate::async_runtime;
use crate::authority::{Grant, PathScope, ScopeVerdict};
use crate::ipc::{Channel, Fault, InvokeMessage, Outcome, Response};

/// How often it is looked whether what is watched is still where it was: the kernel doesn't tell of a directory above it.
const LOOK: Duration = Duration::from_secs(1);

/// What is told of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Change {
    Created {
        path: String,
    },
    /// Its contents or its attributes.
    Modified {
        path: String,
    },
    Removed {
        path: String,
    },
    Renamed {
        from: String,
        path: String,
    },
    /// Changes were lost: what is there is to be looked at anew.
    Rescan,
}

pub(super) fn watch(watches: &Arc<Watches>, message: &InvokeMessage) -> Outcome {
    const KNOWN: &[&str] = &["path", "events"];
    let path: String = argument(message, "path", KNOWN)?;
    let events: Channel<Change> = argument(message, "events", KNOWN)?;
    if events.overflow() == Overflow::Block {
        let text = format!(
            "{}: nothing waits for whoever watches: `events` is opened with drop_oldest or latest",
            message.name()
        );
        return Err(Fault::refusal(ErrorCode::InvalidArgument, text).into());
    }
    let asked = Asked { message, path: &path };
    let located = asked.locate()?;
    let begun = watches.begin(message.peer(), located);
    let watch =
        begun.map_err(|text| Fault::refusal(ErrorCode::ResourceExhausted, format!("{path}: {text}")))?;
    // It lives as long as the channel: until the caller wants no more, is gone, or a policy takes the grant away.
    drop(async_runtime::spawn(tell(watch, events, Arc::clone(message.grant()))));
    Ok(Response::json(&Value::Null)?)
}

async fn tell(watch: Watch, events: Channel<Change>, grant: Arc<Grant>) {
    loop {
        let due = watch.queue().due().unwrap_or_else(|| Instant::now() + LOOK);
        tokio::select! {
            _ = events.closed() => return,
            () = watch.queue().changed() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let changes = watch.queue().take(Instant::now());
        // After they were taken: what is under another path by now is told under none.
        if !watch.is_there() {
            let text = format!("{} was moved or removed", watch.real().display());
            return events.close(Err(Fault::midway(ErrorCode::Aborted, text)));
        }
        let told = changes.into_iter().filter_map(|change| judge(&grant, watch.real(), change));
        for change in told {
            if events.send_async(change).await.is_err() {
                return;
            }
        }
    }
}

/// What may be told of a change in what is watched at `real`.
fn judge(grant: &Grant, real: &Path, change: Raw) -> Option<Change> {
    // A path that is no text can't stand in JSON, nor in a scope: no scope allows it.
    let allowed = |name: &OsStr| {
        let path = if name.is_empty() { real.to_owned() } else { real.join(name) };
        let verdict = grant.check::<PathScope>(&path);
        if matches!(verdict, ScopeVerdict::Allowed) { path.to_str().map(str::to_owned) } else { None }
    };
    match change {
        Raw::Created(name) | Raw::MovedHere(name, _) => Some(Change::Created { path: allowed(&name)? }),
        Raw::Modified(name) => Some(Change::Modified { path: allowed(&name)? }),
        Raw::Removed(name) | Raw::MovedAway(name, ..) => Some(Change::Removed { path: allowed(&name)? }),
        Raw::Renamed(from, to) => match (allowed(&from), allowed(&to)) {
            (Some(from), Some(path)) => Some(Change::Renamed { from, path }),
            (Some(path), None) => Some(Change::Removed { path }),
            (None, Some(path)) => Some(Change::Created { path }),
            (None, None) => None,
        },
        Raw::Lost => Some(Change::Rescan),
    }
}
