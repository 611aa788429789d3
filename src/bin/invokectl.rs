//! The tool of whoever operates or tries a daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked::ctl::run(std::env::args_os())
}
