//! Peers that provide commands, as processes have it: registered, called, withdrawn, lost.

use std::path::PathBuf;

use bytes::Bytes;
use invoked_client::{Address, Delivery, ErrorCode};
use invoked_proto::body::Body;
use invoked_proto::metadata::OriginStamp;
use invoked_proto::registry::{quotas, tags};
use serde_json::{Value, json};

use crate::child::{Other, STRANGER, can_be_others, say};
use crate::harness::{Daemon, Start, eventually, stats};
use crate::scripted::{Scripted, interface};
use crate::watch::{Innocents, Watch};

fn listed(daemon: &Daemon) -> Vec<String> {
    let discovered: Value = daemon.client().invoke("core.discover", &Value::Null).unwrap();
    let commands = discovered["commands"].as_array().unwrap().iter();
    commands.map(|command| command["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_peer_provides_what_another_calls() {
    let daemon = Start::dev().run();
    let client = daemon.client();
    let mut text = Scripted::connect(&daemon);
    let provided = text.provide(&interface()).unwrap();
    let expected =
        json!({ "plugin": "text", "major": 1, "commands": ["text.read", "text.upper"], "pending": false });
    assert_eq!(provided, expected);

    // It is there like any other command: --dev gives it to the uid that started the daemon.
    assert!(listed(&daemon).contains(&"text.upper".to_owned()));
    let described: Value = client.invoke("core.describe", &json!({ "name": "text.upper" })).unwrap();
    assert_eq!(described["docs"], "Makes it loud.\n\nAll of it.");
    assert_eq!(
        (&described["runs"], &described["permission"]),
        (&json!("provider"), &json!("text:allow-upper"))
    );
    assert_eq!(described["arguments"], json!([{ "key": "text", "type": "string", "optional": false }]));
    let question = json!({ "command": "text.upper", "peer": { "uid": rustix::process::geteuid().as_raw() } });
    let explained: Value = client.invoke("core.explain", &question).unwrap();
    assert_eq!(explained["allowed"], true, "{explained}");
    let schema: Value = client.invoke("core.schema", &Value::Null).unwrap();
    assert!(schema.to_string().contains("text:allow-upper"));

    let running = client.call("text.upper").arg("text", "hi").start().unwrap();
    let (number, scopes) = text.next_grant();
    assert_eq!((&scopes["command"], &scopes["capabilities"]), (&json!("text.upper"), &json!(["dev"])));
    let called = text.next_call();
    assert_eq!(called.body, Body::Json(Bytes::from_static(br#"{"text":"hi"}"#)));
    let origin = OriginStamp::decode(called.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
    assert_eq!((origin.uid, origin.grant), (rustix::process::geteuid().as_raw(), number));
    assert_eq!(origin.pid, Some(std::process::id()));
    text.reply(called.stream, Body::Json(Bytes::from_static(b"\"HI\"")));
    assert_eq!(running.wait().unwrap().json::<String>().unwrap(), "HI");
    let after = stats(&client);
    assert_eq!((&after["providers"], &after["routed"]), (&json!(1), &json!(1)));

    text.ask("core.withdraw", &json!({ "plugin": "text", "major": 1 })).unwrap();
    let error = client.invoke::<Value>("text.upper", &Value::Null).unwrap_err();
    assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::Unavailable), Delivery::NotDelivered));
    assert!(!listed(&daemon).contains(&"text.upper".to_owned()));
}

#[test]
fn a_grant_for_a_provider_that_is_not_there_becomes_live_when_it_comes() {
    let own = rustix::process::geteuid().as_raw();
    let capability = format!(
        "identifier = \"x\"\npeers = [\"uid:{own}\"]\nprovide = [\"text\"]\n\
         permissions = [{{ identifier = \"text:allow-read\", allow = [\"/a/*\"] }}, \"text:allow-upper\"]\n"
    );
    let daemon = Start::plain().capability("x.toml", &capability).run();
    daemon
        .await_line(0, &["\"text:allow-read\" is pending: it grants nothing until a peer provides \"text\""]);
    let client = daemon.client();
    let error = client.invoke::<Value>("text.read", &Value::Null).unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotDelivered);
    assert!(error.code() != Some(ErrorCode::Unavailable), "it is not known yet: {error}");

    let mut text = Scripted::providing(&daemon);
    let running = client.call("text.read").start().unwrap();
    let (_, scopes) = text.next_grant();
    assert_eq!(scopes["allow"], json!(["/a/*"]));
    let called = text.next_call();
    text.reply(called.stream, Body::Raw(Bytes::from_static(b"x")));
    running.wait().unwrap();

    // Also across a reload, and when the provider has gone and come back, which compiles nothing.
    client.invoke::<Value>("core.reload", &Value::Null).unwrap();
    let revision = |client: &invoked_client::blocking::Client| -> Value {
        let question = json!({ "command": "text.read", "peer": { "uid": own } });
        client.invoke::<Value>("core.explain", &question).unwrap()["revision"].clone()
    };
    let before = revision(&client);
    drop(text);
    eventually("the daemon notices", || stats(&client)["providers"] == 0);
    let error = client.invoke::<Value>("text.read", &Value::Null).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let mut text = Scripted::providing(&daemon);
    let running = client.call("text.read").start().unwrap();
    let called = text.next_call();
    text.reply(called.stream, Body::Raw(Bytes::from_static(b"x")));
    running.wait().unwrap();
    assert_eq!(revision(&client), before);
}

#[test]
fn who_may_not_provide_is_denied() {
    let own = rustix::process::geteuid().as_raw();
    let capability = format!("identifier = \"x\"\npeers = [\"uid:{own}\"]\nprovide = [\"other\"]\n");
    let daemon = Start::plain().capability("x.toml", &capability).run();
    let mut text = Scripted::connect(&daemon);
    let (code, message) = text.provide(&interface()).unwrap_err();
    assert_eq!((code, message.as_str()), (ErrorCode::PermissionDenied, "this peer may not provide \"text\""));
    let plain = Start::plain().run();
    let (code, _) = Scripted::connect(&plain).provide(&interface()).unwrap_err();
    assert!(matches!(code, ErrorCode::PermissionDenied | ErrorCode::NotFound), "{code:?}");
}

#[test]
fn an_interface_is_held_to_its_limits_and_to_its_form() {
    let daemon = Start::dev()
        .config("[quotas]\ncommands_per_interface = 2\ninterface_bytes = 1000\ninterfaces = 3")
        .run();
    let mut text = Scripted::connect(&daemon);
    text.provide(&interface()).expect("n commands");
    let mut larger = interface();
    larger["methods"].as_array_mut().unwrap().push(json!({ "name": "text.more" }));
    assert_eq!(text.provide(&larger).unwrap_err().0, ErrorCode::ResourceExhausted, "n + 1 commands");

    let padded = |bytes: usize| {
        let mut interface = interface();
        interface["info"]["title"] = json!("");
        let lacks = bytes - interface.to_string().len();
        interface["info"]["title"] = json!("x".repeat(lacks));
        interface
    };
    text.provide(&padded(1000)).expect("n bytes");
    assert_eq!(text.provide(&padded(1001)).unwrap_err().0, ErrorCode::TooLarge, "n + 1 bytes");

    for (name, is_left) in [("a", true), ("b", true), ("c", false)] {
        let other = interface().to_string().replace("text", name);
        let provided = text.provide(&serde_json::from_str(&other).unwrap());
        assert_eq!(provided.is_ok(), is_left, "n + 1 interfaces: {provided:?}");
    }
    // What nobody provides any more makes room.
    text.ask("core.withdraw", &json!({ "plugin": "a", "major": 1 })).unwrap();
    let other = interface().to_string().replace("text", "c");
    text.provide(&serde_json::from_str(&other).unwrap()).unwrap();

    for (interface, code) in [
        (json!({}), ErrorCode::InvalidArgument),
        (json!({ "methods": [], "x-invoked": { "plugin": "fs" } }), ErrorCode::AlreadyExists),
        (
            json!({ "info": { "version": "1" }, "methods": [], "x-invoked": { "plugin": "text", "permission": [
            { "identifier": "x", "commands": { "allow": ["nothing"] } }] } }),
            ErrorCode::InvalidArgument,
        ),
    ] {
        assert_eq!(text.provide(&interface).unwrap_err().0, code, "{interface}");
    }
    const { assert!(quotas::REGISTRATIONS_PER_SECOND >= 16, "as many as this test makes") };
}

/// A child that provides `text` and answers each call with the bytes of its body and who called.
pub(crate) fn answering(address: &Address) {
    let mut text = Scripted::connect_to(&socket_of(address));
    if let Err((code, message)) = text.provide(&interface()) {
        return say(format!("{} {message}", code.name()));
    }
    say("providing");
    loop {
        let called = text.next_call();
        let origin = OriginStamp::decode(called.call.extensions.find(tags::ORIGIN).unwrap()).unwrap();
        let answer = format!("{} from {}", String::from_utf8_lossy(called.body.bytes()), origin.uid);
        text.reply(called.stream, Body::Json(Bytes::from(json!(answer).to_string())));
    }
}

/// A child that provides `text`, takes calls and never answers; it says how many it has when it is asked.
pub(crate) fn hoarding(address: &Address) {
    let mut text = Scripted::connect_to(&socket_of(address));
    text.provide(&interface()).unwrap();
    say("providing");
    let mut order = String::new();
    while std::io::stdin().read_line(&mut order).unwrap() > 0 {
        let wanted: usize = order.trim().parse().unwrap();
        (0..wanted).for_each(|_| drop(text.next_call()));
        say("has them");
        order.clear();
    }
}

fn socket_of(address: &Address) -> PathBuf {
    PathBuf::from(address.to_string().strip_prefix("unix:").unwrap())
}

#[test]
fn a_provider_killed_with_calls_and_channels_open_leaves_nothing() {
    let mut daemon = Start::dev().run();
    let mut innocents = Innocents::connect(4, &daemon.place().options());
    let client = daemon.client();
    let watch = Watch::start(&daemon);
    innocents.start();
    for round in 0..3 {
        let mut provider = Other::start("hoarding", daemon.place());
        assert_eq!(provider.answer(), "providing");
        let calls: Vec<_> =
            (0..90).map(|_| client.call("text.upper").arg("text", "x").start().unwrap()).collect();
        let streams: Vec<_> = (0..10)
            .map(|_| {
                let (call, items) = client.call("text.upper").open_channel();
                (call.start().unwrap(), items)
            })
            .collect();
        assert_eq!(provider.ask("100"), "has them");
        provider.kill();
        for call in calls {
            let error = call.wait().unwrap_err();
            assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::Unavailable), Delivery::Delivered));
        }
        for (call, mut items) in streams {
            assert!(call.wait().unwrap_err().is_unavailable());
            let end = items.next().expect("an end with an error").unwrap_err();
            assert!(end.is_unavailable(), "{end}");
            assert!(items.next().is_none());
        }
        let error = client.invoke::<Value>("text.upper", &Value::Null).unwrap_err();
        assert_eq!((error.is_unavailable(), error.delivery()), (true, Delivery::NotDelivered));
        watch.check(&mut daemon, &format!("{} providers killed", round + 1));
    }
    // Whoever comes next serves.
    let mut text = Scripted::providing(&daemon);
    let running = client.call("text.upper").start().unwrap();
    let called = text.next_call();
    text.reply(called.stream, Body::Json(Bytes::from_static(b"1")));
    running.wait().unwrap();
    drop(text);
    assert_eq!(innocents.finish(), 0, "errors of innocent callers");
    watch.finish(&mut daemon, "providers killed");
}

