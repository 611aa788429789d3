//! Where the policy comes from: the same files, read again at each reload.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::authority::load::{PasswdFiles, PolicyDirectory, load};
use crate::authority::{
    CompiledPolicy, DevOptions, Instance, PluginManifest, Policy, PolicyError, ScopeVariable,
};

/// What a policy is loaded from.
#[derive(Debug)]
pub(crate) struct PolicySource {
    pub(crate) own_uid: u32,
    pub(crate) instance: Instance,
    pub(crate) manifests: Vec<PluginManifest>,
    pub(crate) directories: Vec<PolicyDirectory>,
    pub(crate) variables: Vec<(ScopeVariable, PathBuf)>,
    pub(crate) dev: Option<DevOptions>,
    pub(crate) revision: AtomicU64,
}

impl PolicySource {
    /// Reads everything; blocks on the disk.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn load(&self) -> Result<CompiledPolicy, Vec<PolicyError>> {
        let users = PasswdFiles::system()
            .map_err(|error| vec![PolicyError::unplaced("/etc/passwd", error.to_string())])?;
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let mut policy = Policy::new(self.own_uid, &users).instance(self.instance).revision(revision);
        for manifest in &self.manifests {
            policy = policy.manifest(manifest.clone());
        }
        for (variable, value) in &self.variables {
            policy = policy.variable(*variable, value.clone());
        }
        if let Some(dev) = &self.dev {
            policy = policy.dev(dev.clone());
        }
        load(policy, &self.directories)
    }
}
