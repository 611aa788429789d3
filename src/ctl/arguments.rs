//! From the words after a command's name to the body of a call.
//!
//! It owns the notation and reads the files that it names. It knows no command: a type is what the notation says, never
//! what a schema might want.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde_json::value::RawValue;

use super::failure::Failure;

/// The body of a call, and its attachments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) body: PayloadBody,
    pub(super) attachments: Vec<Vec<u8>>,
    /// Arguments that were given as text, for advice when the command wants another type.
    pub(super) texts: Vec<(String, String)>,
    /// All keys, in order.
    pub(super) keys: Vec<String>,
}

/// A body that is written and ready.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum PayloadBody {
    #[default]
    None,
    Json(Vec<u8>),
    Raw(Vec<u8>),
}

/// One word, read but not looked into.
#[derive(Debug, PartialEq, Eq)]
enum Item<'a> {
    Text(&'a str, &'a str),
    TextFile(&'a str, &'a Path),
    Json(&'a str, &'a str),
    JsonFile(&'a str, &'a Path),
    Attachment(&'a str, &'a Path),
}

/// Reads the words, and the files that they name.
///
/// # Errors
/// A word that is no argument, JSON that is none, a key given twice, a file that can't be read.
pub(super) fn payload(
    words: &[String],
    raw: Option<&Path>,
    attach: &[impl AsRef<Path>],
) -> Result<Payload, Failure> {
    let mut payload = Payload::default();
    if let Some(path) = raw {
        if let Some(word) = words.first() {
            let text = format!("{word:?} beside --raw: a call has one body, either arguments or raw bytes");
            return Err(Failure::Usage(text));
        }
        payload.body = PayloadBody::Raw(read(path)?);
    } else if let [word] = words
        && (word == "-" || word.starts_with(['{', '[']))
    {
        let json = if word == "-" { read(Path::new("-"))? } else { word.clone().into_bytes() };
        check_json("the body", &json)?;
        payload.body = PayloadBody::Json(json);
    } else {
        payload.object(words)?;
    }
    for path in attach {
        payload.attachments.push(read(path.as_ref())?);
    }
    Ok(payload)
}

impl Payload {
    fn object(&mut self, words: &[String]) -> Result<(), Failure> {
        let mut object: Vec<u8> = Vec::new();
        for word in words {
            let item = Item::parse(word)?;
            let key = item.key();
            if self.keys.iter().any(|known| known == key) {
                return Err(Failure::Usage(format!("the argument `{key}` is given twice")));
            }
            self.keys.push(key.to_owned());
            object.push(if object.is_empty() { b'{' } else { b',' });
            object.extend(json_text(key));
            object.push(b':');
            object.extend(self.value(&item)?);
        }
        if !object.is_empty() {
            object.push(b'}');
            self.body = PayloadBody::Json(object);
        }
        Ok(())
    }

    fn value(&mut self, item: &Item<'_>) -> Result<Vec<u8>, Failure> {
        Ok(match *item {
            Item::Text(key, text) => {
                self.texts.push((key.to_owned(), text.to_owned()));
                json_text(text)
            }
            Item::TextFile(_, path) => {
                let bytes = read(path)?;
                let text = String::from_utf8(bytes).map_err(|_| {
                    let key = item.key();
                    let path = path.display();
                    Failure::Usage(format!("{path} is not UTF-8 text; to send its bytes, write {key}@{path}"))
                })?;
                json_text(&text)
            }
            Item::Json(key, json) => {
                check_json(&format!("the argument `{key}`"), json.as_bytes())?;
                json.as_bytes().to_vec()
            }
            Item::JsonFile(_, path) => {
                let json = read(path)?;
                check_json(&path.display().to_string(), &json)?;
                json
            }
            Item::Attachment(_, path) => {
                let index = self.attachments.len();
                self.attachments.push(read(path)?);
                json_text(&format!("__ATTACHMENT__:{index}"))
            }
        })
    }
}

impl<'a> Item<'a> {
    /// Splits a word at its first separator; of two that begin at one place the longer counts.
    fn parse(word: &'a str) -> Result<Self, Failure> {
        let is_separator = |at: &usize| {
            let rest = &word[*at..];
            rest.starts_with(['=', '@']) || rest.starts_with(":=")
        };
        let at = word.char_indices().map(|(at, _)| at).find(is_separator).ok_or_else(|| no_item(word))?;
        let (key, rest) = word.split_at(at);
        if key.is_empty() {
            return Err(Failure::Usage(format!("{word:?} has no key: write key=text or key:=JSON")));
        }
        Ok(if let Some(path) = rest.strip_prefix(":=@") {
            Item::JsonFile(key, Path::new(path))
        } else if let Some(json) = rest.strip_prefix(":=") {
            Item::Json(key, json)
        } else if let Some(path) = rest.strip_prefix("=@") {
            Item::TextFile(key, Path::new(path))
        } else if let Some(text) = rest.strip_prefix('=') {
            Item::Text(key, text)
        } else {
            Item::Attachment(key, Path::new(&rest[1..]))
        })
    }