#[test]
fn callers_and_providers_of_different_uids_are_told_apart() {
    if !can_be_others("providers and callers under different uids") {
        return;
    }
    let own = rustix::process::geteuid().as_raw();
    let capability = |provider: u32, caller: u32| {
        format!(
            "[[capabilities]]\nidentifier = \"serves\"\npeers = [\"uid:{provider}\"]\nprovide = [\"text\"]\n\
             [[capabilities]]\nidentifier = \"calls\"\npeers = [\"uid:{caller}\"]\npermissions = [\"text:allow-upper\"]\n"
        )
    };
    // A stranger serves this user.
    let daemon = Start::plain().everyone().capability("x.toml", &capability(STRANGER, own)).run();
    let mut provider = Other::start_stranger("answering", daemon.place());
    assert_eq!(provider.answer(), "providing");
    let answer: String = daemon.client().invoke("text.upper", &json!("hi")).unwrap();
    assert_eq!(answer, format!("\"hi\" from {own}"));
    // It may serve, and not call what it serves.
    let mut caller = Other::start_stranger("caller", daemon.place());
    assert_eq!(caller.answer(), "connected");
    let refused = caller.ask("text.upper {}");
    assert!(refused.starts_with("permission_denied"), "{refused}");
    drop((caller, provider, daemon));

    // This user serves a stranger, and no stranger may take its name.
    let daemon = Start::plain().everyone().capability("x.toml", &capability(own, STRANGER)).run();
    let mut provider = Other::start("answering", daemon.place());
    assert_eq!(provider.answer(), "providing");
    let mut caller = Other::start_stranger("caller", daemon.place());
    assert_eq!(caller.answer(), "connected");
    assert_eq!(caller.ask("text.upper {\"a\":1}"), format!("ok \"{{\\\"a\\\":1}} from {STRANGER}\""));
    let mut rival = Other::start_stranger("answering", daemon.place());
    let refused = rival.answer();
    assert!(refused.starts_with("permission_denied"), "{refused}");
}
