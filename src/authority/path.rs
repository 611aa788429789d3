//! Patterns over absolute paths: the scope of commands that open files.
//!
//! Owns the pattern's grammar and the matching of one path against it. Opens nothing and resolves no links: the path
//! must already be the one that the kernel opened.
//!
//! `*` matches within a component, `**` any number of whole components (at the end of a pattern, one or more), `?` one
//! character, `[abc]`, `[a-z]` and `[!a]` one of or none of these; `[*]` is a literal `*`. A component that starts with
//! a dot is matched by a component that writes this dot, and by nothing else, unless `dotfiles = true`. Variables
//! stand at the start and are literal whatever their value contains.

use std::path::Path;

use serde_json::Value;

use super::glob::{Token, glob, tokens};
use super::scope::{
    InputError, ScopeContext, ScopeError, ScopeObject, ScopeObjectMatch, ScopeRole, ScopeVariable,
};
use super::source::nearest;

/// The longest pattern in bytes; the kernel's PATH_MAX.
const MAX_PATTERN_LEN: usize = 4096;

/// A pattern over absolute paths, with its variables filled in for one peer.
///
/// As a scope value it is a string, `"$PEER_HOME/Pictures/**"`, or a table, `{ path = "…", dotfiles = true }`.
/// In a `deny` list dotfiles always match: what is below a denied folder is denied, hidden or not.
#[derive(Clone, Debug)]
pub struct PathScope {
    components: Vec<Component>,
    dotfiles: bool,
}

#[derive(Clone, Debug)]
enum Component {
    Literal(String),
    Glob(Vec<Token>),
    Deep,
}

impl PathScope {
    /// Whether `path`, absolute and already resolved, matches. No allocation; time is the product of the lengths of
    /// path and pattern, never more.
    ///
    /// # Errors
    /// [`InputError`] for a path that no pattern may judge: relative, with `.` or `..`, a NUL byte, or not UTF-8.
    pub fn matches_path(&self, path: &Path) -> Result<bool, InputError> {
        let path = checked(path)?;
        Ok(self.matches_checked(path))
    }

    /// The pattern that matches `path` and nothing else.
    #[must_use]
    pub fn escape(path: &str) -> String {
        let mut text = String::with_capacity(path.len());
        for c in path.chars() {
            match c {
                '*' | '?' | '[' | '$' => text.extend(['[', c, ']']),
                c => text.push(c),
            }
        }
        text
    }

    /// Greedy with one step back, to the last `**`. That is enough: a component with a dot is matched only by a
    /// component that writes the dot, so what an early match makes a later `**` cross, it may cross.
    fn matches_checked(&self, path: &str) -> bool {
        let mut rest = components(path);
        let mut at = 0;
        let mut retry: Option<(usize, std::str::Split<'_, char>)> = None;
        loop {
            let before = rest.clone();
            let next = next_component(&mut rest);
            match (self.components.get(at), next) {
                (None, None) => return true,
                (Some(Component::Deep), next) if at + 1 == self.components.len() => {
                    // One or more to the end, each of which it may cross.
                    return match next {
                        None => false,
                        Some(first) => {
                            self.crosses(first)
                                && std::iter::from_fn(|| next_component(&mut rest)).all(|c| self.crosses(c))
                        }
                    };
                }
                (Some(Component::Deep), _) => {
                    at += 1;
                    retry = Some((at, before.clone()));
                    rest = before;
                    continue;
                }
                (Some(component), Some(text)) if self.one(component, text) => {
                    at += 1;
                    continue;
                }
                _ => {}
            }
            // Let the last `**` swallow one component more.
            let Some((after, mut from)) = retry.take() else { return false };
            match next_component(&mut from) {
                Some(swallowed) if self.crosses(swallowed) => {
                    at = after;
                    rest = from.clone();
                    retry = Some((after, from));
                }
                _ => return false,
            }
        }
    }

    fn crosses(&self, component: &str) -> bool {
        self.dotfiles || !component.starts_with('.')
    }

    fn one(&self, component: &Component, text: &str) -> bool {
        match component {
            Component::Literal(literal) => literal == text,
            Component::Glob(tokens) => {
                let writes_dot = matches!(tokens.first(), Some(Token::Char('.')));
                (writes_dot || self.crosses(text)) && glob(tokens, text)
            }
            Component::Deep => false,
        }
    }
}

impl ScopeObject for PathScope {
    fn parse(value: &Value, role: ScopeRole, context: &ScopeContext) -> Result<Self, ScopeError> {
        let (text, dotfiles) = fields(value)?;
        let (prefix, pattern) = expand(text, context)?;
        let mut components: Vec<Component> = self::components(prefix)
            .filter(|c| !c.is_empty())
            .map(|c| Component::Literal(c.to_owned()))
            .collect();
        for text in pattern.split('/').filter(|c| !c.is_empty()) {
            let component = component(text)?;
            // `**/**` is `**`, except that only the last must match something.
            let deep = |c: &Component| matches!(c, Component::Deep);
            if !(deep(&component) && components.last().is_some_and(deep)) {
                components.push(component);
            }
        }
        Ok(PathScope { components, dotfiles: dotfiles || role == ScopeRole::Deny })
    }
}

impl ScopeObjectMatch for PathScope {
    type Input = Path;

