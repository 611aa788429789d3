#![allow(unused)]

use std::rc::Rc;

use invoked::command;

#[command]
async fn not_send(name: String) -> usize {
    let shared = Rc::new(name);
    std::future::ready(()).await;
    shared.len()
}

fn main() {}
