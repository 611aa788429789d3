//! The one table of hosted commands: it routes calls, and it is what the authority, `discover` and `describe` know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::{HashMap, HashMapExt};
use invoked_proto::Text;
use invoked_proto::name::CommandName;

use crate::ipc::{Argument, Command, Execution};
use crate::plugin::Plugin;

/// A command under its canonical name.
#[derive(Debug)]
pub struct RegisteredCommand {
    name: CommandName,
    text: Text,
    command: Command,
    /// Set once the command held the loop for too long; it runs on the pool or the workers from then on.
    demoted: AtomicBool,
}

impl RegisteredCommand {
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

    /// How it runs.
    #[must_use]
    pub fn execution(&self) -> &Execution {
        &self.command.execution
    }

    pub(crate) fn text(&self) -> Text {
        self.text.clone()
    }

    pub(crate) fn is_demoted(&self) -> bool {
        self.demoted.load(Ordering::Relaxed)
    }

    /// Notes that the command held the loop; true the first time.
    pub(crate) fn demote(&self) -> bool {
        !self.demoted.swap(true, Ordering::Relaxed)
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
    pub fn new(plugins: &[Plugin]) -> Result<Self, String> {
        let mut by_name = HashMap::new();
        for plugin in plugins {
            for command in plugin.commands() {
                let text = match plugin.name() {
                    Some(plugin) => format!("{}.{}", plugin.as_str(), command.name),
                    None => command.name.to_owned(),
                };
                let name = CommandName::parse(&text).map_err(|error| format!("command {text:?}: {error}"))?;
                let registered = RegisteredCommand {
                    text: Text::from(name.as_str()),
                    name: name.clone(),
                    command: command.clone(),
                    demoted: AtomicBool::new(false),
                };
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
