//! Where the policy comes from: the same files, read again at each reload.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "watch")]
use std::sync::{Mutex, PoisonError};

#[cfg(feature = "watch")]
use super::footprint::Footprint;
use crate::authority::load::{PasswdFiles, PolicyDirectory, PolicyFiles};
use crate::authority::{
    CompiledPolicy, DevOptions, Instance, PluginManifest, Policy, PolicyError, ScopeVariable, TauriFiles,
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
    pub(crate) state: SourceState,
}

/// What changes of a source while the daemon runs.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    revision: AtomicU64,
    /// The files as they were when they were last read, whether they were sound or not.
    #[cfg(feature = "watch")]
    read_from: Mutex<Option<Footprint>>,
}

impl PolicySource {
    /// Reads everything; blocks on the disk.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn load(&self) -> Result<CompiledPolicy, Vec<PolicyError>> {
        // Before they are read: what changes meanwhile is a change.
        #[cfg(feature = "watch")]
        self.note_read();
        let files = PolicyFiles::read(&self.directories, self.own_uid)?;
        self.compile(&files)
    }

    fn compile(&self, files: &PolicyFiles) -> Result<CompiledPolicy, Vec<PolicyError>> {
        let users = PasswdFiles::system()
            .map_err(|error| vec![PolicyError::unplaced("/etc/passwd", error.to_string())])?;
        let revision = self.state.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let mut policy = Policy::new(self.own_uid, &users).instance(self.instance).revision(revision);
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
        files.compile(policy)
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

    fn read_from(&self) -> std::sync::MutexGuard<'_, Option<Footprint>> {
        // A panic while it is held leaves it whole.
        self.state.read_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
