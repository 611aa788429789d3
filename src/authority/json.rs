//! JSON with places: a small reader that says where each key and value stands.
//!
//! Owns the structure only; strings and numbers are judged by `serde_json`. It exists because `serde_json` gives no
//! offsets of values and lets the last of two equal keys win in silence.

use std::collections::HashSet;

use super::document::{Entry, Node, NodeValue};

/// How deep lists and objects may nest: no policy needs more, and the reader recurses.
const MAX_DEPTH: usize = 64;

/// The first thing wrong with a JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JsonError {
    /// Byte offset in the text.
    pub(crate) at: usize,
    pub(crate) message: String,
}

/// Reads one JSON value that fills `text`.
pub(crate) fn parse(text: &str) -> Result<Node, JsonError> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value(0)?;
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.error("text after the JSON value")),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    /// The next byte that is no white space; it is not consumed.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, message: impl Into<String>) -> JsonError {
        let end = if self.at >= self.text.len() { " (the file ends here)" } else { "" };
        JsonError { at: self.at, message: format!("JSON: {}{end}", message.into()) }
    }

    fn value(&mut self, depth: usize) -> Result<Node, JsonError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        let first = self.peek();
        let start = self.at;
        let value = match first {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => NodeValue::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", NodeValue::Bool(true))?,
            Some(b'f') => self.word("false", NodeValue::Bool(false))?,
            Some(b'n') => self.word("null", NodeValue::Null)?,
            _ => return Err(self.error("a value is expected")),
        };
        Ok(Node { span: start..self.at, value })
    }

    fn object(&mut self, depth: usize) -> Result<NodeValue, JsonError> {
        self.at += 1;
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(NodeValue::Table(entries));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("a quoted key is expected"));
            }
            let start = self.at;
            let key = self.string()?;
            let key_span = start..self.at;
            if !seen.insert(key.clone()) {
                return Err(JsonError {
                    at: start,
                    message: format!("JSON: the key {key:?} stands here a second time"),
                });
            }
            if self.peek() != Some(b':') {
                return Err(self.error("`:` is expected"));
            }
            self.at += 1;
            entries.push(Entry { key, key_span, node: self.value(depth + 1)? });
            if self.ends_with(b'}')? {
                return Ok(NodeValue::Table(entries));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<NodeValue, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(NodeValue::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.ends_with(b']')? {
                return Ok(NodeValue::Array(items));
            }
        }
    }

    /// After an element: true at the closing bracket, false at a comma.
    fn ends_with(&mut self, close: u8) -> Result<bool, JsonError> {
        match self.peek() {
            Some(b',') => self.at += 1,
            Some(b) if b == close => {
                self.at += 1;
                return Ok(true);
            }
            _ => return Err(self.error(format!("`,` or `{}` is expected", char::from(close)))),
        }
        if self.peek() == Some(close) { Err(self.error("a comma before the end")) } else { Ok(false) }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        loop {
            match bytes.get(end) {
                None => return Err(self.error("a string without an end")),
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let raw = &self.text[self.at..=end];
        let text = serde_json::from_str(raw).map_err(|e| self.error(reason(&e)))?;
        self.at = end + 1;
        Ok(text)
    }

    fn number(&mut self) -> Result<NodeValue, JsonError> {
        let rest = &self.text[self.at..];
        let len =
            rest.bytes().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count();
        let number = serde_json::from_str(&rest[..len]).map_err(|e| self.error(reason(&e)))?;
        self.at += len;
        Ok(NodeValue::Number(number))
    }

    fn word(&mut self, word: &str, value: NodeValue) -> Result<NodeValue, JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("a value is expected"));
        }
        self.at += word.len();
        Ok(value)
    }
}

/// `serde_json`'s message without its own line and column, which count from the fragment's start.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop};
    use proptest::strategy::Strategy;
    use proptest::{prop_assert_eq, proptest};
    use serde_json::Value;

    use super::parse;

    #[test]
    fn errors_say_what_and_where() {
        for (text, at, message) in [
            ("", 0, "a value is expected (the file ends here)"),
            ("{", 1, "a quoted key is expected (the file ends here)"),
            ("{a: 1}", 1, "a quoted key is expected"),
            (r#"{"a" 1}"#, 5, "`:` is expected"),
            (r#"{"a": 1, "a": 2}"#, 9, "the key \"a\" stands here a second time"),
            ("[1, 2", 5, "`,` or `]` is expected (the file ends here)"),
            ("[1, ]", 4, "a comma before the end"),
            ("[1] 2", 4, "text after the JSON value"),
            ("[01]", 1, "invalid number"),
            ("[1e999]", 1, "number out of range"),
            ("[tru]", 1, "a value is expected"),
            ("[\"a\n\"]", 1, "control character (\\u0000-\\u001F) found while parsing a string"),
            ("[\"\\ud800\"]", 1, "unexpected end of hex escape"),
            ("[\"a", 1, "a string without an end"),
            ("[\"a\\", 1, "a string without an end"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.at, error.message), (at, format!("JSON: {message}")), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).unwrap_err().message.contains("nested deeper"));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = proptest::prop_oneof![
            proptest::strategy::Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            proptest::prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(value in values()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(parse(&text).unwrap().to_json(), value.clone());
            }
        }

        #[test]
        fn whatever_is_accepted_serde_json_accepts(text in "[\\[\\]{}\",:0-9eE+. a\\\\-]{0,24}") {
            if let Ok(node) = parse(&text) {
                prop_assert_eq!(node.to_json(), serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
