//! Calls a second between two processes: `cargo bench -p invoked-benches --bench throughput -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked_benches::main("throughput", invoked_benches::throughput)
}
