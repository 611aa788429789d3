//! Rust source as tokens: enough to tell code from comments and literals, and to find paths.

/// A token and the line (from 1) on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or keyword; raw ones without `r#`.
    Ident(String),
    /// `::`.
    PathSep,
    /// Any other punctuation, a character each.
    Punct(char),
    /// A string, character, lifetime or number.
    Literal,
}

impl Token {
    pub(crate) fn is_ident(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::Ident(ident) if ident == name)
    }

    pub(crate) fn is_punct(&self, punct: char) -> bool {
        self.kind == Kind::Punct(punct)
    }
}

/// The tokens of `source`, without comments.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0, line: 1, tokens: Vec::new() };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.tokens
}

/// The tokens without the items that stand under `#[cfg(test)]`.
pub(crate) fn shipped(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_cfg_test(&tokens[at..]) {
            at = end_of_item(tokens, at + CFG_TEST_LEN);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Tokens of `#[cfg(test)]`.
const CFG_TEST_LEN: usize = 7;

fn is_cfg_test(tokens: &[Token]) -> bool {
    let [hash, open, cfg, paren, test, ..] = tokens else { return false };
    hash.is_punct('#')
        && open.is_punct('[')
        && cfg.is_ident("cfg")
        && paren.is_punct('(')
        && test.is_ident("test")
        && tokens.get(5).is_some_and(|token| token.is_punct(')'))
}

/// The index after the item that begins at `at`: after its `;` or its block, whichever closes it.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.kind {
            Kind::Punct('{' | '(' | '[') => depth += 1,
            Kind::Punct('}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            Kind::Punct(')' | ']') => depth = depth.saturating_sub(1),
            Kind::Punct(';') if depth == 0 => break,
            _ => {}
        }
    }
    at
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let line = self.line;
        let c = self.chars[self.at];
        let kind = match c {
            '/' if self.peek(1) == Some('/') => return self.skip_while(|c| c != '\n'),
            '/' if self.peek(1) == Some('*') => return self.block_comment(),
            '"' => self.string(),
            '\'' => self.quote(),
            ':' if self.peek(1) == Some(':') => {
                self.bump(2);
                Kind::PathSep
            }
            c if c.is_whitespace() => return self.bump(1),
            c if c.is_ascii_digit() => {
                self.skip_while(|c| c.is_alphanumeric() || c == '_');
                Kind::Literal
            }
            c if c.is_alphabetic() || c == '_' => self.word(),
            c => {
                self.bump(1);
                Kind::Punct(c)
            }
        };
        self.tokens.push(Token { line, kind });
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn bump(&mut self, count: usize) {
        let end = (self.at + count).min(self.chars.len());
        self.line += self.chars[self.at..end].iter().filter(|c| **c == '\n').count();
        self.at = end;
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.bump(1);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0usize;
        while self.at < self.chars.len() {
            match (self.chars[self.at], self.peek(1)) {
                ('/', Some('*')) => {
                    depth += 1;
                    self.bump(2);
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    self.bump(2);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.bump(1),
            }
        }
    }

    /// A string with escapes; `at` stands on its quote.
    fn string(&mut self) -> Kind {
        self.bump(1);
        while let Some(c) = self.peek(0) {
            self.bump(if c == '\\' { 2 } else { 1 });
            if c == '"' {
                break;
            }
        }
        Kind::Literal
    }

    /// A string without escapes; `at` stands on its first `#` or its quote.
    fn raw_string(&mut self) -> Kind {
        let start = self.at;
        self.skip_while(|c| c == '#');
        let hashes = self.at - start;
        self.bump(1);
        while let Some(c) = self.peek(0) {
            self.bump(1);
            if c == '"' && (0..hashes).all(|n| self.peek(n) == Some('#')) {
                self.bump(hashes);
                break;
            }
        }
        Kind::Literal
    }

    /// A character or a lifetime; `at` stands on its quote.
    fn quote(&mut self) -> Kind {
        if self.peek(1) == Some('\\') {
            self.bump(3);
            self.skip_while(|c| c != '\'');
            self.bump(1);
        } else if self.peek(2) == Some('\'') {
            self.bump(3);
        } else {
            self.bump(1);
            self.skip_while(|c| c.is_alphanumeric() || c == '_');
        }
        Kind::Literal
    }

    /// An identifier, or a literal with a prefix.
    fn word(&mut self) -> Kind {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        let word: String = self.chars[start..self.at].iter().collect();
        match (word.as_str(), self.peek(0), self.peek(1)) {
            ("b" | "c", Some('"'), _) => self.string(),
            ("b", Some('\''), _) => self.quote(),
            ("r" | "br" | "cr", Some('"'), _) | ("r" | "br" | "cr", Some('#'), Some('#' | '"')) => {
                self.raw_string()
            }
            ("r", Some('#'), Some(_)) => {
                self.bump(1);
                self.word()
            }
            _ => Kind::Ident(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Token, shipped, tokens};

    fn idents(tokens: &[Token]) -> Vec<&str> {
        let mut idents = Vec::new();
        for token in tokens {
            if let Kind::Ident(ident) = &token.kind {
                idents.push(ident.as_str());
            }
        }
        idents
    }

    #[test]
    fn comments_and_literals_hide_words() {
        let source = r####"
            // unsafe
            /* unsafe /* nested unsafe */ unsafe */
            let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; let c = b"unsafe"; let d = 'u'; let e = '\'';
            fn f<'unsafe_>(x: &'static str) { r#match(b'"', 0x1f_u8, br##"unsafe"# "##) }
            shown
        "####;
        assert_eq!(
            idents(&tokens(source)),
            [
                "let", "a", "let", "b", "let", "c", "let", "d", "let", "e", "fn", "f", "x", "str", "match",
                "shown"
            ]
        );
    }

    #[test]
    fn lines_count_through_strings_and_comments() {
        let lexed = tokens("a\n\"x\ny\"\n/*\n*/ b");
        assert_eq!(lexed.last().map(|token| token.line), Some(5));
    }

    #[test]
    fn items_under_cfg_test_are_not_shipped() {
        let lexed = tokens(
            "a; #[cfg(test)] mod tests { fn f() { hidden } } b; #[cfg(test)] mod tests; #[cfg(unix)] c",
        );
        let shipped = shipped(&lexed);
        assert_eq!(idents(&shipped), ["a", "b", "cfg", "unix", "c"]);
    }
}
