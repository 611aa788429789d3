//! `core.explain` and `core.denials`: why a call is denied, and which were.
//!
//! Owns the forms of questions and answers. The verdict and its reasons are the authority's, found as for a call.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use invoked_proto::name::CommandName;
use invoked_proto::registry::{ErrorCode, quotas};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{answered, handle};
use crate::authority::load::PasswdFiles;
use crate::authority::{About, Asking, Connected, Explanation, Judged, PeerQuestion, PolicySnapshot};
use crate::broker::{Broker, Decision, DecisionId, Holder};
use crate::commands::CommandTable;
use crate::ipc::{
    CommandArg, CommandItem, Fault, InvokeError, InvokeMessage, Outcome, PeerId, Response, ScopeQuestion,
};

/// The longest that one call of `denials` waits, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A call that is asked about.
#[derive(Clone, Debug)]
pub(crate) struct CallQuestion {
    pub(crate) command: String,
    /// Without them, only the command is judged.
    pub(crate) arguments: Option<Map<String, Value>>,
}

/// Why a call of a peer is, or would be, allowed or denied under `policy`. May block: commands look at what
/// their arguments name.
///
/// # Errors
/// What is wrong with the command's name or its arguments.
pub(crate) fn explain_call(
    policy: &PolicySnapshot,
    commands: &CommandTable,
    who: Asking<'_>,
    question: &CallQuestion,
) -> Result<Explanation, String> {
    let name =
        CommandName::parse(&question.command).map_err(|error| format!("{:?}: {error}", question.command))?;
    let name = name.as_str();
    let questioner = commands.find(name).and_then(|command| command.questioner());
    let asked = match (questioner, &question.arguments) {
        (Some(questioner), Some(arguments)) => {
            Some(questioner(arguments).map_err(|error| format!("{name}: {error}"))?)
        }
        _ => None,
    };
    let about = match &asked {
        None => About::Command,
        Some(ScopeQuestion::Judge(value)) => About::Argument(value),
        Some(ScopeQuestion::Refuse(value, error)) => About::Unjudgeable(value, *error),
    };
    Ok(policy.explain_about(who, name, about))
}

pub(super) async fn explain(message: InvokeMessage) -> Outcome {
    let decision: Option<String> = argument(&message, "explain", "decision")?;
    let peer: Option<PeerQuestion> = argument(&message, "explain", "peer")?;
    let command: Option<String> = argument(&message, "explain", "command")?;
    let arguments: Option<Map<String, Value>> = argument(&message, "explain", "arguments")?;
    match (decision, peer, command) {
        (Some(id), None, None) if arguments.is_none() => explain_decision(&message, id).await,
        (None, Some(peer), Some(command)) => {
            explain_question(&message, peer, CallQuestion { command, arguments }).await
        }
        _ => Err(invalid("core.explain: say `decision`, or `peer` and `command`").into()),
    }
}

async fn explain_decision(message: &InvokeMessage, text: String) -> Outcome {
    let unknown = || {
        let kept = quotas::DECISIONS;
        let text = format!(
            "no denial {text:?} is kept: of the last {kept} each has an id of 4 digits or more, as 7f3a"
        );
        Fault::refusal(ErrorCode::NotFound, text)
    };
    let id = DecisionId::parse(&text).ok_or_else(unknown)?;
    let daemon = handle(message)?;
    let found = daemon.ask(move |hub| {
        hub.with_broker_mut(|broker| {
            let in_force = broker.policy().revision();
            let decision = broker.decision(id)?;
            let mut answer = decision.explanation().to_json();
            add(&mut answer, facts_of(decision));
            answer["revision_in_force"] = Value::from(in_force);
            Some(answer)
        })
    });
    let answer = answered(found.await)?.ok_or_else(unknown)?;
    Ok(Response::json(&answer)?)
}

async fn explain_question(message: &InvokeMessage, peer: PeerQuestion, question: CallQuestion) -> Outcome {
    let connected = peer.connected().map_err(|error| invalid(format!("core.explain: peer: {error}")))?;
    let daemon = handle(message)?;
    let found = daemon.ask(move |hub| {
        hub.with_broker(|broker| {
            let known = connected.map(|connected| connected_peer(broker, connected)).transpose()?;
            Ok::<_, String>((Arc::clone(broker.policy()), Arc::clone(broker.commands()), known))
        })
    });
    let (policy, commands, known) =
        answered(found.await)?.map_err(|text| Fault::refusal(ErrorCode::NotFound, text))?;
    let explained = tokio::task::spawn_blocking(move || {
        let holder = match known {
            Some(holder) => holder,
            None => {
                let users = PasswdFiles::system().map_err(|error| error.to_string())?;
                let facts = peer.facts(&users).map_err(|error| format!("peer: {error}"))?;
                Holder { facts: Arc::new(facts), kept: peer.keeps.map(Arc::from) }
            }
        };
        explain_call(&policy, &commands, holder.asking(), &question).map(|explanation| explanation.to_json())
    });
    let stopped = |_| Fault::new(ErrorCode::Internal, "the explanation was not finished");
    let answer =
        explained.await.map_err(stopped)?.map_err(|text| invalid(format!("core.explain: {text}")))?;
    Ok(Response::json(&answer)?)
}

