//! Everything, into a folder: `cargo bench -p invoked-benches --bench report -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoked_benches::main("report", invoked_benches::report)
}
