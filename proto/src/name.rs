//! Names of commands and plugins, parsed once.
//!
//! Owns the grammar, the canonical spelling (`plugin.command`, or `command` alone), and the permissions that a
//! command implies. Knows nothing of which names exist.
//!
//! ```text
//! plugin  = segment *( "." segment )        segment = [a-z0-9] *[a-z0-9_-]
//! command = [A-Za-z0-9_] *[A-Za-z0-9_-]
//! name    = [ plugin "." ] command          at most 255 bytes
//! ```

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The longest canonical name, in bytes: it fits one length byte wherever it is stored.
pub const MAX_NAME_LEN: usize = 255;

/// The canonical spelling of a name that may be in Tauri's, `plugin:fs|read_file`; any other text as it is, for whoever
/// judges names to refuse.
///
/// ```
/// use invoked_proto::name::canonical;
///
/// assert_eq!(canonical("plugin:fs|read_file"), "fs.read_file");
/// assert_eq!(canonical("fs.read_file"), "fs.read_file");
/// ```
#[must_use]
pub fn canonical(text: &str) -> Cow<'_, str> {
    if !text.starts_with("plugin:") {
        return Cow::Borrowed(text);
    }
    CommandName::parse(text).map_or(Cow::Borrowed(text), |name| Cow::Owned(name.as_str().to_owned()))
}

/// The name of a command in its canonical spelling: `fs.read_file`, `org.acme.thumbs.resize`, or `greet`.
///
/// Equality, order and hash are those of [`as_str`](Self::as_str), so that a map keyed by it is looked up by `&str`
/// without an allocation. Cloning shares the text.
#[derive(Clone)]
pub struct CommandName {
    text: Arc<str>,
    /// Bytes of the plugin's part, without the dot; 0 for a command without a plugin.
    plugin_len: u8,
}

impl CommandName {
    /// Parses the canonical spelling, or Tauri's `plugin:fs|read_file`, which it makes canonical.
    ///
    /// # Errors
    /// [`NameError`] with the offset, in `text`, of the first byte that breaks the grammar.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(tauri) = text.strip_prefix("plugin:") {
            let bar = tauri.find('|').ok_or(NameError::MissingBar)?;
            let (plugin, command) = (&tauri[..bar], &tauri[bar + 1..]);
            check_len(plugin.len() + 1 + command.len())?;
            check_plugin(plugin, "plugin:".len())?;
            check_command(command, "plugin:".len() + bar + 1)?;
            return Ok(Self::checked(Some(plugin), command));
        }
        check_len(text.len())?;
        match text.rfind('.') {
            None => {
                check_command(text, 0)?;
                Ok(Self::checked(None, text))
            }
            Some(dot) => {
                check_plugin(&text[..dot], 0)?;
                check_command(&text[dot + 1..], dot + 1)?;
                Ok(Self::checked(Some(&text[..dot]), &text[dot + 1..]))
            }
        }
    }

    /// The command `command` of `plugin`, or of the application itself when there is none.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); offsets count from the start of `command`.
    pub fn new(plugin: Option<&PluginName>, command: &str) -> Result<Self, NameError> {
        check_len(plugin.map_or(0, |p| p.as_str().len() + 1) + command.len())?;
        check_command(command, 0)?;
        Ok(Self::checked(plugin.map(PluginName::as_str), command))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The plugin's part: everything before the last dot, or nothing.
    #[must_use]
    pub fn plugin(&self) -> Option<&str> {
        (self.plugin_len > 0).then(|| &self.text[..usize::from(self.plugin_len)])
    }

    /// The command's part: everything after the last dot.
    #[must_use]
    pub fn command(&self) -> &str {
        match usize::from(self.plugin_len) {
            0 => &self.text,
            n => &self.text[n + 1..],
        }
    }

    /// The permission that allows this command, which exists without being written: `fs:allow-read-file`.
    #[must_use]
    pub fn permission_allow(&self) -> String {
        self.permission("allow-")
    }

    /// The permission that denies this command, which exists without being written: `fs:deny-read-file`.
    #[must_use]
    pub fn permission_deny(&self) -> String {
        self.permission("deny-")
    }

    fn permission(&self, verb: &str) -> String {
        let plugin = self.plugin();
        let mut text = String::with_capacity(self.text.len() + verb.len() + 1);
        if let Some(plugin) = plugin {
            text.push_str(plugin);
            text.push(':');
        }
        text.push_str(verb);
        text.extend(self.command().chars().map(|c| if c == '_' { '-' } else { c }));
        text
    }

    /// Joins two parts that were checked, together no longer than [`MAX_NAME_LEN`].
    fn checked(plugin: Option<&str>, command: &str) -> Self {
        match plugin {
            None => CommandName { text: command.into(), plugin_len: 0 },
            Some(plugin) => CommandName {
                text: format!("{plugin}.{command}").into(),
                plugin_len: u8::try_from(plugin.len()).expect("a name is at most 255 bytes"),
            },
        }
    }
}

