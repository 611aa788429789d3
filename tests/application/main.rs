//! An application as a program written for Tauri builds it: state, setup hooks, plugins, tasks; served over a socket.

#![allow(clippy::unwrap_used)] // a test may fail by panicking

extern crate invoked as tauri;

mod calls;

use std::error::Error;
use std::sync::Mutex;

use invoked_client::blocking::Client;
use invoked_client::{Address, Options};
use serde_json::{Value, json};
use tauri::plugin::TauriPlugin;
use tauri::transport::{Access, Listener};
use tauri::{AppHandle, BuildError, Manager, Runtime, State};

/// What happened, in order.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn add(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }
}

#[derive(serde::Deserialize)]
struct ClockConfig {
    zone: String,
}

struct Zone(String);

mod clock {
    use super::{Log, State, Zone};

    #[tauri::command]
    pub(super) fn zone(zone: State<'_, Zone>, log: State<'_, Log>) -> String {
        log.add("called");
        zone.0.clone()
    }
}

fn clock<R: Runtime>() -> TauriPlugin<R, ClockConfig> {
    tauri::plugin::Builder::<R, ClockConfig>::new("clock")
        .invoke_handler(tauri::generate_handler![clock::zone])
        .setup(|app, api| {
            app.state::<Log>().add("plugin set up");
            app.manage(Zone(api.config().zone.clone()));
            Ok(())
        })
        .build()
}

#[tauri::command]
fn history(log: State<'_, Log>) -> Vec<String> {
    log.0.lock().unwrap().clone()
}

/// Blocks, and lets the workers do the work.
#[tauri::command]
fn in_a_task() -> Result<String, tauri::Error> {
    let task = tauri::async_runtime::spawn(async {
        tauri::async_runtime::spawn(async { std::thread::current().name().unwrap_or_default().to_owned() })
            .await
    });
    tauri::async_runtime::block_on(task)?
}

#[tauri::command]
async fn panics(app: AppHandle) -> u8 {
    app.state::<u8>().inner().to_owned()
}

struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        World { directory: tempfile::tempdir().unwrap() }
    }

    fn address(&self) -> Address {
        format!("unix:{}/run/app.sock", self.directory.path().display()).parse().unwrap()
    }

    fn listener(&self) -> Listener {
        Listener::bind(&self.address(), Access::Owner).unwrap()
    }

    /// A daemon that may be called by everybody who can connect.
    fn builder(&self, permissions: &str) -> tauri::Builder<tauri::Wry> {
        let policy = self.directory.path().join("capabilities");
        std::fs::create_dir_all(&policy).unwrap();
        let text = format!("identifier = \"tests\"\npeers = [\"self\"]\npermissions = {permissions}\n");
        std::fs::write(policy.join("tests.toml"), text).unwrap();
        tauri::Builder::default().capabilities(policy).manage(Log::default())
    }

    fn client(&self) -> Client {
        Client::connect(Options::new().address(self.address())).unwrap()
    }
}

#[test]
fn plugins_are_set_up_before_the_application_and_both_before_the_first_call() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let daemon = world
        .builder(r#"["clock:allow-zone", "allow-history", "allow-in-a-task"]"#)
        .plugin(clock())
        .plugin_config("clock", json!({ "zone": "UTC" }))
        .setup(|app| {
            app.state::<Log>().add("application set up");
            let handle = app.handle().clone();
            tauri::async_runtime::block_on(tauri::async_runtime::spawn(async move {
                handle.state::<Log>().add("task of the application ran");
            }))?;
            Ok(())
        })
        .invoke_handler(tauri::generate_handler![history])
        .invoke_handler(tauri::generate_handler![in_a_task])
        .serve(world.listener())?;
    let client = world.client();
    assert_eq!(client.invoke::<String>("clock.zone", &json!({}))?, "UTC");
    let history: Value = client.invoke("history", &json!({}))?;
    assert_eq!(
        history,
        json!(["plugin set up", "application set up", "task of the application ran", "called"])
    );
    assert_eq!(client.invoke::<String>("in_a_task", &json!({}))?, "invoked-worker");
    daemon.shutdown()?;
    Ok(())
}

#[tauri::command]
fn let_in(app: AppHandle) -> tauri::Result<()> {
    app.add_capability(tauri::ipc::CapabilityBuilder::new("late").peer("self").permission("clock:allow-zone"))
}

