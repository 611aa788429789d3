//! Fenced blocks of Markdown, and command lines with what they should print.

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// `README.md:12`, where it begins.
    pub(crate) place: String,
    /// The words behind the fence.
    pub(crate) info: Vec<String>,
    /// Its text, with a line end.
    pub(crate) text: String,
}

/// A command line and the lines that should follow it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) expected: Vec<String>,
}

impl Block {
    pub(crate) fn is(&self, info: &[&str]) -> bool {
        self.info == info
    }

    /// The command lines: each begins with `$ `, goes on after a `\`, and is followed by what it prints.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut goes_on = false;
        for line in self.text.lines() {
            let continued = goes_on;
            goes_on = line.ends_with('\\');
            let part = line.trim_end_matches('\\');
            if continued {
                steps.last_mut().expect("a command goes on").command.push_str(part.trim_start());
            } else if let Some(command) = part.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), expected: Vec::new() });
            } else {
                let step =
                    steps.last_mut().unwrap_or_else(|| panic!("{}: no command before {line:?}", self.place));
                step.expected.push(line.to_owned());
                goes_on = false;
            }
        }
        steps
    }
}

/// The fenced blocks of a document.
pub(crate) fn of(document: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(info), None) => {
                // `rust,no_run` and `toml refused` alike.
                let info =
                    info.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
                open = Some(Block { place: format!("{document}:{}", index + 1), info, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{document}: a fence is not closed");
    blocks
}

/// Whether `actual` is what `expected` says: `…` stands for any text within a line, a line of `…` for any lines.
pub(crate) fn matches(expected: &[String], actual: &[String]) -> bool {
    match (expected.split_first(), actual.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "…" => {
            matches(rest, actual) || (!actual.is_empty() && matches(expected, &actual[1..]))
        }
        (Some((line, expected)), Some((text, actual))) => {
            line_matches(line, text) && matches(expected, actual)
        }
        _ => false,
    }
}

fn line_matches(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = actual.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return left.is_empty() };
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

#[test]
fn steps_are_read_with_what_they_print() {
    let text = "```console daemon\n$ one \\\n    --two\nout\n$ three\n```\n";
    let [block] = &of("x.md", text)[..] else { panic!("one block") };
    assert!(block.is(&["console", "daemon"]) && block.place == "x.md:1");
    let step = |command: &str, expected: &[&str]| Step {
        command: command.to_owned(),
        expected: expected.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(block.steps(), [step("one --two", &["out"]), step("three", &[])]);
}

#[test]
fn dots_stand_for_what_differs_and_for_nothing_else() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let fits = |expected: &str, actual: &str| matches(&lines(expected), &lines(actual));
    assert!(fits("a … c", "a b c") && fits("…", "") && fits("a\n…\nz", "a\nb\nc\nz") && fits("a…", "a"));
    assert!(!fits("a … c", "a b d") && !fits("a", "a\nb") && !fits("a\nb", "a") && !fits("aba…ba", "aba"));
    assert!(!fits("", "a"));
}
