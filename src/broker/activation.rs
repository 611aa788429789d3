//! Providers that are started when they are called: whether one is missing, and whether one is of use still.

use super::Broker;
use crate::ipc::PeerId;

/// What is provided under a plugin's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Provision {
    /// Calls that its providers were given so far.
    pub(crate) made: u64,
    /// Calls and channels of theirs that are open.
    pub(crate) open: usize,
}

impl Broker {
    /// The plugin of a command that `peer` may call and that nobody provides now.
    pub(crate) fn absent_plugin(&mut self, peer: PeerId, name: &str) -> Option<String> {
        let plugin = self.policy.registry().command(name)?.plugin()?.to_owned();
        if self.providers.is_provided(&plugin) || self.commands.find(name).is_some() {
            return None;
        }
        let state = self.refresh(peer)?;
        matches!(state.grants.authorize(name), crate::authority::Verdict::Allow(_)).then_some(plugin)
    }

    /// What is provided under a plugin's name, in all versions; `None` if nothing is.
    pub(crate) fn provision(&self, plugin: &str) -> Option<Provision> {
        let mut sum = None;
        for peer in self.providers.peers_of(plugin) {
            let Some(state) = self.peers.get(&peer) else { continue };
            let sum = sum.get_or_insert(Provision { made: 0, open: 0 });
            sum.made += state.serving.made;
            sum.open += state.serving.open + state.relays.len();
        }
        sum
    }

    /// Lets nobody provide a plugin any more; open calls go on.
    pub(crate) fn retire(&mut self, plugin: &str) {
        for major in self.providers.majors_of(plugin) {
            self.remove_registration(plugin, major);
        }
    }
}
