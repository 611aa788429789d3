//! Bodies and raw attachments, together and alone, in calls, results and errors: byte for byte, through real sockets.

use std::process::{Command as Process, Output, Stdio};

use bytes::Bytes;
use invoked::Config;
use invoked::ipc::{CallError, Command, Fault, InvokeError, InvokeMessage, Outcome, Response};
use invoked_client::blocking::Client;
use invoked_client::{Body, Call, Delivery, ErrorCode};
use invoked_proto::body::Message;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::handlers::Embedded;

/// What one message carries at most.
const MAX_MESSAGE: usize = invoked_proto::registry::limits::MAX_MESSAGE;

/// Commands that give back what they take.
fn commands() -> Vec<Command> {
    vec![
        Command::inline("inline", |message| Ok(echo(message))).takes_raw(),
        Command::blocking("pool", |message| Ok(echo(message))).takes_raw(),
        Command::future("worker", |message| async move { Ok(echo(&message)) }).takes_raw(),
        Command::blocking("fail", fail).takes_raw(),
        Command::blocking("swap", swap),
        Command::inline("too_many", |_| {
            Ok((0..17).fold(Response::json("many")?, |response, _| response.attach("x")))
        }),
        Command::inline("fail_too_many", |_| {
            Err((0..17).fold(InvokeError::json("many"), |error, _| error.attach("x")).into())
        }),
        Command::blocking("too_large", |_| {
            Ok((0..5).fold(Response::new(b"x"), |response, _| response.attach(vec![0; MAX_MESSAGE / 4])))
        }),
    ]
}

fn echo(message: &InvokeMessage) -> Response {
    let response = Response::from(message.body().clone());
    message.attachments().iter().fold(response, |response, bytes| response.attach(bytes.clone()))
}

/// The same as an error of its own.
fn fail(message: &InvokeMessage) -> Outcome {
    let error = match message.body() {
        Body::Json(json) => {
            let value: &RawValue = serde_json::from_slice(json).map_err(|e| invalid(&e.to_string()))?;
            InvokeError::json(value)
        }
        body => InvokeError::raw(body.clone().into_bytes()),
    };
    let attached = message.attachments().iter().fold(error, |error, bytes| error.attach(bytes.clone()));
    Err(CallError::from(attached))
}

/// Takes two attachments by name and gives them back in the other order.
fn swap(message: &InvokeMessage) -> Outcome {
    let named = |key| message.attachment(key)?.cloned().ok_or_else(|| invalid(&format!("no `{key}`")));
    let (first, second) = (named("first")?, named("second")?);
    Ok(Response::json(&[first.len(), second.len()])?.attach(second).attach(first))
}

fn invalid(text: &str) -> Fault {
    Fault::refusal(ErrorCode::InvalidArgument, text)
}

fn daemon() -> Embedded {
    Embedded::start(Config::default(), commands())
}

/// Bytes that differ from place to place and from seed to seed.
fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(len).collect()
}

fn with<'c, C: invoked_client::Caller>(call: Call<'c, C>, message: &Message) -> Call<'c, C> {
    let call = match message.body.clone() {
        Body::None => call,
        Body::Json(json) => call.json(json),
        Body::Raw(bytes) => call.raw(bytes),
    };
    message.attachments.iter().cloned().fold(call, Call::attach)
}

#[track_caller]
fn comes_back(client: &Client, message: &Message) {
    let lens = || message.attachments.iter().map(Bytes::len).collect::<Vec<_>>();
    for command in ["core.echo", "inline", "pool", "worker"] {
        let reply = with(client.call(command), message).send().unwrap_or_else(|e| panic!("{command}: {e}"));
        assert!(reply.into_message() == *message, "{command}: {:?} and {:?}", message.body.codec(), lens());
    }
    let error = with(client.call("fail"), message).send().unwrap_err();
    assert!(error.is_application() && error.delivery() == Delivery::Completed, "{error}");
    assert!(error.attachments() == message.attachments, "in an error: {:?}", lens());
    match (&message.body, error.body()) {
        (Body::None, body) => assert_eq!(body, &Body::Raw(Bytes::new())),
        (sent, body) => assert!(sent == body, "in an error"),
    }
}

