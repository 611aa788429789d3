#![allow(unused)]

use invoked::{command, generate_handler};

#[command]
fn known() {}

fn plain() {}

fn main() {
    let _ = generate_handler![known, plain];
    let _ = generate_handler![known, known];
    let _ = generate_handler![known::<u8>];
}
