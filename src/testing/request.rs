//! A call under test.

use std::time::Duration;

use bytes::Bytes;
use invoked_proto::Text;
use invoked_proto::body::{AttachmentRef, Body, Message};
use invoked_proto::connection::Request;
use invoked_proto::metadata::{ChannelDeclaration, HeaderField};
use invoked_proto::name::canonical;
use invoked_proto::registry::{Direction, limits};
use serde::Serialize;
use serde_json::{Map, Value};

/// A call of a command: its name, what goes with it, and the channels that it opens.
#[derive(Debug, Clone)]
#[must_use = "a request is made by MockPeer::invoke or call"]
pub struct InvokeRequest {
    command: String,
    arguments: Map<String, Value>,
    raw: Option<Bytes>,
    attachments: Vec<Bytes>,
    headers: Vec<HeaderField>,
    timeout: Option<Duration>,
    /// The keys of the channels' arguments; an index is one more than its place.
    channels: Vec<String>,
}

impl InvokeRequest {
    /// A call of the command `command`: `greet`, `fs.read_file`, or Tauri's `plugin:fs|read_file`.
    pub fn new(command: impl Into<String>) -> Self {
        InvokeRequest {
            command: command.into(),
            arguments: Map::new(),
            raw: None,
            attachments: Vec::new(),
            headers: Vec::new(),
            timeout: None,
            channels: Vec::new(),
        }
    }

    /// Adds arguments.
    ///
    /// # Panics
    /// If they are no JSON object.
    #[track_caller]
    pub fn args<T: Serialize + ?Sized>(mut self, args: &T) -> Self {
        match serde_json::to_value(args) {
            Ok(Value::Object(map)) => self.arguments.extend(map),
            other => panic!("arguments are a JSON object, not {other:?}"),
        }
        self
    }

    /// Adds the argument `key`.
    ///
    /// # Panics
    /// If it can not be written as JSON.
    #[track_caller]
    pub fn arg<T: Serialize + ?Sized>(mut self, key: impl Into<String>, value: &T) -> Self {
        let value = serde_json::to_value(value).expect("an argument can be written as JSON");
        self.arguments.insert(key.into(), value);
        self
    }

    /// Sends these bytes as the body, instead of arguments.
    pub fn raw(mut self, bytes: impl Into<Bytes>) -> Self {
        self.raw = Some(bytes.into());
        self
    }

    /// Adds an attachment, as the argument `key`.
    pub fn attach_as(mut self, key: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let named = AttachmentRef(self.attachments.len()).to_string();
        self.arguments.insert(key.into(), named.into());
        self.attach(bytes)
    }

    /// Adds an attachment that no argument names.
    pub fn attach(mut self, bytes: impl Into<Bytes>) -> Self {
        self.attachments.push(bytes.into());
        self
    }

    /// Adds a header; the key must be lower case.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((Text::from(key.into()), Text::from(value.into())));
        self
    }

    /// Gives up after this long.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Opens a channel on which the command sends, as the argument `key`.
    pub fn channel(mut self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.channels.push(key.clone());
        let index = self.channels.len();
        self.arguments.insert(key, format!("__CHANNEL__:{index}").into());
        self
    }

    /// The command's name.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The channels by their keys.
    pub(super) fn channels(&self) -> Vec<(String, u32)> {
        (1_u32..).zip(&self.channels).map(|(index, key)| (key.clone(), index)).collect()
    }

    pub(super) fn into_request(self) -> Request {
        let body = match self.raw {
            Some(bytes) => Body::Raw(bytes),
            None => Body::Json(Value::Object(self.arguments).to_string().into()),
        };
        let declare = |(index, _)| {
            let credit = limits::CHANNEL_WINDOW as u64;
            ChannelDeclaration { index, direction: Direction::Down, credit }
        };
        Request {
            command: Text::from(&*canonical(&self.command)),
            headers: self.headers,
            deadline_us: self.timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)),
            channels: (1_u32..).zip(&self.channels).map(declare).collect(),
            message: Message { body, attachments: self.attachments },
            ..Request::default()
        }
    }
}
