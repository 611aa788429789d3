//! Calls that wait for their provider to be started.
//!
//! Owns the gates: one for each plugin whose provider is started when it is called. Whoever calls asks at the gate and waits
//! until it opens; the daemon's supervisor starts the provider, and opens it whether that went well or not.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::Hub;
use crate::ipc::PeerId;

/// The gates, by plugin.
#[derive(Debug, Default)]
pub(crate) struct Activation {
    gates: RefCell<HashMap<String, Rc<Gate>>>,
    /// Peers have begun, or ceased, to provide something.
    provided: watch::Sender<()>,
}

/// One plugin's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    asked: Notify,
    opened: watch::Sender<()>,
    /// Until then nobody needs to ask: the provider has failed too often.
    shut_until: Cell<Option<Instant>>,
}

impl Activation {
    /// Makes the gate of a plugin.
    pub(crate) fn add(&self, plugin: String) -> Rc<Gate> {
        let gate = Rc::new(Gate {
            asked: Notify::new(),
            opened: watch::Sender::new(()),
            shut_until: Cell::new(None),
        });
        self.gates.borrow_mut().insert(plugin, Rc::clone(&gate));
        gate
    }

    /// Tells when peers begin to provide something.
    pub(crate) fn watch_provided(&self) -> watch::Receiver<()> {
        self.provided.subscribe()
    }
}

impl Gate {
    /// Waits until somebody asks.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Asks, as a caller does.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Lets go on whoever waits.
    pub(crate) fn open(&self) {
        self.opened.send_replace(());
    }

    /// Whether somebody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        self.opened.receiver_count() > 0
    }

    /// Lets nobody ask before then.
    pub(crate) fn shut_until(&self, at: Option<Instant>) {
        self.shut_until.set(at);
    }
}

impl Hub {
    /// Plugins whose providers are started when they are called.
    pub(crate) fn activation(&self) -> &Activation {
        &self.activation
    }

    /// Notes that a peer provides something new.
    pub(crate) fn note_provided(&self) {
        self.activation.provided.send_replace(());
    }

    /// What a call of `peer` has to wait for: that its provider, which is not there, is started. `None` if there is nothing
    /// to be waited for.
    pub(super) fn awaited(&self, now: Instant, peer: PeerId, command: &str) -> Option<watch::Receiver<()>> {
        if self.activation.gates.borrow().is_empty() || self.broker.borrow().is_draining() {
            return None;
        }
        let plugin = self.broker.borrow_mut().absent_plugin(peer, command)?;
        let gate = self.activation.gates.borrow().get(&plugin).map(Rc::clone)?;
        if gate.shut_until.get().is_some_and(|until| now < until) {
            return None;
        }
        let opened = gate.opened.subscribe();
        gate.ask();
        Some(opened)
    }
}
