//! Calls the daemon of `host.rs`: adds a note and says what became of it.
//!
//! `cargo run --example blocking_caller [TITLE [TEXT]]`. No runtime: the thread that waits reads the socket itself.

use std::error::Error;
use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_client::{AddressOptions, AppName, Options};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let title = words.next().unwrap_or_else(|| "milk".to_owned());
    let text = words.next().unwrap_or_else(|| "two litres".to_owned());

    let app = AddressOptions { app: Some(AppName::new("org.example.notes")?), ..AddressOptions::default() };
    let client = Client::connect(Options::new().address_options(app).name("blocking-caller", "1.0"))?;

    // Typed in one line …
    let before: usize = client.invoke("count", &json!({}))?;

    // … or step by step, with a deadline of its own.
    let call = client.call("add").arg("title", &title).arg("text", &text).timeout(Duration::from_secs(2));
    match call.send() {
        Ok(reply) => println!("{} notes, {before} before", reply.json::<usize>()?),
        Err(error) if error.is_application() => {
            println!("refused: {}", error.json::<Value>().unwrap_or_default())
        }
        Err(error) if error.is_permission_denied() => println!("not allowed: {error}"),
        Err(error) => return Err(format!("{error}; did it run? {}", error.delivery()).into()),
    }

    // Raw bytes come as they are.
    let exported = client.call("export").send()?;
    print!("{}", String::from_utf8_lossy(exported.bytes()));
    Ok(())
}
