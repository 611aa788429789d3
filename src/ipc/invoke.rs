//! A call at its handler.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::body::{AttachmentRef, Body, Message};
use invoked_proto::metadata::HeaderField;
use invoked_proto::registry::ErrorCode;
use serde_json::Value;
use serde_json::value::RawValue;

use super::body::InvokeBody;
use super::cancellation::CancellationToken;
use super::channel::{Channel, ChannelReader, ChannelSource, DeclaredChannels};
use super::error::Fault;
use super::given::CallbackFn;
use super::headers::Headers;
use super::lanes::CallLanes;
use super::peer::{Origin, Peer, PeerId};
use super::resolver::InvokeResolver;
use super::runtime::{Runtime, Wry};
use super::state::StateManager;
use crate::app::AppHandle;
use crate::authority::Grant;

/// What the broker knows of a call that is about to run.
#[derive(Debug, Clone)]
pub(crate) struct WireCall {
    pub(crate) command: Text,
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) message: Message,
    pub(crate) peer: Arc<Peer>,
    pub(crate) grant: Arc<Grant>,
    pub(crate) deadline: Option<Instant>,
    /// How many calls stand above this one.
    pub(crate) depth: u8,
    /// For whom it is made, besides its peer, the outermost first.
    pub(crate) behalf: Arc<[PeerId]>,
    /// The call's stream on its connection.
    pub(crate) stream: u64,
    /// The channels that the call declares and that were not taken; those left end with the call.
    pub(crate) channels: DeclaredChannels,
    /// Where large parts of the reply are written, if the caller reads them there.
    pub(crate) lanes: Option<CallLanes>,
}

/// A call: who calls what, with which body, under which grant, until when.
#[derive(Debug)]
pub struct InvokeMessage<R: Runtime = Wry> {
    app: AppHandle<R>,
    received: Received,
}

/// The part of a call that is the same for every runtime.
#[derive(Debug)]
pub(super) struct Received {
    call: WireCall,
    origin: Origin,
    headers: Headers,
    /// Made when it is asked for.
    payload: OnceLock<InvokeBody>,
    /// Made when it is asked for: a handler that runs in place can not be cancelled.
    cancellation: OnceLock<CancellationToken>,
    arguments: OnceLock<Result<Arguments, Fault>>,
}

type Arguments = Vec<FoundArgument>;

/// Where an argument stands in the body.
#[derive(Debug)]
struct FoundArgument {
    key: String,
    range: Range<usize>,
    /// The argument parsed, for an argument that borrows strings and was sent with escapes in them.
    unescaped: OnceLock<Value>,
}

/// The longest argument, other than one string, that is unescaped to be borrowed from. A list of small numbers takes
/// some twenty times its text as a [`Value`], so what a caller makes the daemon reserve here is bounded.
const MAX_UNESCAPED: usize = 64 * 1024;

/// The longest JSON text that names an attachment: each of its at most 17 characters as `\u005f`, and the quotes.
const REFERENCE_MAX: usize = 17 * 6 + 2;

impl InvokeMessage {
    pub(crate) fn new(call: WireCall, app: &AppHandle, cancellation: Option<CancellationToken>) -> Self {
        InvokeMessage { app: app.clone(), received: Received::new(call, cancellation) }
    }

    /// The same call once more, without a copy of its bytes.
    pub(super) fn share(&self) -> Self {
        let mut shared =
            InvokeMessage::new(self.received.call.clone(), &self.app, Some(self.cancellation().clone()));
        shared.received.headers = self.received.headers.clone();
        shared
    }
}

impl<R: Runtime> InvokeMessage<R> {
    /// The command's name within its plugin, as the handler of a plugin knows it: `read_file`.
    #[must_use]
    pub fn command(&self) -> &str {
        let name = self.name();
        name.rsplit_once('.').map_or(name, |(_, command)| command)
    }

    /// The command's canonical name, `fs.read_file`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.received.call.command
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Body {
        self.received.body()
    }

    /// The body, in the form that Tauri's commands get it in.
    #[must_use]
    pub fn payload(&self) -> &InvokeBody {
        self.received.payload()
    }

