//! Where a policy's text came from, and what is wrong with it.
//!
//! Owns places (file, line, column) and the two kinds of message that refer to them. Reads no files: `load` does.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file of a policy: its name as messages print it, its path, its text.
#[derive(Clone)]
pub struct Source(Arc<SourceText>);

struct SourceText {
    name: String,
    path: Option<PathBuf>,
    text: String,
    /// Whether there is a text that people have before them, so that lines mean something.
    is_placed: bool,
}

impl Source {
    /// A source called `name` in messages; `path` is where it was read, if it is a file.
    #[must_use]
    pub fn new(name: impl Into<String>, path: Option<PathBuf>, text: impl Into<String>) -> Self {
        Source(Arc::new(SourceText { name: name.into(), path, text: text.into(), is_placed: true }))
    }

    /// A source without a text: messages have its name and no place.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        let text = SourceText { name: name.into(), path: None, text: String::new(), is_placed: false };
        Source(Arc::new(text))
    }

    /// The name that messages print.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file it was read from; `None` for embedded and generated text.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Where the byte offset `at` stands. Offsets past the end stand at the end.
    #[must_use]
    pub fn position(&self, at: usize) -> Position {
        let before = &self.text()[..self.boundary(at)];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let count = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        Position {
            line: count(before.bytes().filter(|b| *b == b'\n').count()),
            column: count(before[start..].chars().count()),
        }
    }

    /// The place of `span` in this source, which is narrowed to whole characters of it.
    #[must_use]
    pub fn at(&self, span: Range<usize>) -> Location {
        let start = self.boundary(span.start);
        let end = self.boundary(span.end).max(start);
        Location { source: self.clone(), span: start..end }
    }

    /// The last character boundary up to `at`.
    fn boundary(&self, at: usize) -> usize {
        let text = self.text();
        let at = at.min(text.len());
        (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name())
    }
}

/// A line and a column, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
}

/// A span of a source. Displays as `gallery.toml:4`, which is how explanations cite it.
#[derive(Clone)]
pub struct Location {
    source: Source,
    span: Range<usize>,
}

impl Location {
    /// The source it lies in.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where it starts. Counts the lines before it, so it is asked for when a message is written, not before.
    #[must_use]
    pub fn position(&self) -> Position {
        self.source.position(self.span.start)
    }

    /// Its bytes in the source's text.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Whether it lies in a text; else it is only a name.
    pub(crate) fn is_placed(&self) -> bool {
        self.source.0.is_placed
    }

    /// An error that stands here.
    #[must_use]
    pub fn error(&self, message: impl Into<String>) -> PolicyError {
        if !self.source.0.is_placed {
            return PolicyError::unplaced(self.source.name(), message);
        }
        PolicyError {
            file: self.source.name().to_owned(),
            position: Some(self.position()),
            span: Some(self.span.clone()),
            source: Some(self.source.clone()),
            message: message.into(),
            help: None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.0.is_placed {
            true => write!(f, "{}:{}", self.source.name(), self.position().line),
            false => f.write_str(self.source.name()),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}:{}", self.position().column)
    }
}

/// One thing that is wrong with a policy, or, as a warning, that may not be what its author meant.
///
/// Displays as one line, `gallery.toml:4:12: unknown permission "fs:alow-read-file"; did you mean …?`. With
/// [`text`](Self::text) and [`span`](Self::span) a report can draw the line with a caret.
#[derive(Clone, Debug)]
pub struct PolicyError {
    file: String,
    position: Option<Position>,
    span: Option<Range<usize>>,
    source: Option<Source>,
    message: String,
    help: Option<String>,
}

impl PolicyError {
    /// An error about a whole file or directory, or about a manifest: `file` names it.
    #[must_use]
    pub fn unplaced(file: impl Into<String>, message: impl Into<String>) -> Self {
        PolicyError {
            file: file.into(),
            position: None,
            span: None,
            source: None,
            message: message.into(),
            help: None,
        }
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same error with "did you mean", if one of `candidates` is near `written`.
    #[must_use]
    pub fn did_you_mean<'a>(self, written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(written, candidates) {
            Some(near) => self.with_help(format!("did you mean \"{near}\"?")),
            None => self,
        }
    }

    /// The name of the file, or what stands in its place.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The path of the file it stands in, when it was read from one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.source.as_ref().and_then(Source::path)
    }

    /// Line and column, when the error lies inside a file.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The bytes of [`text`](Self::text) it is about.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// The text of the file it stands in.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.source.as_ref().map(Source::text)
    }

    /// What is wrong, without file, position and advice.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn order(&self) -> (&str, usize, &str) {
        (&self.file, self.span.as_ref().map_or(0, |s| s.start), &self.message)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PolicyError {}

/// What is found wrong while a policy is read, all of it rather than the first.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<PolicyError>,
    pub(crate) warnings: Vec<PolicyError>,
    /// What its author should know, and can do nothing about.
    pub(crate) notes: Vec<PolicyError>,
}

impl Findings {
    pub(crate) fn error(&mut self, error: PolicyError) {
        self.errors.push(error);
    }

    pub(crate) fn warn(&mut self, warning: PolicyError) {
        self.warnings.push(warning);
    }

    pub(crate) fn note(&mut self, note: PolicyError) {
        self.notes.push(note);
    }

    /// In the order of the files' text: maps are not read in the order they were written.
    pub(crate) fn sort(&mut self) {
        for kind in [&mut self.errors, &mut self.warnings, &mut self.notes] {
            kind.sort_by(|a, b| a.order().cmp(&b.order()));
        }
    }
}

/// The candidate that is nearest to `written`, if any is near enough to be a slip of the hand.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = written.chars().count().div_ceil(3).clamp(1, 4);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(written.len()) <= 4 * limit)
        .map(|candidate| (distance(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters, of names a few dozen characters long.
fn distance(a: &str, b: &str) -> usize {
    // A hostile name may be long; nothing that long is a slip.
    const LONGEST: usize = 512;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{Position, Source, distance, nearest};

    #[test]
    fn positions_count_characters_from_one() {
        let source = Source::new("a.toml", None, "é = 1\nab\n");
        for (at, line, column) in
            [(0, 1, 1), (1, 1, 1), (2, 1, 2), (6, 1, 6), (7, 2, 1), (9, 2, 3), (99, 3, 1)]
        {
            assert_eq!(source.position(at), Position { line, column }, "byte {at}");
        }
    }

    #[test]
    fn an_error_prints_as_one_line() {
        let source = Source::new("gallery.toml", None, "x\n   y");
        let error = source.at(5..6).error("unknown key \"y\"").did_you_mean("y", ["x", "long"]);
        assert_eq!(error.to_string(), "gallery.toml:2:4: unknown key \"y\"; did you mean \"x\"?");
        assert_eq!((error.text(), error.span()), (Some("x\n   y"), Some(5..6)));
    }

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, n) in
            [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("é", "e", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (n, n));
        }
        assert_eq!(nearest("fs:alow-read", ["fs:deny-read", "fs:allow-read"]), Some("fs:allow-read"));
        assert_eq!(nearest("quite-other", ["fs:deny-read", "fs:allow-read"]), None);
        assert_eq!(nearest(&"a".repeat(10_000), ["a"]), None);
    }
}
