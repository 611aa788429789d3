//! The command line of `invokectl`, and the words of its help.
//!
//! It owns flags, arguments and their forms; it does nothing with them.

mod measure;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCandidates;
use invoked_client::{Address, AppName, DEFAULT_CONNECT_TIMEOUT};

pub(super) use self::measure::{
    BenchCommand, ChannelsArgs, FloorArgs, FloorKind, LatencyArgs, MeasureArgs, ThroughputArgs,
};
pub(super) use self::serve::ServeArgs;
use super::items::{Printed, printed};
use super::tour::StepName;
use crate::authority::PeerQuestion;

/// Calls, lists and measures the commands of an invoked daemon.
#[derive(Debug, Parser)]
#[command(
    name = "invokectl",
    version,
    disable_help_subcommand = true,
    after_help = "Try it:\n  \
        invoked --dev                                  (in one terminal, in a directory to share)\n  \
        invokectl list                                 what you may call\n  \
        invokectl describe fs.read_file                what it takes, and a line to paste\n  \
        invokectl call fs.read_file path=$PWD/a.png -o copy.png\n  \
        invokectl call fs.write_file path=$PWD/copy.png contents@a.png\n  \
        invokectl explain 7f3a                         why the call with this decision was denied\n  \
        invokectl tour                                 all of it by itself, in one terminal\n\n\
        Exit codes: 0 ok, 1 the command's own error, 2 usage, 3 permission_denied, 4 not_found, 5 unavailable, \
        6 deadline_exceeded, 7 cancelled, 8 resource_exhausted, 9 invalid_argument, 10 protocol, internal or this \
        machine, 130 or 143 interrupted; others from 20 are listed in docs/invokectl.md."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,

    #[command(subcommand)]
    pub(super) command: Command,
}

/// What holds for every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Where the daemon listens: unix:/path/to.sock [default: $INVOKED_ADDRESS, else by uid and environment]
    #[arg(short, long, value_name = "ADDR", global = true)]
    pub(super) address: Option<Address>,

    /// The daemon of this application, as org.acme.photos
    #[arg(long, value_name = "NAME", global = true, value_parser = app_name)]
    pub(super) app: Option<AppName>,

    /// The machine's daemon, also when not root
    #[arg(long, global = true, conflicts_with = "user")]
    pub(super) system: bool,

    /// This user's daemon, also when root
    #[arg(long, global = true)]
    pub(super) user: bool,

    /// Give up every capability but this one for this connection, as `operate`; may be given more than once
    #[arg(long, value_name = "CAPABILITY", global = true)]
    pub(super) narrow: Vec<String>,

    /// One JSON object a line, on standard output; errors on standard error
    #[arg(short, long, global = true)]
    pub(super) json: bool,

    /// Nothing but results and errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Call a command and print its result
    Call(CallArgs),
    /// Serve a command: each call runs a program
    Serve(ServeArgs),
    /// List the commands that you may call
    List,
    /// Tell about one command, with a line to paste
    Describe(DescribeArgs),
    /// Tell who you are to the daemon
    Whoami,
    /// Ask whether the daemon is there, and how long it takes
    Ping(PingArgs),
    /// Tell why a call is, or would be, allowed or denied
    Explain(ExplainArgs),
    /// List the latest denials
    Denials(DenialsArgs),
    /// Show each call as it ends, with where its time went
    Monitor(MonitorArgs),
    /// Check capability files, with the daemon's own loader
    Check(CheckArgs),
    /// Print JSON Schemas of capability and permission files, for editors
    Schema(SchemaArgs),
    /// List the limits and quotas in force
    Limits,
    /// Print the counters of the daemon
    Stats,
    /// Find out what this machine has, and what keeps you from a daemon
    Doctor,
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// See everything work, in a temporary directory
    Tour(TourArgs),
    /// Print the completion script of a shell
    Completion(CompletionArgs),
    /// The other end of a measurement
    #[command(name = "bench-floor", hide = true)]
    BenchFloor(FloorArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Arguments, never guessed from the command's schema:\n  \
        key=text        a string                      path=/etc/hostname\n  \
        key:=JSON       a JSON value                  len:=5  wide:=true  'tags:=[\"a\"]'\n  \
        key=@file       a string, read from a file    note=@letter.txt   (key:=@file: JSON from a file)\n  \
        key@file        a raw attachment              picture@in.png\n  \
        {...} or [...]  the whole body, as JSON       '{\"len\":5}'\n  \
        -               the whole body, JSON from standard input\n\n\
        A string that begins with @ is written key:='\"@text\"'.\n\n\
        Examples:\n  \
        invokectl call fs.read_file path=$PWD/a.png -o copy.png\n  \
        invokectl call bench.bytes len:=1000000 | sha256sum\n  \
        echo '{\"a\":1}' | invokectl call core.echo -\n  \
        invokectl call core.echo --raw photo.jpg -o same.jpg\n\n\
        A JSON result is indented on a terminal and compact in a pipe. Raw bytes go to a pipe or, with -o, to a file, \
        never to a terminal.")]