    /// Takes the body out.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.received.call.message.body
    }

    /// Which of its caller's calls it is.
    #[must_use]
    pub fn callback(&self) -> CallbackFn {
        CallbackFn(self.received.call.stream)
    }

    /// The raw attachments.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.received.call.message.attachments
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.received.headers
    }

    /// Where the call comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.received.origin
    }

    /// The calling process.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.received.call.peer
    }

    /// The grant that allowed the call, with its scopes.
    #[must_use]
    pub fn grant(&self) -> &Arc<Grant> {
        &self.received.call.grant
    }

    /// When the caller gives up, if it does.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.received.call.deadline
    }

    /// The application whose command is called.
    #[must_use]
    pub fn app(&self) -> &AppHandle<R> {
        &self.app
    }

    /// The managed values.
    #[must_use]
    pub fn state(&self) -> &StateManager {
        &self.app.shared().state
    }

    /// Tells when the caller no longer waits.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        self.received.cancellation.get_or_init(CancellationToken::default)
    }

    /// The JSON text of the argument `key`, `None` if the call has none of that name.
    ///
    /// # Errors
    /// `invalid_argument` if the body is not a JSON object, or has a key twice: two readers could take different values.
    pub fn argument(&self, key: &str) -> Result<Option<&str>, Fault> {
        self.received.argument(key)
    }

    /// The names of the arguments that the call has.
    ///
    /// # Errors
    /// As for [`argument`](Self::argument).
    pub fn argument_names(&self) -> Result<impl Iterator<Item = &str>, Fault> {
        Ok(self.received.arguments()?.iter().map(|found| found.key.as_str()))
    }

    /// The attachment that the argument `key` names as `"__ATTACHMENT__:<index>"`; `None` if the call has no such argument, or
    /// it is null. The bytes are shared, not copied.
    ///
    /// # Errors
    /// `invalid_argument` if the argument is something else, names an attachment that the call does not have, or names
    /// one that another argument names too. Also as for [`argument`](Self::argument).
    pub fn attachment(&self, key: &str) -> Result<Option<&Bytes>, Fault> {
        self.received.attachment(key)
    }

    pub(super) fn received(&self) -> &Received {
        &self.received
    }
}

impl Received {
    fn new(mut call: WireCall, cancellation: Option<CancellationToken>) -> Self {
        let headers = Headers::from(std::mem::take(&mut call.headers));
        let cancellation = cancellation.map(OnceLock::from).unwrap_or_default();
        let origin = Origin::Local(Arc::clone(&call.peer));
        Received { call, origin, headers, payload: OnceLock::new(), cancellation, arguments: OnceLock::new() }
    }

    /// How many calls stand above this one.
    pub(super) fn depth(&self) -> u8 {
        self.call.depth
    }

    /// For whom it is made, besides its peer.
    pub(super) fn behalf(&self) -> Arc<[PeerId]> {
        Arc::clone(&self.call.behalf)
    }

    fn body(&self) -> &Body {
        &self.call.message.body
    }

    fn payload(&self) -> &InvokeBody {
        self.payload.get_or_init(|| self.body().clone().into())
    }

    fn argument(&self, key: &str) -> Result<Option<&str>, Fault> {
        let found = self.arguments()?.iter().find(|found| found.key == key);
        Ok(found.and_then(|found| self.text_of(found)))
    }

    /// The argument `key` parsed, so that strings with escapes can be borrowed from it; `None` where no string has
    /// one, or the argument is too large for that.
    pub(super) fn unescaped_argument(&self, key: &str) -> Option<&Value> {
        let found = self.arguments().ok()?.iter().find(|found| found.key == key)?;
        let json = self.text_of(found)?;
        let is_bounded = json.starts_with('"') || json.len() <= MAX_UNESCAPED;
        if !is_bounded || !json.contains('\\') {
            return None;
        }
        let value = serde_json::from_str(json).ok()?;
        Some(found.unescaped.get_or_init(|| value))
    }

    fn attachment(&self, key: &str) -> Result<Option<&Bytes>, Fault> {
        let arguments = self.arguments()?;
        let Some(found) = arguments.iter().find(|found| found.key == key) else { return Ok(None) };
        if self.text_of(found) == Some("null") {
            return Ok(None);
        }
        let bad = |text: &str| {
            let text = format!("argument `{key}` of {}: {text}", &*self.call.command);
            Fault::refusal(ErrorCode::InvalidArgument, text)
        };
        let named = self.reference_in(found).ok_or_else(|| {
            bad("not an attachment; send the bytes as an attachment, and its name here (invokectl: KEY@FILE)")
        })?;
        let attachment = named.of(&self.call.message.attachments).ok_or_else(|| {
            let count = self.call.message.attachments.len();
            bad(&format!("the call has no attachment {}; it has {count}, counted from 0", named.0))
        })?;
        let mut others = arguments.iter().filter(|other| other.key != key);
        match others.find(|other| self.reference_in(other) == Some(named)) {
            Some(other) => Err(bad(&format!("names the same attachment as `{}`", other.key))),
            None => Ok(Some(attachment)),
        }
    }

