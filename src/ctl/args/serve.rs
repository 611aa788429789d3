//! Flags of `invokectl serve`.

use std::ffi::OsString;
use std::num::NonZeroU16;

use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "Each call runs the program anew: its standard input is the call's body, its standard output the result, and \
    another exit code than 0 the command's own error, {\"exit\": 1, \"stderr\": \"the end of it\"}. The caller is in \
    INVOKED_PEER_UID, _GID, _PID and _USER. Arguments are never put into a command line. A call that is cancelled, or past its \
    deadline, ends the program and all that it started: SIGTERM, and SIGKILL 2 s later.\n\n\
    The daemon lets you if a capability that matches you says provide = [\"PLUGIN\"]; under --dev its own user may.\n\n\
    Examples:\n  \
        invokectl serve text.upper --raw -- tr a-z A-Z\n  \
        echo hi | invokectl call text.upper --raw -              (in another terminal)\n  \
        invokectl serve text.keys -- jq keys                     JSON arguments in, a JSON result out\n  \
        invokectl serve logs.tail --lines -- journalctl -f       each line an item: invokectl call logs.tail --channel lines"
)]
pub(in crate::ctl) struct ServeArgs {
    /// The command to serve, with its plugin: text.upper
    #[arg(value_name = "NAME")]
    pub(in crate::ctl) name: String,

    /// The body as it is on standard input, and standard output as it is for a result
    #[arg(long)]
    pub(in crate::ctl) raw: bool,

    /// Send each line that the program prints as it comes, as text on the channel that the call names in its argument lines
    #[arg(long, conflicts_with = "raw")]
    pub(in crate::ctl) lines: bool,

    /// Run at most so many at once; further calls wait
    #[arg(long, value_name = "N", default_value = "8")]
    pub(in crate::ctl) jobs: NonZeroU16,

    /// Take the plugin over from another provider that serves it
    #[arg(long)]
    pub(in crate::ctl) take_over: bool,

    /// Look for the daemon again when it went away
    #[arg(long)]
    pub(in crate::ctl) reconnect: bool,

    /// The program and its arguments
    #[arg(value_name = "PROGRAM", last = true, required = true)]
    pub(in crate::ctl) program: Vec<OsString>,
}
