//! What the steps happen in: a directory, a daemon, and lines that are typed.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::failure::Failure;
use super::super::sandbox::{Sandbox, sibling};

/// How long something may take to show in a log.
const LOG: Duration = Duration::from_secs(5);

/// A sandbox, and invokectl in processes of its own.
#[derive(Debug)]
pub(super) struct World {
    pub(super) sandbox: Sandbox,
    invokectl: PathBuf,
}

/// A line that was typed, and how it ended.
#[derive(Debug)]
pub(super) struct Typed {
    pub(super) line: String,
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl World {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(World { sandbox: Sandbox::new()?, invokectl: sibling("invokectl")? })
    }

    /// `invokectl` with these words after the address, in the directory that the daemon shares; and the line as it is typed.
    pub(super) fn command(&self, words: &[&str]) -> (Command, String) {
        let address = self.sandbox.address().to_string();
        let words: Vec<&str> = ["-a", &address].iter().chain(words).copied().collect();
        let mut command = Command::new(&self.invokectl);
        command.args(&words).current_dir(self.sandbox.shared()).stdin(Stdio::null());
        (command, line_of(&words))
    }

    /// Runs it.
    pub(super) fn type_line(&self, words: &[&str]) -> Result<Typed, Failure> {
        self.type_line_with(words, b"")
    }

    /// Runs it with a few bytes as standard input.
    pub(super) fn type_line_with(&self, words: &[&str], input: &[u8]) -> Result<Typed, Failure> {
        let (mut command, line) = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = || Failure::local("can't run invokectl");
        let mut child = command.spawn().map_err(failed())?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may end without reading them; a pipe holds a few bytes.
            drop(stdin.write_all(input));
        }
        let ended = child.wait_with_output().map_err(failed())?;
        Ok(Typed {
            line,
            code: ended.status.code(),
            stdout: ended.stdout,
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        })
    }

    /// Waits for an entry of the daemon's log that has all of `words`.
    pub(super) fn await_log(&self, words: &[&str]) -> Result<String, Failure> {
        let start = Instant::now();
        loop {
            let log = self.sandbox.log();
            if let Some(entry) = entries(&log).find(|entry| words.iter().all(|word| entry.contains(word))) {
                return Ok(entry);
            }
            if start.elapsed() > LOG {
                return Err(wrong(&format!("the daemon's log has no entry with {words:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The entries of a log: a line, and those after it that are indented.
fn entries(log: &str) -> impl Iterator<Item = String> {
    let mut lines = log.lines().peekable();
    std::iter::from_fn(move || {
        let mut entry = lines.next()?.to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
            entry.push('\n');
            entry.push_str(more);
        }
        Some(entry)
    })
}

impl Typed {
    /// Fails unless the line ended with this exit code.
    pub(super) fn expect_code(self, code: i32) -> Result<Self, Failure> {
        if self.code == Some(code) {
            return Ok(self);
        }
        let ended = self.code.map_or_else(|| "by a signal".to_owned(), |code| format!("with {code}"));
        Err(wrong(&format!("`{}` ended {ended}, not {code}: {}", self.line, self.stderr.trim())))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// A step that did not do what it should.
pub(super) fn wrong(text: &str) -> Failure {
    Failure::local("verified, and wrong")(std::io::Error::other(text.to_owned()))
}

/// The words as a shell takes them.
fn line_of(words: &[&str]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    let quoted = words.iter().map(|word| match word {
        word if !word.is_empty() && word.chars().all(plain) => (*word).to_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    });
    format!("invokectl {}", quoted.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::{entries, line_of};

    #[test]
    fn an_entry_of_the_log_has_its_indented_lines() {
        let found: Vec<_> = entries("a\nb\n  c\n\td\ne\n").collect();
        assert_eq!(found, ["a", "b\n  c\n\td", "e"]);
    }

    #[test]
    fn a_line_can_be_pasted() {
        assert_eq!(line_of(&["call", "a.b", "n:=1"]), "invokectl call a.b n:=1");
        assert_eq!(line_of(&["x=it's", "", "t:=[1]"]), r"invokectl 'x=it'\''s' '' 't:=[1]'");
    }
}
