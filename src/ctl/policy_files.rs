//! Which capability files a daemon would read, and what its loader says of them.
//!
//! It owns the choice of directories, which follows the daemon's own, and judges nothing itself.

use std::path::{Path, PathBuf};

use invoked_client::Scope;

use super::args::Global;
use super::connection::scope;
use crate::authority::load::PolicyDirectory;
use crate::authority::{Instance, PolicyError};
use crate::builder::Builder;
use crate::config::Config;
use crate::error::BuildError;
use crate::plugins;

/// Where the capability files are.
#[derive(Debug)]
pub(super) struct PolicyFiles {
    pub(super) instance: Instance,
    pub(super) directories: Vec<PathBuf>,
    /// Whether somebody named the directories: only then they must be there.
    named: Naming,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Named,
    ByRule,
}

/// Which plugins' permissions are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugins {
    /// Those of every daemon.
    BuiltIn,
    /// And those of `--dev`.
    Dev,
}

impl PolicyFiles {
    /// These directories.
    pub(super) fn named(global: &Global, directories: &[PathBuf]) -> Self {
        PolicyFiles { instance: instance(global), directories: directories.to_vec(), named: Naming::Named }
    }

    /// Those that a daemon would read which is started with the same flags and told nothing else.
    ///
    /// # Errors
    /// Its configuration file can't be read, or is not sound.
    pub(super) fn by_rule(global: &Global) -> Result<Self, BuildError> {
        let instance = instance(global);
        let by_rule = |directories| PolicyFiles { instance, directories, named: Naming::ByRule };
        let Some(directory) = config_directory(global, instance) else { return Ok(by_rule(Vec::new())) };
        let file = match std::env::var_os("INVOKED_CONFIG") {
            Some(file) => Some(PathBuf::from(file)),
            None => Some(directory.join("invoked.toml")).filter(|file| file.exists()),
        };
        let config = file.as_deref().map(Config::read).transpose()?;
        match config.and_then(|config| config.policy.capabilities).filter(|named| !named.is_empty()) {
            Some(directories) => Ok(PolicyFiles { instance, directories, named: Naming::Named }),
            None => Ok(by_rule(vec![directory.join("capabilities.d")])),
        }
    }

    /// Loads them as the daemon does. Gives the number of capabilities and the warnings.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn load(&self, known: Plugins) -> Result<(usize, Vec<PolicyError>), BuildError> {
        let directory = |path: &PathBuf| match self.named {
            Naming::Named => PolicyDirectory::required(path),
            Naming::ByRule => PolicyDirectory::optional(path),
        };
        let mut builder = Builder { instance: self.instance, ..Builder::default() };
        builder.directories = self.directories.iter().map(directory).collect();
        if known == Plugins::Dev {
            builder = builder.plugin(plugins::bench::plugin());
        }
        let (daemon, warnings) = builder.build()?;
        Ok((daemon.policy.capability_count(), warnings))
    }
}

/// Whether `path` is there at all.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn instance(global: &Global) -> Instance {
    match scope(global) {
        Scope::System => Instance::System,
        Scope::User => Instance::User,
        Scope::Auto if rustix::process::geteuid().is_root() => Instance::System,
        Scope::Auto => Instance::User,
    }
}

fn config_directory(global: &Global, instance: Instance) -> Option<PathBuf> {
    let name = global.app.as_ref().map_or("invoked", |app| app.as_str());
    if instance == Instance::System {
        return Some(Path::new("/etc").join(name));
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join(name))
}
