//! Ready-made scopes over one text: a pattern, and a prefix.

use serde_json::Value;

use super::{ScopeContext, ScopeError, ScopeObject, ScopeObjectMatch, ScopeRole};
use crate::authority::glob::{Token, glob, tokens};

/// The longest pattern or prefix, in bytes.
const MAX_TEXT_LEN: usize = 4096;

/// A pattern over a text: `"invoice-*"`, `"https://*.example.org/"`.
///
/// `*` matches any number of characters, `?` one, `[abc]`, `[a-z]` and `[!a]` one of or none of these, `[*]` a `*`.
/// The whole text must match. Case matters, and so does the normal form of Unicode.
#[derive(Clone, Debug)]
pub struct GlobScope {
    tokens: Vec<Token>,
}

impl GlobScope {
    /// The pattern `text`.
    pub(crate) fn of(text: &str) -> Result<Self, ScopeError> {
        Ok(GlobScope { tokens: tokens(text)? })
    }

    /// The pattern that matches `text` and nothing else.
    #[must_use]
    pub fn escape(text: &str) -> String {
        let mut pattern = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '*' | '?' | '[' => pattern.extend(['[', c, ']']),
                c => pattern.push(c),
            }
        }
        pattern
    }
}

impl ScopeObject for GlobScope {
    fn parse(value: &Value, _: ScopeRole, _: &ScopeContext) -> Result<Self, ScopeError> {
        Ok(GlobScope { tokens: tokens(text(value, "a pattern")?)? })
    }
}

impl ScopeObjectMatch for GlobScope {
    type Input = str;

    fn matches(&self, input: &str) -> bool {
        glob(&self.tokens, input)
    }
}

/// The beginning of a text, taken literally: `"org.example."`. Where the text is a path, use
/// [`PathScope`](crate::authority::PathScope): `/srv/a` begins `/srv/abc` and `/srv/a/../b`.
#[derive(Clone, Debug)]
pub struct PrefixScope(String);

impl ScopeObject for PrefixScope {
    fn parse(value: &Value, _: ScopeRole, _: &ScopeContext) -> Result<Self, ScopeError> {
        text(value, "a prefix").map(|prefix| PrefixScope(prefix.to_owned()))
    }
}

impl ScopeObjectMatch for PrefixScope {
    type Input = str;

    fn matches(&self, input: &str) -> bool {
        input.starts_with(&self.0)
    }
}

/// Empty text is refused: more often than to mean "everything", something failed to fill it in.
fn text<'v>(value: &'v Value, what: &str) -> Result<&'v str, ScopeError> {
    match value {
        Value::String(text) if text.is_empty() => Err(ScopeError::new(format!("{what} can't be empty"))),
        Value::String(text) if text.len() > MAX_TEXT_LEN => {
            Err(ScopeError::new(format!("{what} longer than {MAX_TEXT_LEN} bytes")))
        }
        Value::String(text) => Ok(text),
        _ => Err(ScopeError::new(format!("{what} is a string"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{GlobScope, PrefixScope};
    use crate::authority::{ScopeContext, ScopeObject, ScopeObjectMatch, ScopeRole};

    fn read<S: ScopeObject>(value: Value) -> Result<S, String> {
        S::parse(&value, ScopeRole::Allow, &ScopeContext::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_glob_matches_the_whole_text() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a/b", ".x"][..], &[][..]),
            ("a*c", &["ac", "abc", "a/b/c"], &["a", "xac", "acx", "AC"]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a]x", &["bx"], &["ax"]),
            ("[*]", &["*"], &["a"]),
            // One letter, and a letter with a combining accent: they look alike and are different texts.
            ("\u{e9}", &["\u{e9}"], &["e\u{301}"]),
        ] {
            let scope: GlobScope = read(json!(pattern)).unwrap();
            assert!(yes.iter().all(|text| scope.matches(text)), "{pattern}");
            assert!(!no.iter().any(|text| scope.matches(text)), "{pattern}");
        }
        let escaped: GlobScope = read(json!(GlobScope::escape("a*[?]"))).unwrap();
        assert!(escaped.matches("a*[?]") && !escaped.matches("ab[?]") && !escaped.matches("a*?"));
    }

    #[test]
    fn a_prefix_is_literal() {
        let scope: PrefixScope = read(json!("org.example.*")).unwrap();
        assert!(scope.matches("org.example.*") && scope.matches("org.example.*x"));
        assert!(
            !scope.matches("org.example.a")
                && !scope.matches("org.example")
                && !scope.matches("ORG.EXAMPLE.*")
        );
    }

    #[test]
    fn values_are_read_strictly() {
        for (value, glob, prefix) in [
            (json!(""), "a pattern can't be empty", "a prefix can't be empty"),
            (json!(7), "a pattern is a string", "a prefix is a string"),
            (json!("x".repeat(4097)), "a pattern longer than 4096 bytes", "a prefix longer than 4096 bytes"),
        ] {
            assert_eq!(read::<GlobScope>(value.clone()).unwrap_err(), glob);
            assert_eq!(read::<PrefixScope>(value).unwrap_err(), prefix);
        }
        assert_eq!(read::<GlobScope>(json!("[a")).unwrap_err(), "`[` without `]`; `[[]` is a literal `[`");
    }
}
