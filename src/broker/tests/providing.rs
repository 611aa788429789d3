//! What tests of providers share: a policy with callers and providers, and what providers do.

use std::sync::Arc;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::metadata::Failure;
use invoked_proto::registry::{Delivery, ErrorCode};
use serde_json::json;

use super::bus::{Bus, written_with};
use super::client::Called;
use crate::authority::{PolicySnapshot, ProvidedInterface};
use crate::broker::Registering;
use crate::ipc::Fault;

/// The uid that may call, and what those are that may provide `text`.
pub(super) const CALLER: u32 = 1000;
pub(super) const PROVIDER: u32 = 2000;
pub(super) const OTHER: u32 = 2001;

/// 1000 may call what 2000 and 2001 may provide; 2000 may call something itself.
const POLICY: &str = r#"
[[capabilities]]
identifier = "calls"
peers = ["uid:1000"]
permissions = [
  "t:allow-slow", "text:allow-upper", "text:allow-relay",
  { identifier = "text:allow-read", allow = ["/a/*"], deny = ["/a/x"] },
]
[[capabilities]]
identifier = "serves"
peers = ["uid:2000"]
provide = ["text"]
permissions = ["t:allow-slow", "t:allow-quick", "text:allow-upper"]
[[capabilities]]
identifier = "also-serves"
peers = ["uid:2001"]
provide = ["text"]
"#;

/// The interface of `text` in a version, with these commands besides.
pub(super) fn interface(version: &str, more: &[&str]) -> Arc<ProvidedInterface> {
    let mut methods = vec![
        json!({ "name": "text.upper", "summary": "Makes it loud." }),
        json!({ "name": "text.relay" }),
        json!({ "name": "text.read", "x-invoked": { "scope": true } }),
    ];
    methods.extend(more.iter().map(|name| json!({ "name": name })));
    let text = json!({
        "openrpc": "1.3.2",
        "info": { "title": "text", "version": version },
        "methods": methods,
        "x-invoked": { "plugin": "text", "scope": "path" },
    });
    Arc::new(ProvidedInterface::parse(&text.to_string()).unwrap())
}

/// The policy, with the first version of `text` known.
pub(super) fn policy() -> Arc<PolicySnapshot> {
    written_with(POLICY, &[interface("1.0.0", &[])])
}

/// The same with something else in the place of `part`.
pub(super) fn policy_with(part: &str, other: &str) -> Arc<PolicySnapshot> {
    assert!(POLICY.contains(part), "{part}");
    written_with(&POLICY.replacen(part, other, 1), &[interface("1.0.0", &[])])
}

/// A bus with a caller and a provider of `text`: these two.
pub(super) fn with_provider() -> (Bus, usize, usize) {
    let mut bus = Bus::new();
    bus.reload(policy());
    let caller = bus.connect(CALLER).unwrap();
    let provider = bus.connect(PROVIDER).unwrap();
    bus.register(provider, &interface("1.0.0", &[])).unwrap();
    (bus, caller, provider)
}

pub(super) fn raw(len: usize) -> Message {
    Body::Raw(Bytes::from(vec![7; len])).into()
}

impl Bus {
    /// A peer registers an interface that the policy knows.
    pub(super) fn register(&mut self, peer: usize, interface: &Arc<ProvidedInterface>) -> Result<(), Fault> {
        self.register_as(peer, interface, false)
    }

    pub(super) fn register_as(
        &mut self,
        peer: usize,
        interface: &Arc<ProvidedInterface>,
        take_over: bool,
    ) -> Result<(), Fault> {
        let asked = Registering { peer: self.peer_id(peer), interface: Arc::clone(interface), take_over };
        let registered = self.broker.register(self.now, &asked);
        self.settle();
        registered
    }

    /// The oldest call at a provider.
    pub(super) fn take_called(&mut self, provider: usize) -> Called {
        let called = self.peers[provider].called.pop_front().expect("a call came");
        assert!(called.is_whole, "its message is whole");
        called
    }

    /// A provider answers.
    pub(super) fn provider_replies(&mut self, provider: usize, stream: u64, message: Message) {
        self.peers[provider].client.reply(stream, Vec::new(), message).unwrap();
        self.settle();
    }

    /// A provider answers with an error.
    pub(super) fn provider_fails(&mut self, provider: usize, stream: u64, code: ErrorCode, text: &str) {
        let failure = Failure::framework(code, text, Delivery::Completed);
        self.peers[provider].client.fail_call(stream, code, failure, Message::default()).unwrap();
        self.settle();
    }
}
