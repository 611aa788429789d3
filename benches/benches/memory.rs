//! Memory of idle connections: `cargo bench -p invoked-benches --bench memory -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked_benches::main("memory", invoked_benches::memory)
}
