//! The beginnings of bodies, for a monitor that asks for them.
//!
//! They are copied while such a monitor watches and for no call that is marked SENSITIVE. The memory is charged to who
//! watches, when the call begins and for as long as its record lives; where that has no room the bodies are left out.

use std::rc::Rc;

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::registry::flags;

use super::local::is_local;
use super::quota::{Account, Charge, Resource};

/// Bytes of a JSON body that are shown.
const JSON_SHOWN: usize = 1024;

/// Bytes of a raw body that are shown.
const RAW_SHOWN: usize = 64;

/// The bodies of a call, as far as they are shown.
#[derive(Debug, Clone)]
pub(crate) enum Bodies {
    /// Nobody asked for them when the call began.
    Unasked,
    /// They are shown to nobody: the call is SENSITIVE, or a handler's, which may hand on what is.
    Sensitive,
    /// There was no room for them in the account of who watches.
    LeftOut,
    /// Their beginnings.
    Kept(Box<Kept>),
}

/// The beginnings of a call's bodies; `None` where none came to be.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) request: Option<Excerpt>,
    pub(crate) reply: Option<Excerpt>,
    _charge: Rc<Charge>,
}

/// The beginning of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// No more of it than is shown.
    pub(crate) body: Body,
    /// How long it is in truth.
    pub(crate) len: usize,
    /// How many attachments stand behind it.
    pub(crate) attachments: usize,
}

impl Bodies {
    /// What is kept of a call with these flags that begins now. `watcher` is charged.
    pub(super) fn begin(watcher: Option<&Rc<Account>>, stream: u64, call_flags: u16) -> Self {
        let Some(watcher) = watcher else { return Bodies::Unasked };
        if call_flags & flags::SENSITIVE != 0 || is_local(stream) {
            return Bodies::Sensitive;
        }
        match watcher.charge(Resource::MessageBytes, 2 * JSON_SHOWN as u64) {
            Some(charge) => {
                Bodies::Kept(Box::new(Kept { request: None, reply: None, _charge: Rc::new(charge) }))
            }
            None => Bodies::LeftOut,
        }
    }

    pub(super) fn keep_request(&mut self, message: &Message) {
        if let Bodies::Kept(kept) = self {
            kept.request = Some(Excerpt::of(message));
        }
    }

    pub(super) fn keep_reply(&mut self, message: &Message) {
        if let Bodies::Kept(kept) = self {
            kept.reply = Some(Excerpt::of(message));
        }
    }
}

impl Excerpt {
    /// A copy, so that no buffer is held for it.
    fn of(message: &Message) -> Self {
        let begin = |bytes: &Bytes, most: usize| Bytes::copy_from_slice(&bytes[..bytes.len().min(most)]);
        let body = match &message.body {
            Body::None => Body::None,
            Body::Json(json) => Body::Json(begin(json, JSON_SHOWN)),
            Body::Raw(bytes) => Body::Raw(begin(bytes, RAW_SHOWN)),
        };
        Excerpt { body, len: message.body.bytes().len(), attachments: message.attachments.len() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use invoked_proto::body::{Body, Message};

    use super::{Excerpt, JSON_SHOWN, RAW_SHOWN};

    #[test]
    fn no_more_is_kept_than_is_shown() {
        for (most, body) in
            [(JSON_SHOWN, Body::Json as fn(Bytes) -> Body), (RAW_SHOWN, Body::Raw as fn(Bytes) -> Body)]
        {
            for len in [0, 1, most, most + 1, 100_000] {
                let mut message = Message::from(body(vec![7; len].into()));
                message.attachments.push(Bytes::new());
                let kept = body(vec![7; len.min(most)].into());
                assert_eq!(Excerpt::of(&message), Excerpt { body: kept, len, attachments: 1 });
            }
        }
        let none = Excerpt::of(&Message::default());
        assert_eq!(none, Excerpt { body: Body::None, len: 0, attachments: 0 });
    }
}
