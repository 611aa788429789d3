//! Which files of a policy a daemon would read, and what its loader says of them.
//!
//! It owns the choice of directories, which follows the daemon's own, and judges nothing itself.

use std::path::{Path, PathBuf};

use invoked_client::Scope;

use super::args::Global;
use super::connection::scope;
use crate::authority::load::{DirectoryContents, PolicyDirectory};
use crate::authority::{Instance, PolicyError, TauriFiles};
use crate::builder::Builder;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::error::BuildError;

/// Where the files of a policy are.
#[derive(Debug)]
pub(super) struct PolicyFiles {
    instance: Instance,
    directories: Vec<PolicyDirectory>,
    tauri: TauriFiles,
}

/// What somebody named, in place of what a daemon would read by itself.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) capabilities: &'a [PathBuf],
    pub(super) permissions: &'a [PathBuf],
    pub(super) interfaces: &'a [PathBuf],
    pub(super) tauri_compat: bool,
}

/// Which plugins' permissions are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugins {
    /// Those of every daemon.
    BuiltIn,
    /// And those of `--dev`, with what that grants where this runs.
    Dev,
}

impl PolicyFiles {
    /// Those that a daemon would read which is started with the same flags and told nothing else.
    ///
    /// # Errors
    /// Its configuration file can't be read, or is not sound.
    pub(super) fn of(global: &Global, named: Named<'_>) -> Result<Self, BuildError> {
        let instance = instance(global);
        let directory = config_directory(global, instance);
        let file = match std::env::var_os("INVOKED_CONFIG") {
            Some(file) => Some(PathBuf::from(file)),
            None => directory.as_ref().map(|d| d.join("invoked.toml")).filter(|file| file.exists()),
        };
        let config = file.as_deref().map(Config::read).transpose()?.unwrap_or_default().policy;
        let mut directories = Vec::new();
        for (flags, file, name, contents) in [
            (named.capabilities, config.capabilities, "capabilities.d", DirectoryContents::Capabilities),
            (named.permissions, config.permissions, "permissions.d", DirectoryContents::Permissions),
            (named.interfaces, config.interfaces, "interfaces.d", DirectoryContents::Interfaces),
        ] {
            let paths = if flags.is_empty() { file.unwrap_or_default() } else { flags.to_vec() };
            let default = directory.as_ref().filter(|_| paths.is_empty()).map(|d| d.join(name));
            let all = paths.into_iter().map(PolicyDirectory::required);
            let all = all.chain(default.map(PolicyDirectory::optional));
            directories.extend(all.map(|directory| directory.of(contents)));
        }
        let lenient = named.tauri_compat || config.tauri_compat;
        let tauri = if lenient { TauriFiles::Lenient } else { TauriFiles::Strict };
        Ok(PolicyFiles { instance, directories, tauri })
    }

    /// The directories of capability files.
    pub(super) fn capabilities(&self) -> impl Iterator<Item = &Path> {
        let capabilities =
            self.directories.iter().filter(|d| d.contents() == DirectoryContents::Capabilities);
        capabilities.map(PolicyDirectory::path)
    }

    /// Loads them as the daemon does.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn load(&self, known: Plugins) -> Result<Loaded, BuildError> {
        let (daemon, warnings) = self.build(known)?;
        let notes = daemon.policy.notes().to_vec();
        Ok(Loaded { capabilities: daemon.policy.capability_count(), warnings, notes })
    }

    /// The daemon that would read them, which never runs.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn build(&self, known: Plugins) -> Result<(Daemon, Vec<PolicyError>), BuildError> {
        let mut builder = Builder { instance: self.instance, tauri: self.tauri, ..Builder::default() };
        builder.directories = self.directories.clone();
        if known == Plugins::Dev {
            // As a daemon that is started here; one would say itself why it can't be.
            builder = builder.dev(std::env::current_dir().unwrap_or_default());
        }
        builder.build()
    }
}

/// What a policy without errors amounts to.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The number of capabilities in force.
    pub(super) capabilities: usize,
    pub(super) warnings: Vec<PolicyError>,
    /// What is no fault, and good to know.
    pub(super) notes: Vec<PolicyError>,
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
