//! A caller under test.

use std::sync::Arc;

use invoked_proto::metadata::Hello;
use serde::de::DeserializeOwned;

use super::request::InvokeRequest;
use crate::authority::PeerFacts;
use crate::daemon::{DaemonHandle, LoopbackPeer};
use crate::ipc::{Fault, InvokeResponseBody, Outcome, PeerId};
use crate::session::{LoopbackAsk, LoopbackCall};

/// A connected process that calls. It leaves when this is dropped, and when all calls of it are.
#[derive(Debug)]
pub struct MockPeer {
    peer: LoopbackPeer,
}

impl MockPeer {
    pub(super) fn connect(
        daemon: &DaemonHandle,
        facts: PeerFacts,
        narrow: Option<&[&str]>,
    ) -> Result<Self, Fault> {
        let narrow = narrow.map(|names| names.iter().map(|&name| name.into()).collect());
        let hello = Hello { name: "test".into(), narrow, ..Hello::default() };
        Ok(MockPeer { peer: daemon.connect_loopback(facts, hello)? })
    }

    /// Its number, as commands see it.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.peer.id
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// The command's own, or the framework's.
    pub fn invoke(&self, request: InvokeRequest) -> Outcome {
        self.call(request).wait()
    }

    /// Calls, without waiting. Dropping the result cancels the call.
    #[must_use = "dropping a call cancels it"]
    pub fn call(&self, request: InvokeRequest) -> MockCall {
        let channels = request.channels();
        let call = Arc::new(LoopbackCall::new(channels.iter().map(|(_, index)| *index)));
        if let Err(fault) = self.peer.call(request.into_request(), &call) {
            call.lose(&fault);
        }
        MockCall { peer: self.peer.clone(), call, channels }
    }
}

/// A call that was made.
#[derive(Debug)]
pub struct MockCall {
    peer: LoopbackPeer,
    call: Arc<LoopbackCall>,
    channels: Vec<(String, u32)>,
}

impl MockCall {
    /// Waits for the answer. Channels may go on after it.
    ///
    /// # Errors
    /// The command's own, or the framework's.
    pub fn wait(&self) -> Outcome {
        self.call.wait()
    }

    /// Cancels; the answer is `cancelled`, unless another one was faster.
    pub fn cancel(&self) {
        self.peer.ask(LoopbackAsk::Cancel(Arc::clone(&self.call)));
    }

    /// Waits for the next item of the channel that is the argument `key`; `None` after the last one. Its credit goes back to the
    /// command.
    ///
    /// # Errors
    /// How the channel ended, if not well.
    ///
    /// # Panics
    /// If the request has no such channel.
    #[track_caller]
    pub fn next_item(&self, key: &str) -> Result<Option<InvokeResponseBody>, Fault> {
        let channel = self.channel(key);
        let Some((message, credit)) = self.call.next_item(channel)? else { return Ok(None) };
        self.peer.ask(LoopbackAsk::Taken(Arc::clone(&self.call), channel, credit));
        Ok(Some(message.body.into()))
    }

    /// Waits for all items of the channel that is the argument `key`, read from JSON, until it ends well.
    ///
    /// # Panics
    /// If it doesn't, an item is no `T`, or the request has no such channel.
    #[track_caller]
    pub fn items<T: DeserializeOwned>(&self, key: &str) -> Vec<T> {
        let mut items = Vec::new();
        loop {
            match self.next_item(key) {
                Ok(Some(item)) => items.push(item.deserialize().expect("an item is what was expected")),
                Ok(None) => return items,
                Err(fault) => panic!("channel {key} ends with {fault}"),
            }
        }
    }

    /// Wants no more items of the channel that is the argument `key`.
    ///
    /// # Panics
    /// If the request has no such channel.
    #[track_caller]
    pub fn stop(&self, key: &str) {
        let channel = self.channel(key);
        self.peer.ask(LoopbackAsk::Stop(Arc::clone(&self.call), channel));
    }

    #[track_caller]
    fn channel(&self, key: &str) -> u32 {
        let found = self.channels.iter().find(|(name, _)| name == key);
        found.unwrap_or_else(|| panic!("the request opens no channel {key}")).1
    }
}

impl Drop for MockCall {
    fn drop(&mut self) {
        self.cancel();
    }
}
