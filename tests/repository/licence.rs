//! SPDX licence expressions: whether what is allowed satisfies one.

/// Whether `expression` can be met with licences of `allowed` alone.
///
/// Knows `AND`, `OR`, `WITH`, parentheses and the `/` that old manifests write for `OR`. A licence with an exception
/// is met by an entry for the licence itself too: an exception only adds permissions.
pub(crate) fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0, allowed };
    let verdict = parser.any()?;
    match parser.next() {
        None => Ok(verdict),
        Some(word) => Err(format!("`{expression}`: unexpected `{word}`")),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
    allowed: &'a [String],
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut verdict = self.all()?;
        while self.eat("OR") {
            verdict |= self.all()?;
        }
        Ok(verdict)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut verdict = self.one()?;
        while self.eat("AND") {
            verdict &= self.one()?;
        }
        Ok(verdict)
    }

    fn one(&mut self) -> Result<bool, String> {
        match self.next() {
            Some("(") => {
                let verdict = self.any()?;
                if self.eat(")") { Ok(verdict) } else { Err("a parenthesis is open".to_owned()) }
            }
            None | Some(")" | "AND" | "OR" | "WITH") => Err("a licence is missing".to_owned()),
            Some(licence) => {
                let exception = if self.eat("WITH") { self.next() } else { None };
                let with = exception.map(|exception| format!("{licence} WITH {exception}"));
                Ok(self.allowed.iter().any(|entry| entry == licence || Some(entry) == with.as_ref()))
            }
        }
    }
}

#[test]
fn expressions_are_met_by_what_is_allowed() {
    let allowed = ["MIT".to_owned(), "Unicode-3.0".to_owned()];
    for (expression, verdict) in [
        ("MIT", true),
        ("Apache-2.0", false),
        ("MIT OR Apache-2.0", true),
        ("Apache-2.0/MIT", true),
        ("MIT AND Apache-2.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("MIT AND (GPL-3.0-only OR Apache-2.0)", false),
        ("GPL-2.0-only OR MIT AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("Apache-2.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), Ok(verdict), "{expression}");
    }
}

#[test]
fn broken_expressions_are_errors() {
    for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND MIT"] {
        assert!(is_allowed(expression, &["MIT".to_owned()]).is_err(), "{expression}");
    }
}
