//! `invokectl explain`: why a call was denied, or would be.
//!
//! It owns how a peer is written on the command line. What it prints is the authority's own words, whether a daemon says
//! them or, offline, its loader here.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::{ExplainArgs, Global};
use super::arguments::{Payload, PayloadBody, payload};
use super::call::canonical;
use super::connection::{connect, prefix};
use super::denials;
use super::failure::Failure;
use super::output::Output;
use super::policy_files::{Named, Plugins, PolicyFiles};
use super::time::utc;
use crate::authority::load::PasswdFiles;
use crate::authority::{Asking, Group, PeerQuestion};
use crate::error::BuildError;
use crate::host::report::Report;
use crate::plugins::core::explain::{CallQuestion, explain_call};

pub(super) fn run(global: &Global, args: &ExplainArgs, output: &Output) -> Result<(), Failure> {
    let is_offline = args.is_offline();
    let Some(subject) = &args.subject else { return last(global, output) };
    if args.peer.is_none() && args.arguments.is_empty() && !is_offline && is_decision(subject) {
        return decision(global, subject, output);
    }
    let question = CallQuestion {
        command: canonical(subject)?.as_str().to_owned(),
        arguments: call_arguments(&args.arguments)?,
    };
    let answer = if is_offline {
        match offline(global, args, &question)? {
            Ok(answer) => answer,
            Err(error) => {
                Report::of(&error).print();
                return Err(Failure::Told);
            }
        }
    } else {
        asked(global, args.peer.as_ref(), &question)?
    };
    tell(&answer, output)?;
    if answer["allowed"] == Value::Bool(true) { Ok(()) } else { Err(Failure::Denied) }
}

/// Whether `text` has the form of a denial's id. A command of such a name is asked about with `--peer`.
fn is_decision(text: &str) -> bool {
    text.len() >= 4 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The latest denial.
fn last(global: &Global, output: &Output) -> Result<(), Failure> {
    match denials::latest(&connect(global)?, 1)?.first() {
        Some(denial) => decision(global, &denial.decision, output),
        None => {
            output.note("no denials");
            Err(Failure::Told)
        }
    }
}

fn decision(global: &Global, id: &str, output: &Output) -> Result<(), Failure> {
    let called = connect(global)?.call("core.explain").args(&json!({ "decision": id })).idempotent().send();
    let answer: Value = called.map_err(|error| refused(global, error))?.json()?;
    tell(&answer, output)
}

fn asked(global: &Global, peer: Option<&PeerQuestion>, question: &CallQuestion) -> Result<Value, Failure> {
    let client = connect(global).map_err(|failure| with_offline(global, failure))?;
    let peer = match peer {
        Some(peer) => json!(peer),
        // Oneself: as this connection is.
        None => json!({ "connection": client.whoami()?["peer"] }),
    };
    let mut asked = json!({ "peer": peer, "command": question.command });
    if let Some(arguments) = &question.arguments {
        asked["arguments"] = Value::Object(arguments.clone());
    }
    let called = client.call("core.explain").args(&asked).idempotent().send();
    Ok(called.map_err(|error| refused(global, error))?.json()?)
}

fn offline(
    global: &Global,
    args: &ExplainArgs,
    question: &CallQuestion,
) -> Result<Result<Value, BuildError>, Failure> {
    let named = Named {
        capabilities: &args.capabilities,
        permissions: &args.permissions,
        interfaces: &args.interfaces,
        tauri_compat: args.tauri_compat,
    };
    let (daemon, _) = match PolicyFiles::of(global, named).and_then(|files| files.build(Plugins::BuiltIn)) {
        Ok(built) => built,
        Err(error) => return Ok(Err(error)),
    };
    let users = PasswdFiles::system().map_err(Failure::local("can't read the user database"))?;
    let own = PeerQuestion { uid: Some(rustix::process::geteuid().as_raw()), ..PeerQuestion::default() };
    let peer = args.peer.as_ref().unwrap_or(&own);
    if peer.pid.is_some() || peer.connection.is_some() {
        let text = "pid= and connection= name a peer of a daemon; offline, name one by uid= or user=";
        return Err(Failure::Usage(text.to_owned()));
    }
    let facts = peer.facts(&users).map_err(|error| Failure::Usage(format!("--peer: {error}")))?;
    let who = Asking { facts: &facts, kept: peer.keeps.as_deref() };
    let explained = explain_call(&daemon.policy, &daemon.commands, who, question);
    explained.map(|explanation| Ok(explanation.to_json())).map_err(Failure::Usage)
}

fn tell(answer: &Value, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.object(answer);
    }
    let mut text = answer["text"].as_str().unwrap_or_default().to_owned();
    if let Some(decision) = answer["decision"].as_str() {
        text.push_str(&format!("\n  decision {decision}"));
        text.extend(answer["at_ms"].as_u64().map(|at| format!(", {}", utc(at))));
        text.push_str(&format!(", policy revision {}", answer["revision"]));
        let in_force = &answer["revision_in_force"];
        if *in_force != answer["revision"] {
            text.push_str(&format!("; revision {in_force} is in force now"));
        }
    }
    output.text(&text)
}

