//! The connection of a provider: how it ends, and that it is made again.

use std::time::Duration;

use invoked::ipc::{Body, CancellationToken, Channel, ErrorCode};
use invoked::provider::{ProvideError, Reconnect};
use invoked::{Builder, command, generate_handler};
use invoked_proto::connection::Event;
use serde_json::json;

use crate::script::{CALLER, Place, Script};

#[command(inline)]
fn ping() -> &'static str {
    "pong"
}

#[command]
async fn slow(started: Channel<()>, cancelled: CancellationToken) -> Result<&'static str, String> {
    started.send(()).map_err(|error| error.to_string())?;
    tokio::select! {
        () = cancelled.cancelled() => Err("cancelled".to_owned()),
        () = tokio::time::sleep(Duration::from_millis(300)) => Ok("done"),
    }
}

fn builder() -> Builder<invoked::Wry, invoked::Named> {
    Builder::new("text").invoke_handler(generate_handler![ping, slow])
}

/// A call of `text.slow` whose handler runs.
fn begun(daemon: &mut Script) -> u64 {
    daemon.grant("text.slow");
    let channel = invoked_proto::metadata::ChannelDeclaration {
        index: 1,
        direction: invoked_proto::registry::Direction::Down,
        credit: 4096,
    };
    let args = Body::Json(json!({ "started": "__CHANNEL__:1" }).to_string().into());
    let stream = daemon.start("text.slow", args, CALLER, vec![channel]);
    loop {
        if let Some(Event::ItemCame { .. }) = daemon.next() {
            return stream;
        }
    }
}

#[test]
fn stopping_withdraws_lets_calls_end_and_leaves() {
    let place = Place::new();
    let (provider, mut daemon) = place.serve(builder());
    let stream = begun(&mut daemon);
    provider.stop();
    let (withdrawal, call, args) = daemon.called();
    assert_eq!((call.command.as_str(), args), ("core.withdraw", json!({ "plugin": "text", "major": 0 })));
    daemon.reply(withdrawal, &json!(null));
    assert_eq!(daemon.answer(stream).json(), json!("done"));
    while let Some(event) = daemon.next() {
        assert!(
            matches!(event, Event::WentAway { code: None, .. } | Event::ChannelEnded { .. }),
            "{event:?}"
        );
    }
    provider.wait().unwrap();
}

#[test]
fn a_daemon_that_goes_ends_the_provider_unless_it_is_to_connect_again() {
    let place = Place::new();
    let (provider, mut daemon) = place.serve(builder());
    let stream = begun(&mut daemon);
    daemon.connection.drain("the daemon is stopping");
    assert_eq!(daemon.answer(stream).json(), json!("done"), "what is open goes on");
    drop(daemon);
    assert!(matches!(provider.wait(), Err(ProvideError::Lost)));
}

#[test]
fn a_lost_daemon_cancels_what_runs_and_is_looked_for_again() {
    let place = Place::new();
    let pauses = Reconnect { first: Duration::from_millis(1), longest: Duration::from_millis(20) };
    let (provider, mut daemon) = place.serve_with(builder(), place.options().reconnect(pauses));
    begun(&mut daemon);
    drop(daemon);
    for refused in [true, false] {
        let mut daemon = place.accept();
        if refused {
            // Another has the name for a moment.
            let (stream, ..) = daemon.called();
            daemon.fail(stream, ErrorCode::AlreadyExists, "taken");
            assert!(daemon.ends());
            continue;
        }
        daemon.take_registration();
        daemon.grant("text.ping");
        assert_eq!(daemon.call("text.ping", &json!({})).json(), json!("pong"));
        provider.stop();
        let (stream, ..) = daemon.called();
        daemon.reply(stream, &json!(null));
    }
    provider.wait().unwrap();
}

#[test]
fn a_provider_that_is_dropped_leaves() {
    let place = Place::new();
    let (provider, mut daemon) = place.serve(builder());
    let leaving = std::thread::spawn(move || drop(provider));
    let (stream, call, _) = daemon.called();
    assert_eq!(call.command.as_str(), "core.withdraw");
    daemon.fail(stream, ErrorCode::Unavailable, "whatever");
    while daemon.next().is_some() {}
    leaving.join().unwrap();
}

#[test]
fn an_async_program_provides_too() {
    let place = Place::new();
    let options = place.options();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let program = std::thread::spawn(move || {
        runtime.block_on(async move {
            let provider = builder().provide(options).await?;
            let handle = provider.handle().clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                handle.stop();
            });
            provider.stopped().await
        })
    });
    let mut daemon = place.accept();
    daemon.take_registration();
    let (stream, ..) = daemon.called();
    daemon.reply(stream, &json!(null));
    while daemon.next().is_some() {}
    program.join().unwrap().unwrap();
}
