//! Handlers that are functions, commands for any runtime, and what an argument may be besides a value.

use std::sync::mpsc;

use bytes::Bytes;
use invoked_macros::{command, generate_handler};
use invoked_proto::body::Body;
use invoked_proto::registry::ErrorCode;
use serde::Deserialize;

use super::{Counter, fault, json, message, only, replies};
use crate::app::{AppHandle, Manager};
use crate::ipc::{
    CallError, CancellationToken, Command, CommandArg, CommandItem, Execution, Invoke, InvokeError,
    InvokeHandler, InvokeMessage, InvokeResolver, Outcome, ReplySink, Runtime,
};

// Commands for any runtime.

#[command]
async fn counted<R: Runtime>(app: AppHandle<R>, by: u32) -> u32 {
    app.state::<Counter>().0.load(std::sync::atomic::Ordering::Relaxed) + by
}

#[command]
fn managed<R>(app: AppHandle<R>) -> (bool, bool)
where
    R: crate::Runtime,
{
    (app.manage(7_i8), app.try_state::<i8>().is_some_and(|seven| *seven == 7))
}

#[test]
fn a_command_may_be_written_for_any_runtime() {
    replies(&only(generate_handler![counted]), json(r#"{"by":1}"#), json("42"));
    replies(&only(generate_handler![managed]), Body::None, json("[true,true]"));
}

/// An argument of a user's own type, as one writes it for Tauri.
struct Sorted(Vec<u32>);

impl<'de, R: Runtime> CommandArg<'de, R> for Sorted {
    fn from_command(command: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        let (name, key) = (command.name, command.key);
        let mut numbers = Vec::deserialize(command)
            .map_err(|error| InvokeError::from(format!("{key} of {name}: {error}")))?;
        numbers.sort_unstable();
        Ok(Sorted(numbers))
    }
}

#[command]
fn sorted(numbers: Sorted) -> Vec<u32> {
    numbers.0
}

#[test]
fn an_argument_may_be_of_a_type_that_takes_itself_from_the_call() {
    let sorted = only(generate_handler![sorted]);
    replies(&sorted, json(r#"{"numbers":[3,1,2]}"#), json("[1,2,3]"));
    let error = super::application_error(&sorted, json(r#"{"numbers":"x"}"#));
    let Body::Json(text) = error else { panic!("{error:?}") };
    assert!(text.starts_with(b"\"numbers of sorted: invalid type"), "{text:?}");
    // What is wrong with the call is the framework's to say, whoever asks.
    let twice = run_text(r#"{"numbers":[],"numbers":[]}"#, |message| {
        Sorted::from_command(CommandItem { name: "sorted", key: "numbers", message }).err()
    });
    assert!(twice.is_some());
}

fn run_text<T>(text: &'static str, take: impl FnOnce(&InvokeMessage) -> T) -> T {
    take(&message(json(text)))
}

// Where an error is.

#[derive(Deserialize)]
struct Shape {
    points: Vec<(i32, i32)>,
}

#[command]
fn area(shape: Shape) -> usize {
    shape.points.len()
}

#[test]
fn an_error_inside_an_argument_says_where() {
    let area = only(generate_handler![area]);
    replies(&area, json(r#"{"shape":{"points":[[1,2]]}}"#), json("1"));
    let wrong = fault(&area, json(r#"{"shape":{"points":[[1,2],[3,"x"]]}}"#));
    assert_eq!(wrong.code, ErrorCode::InvalidArgument);
    let expected =
        "argument `shape` of test.command: at `points[1][1]`: invalid type: string \"x\", expected i32";
    assert!(wrong.message.starts_with(expected), "{}", wrong.message);
}

// Handlers that are functions.

fn functions() -> Command {
    let handler = |taken: &'static str| {
        move |invoke: Invoke| match invoke.message.command() {
            "command" if taken == "takes" => {
                invoke.resolver.resolve(invoke.message.body().bytes().len());
                true
            }
            "command" if taken == "forgets" => true,
            _ => false,
        }
    };
    let mut all = InvokeHandler::default();
    for kind in ["passes", "takes", "forgets"] {
        all.extend(handler(kind).into());
    }
    all.names.push("command");
    let [command] = <[Command; 1]>::try_from(all.into_commands().unwrap()).unwrap();
    command
}

/// Runs a command that answers by itself.
fn answer(command: &Command, body: Body) -> Outcome {
    let Execution::Deferred(run) = &command.execution else { panic!("it is deferred") };
    let (answered, answers) = mpsc::channel();
    let sink = ReplySink::new(move |outcome| answered.send(outcome).unwrap());
    let resolver = InvokeResolver::new(sink, CancellationToken::default());
    run(Invoke { message: message(body), resolver });
    let outcome = answers.try_recv().expect("it answered");
    assert!(answers.try_recv().is_err(), "it answered once");
    outcome
}

fn function(function: impl Fn(Invoke) -> bool + Send + Sync + 'static) -> Command {
    let mut handler = InvokeHandler::from(function);
    handler.names.push("command");
    handler.into_commands().unwrap().remove(0)
}

fn code(outcome: Outcome) -> (ErrorCode, String) {
    match outcome {
        Err(CallError::Framework(fault)) => (fault.code, fault.message),
        other => panic!("not an error of the framework: {other:?}"),
    }
}

#[test]
fn a_call_goes_to_the_first_function_that_takes_it() {
    let response = answer(&functions(), Body::Raw(Bytes::from_static(b"12345"))).unwrap();
    assert_eq!(response.as_body(), &json("5"));
}

#[test]
fn a_call_that_no_function_takes_is_not_found() {
    let (found, text) = code(answer(&function(|_| false), Body::None));
    assert_eq!((found, text.as_str()), (ErrorCode::NotFound, "no handler of this daemon takes test.command"));
}

#[test]
fn a_function_that_takes_a_call_and_forgets_it_is_at_fault() {
    assert_eq!(code(answer(&function(|_| true), Body::None)).0, ErrorCode::Internal);
}

#[test]
fn a_function_may_keep_the_means_to_answer() {
    let (keep, kept) = mpsc::sync_channel(1);
    // Whatever it returns: who holds the resolver answers.
    let command = function(move |invoke| {
        keep.send(invoke.resolver).unwrap();
        false
    });
    let Execution::Deferred(run) = &command.execution else { panic!("it is deferred") };
    for use_it in [true, false] {
        let (answered, answers) = mpsc::channel();
        let sink = ReplySink::new(move |outcome| answered.send(outcome).unwrap());
        let resolver = InvokeResolver::new(sink, CancellationToken::default());
        run(Invoke { message: message(Body::None), resolver });
        assert!(answers.try_recv().is_err(), "nobody has answered yet");
        let resolver = kept.recv().unwrap();
        if use_it {
            resolver.resolve("late");
            assert_eq!(answers.recv().unwrap().unwrap().as_body(), &json(r#""late""#));
        } else {
            drop(resolver);
            assert_eq!(code(answers.recv().unwrap()).0, ErrorCode::Internal);
        }
    }
}

#[test]
fn a_function_without_names_and_a_name_without_a_function_are_refused() {
    let error = InvokeHandler::from(|_: Invoke| true).into_commands().unwrap_err();
    assert!(error.contains("commands(&[…])"), "{error}");
    let handler = InvokeHandler { names: vec!["zone"], ..InvokeHandler::default() };
    assert!(handler.into_commands().unwrap_err().contains("\"zone\""));
    let mut both = generate_handler![counted];
    both.names.push("counted");
    assert_eq!(both.into_commands().unwrap().len(), 1, "a table has it");
}
