//! Calls one command and prints what it gives: `call NAME [KEY=VALUE…]`, blocking.
//!
//! A value that is JSON is sent as such, anything else as a string.

use std::error::Error;
use std::io::Write;

use invoked_client::blocking::Client;
use invoked_client::{Body, Options};
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or("usage: call NAME [KEY=VALUE…]")?;

    let client = Client::connect(Options::new().name("call-example", env!("CARGO_PKG_VERSION")))?;
    let mut call = client.call(&command);
    for word in words {
        let (key, value) = word.split_once('=').ok_or("arguments are written KEY=VALUE")?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        call = call.arg(key, value);
    }

    let reply = call.send()?;
    match reply.body() {
        Body::None => {}
        Body::Json(json) => println!("{}", String::from_utf8_lossy(json)),
        Body::Raw(bytes) => std::io::stdout().write_all(bytes)?,
    }
    Ok(())
}
