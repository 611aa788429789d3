#![allow(unused)]

use invoked::command;

#[command(renam = "x")]
fn unknown_key() {}

#[command(rename_all = "kebab-case")]
fn unknown_case() {}

#[command(async, inline)]
fn two_places() {}

#[command(rename = "fs.read")]
fn two_names() {}

#[command(inline, inline)]
fn twice() {}

#[command]
struct NotAFunction;

fn main() {}