#[test]
fn messages_of_every_shape_come_back_byte_for_byte() {
    let daemon = daemon();
    let client = daemon.client();
    let json = Body::Json(Bytes::from_static(b"{\"n\":18446744073709551616,\"t\":\"\xc3\xa9\"}"));
    let large = Body::Json(format!("\"{}\"", "x".repeat(700_000)).into());
    for attachments in [
        vec![],
        vec![Bytes::new()],
        vec![Bytes::new(); 16],
        vec![noise(1, 1)],
        vec![noise(65_536, 2), Bytes::new(), noise(65_537, 3)],
        (0..16).map(|index| noise(index * 5_000, index as u64)).collect(),
        vec![noise(3_000_000, 4), noise(1, 5)],
    ] {
        let raw = Body::Raw(noise(100_000, 6));
        for body in [Body::None, Body::Raw(Bytes::new()), json.clone(), large.clone(), raw] {
            comes_back(&client, &Message { body, attachments: attachments.clone() });
        }
    }
    // As much as a message takes, of many parts, and a byte more.
    let part = noise(MAX_MESSAGE / 16, 7);
    let mut whole = Message { body: Body::None, attachments: vec![part; 16] };
    assert_eq!(whole.len(), MAX_MESSAGE);
    assert!(with(client.call("pool"), &whole).send().unwrap().into_message() == whole);
    whole.body = Body::Raw(Bytes::from_static(b"!"));
    let error = with(client.call("pool"), &whole).send().unwrap_err();
    assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::TooLarge), Delivery::NotDelivered));
    client.ping().expect("the connection goes on");
}

#[test]
fn attachments_are_taken_by_name() {
    let daemon = daemon();
    let client = daemon.client();
    let (a, b) = (noise(70_000, 1), noise(3, 2));
    let reply =
        client.call("swap").attach_as("second", b.clone()).attach_as("first", a.clone()).send().unwrap();
    assert_eq!(reply.json::<[usize; 2]>().unwrap(), [70_000, 3]);
    assert_eq!(reply.attachments(), [b, a]);
    for (call, why) in [
        (client.call("swap").attach_as("first", "x"), "no `second`"),
        (
            client.call("swap").arg("first", "__ATTACHMENT__:0").arg("second", "x"),
            "no attachment 0; it has 0",
        ),
        (
            client.call("swap").attach_as("first", "x").arg("second", "x"),
            "`second` of swap: not an attachment",
        ),
        (
            client.call("swap").attach_as("first", "x").arg("second", "__ATTACHMENT__:0"),
            "the same attachment",
        ),
    ] {
        let error = call.send().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
        assert!(error.message().contains(why), "{why}: {error}");
    }
}

#[test]
fn one_attachment_too_many_is_told_to_who_sends_it() {
    let daemon = daemon();
    let client = daemon.client();
    let many = (0..17).fold(client.call("core.echo"), |call, _| call.attach("x"));
    let error = many.send().unwrap_err();
    assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::InvalidArgument), Delivery::NotDelivered));
    assert!(error.message().contains("16 attachments at most"), "{error}");
    // And where the command is to blame, that is what its caller learns.
    for command in ["too_many", "fail_too_many"] {
        let error = client.call(command).send().unwrap_err();
        assert_eq!(
            (error.code(), error.delivery()),
            (Some(ErrorCode::Internal), Delivery::Completed),
            "{error}"
        );
        assert!(error.message().contains("answer can't be sent: too many parts"), "{error}");
    }
    let error = client.call("too_large").send().unwrap_err();
    assert_eq!((error.code(), error.delivery()), (Some(ErrorCode::TooLarge), Delivery::Completed), "{error}");
    client.ping().expect("the connection goes on");
}

/// Any message: each kind of body, with any number of attachments that are empty, small, or longer than a frame.
fn messages() -> impl Strategy<Value = Message> {
    let bytes = prop_oneof![
        2 => Just(0..1_usize),
        4 => Just(1..200),
        2 => Just(65_000..66_000),
        1 => Just(66_000..400_000),
    ]
    .prop_flat_map(|lens| (lens, any::<u64>()))
    .prop_map(|(len, seed)| noise(len, seed))
    .boxed();
    let text = prop_oneof![3 => "[a-zé\\\\\"\n]{0,40}", 1 => (60_000..200_000_usize).prop_map(|len| "y".repeat(len))];
    let json = text.prop_map(|text| Body::Json(serde_json::to_vec(&text).unwrap().into()));
    let body = prop_oneof![Just(Body::None), bytes.clone().prop_map(Body::Raw), json];
    (body, vec(bytes, 0..=16)).prop_map(|(body, attachments)| Message { body, attachments })
}