#[test]
fn an_application_adds_capabilities_while_it_is_set_up_and_later() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let daemon = world
        .builder("[]")
        .plugin(clock())
        .plugin_config("clock", json!({ "zone": "UTC" }))
        .invoke_handler(tauri::generate_handler![let_in])
        .setup(|app| {
            let text = r#"{ "identifier": "early", "peers": ["self"], "permissions": ["allow-let-in"] }"#;
            Ok(app.add_capability(text)?)
        })
        .serve(world.listener())?;
    let client = world.client();
    assert!(client.invoke::<String>("clock.zone", &json!({})).unwrap_err().is_permission_denied());
    client.invoke::<()>("let_in", &json!({}))?;
    assert_eq!(client.invoke::<String>("clock.zone", &json!({}))?, "UTC");
    // A second one of the same name is refused, and the command can tell why.
    let error = client.invoke::<()>("let_in", &json!({})).unwrap_err();
    assert!(error.json::<String>().is_some_and(|text| text.contains("\"late\"")), "{error}");
    daemon.shutdown()?;
    Ok(())
}

#[test]
fn state_that_is_missing_ends_the_call_and_nothing_else() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let builder = world.builder(r#"["allow-panics", "allow-history"]"#);
    let daemon = builder.invoke_handler(tauri::generate_handler![panics, history]).serve(world.listener())?;
    let client = world.client();
    let error = client.invoke::<u8>("panics", &json!({})).unwrap_err();
    assert_eq!(error.code().map(|code| code.name()), Some("internal"));
    assert_eq!(client.invoke::<Vec<String>>("history", &json!({}))?, Vec::<String>::new());
    daemon.shutdown()?;
    Ok(())
}

#[tauri::command(inline)]
fn inline_error() -> Result<(), u8> {
    Err(7)
}

#[test]
fn an_observer_sees_each_reply_and_can_not_harm_it() -> Result<(), Box<dyn Error>> {
    let world = World::new();
    let builder = world.builder(r#"["allow-inline-error", "allow-history", "allow-panics"]"#);
    let daemon = builder
        .invoke_handler(tauri::generate_handler![inline_error, history, panics])
        .invoke_responder(|app, replied| {
            let result = if replied.outcome.is_ok() { "result" } else { "error" };
            app.state::<Log>().add(format!("{} {} {result}", replied.command, replied.callback.0));
            assert_ne!(replied.command, "panics", "an observer that panics");
        })
        .serve(world.listener())?;
    let client = world.client();
    for _ in 0..2 {
        assert!(client.invoke::<()>("inline_error", &json!({})).is_err());
        assert!(client.invoke::<()>("panics", &json!({})).is_err());
    }
    let seen: Vec<String> = client.invoke("history", &json!({}))?;
    let names: Vec<_> = seen.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(names, ["inline_error", "panics", "inline_error", "panics"]);
    let ids: std::collections::BTreeSet<_> = seen.iter().map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(ids.len(), 4, "each call has an id of its own: {seen:?}");
    assert!(seen.iter().all(|line| line.ends_with(" error")), "{seen:?}");
    daemon.shutdown()?;
    Ok(())
}

#[track_caller]
fn refused(builder: tauri::Builder, world: &World, expected: &str) {
    let error = builder.serve(world.listener()).expect_err("it is refused").to_string();
    assert_eq!(error, expected);
}

#[test]
fn a_daemon_whose_setup_fails_does_not_start() {
    let world = World::new();
    let fails = world.builder("[]").setup(|_| Err("no disk".into()));
    refused(fails, &world, "setup: no disk");
    let unconfigured = world.builder("[]").plugin(clock());
    let error = unconfigured.serve(world.listener()).unwrap_err();
    assert!(matches!(&error, BuildError::Setup { plugin: Some(name), .. } if name == "clock"), "{error}");
}

#[test]
fn what_is_wrong_with_a_plugin_is_told_when_the_daemon_is_built() {
    let world = World::new();
    let plugin: TauriPlugin<tauri::Wry> = tauri::plugin::Builder::new("Not A Name").build();
    let error = world.builder("[]").plugin(plugin).serve(world.listener()).unwrap_err();
    assert!(matches!(error, BuildError::Name { .. }), "{error}");
    let mut config = tauri::Config::default();
    config.plugins.insert("clok".to_owned(), json!({ "zone": "UTC" }));
    refused(world.builder("[]").config(config), &world, "[plugins.clok]: there is no plugin clok");
}
