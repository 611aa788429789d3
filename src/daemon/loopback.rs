//! Peers without a socket, from whatever thread.

use std::rc::Rc;
use std::sync::Arc;

use invoked_proto::connection::Request;
use invoked_proto::metadata::Hello;
use invoked_proto::registry::ErrorCode;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::DaemonHandle;
use super::authority::RETRY;
use crate::authority::PeerFacts;
use crate::ipc::{Fault, PeerId};
use crate::session::{Loopback, LoopbackAsk, LoopbackCall};

/// What waits for a peer, at most.
const ASKS_MAX: usize = 256;

/// A connected peer without a socket; it leaves when this is dropped.
#[derive(Debug, Clone)]
pub(crate) struct LoopbackPeer {
    pub(crate) id: PeerId,
    asks: mpsc::Sender<LoopbackAsk>,
}

impl DaemonHandle {
    /// Connects a peer of whom the kernel would say this. Blocks.
    pub(crate) fn connect_loopback(&self, facts: PeerFacts, hello: Hello) -> Result<LoopbackPeer, Fault> {
        // Compiled here, as admission does it off the loop.
        let prepared = self.in_force().policy().peer(&facts);
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (welcomed, answer) = std::sync::mpsc::sync_channel(1);
        let stopped = || Fault::refusal(ErrorCode::Unavailable, "the daemon has stopped");
        let connect = move |hub: &Rc<_>| {
            if let Some(loopback) = Loopback::connect(hub, facts, &hello, asked, welcomed) {
                tokio::task::spawn_local(loopback.run());
            }
        };
        self.ask_blocking(connect).ok_or_else(stopped)?;
        drop(prepared);
        let id = answer.recv().map_err(|_| stopped())??;
        Ok(LoopbackPeer { id, asks })
    }
}

impl LoopbackPeer {
    /// Calls; what becomes of it is told in `call`. Blocks while very much waits for the peer.
    pub(crate) fn call(&self, request: Request, call: &Arc<LoopbackCall>) -> Result<(), Fault> {
        self.ask(LoopbackAsk::Call(Box::new(request), Arc::clone(call)))
            .ok_or_else(|| Fault::refusal(ErrorCode::Unavailable, "the connection has ended"))
    }

    /// Asks for something that matters only while the connection is there.
    pub(crate) fn ask(&self, mut ask: LoopbackAsk) -> Option<()> {
        loop {
            match self.asks.try_send(ask) {
                Ok(()) => return Some(()),
                Err(TrySendError::Closed(_)) => return None,
                Err(TrySendError::Full(back)) => ask = back,
            }
            std::thread::sleep(RETRY);
        }
    }
}