pub(super) struct CallArgs {
    /// The command: fs.read_file, or plugin:fs|read_file
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(super::completion::command_names))]
    pub(super) name: String,

    /// Arguments; see below
    #[arg(value_name = "ARG", allow_hyphen_values = false)]
    pub(super) arguments: Vec<String>,

    /// Save the result here; attachments beside it as FILE.1, FILE.2; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Send the bytes of a file as the body; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) raw: Option<PathBuf>,

    /// Send a header along; may be given more than once
    #[arg(short = 'H', long, value_name = "K=V", value_parser = header)]
    pub(super) header: Vec<(String, String)>,

    /// Give up after this long, as 5s, 200ms or 1m; none waits without end
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "30s")]
    pub(super) timeout: Timeout,

    /// Open a channel, name it in the argument KEY, and print what comes on it; with =drop_oldest or =latest the command
    /// doesn't wait for it, and items may be left out; may be given more than once
    #[arg(long, value_name = "KEY[=OVERFLOW]", value_parser = printed, conflicts_with = "raw")]
    pub(super) channel: Vec<Printed>,

    /// Open a channel, name it in the argument KEY, and send each line of standard input on it, as text
    #[arg(long, value_name = "KEY", conflicts_with = "raw")]
    pub(super) lines: Option<String>,

    /// Send the bytes of a file as an attachment; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub(super) attach: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The command
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(super::completion::command_names))]
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct PingArgs {
    /// How many times
    #[arg(short = 'n', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: u64,

    /// How long to wait between two
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "200ms")]
    pub(super) interval: Duration,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1 if anything is wrong. Without DIR, the directories that a daemon started by you \
    would read.\n\nExamples:\n  invokectl check\n  invokectl check --strict /etc/invoked/capabilities.d"
)]
pub(super) struct CheckArgs {
    /// Directories of capability files
    #[arg(value_name = "DIR")]
    pub(super) directories: Vec<PathBuf>,

    /// Directory of permission files; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(super) permissions: Vec<PathBuf>,

    /// Directory of interfaces of plugins that providers serve; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(super) interfaces: Vec<PathBuf>,

    /// Take files as a daemon does under --tauri-compat
    #[arg(long)]
    pub(super) tauri_compat: bool,

    /// Fail on warnings also
    #[arg(long)]
    pub(super) strict: bool,

