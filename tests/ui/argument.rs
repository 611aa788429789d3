#![allow(unused)]

use invoked::command;

struct Unsendable;

#[command]
fn by_value(name: String, value: Unsendable) {}

#[command]
fn by_reference(value: &mut u32) {}

fn main() {}
