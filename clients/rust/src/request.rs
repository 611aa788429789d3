//! A call before it is sent.
//!
//! One builder for both clients; it gathers, and notes the first mistake, so that a chain of calls needs one `?`, at its
//! end. It sends nothing itself.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::body::{AttachmentRef, Body, Message};
use invoked_proto::connection::Request;
use invoked_proto::metadata::{ChannelDeclaration, Extensions, HeaderField};
use invoked_proto::name::canonical;
use invoked_proto::registry::{Delivery, Direction, Overflow, flags, limits};
use serde::Serialize;

use crate::channel::{Declared, Slot};
use crate::error::Error;
use crate::file::FileBody;

/// `deadline_us` of a call that has none (SPEC.md, "Cancel and deadlines").
const NO_DEADLINE_US: u64 = u64::MAX;

/// The least window that SPEC.md asks for.
const LATEST_WINDOW: u64 = limits::FRAGMENT as u64;

/// Every part but the body.
const ATTACHMENTS_MAX: usize = limits::MAX_PARTS - 1;

/// What calls are made on: a client of this crate.
pub trait Caller: sealed::Sealed {
    /// One connection of it.
    #[doc(hidden)]
    type Link;
}

pub(crate) mod sealed {
    /// Keeps [`Caller`](super::Caller) to this crate.
    pub trait Sealed {}
}

/// A call of a command, being built; `send` sends it.
///
/// `C` is the client: [`Client`](crate::Client) or [`blocking::Client`](crate::blocking::Client). Mistakes made while
/// building (a value that can't be written, two bodies) are told by `send`, and nothing is sent then.
#[derive(Debug)]
#[must_use = "a call does nothing until it is sent"]
pub struct Call<'c, C: Caller> {
    pub(crate) client: &'c C,
    draft: Draft,
    channels: Vec<(ChannelDeclaration, Declared<C::Link>)>,
    overflows: Vec<(u32, Overflow)>,
}

#[derive(Debug)]
struct Draft {
    command: Text,
    headers: Vec<HeaderField>,
    timeout: Choice,
    flags: u16,
    content: Content,
    attachments: Vec<Bytes>,
    file: Option<FileBody>,
    mistake: Option<Error>,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Default,
    After(Duration),
    Never,
}

#[derive(Debug)]
enum Content {
    Nothing,
    /// A JSON object that has been begun and not closed.
    Object(Vec<u8>),
    Whole(Body),
}

/// A call that is ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    request: Request,
    /// In place of the body, which is raw and empty.
    file: Option<FileBody>,
    /// When the caller gives up; `None` is never.
    pub(crate) deadline: Option<Instant>,
}

/// The channels of a call that is ready to be sent.
pub(crate) type Channels<L> = Vec<Declared<L>>;

/// How a channel stands in JSON arguments.
pub(crate) fn placeholder(index: u32) -> String {
    format!("__CHANNEL__:{index}")
}

impl<'c, C: Caller> Call<'c, C> {
    pub(crate) fn new(client: &'c C, command: &str) -> Self {
        let draft = Draft {
            command: Text::from(&*canonical(command)),
            headers: Vec::new(),
            timeout: Choice::Default,
            flags: 0,
            content: Content::Nothing,
            attachments: Vec::new(),
            file: None,
            mistake: None,
        };
        Call { client, draft, channels: Vec::new(), overflows: Vec::new() }
    }

    /// Declares a channel: on which the command sends, with so many bytes of credit, or reads.
    pub(crate) fn declare(&mut self, direction: Direction, credit: u64) -> (u32, Arc<Slot<C::Link>>) {
        // More than a call may have are refused when it is sent.
        let index = u32::try_from(self.channels.len() + 1).unwrap_or(u32::MAX);
        let (declared, slot) = Declared::new(index);
        self.channels.push((ChannelDeclaration { index, direction, credit }, declared));
        (index, slot)
    }

