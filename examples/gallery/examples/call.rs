//! Calls the gallery from another process: `cargo run -p gallery --example call`.

use invoked_client::{AddressOptions, AppName, Options, blocking::Client};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = AppName::new("org.example.gallery")?;
    let address = AddressOptions { app: Some(app), ..Default::default() };
    let gallery = Client::connect(Options::new().address_options(address))?;

    let hello: String = gallery.invoke("greet", &json!({ "name": "Ann" }))?;
    println!("{hello}");

    // What the command returns as its error is what its enum writes.
    match gallery.invoke::<usize>("create_album", &json!({ "albumName": "cats" })) {
        Ok(count) => println!("{count} albums"),
        Err(error) if error.is_application() => println!("{}", error.json::<Value>().unwrap_or_default()),
        Err(error) => return Err(error.into()),
    }

    let (download, events) = gallery.call("download").arg("url", "https://example.org").channel("onEvent");
    let download = download.start()?;
    let sizes = events.map(|event| Ok(event?.json::<Value>()?["data"]["chunkLength"].as_u64()));
    let bytes: u64 = sizes.filter_map(Result::transpose).sum::<Result<_, invoked_client::Error>>()?;
    download.wait()?;
    println!("{bytes} bytes");
    Ok(())
}
