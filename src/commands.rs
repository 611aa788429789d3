//! The one table of hosted commands: it routes calls, and it is what the authority, `discover` and `describe` know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::{HashMap, HashMapExt};
use invoked_proto::Text;
use invoked_proto::name::CommandName;

use crate::ipc::{Argument, Command, Execution, ScopeQuestioner};
use crate::plugin::Assembled;

/// After a run that took long, so many are measured: whether the command held the loop, or another process the processor.
const WATCHED: u32 = 64;

/// What one run counts that held the loop; another takes back 1.
const STRIKE: u32 = 10;

/// From here on a command runs on the pool or the workers, until the daemon is started anew.
const DEMOTED: u32 = 25;

/// A command under its canonical name.
#[derive(Debug)]
pub struct RegisteredCommand {
    name: CommandName,
    text: Text,
    command: Command,
    /// Runs that are still to be measured.
    watched: AtomicU32,
    /// Grows when the command holds the loop too long, shrinks when it doesn't.
    strikes: AtomicU32,
}

impl RegisteredCommand {
    fn new(name: CommandName, command: Command) -> Self {
        let text = Text::from(name.as_str());
        RegisteredCommand { name, text, command, watched: AtomicU32::new(0), strikes: AtomicU32::new(0) }
    }

    /// One that stands in no table.
    #[cfg(test)]
    pub(crate) fn alone(command: Command) -> Self {
        Self::new(CommandName::parse(command.name).expect("a name"), command)
    }

    /// The canonical name, `plugin.command`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The canonical name, parsed.
    #[must_use]
    pub fn command_name(&self) -> &CommandName {
        &self.name
    }

    /// What the author wrote about it.
    #[must_use]
    pub fn docs(&self) -> &str {
        self.command.docs
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[Argument] {
        &self.command.arguments
    }

    /// Whether its body is raw, not an object of arguments.
    #[must_use]
    pub fn takes_raw(&self) -> bool {
        self.command.takes_raw
    }

    /// Whether it checks the scopes of its grant.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.command.scoped
    }

    /// How it finds what to ask its scopes about, if that can be told without a call.
    #[must_use]
    pub fn questioner(&self) -> Option<ScopeQuestioner> {
        self.command.questioner
    }

    /// How it runs.
    #[must_use]
    pub fn execution(&self) -> &Execution {
        &self.command.execution
    }

    pub(crate) fn text(&self) -> Text {
        self.text.clone()
    }

    pub(crate) fn is_demoted(&self) -> bool {
        self.strikes.load(Ordering::Relaxed) >= DEMOTED
    }

    /// Whether its next run is to be measured, as one before took long; takes it as begun.
    pub(crate) fn is_watched(&self) -> bool {
        // Only the loop writes it, so nothing is lost between the two.
        let left = self.watched.load(Ordering::Relaxed);
        if left > 0 {
            self.watched.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }

    /// A run took long: the next are measured.
    pub(crate) fn watch(&self) {
        self.watched.store(WATCHED, Ordering::Relaxed);
    }

    /// Notes whether the command just held the loop too long; true when that demotes it. One long run may be a page that had
    /// to come from a disk; three among a few are the command's.
    pub(crate) fn held_the_loop(&self, long: bool) -> bool {
        let strikes = self.strikes.load(Ordering::Relaxed);
        if strikes >= DEMOTED || (!long && strikes == 0) {
            return false;
        }
        // Only the loop writes it, so nothing is lost between the two.
        let after = if long { strikes + STRIKE } else { strikes - 1 };
        self.strikes.store(after, Ordering::Relaxed);
        after >= DEMOTED
    }
}

/// All hosted commands, by canonical name.
#[derive(Debug, Default)]
pub struct CommandTable {
    by_name: HashMap<CommandName, Arc<RegisteredCommand>>,
}

impl CommandTable {
    /// Puts the commands of `plugins` under their canonical names.
    ///
    /// # Errors
    /// A text that names the plugin and the command, if a name is ill-formed or used twice.
    pub(crate) fn new<'a>(plugins: impl IntoIterator<Item = &'a Assembled>) -> Result<Self, String> {
        let mut by_name = HashMap::new();
        for plugin in plugins {
            for command in plugin.commands() {
                let text = match plugin.name() {
                    Some(plugin) => format!("{}.{}", plugin.as_str(), command.name),
                    None => command.name.to_owned(),
                };
                let name = CommandName::parse(&text).map_err(|error| format!("command {text:?}: {error}"))?;
                let registered = RegisteredCommand::new(name.clone(), command.clone());
                if by_name.insert(name, Arc::new(registered)).is_some() {
                    return Err(format!("command {text:?} is registered twice"));
                }
            }
        }
        Ok(CommandTable { by_name })
    }

    /// The command of this canonical name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<RegisteredCommand>> {
        self.by_name.get(name).map(Arc::clone)
    }

    /// All commands, by name.
    #[must_use]
    pub fn sorted(&self) -> BTreeMap<&str, &Arc<RegisteredCommand>> {
        self.by_name.values().map(|command| (command.name(), command)).collect()
    }
}