    fn admit(input: &Path) -> Result<(), InputError> {
        checked(input).map(|_| ())
    }

    fn matches(&self, input: &Path) -> bool {
        checked(input).is_ok_and(|path| self.matches_checked(path))
    }
}

/// The path as text, if a pattern may judge it.
fn checked(path: &Path) -> Result<&str, InputError> {
    let text = path.to_str().ok_or(InputError("is not UTF-8"))?;
    if !text.starts_with('/') {
        return Err(InputError("is not absolute"));
    }
    if text.contains('\0') {
        return Err(InputError("contains a NUL byte"));
    }
    // Byte by byte: it is looked at for each pattern, and to split it would take longer than to match it.
    let bytes = text.as_bytes();
    let dots =
        |rest: &[u8]| matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..]);
    if (0..bytes.len()).any(|at| bytes[at] == b'/' && dots(&bytes[at + 1..])) {
        return Err(InputError("contains `.` or `..`"));
    }
    Ok(text)
}

/// Empty components, which `//` and a slash at the end give, are skipped by [`next_component`].
fn components(path: &str) -> std::str::Split<'_, char> {
    path.split('/')
}

fn next_component<'p>(rest: &mut std::str::Split<'p, char>) -> Option<&'p str> {
    rest.find(|c| !c.is_empty())
}

fn fields(value: &Value) -> Result<(&str, bool), ScopeError> {
    let wanted = || ScopeError::new("a path scope is a string or { path = \"…\", dotfiles = true }");
    let map = match value {
        Value::String(text) => return Ok((text, false)),
        Value::Object(map) => map,
        _ => return Err(wanted()),
    };
    if let Some(key) = map.keys().find(|k| !matches!(k.as_str(), "path" | "dotfiles")) {
        return Err(ScopeError::new(format!("unknown key {key:?} in a path scope"))
            .did_you_mean(nearest(key, ["path", "dotfiles"])));
    }
    let Some(Value::String(path)) = map.get("path") else { return Err(wanted()) };
    match map.get("dotfiles") {
        None => Ok((path, false)),
        Some(Value::Bool(dotfiles)) => Ok((path, *dotfiles)),
        Some(_) => Err(ScopeError::new("`dotfiles` is true or false")),
    }
}

/// Splits a pattern into the literal value of its variable and the rest.
fn expand<'t>(text: &'t str, context: &'t ScopeContext) -> Result<(&'t str, &'t str), ScopeError> {
    if text.len() > MAX_PATTERN_LEN {
        return Err(ScopeError::new(format!("a pattern longer than {MAX_PATTERN_LEN} bytes")));
    }
    if text.contains('\0') {
        return Err(ScopeError::new("a NUL byte in a pattern"));
    }
    let (prefix, rest) = match text.strip_prefix('$') {
        None if text.starts_with('/') => ("", text),
        None => {
            return Err(ScopeError::new("a path pattern starts with `/` or a variable such as $PEER_HOME"));
        }
        Some(name) => {
            let end = name.find('/').unwrap_or(name.len());
            let (name, rest) = name.split_at(end);
            let variable = ScopeVariable::parse(name).ok_or_else(|| {
                ScopeError::new(format!("unknown variable ${name}"))
                    .did_you_mean(nearest(name, ScopeVariable::NAMES).map(|n| format!("${n}")).as_deref())
            })?;
            (context.value(variable)?, rest)
        }
    };
    if rest.split('/').any(|c| c == "." || c == "..") {
        return Err(ScopeError::new("`.` and `..` match no resolved path"));
    }
    Ok((prefix, rest))
}

