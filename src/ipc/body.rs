//! Bodies as the author of a command sees them.

use std::ops::Deref;
use std::sync::OnceLock;

use bytes::Bytes;
use invoked_proto::body::Body;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of a call.
///
/// ```
/// use invoked::ipc::{InvokeBody, Request};
///
/// #[invoked::command]
/// fn upload(request: Request<'_>) -> Result<usize, String> {
///     let InvokeBody::Raw(data) = request.body() else {
///         return Err("send the file as a raw body".to_owned());
///     };
///     Ok(data.len())
/// }
/// # let _handler = invoked::generate_handler![upload];
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum InvokeBody {
    /// One JSON text; `null` if the call has no body.
    Json(Json),
    /// Bytes without structure.
    Raw(Bytes),
}

impl Default for InvokeBody {
    /// An object without arguments.
    fn default() -> Self {
        InvokeBody::Json(Json::from_text(Bytes::from_static(b"{}")))
    }
}

impl InvokeBody {
    /// The bytes, of JSON those of its text.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            InvokeBody::Json(json) => json.as_bytes(),
            InvokeBody::Raw(bytes) => bytes,
        }
    }

    /// The value that JSON stands for; raw bytes are read as JSON, too.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn deserialize<T: DeserializeOwned>(self) -> serde_json::Result<T> {
        serde_json::from_slice(self.bytes())
    }
}

impl From<Body> for InvokeBody {
    fn from(body: Body) -> Self {
        match body {
            Body::None => InvokeBody::Json(Json::from_text(Bytes::from_static(b"null"))),
            Body::Json(text) => InvokeBody::Json(Json::from_text(text)),
            Body::Raw(bytes) => InvokeBody::Raw(bytes),
        }
    }
}

impl From<InvokeBody> for Body {
    fn from(body: InvokeBody) -> Self {
        match body {
            InvokeBody::Json(json) => Body::Json(json.text),
            InvokeBody::Raw(bytes) => Body::Raw(bytes),
        }
    }
}

impl From<Value> for InvokeBody {
    fn from(value: Value) -> Self {
        InvokeBody::Json(Json::from_text(value.to_string().into()))
    }
}

impl From<Vec<u8>> for InvokeBody {
    fn from(bytes: Vec<u8>) -> Self {
        InvokeBody::Raw(bytes.into())
    }
}

impl From<Bytes> for InvokeBody {
    fn from(bytes: Bytes) -> Self {
        InvokeBody::Raw(bytes)
    }
}

/// A JSON text, unparsed until it is asked for.
///
/// It dereferences to a [`Value`], as the body of a Tauri call is one: `json["path"].as_str()`. A `Value` takes up to some
/// twenty times the memory of its text, so one of more than 1 MiB of text (and one that is no JSON) is `null` there;
/// [`parse`](Self::parse) reads any.
#[derive(Debug, Clone)]
pub struct Json {
    text: Bytes,
    value: OnceLock<Value>,
}

/// The longest text that is made a [`Value`] without being asked, in bytes.
const MAX_VALUE_TEXT: usize = 1024 * 1024;

impl Json {
    fn from_text(text: Bytes) -> Self {
        Json { text, value: OnceLock::new() }
    }

    /// The bytes of the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Reads it as whatever it stands for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.text)
    }
}

impl Deref for Json {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.value.get_or_init(|| match self.text.len() {
            0..=MAX_VALUE_TEXT => self.parse().unwrap_or_default(),
            _ => Value::Null,
        })
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// The body of a reply, or of an item of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvokeResponseBody {
    /// One JSON text.
    Json(String),
    /// Bytes without structure.
    Raw(Vec<u8>),
}

impl InvokeResponseBody {
    /// `value` as JSON, written as `options` say.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub fn with_options<T: Serialize + ?Sized>(
        value: &T,
        options: &SerializeOptions,
    ) -> serde_json::Result<Self> {
        let mut json = Vec::with_capacity(options.reserve);
        serde_json::to_writer(&mut json, value)?;
        let text = String::from_utf8(json).expect("a serializer of JSON writes UTF-8");
        Ok(InvokeResponseBody::Json(text))
    }

    /// The value that JSON stands for; raw bytes are read as JSON, too.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn deserialize<T: DeserializeOwned>(self) -> serde_json::Result<T> {
        match self {
            InvokeResponseBody::Json(text) => serde_json::from_str(&text),
            InvokeResponseBody::Raw(bytes) => serde_json::from_slice(&bytes),
        }
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SerializeOptions {
    /// Bytes that are reserved before writing begins: a large value whose size is known is written without growing.
    pub reserve: usize,
}

