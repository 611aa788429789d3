//! The least provider: `cargo run --example provide`, at a daemon that lets it. `provide_caller.rs` calls it.

use invoked::provider::ProvideOptions;

/// Writes it in capitals.
#[invoked::command]
fn upper(text: String) -> String {
    text.to_uppercase()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let commands = invoked::generate_handler![upper];
    let text = invoked::Builder::new("text").invoke_handler(commands);
    let provider = text.provide_blocking(ProvideOptions::new())?;
    println!("serving {}", provider.provided()[0].commands.join(", "));
    Ok(provider.wait()?)
}