    /// Know what a daemon has under --dev that is started here: its plugins, its own grants, $DIR
    #[arg(long)]
    pub(super) dev: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "For who operates the daemon. A denial is named by its id, which the refused caller is shown; a call by \
    a command's name and arguments as those of invokectl call. Without --peer you are the peer.\n\n\
    PEER is one or more of, with commas between:\n  \
        uid=1000 or user=ana         and nothing else: as that user after login\n  \
        gid=100 or group=dev         its group\n  \
        groups=dev:audio             its supplementary groups, by name or number; groups= for none\n  \
        exe=/usr/bin/gallery         the file that it runs\n  \
        unit=gallery.service         the unit that it is in\n  \
        keeps=gallery:notes          the capabilities that it keeps, if it narrows itself\n\
    or a connected peer, whose facts are known:\n  \
        pid=4242                     by its process\n  \
        connection=17                by its number, as whoami and denials tell it\n\n\
    Exit code 0 if the call is allowed, 3 if it is denied; for a denial's id 0 if it is known, 4 if not.\n\n\
    Examples:\n  \
        invokectl explain 7f3a\n  \
        invokectl explain --last\n  \
        invokectl explain --peer user=ana,exe=/usr/bin/gallery fs.read_file path=/home/ana/a.png\n  \
        invokectl explain --peer pid=4242 core.reload\n  \
        invokectl explain --capabilities ./policy --peer uid=1000 fs.read_file path=/srv/a"
)]
pub(super) struct ExplainArgs {
    /// The id of a denial, or a command
    #[arg(
        value_name = "DECISION|NAME",
        required_unless_present = "last",
        add = ArgValueCandidates::new(super::completion::decisions_and_commands)
    )]
    pub(super) subject: Option<String>,

    /// The latest denial, in place of its id
    #[arg(long, conflicts_with_all = ["subject", "peer", "offline", "capabilities", "permissions", "interfaces", "tauri_compat"])]
    pub(super) last: bool,

    /// Arguments of the call, as of invokectl call
    #[arg(value_name = "ARG", allow_hyphen_values = false)]
    pub(super) arguments: Vec<String>,

    /// Who calls; see below
    #[arg(long, value_name = "PEER", value_parser = super::explain::peer)]
    pub(super) peer: Option<PeerQuestion>,

    /// Ask the files that a daemon would read, not a daemon
    #[arg(long)]
    pub(super) offline: bool,

    /// Ask the capability files of this directory, not a daemon; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(super) capabilities: Vec<PathBuf>,

    /// With these permission files; offline
    #[arg(long, value_name = "DIR")]
    pub(super) permissions: Vec<PathBuf>,

    /// With these interfaces of plugins that providers serve; offline
    #[arg(long, value_name = "DIR")]
    pub(super) interfaces: Vec<PathBuf>,

    /// Take files as a daemon does under --tauri-compat; offline
    #[arg(long)]
    pub(super) tauri_compat: bool,
}

impl ExplainArgs {
    /// Whether files are asked and not a daemon.
    pub(super) fn is_offline(&self) -> bool {
        let named = [&self.capabilities, &self.permissions, &self.interfaces];
        self.offline || self.tauri_compat || named.iter().any(|directories| !directories.is_empty())
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "For who operates the daemon, which keeps the last 1000, but of a uid that floods it fewer. Times are \
    UTC.\n\nExamples:\n  invokectl denials --since 10m\n  invokectl -j denials --follow"
)]
pub(super) struct DenialsArgs {
    /// Only those of the last while, as 10m, 2h or 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) since: Option<Duration>,

    /// At most so many, the newest
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,

    /// Go on with those to come, until interrupted
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "For who operates the daemon. Arguments and bodies are shown with --bodies only. No call waits for it: calls that come faster \
    than they are printed are left out, and how many is said. Times are UTC.\n\nExamples:\n  \
    invokectl monitor --command 'fs.*'\n  invokectl monitor --peer user=ana --outcome permission_denied\n  \
    invokectl -j monitor | jq .handler_us"
)]
pub(super) struct MonitorArgs {
    /// Only calls of this command, or of those that the pattern matches, as fs.*
    #[arg(long, value_name = "GLOB", add = ArgValueCandidates::new(super::completion::command_names))]
    pub(super) command: Option<String>,

