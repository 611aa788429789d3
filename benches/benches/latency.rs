//! Round trips of a call between two processes: `cargo bench -p invoked-benches --bench latency -- --help`.

use std::process::ExitCode;

use clap::Parser;
use invoked_benches::{Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        println!("latency measures under cargo bench only");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("latency: {failure}");
            ExitCode::FAILURE
        }
    }
}