#[test]
fn any_mix_comes_back_over_both_clients() {
    let daemon = daemon();
    let blocking = daemon.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(invoked_client::Client::connect(daemon.place.options())).unwrap();
    let mut runner = TestRunner::new(Cases { failure_persistence: None, ..Cases::with_cases(120) });
    runner
        .run(&vec(messages(), 1..4), |batch| {
            for message in &batch {
                comes_back(&blocking, message);
            }
            runtime.block_on(async {
                // All at once: fragments of several messages are under way in turns.
                let mut under_way = tokio::task::JoinSet::new();
                for (index, message) in batch.into_iter().enumerate() {
                    let client = client.clone();
                    under_way.spawn(async move {
                        let command = ["core.echo", "inline", "pool", "worker"][index % 4];
                        let reply = with(client.call(command), &message).send().await.unwrap();
                        assert!(reply.into_message() == message, "{command}");
                        let error = with(client.call("fail"), &message).send().await.unwrap_err();
                        assert!(error.is_application() && error.attachments() == message.attachments);
                    });
                }
                while let Some(ended) = under_way.join_next().await {
                    ended.unwrap();
                }
            });
            Ok(())
        })
        .unwrap();
}

/// Runs `invokectl` in the directory that the daemon shares.
fn ctl(daemon: &Embedded, words: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_invokectl"))
        .args(["-a", &daemon.place.address().to_string()])
        .args(words)
        .current_dir(daemon.place.path("files"))
        .env_remove("INVOKED_ADDRESS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn the_tool_saves_and_names_the_attachments_of_an_error() {
    let daemon = daemon();
    let files = daemon.place.path("files");
    std::fs::write(files.join("a"), "attached").unwrap();
    std::fs::write(files.join("empty"), "").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let call = ["call", "fail", "why=full", "log@a", "--attach", "empty"];
    let body = "{\"why\":\"full\",\"log\":\"__ATTACHMENT__:0\"}\n";

    let told = ctl(&daemon, &call);
    assert_eq!((told.status.code(), told.stdout.len()), (Some(1), 0));
    assert_eq!(
        text(told.stderr),
        format!("{body}and 2 attachments, 8 bytes: -o FILE saves them beside it\n")
    );
    let quiet = ctl(&daemon, &[&["-q"], &call[..]].concat());
    assert_eq!(text(quiet.stderr), body, "the command's own words and nothing else");

    let saved = ctl(&daemon, &[&call[..], &["-o", "out"]].concat());
    assert_eq!(saved.status.code(), Some(1));
    assert_eq!(text(saved.stderr), format!("{body}8 bytes in out.1\n0 bytes in out.2\n"));
    assert_eq!(std::fs::read(files.join("out.1")).unwrap(), b"attached");
    assert_eq!(std::fs::read(files.join("out.2")).unwrap(), b"");
    assert!(!files.join("out").exists(), "where a result would be there is none");

    let object = |output: Output| serde_json::from_slice::<Value>(&output.stderr).unwrap()["error"].take();
    let error = object(ctl(&daemon, &[&["-j"], &call[..]].concat()));
    let raw = serde_json::json!([{ "bytes": 8, "base64": "YXR0YWNoZWQ=" }, { "bytes": 0, "base64": "" }]);
    assert_eq!((&error["code"], &error["body"]["why"]), (&"application".into(), &"full".into()));
    assert_eq!(error["attachments"], raw);
    let error = object(ctl(&daemon, &[&["-j"], &call[..], &["-o", "out"]].concat()));
    let files = serde_json::json!([{ "file": "out.1", "bytes": 8 }, { "file": "out.2", "bytes": 0 }]);
    assert_eq!(error["attachments"], files);
    let error = object(ctl(&daemon, &["-j", "call", "fail", "--raw", "a"]));
    assert_eq!(error["raw"], serde_json::json!({ "bytes": 8, "base64": "YXR0YWNoZWQ=" }));
    assert!(error.get("attachments").is_none() && error.get("body").is_none(), "{error}");

    // A place that can't be written loses no error.
    let unsaved = ctl(&daemon, &[&call[..], &["-o", "no/such/place"]].concat());
    assert_eq!(unsaved.status.code(), Some(1));
    let said = text(unsaved.stderr);
    assert!(said.contains(body) && said.contains("can't write no/such/place.1"), "{said}");
}
