//! Calls that a provider makes on its connection to the daemon: to register, and for its handlers.

use std::collections::HashMap;

use bytes::Bytes;
use invoked_proto::body::Assembly;
use invoked_proto::connection::More;
use invoked_proto::error::PeerError;
use invoked_proto::metadata::{Failure, Part, Reply};
use invoked_proto::registry::{Delivery, ErrorCode};

use crate::ipc::{Fault, Outcome, OwnedInvokeResponder};
use crate::session::Hub;
use crate::session::local::{failed, replied};

/// The calls that are open, by their streams.
#[derive(Default)]
pub(super) struct Outgoing(HashMap<u64, Open>);

struct Open {
    waiter: Box<OwnedInvokeResponder>,
    /// What has come of the answer.
    answer: Option<(Answer, Assembly)>,
}

#[derive(Debug)]
enum Answer {
    Result(Reply),
    Error(ErrorCode, Failure),
}

impl Outgoing {
    pub(super) fn begin(&mut self, stream: u64, waiter: Box<OwnedInvokeResponder>) {
        self.0.insert(stream, Open { waiter, answer: None });
    }

    pub(super) fn forget(&mut self, stream: u64) {
        self.0.remove(&stream);
    }

    pub(super) fn handle_reply(
        &mut self,
        stream: u64,
        mut reply: Reply,
        payload: Bytes,
        more: More,
    ) -> Result<(), PeerError> {
        let parts = std::mem::take(&mut reply.parts);
        self.begin_answer(stream, Answer::Result(reply), parts, payload, more)
    }

    pub(super) fn handle_failure(
        &mut self,
        stream: u64,
        (code, mut failure): (ErrorCode, Failure),
        payload: Bytes,
        more: More,
    ) -> Result<(), PeerError> {
        let parts = std::mem::take(&mut failure.parts);
        self.begin_answer(stream, Answer::Error(code, failure), parts, payload, more)
    }

    pub(super) fn handle_continuation(
        &mut self,
        stream: u64,
        fragment: &[u8],
        more: More,
    ) -> Result<(), PeerError> {
        if let Some((_, assembly)) = self.0.get_mut(&stream).and_then(|open| open.answer.as_mut()) {
            assembly.push(fragment)?;
        }
        self.settle(stream, more)
    }

    fn begin_answer(
        &mut self,
        stream: u64,
        answer: Answer,
        parts: Vec<Part>,
        payload: Bytes,
        more: More,
    ) -> Result<(), PeerError> {
        if let Some(open) = self.0.get_mut(&stream) {
            open.answer = Some((answer, Assembly::begin(parts, payload)?));
        }
        self.settle(stream, more)
    }

    fn settle(&mut self, stream: u64, more: More) -> Result<(), PeerError> {
        if more == More::Follows {
            return Ok(());
        }
        let Some(Open { waiter, answer: Some((answer, assembly)) }) = self.0.remove(&stream) else {
            return Ok(());
        };
        let message = assembly.finish()?.detach(Hub::read_buffer_size());
        waiter(match answer {
            Answer::Result(reply) => replied(reply.headers, message),
            Answer::Error(code, failure) => failed(code, &failure, message),
        });
        Ok(())
    }

    /// No answer comes any more; `delivered` says of which calls a byte may have reached the daemon.
    pub(super) fn lose(&mut self, delivered: &[(u64, Delivery)]) {
        for (stream, Open { waiter, .. }) in self.0.drain() {
            let known = delivered.iter().find(|(lost, _)| *lost == stream).map(|(_, delivery)| *delivery);
            let text = "the connection to the daemon was lost";
            let mut fault = Fault::midway(ErrorCode::Unavailable, text);
            fault.delivery = known.unwrap_or(Delivery::Delivered);
            let outcome: Outcome = Err(fault.into());
            waiter(outcome);
        }
    }
}
