//! Identifiers of permissions and sets: `fs:allow-read-file`, `core:default`, `allow-greet`.
//!
//! Owns the grammar only; which identifiers exist is the registry's business.

use std::fmt;
use std::sync::Arc;

/// An identifier as capability files write it: a plugin and a name, or a name of the application itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier(Arc<str>);

impl Identifier {
    /// Parses an identifier: `[A-Za-z0-9_-]+`, with `plugin:` before it. The plugin is everything before the last
    /// colon, so that Tauri's `core:window:default` is an identifier, if one of a plugin that isn't here.
    ///
    /// # Errors
    /// [`IdentifierError`], exactly.
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        if text.is_empty() {
            return Err(IdentifierError::Empty);
        }
        if text.len() > MAX_IDENTIFIER_LEN {
            return Err(IdentifierError::TooLong);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let (plugin, name) = match text.rsplit_once(':') {
            Some((plugin, name)) => (Some(plugin), name),
            None => (None, text),
        };
        if plugin == Some("") || name.is_empty() {
            return Err(IdentifierError::EmptyPart);
        }
        let bad = plugin.unwrap_or("").chars().find(|c| !plain(*c) && !matches!(c, '.' | ':'));
        match bad.or_else(|| name.chars().find(|c| !plain(*c))) {
            Some(c) => Err(IdentifierError::Character(c)),
            None => Ok(Identifier(text.into())),
        }
    }

    /// `name` as the plugin `plugin` writes it: its own when it has no colon.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn in_plugin(plugin: Option<&str>, name: &str) -> Result<Self, IdentifierError> {
        match plugin {
            Some(plugin) if !name.contains(':') && !name.is_empty() => {
                Self::parse(&format!("{plugin}:{name}"))
            }
            _ => Self::parse(name),
        }
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The plugin it belongs to; `None` for the application's own.
    #[must_use]
    pub fn plugin(&self) -> Option<&str> {
        self.0.rsplit_once(':').map(|(plugin, _)| plugin)
    }
}

/// The longest identifier: that of a command with the longest name, and `allow-`.
const MAX_IDENTIFIER_LEN: usize = 262;

/// What is wrong with an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifierError {
    /// No text at all.
    #[error("an empty identifier")]
    Empty,
    /// Nothing before or after the colon.
    #[error("nothing on one side of the colon")]
    EmptyPart,
    /// Longer than any command's permission can be.
    #[error("longer than {MAX_IDENTIFIER_LEN} bytes")]
    TooLong,
    /// A character that may not stand in an identifier.
    #[error("the character {0:?} may not stand in an identifier")]
    Character(char),
}

impl std::borrow::Borrow<str> for Identifier {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Identifier, IdentifierError};

    #[test]
    fn identifiers_split_at_the_last_colon() {
        for (text, plugin) in [
            ("allow-greet", None),
            ("fs:allow-read-file", Some("fs")),
            ("org.acme.thumbs:default", Some("org.acme.thumbs")),
            ("core:window:default", Some("core:window")),
        ] {
            assert_eq!(Identifier::parse(text).unwrap().plugin(), plugin);
        }
        assert_eq!(Identifier::in_plugin(Some("fs"), "read").unwrap().as_str(), "fs:read");
        assert_eq!(Identifier::in_plugin(Some("fs"), "os:read").unwrap().as_str(), "os:read");
        assert_eq!(Identifier::in_plugin(None, "read").unwrap().as_str(), "read");
    }

    #[test]
    fn errors_are_exact() {
        for (text, error) in [
            ("", IdentifierError::Empty),
            (":x", IdentifierError::EmptyPart),
            ("fs:", IdentifierError::EmptyPart),
            ("fs:a b", IdentifierError::Character(' ')),
            ("fs.read", IdentifierError::Character('.')),
            (&"x".repeat(263), IdentifierError::TooLong),
        ] {
            assert_eq!(Identifier::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Identifier::in_plugin(Some("fs"), ""), Err(IdentifierError::Empty));
    }
}
