//! The steps with a third process, which provides a command.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use invoked_client::Delivery;
use invoked_client::blocking::Client;

use super::super::failure::Failure;
use super::Shown;
use super::world::{World, wrong};

/// `invokectl serve`, ready to be called; it ends when this is dropped.
struct Provider {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    line: String,
}

impl Provider {
    fn start(world: &World, words: &[&str]) -> Result<Self, Failure> {
        let (_, line) = world.command(words);
        let json: Vec<&str> = ["-j"].iter().chain(words).copied().collect();
        let (mut command, _) = world.command(&json);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Failure::local("can't run invokectl"))?;
        let stdout = child.stdout.take().ok_or_else(|| wrong("it has no output"))?;
        let mut provider = Provider { child, _stdout: BufReader::new(stdout), line };
        let mut ready = String::new();
        provider._stdout.read_line(&mut ready).map_err(Failure::local("what it prints"))?;
        if !ready.contains("\"serving\"") {
            provider.kill();
            let mut said = String::new();
            let stderr = provider.child.stderr.as_mut();
            stderr.map(|stderr| stderr.read_to_string(&mut said));
            return Err(wrong(&format!("`{}` serves nothing: {}", provider.line, said.trim())));
        }
        Ok(provider)
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) fn provide(world: &World) -> Result<Shown, Failure> {
    let provider = Provider::start(world, &["serve", "text.upper", "--raw", "--", "tr", "a-z", "A-Z"])?;
    let typed = world.type_line_with(&["call", "text.upper", "--raw", "-"], b"hello\n")?.expect_code(0)?;
    if typed.stdout != b"HELLO\n" {
        return Err(wrong(&format!("the answer is {:?}", typed.text())));
    }
    Ok(Shown {
        line: format!("{} &\necho hello | {}", provider.line, typed.line),
        answer: typed.text(),
        meaning: "A third process provided a command, and the daemon passed the call on to it.",
    })
}

pub(super) fn killed(world: &World) -> Result<Shown, Failure> {
    // It says that it runs, and ends when nobody hears it any more.
    let script = "while echo running; do sleep 0.1; done";
    let mut provider =
        Provider::start(world, &["serve", "text.endless", "--lines", "--", "sh", "-c", script])?;
    let pid = provider.child.id();
    let client: Client = world.sandbox.connect()?;
    let (call, mut lines) = client.call("text.endless").channel("lines");
    let running = call.start()?;
    if lines.next().is_none_or(|line| line.is_err()) {
        return Err(wrong("its program says nothing"));
    }
    provider.kill();
    let Err(error) = running.wait() else { return Err(wrong("a provider that is dead answered")) };
    if !error.is_unavailable() || error.delivery() != Delivery::Delivered {
        return Err(wrong(&format!("the open call says: {error} ({})", error.delivery())));
    }
    let Some(ended) = lines.find_map(Result::err) else { return Err(wrong("its channel ended well")) };
    if !ended.is_unavailable() {
        return Err(wrong(&format!("its channel says: {ended}")));
    }
    let Err(later) = client.call("text.endless").send() else {
        return Err(wrong("the next call was answered"));
    };
    if !later.is_unavailable() || later.delivery() != Delivery::NotDelivered {
        return Err(wrong(&format!("the next call says: {later} ({})", later.delivery())));
    }
    let typed = world.type_line(&["ping", "-n", "1"])?.expect_code(0)?;
    Ok(Shown {
        line: format!("{} &\nkill -9 {pid} # while a call is open\n{}", provider.line, typed.line),
        answer: format!(
            "the open call: {error} ({})\nits channel: {ended}\nthe next call: {later} ({})\n{}",
            error.delivery(),
            later.delivery(),
            typed.text()
        ),
        meaning: "A provider that dies ends its own calls, which say that they may have run; nobody else notices.",
    })
}