impl SerializeOptions {
    /// Reserves this many bytes.
    #[must_use]
    pub fn reserve(mut self, bytes: usize) -> Self {
        self.reserve = bytes;
        self
    }
}

impl From<String> for InvokeResponseBody {
    fn from(text: String) -> Self {
        InvokeResponseBody::Json(text)
    }
}

impl From<Vec<u8>> for InvokeResponseBody {
    fn from(bytes: Vec<u8>) -> Self {
        InvokeResponseBody::Raw(bytes)
    }
}

impl From<InvokeBody> for InvokeResponseBody {
    fn from(body: InvokeBody) -> Self {
        match body {
            InvokeBody::Json(json) => {
                InvokeResponseBody::Json(String::from_utf8_lossy(&json.text).into_owned())
            }
            InvokeBody::Raw(bytes) => InvokeResponseBody::Raw(bytes.into()),
        }
    }
}

impl From<Body> for InvokeResponseBody {
    fn from(body: Body) -> Self {
        InvokeBody::from(body).into()
    }
}

impl From<InvokeResponseBody> for Body {
    fn from(body: InvokeResponseBody) -> Self {
        match body {
            InvokeResponseBody::Json(text) => Body::Json(text.into()),
            InvokeResponseBody::Raw(bytes) => Body::Raw(bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use invoked_proto::body::Body;
    use serde_json::json;

    use super::{InvokeBody, InvokeResponseBody, SerializeOptions};

    fn json_body(text: String) -> InvokeBody {
        InvokeBody::from(Body::Json(text.into()))
    }

    #[test]
    fn json_is_a_value_when_it_is_asked_for() {
        let InvokeBody::Json(json) = json_body(r#"{"path":"/a","n":[1]}"#.to_owned()) else { panic!() };
        assert_eq!((json["path"].as_str(), json.get("n")), (Some("/a"), Some(&json!([1]))));
        assert_eq!(json.parse::<std::collections::BTreeMap<&str, serde_json::Value>>().unwrap().len(), 2);
    }

    #[test]
    fn a_text_that_would_be_a_large_value_is_parsed_on_demand_only() {
        let long = format!("[{}1]", "1,".repeat(1 << 19));
        let InvokeBody::Json(json) = json_body(long) else { panic!() };
        assert!(json.is_null());
        assert_eq!(json.parse::<Vec<u8>>().unwrap().len(), (1 << 19) + 1);
    }

    #[test]
    fn a_call_without_a_body_has_null_and_one_that_is_no_json_too() {
        let InvokeBody::Json(json) = InvokeBody::from(Body::None) else { panic!() };
        assert!(json.is_null());
        let InvokeBody::Json(json) = json_body("{".to_owned()) else { panic!() };
        assert!(json.is_null() && json.parse::<serde_json::Value>().is_err());
    }

    #[test]
    fn bodies_of_replies_keep_their_kind() {
        let text = InvokeResponseBody::from("[1]".to_owned());
        assert_eq!(Body::from(text.clone()), Body::Json(Bytes::from_static(b"[1]")));
        assert_eq!(text.deserialize::<Vec<u8>>().unwrap(), [1]);
        let raw = InvokeResponseBody::from(vec![1_u8]);
        assert_eq!(Body::from(raw), Body::Raw(Bytes::from_static(&[1])));
        assert_eq!(InvokeBody::from(vec![1_u8]).bytes(), [1]);
    }

    #[test]
    fn options_reserve_what_a_value_takes() {
        let options = SerializeOptions::default().reserve(4096);
        let InvokeResponseBody::Json(text) = InvokeResponseBody::with_options(&[1, 2], &options).unwrap()
        else {
            panic!()
        };
        assert_eq!((text.as_str(), text.capacity()), ("[1,2]", 4096));
    }
}