    fn reference_in(&self, found: &FoundArgument) -> Option<AttachmentRef> {
        let json = self.text_of(found)?;
        // Other values, and strings that are too long however they are escaped, are not read.
        if !json.starts_with('"') || json.len() > REFERENCE_MAX {
            return None;
        }
        AttachmentRef::parse(&serde_json::from_str::<String>(json).ok()?)
    }

    fn text_of(&self, found: &FoundArgument) -> Option<&str> {
        std::str::from_utf8(&self.body().bytes()[found.range.clone()]).ok()
    }

    fn arguments(&self) -> Result<&Arguments, Fault> {
        let found = self.arguments.get_or_init(|| find_arguments(self.body()));
        found.as_ref().map_err(Clone::clone)
    }
}

impl<R: Runtime> ChannelSource for InvokeMessage<R> {
    fn channel<T>(&self, index: u32) -> Result<Channel<T>, Fault> {
        self.received.call.channels.channel(index)
    }

    fn channel_reader<T>(&self, index: u32) -> Result<ChannelReader<T>, Fault> {
        self.received.call.channels.reader(index)
    }
}

impl ChannelSource for Request<'_> {
    fn channel<T>(&self, index: u32) -> Result<Channel<T>, Fault> {
        self.received.call.channels.channel(index)
    }

    fn channel_reader<T>(&self, index: u32) -> Result<ChannelReader<T>, Fault> {
        self.received.call.channels.reader(index)
    }
}

/// Arguments of one call. A body of many short keys would cost twenty times its size, and seconds to read.
const ARGUMENTS_MAX: usize = 256;

/// Finds the arguments of a body without parsing their values.
fn find_arguments(body: &Body) -> Result<Arguments, Fault> {
    let bad = |text: String| Fault::refusal(ErrorCode::InvalidArgument, text);
    let json = match body {
        Body::None => return Ok(Vec::new()),
        Body::Raw(_) => return Err(bad("the command takes named arguments, and the body is raw".to_owned())),
        Body::Json(json) => json,
    };
    let Unique(found) = serde_json::from_slice(json)
        .map_err(|error| bad(format!("the arguments are not one JSON object: {error}")))?;
    let start = json.as_ptr() as usize;
    let place = |(key, raw): (String, &RawValue)| {
        let from = raw.get().as_ptr() as usize - start;
        FoundArgument { key, range: from..from + raw.get().len(), unescaped: OnceLock::new() }
    };
    Ok(found.into_iter().map(place).collect())
}

/// A JSON object without duplicate keys, its values unparsed.
struct Unique<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Unique<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> serde::de::Visitor<'de> for UniqueVisitor {
    type Value = Unique<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of arguments")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found: Vec<(String, &'de RawValue)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            if found.iter().any(|(earlier, _)| *earlier == key) {
                return Err(serde::de::Error::custom(format_args!("key {key:?} stands twice")));
            }
            if found.len() == ARGUMENTS_MAX {
                return Err(serde::de::Error::custom(format_args!("more than {ARGUMENTS_MAX} arguments")));
            }
            found.push((key, value));
        }
        Ok(Unique(found))
    }
}

/// A view of a call: body, headers, attachments. A command takes it for raw bodies.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    received: &'a Received,
}

impl<'a> Request<'a> {
    pub(super) fn new(received: &'a Received) -> Self {
        Request { received }
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &'a InvokeBody {
        self.received.payload()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &'a Headers {
        &self.received.headers
    }

    /// The raw attachments.
    #[must_use]
    pub fn attachments(&self) -> &'a [Bytes] {
        &self.received.call.message.attachments
    }

    /// The attachment that the argument `key` names; `None` if the call has no such argument.
    ///
    /// # Errors
    /// As for [`InvokeMessage::attachment`].
    pub fn attachment(&self, key: &str) -> Result<Option<&'a Bytes>, Fault> {
        self.received.attachment(key)
    }

    /// The calling process.
    #[must_use]
    pub fn peer(&self) -> &'a Peer {
        &self.received.call.peer
    }

    /// When the caller gives up, if it does.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.received.call.deadline
    }
}

/// A call with the means to answer it, for a handler that answers by itself.
#[derive(Debug)]
pub struct Invoke<R: Runtime = Wry> {
    /// The call.
    pub message: InvokeMessage<R>,
    /// The answer; dropping it unused answers `internal`.
    pub resolver: InvokeResolver<R>,
}
