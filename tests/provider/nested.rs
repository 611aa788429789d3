//! Calls that a provider's commands make.

use std::time::Duration;

use invoked::ipc::{Body, CallError, ErrorCode};
use invoked::provider::Reconnect;
use invoked::{AppHandle, Builder, command, generate_handler};
use invoked_proto::connection::Event;
use invoked_proto::metadata::Call;
use invoked_proto::registry::tags;
use serde_json::{Value, json};

use crate::script::{CALLER, Place, Script};

/// Calls what it is told to, in one of the ways that there are.
#[command]
async fn relay(command: String, way: String, app: AppHandle) -> Result<Value, CallError> {
    let detached = app.detached();
    let call = match way.as_str() {
        "caller" => app.call(command).for_caller()?,
        "detached" => detached.call(command),
        _ => app.call(command),
    };
    let reply = call.args(&json!({ "n": 1 }))?.timeout(Duration::from_secs(5)).send().await?;
    Ok(serde_json::from_slice(reply.as_body().bytes()).unwrap())
}

fn serve(place: &Place) -> (invoked::provider::Provider, Script) {
    let (provider, mut daemon) = place
        .serve(Builder::new("org.acme.text").provide_as("text").invoke_handler(generate_handler![relay]));
    daemon.grant("text.relay");
    (provider, daemon)
}

fn start(daemon: &mut Script, command: &str, way: &str) -> u64 {
    let args = json!({ "command": command, "way": way }).to_string();
    daemon.start("text.relay", Body::Json(args.into()), CALLER, Vec::new())
}

fn parent(call: &Call) -> Option<u64> {
    let value = call.extensions.find(tags::PARENT)?;
    Some(u64::from_le_bytes(value[..].try_into().unwrap()))
}

#[test]
fn a_call_inside_of_a_call_names_it_and_one_that_belongs_to_none_does_not() {
    let place = Place::new();
    let (_provider, mut daemon) = serve(&place);
    for (way, names_it) in [("own", true), ("caller", true), ("detached", false)] {
        let stream = start(&mut daemon, "fs.read_file", way);
        let (nested, call, args) = daemon.called();
        assert_eq!((call.command.as_str(), args), ("fs.read_file", json!({ "n": 1 })));
        assert_eq!(parent(&call), names_it.then_some(stream));
        assert!(call.deadline_us.is_some_and(|us| us <= 5_000_000), "{call:?}");
        assert!(call.extensions.find(tags::DEPTH).is_none(), "the daemon counts");
        daemon.reply(nested, &json!({ "read": way }));
        assert_eq!(daemon.answer(stream).json(), json!({ "read": way }));
    }
}

#[test]
fn the_application_s_own_commands_have_its_plugin_s_name_and_errors_come_back() {
    let place = Place::new();
    let (_provider, mut daemon) = serve(&place);
    let stream = start(&mut daemon, "sibling", "own");
    let (nested, call, _) = daemon.called();
    assert_eq!(call.command.as_str(), "text.sibling");
    daemon.fail(nested, ErrorCode::PermissionDenied, "not you");
    let answer = daemon.answer(stream);
    assert_eq!(answer.error(), (ErrorCode::PermissionDenied, "not you"));
}

#[test]
fn a_call_that_ends_takes_the_calls_made_for_it_with_it() {
    let place = Place::new();
    let (_provider, mut daemon) = serve(&place);
    let stream = start(&mut daemon, "fs.read_file", "own");
    let (nested, ..) = daemon.called();
    daemon.connection.cancel(stream);
    let (mut ended, mut cancelled) = (false, false);
    while !(ended && cancelled) {
        match daemon.next().expect("more") {
            Event::Failed { stream: of, code: ErrorCode::Cancelled, .. } => ended = of == stream,
            Event::Cancelled { stream: of } => cancelled = of == nested,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_lost_connection_says_whether_a_call_may_have_run() {
    let place = Place::new();
    let commands = invoked::Builder::new("text").invoke_handler(generate_handler![relay]);
    let (told, heard) = std::sync::mpsc::channel();
    let builder = commands.setup(move |app| {
        let app = app.handle().clone();
        invoked::async_runtime::spawn(async move {
            let mut outcome;
            loop {
                outcome = app.call("fs.read_file").send().await;
                let too_early =
                    matches!(&outcome, Err(CallError::Framework(fault)) if fault.delivery.name() == "not_delivered");
                if !too_early {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            drop(told.send(outcome));
        });
        Ok(())
    });
    // One that does not look for its daemon again would end, and its tasks with it.
    let pauses = Reconnect { first: Duration::from_millis(1), longest: Duration::from_millis(20) };
    let (_provider, mut daemon) = place.serve_with(builder, place.options().reconnect(pauses));
    let call = daemon.next();
    assert!(matches!(call, Some(Event::Called { .. })), "{call:?}");
    drop(daemon);
    let Err(CallError::Framework(fault)) = heard.recv().unwrap() else { panic!("it has no answer") };
    assert_eq!((fault.code, fault.delivery.name()), (ErrorCode::Unavailable, "delivered"));
}
