//! Asks for several files at once over one connection: `call_async PATH…`, with tokio.

use std::error::Error;
use std::time::Duration;

use invoked_client::{Client, Options};
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client =
        Client::connect(Options::new().name("call-async-example", env!("CARGO_PKG_VERSION"))).await?;

    let mut reads = JoinSet::new();
    for path in std::env::args().skip(1) {
        let client = client.clone();
        reads.spawn(async move {
            let call = client.call("fs.read_file").arg("path", &path).timeout(Duration::from_secs(5));
            let result = call.send().await;
            (path, result)
        });
    }

    while let Some(read) = reads.join_next().await {
        match read? {
            (path, Ok(reply)) => println!("{path}: {} bytes", reply.bytes().len()),
            (path, Err(error)) if error.is_permission_denied() => println!("{path}: not allowed ({error})"),
            (path, Err(error)) => println!("{path}: {error}"),
        }
    }
    Ok(())
}
