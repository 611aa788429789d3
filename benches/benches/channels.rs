//! Items a second on a channel: `cargo bench -p invoked-benches --bench channels -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked_benches::main("channels", invoked_benches::channels)
}
