//! Patterns over one text: what `*`, `?` and `[…]` mean wherever this program matches text.
//!
//! Owns the tokens and their matching. Knows nothing of paths, whose components are matched one by one.
//!
//! `*` matches any number of characters, `?` one, `[abc]`, `[a-z]` and `[!a]` one of or none of these; `[*]` is a
//! literal `*`. Everything else is itself: case and the normal form of Unicode matter.

use super::scope::ScopeError;

/// A part of a pattern.
#[derive(Clone, Debug)]
pub(crate) enum Token {
    Char(char),
    Any,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// The parts of a pattern.
///
/// # Errors
/// A bracket without its end, or an empty range.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, ScopeError> {
    let mut tokens = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::Any,
            '[' => class(&mut rest)?,
            c => Token::Char(c),
        });
    }
    Ok(tokens)
}

fn class(rest: &mut std::str::Chars<'_>) -> Result<Token, ScopeError> {
    let open = || ScopeError::new("`[` without `]`; `[[]` is a literal `[`");
    let negated = rest.as_str().starts_with('!');
    if negated {
        rest.next();
    }
    let mut ranges: Vec<(char, char)> = Vec::new();
    loop {
        let low = rest.next().ok_or_else(open)?;
        if low == ']' && !ranges.is_empty() {
            return Ok(Token::Class { negated, ranges });
        }
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) if high != ']' => {
                if high < low {
                    return Err(ScopeError::new(format!("the range {low}-{high} is empty")));
                }
                ranges.push((low, high));
                *rest = ahead;
            }
            _ => ranges.push((low, low)),
        }
    }
}

impl Token {
    /// The one character it matches, if there is only one. A class of one is how a pattern writes `*` itself; it
    /// does not write a leading dot.
    pub(crate) fn literal(&self) -> Option<char> {
        match self {
            Token::Char(c) => Some(*c),
            Token::Class { negated: false, ranges } => match ranges[..] {
                [(low, high)] if low == high && low != '.' => Some(low),
                _ => None,
            },
            _ => None,
        }
    }

    fn matches(&self, c: char) -> bool {
        match self {
            Token::Char(own) => *own == c,
            Token::Any => true,
            Token::Star => false,
            Token::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// Whether the whole text matches, with one step back to the last `*`: time is the product of the two lengths, never
/// more.
pub(crate) fn glob(tokens: &[Token], text: &str) -> bool {
    let (mut at, mut rest) = (0, text.chars());
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let before = rest.clone();
        match (tokens.get(at), rest.next()) {
            (Some(Token::Star), _) => {
                at += 1;
                retry = Some((at, before.clone()));
                rest = before;
                continue;
            }
            (None, None) => return true,
            (Some(token), Some(c)) if token.matches(c) => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, mut from)) = retry.take() else { return false };
        if from.next().is_none() {
            return false;
        }
        at = after;
        rest = from.clone();
        retry = Some((after, from));
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, glob, tokens};

    fn matches(pattern: &str, text: &str) -> bool {
        glob(&tokens(pattern).expect("a pattern"), text)
    }

    #[test]
    fn a_star_is_any_number_and_a_question_mark_one() {
        for (pattern, text) in [("*", ""), ("a*", "a"), ("a*c", "abbc"), ("*a*b", "xaayb"), ("a?c", "aäc")] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a?", "a"), ("a*c", "ab"), ("*ab", "aab "), ("a", "A")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_class_is_its_ranges_or_all_else() {
        for (pattern, text) in
            [("[abc]", "b"), ("[a-c]", "a"), ("[a-c]", "c"), ("[a-a]", "a"), ("[!a-c]", "d")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("[abc]", "d"), ("[a-c]", "-"), ("[a-a]", "b"), ("[!a-c]", "b"), ("[!a]", "")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        // The first bracket, and a dash at an end, stand for themselves.
        assert!(matches("[]a]", "]") && matches("[a-]", "-") && matches("[-a]", "-"));
        for open in ["[", "[a", "[!", "[]", "[c-a]"] {
            assert!(tokens(open).is_err(), "{open}");
        }
    }

    #[test]
    fn a_character_and_a_class_of_one_are_literal_but_for_a_dot() {
        let literal = |pattern: &str| tokens(pattern).expect("a pattern").first().and_then(Token::literal);
        assert_eq!(["a", ".", "[*]", "[[]", "[a-a]"].map(literal), ['a', '.', '*', '[', 'a'].map(Some));
        assert_eq!(["[.]", "[ab]", "[a-b]", "[!a]", "?", "*"].map(literal), [None; 6]);
    }
}