/// The name of a plugin: `fs`, `org.acme.thumbs`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginName(Arc<str>);

impl PluginName {
    /// Parses the name of a plugin.
    ///
    /// # Errors
    /// [`NameError`] with the offset of the first byte that breaks the grammar.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        // A plugin that leaves no room for a dot and a command could never be called.
        check_len(text.len() + 2)?;
        check_plugin(text, 0)?;
        Ok(PluginName(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is wrong with a name; offsets are in bytes of the text that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing where a plugin, a segment of one, or a command must stand.
    #[error("empty name or segment at byte {at}")]
    Empty {
        /// Where the missing part would start.
        at: usize,
    },
    /// The canonical text is longer than [`MAX_NAME_LEN`].
    #[error("name of {len} bytes, the limit is {MAX_NAME_LEN}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A byte that may not stand there.
    #[error("'{}' may not stand at byte {at} of a name", .byte.escape_ascii())]
    Byte {
        /// Its offset.
        at: usize,
        /// The byte.
        byte: u8,
    },
    /// `plugin:` without the `|` that ends the plugin's name.
    #[error("`plugin:` without `|` before the command")]
    MissingBar,
}

fn check_len(len: usize) -> Result<(), NameError> {
    if len > MAX_NAME_LEN { Err(NameError::TooLong { len }) } else { Ok(()) }
}

fn check_plugin(text: &str, offset: usize) -> Result<(), NameError> {
    let mut start = true;
    for (i, byte) in text.bytes().enumerate() {
        let at = offset + i;
        start = match byte {
            b'.' if start => return Err(NameError::Empty { at }),
            b'.' => true,
            b'a'..=b'z' | b'0'..=b'9' => false,
            b'_' | b'-' if !start => false,
            _ => return Err(NameError::Byte { at, byte }),
        };
    }
    if start { Err(NameError::Empty { at: offset + text.len() }) } else { Ok(()) }
}

fn check_command(text: &str, offset: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { at: offset });
    }
    for (i, byte) in text.bytes().enumerate() {
        if !(byte.is_ascii_alphanumeric() || byte == b'_' || (byte == b'-' && i > 0)) {
            return Err(NameError::Byte { at: offset + i, byte });
        }
    }
    Ok(())
}

impl PartialEq for CommandName {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CommandName {}

impl PartialOrd for CommandName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CommandName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for CommandName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As `str` hashes, which `Borrow<str>` promises.
        self.text.hash(state);
    }
}

