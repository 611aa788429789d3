//! What a call gave back.

use bytes::Bytes;
use invoked_proto::body::{Body, Message};
use invoked_proto::metadata::HeaderField;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::file::OpenFile;

/// The result of a call: a body, raw attachments, headers. It keeps no connection alive.
///
/// A large body may lie in memory that the daemon wrote ([`Options::shared_memory`](crate::Options::shared_memory)): then the
/// daemon can't use that memory again until the last [`Bytes`] of it is dropped, and sends through the socket when it has no
/// other. It stays readable whatever becomes of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    headers: Vec<HeaderField>,
    message: Message,
    file: Option<OpenFile>,
}

impl Reply {
    pub(crate) fn new(headers: Vec<HeaderField>, message: Message) -> Self {
        Reply { headers, message, file: None }
    }

    pub(crate) fn with_file(mut self, file: Option<OpenFile>) -> Self {
        self.file = file;
        self
    }

    /// The open file that the result is, for a client that takes files ([`Options::files`](crate::Options::files)); the body is
    /// raw and empty then. `None` if the bytes came instead, as those of small files and of other results do.
    #[must_use]
    pub fn file(&self) -> Option<&OpenFile> {
        self.file.as_ref()
    }

    /// The body. "None" and "empty" differ.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.message.body
    }

    /// The body's bytes, whatever they mean; none if there is no body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.message.body.bytes()
    }

    /// The body's bytes, taken without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.message.body.into_bytes()
    }

    /// The raw attachments, in order.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.message.attachments
    }

    /// Body and attachments, taken without a copy.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.message
    }

    /// The value of a header; keys are lower case.
    #[must_use]
    pub fn header(&self, key: &str) -> Option<&str> {
        self.headers().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Reads the body as JSON. No body reads as `null`, so a command that gives nothing fits `()`.
    ///
    /// # Errors
    /// An [`Error`] without a code if the body is raw, or does not fit `T`. The command has run.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self.body() {
            Body::Json(json) => serde_json::from_slice(json).map_err(Error::unreadable),
            Body::None => serde_json::from_str("null").map_err(Error::unreadable),
            Body::Raw(_) if self.file.is_some() => {
                Err(Error::unexpected_result("the result is an open file, not json".to_owned()))
            }
            Body::Raw(bytes) => {
                let message = format!("the result is {} raw bytes, not json", bytes.len());
                Err(Error::unexpected_result(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use invoked_proto::body::{Body, Message};

    use super::Reply;

    #[test]
    fn bodies_read_as_what_they_are() {
        let of = |body: Body| Reply::new(Vec::new(), Message::from(body));
        assert_eq!(of(Body::Json(Bytes::from_static(b"[1,2]"))).json::<Vec<u8>>().expect("json"), [1, 2]);
        of(Body::None).json::<()>().expect("nothing is null");
        let raw = of(Body::Raw(Bytes::from_static(b"[1,2]")));
        let error = raw.json::<Vec<u8>>().expect_err("raw is not json");
        assert!(error.code().is_none() && error.to_string().contains("5 raw bytes"));
        assert_eq!(raw.into_bytes(), "[1,2]");
        assert!(of(Body::Json(Bytes::from_static(b"7"))).json::<String>().is_err());
    }

    #[test]
    fn headers_are_found_by_key() {
        let reply = Reply::new(vec![("a".into(), "1".into()), ("b".into(), "2".into())], Message::default());
        assert_eq!((reply.header("b"), reply.header("c")), (Some("2"), None));
        assert_eq!(reply.headers().count(), 2);
    }
}
