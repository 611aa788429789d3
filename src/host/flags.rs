//! The flags of the daemon.

use std::path::PathBuf;

use clap::Parser;
use invoked_transport::Address;

use crate::config::ListenAccess;

/// Serves commands to other processes of this machine, as far as capability files allow.
#[derive(Debug, Parser)]
#[command(
    long_about = "Serves commands to other processes of this machine, as far as capability files allow.\n\n\
        Without a capability file nobody may call anything, except that root and the daemon's own uid may operate it. \
        To try it out, start it with --dev in a directory that you want to share with yourself.",
    after_help = "Exit codes: 0 stopped, 1 the machine refused something, 2 usage, 3 configuration or policy is not \
        sound, 4 another daemon has the address, 130 interrupted twice.\n\
        Signals: SIGTERM and SIGINT let open calls end and stop; SIGHUP reads the policy again."
)]
pub(super) struct Flags {
    /// Where to listen: unix:/path/to.sock
    #[arg(short, long, value_name = "ADDR")]
    pub(super) address: Option<Address>,

    /// Be the machine's daemon: its address and its configuration, also when not root
    #[arg(long, conflicts_with = "user")]
    pub(super) system: bool,

    /// Be this user's daemon, also when root
    #[arg(long)]
    pub(super) user: bool,

    /// Who may connect at all: owner, group:NAME or everyone; the policy decides the rest
    #[arg(long, value_name = "WHO", value_parser = access)]
    pub(super) access: Option<ListenAccess>,

    /// Configuration file
    #[arg(long, value_name = "FILE", env = "INVOKED_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// Directory of capability files; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(super) capabilities: Vec<PathBuf>,

    /// Directory of permission files; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(super) permissions: Vec<PathBuf>,

    /// Directory of interfaces of plugins that providers serve; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(super) interfaces: Vec<PathBuf>,

    /// Load files written for Tauri: what they name and is not here grants nothing, with a warning
    #[arg(long)]
    pub(super) tauri_compat: bool,

    /// Grant your own uid the current directory and everything to measure and try with
    #[arg(long)]
    pub(super) dev: bool,

    /// What to log: error, warn, info, debug, trace, or a filter of those by module
    #[arg(long, value_name = "FILTER", env = "INVOKED_LOG")]
    pub(super) log: Option<String>,

    /// Check configuration and policy, and exit
    #[arg(long)]
    pub(super) check_config: bool,

    /// Print a configuration file with every default, and exit
    #[arg(long)]
    pub(super) print_default_config: bool,

    /// Print the policy that holds without any file, and exit
    #[arg(long)]
    pub(super) print_policy: bool,
}

fn access(text: &str) -> Result<ListenAccess, String> {
    ListenAccess::try_from(text.to_owned())
}
