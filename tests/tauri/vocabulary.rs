//! The table of `docs/vocabulary.md`: what it says is here is used below, and what it says is absent the compiler refuses in
//! `tests/ui` (which `tests/commands.rs` compiles).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tauri::ipc::{
    CapabilityBuilder, Channel, CommandScope, GlobalScope, InvokeBody, InvokeError, InvokeMessage,
    InvokeResolver, JavaScriptChannelId, Request, Response,
};
use tauri::path::{BaseDirectory, PathResolver};
use tauri::{App, AppHandle, Builder, Manager, State, Wry};

/// Imports each name, and lists them.
macro_rules! named {
    ($($first:ident $(:: $rest:ident)+;)*) => {
        mod imports {
            $(#[allow(unused_imports)] use $first $(:: $rest)+ as _;)*
        }
        const NAMED: &[&str] = &[$(concat!(stringify!($first), $("::", stringify!($rest)),+)),*];
    };
}

named! {
    tauri::command;
    tauri::generate_handler;
    tauri::generate_context;
    tauri::Builder;
    tauri::Context;
    tauri::Config;
    tauri::App;
    tauri::AppHandle;
    tauri::Manager;
    tauri::State;
    tauri::StateManager;
    tauri::Runtime;
    tauri::Wry;
    tauri::Resource;
    tauri::ResourceId;
    tauri::ResourceTable;
    tauri::PackageInfo;
    tauri::Error;
    tauri::Result;
    tauri::ipc::CallbackFn;
    tauri::ipc::CapabilityBuilder;
    tauri::ipc::Channel;
    tauri::ipc::JavaScriptChannelId;
    tauri::ipc::CommandArg;
    tauri::ipc::CommandItem;
    tauri::ipc::CommandScope;
    tauri::ipc::GlobalScope;
    tauri::ipc::ScopeValue;
    tauri::ipc::ScopeObject;
    tauri::ipc::ScopeObjectMatch;
    tauri::ipc::Invoke;
    tauri::ipc::InvokeMessage;
    tauri::ipc::InvokeHandler;
    tauri::ipc::InvokeResolver;
    tauri::ipc::InvokeResponder;
    tauri::ipc::OwnedInvokeResponder;
    tauri::ipc::InvokeError;
    tauri::ipc::InvokeBody;
    tauri::ipc::InvokeResponseBody;
    tauri::ipc::InvokeResponse;
    tauri::ipc::IpcResponse;
    tauri::ipc::Request;
    tauri::ipc::Response;
    tauri::ipc::Origin;
    tauri::ipc::RuntimeAuthority;
    tauri::ipc::RuntimeCapability;
    tauri::ipc::SerializeOptions;
    tauri::plugin::Builder;
    tauri::plugin::TauriPlugin;
    tauri::plugin::PluginApi;
    tauri::plugin::Plugin;
    tauri::async_runtime::spawn;
    tauri::async_runtime::spawn_blocking;
    tauri::async_runtime::block_on;
    tauri::async_runtime::handle;
    tauri::async_runtime::Mutex;
    tauri::async_runtime::RwLock;
    tauri::async_runtime::channel;
    tauri::async_runtime::Sender;
    tauri::async_runtime::Receiver;
    tauri::async_runtime::JoinHandle;
    tauri::async_runtime::RuntimeHandle;
    tauri::async_runtime::TokioHandle;
    tauri::async_runtime::TokioRuntime;
    tauri::async_runtime::TokioJoinHandle;
    tauri::path::BaseDirectory;
    tauri::path::PathResolver;
    tauri::test;
    tauri::test::mock_builder;
    tauri::test::MockRuntime;
    tauri::test::mock_context;
    tauri::test::mock_app;
    tauri::test::get_ipc_response;
    tauri::test::assert_ipc_response;
}

/// Compiles a use of each method, and lists them with the source of their use.
macro_rules! methods {
    ($($name:literal => $used:expr;)*) => {
        fn methods_compile() {
            $(let _ = $used;)*
        }
        const METHODS: &[(&str, &str)] = &[$(($name, stringify!($used))),*];
    };
}

type PluginBuilder = tauri::plugin::Builder;
type PluginApi = tauri::plugin::PluginApi<Wry, ()>;

methods! {
    "tauri::Builder::manage" => |builder: Builder| builder.manage(1);
    "tauri::Builder::plugin" => |builder: Builder, plugin: tauri::plugin::Plugin| builder.plugin(plugin);
    "tauri::Builder::setup" => |builder: Builder| builder.setup(|_app| Ok(()));
    "tauri::Builder::invoke_handler" => |builder: Builder| builder.invoke_handler(tauri::generate_handler![]);
    "tauri::Builder::run" => |builder: Builder| builder.run(tauri::generate_context!()).expect("it runs");
    "tauri::App::handle" => |app: &App| app.handle().clone();
    "tauri::AppHandle::exit" => |app: &AppHandle| app.exit(0);
    "tauri::Manager::app_handle" => |app: &AppHandle| app.app_handle().clone();
    "tauri::Manager::manage" => |app: &AppHandle| app.manage(1);
    "tauri::Manager::state" => |app: &AppHandle| *app.state::<u8>();
    "tauri::Manager::try_state" => |app: &AppHandle| app.try_state::<u8>().map(|found| *found);
    "tauri::Manager::path" => |app: &AppHandle| app.path().clone();
    "tauri::Manager::resources_table" => |app: &AppHandle| app.resources_table().has(1);
    "tauri::Manager::add_capability" => |app: &AppHandle| app.add_capability("identifier = 'a'");
    "tauri::Manager::package_info" => |app: &AppHandle| app.package_info().version.to_string();
    "tauri::State::inner" => |state: State<'static, u8>| state.inner();
    "tauri::ipc::CapabilityBuilder::permission" => |new: CapabilityBuilder| new.permission("core:default");
    "tauri::ipc::CapabilityBuilder::permission_scoped" =>
        |new: CapabilityBuilder| new.permission_scoped("fs:default", vec!["/a"], vec![]);
    "tauri::ipc::CapabilityBuilder::platform" => CapabilityBuilder::platform;
    "tauri::ipc::Channel::send" => |channel: &Channel<u8>| channel.send(1);
    "tauri::ipc::Channel::id" => |channel: &Channel| channel.id();
    "tauri::ipc::JavaScriptChannelId::channel_on" =>
        |id: JavaScriptChannelId, message: &InvokeMessage| id.channel_on::<u8>(message);
    "tauri::ipc::CommandArg::from_command" => <u8 as tauri::ipc::CommandArg<'static, Wry>>::from_command;
    "tauri::ipc::CommandScope::allows" => |scope: CommandScope<'_, String>| scope.allows().len();
    "tauri::ipc::CommandScope::denies" => |scope: CommandScope<'_, String>| scope.denies().len();
    "tauri::ipc::GlobalScope::allows" => |scope: GlobalScope<'_, String>| scope.allows().len();
    "tauri::ipc::GlobalScope::denies" => |scope: GlobalScope<'_, String>| scope.denies().len();
    "tauri::ipc::InvokeMessage::command" => |message: &InvokeMessage| message.command().len();
    "tauri::ipc::InvokeMessage::payload" => |message: &InvokeMessage| matches!(message.payload(), InvokeBody::Raw(_));
    "tauri::ipc::InvokeMessage::headers" => |message: &InvokeMessage| message.headers().len();
    "tauri::ipc::InvokeMessage::state" => |message: &InvokeMessage| message.state().find::<u8>().is_some();
    "tauri::ipc::InvokeResolver::resolve" => |resolver: InvokeResolver| resolver.resolve("yes");
    "tauri::ipc::InvokeResolver::reject" => |resolver: InvokeResolver| resolver.reject("no");
    "tauri::ipc::InvokeResolver::respond" => |resolver: InvokeResolver| resolver.respond(Ok("yes"));
    "tauri::ipc::InvokeResolver::respond_async" =>
        |resolver: InvokeResolver| resolver.respond_async(async { Ok("yes") });
    "tauri::ipc::InvokeResolver::invoke_error" =>
        |resolver: InvokeResolver| resolver.invoke_error(InvokeError::from("no"));
    "tauri::ipc::InvokeError::from_error" => InvokeError::from_error(std::fmt::Error);
    "tauri::ipc::InvokeError::from_anyhow" => InvokeError::from_anyhow(std::fmt::Error);
    "tauri::ipc::IpcResponse::body" => <Value as tauri::ipc::IpcResponse>::body;
    "tauri::ipc::Request::body" => |request: Request<'_>| request.body().clone();
    "tauri::ipc::Request::headers" => |request: Request<'_>| request.headers().get("Accept").is_some();
    "tauri::ipc::Response::new" => Response::new(vec![1_u8]);
    "tauri::plugin::Builder::new" => PluginBuilder::new("a");
    "tauri::plugin::Builder::invoke_handler" =>
        |builder: PluginBuilder| builder.invoke_handler(tauri::generate_handler![]);
    "tauri::plugin::Builder::setup" => |builder: PluginBuilder| builder.setup(|_app, _api| Ok(()));
    "tauri::plugin::Builder::build" => PluginBuilder::build;
    "tauri::plugin::PluginApi::config" => |api: PluginApi| *api.config();
    "tauri::plugin::PluginApi::app" => |api: PluginApi| api.app().clone();
    "tauri::path::PathResolver::app_data_dir" => |paths: &PathResolver| paths.app_data_dir();
    "tauri::path::PathResolver::app_config_dir" => |paths: &PathResolver| paths.app_config_dir();
    "tauri::path::PathResolver::home_dir" => |paths: &PathResolver| paths.home_dir();
    "tauri::path::PathResolver::parse" => |paths: &PathResolver| paths.parse("$HOME/a");
    "tauri::path::PathResolver::resolve" => |paths: &PathResolver| paths.resolve("a", BaseDirectory::Home);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Here,
    Absent,
}

/// The rows of the table: each name with its path, and what is said of it.
fn table(document: &str) -> Result<BTreeMap<String, Verdict>, String> {
    let mut section = "";
    let mut table = BTreeMap::new();
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            // One section holds names of several modules, written with them.
            section = match heading.trim_matches('`') {
                one if one.starts_with("tauri") && !one.contains(' ') => one,
                _ => "tauri",
            };
        }
        let Some((names, rest)) = line.strip_prefix("| `").and_then(|line| line.split_once(" | ")) else {
            continue;
        };
        let verdict = match rest.split(" | ").next() {
            Some("same" | "differs") => Verdict::Here,
            Some("absent") => Verdict::Absent,
            other => return Err(format!("{line}: {other:?} is no verdict")),
        };
        for name in names.split(", ") {
            let path = format!("{section}::{}", name.trim_matches('`'));
            if table.insert(path.clone(), verdict).is_some() {
                return Err(format!("{path} stands twice"));
            }
        }
    }
    Ok(table)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Whether `text` has `word` as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

