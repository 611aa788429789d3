//! `invoked-codegen`: the command line of the generator; argv and exit codes, nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use invoked_codegen::registry;

/// Generate the files of this repository that are written from others.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the constants of each language and the tables of proto/SPEC.md from proto/registry.toml.
    Registry {
        /// Write nothing; exit 1 and show the difference when a file is not what would be written.
        #[arg(long)]
        check: bool,
        /// The root of the repository.
        #[arg(long, value_name = "DIR", default_value = ".")]
        root: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Registry { check, root } = Cli::parse().command;
    match run(&root, check) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("invoked-codegen: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(root: &std::path::Path, check: bool) -> Result<ExitCode, registry::Error> {
    let outputs = registry::generate(root)?;
    let stale: Vec<_> = outputs.iter().filter(|output| output.is_stale()).collect();
    if check {
        for output in &stale {
            eprintln!("{}", output.difference());
        }
        return Ok(if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) });
    }
    for output in stale {
        output.write(root)?;
        println!("wrote {}", output.path());
    }
    Ok(ExitCode::SUCCESS)
}