    /// Declares a channel on which the command sends and that does so where too little is taken.
    pub(crate) fn declare_lossy(&mut self, overflow: Overflow, credit: u64) -> (u32, Arc<Slot<C::Link>>) {
        // What is on its way is old by the time it is read, so where only the latest is wanted that is little.
        let credit = if overflow == Overflow::Latest { credit.min(LATEST_WINDOW) } else { credit };
        let (index, slot) = self.declare(Direction::Down, credit);
        if overflow != Overflow::Block {
            self.overflows.push((index, overflow));
        }
        (index, slot)
    }

    /// Adds one named argument to the JSON object that is the body. Each name is given once.
    pub fn arg(mut self, name: &str, value: impl Serialize) -> Self {
        let draft = &mut self.draft;
        if let Content::Nothing = draft.content {
            draft.content = Content::Object(Vec::with_capacity(64));
        }
        let Content::Object(object) = &mut draft.content else {
            draft.note(second_body());
            return self;
        };
        object.push(if object.is_empty() { b'{' } else { b',' });
        let written = serde_json::to_writer(&mut *object, name).and_then(|()| {
            object.push(b':');
            serde_json::to_writer(&mut *object, &value)
        });
        if let Err(error) = written {
            draft.note(Error::unwritable(&format!("the argument `{name}`"), error));
        }
        self
    }

    /// Sets all arguments at once: `args` is written as the JSON body.
    pub fn args(mut self, args: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(args) {
            Ok(json) => self.draft.whole(Body::Json(json.into())),
            Err(error) => self.draft.note(Error::unwritable("the arguments", error)),
        }
        self
    }

    /// Sets the body to JSON that is written already. It is sent as it is.
    pub fn json(mut self, json: impl Into<Bytes>) -> Self {
        self.draft.whole(Body::Json(json.into()));
        self
    }

    /// Sets the body to raw bytes. They are not copied.
    pub fn raw(mut self, bytes: impl Into<Bytes>) -> Self {
        self.draft.whole(Body::Raw(bytes.into()));
        self
    }

