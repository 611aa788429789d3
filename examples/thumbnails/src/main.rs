//! The provider: `thumbnails [ADDRESS]`.

use std::error::Error;

use invoked::provider::{ProvideOptions, Reconnect};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = ProvideOptions::new().reconnect(Reconnect::default());
    if let Some(address) = std::env::args().nth(1) {
        options = options.address(address.parse()?);
    }
    let provider = invoked::Builder::new("org.example.thumbnails")
        .plugin(thumbnails::plugin())
        .provide_blocking(options)?;
    for provided in provider.provided() {
        println!("serving {}", provided.commands.join(", "));
    }
    provider.wait()?;
    Ok(())
}