fn connected_peer(broker: &Broker, connected: Connected) -> Result<Holder, String> {
    let (id, missing) = match connected {
        Connected::Connection(id) => (Some(PeerId(id)), format!("no peer has the connection {id}")),
        // Of several the latest: what a process was when it connected first may be past.
        Connected::Process(pid) => {
            (broker.peers_of_process(pid).pop(), format!("no connected peer has the process id {pid}"))
        }
    };
    let holder = id.and_then(|id| broker.holder(id));
    holder.ok_or_else(|| format!("{missing}; one that is not connected is named by its uid"))
}

/// What `denials` is asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    after: Option<u64>,
    since: Option<Duration>,
    limit: usize,
}

pub(super) async fn denials(message: InvokeMessage) -> Outcome {
    let number = |key| argument::<u64>(&message, "denials", key);
    let limit = number("limit")?.unwrap_or(quotas::DECISIONS).min(quotas::DECISIONS);
    let wanted = Wanted {
        after: number("after")?,
        since: number("since_ms")?.map(Duration::from_millis),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let wait = Duration::from_millis(number("wait_ms")?.unwrap_or(0)).min(LONGEST_WAIT);
    let daemon = handle(&message)?;
    let mut listed = answered(daemon.ask(move |hub| listed(hub, wanted)).await)?;
    if listed.is_empty() && !wait.is_zero() {
        let mut watch = answered(daemon.ask(|hub| hub.watch_denials()).await)?;
        let mut stopping = daemon.stopping();
        let seen = listed.latest;
        tokio::select! {
            _ = watch.wait_for(|latest| *latest > seen) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
            () = message.cancellation().cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        listed = answered(daemon.ask(move |hub| self::listed(hub, wanted)).await)?;
    }
    Ok(Response::json(&listed.to_json(wanted.after))?)
}

struct Listed {
    denials: Vec<Value>,
    latest: u64,
}

impl Listed {
    fn is_empty(&self) -> bool {
        self.denials.is_empty()
    }

    fn to_json(&self, after: Option<u64>) -> Value {
        let count = self.denials.len() as u64;
        let missed = after.map(|after| self.latest.saturating_sub(after).saturating_sub(count));
        json!({ "denials": self.denials, "latest": self.latest, "missed": missed })
    }
}

fn listed(hub: &crate::session::Hub, wanted: Wanted) -> Listed {
    let now = Instant::now();
    hub.with_broker(|broker| {
        let decisions = broker.decisions().after(wanted.after.unwrap_or(0), wanted.limit);
        let fresh =
            |decision: &&Decision| wanted.since.is_none_or(|since| now.duration_since(decision.at) <= since);
        let denials = decisions.into_iter().filter(fresh).map(|decision| {
            let mut listed = json!({
                "sequence": decision.sequence,
                "decision": decision.id.to_string(),
                "command": decision.command.as_str(),
                "peer": decision.holder.facts.to_json(),
                "argument": decision.argument.as_ref().map(Judged::to_json),
                "revision": decision.revision,
            });
            listed["peer"]["keeps"] = json!(decision.holder.kept.as_deref());
            add(&mut listed, facts_of(decision));
            listed
        });
        Listed { denials: denials.collect(), latest: broker.decisions().latest() }
    })
}

/// When a denial was, and on which connection.
fn facts_of(decision: &Decision) -> [(&'static str, Value); 2] {
    let ago = Instant::now().duration_since(decision.at);
    let at = SystemTime::now().checked_sub(ago).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let at_ms = at.and_then(|at| u64::try_from(at.as_millis()).ok());
    [("at_ms", Value::from(at_ms)), ("connection", Value::from(decision.peer.0))]
}

fn add(object: &mut Value, fields: [(&'static str, Value); 2]) {
    for (key, value) in fields {
        object[key] = value;
    }
}

/// An argument that may be left out.
pub(super) fn argument<T: DeserializeOwned>(
    message: &InvokeMessage,
    command: &'static str,
    key: &'static str,
) -> Result<Option<T>, InvokeError> {
    Option::from_command(CommandItem { name: command, key, message })
}

pub(super) fn invalid(text: impl Into<String>) -> Fault {
    Fault::refusal(ErrorCode::InvalidArgument, text)
}