    fn key(&self) -> &'a str {
        match self {
            Item::Text(key, _)
            | Item::TextFile(key, _)
            | Item::Json(key, _)
            | Item::JsonFile(key, _)
            | Item::Attachment(key, _) => key,
        }
    }
}

fn no_item(word: &str) -> Failure {
    let text = match word.chars().next() {
        Some('-') => "- and JSON stand alone: they are the whole body".to_owned(),
        Some('{' | '[') => "a JSON body stands alone: it is the whole body".to_owned(),
        _ => format!("{word:?} is no argument: write key=text, key:=JSON, key=@file or key@file"),
    };
    Failure::Usage(text)
}

fn json_text(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("a string can be written as json")
}

fn check_json(what: &str, json: &[u8]) -> Result<(), Failure> {
    serde_json::from_slice::<&RawValue>(json).map(drop).map_err(|error| {
        let mut text = format!("{what} is not JSON: {error}");
        let is_word = !json.is_empty() && json.iter().all(u8::is_ascii_alphanumeric);
        if is_word && what.starts_with("the argument") {
            text.push_str("; for a string, write = instead of :=");
        }
        Failure::Usage(text)
    })
}

/// Reads a whole file; `-` is standard input.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    let what =
        || if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    bytes.map_err(|error| Failure::Usage(format!("can't read {}: {error}", what())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Item, PayloadBody, payload};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn json(of: &[&str]) -> String {
        match payload(&words(of), None, &[] as &[&Path]).expect("legal").body {
            PayloadBody::Json(json) => String::from_utf8(json).expect("text"),
            other => panic!("{other:?}"),
        }
    }

    fn refused(of: &[&str]) -> String {
        payload(&words(of), None, &[] as &[&Path]).expect_err("not legal").to_string()
    }

    #[test]
    fn the_first_separator_decides() {
        let parse = |word| Item::parse(word).expect("an item");
        assert_eq!(parse("a=b"), Item::Text("a", "b"));
        assert_eq!(parse("a="), Item::Text("a", ""));
        assert_eq!(parse("a=b=c:=d@e"), Item::Text("a", "b=c:=d@e"));
        assert_eq!(parse("a:=1"), Item::Json("a", "1"));
        assert_eq!(parse("a:=@f"), Item::JsonFile("a", Path::new("f")));
        assert_eq!(parse("a=@f"), Item::TextFile("a", Path::new("f")));
        assert_eq!(parse("a@f=g"), Item::Attachment("a", Path::new("f=g")));
        assert_eq!(parse("a:b=c"), Item::Text("a:b", "c"));
        assert_eq!(parse("é=ü"), Item::Text("é", "ü"));
    }

    #[test]
    fn arguments_become_one_object_in_order() {
        assert_eq!(json(&["z=5", "a:=5", "q=say \"hi\""]), r#"{"z":"5","a":5,"q":"say \"hi\""}"#);
        assert_eq!(json(&["big:=18446744073709551616"]), r#"{"big":18446744073709551616}"#);
        assert_eq!(json(&["{\"a\": 1}"]), "{\"a\": 1}");
        assert_eq!(json(&["[1]"]), "[1]");
        assert!(matches!(payload(&[], None, &[] as &[&Path]).expect("legal").body, PayloadBody::None));
    }

    #[test]
    fn files_are_text_or_attachments() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f");
        std::fs::write(&file, b"[1, 2]").expect("written");
        let path = file.display();
        let words = words(&[&format!("t=@{path}"), &format!("j:=@{path}"), &format!("a@{path}")]);
        let payload = payload(&words, None, &[&file]).expect("legal");
        let expected = r#"{"t":"[1, 2]","j":[1, 2],"a":"__ATTACHMENT__:0"}"#;
        assert_eq!(payload.body, PayloadBody::Json(expected.into()));
        assert_eq!(payload.attachments, [b"[1, 2]", b"[1, 2]"]);
        std::fs::write(&file, [0xff]).expect("written");
        assert!(refused(&[&format!("t=@{path}")]).contains(&format!("write t@{path}")));
    }

    #[test]
    fn mistakes_are_told_with_the_way_out() {
        assert!(refused(&["word"]).contains("key=text"));
        assert!(refused(&["=x"]).contains("no key"));
        assert!(refused(&["a:=x"]).contains("write = instead of :="));
        assert!(refused(&["a:={"]).contains("`a` is not JSON"));
        assert!(refused(&["a=1", "a=2"]).contains("twice"));
        assert!(refused(&["{}", "a=1"]).contains("stands alone"));
        assert!(refused(&["-", "a=1"]).contains("stand alone"));
        assert!(refused(&["{1}"]).contains("the body is not JSON"));
        assert!(refused(&["a@/no/such/file"]).contains("/no/such/file"));
        let error = payload(&words(&["a=1"]), Some(Path::new("-")), &[] as &[&Path]).expect_err("two bodies");
        assert!(error.to_string().contains("one body"));
    }
}
