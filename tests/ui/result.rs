#![allow(unused)]

use invoked::command;

struct Unsendable;

#[command]
fn value() -> Unsendable {
    Unsendable
}

#[command]
async fn success() -> Result<Unsendable, String> {
    Ok(Unsendable)
}

#[command]
fn failure() -> Result<(), std::io::Error> {
    Ok(())
}

fn main() {}
