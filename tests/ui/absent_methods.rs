#![allow(unused)]

extern crate invoked as tauri;

use tauri::ipc::{CapabilityBuilder, Channel, InvokeMessage};
use tauri::{App, AppHandle, Manager, Wry};

// What `docs/vocabulary.md` says is not here.
fn builder() {
    type Builder = tauri::Builder<Wry>;
    Builder::build;
    Builder::on_window_event;
    Builder::on_page_load;
    Builder::menu;
    Builder::register_uri_scheme_protocol;
}

fn plugin() {
    type Builder = tauri::plugin::Builder<Wry>;
    Builder::on_event;
    Builder::on_drop;
    Builder::on_navigation;
    Builder::on_webview_ready;
    Builder::js_init_script;
}

fn application() {
    <App>::run;
    <AppHandle>::restart;
    <AppHandle>::run_on_main_thread;
    <AppHandle as Manager<Wry>>::config;
    <AppHandle as Manager<Wry>>::env;
    tauri::Error::Anyhow;
}

fn ipc() {
    CapabilityBuilder::window;
    CapabilityBuilder::remote;
    <Channel>::new;
    <InvokeMessage>::webview;
}

fn main() {}
