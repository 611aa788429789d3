//! Calls `examples/provide.rs`: `cargo run --example provide_caller`.

use invoked_client::{Options, blocking::Client};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(Options::new())?;
    let args = json!({ "text": "hello from another process" });
    let upper: String = client.invoke("text.upper", &args)?;
    println!("{upper}");
    Ok(())
}
