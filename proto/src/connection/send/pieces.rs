//! The bytes of a message on their way out.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::body::{Body, Message};

/// The inline bytes of a message, in order.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    pub(super) fn of(message: Message) -> Self {
        let len = message.len();
        let body = match message.body {
            Body::None => None,
            Body::Raw(bytes) | Body::Json(bytes) => Some(bytes),
        };
        let all = body.into_iter().chain(message.attachments);
        Pieces { pieces: all.filter(|bytes| !bytes.is_empty()).collect(), len }
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts `bytes` before everything else.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.pieces.push_front(bytes);
        }
    }

    /// The next `max` bytes at most.
    pub(super) fn take(&mut self, max: usize) -> VecDeque<Bytes> {
        if self.len <= max {
            self.len = 0;
            return std::mem::take(&mut self.pieces);
        }
        let mut taken = VecDeque::new();
        let mut room = max;
        while room > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            if piece.len() <= room {
                room -= piece.len();
                taken.extend(self.pieces.pop_front());
            } else {
                taken.push_back(piece.split_to(room));
                room = 0;
            }
        }
        self.len -= max - room;
        taken
    }
}