/// Says what to do where the caller may not ask, or asks for what is not kept.
fn refused(global: &Global, error: invoked_client::Error) -> Failure {
    let kept = error.is_not_found().then(|| format!("{} denials lists those that are kept", prefix(global)));
    Failure::for_operators(error, kept)
}

/// Says how to do without a daemon where there is none.
fn with_offline(global: &Global, failure: Failure) -> Failure {
    match failure {
        Failure::Call { error, hint: None, kept } if error.is_unavailable() => {
            let hint =
                format!("{} explain --offline … asks the files that a daemon would read", prefix(global));
            Failure::Call { error, hint: Some(hint), kept }
        }
        other => other,
    }
}

fn call_arguments(words: &[String]) -> Result<Option<Map<String, Value>>, Failure> {
    let Payload { body, .. } = payload(words, None, &[] as &[&Path])?;
    match body {
        PayloadBody::None | PayloadBody::Raw(_) => Ok(None),
        PayloadBody::Json(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|_| Failure::Usage("arguments of a call are an object: key=text, or {…}".to_owned())),
    }
}

/// `uid=1000,groups=dev:audio`
pub(super) fn peer(text: &str) -> Result<PeerQuestion, String> {
    let mut peer = PeerQuestion::default();
    let mut seen = Vec::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            format!("{part:?}: a peer is written key=value, as uid=1000, user=ana, pid=4242")
        })?;
        if seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
        match key {
            "uid" => match value.parse() {
                Ok(uid) => peer.uid = Some(uid),
                // As people write it elsewhere.
                Err(_) => peer.user = Some(value.to_owned()),
            },
            "user" => peer.user = Some(value.to_owned()),
            "gid" | "group" => peer.gid = Some(group(value)),
            "groups" => {
                peer.groups = Some(value.split(':').filter(|name| !name.is_empty()).map(group).collect());
            }
            "exe" => peer.exe = Some(value.into()),
            "unit" => peer.unit = Some(value.to_owned()),
            "keeps" => {
                peer.keeps =
                    Some(value.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect());
            }
            "pid" => peer.pid = Some(number(key, value)?),
            "connection" => peer.connection = Some(number(key, value)?),
            _ => {
                return Err(format!(
                    "unknown {key:?}: a peer is uid, user, gid, groups, exe, unit, keeps, pid or connection"
                ));
            }
        }
    }
    peer.connected().map_err(|error| error.to_string())?;
    Ok(peer)
}

fn group(text: &str) -> Group {
    text.parse().map_or_else(|_| Group::Name(text.to_owned()), Group::Id)
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key}={value}: {key} is a number"))
}

#[cfg(test)]
mod tests {
    use super::{is_decision, peer};
    use crate::authority::{Group, PeerQuestion};

    #[test]
    fn a_peer_is_written_as_keys_and_values() {
        let question = PeerQuestion {
            uid: Some(1000),
            gid: Some(Group::Id(100)),
            groups: Some(vec![Group::Name("dev".to_owned()), Group::Id(5)]),
            ..PeerQuestion::default()
        };
        assert_eq!(peer("uid=1000,gid=100,groups=dev:5"), Ok(question));
        let named = PeerQuestion { user: Some("ana".to_owned()), ..PeerQuestion::default() };
        assert_eq!((peer("uid=ana"), peer("user=ana")), (Ok(named.clone()), Ok(named)));
        assert_eq!(peer("uid=5,groups=").map(|peer| peer.groups), Ok(Some(Vec::new())));
        let program = peer("uid=5,exe=/usr/bin/x,unit=x.service").map(|peer| (peer.exe, peer.unit));
        assert_eq!(program, Ok((Some("/usr/bin/x".into()), Some("x.service".to_owned()))));
        assert_eq!(peer("pid=4242").map(|peer| peer.pid), Ok(Some(4242)));
        assert_eq!(peer("connection=17").map(|peer| peer.connection), Ok(Some(17)));
        for wrong in ["", "ana", "uid=1,uid=2", "pid=x", "pid=1,uid=1", "colour=red"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_told_from_a_name() {
        assert!(is_decision("7f3a") && is_decision("ABC12"));
        assert!(!is_decision("fs.read_file") && !is_decision("greet") && !is_decision("ace"));
    }
}