fn last(path: &str) -> &str {
    path.rsplit("::").next().unwrap()
}

#[test]
fn what_the_table_says_is_here_is_here() {
    // The program is linked; that it compiles is the test.
    let _: fn() = methods_compile;
    for (name, used) in METHODS {
        assert!(has_word(used, last(name)), "{name} is not used by {used}");
    }
    let said: BTreeSet<String> = table(&read("docs/vocabulary.md"))
        .unwrap()
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Here)
        .map(|(name, _)| name)
        .collect();
    let used = NAMED.iter().copied().chain(METHODS.iter().map(|(name, _)| *name)).map(str::to_owned);
    assert_eq!(said, used.collect());
}

#[test]
fn what_the_table_says_is_absent_the_compiler_refuses() {
    let files = ["absent", "absent_methods", "windows"];
    let sources = files.map(|name| read(&format!("tests/ui/{name}.rs"))).join("\n");
    let refusals = files.map(|name| read(&format!("tests/ui/{name}.stderr"))).join("\n");
    let said = table(&read("docs/vocabulary.md")).unwrap();
    let absent: Vec<_> =
        said.iter().filter(|(_, verdict)| **verdict == Verdict::Absent).map(|(name, _)| name).collect();
    assert!(absent.len() > 40, "{absent:?}");
    for name in &absent {
        assert!(has_word(&sources, last(name)), "no file of tests/ui uses {name}");
        assert!(has_word(&refusals, last(name)), "the compiler doesn't refuse {name}");
    }
    // And nothing is refused that the table says nothing of.
    let refused = read("tests/ui/absent.stderr");
    let names = refused.lines().filter_map(|line| line.strip_prefix("error[E0432]: unresolved import"));
    for name in names.flat_map(|names| names.trim_start_matches('s').trim().split(", ")) {
        let name = name.trim_matches('`').replace("tauri::testing", "tauri::test");
        assert!(absent.contains(&&name), "{name} is not in the table");
    }
}

#[test]
fn a_table_that_says_nothing_or_says_it_twice_is_found() {
    let names = |text: &str| table(text).map(|table| table.into_keys().collect::<Vec<_>>());
    let sample =
        "## `tauri::ipc`\n| `A`, `A::b` | same | |\n## `tauri::a`, `tauri::b`\n| `a::C` | absent | x |";
    assert_eq!(names(sample).unwrap(), ["tauri::a::C", "tauri::ipc::A", "tauri::ipc::A::b"]);
    assert!(names("| `A` | perhaps | |").is_err());
    assert!(names("## `tauri`\n| `A` | same | |\n| `A` | absent | |").is_err());
}