fn component(text: &str) -> Result<Component, ScopeError> {
    if text == "**" {
        return Ok(Component::Deep);
    }
    if text.contains("**") {
        return Err(ScopeError::new("`**` stands alone between slashes"));
    }
    let tokens = tokens(text)?;
    let variable =
        |pair: &[Token]| matches!(pair, [Token::Char('$'), Token::Char(c)] if c.is_ascii_uppercase());
    if tokens.windows(2).any(variable) {
        return Err(ScopeError::new("a variable stands at the start of a pattern; `[$]` is a literal `$`"));
    }
    let literal: Option<String> = tokens.iter().map(Token::literal).collect();
    Ok(literal.map_or(Component::Glob(tokens), Component::Literal))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::{prop_assert_eq, proptest};
    use serde_json::{Value, json};

    use super::{InputError, PathScope, ScopeContext, ScopeObject, ScopeObjectMatch, ScopeRole};
    use crate::authority::ScopeVariable;

    fn context(home: &str) -> ScopeContext {
        let shared = [(ScopeVariable::Temp, "/tmp".to_owned())].into_iter().collect();
        ScopeContext::new(Arc::new(shared), Some(Path::new(home)))
    }

    fn scope(value: Value) -> PathScope {
        PathScope::parse(&value, ScopeRole::Allow, &context("/home/ana")).unwrap()
    }

    fn matches(pattern: &str, path: &str) -> bool {
        scope(json!(pattern)).matches_path(Path::new(path)).unwrap()
    }

    #[test]
    fn a_pattern_has_its_longest_length_and_no_more() {
        let pattern = |len: usize| json!(format!("/{}", "a".repeat(len - 1)));
        let parse = |len| PathScope::parse(&pattern(len), ScopeRole::Allow, &context("/home/ana"));
        assert!(parse(super::MAX_PATTERN_LEN).is_ok());
        assert!(parse(super::MAX_PATTERN_LEN + 1).unwrap_err().to_string().contains("longer than 4096"));
    }

    #[test]
    fn patterns_match_components() {
        for (pattern, yes, no) in [
            ("/", &["/", "//"][..], &["/a"][..]),
            ("/a/b", &["/a/b", "//a//b/"], &["/a", "/a/b/c", "/a/B", "/a/b "]),
            ("/a/*", &["/a/b", "/a/é"], &["/a", "/a/b/c", "/a/.b"]),
            ("/a/**", &["/a/b", "/a/b/c"], &["/a", "/ab", "/a/.b", "/a/b/.c", "/a/.b/c"]),
            ("/a/**/**", &["/a/b", "/a/b/c"], &["/a"]),
            ("/a/**/z", &["/a/z", "/a/b/z", "/a/b/z/z"], &["/a", "/a/.b/z", "/a/b/z/y"]),
            ("/**/b/**/d", &["/b/d", "/a/b/c/b/d", "/b/b/d/d"], &["/b", "/d", "/b/.x/d"]),
            ("/a/.*", &["/a/.b", "/a/.bc"], &["/a/b", "/a/.b/c"]),
            ("/a/.b/**", &["/a/.b/c"], &["/a/.b/.c", "/a/b/c"]),
            ("/a/*.txt", &["/a/b.txt", "/a/b.txt.txt"], &["/a/.txt", "/a/.b.txt", "/a/btxt"]),
            ("/a/?b", &["/a/xb", "/a/éb"], &["/a/b", "/a/.b", "/a/xxb"]),
            ("/a/[.x]b", &["/a/xb"], &["/a/.b"]),
            ("/a/[.]b", &[], &["/a/.b", "/a/b"]),
            ("/a/b[.]c", &["/a/b.c"], &["/a/bxc"]),
            ("/a/[!x]b", &["/a/yb"], &["/a/xb", "/a/.b"]),
            ("/a/[a-cx]", &["/a/b", "/a/x"], &["/a/d", "/a/-"]),
            ("/a/[]x]", &["/a/]", "/a/x"], &["/a/y"]),
            ("/a/[a-]", &["/a/a", "/a/-"], &["/a/b"]),
            ("/a/[*][?][[]", &["/a/*?["], &["/a/xyz"]),
            ("/a/{b,c}", &["/a/{b,c}"], &["/a/b"]),
            ("/a\\b", &["/a\\b"], &["/ab"]),
            ("$PEER_HOME/**", &["/home/ana/x"], &["/home/ana", "/home/anas/x", "/home/bob/x"]),
            ("$PEER_HOME", &["/home/ana"], &["/home/ana/x"]),
            ("$TEMP/*", &["/tmp/x"], &["/tmp/x/y"]),
        ] {
            for path in yes {
                assert!(matches(pattern, path), "{pattern} must match {path}");
            }
            for path in no {
                assert!(!matches(pattern, path), "{pattern} must not match {path}");
            }
        }
    }

    #[test]
    fn dotfiles_are_matched_when_asked_for_and_always_denied() {
        let allow = scope(json!({ "path": "/a/**", "dotfiles": true }));
        let deny = PathScope::parse(&json!("/a/**"), ScopeRole::Deny, &ScopeContext::default()).unwrap();
        for path in ["/a/.b", "/a/b/.c", "/a/.b/c", "/a/b"] {
            assert!(allow.matches(Path::new(path)) && deny.matches(Path::new(path)), "{path}");
        }
        assert!(!scope(json!({ "path": "/a/**", "dotfiles": false })).matches(Path::new("/a/.b")));
    }

    #[test]
    fn a_variable_is_literal_whatever_it_contains() {
        for (home, other) in [("/home/*", "/home/bob"), ("/home/[ab]", "/home/a"), ("/h/**/x", "/h/b/x")] {
            let scope = PathScope::parse(&json!("$PEER_HOME/f"), ScopeRole::Allow, &context(home)).unwrap();
            assert!(scope.matches(Path::new(&format!("{home}/f"))));
            assert!(!scope.matches(Path::new(&format!("{other}/f"))));
        }
        // `/**` below such a home would be every file.
        for home in ["/", "//", "relative", "/a/../b", ""] {
            assert!(
                PathScope::parse(&json!("$PEER_HOME/**"), ScopeRole::Allow, &context(home)).is_err(),
                "{home}"
            );
        }
    }

    /// Names that look alike, or that another file system would take for one: here they are as different as the kernel has
    /// them, so that neither allows what the other names nor escapes a denial by being written like it.
    #[test]
    fn case_normal_forms_and_invisible_characters_make_other_files() {
        let twins = [
            ("/a/caf\u{e9}", "/a/cafe\u{301}"),
            ("/a/\u{212b}", "/a/\u{c5}"),
            ("/a/file", "/a/File"),
            ("/a/stra\u{df}e", "/a/STRASSE"),
            ("/a/\u{130}", "/a/i\u{307}"),
            ("/a/\u{430}", "/a/a"),
            ("/a/b", "/a/b\u{200b}"),
            ("/a/b", "/a/\u{202e}b"),
            ("/a/b", "/a/b "),
            ("/a/b", "/a\u{2215}b"),
            ("/a/\u{ff0e}\u{ff0e}/b", "/a/../b"),
        ];
        for (written, other) in twins {
            assert!(matches(written, written), "{written}");
            let found = scope(json!(written)).matches_path(Path::new(other));
            assert!(!found.unwrap_or(false), "{written} must not match {other}");
            let deny = PathScope::parse(&json!(written), ScopeRole::Deny, &ScopeContext::default()).unwrap();
            assert!(deny.matches(Path::new(written)) && !deny.matches(Path::new(other)), "{other}");
        }
        // What looks like dots and is none crosses nothing and is no dotfile.
        assert!(matches("/a/*", "/a/\u{ff0e}b") && !matches("/a/*", "/a/.b"));
        assert!(!matches("/a/*", "/a/b\u{2215}c/d") && matches("/a/*", "/a/b\u{2215}c"));
    }

    /// A file may be called as a pattern is written: it is text like any other.
    #[test]
    fn glob_characters_in_a_path_mean_themselves() {
        for path in
            ["/a/*", "/a/**", "/a/?", "/a/[b]", "/a/[!b]", "/a/{b,c}", "/a/$HOME", "/a/$PEER_HOME", "/a/\\*"]
        {
            assert!(!matches("/a/b", path), "{path}");
            assert!(!matches("$PEER_HOME/b", path), "{path}");
            assert!(matches("/a/*", path), "{path}");
            let only = scope(json!(PathScope::escape(path)));
            assert!(only.matches(Path::new(path)) && !only.matches(Path::new("/a/b")), "{path}");
        }
        assert!(!matches("/a/*/c", "/a/**/b/c") && !matches("/a/b", "/**"));
    }

    #[test]
    fn patterns_are_read_strictly() {
        let wanted = "a path scope is a string or { path = \"…\", dotfiles = true }";
        let absolute = "a path pattern starts with `/` or a variable such as $PEER_HOME";
        for (value, message) in [
            (json!("a/b"), absolute),
            (json!(""), absolute),
            (json!("~/x"), absolute),
            (json!("$HOEM/x"), "unknown variable $HOEM"),
            (json!("$PEER_HOMEx"), "unknown variable $PEER_HOMEx"),
            (json!("$RUNTIME/x"), "$RUNTIME has no value in this daemon"),
            (json!("$DIR/x"), "$DIR is known under --dev only"),
            (json!("/a/$HOME"), "a variable stands at the start of a pattern; `[$]` is a literal `$`"),
            (json!("/a/../b"), "`.` and `..` match no resolved path"),
            (json!("$TEMP/./b"), "`.` and `..` match no resolved path"),
            (json!("/a/b**"), "`**` stands alone between slashes"),
            (json!("/a/***"), "`**` stands alone between slashes"),
            (json!("/a/[b"), "`[` without `]`; `[[]` is a literal `[`"),
            (json!("/a/[]"), "`[` without `]`; `[[]` is a literal `[`"),
            (json!("/a/[z-a]"), "the range z-a is empty"),
            (json!("/a\0"), "a NUL byte in a pattern"),
            (json!(format!("/{}", "a".repeat(4096))), "a pattern longer than 4096 bytes"),
            (json!(1), wanted),
            (json!({ "dotfiles": true }), wanted),
            (json!({ "path": 1 }), wanted),
            (json!({ "path": "/a", "dotfiles": "yes" }), "`dotfiles` is true or false"),
            (json!({ "path": "/a", "dotfile": true }), "unknown key \"dotfile\" in a path scope"),
        ] {
            let error = PathScope::parse(&value, ScopeRole::Allow, &context("/home/ana")).unwrap_err();
            assert_eq!(error.message(), message, "{value}");
        }
        let near =
            PathScope::parse(&json!("$PEER_HOEM/x"), ScopeRole::Allow, &context("/home/ana")).unwrap_err();
        assert_eq!(near.help(), Some("did you mean \"$PEER_HOME\"?"));
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_not_resolved_are_not_judged() {
        use std::os::unix::ffi::OsStrExt;

        let everything = scope(json!({ "path": "/**", "dotfiles": true }));
        for (path, why) in [
            (&b"a/b"[..], "is not absolute"),
            (b"", "is not absolute"),
            (b"/a/../b", "contains `.` or `..`"),
            (b"/a/.", "contains `.` or `..`"),
            (b"/a/..", "contains `.` or `..`"),
            (b"/./a", "contains `.` or `..`"),
            (b"/..", "contains `.` or `..`"),
            (b"//..//a", "contains `.` or `..`"),
            (b"/a\0b", "contains a NUL byte"),
            (b"/a\xff", "is not UTF-8"),
        ] {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            assert_eq!(everything.matches_path(path), Err(InputError(why)));
            assert_eq!(PathScope::admit(path), Err(InputError(why)));
            assert!(!everything.matches(path));
        }
    }

    #[test]
    fn hostile_patterns_take_no_time_to_speak_of() {
        // With a matcher that tries every way to share the text out, these would run for years.
        let deep = format!("{}/b", "/**/a".repeat(100));
        let stars = format!("/{}b", "*a".repeat(100));
        assert!(!matches(&deep, &"/a".repeat(2000)));
        assert!(!matches(&stars, &format!("/{}", "a".repeat(4000))));
    }

    /// What the module's comment says, word for word and by trying every way.
    fn naive(pattern: &[&str], path: &[&str], dotfiles: bool) -> bool {
        match (pattern, path) {
            ([], []) => true,
            ([], _) => false,
            (["**"], path) => !path.is_empty() && path.iter().all(|c| dotfiles || !c.starts_with('.')),
            (["**", rest @ ..], path) => {
                naive(rest, path, dotfiles)
                    || path.split_first().is_some_and(|(first, left)| {
                        (dotfiles || !first.starts_with('.')) && naive(pattern, left, dotfiles)
                    })
            }
            (_, []) => false,
            ([one, rest @ ..], [first, left @ ..]) => {
                let dot = !first.starts_with('.') || dotfiles || one.starts_with('.');
                let (p, t): (Vec<char>, Vec<char>) = (one.chars().collect(), first.chars().collect());
                dot && naive_component(&p, &t) && naive(rest, left, dotfiles)
            }
        }
    }

    fn naive_component(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], text) => (0..=text.len()).any(|n| naive_component(rest, &text[n..])),
            (['?', rest @ ..], [_, left @ ..]) => naive_component(rest, left),
            (['[', c, ']', rest @ ..], [first, left @ ..]) => c == first && naive_component(rest, left),
            ([c, rest @ ..], [first, left @ ..]) => c == first && naive_component(rest, left),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(8_000))]

        #[test]
        fn agrees_with_the_naive_matcher(
            pattern in proptest::collection::vec("\\*\\*|[.ab*?]{1,3}|\\.?[ab]\\[[*.a]\\]", 0..6),
            path in proptest::collection::vec("[.ab*]{1,3}", 0..7),
            dotfiles in proptest::bool::ANY,
        ) {
            let valid = |c: &&String| !matches!(c.as_str(), "." | "..");
            let pattern: Vec<&str> =
                pattern.iter().filter(valid).map(String::as_str).filter(|c| *c == "**" || !c.contains("**")).collect();
            let mut collapsed = pattern.clone();
            collapsed.dedup_by(|a, b| *a == "**" && *b == "**");
            let path: Vec<&str> = path.iter().filter(valid).map(String::as_str).collect();
            let scope = scope(json!({ "path": format!("/{}", pattern.join("/")), "dotfiles": dotfiles }));
            let text = format!("/{}", path.join("/"));
            prop_assert_eq!(scope.matches(Path::new(&text)), naive(&collapsed, &path, dotfiles), "{:?} {}", pattern, text);
        }

        #[test]
        fn an_escaped_path_matches_itself_alone(path in "(/[.a*?$\\[\\]!A-]{1,4}){1,3}", other in "(/[.a*?$\\[\\]!A-]{1,4}){1,3}") {
            if PathScope::admit(Path::new(&path)).is_ok() && PathScope::admit(Path::new(&other)).is_ok() {
                let scope = scope(json!(PathScope::escape(&path)));
                prop_assert_eq!(scope.matches(Path::new(&path)), true);
                prop_assert_eq!(scope.matches(Path::new(&other)), path == other);
            }
        }

        #[test]
        fn no_text_makes_it_panic(pattern in ".{0,40}", path in ".{0,40}") {
            if let Ok(scope) = PathScope::parse(&json!(format!("/{pattern}")), ScopeRole::Allow, &ScopeContext::default()) {
                let _ = scope.matches_path(Path::new(&path));
            }
        }
    }
}
