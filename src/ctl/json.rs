//! JSON text laid out anew, for people or for pipes.
//!
//! It works on the text: keys stay in order and numbers keep every digit, which a detour over values would lose. It owns
//! what of a peer's text reaches a terminal.

use serde_json::value::RawValue;

/// How JSON text is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// No white space.
    Compact,
    /// Indented, one value a line.
    Indented,
    /// Indented, with the colours of a terminal.
    Coloured,
}

const KEY: &str = "\x1b[1;34m";
const TEXT: &str = "\x1b[32m";
const WORD: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Lays `json` out. Text that is no JSON is given as it is, in [`Compact`](Layout::Compact), or made printable.
pub(super) fn layout(json: &[u8], layout: Layout) -> Vec<u8> {
    if serde_json::from_slice::<&RawValue>(json).is_err() {
        return match layout {
            Layout::Compact => json.to_vec(),
            Layout::Indented | Layout::Coloured => printable(&String::from_utf8_lossy(json)).into_bytes(),
        };
    }
    let text = String::from_utf8_lossy(json);
    let mut writer = Writer { out: String::with_capacity(text.len()), layout, depth: 0 };
    writer.document(&text);
    writer.out.into_bytes()
}

/// `text` with control characters written as escapes, so that a peer can't steer the terminal. Line ends and tabs stay.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if is_steering(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Control characters, and those that turn the direction of writing.
fn is_steering(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

struct Writer {
    out: String,
    layout: Layout,
    depth: usize,
}

impl Writer {
    /// `text` is well-formed JSON.
    fn document(&mut self, text: &str) {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = match first {
                '"' => string_len(rest),
                '{' | '[' | '}' | ']' | ',' | ':' => 1,
                _ => rest.find([',', ':', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len()),
            };
            let (token, after) = rest.split_at(len);
            rest = after.trim_start();
            match first {
                '{' | '[' => rest = self.open(token, rest),
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.line();
                    self.out.push_str(token);
                }
                ',' => {
                    self.out.push(',');
                    self.line();
                }
                ':' => self.out.push_str(if self.layout == Layout::Compact { ":" } else { ": " }),
                '"' => self.coloured(if rest.starts_with(':') { KEY } else { TEXT }, token),
                _ => self.coloured(WORD, token),
            }
        }
    }

    /// Opens an object or a list; an empty one stays on its line.
    fn open<'a>(&mut self, token: &str, rest: &'a str) -> &'a str {
        self.out.push_str(token);
        if let Some(after) = rest.strip_prefix(['}', ']']) {
            self.out.push_str(&rest[..1]);
            return after.trim_start();
        }
        self.depth += 1;
        self.line();
        rest
    }

    fn line(&mut self) {
        if self.layout != Layout::Compact {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("  ", self.depth));
        }
    }

    fn coloured(&mut self, colour: &str, token: &str) {
        match self.layout {
            Layout::Compact => self.out.push_str(token),
            Layout::Indented => self.shown(token),
            Layout::Coloured => {
                self.out.push_str(colour);
                self.shown(token);
                self.out.push_str(PLAIN);
            }
        }
    }

    /// A token with what would steer a terminal as JSON's own escapes, so that it stays the same JSON.
    fn shown(&mut self, token: &str) {
        for c in token.chars() {
            if is_steering(c) {
                self.out.push_str(&format!("\\u{:04x}", u32::from(c)));
            } else {
                self.out.push(c);
            }
        }
    }
}

/// The length of the string that `text` begins with, quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Layout, layout, printable};

    fn text(json: &str, style: Layout) -> String {
        String::from_utf8(layout(json.as_bytes(), style)).expect("text")
    }

    #[test]
    fn a_pipe_gets_no_white_space_and_every_digit() {
        let json =
            " { \"b\" : [ 1.50 , 18446744073709551616 ] ,\n\"a\" : \"x , : } \\\" y\" , \"e\" : { } }\n";
        let compact = text(json, Layout::Compact);
        assert_eq!(compact, r#"{"b":[1.50,18446744073709551616],"a":"x , : } \" y","e":{}}"#);
        assert_eq!(text("  7 ", Layout::Compact), "7");
    }

    #[test]
    fn people_get_one_value_a_line() {
        let json = r#"{"a":[1,{}],"b":null}"#;
        assert_eq!(text(json, Layout::Indented), "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": null\n}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let json = r#"{"key":"value","n":[true,-1.5e3]}"#;
        let coloured = text(json, Layout::Coloured);
        assert!(coloured.contains("\x1b[1;34m\"key\"\x1b[0m: \x1b[32m\"value\"\x1b[0m"), "{coloured:?}");
        let plain: String = ["\x1b[1;34m", "\x1b[32m", "\x1b[36m", "\x1b[0m"]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, text(json, Layout::Indented));
    }

    #[test]
    fn a_peer_can_not_steer_the_terminal() {
        let json = "\"a\u{9b}31m\u{7f}\u{202e}b\"";
        let shown = text(json, Layout::Coloured);
        assert!(shown.contains(r"a\u009b31m\u007f\u202eb"), "{shown:?}");
        let same: Value = serde_json::from_str(&text(json, Layout::Indented)).expect("still json");
        assert_eq!(same, serde_json::from_str::<Value>(json).expect("json"));
        assert_eq!(text("\u{1b}[31m", Layout::Indented), "\\u{1b}[31m", "no json at all");
        assert_eq!(printable("a\tb\n\u{1b}c\r"), "a\tb\n\\u{1b}c\\u{d}");
    }
}
