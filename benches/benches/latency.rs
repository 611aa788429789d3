//! Round trips of a call between two processes: `cargo bench -p invoked-benches --bench latency -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked_benches::main("latency", invoked_benches::latency)
}
