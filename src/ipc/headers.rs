//! Headers of a call, looked up as HTTP's are.

use std::fmt;

use invoked_proto::Text;
use invoked_proto::metadata::HeaderField;

/// Headers of a call, in the order of the wire. Keys are lower case there; looking up takes any case.
///
/// The methods are those of the map of headers that Tauri's commands get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, HeaderValue)>);

/// The value of a header. It is text.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderValue(Text);

/// What [`HeaderValue::to_str`] never fails with; its counterpart in HTTP does, on bytes that are no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value is not text")]
pub struct ToStrError(());

impl Headers {
    /// The first value under `key`, whatever its case.
    #[must_use]
    pub fn get(&self, key: impl AsRef<str>) -> Option<&HeaderValue> {
        self.get_all(key).next()
    }

    /// All values under `key`, whatever its case, in order.
    pub fn get_all(&self, key: impl AsRef<str>) -> impl Iterator<Item = &HeaderValue> {
        self.0
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(key.as_ref()))
            .map(|(_, value)| value)
    }

    /// The first value under `key`, whatever its case, as text.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&str> {
        self.get(key).map(HeaderValue::as_str)
    }

    /// Whether there is a value under `key`, whatever its case.
    #[must_use]
    pub fn contains_key(&self, key: impl AsRef<str>) -> bool {
        self.get(key).is_some()
    }

    /// All headers, with their keys in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The keys, in lower case; one as often as it has values.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<HeaderField>> for Headers {
    fn from(fields: Vec<HeaderField>) -> Self {
        Headers(fields.into_iter().map(|(key, value)| (key, HeaderValue(value))).collect())
    }
}

impl HeaderValue {
    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value, in the form of HTTP's.
    ///
    /// # Errors
    /// Never.
    pub fn to_str(&self) -> Result<&str, ToStrError> {
        Ok(self.as_str())
    }

    /// The bytes of the value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_str().len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq<str> for HeaderValue {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for HeaderValue {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use super::Headers;

    #[test]
    fn a_header_is_found_whatever_the_case() {
        let fields = vec![
            ("authorization".into(), "a".into()),
            ("tag".into(), "1".into()),
            ("tag".into(), "2".into()),
        ];
        let headers = Headers::from(fields);
        let value = headers.get("Authorization").unwrap();
        assert_eq!((value.to_str(), value.as_bytes(), value == "a"), (Ok("a"), &b"a"[..], true));
        assert_eq!(headers.find("TAG"), Some("1"));
        let all: Vec<_> = headers.get_all("Tag").map(|value| value.as_str()).collect();
        assert_eq!(all, ["1", "2"]);
        assert!(headers.contains_key(String::from("tag")) && !headers.contains_key("other"));
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["authorization", "tag", "tag"]);
        assert_eq!((headers.len(), headers.is_empty()), (3, false));
    }
}