    /// Sets the body to what is left of a regular file, from where it stands to its end, as raw bytes. A large one is given to the
    /// daemon open, if it takes files from this client, and read by it; else it is read here, when the call is sent. It must not
    /// change meanwhile: what became shorter ends the call with `attachment_refused`. What is no regular file is read here.
    ///
    /// ```no_run
    /// # let client = invoked_client::blocking::Client::connect(Default::default())?;
    /// client.call("photos.import").file(&std::fs::File::open("/srv/in.jpg")?).send()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn file(mut self, file: &File) -> Self {
        match FileBody::of(file) {
            Ok(Ok(body)) => {
                self.draft.whole(Body::Raw(Bytes::new()));
                self.draft.file = Some(body);
            }
            Ok(Err(bytes)) => self.draft.whole(Body::Raw(bytes)),
            Err(error) => self.draft.note(Error::bad_file(&error)),
        }
        self
    }

    /// Adds a raw attachment; a call has 16 at most. The bytes are not copied.
    pub fn attach(mut self, bytes: impl Into<Bytes>) -> Self {
        self.draft.attachments.push(bytes.into());
        self
    }

    /// Adds a raw attachment and a named argument that says which one it is, as a command with raw arguments takes it. The
    /// bytes are not copied.
    ///
    /// ```no_run
    /// # let client = invoked_client::blocking::Client::connect(Default::default())?;
    /// client.call("fs.write_file").arg("path", "/srv/in.bin").attach_as("contents", vec![0xff]).send()?;
    /// # Ok::<(), invoked_client::Error>(())
    /// ```
    pub fn attach_as(self, name: &str, bytes: impl Into<Bytes>) -> Self {
        let reference = AttachmentRef(self.draft.attachments.len());
        self.arg(name, reference.to_string()).attach(bytes)
    }

    /// Adds a header. Keys are lower-case letters, digits, `-`, `_` and `.`.
    pub fn header(mut self, key: &str, value: &str) -> Self {
        self.draft.headers.push((Text::from(key), Text::from(value)));
        self
    }

    /// How long to wait for the answer, from `send` on. The daemon is told, and the client holds to it as well.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.draft.timeout = Choice::After(timeout);
        self
    }

    /// Waits without end. The daemon allows it for few commands only.
    pub fn no_timeout(mut self) -> Self {
        self.draft.timeout = Choice::Never;
        self
    }

    /// Says that running the command twice is running it once, so that it may be sent again after a loss.
    pub fn idempotent(mut self) -> Self {
        self.draft.flags |= flags::IDEMPOTENT;
        self
    }

    /// Says that the bodies of this call are for no monitor and no log.
    pub fn sensitive(mut self) -> Self {
        self.draft.flags |= flags::SENSITIVE;
        self
    }

    /// Ends the building. `default` stands in where no timeout was chosen; `None` is none.
    pub(crate) fn prepare(self, default: Option<Duration>) -> Result<(Prepared, Channels<C::Link>), Error> {
        let Call { draft, channels, overflows, .. } = self;
        let (declarations, channels) = channels.into_iter().unzip();
        if let Some(mistake) = draft.mistake {
            return Err(mistake);
        }
        let attachments = draft.attachments.len();
        if attachments > ATTACHMENTS_MAX {
            let text =
                format!("a call has {ATTACHMENTS_MAX} attachments at most, and this one {attachments}");
            return Err(Error::argument(text));
        }
        let timeout = match draft.timeout {
            Choice::Default => default,
            Choice::After(timeout) => Some(timeout),
            Choice::Never => None,
        };
        let body = match draft.content {
            Content::Nothing => Body::None,
            Content::Whole(body) => body,
            Content::Object(mut object) => {
                object.push(b'}');
                Body::Json(object.into())
            }
        };
        let mut extensions = Extensions::none();
        extensions.set_overflows(overflows);
        let request = Request {
            command: draft.command,
            headers: draft.headers,
            deadline_us: None,
            flags: draft.flags,
            message: Message { body, attachments: draft.attachments },
            channels: declarations,
            extensions,
        };
        // A moment past what the clock can express is as good as never.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok((Prepared { request, file: draft.file, deadline }, channels))
    }
}

impl Prepared {
    fn is_idempotent(&self) -> bool {
        self.request.flags & flags::IDEMPOTENT != 0
    }

    /// Whether it opens channels: what has come on them can't be taken back, so it is not sent again.
    pub(crate) fn has_channels(&self) -> bool {
        !self.request.channels.is_empty()
    }

    /// Whether this call may be sent again after `error` ended it.
    pub(crate) fn may_follow(&self, error: &Error) -> bool {
        error.is_loss() && (self.is_idempotent() || error.delivery() == Delivery::NotDelivered)
    }

    /// Whether its body is an open file.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file after all, where the daemon takes none.
    ///
    /// # Errors
    /// If it can't be read, or is larger than any message.
    pub(crate) fn read_file(&mut self) -> Result<(), Error> {
        if let Some(file) = self.file.take() {
            self.request.message.body = Body::Raw(file.read()?);
        }
        Ok(())
    }

    /// What it sends.
    pub(crate) fn message_mut(&mut self) -> &mut Message {
        &mut self.request.message
    }

    /// Whether the deadline has passed at `now`.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// What goes on the wire at `now`: the deadline there is the time that is left.
    pub(crate) fn into_request(mut self, now: Instant) -> (Request, Option<FileBody>) {
        let left = self.deadline.map_or(NO_DEADLINE_US, |deadline| {
            let left = deadline.saturating_duration_since(now).as_micros();
            u64::try_from(left).unwrap_or(NO_DEADLINE_US).min(NO_DEADLINE_US - 1)
        });
        self.request.deadline_us = Some(left);
        (self.request, self.file)
    }
}

