//! `invokectl`: the tool of whoever operates a daemon, or tries one.
//!
//! It owns its command line and what is printed. It talks to a daemon as any other process does, through
//! `invoked-client`, and reads capability files with the daemon's own loader. docs/invokectl.md is its contract.

mod args;
mod arguments;
pub mod bench;
mod call;
mod check;
mod completion;
mod connection;
mod delivery;
mod denials;
mod describe;
mod doctor;
mod explain;
mod failure;
mod interrupt;
mod items;
mod json;
mod list;
mod monitor;
mod output;
mod policy_files;
mod sandbox;
mod schema;
mod serve;
mod status;
mod time;
mod tour;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{BenchCommand, Cli, Command};
use failure::Failure;
use output::Output;

/// Runs `invokectl` with the command line `args`, whose first word is the program's name, and gives its exit code.
///
/// It is a program's `main`: it prints, watches signals, and answers the shell's question for completions by ending the
/// process.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    completion::answer_shell();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args),
    };
    let output = Output::new(&cli.global);
    match dispatch(&cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&output),
    }
}

fn dispatch(cli: &Cli, output: &Output) -> Result<(), Failure> {
    let global = &cli.global;
    if !matches!(cli.command, Command::BenchFloor(_)) {
        interrupt::watch();
    }
    match &cli.command {
        Command::Call(args) => call::run(global, args, output),
        Command::Serve(args) => serve::run(global, args, output),
        Command::List => list::run(global, output),
        Command::Describe(args) => describe::run(global, args, output),
        Command::Whoami => status::whoami(global, output),
        Command::Ping(args) => status::ping(global, args, output),
        Command::Explain(args) => explain::run(global, args, output),
        Command::Denials(args) => denials::run(global, args, output),
        Command::Monitor(args) => monitor::run(global, args, output),
        Command::Check(args) => check::run(global, args, output),
        Command::Schema(args) => schema::run(global, args, output),
        Command::Limits => status::limits(global, output),
        Command::Stats => status::stats(global, output),
        Command::Doctor => doctor::run(global, output),
        Command::Bench(BenchCommand::Latency(args)) => bench::command::latency(global, args, output),
        Command::Bench(BenchCommand::Throughput(args)) => {
            bench::rates_command::throughput(global, args, output)
        }
        Command::Bench(BenchCommand::Channels(args)) => bench::rates_command::channels(global, args, output),
        Command::Tour(args) => tour::run(args, output),
        Command::Completion(args) => completion::run(args),
        Command::BenchFloor(args) => bench::floor::serve(args.kind),
    }
}

/// Prints what clap has to say: help and versions to standard output, mistakes to standard error.
fn refuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody reads it, then.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let wants_json = args.iter().any(|word| word == "-j" || word == "--json");
    if wants_json {
        let text = error.to_string();
        let text = text.trim().trim_start_matches("error: ").to_owned();
        return Failure::Usage(text).report_line();
    }
    drop(error.print());
    ExitCode::from(2)
}
