//! `invokectl serve`: a command whose every call runs a program.
//!
//! It owns what is registered and what is told of each call; running the program is [`program`]'s.

mod program;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use invoked_proto::name::CommandName;
use invoked_transport::choose_address;
use serde_json::json;
use tokio::sync::Semaphore;

use super::args::{Global, ServeArgs};
use super::call::canonical;
use super::connection::{address_options, prefix};
use super::failure::Failure;
use super::interrupt;
use super::output::Output;
use crate::builder::Builder;
use crate::ipc::{Argument, CallError, Command, Fault, InvokeMessage, Outcome};
use crate::provider::{ProvideOptions, Reconnect};
use program::Program;

/// What a program does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Raw,
    Lines,
}

/// What the channel is called that lines go to.
const LINES: &str = "lines";

pub(super) fn run(global: &Global, args: &ServeArgs, output: &Output) -> Result<(), Failure> {
    if !global.narrow.is_empty() {
        return Err(Failure::Usage(
            "--narrow is for calls; a provider keeps what lets it provide".to_owned(),
        ));
    }
    let name = canonical(&args.name)?;
    let Some(plugin) = name.plugin() else {
        let text = format!("a served command belongs to a plugin: {}.{name}", "text");
        return Err(Failure::Usage(text));
    };
    let (form, what) = match (args.raw, args.lines) {
        (true, _) => (Form::Raw, "--raw -"),
        (_, true) => (Form::Lines, "--channel lines"),
        _ => (Form::Json, "KEY=VALUE"),
    };
    log_warnings();
    let program = Program::new(find(&args.program[0])?, args.program[1..].to_vec());
    let jobs = Arc::new(Semaphore::new(usize::from(args.jobs.get())));
    let command = command(&name, form, program, jobs, *output);
    let mut options = ProvideOptions::new().address_options(address_options(global));
    if args.take_over {
        options = options.take_over();
    }
    if args.reconnect {
        options = options.reconnect(Reconnect::default());
    }
    let builder = Builder::new(plugin).invoke_handler(vec![command]);
    let provider = builder.provide_blocking(options)?;
    let handle = provider.handle().clone();
    let _under_way = interrupt::under_way(move || handle.stop());
    let address = choose_address(&address_options(global), &invoked_transport::process_env);
    let address = address.map(|chosen| chosen.address.to_string()).unwrap_or_default();
    if output.is_json() {
        output.object(&json!({ "serving": name.as_str(), "address": address }))?;
    } else {
        output.note(&format!("serving {name} on {address}\ntry: {} call {name} {what}", prefix(global)));
    }
    let ended = provider.wait();
    match interrupt::exit_code() {
        Some(exit) => Err(Failure::Interrupted { exit, error: None }),
        None => Ok(ended?),
    }
}

/// What the library has to say, for people.
fn log_warnings() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).without_time();
    // It fails where a log is set up already.
    drop(log.with_max_level(tracing::Level::WARN).try_init());
}

/// The command to register. Its name and what is told of it live as long as the process.
fn command(
    name: &CommandName,
    form: Form,
    program: Program,
    jobs: Arc<Semaphore>,
    output: Output,
) -> Command {
    let inner: &'static str = Box::leak(name.command().to_owned().into_boxed_str());
    let docs: &'static str = Box::leak(format!("Runs {}.", program.name()).into_boxed_str());
    let program = Arc::new(program);
    let command = Command::future(inner, move |message| {
        let (program, jobs) = (Arc::clone(&program), Arc::clone(&jobs));
        async move { answer(&program, form, &jobs, message, output).await }
    });
    let command = command.docs(docs);
    match form {
        Form::Raw => command.takes_raw(),
        Form::Json => command,
        Form::Lines => command.argument(Argument { key: LINES, kind: "Channel<String>", optional: false }),
    }
}

async fn answer(
    program: &Program,
    form: Form,
    jobs: &Semaphore,
    message: InvokeMessage,
    output: Output,
) -> Outcome {
    let start = Instant::now();
    let cancelled = message.cancellation().clone();
    let outcome = tokio::select! {
        place = jobs.acquire() => match place {
            Ok(_place) => program.run(form, &message).await,
            Err(_) => Err(Fault::midway(crate::ipc::ErrorCode::Unavailable, "it is stopping").into()),
        },
        () = cancelled.cancelled() => {
            Err(Fault::refusal(crate::ipc::ErrorCode::Cancelled, "cancelled before it ran").into())
        }
    };
    tell(&message, &outcome, start.elapsed(), output);
    outcome
}

/// A line for each call.
fn tell(message: &InvokeMessage, outcome: &Outcome, took: Duration, output: Output) {
    let (code, bytes) = match outcome {
        Ok(response) => ("ok", response.as_body().bytes().len()),
        Err(CallError::Application(error)) => ("application", error.body().bytes().len()),
        Err(CallError::Framework(fault)) => (fault.code.name(), 0),
    };
    let (peer, sent) = (message.peer(), message.body().bytes().len());
    let ms = took.as_secs_f64() * 1e3;
    if output.is_json() {
        let pid = peer.pid;
        let line = json!({
            "command": message.name(), "uid": peer.uid, "pid": pid, "outcome": code,
            "bytes_in": sent, "bytes_out": bytes, "ms": ms,
        });
        // Nobody reads it any more: the calls are answered all the same.
        drop(output.object(&line));
        return;
    }
    let pid = peer.pid.map_or(String::new(), |pid| format!(" pid={pid}"));
    output.note(&format!(
        "{} uid={}{pid} {code}: {sent} bytes in, {bytes} out, {ms:.1} ms",
        message.name(),
        peer.uid
    ));
}

/// The file that a program's name stands for, as a shell would find it.
fn find(name: &OsString) -> Result<PathBuf, Failure> {
    let named = PathBuf::from(name);
    let candidates: Vec<PathBuf> = if named.components().count() > 1 {
        vec![named.clone()]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|directory| directory.join(&named)).collect()
    };
    let is_program =
        |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file();
    let found = candidates.into_iter().find(is_program);
    found.ok_or_else(|| Failure::Usage(format!("there is no program {}", named.display())))
}