impl Draft {
    fn whole(&mut self, body: Body) {
        match self.content {
            Content::Nothing => self.content = Content::Whole(body),
            Content::Object(_) | Content::Whole(_) => self.note(second_body()),
        }
    }

    /// Keeps the first mistake: later ones often follow from it.
    fn note(&mut self, mistake: Error) {
        self.mistake.get_or_insert(mistake);
    }
}

fn second_body() -> Error {
    Error::argument("a call has one body: either arguments, or json, or raw bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use invoked_proto::body::Body;
    use invoked_proto::registry::ErrorCode;

    use super::Call;

    impl super::sealed::Sealed for () {}

    impl super::Caller for () {
        type Link = ();
    }

    fn call() -> Call<'static, ()> {
        Call::new(&(), "x.y")
    }

    fn body(call: Call<'_, ()>) -> Body {
        call.prepare(None).expect("well built").0.request.message.body
    }

    #[test]
    fn arguments_become_one_object() {
        let built = call().arg("path", "/tmp/\"x\"").arg("n", 7).arg("list", [1, 2]);
        assert_eq!(body(built).bytes(), br#"{"path":"/tmp/\"x\"","n":7,"list":[1,2]}"#);
        assert_eq!(body(call().args(&("a", 1))).bytes(), br#"["a",1]"#);
        assert_eq!(body(call()), Body::None);
        assert_eq!(body(call().raw("")), Body::Raw("".into()));
    }

    #[test]
    fn mistakes_are_told_when_it_is_sent() {
        let unwritable = HashMap::from([((1, 2), 3)]);
        for wrong in [
            call().arg("a", 1).raw("x"),
            call().json("{}").arg("a", 1),
            call().args(&1).args(&2),
            call().arg("map", &unwritable),
            call().args(&unwritable),
        ] {
            let error = wrong.prepare(None).expect_err("a mistake");
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
        }
    }

    #[test]
    fn a_name_as_tauris_front_end_has_it_is_the_wires() {
        let command = |name| Call::new(&(), name).prepare(None).expect("well built").0.request.command;
        assert_eq!(&*command("plugin:fs|read_file"), "fs.read_file");
        assert_eq!(&*command("fs.read_file"), "fs.read_file");
    }

    #[test]
    fn attachments_are_named_by_their_arguments_and_counted() {
        let built = call().arg("n", 1).attach("first").attach_as("picture", "second");
        let message = built.prepare(None).expect("well built").0.request.message;
        assert_eq!(message.body.bytes(), br#"{"n":1,"picture":"__ATTACHMENT__:1"}"#);
        assert_eq!(message.attachments, ["first", "second"]);
        let many = |count: usize| (0..count).fold(call(), |call, _| call.attach(""));
        assert_eq!(many(16).prepare(None).expect("well built").0.request.message.attachments.len(), 16);
        let error = many(17).prepare(None).expect_err("one too many");
        assert_eq!(error.code(), Some(ErrorCode::InvalidArgument));
        assert_eq!(error.message(), "a call has 16 attachments at most, and this one 17");
    }

    #[test]
    fn the_deadline_on_the_wire_is_what_is_left() {
        let now = Instant::now();
        let left = |call: Call<'_, ()>, default, at: Instant| {
            call.prepare(default).expect("well built").0.into_request(at).0.deadline_us
        };
        assert_eq!(left(call().no_timeout(), Some(Duration::from_secs(1)), now), Some(u64::MAX));
        assert_eq!(left(call(), None, now), Some(u64::MAX));
        let second = left(call(), Some(Duration::from_secs(1)), now).expect("a deadline");
        assert!(second >= 1_000_000, "counted from send, not from now: {second}");
        let late = now + Duration::from_secs(60);
        assert_eq!(left(call().timeout(Duration::from_secs(1)), None, late), Some(0));
        assert_eq!(left(call().timeout(Duration::MAX), None, now), Some(u64::MAX));
    }
}
