//! The caller: `thumbnail PICTURE SIDE OUT [ADDRESS]`.

use std::error::Error;
use std::process::ExitCode;

use invoked_client::{Options, blocking::Client};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [picture, side, out, address @ ..] = &args[..] else {
        return Err("usage: thumbnail PICTURE SIDE OUT [ADDRESS]".into());
    };
    let mut options = Options::new().name("thumbnail", env!("CARGO_PKG_VERSION"));
    if let [address] = address {
        options = options.address(address.parse()?);
    }
    let client = Client::connect(options)?;
    let reply = client.call("thumbs.make").arg("path", picture).arg("side", side.parse::<u32>()?).send()?;
    std::fs::write(out, reply.bytes())?;
    println!("{} bytes in {out}", reply.bytes().len());
    Ok(())
}
