//! Each contradiction in a registry is refused, by table and name.

use std::fs;
use std::path::Path;

use invoked_codegen::registry::{self, Error, validate::Invalid};

fn text() -> String {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate is two levels down");
    fs::read_to_string(root.join(registry::SOURCE)).expect("the repository holds the registry")
}

/// The registry with the first `from` after `anchor` replaced.
fn edited(anchor: &str, from: &str, to: &str) -> String {
    let text = text();
    let start = text.find(anchor).unwrap_or_else(|| panic!("{anchor} is in the registry"));
    let (head, tail) = text.split_at(start);
    assert!(tail.contains(from), "{from} stands after {anchor}");
    format!("{head}{}", tail.replacen(from, to, 1))
}

fn refusal(text: &str) -> Invalid {
    match registry::parse(text) {
        Err(Error::Invalid(invalid)) => invalid,
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[test]
fn the_registry_itself_is_valid() {
    registry::parse(&text()).unwrap();
}

#[test]
fn repeated_numbers_and_names_are_refused() {
    for (anchor, from, to, message) in [
        ("name = \"PONG\"", "0x05", "0x04", "[[frame]] PONG repeats the number of PING"),
        ("name = \"PONG\"", "PONG", "PING", "[[frame]] PING repeats the name of PING"),
        ("name = \"unknown\"", "value = 2", "value = 1", "[[error]] unknown repeats the number of cancelled"),
        ("name = \"MORE\"", "bit = 1", "bit = 0", "[[flag]] MORE repeats the number of CONT"),
        (
            "name = \"max_json_depth\"",
            "id = 2",
            "id = 1",
            "[[limit]] max_json_depth repeats the number of max_message",
        ),
    ] {
        assert_eq!(refusal(&edited(anchor, from, to)).to_string(), message);
    }
}

#[test]
fn tags_out_of_order_are_refused() {
    let refused = refusal(&edited("name = \"depth\"", "0x0003", "0x7000"));
    assert_eq!(refused.to_string(), "[[tag]] origin is out of order: numbers must ascend");
}

#[test]
fn entries_that_are_wrong_by_themselves_are_refused() {
    for (anchor, from, to, why) in [
        ("name = \"PING\"", "PING", "ping", "case"),
        ("name = \"PING\"", "same `arg`.", "same `arg`", "full stop"),
        ("name = \"HELLO\"", "0x01", "0x00", "kind 0"),
        ("name = \"PAD\"", "stream = \"any\"", "stream = \"any\"\nrecord = \"Pad\"", "skipped unread"),
        ("name = \"SENSITIVE\"", "bit = 5", "bit = 16", "outside its set"),
        ("name = \"cancelled\"", "exit = 7", "exit = 0", "success"),
        ("name = \"handshake_max\"", "unit = \"bytes\"", "unit = \"ms\"", "_ms"),
        ("name = \"max_message\"", "67108864", "4294967296", "usize"),
    ] {
        let message = refusal(&edited(anchor, from, to)).to_string();
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn unknown_keys_and_numbers_out_of_range_are_syntax_errors_with_a_place() {
    for (anchor, from, to) in [
        ("name = \"PING\"", "doc =", "dok ="),
        ("name = \"cancelled\"", "exit = 7", "exit = 256"),
        ("name = \"cancelled\"", "retryable = true", "retriable = true"),
    ] {
        match registry::parse(&edited(anchor, from, to)) {
            Err(Error::Syntax(error)) => assert!(error.to_string().contains("line "), "{error}"),
            other => panic!("{to}: {other:?}"),
        }
    }
}
