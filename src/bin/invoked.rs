//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked::Builder::default().run_with(std::env::args_os())
}
