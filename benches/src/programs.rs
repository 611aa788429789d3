//! The programs that are measured: the real ones, built as users build them.

use std::path::PathBuf;
use std::process::Command;

use crate::failure::Failure;

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    /// The daemon.
    pub invoked: PathBuf,
    /// It serves the bare sockets.
    pub invokectl: PathBuf,
}

impl Programs {
    /// The programs of this workspace in release mode. Under cargo they are brought up to date first: figures of an old
    /// daemon would pass for those of the sources.
    ///
    /// # Errors
    /// [`Failure::Build`] if they can't be built, [`Failure::Missing`] if they aren't there.
    pub fn ready() -> Result<Self, Failure> {
        // target/release/deps/latency-…, or target/release/invoked-peers
        let me = std::env::current_exe().map_err(Failure::io("can't find this bench's own file"))?;
        let beside = me.parent().unwrap_or(&me);
        let is_bench = beside.file_name().is_some_and(|name| name == "deps");
        let release = if is_bench { beside.parent().unwrap_or(beside) } else { beside }.to_owned();
        if let Some(cargo) = std::env::var_os("CARGO") {
            println!("bringing invoked and invokectl up to date: cargo build --release");
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
            let mut build = Command::new(cargo);
            // The same words as in .ci/run, so that what was built there is found to be fresh.
            build.args(["build", "--release", "--bin", "invoked", "--bin", "invokectl", "--target-dir"]);
            build.arg(release.parent().unwrap_or(&release)).current_dir(root);
            let status = build.status().map_err(Failure::io("can't start cargo"))?;
            if !status.success() {
                return Err(Failure::Build(status));
            }
        }
        let find = |name: &str| {
            let path = release.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
            if path.exists() { Ok(path) } else { Err(Failure::Missing(path)) }
        };
        Ok(Programs { invoked: find("invoked")?, invokectl: find("invokectl")? })
    }
}