macro_rules! text_impls {
    ($($name:ident),*) => {$(
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    )*};
}
text_impls!(CommandName, PluginName);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{CommandName, NameError, PluginName};

    #[test]
    fn both_spellings_give_one_name() {
        for (text, canonical, plugin, command) in [
            ("greet", "greet", None, "greet"),
            ("fs.read_file", "fs.read_file", Some("fs"), "read_file"),
            ("plugin:fs|read_file", "fs.read_file", Some("fs"), "read_file"),
            ("org.acme.thumbs.resize", "org.acme.thumbs.resize", Some("org.acme.thumbs"), "resize"),
            ("plugin:org.acme-2.t_1|reSize-x", "org.acme-2.t_1.reSize-x", Some("org.acme-2.t_1"), "reSize-x"),
        ] {
            let name = CommandName::parse(text).unwrap();
            assert_eq!((name.as_str(), name.plugin(), name.command()), (canonical, plugin, command));
            assert_eq!(name, CommandName::parse(canonical).unwrap());
        }
    }

    #[test]
    fn what_is_no_name_of_tauris_stays_as_it_is() {
        for text in ["", "greet", "fs.read_file", "plugin:fs", "plugin:|x", "plugin:Fs|x"] {
            assert_eq!(super::canonical(text), text);
        }
    }

    #[test]
    fn errors_name_the_byte() {
        let byte = |at, b: char| NameError::Byte { at, byte: u8::try_from(b).unwrap() };
        for (text, error) in [
            ("", NameError::Empty { at: 0 }),
            ("fs.", NameError::Empty { at: 3 }),
            (".read", NameError::Empty { at: 0 }),
            ("a..read", NameError::Empty { at: 2 }),
            ("plugin:fs", NameError::MissingBar),
            ("plugin:|x", NameError::Empty { at: 7 }),
            ("plugin:fs|", NameError::Empty { at: 10 }),
            ("plugin:fs|a.b", byte(11, '.')),
            ("Fs.read", byte(0, 'F')),
            ("f_s.-read", byte(4, '-')),
            ("-fs.read", byte(0, '-')),
            ("fs.re ad", byte(5, ' ')),
            ("fs.re\0", byte(5, '\0')),
            ("fs:read", byte(2, ':')),
            ("\u{e9}", NameError::Byte { at: 0, byte: 0xc3 }),
        ] {
            assert_eq!(CommandName::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn length_is_that_of_the_canonical_text() {
        let long = "a".repeat(252);
        assert!(CommandName::parse(&format!("p.{long}x")).is_ok_and(|n| n.as_str().len() == 255));
        assert!(CommandName::parse(&format!("plugin:p|{long}x")).is_ok());
        assert_eq!(CommandName::parse(&format!("p.{long}xx")), Err(NameError::TooLong { len: 256 }));
        assert_eq!(CommandName::parse(&format!("plugin:p|{long}xx")), Err(NameError::TooLong { len: 256 }));
        assert!(PluginName::parse(&"p".repeat(253)).is_ok());
        assert_eq!(PluginName::parse(&"p".repeat(254)), Err(NameError::TooLong { len: 256 }));
        let plugin = PluginName::parse(&"p".repeat(253)).unwrap();
        assert!(CommandName::new(Some(&plugin), "x").is_ok());
        assert_eq!(CommandName::new(Some(&plugin), "xy"), Err(NameError::TooLong { len: 256 }));
    }

    #[test]
    fn permissions_are_derived() {
        let name = CommandName::parse("fs.read_file").unwrap();
        assert_eq!(name.permission_allow(), "fs:allow-read-file");
        assert_eq!(name.permission_deny(), "fs:deny-read-file");
        assert_eq!(CommandName::parse("greet").unwrap().permission_allow(), "allow-greet");
        let dotted = CommandName::parse("org.acme.thumbs.resize").unwrap();
        assert_eq!(dotted.permission_allow(), "org.acme.thumbs:allow-resize");
    }

    #[test]
    fn a_map_is_looked_up_by_str() {
        let map = HashMap::from([(CommandName::parse("plugin:fs|read_file").unwrap(), 1)]);
        assert_eq!(map.get("fs.read_file"), Some(&1));
        assert_eq!(map.get("fs.read"), None);
    }
}
