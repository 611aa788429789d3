//! `invokectl completion`, and what the shell asks for when a key is pressed.

use std::time::Duration;

use clap::CommandFactory;
use clap_complete::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use invoked_client::blocking::Client;
use invoked_client::{Address, AddressOptions, AppName, Options, Scope};

use super::args::{Cli, CompletionArgs};
use super::denials;
use super::failure::Failure;
use super::list::listed;
use super::output::write;

/// The variable by which the shell's script says that it asks.
const VARIABLE: &str = "COMPLETE";

/// Denials that a key press offers.
const DENIALS: u64 = 20;

/// How long a key press may wait for a daemon.
const PATIENCE: Duration = Duration::from_millis(300);

/// Answers the shell and ends the process, if it is the shell that asks.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

pub(super) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(&shell) else {
        return Err(Failure::Usage(format!("no completion for {shell}")));
    };
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "invokectl", "invokectl", "invokectl", &mut script)
        .map_err(Failure::local("can't make the script"))?;
    if shell == "bash" {
        script = String::from_utf8_lossy(&script).replace(SPLIT_WORDS, WHOLE_WORDS).into_bytes();
    }
    write(&script)
}

/// The line by which bash's script takes the words of the line.
const SPLIT_WORDS: &str = r#"    local words=("${COMP_WORDS[@]}")
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        words[COMP_CWORD]="$2"
    fi
"#;

/// bash splits words at `:` and `=`, so that an address comes as `unix`, `:` and a path, and a flag's value behind a `=` of
/// its own. Those that stand before the word in question are put together again.
const WHOLE_WORDS: &str = r#"    local words=() word at last
    for ((at = 0; at < ${#COMP_WORDS[@]}; at++)); do
        word="${COMP_WORDS[at]}"
        last="${words[${#words[@]}-1]-}"
        if ((at < COMP_CWORD)) && case "$last $word" in
            "unix :" | *"=unix :" | "unix: /"* | *"=unix: /"* | --[a-z]*" =" | --[a-z]*"= "*) ;;
            *) false ;;
        esac; then
            words[${#words[@]}-1]="$last$word"
            ((_CLAP_COMPLETE_INDEX--))
        else
            words+=("$word")
        fi
    done
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        words[_CLAP_COMPLETE_INDEX]="$2"
    fi
"#;

/// Names of commands that the daemon lets this user call; none when it does not answer at once.
pub(super) fn command_names() -> Vec<CompletionCandidate> {
    client().map(|client| names(&client)).unwrap_or_default()
}

/// Ids of the latest denials, the newest first, where the daemon tells them to this user, and names of commands.
pub(super) fn decisions_and_commands() -> Vec<CompletionCandidate> {
    let Some(client) = client() else { return Vec::new() };
    let latest = denials::latest(&client, DENIALS).unwrap_or_default();
    let ids = latest
        .iter()
        .rev()
        .map(|denial| CompletionCandidate::new(&denial.decision).help(Some(denial.shown().into())));
    ids.chain(names(&client)).collect()
}

fn names(client: &Client) -> Vec<CompletionCandidate> {
    let candidates = listed(client).unwrap_or_default().into_iter();
    candidates
        .map(|command| CompletionCandidate::new(command.name).help(Some(command.summary.into())))
        .collect()
}

fn client() -> Option<Client> {
    let words: Vec<String> = std::env::args().collect();
    let options =
        Options::new().address_options(address_of(&words)).connect_timeout(PATIENCE).timeout(PATIENCE);
    Client::connect(options).ok()
}

/// The daemon that the line so far means. The line is not whole, so it is looked through and not parsed.
fn address_of(words: &[String]) -> AddressOptions {
    let has = |name: &str| words.iter().any(|word| word == name);
    AddressOptions {
        explicit: value_of(words, &["-a", "--address"]).and_then(|text| text.parse::<Address>().ok()),
        scope: match (has("--system"), has("--user")) {
            (true, _) => Scope::System,
            (_, true) => Scope::User,
            _ => Scope::Auto,
        },
        app: value_of(words, &["--app"]).and_then(|name| AppName::new(name).ok()),
    }
}

/// The value of a flag: the word after it, or what stands behind its `=`.
fn value_of<'w>(words: &'w [String], flag: &[&str]) -> Option<&'w str> {
    words.iter().enumerate().find_map(|(at, word)| {
        if flag.contains(&word.as_str()) {
            return words.get(at + 1).map(String::as_str);
        }
        word.split_once('=').filter(|(name, _)| flag.contains(name)).map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use super::{Scope, address_of};

    #[test]
    fn the_line_so_far_names_the_daemon() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = address_of(&words("invokectl -a unix:/x/s.sock --user call f"));
        assert_eq!(found.explicit.map(|address| address.to_string()).as_deref(), Some("unix:/x/s.sock"));
        assert_eq!(found.scope, Scope::User);
        for joined in ["--address=unix:/x/s.sock", "-a=unix:/x/s.sock"] {
            let found = address_of(&words(&format!("invokectl {joined} call f")));
            assert!(found.explicit.is_some(), "{joined}");
        }
        let found = address_of(&words("invokectl --app=org.acme.photos call path=/x"));
        assert_eq!(found.app.expect("an application").as_str(), "org.acme.photos");
        let found = address_of(&words("invokectl --app org.acme.photos -a"));
        assert!(found.explicit.is_none() && found.scope == Scope::Auto);
        assert_eq!(found.app.expect("an application").as_str(), "org.acme.photos");
    }
}
