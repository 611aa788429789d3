//! `invokectl describe`: one command, and a line that calls it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::args::{DescribeArgs, Global};
use super::call::canonical;
use super::connection::{connect, prefix};
use super::failure::Failure;
use super::output::Output;

/// A command as the daemon describes it.
#[derive(Debug, Deserialize, Serialize)]
struct Described {
    name: String,
    docs: String,
    arguments: Vec<Argument>,
    body: String,
    runs: String,
    scoped: bool,
    permission: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Argument {
    key: String,
    #[serde(rename = "type")]
    kind: String,
    optional: bool,
}

pub(super) fn run(global: &Global, args: &DescribeArgs, output: &Output) -> Result<(), Failure> {
    let name = canonical(&args.name)?;
    let described: Described = connect(global)?
        .call("core.describe")
        .args(&json!({ "name": name.as_str() }))
        .idempotent()
        .send()?
        .json()?;
    if output.is_json() {
        return output.object(&described);
    }
    output.text(&described.for_people(&prefix(global)))
}

impl Described {
    fn for_people(&self, prefix: &str) -> String {
        let mut text = format!("{}\n", self.name);
        for line in self.docs.lines() {
            text.push_str(&format!("  {line}\n"));
        }
        text.push('\n');
        if self.body == "raw" {
            text.push_str("takes       any body and attachments\n");
        } else if self.arguments.is_empty() {
            text.push_str("takes       nothing\n");
        }
        for (index, argument) in self.arguments.iter().enumerate() {
            let label = if index == 0 { "takes" } else { "" };
            let optional = if argument.optional { ", optional" } else { "" };
            text.push_str(&format!("{label:<12}{}: {}{optional}\n", argument.key, argument.kind));
        }
        let scoped = if self.scoped { "; its scope decides on the arguments" } else { "" };
        text.push_str(&format!("permission  {}{scoped}\n", self.permission));
        text.push_str(&format!("runs        {}\n\n", self.runs));
        text.push_str(&format!("{prefix} call {}{}", self.name, self.sample()));
        text
    }

    /// Arguments of the line to paste: of the right form, with values to fill in.
    fn sample(&self) -> String {
        if self.body == "raw" {
            return " hello=world".to_owned();
        }
        let required = self.arguments.iter().filter(|argument| !argument.optional);
        required.map(|argument| format!(" {}", argument.sample())).collect()
    }
}

impl Argument {
    fn sample(&self) -> String {
        let key = &self.key;
        let kind = self.kind.split('<').next().unwrap_or(&self.kind);
        let kind = kind.rsplit("::").next().unwrap_or(kind).trim_start_matches('&');
        match kind {
            "Channel" => format!("--channel {key}"),
            // Of a command that waits for nobody.
            "Subscription" => format!("--channel {key}=drop_oldest"),
            "ChannelReader" => format!("--lines {key}"),
            "String" | "str" | "PathBuf" | "Path" | "char" if key == "path" => format!("{key}=$PWD/FILE"),
            "String" | "str" | "PathBuf" | "Path" | "char" => format!("{key}=TEXT"),
            "Raw" => format!("{key}@FILE"),
            "bool" => format!("{key}:=true"),
            "f32" | "f64" => format!("{key}:=1.5"),
            number if number.starts_with(['u', 'i']) && number[1..].parse::<u8>().is_ok() => {
                format!("{key}:=64")
            }
            "usize" | "isize" => format!("{key}:=64"),
            _ => format!("{key}:=JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Argument, Described};

    fn argument(key: &str, kind: &str, optional: bool) -> Argument {
        Argument { key: key.to_owned(), kind: kind.to_owned(), optional }
    }

    #[test]
    fn the_line_to_paste_has_the_right_forms() {
        let described = Described {
            name: "x.y".to_owned(),
            docs: "Does it.\n\nAt length.".to_owned(),
            arguments: vec![
                argument("path", "String", false),
                argument("name", "&str", false),
                argument("len", "u32", false),
                argument("wide", "bool", false),
                argument("tags", "Vec<String>", false),
                argument("picture", "invoked::ipc::Raw", false),
                argument("index", "Option<u32>", true),
                argument("lines", "ChannelReader<String>", false),
                argument("onEvent", "tauri::ipc::Channel<my::Event>", false),
                argument("news", "Subscription", false),
            ],
            body: "arguments".to_owned(),
            runs: "inline".to_owned(),
            scoped: true,
            permission: "x:allow-y".to_owned(),
        };
        let text = described.for_people("invokectl -a unix:/s");
        let line = "invokectl -a unix:/s call x.y path=$PWD/FILE name=TEXT len:=64 wide:=true tags:=JSON picture@FILE --lines lines --channel onEvent --channel news=drop_oldest";
        assert_eq!(text.lines().last(), Some(line));
        assert!(text.contains("index: Option<u32>, optional"));
        assert!(text.contains("permission  x:allow-y; its scope"));
    }
}
