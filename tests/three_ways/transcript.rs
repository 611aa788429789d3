//! What a caller sees of the handlers, as text.

use std::fmt::Write as _;
use std::time::Duration;

use invoked::transport::Address;
use invoked_client::blocking::Client;
use invoked_client::{Call, Error, Options, Reply};
use serde_json::json;

/// Calls everything at `address`; an entry for each call.
pub(crate) fn of(address: Address) -> Vec<String> {
    let client = Client::connect(Options::new().address(address).name("caller", "1")).unwrap();
    let mut told = Vec::new();
    let call = |name: &str| client.call(name);
    let mut say = |what: &str, outcome: Result<Reply, Error>| told.push(format!("{what}: {}", text(outcome)));
    say("json", call("ways.greet").arg("firstName", "Ann").send());
    say("a key too few", call("ways.greet").arg("first_name", "Ann").send());
    say("no arguments", call("ways.greet").raw("x").send());
    let raw: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    say("raw", call("ways.reversed").raw(raw).send());
    say("empty", call("ways.reversed").raw(Vec::new()).send());
    let names = json!({ "left": "__ATTACHMENT__:0", "right": "__ATTACHMENT__:1", "between": " and " });
    say("attachments", call("ways.joined").args(&names).attach("this").attach(vec![b't'; 90_000]).send());
    for _ in 0..2 {
        say("state", call("ways.count").send());
    }
    for url in ["https://a/x", "https://a/secret/x", "https://b/x", "https://b/secret", "https://c/"] {
        say("scope", call("ways.open").arg("url", url).send());
    }
    for how in ["json", "raw", "code"] {
        say("error", call("ways.fails").arg("how", how).send());
    }
    say("panic", call("ways.panics").send());
    say("denied", call("ways.forbidden").send());
    say("unknown", call("ways.nothing").send());
    say("memory", call("ways.large").arg("len", 5_000_000).send());
    say("file", call("ways.file").send());
    say("headers", call("ways.mirrored").header("x-word", "word").raw("x").send());
    say("caller", call("ways.who").send());
    say("nested", call("ways.nested").send());
    say("deferred", call("ways.deferred").raw("four").send());
    say("resource", call("ways.hold").send());
    say("resources", call("ways.held").send());
    told.push(format!("down: {}", down(call("ways.count_down").arg("from", 300), "onNumber")));
    told.push(format!("later: {}", down(call("ways.later"), "items")));
    told.push(format!("up: {}", up(call("ways.add_up"))));
    told.push(format!("cancelled: {}", ended(call("ways.idle"), true)));
    told.push(format!("late: {}", ended(call("ways.idle").timeout(Duration::from_millis(500)), false)));
    told
}

fn text(outcome: Result<Reply, Error>) -> String {
    match outcome {
        Ok(reply) => {
            let mut text = bytes(reply.bytes());
            for (key, value) in reply.headers() {
                write!(text, " {key}={value}").unwrap();
            }
            reply.attachments().iter().for_each(|part| write!(text, " + {}", bytes(part)).unwrap());
            text
        }
        Err(error) => error_text(&error),
    }
}

/// All of it if it is short, else its size and a sum over all of it.
fn bytes(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    if bytes.len() < 200 {
        format!("{:?}", String::from_utf8_lossy(bytes))
    } else {
        format!("{}:{sum:x}", bytes.len())
    }
}

fn error_text(error: &Error) -> String {
    let code = error.code().map(|code| code.name());
    let body = bytes(error.body().bytes());
    // Whether the client or the daemon sees first that it is late is chance, and they say it differently.
    let message = if code == Some("deadline_exceeded") { "" } else { error.message() };
    format!("{code:?} {message:?} {} {body}", error.delivery().name())
}

fn down<'c>(call: Call<'c, Client>, key: &str) -> String {
    let (call, items) = call.channel(key);
    let running = call.start().unwrap();
    let items: Vec<String> =
        items.map(|item| item.map_or_else(|e| error_text(&e), |item| bytes(item.bytes()))).collect();
    format!("{items:?} then {}", text(running.wait()))
}

fn up(call: Call<'_, Client>) -> String {
    let (call, mut numbers) = call.channel_to("numbers");
    let running = call.start().unwrap();
    (1..=1000_u64).for_each(|number| numbers.send(&number).unwrap());
    numbers.close();
    text(running.wait())
}

/// A call that ends while its handler runs.
fn ended(call: Call<'_, Client>, cancel: bool) -> String {
    let (call, mut started) = call.channel("started");
    let running = call.start().unwrap();
    assert!(started.next().is_some_and(|item| item.is_ok()));
    if cancel {
        running.canceller().cancel();
    }
    text(running.wait())
}
