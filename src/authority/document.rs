//! A parsed file of a policy, TOML or JSON alike, in which each key and value knows its place.
//!
//! Owns the tree and the reading of TOML into it; knows nothing of what keys mean.

use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::json;
use super::source::{Findings, Source};

/// How a file of a policy is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.
    Toml,
    /// JSON (RFC 8259); a key that stands twice in an object is an error.
    Json,
}

/// Syntax errors that are reported for one file: what follows from the first ones would only bury them.
const MAX_SYNTAX_ERRORS: usize = 8;

/// A value and the bytes it was read from.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: NodeValue,
}

#[derive(Debug)]
pub(crate) enum NodeValue {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// One key of a table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

impl Node {
    /// Reads `source`; what is wrong with its syntax goes to `findings`, and then there is no tree.
    pub(crate) fn parse(source: &Source, format: Format, findings: &mut Findings) -> Option<Node> {
        match format {
            Format::Toml => parse_toml(source, findings),
            Format::Json => match json::parse(source.text()) {
                Ok(node) => Some(node),
                Err(error) => {
                    findings.error(source.at(error.at..error.at + 1).error(error.message));
                    None
                }
            },
        }
    }

    /// The tree of a value that was not read from a text: it has no places.
    pub(crate) fn unplaced(value: &Value) -> Node {
        let value = match value {
            Value::Null => NodeValue::Null,
            Value::Bool(b) => NodeValue::Bool(*b),
            Value::Number(n) => NodeValue::Number(n.clone()),
            Value::String(text) => NodeValue::String(text.clone()),
            Value::Array(items) => NodeValue::Array(items.iter().map(Node::unplaced).collect()),
            Value::Object(map) => NodeValue::Table(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        key_span: 0..0,
                        node: Node::unplaced(value),
                    })
                    .collect(),
            ),
        };
        Node { span: 0..0, value }
    }

    /// What kind of value it is, for "a list is wanted, this is a number".
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            NodeValue::Null => "null",
            NodeValue::Bool(_) => "a boolean",
            NodeValue::Number(_) => "a number",
            NodeValue::String(_) => "a string",
            NodeValue::Array(_) => "a list",
            NodeValue::Table(_) => "a table",
        }
    }

    /// The value without its places.
    pub(crate) fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(b) => Value::Bool(*b),
            NodeValue::Number(n) => Value::Number(n.clone()),
            NodeValue::String(s) => Value::String(s.clone()),
            NodeValue::Array(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            NodeValue::Table(entries) => Value::Object(
                entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }
}

fn parse_toml(source: &Source, findings: &mut Findings) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(source.text());
    if !errors.is_empty() {
        for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            findings.error(source.at(error.span().unwrap_or(0..0)).error(message));
        }
        return None;
    }
    let span = table.span();
    let before = findings.errors.len();
    let value = toml_table(source, table.into_inner(), findings);
    (findings.errors.len() == before).then_some(Node { span, value })
}

fn toml_table(source: &Source, table: DeTable<'_>, findings: &mut Findings) -> NodeValue {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: toml_node(source, value, findings),
        })
        .collect();
    // The table sorts its keys; messages follow the text.
    entries.sort_by_key(|entry| entry.key_span.start);
    NodeValue::Table(entries)
}

/// Recursion is bounded: the TOML parser refuses to nest deeper than a fixed limit.
fn toml_node(source: &Source, value: Spanned<DeValue<'_>>, findings: &mut Findings) -> Node {
    let span = value.span();
    let mut refuse = |message: String| {
        findings.error(source.at(span.clone()).error(message));
        NodeValue::Null
    };
    let value = match value.into_inner() {
        DeValue::String(text) => NodeValue::String(text.into_owned()),
        DeValue::Boolean(b) => NodeValue::Bool(b),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(n) => NodeValue::Number(n.into()),
            Err(_) => refuse(format!("the integer {integer} does not fit 64 bits")),
        },
        DeValue::Float(float) => match float.as_str().parse().ok().and_then(Number::from_f64) {
            Some(n) => NodeValue::Number(n),
            None => refuse(format!("the number {float} has no JSON form")),
        },
        DeValue::Datetime(date) => {
            refuse(format!("a date ({date}) has no meaning in a policy; quote it if it is text"))
        }
        DeValue::Array(items) => {
            NodeValue::Array(items.into_iter().map(|item| toml_node(source, item, findings)).collect())
        }
        DeValue::Table(table) => toml_table(source, table, findings),
    };
    Node { span, value }
}

#[cfg(test)]
mod tests {
    use super::{Findings, Format, Node, NodeValue, Source};

    fn read(text: &str, format: Format) -> Result<Node, Vec<String>> {
        let mut findings = Findings::default();
        let node = Node::parse(&Source::new("t", None, text), format, &mut findings);
        node.ok_or_else(|| findings.errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn toml_and_json_give_the_same_tree() {
        let toml = read("b = [1, 2.5, 'x']\na = { t = true }\n", Format::Toml).unwrap();
        let json = read(r#"{"b": [1, 2.5, "x"], "a": {"t": true}}"#, Format::Json).unwrap();
        assert_eq!(toml.to_json(), json.to_json());
        let NodeValue::Table(entries) = &toml.value else { panic!("{toml:?}") };
        assert_eq!(entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!((entries[0].key_span.clone(), entries[0].node.span.clone()), (0..1, 4..17));
    }

    #[test]
    fn toml_that_has_no_meaning_is_refused_where_it_stands() {
        for (text, error) in [
            (
                "a = 1\nb = 1979-05-27",
                "t:2:5: a date (1979-05-27) has no meaning in a policy; quote it if it is text",
            ),
            ("a = inf", "t:1:5: the number inf has no JSON form"),
            ("a = 9223372036854775808", "t:1:5: the integer 9223372036854775808 does not fit 64 bits"),
            ("a = 1\na = 2", "t:2:1: duplicate key"),
        ] {
            assert_eq!(read(text, Format::Toml).unwrap_err(), [error], "{text}");
        }
    }

    #[test]
    fn deep_toml_is_an_error() {
        let text = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&text, Format::Toml).is_err());
    }
}
