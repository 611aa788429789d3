//! What a scope refused, kept until somebody asks why.

use std::sync::Arc;

use serde_json::Value;

use crate::authority::grants::Grant;
use crate::authority::scope::ScopeDenial;

/// The longest argument that is kept whole, in bytes as JSON: the longest path that a system call takes.
const WHOLE: usize = 4096;

/// The longest text of a peer's that a message repeats, in characters.
const QUOTED: usize = 256;

/// An argument that a scope judged: whole where it is short, else its beginning, so that keeping it costs little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged(Kept);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    Whole(Value),
    Beginning(String),
}

impl Judged {
    /// Keeps `argument`, whose length bounds what this costs.
    #[must_use]
    pub fn new(argument: &Value) -> Self {
        let text = match argument {
            Value::String(text) if text.len() <= WHOLE => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()).filter(|text| text.len() > WHOLE),
        };
        Judged(match text {
            None => Kept::Whole(argument.clone()),
            // One more than is shown, so that showing it says that something is missing.
            Some(text) => Kept::Beginning(text.chars().take(QUOTED + 1).collect()),
        })
    }

    /// The argument; `None` if it was too long to be kept.
    #[must_use]
    pub fn whole(&self) -> Option<&Value> {
        match &self.0 {
            Kept::Whole(value) => Some(value),
            Kept::Beginning(_) => None,
        }
    }

    /// The argument as programs get it; of one that was too long to be kept, its beginning and `…`, as a string.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.0 {
            Kept::Whole(value) => value.clone(),
            Kept::Beginning(text) => Value::from(shown(text)),
        }
    }

    /// As messages show it: short, and without anything that would break a line.
    pub(crate) fn shown(&self) -> String {
        match &self.0 {
            Kept::Whole(value) => shown_value(value),
            Kept::Beginning(text) => format!("\"{}\"", shown(text)),
        }
    }
}

/// That the scopes of a grant refused an argument.
#[derive(Clone, Debug)]
pub struct ScopeRefusal {
    /// The grant.
    pub grant: Arc<Grant>,
    /// Why.
    pub denial: ScopeDenial,
    /// What they were asked about.
    pub argument: Judged,
}

pub(super) fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", shown(text)),
        value => shown(&value.to_string()),
    }
}

/// Text that may be a peer's: cut, and without anything that would break a line of a log.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTED).flat_map(clean).collect();
    if text.chars().nth(QUOTED).is_some() {
        out.push('…');
    }
    out
}

/// Quotes stay as they are: paths are read by people.
fn clean(c: char) -> impl Iterator<Item = char> {
    let plain = matches!(c, '"' | '\'').then_some(c);
    let escaped = plain.is_none().then(|| c.escape_debug());
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Judged, WHOLE};

    #[test]
    fn a_short_argument_is_kept_whole_and_a_long_one_begins() {
        let path = format!("/{}", "a".repeat(WHOLE - 1));
        assert_eq!(Judged::new(&json!(path)).whole(), Some(&Value::from(path.clone())));
        for long in [json!(format!("{path}a")), json!({ "list": vec![path] })] {
            let kept = Judged::new(&long);
            assert_eq!(kept.whole(), None);
            assert!(kept.shown().ends_with("…\"") && kept.shown().chars().count() < 300, "{}", kept.shown());
        }
    }
}