    /// Only calls of this peer: uid=1000, user=ana, pid=4242 or connection=17
    #[arg(long, value_name = "PEER", value_parser = super::explain::peer)]
    pub(super) peer: Option<PeerQuestion>,

    /// Only calls that ended so: ok, error, or a code, as permission_denied
    #[arg(long, value_name = "OUTCOME")]
    pub(super) outcome: Option<String>,

    /// Show the beginnings of bodies: 1024 bytes of JSON, 64 of raw ones; never those of calls marked sensitive
    #[arg(long)]
    pub(super) bodies: bool,
}

/// A kind of file that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SchemaKind {
    Capability,
    Permission,
}

impl SchemaKind {
    /// Its name in what `core.schema` answers.
    pub(super) fn name(self) -> &'static str {
        match self {
            SchemaKind::Capability => "capability",
            SchemaKind::Permission => "permission",
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "The permissions are those of the daemon that answers, with a description of each; offline, those of the \
    plugins that every daemon has, and of the files that one would read.\n\nExamples:\n  \
    invokectl schema > capability.schema.json\n  invokectl schema --out ./schemas\n  invokectl schema permission --offline"
)]
pub(super) struct SchemaArgs {
    /// Which one goes to standard output
    #[arg(value_enum, default_value_t = SchemaKind::Capability)]
    pub(super) kind: SchemaKind,

    /// Save all of them in this directory, as KIND.schema.json; - is standard output
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,

    /// Ask the files that a daemon would read, not a daemon
    #[arg(long)]
    pub(super) offline: bool,

    /// Know the plugins that a daemon has under --dev; offline
    #[arg(long)]
    pub(super) dev: bool,

    /// With these permission files; offline
    #[arg(long, value_name = "DIR")]
    pub(super) permissions: Vec<PathBuf>,

    /// With these interfaces of plugins that providers serve; offline
    #[arg(long, value_name = "DIR")]
    pub(super) interfaces: Vec<PathBuf>,
}

impl SchemaArgs {
    /// Whether files are asked and not a daemon.
    pub(super) fn is_offline(&self) -> bool {
        self.offline || self.dev || !self.permissions.is_empty() || !self.interfaces.is_empty()
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Everything happens in a temporary directory, with a daemon of its own. Exit code 0 only if every \
    step did what it should.\n\nExamples:\n  invokectl tour\n  invokectl tour denial\n  invokectl tour --keep"
)]
pub(super) struct TourArgs {
    /// Only this step
    pub(super) step: Option<StepName>,

    /// Wait for the Enter key after each step
    #[arg(long)]
    pub(super) pause: bool,

    /// Leave daemon and files there, for you to try
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Names of commands come from the live daemon.\n\nExamples:\n  \
    source <(invokectl completion bash)\n  \
    invokectl completion fish > ~/.config/fish/completions/invokectl.fish")]
pub(super) struct CompletionArgs {
    /// bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL")]
    pub(super) shell: clap_complete::Shell,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    After(Duration),
    Never,
}

impl Timeout {
    /// How long to wait for the connection: no longer than for the call, where that leaves it a chance.
    pub(super) fn for_connecting(self) -> Duration {
        match self {
            Timeout::After(timeout) => timeout.clamp(Duration::from_millis(500), DEFAULT_CONNECT_TIMEOUT),
            Timeout::Never => DEFAULT_CONNECT_TIMEOUT,
        }
    }
}

fn app_name(text: &str) -> Result<AppName, String> {
    AppName::new(text).map_err(|error| error.to_string())
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "a header is written key=value".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn timeout(text: &str) -> Result<Timeout, String> {
    if text == "none" { Ok(Timeout::Never) } else { duration(text).map(Timeout::After) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write 5s, 200ms, 50us or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::{Cli, Timeout, duration, timeout};

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(timeout("none"), Ok(Timeout::Never));
        for wrong in ["", "5", "s", "-1s", "5 s", "1d", "9e9s", "1..2s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
