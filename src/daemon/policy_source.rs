//! Where the policy comes from: the same files, read again at each reload.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "watch")]
use super::footprint::Footprint;
use crate::authority::load::{PasswdFiles, PolicyDirectory, PolicyFiles};
use crate::authority::{
    AddedCapability, CompiledPolicy, DevOptions, Instance, PluginManifest, Policy, PolicyError, ProcessFacts,
    ProvidedInterface, ScopeVariable, TauriFiles,
};

/// What a policy is loaded from.
#[derive(Debug)]
pub(crate) struct PolicySource {
    pub(crate) own_uid: u32,
    pub(crate) instance: Instance,
    pub(crate) tauri: TauriFiles,
    pub(crate) manifests: Vec<PluginManifest>,
    pub(crate) directories: Vec<PolicyDirectory>,
    pub(crate) variables: Vec<(ScopeVariable, PathBuf)>,
    pub(crate) dev: Option<DevOptions>,
    /// The most that capabilities may set of limits and quotas.
    pub(crate) ceilings: Vec<(&'static str, u64)>,
    /// Whether the kernel confirms what it says of peers' processes.
    pub(crate) process_facts: ProcessFacts,
    pub(crate) state: SourceState,
}

/// What changes of a source while the daemon runs.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    revision: AtomicU64,
    /// Of the policy in force.
    parts: Mutex<Parts>,
    /// The files as they were when they were last read, whether they were sound or not.
    #[cfg(feature = "watch")]
    read_from: Mutex<Option<Footprint>>,
}

/// What a policy is put together from that may change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    files: PolicyFiles,
    /// Added at run time.
    pub(super) added: Vec<AddedCapability>,
    /// What peers provide, or did: who comes again with the same changes nothing.
    pub(super) registered: Vec<Registered>,
}

/// An interface that a peer registered.
#[derive(Debug, Clone)]
pub(super) struct Registered {
    pub(super) interface: Arc<ProvidedInterface>,
    /// Whose.
    pub(super) uid: u32,
}

impl Registered {
    /// Whether the policy is the same with the other in its place.
    pub(super) fn is_same(&self, other: &Registered) -> bool {
        self.uid == other.uid && self.is_of_name(other) && self.text() == other.text()
    }

    /// Whether it is of the same plugin and version.
    pub(super) fn is_of_name(&self, other: &Registered) -> bool {
        self.interface.plugin() == other.interface.plugin()
            && self.interface.major() == other.interface.major()
    }

    fn text(&self) -> &str {
        self.interface.source().text()
    }
}

/// A policy without errors that is not in force yet.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) compiled: CompiledPolicy,
    parts: Parts,
}

impl PolicySource {
    /// Reads the files again; blocks on the disk.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn load(&self) -> Result<Proposal, Vec<PolicyError>> {
        // Before they are read: what changes meanwhile is a change.
        #[cfg(feature = "watch")]
        self.note_read();
        let files = PolicyFiles::read(&self.directories, self.own_uid)?;
        self.propose(Parts { files, ..self.parts() })
    }

    /// Compiles these parts; takes as long as the policy is.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn propose(&self, parts: Parts) -> Result<Proposal, Vec<PolicyError>> {
        Ok(Proposal { compiled: self.compile(&parts)?, parts })
    }

    /// Whether the daemon itself has a plugin of this name.
    pub(super) fn hosts(&self, plugin: &str) -> bool {
        self.manifests
            .iter()
            .any(|manifest| manifest.name.as_ref().is_some_and(|name| name.as_str() == plugin))
    }

    /// What the policy in force is made of.
    pub(super) fn parts(&self) -> Parts {
        self.locked().clone()
    }

    /// Takes a policy that is about to be in force as what changes are made of. Gives it without its parts.
    pub(crate) fn adopt(&self, proposal: Proposal) -> CompiledPolicy {
        *self.locked() = proposal.parts;
        proposal.compiled
    }

    fn locked(&self) -> MutexGuard<'_, Parts> {
        // A panic while it is held leaves it whole.
        self.state.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile(&self, parts: &Parts) -> Result<CompiledPolicy, Vec<PolicyError>> {
        let users = PasswdFiles::system()
            .map_err(|error| vec![PolicyError::unplaced("/etc/passwd", error.to_string())])?;
        let revision = self.state.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let mut policy = Policy::new(self.own_uid, &users)
            .process_facts(self.process_facts)
            .instance(self.instance)
            .revision(revision);
        policy = policy.tauri_files(self.tauri);
        for manifest in &self.manifests {
            policy = policy.manifest(manifest.clone());
        }
        for (variable, value) in &self.variables {
            policy = policy.variable(*variable, value.clone());
        }
        for (name, value) in &self.ceilings {
            policy = policy.ceiling(name, *value);
        }
        if let Some(dev) = &self.dev {
            policy = policy.dev(dev.clone());
        }
        for added in &parts.added {
            policy = policy.capability(added.clone());
        }
        for Registered { interface, uid } in &parts.registered {
            policy = policy.provided(Arc::clone(interface), *uid);
        }
        parts.files.compile(policy)
    }
}

#[cfg(feature = "watch")]
impl PolicySource {
    /// The directories that the files lie in.
    pub(super) fn directories(&self) -> &[PolicyDirectory] {
        &self.directories
    }

    /// Whether the files are still those that were last read.
    pub(super) fn is_read_from(&self, footprint: &Footprint) -> bool {
        self.read_from().as_ref() == Some(footprint)
    }

    fn note_read(&self) {
        let footprint = Footprint::of(&self.directories);
        *self.read_from() = Some(footprint);
    }

    fn read_from(&self) -> MutexGuard<'_, Option<Footprint>> {
        // A panic while it is held leaves it whole.
        self.state.read_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
