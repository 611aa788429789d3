//! One run of a program for a call.
//!
//! Everything that it prints is bounded, and it does not outlive its call: it has a process group of its own, which is ended with
//! the call, with this process, and by an interrupt.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use invoked_proto::registry::{ErrorCode, limits};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::super::interrupt::{OnInterrupt, on_interrupt};
use super::{Form, LINES};
use crate::ipc::{
    Body, CancellationToken, Channel, CommandArg, CommandItem, Fault, InvokeError, InvokeMessage, Outcome,
    Response,
};

/// How long a program has from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// What is kept of standard error: its end.
const TAIL: usize = 4096;

/// The longest line that is an item.
const LINE_MAX: usize = 1 << 20;

/// A program and its arguments, which no call changes.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

/// A run: its group ends when this is dropped.
struct Run {
    child: Child,
    group: Option<Pid>,
    _on_interrupt: Option<OnInterrupt>,
}

impl Program {
    pub(super) fn new(path: PathBuf, args: Vec<OsString>) -> Self {
        Program { path, args }
    }

    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Runs it for one call. Dropping the future ends it.
    pub(super) async fn run(&self, form: Form, message: &InvokeMessage) -> Outcome {
        let lines = match form {
            Form::Lines => {
                Some(Channel::<String>::from_command(CommandItem { name: "serve", key: LINES, message })?)
            }
            Form::Json | Form::Raw => None,
        };
        let mut run = self.start(message)?;
        let input = message.body().bytes().to_vec();
        let (stdin, stdout, stderr) = run.pipes()?;
        let feed = async move {
            let mut stdin = stdin;
            // A program may end without having read all of it, or any.
            drop(stdin.write_all(&input).await);
        };
        let tail = tail(stderr);
        let printed = async {
            match &lines {
                Some(channel) => send_lines(stdout, channel).await.map(|()| Bytes::new()),
                None => read_all(stdout).await,
            }
        };
        let cancelled = message.cancellation().clone();
        let whole = async {
            let ((), tail, printed) = tokio::join!(feed, tail, printed);
            (tail, printed)
        };
        let (tail, printed) = tokio::select! {
            done = whole => done,
            () = cancelled.cancelled() => {
                run.end_softly().await;
                return Err(Fault::midway(ErrorCode::Cancelled, "the program was ended").into());
            }
        };
        let printed = match printed {
            Ok(printed) => printed,
            Err(fault) => {
                run.end_softly().await;
                return Err(fault.into());
            }
        };
        let status = run.wait(&cancelled).await?;
        if !status.success() {
            return Err(InvokeError::json(&failure(status, &tail)).into());
        }
        match form {
            Form::Raw => Ok(Response::new(printed)),
            Form::Lines => Ok(Response::json(&Value::Null)?),
            Form::Json => result(printed, &self.name()),
        }
    }

    fn start(&self, message: &InvokeMessage) -> Result<Run, Fault> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let peer = message.peer();
        command.env("INVOKED_PEER_UID", peer.uid.to_string()).env("INVOKED_PEER_GID", peer.gid.to_string());
        for (name, value) in [
            ("INVOKED_PEER_PID", peer.pid.map(|pid| pid.to_string())),
            ("INVOKED_PEER_USER", peer.user.clone()),
        ] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.spawn().map_err(|error| {
            let text = format!("can't run {}: {error}", self.path.display());
            Fault::refusal(ErrorCode::Internal, text)
        })?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let on_interrupt = group.map(|group| on_interrupt(move || kill(group, Signal::KILL)));
        Ok(Run { child, group, _on_interrupt: on_interrupt })
    }
}

impl Run {
    fn pipes(
        &mut self,
    ) -> Result<(tokio::process::ChildStdin, tokio::process::ChildStdout, tokio::process::ChildStderr), Fault>
    {
        let pipes = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        match pipes {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok((stdin, stdout, stderr)),
            _ => Err(Fault::midway(ErrorCode::Internal, "the program has no pipes")),
        }
    }

    /// Waits for the program, whose output has ended.
    async fn wait(&mut self, cancelled: &CancellationToken) -> Result<ExitStatus, Fault> {
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = cancelled.cancelled() => {
                self.end_softly().await;
                return Err(Fault::midway(ErrorCode::Cancelled, "the program was ended"));
            }
        };
        status.map_err(|error| {
            Fault::midway(ErrorCode::Internal, format!("can't tell how the program ended: {error}"))
        })
    }

    /// Asks the program and all that it started to end, and ends what does not.
    async fn end_softly(&mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.signal(Signal::KILL);
            drop(self.child.wait().await);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            kill(group, signal);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What the program started and left behind goes too. Its number is not used again while somebody is in the group; and
        // when nobody is, nobody is signalled.
        self.signal(Signal::KILL);
    }
}

fn kill(group: Pid, signal: Signal) {
    // It fails if all of it has ended.
    let _ = kill_process_group(group, signal);
}

/// All that is printed, up to the largest message.
async fn read_all(stdout: impl AsyncRead + Unpin) -> Result<Bytes, Fault> {
    let mut printed = Vec::new();
    let most = limits::MAX_MESSAGE as u64;
    let read = stdout.take(most + 1).read_to_end(&mut printed).await;
    read.map_err(|error| Fault::midway(ErrorCode::Internal, format!("reading what it prints: {error}")))?;
    if printed.len() as u64 > most {
        return Err(Fault::midway(
            ErrorCode::TooLarge,
            format!("the program printed more than {most} bytes"),
        ));
    }
    Ok(printed.into())
}

/// Sends each line as it comes, without its end.
async fn send_lines(stdout: impl AsyncRead + Unpin, channel: &Channel<String>) -> Result<(), Fault> {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                let text = format!("reading what it prints: {error}");
                return Err(Fault::midway(ErrorCode::Internal, text));
            }
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LINE_MAX {
            let text = format!("the program printed a line of more than {LINE_MAX} bytes");
            return Err(Fault::midway(ErrorCode::TooLarge, text));
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        if channel.send_async(text).await.is_err() {
            return Err(Fault::midway(ErrorCode::Cancelled, "the caller reads no more lines"));
        }
    }
}

/// The end of what is printed there.
async fn tail(mut stderr: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read) = stderr.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..read]);
        let over = kept.len().saturating_sub(TAIL);
        kept.drain(..over);
    }
    kept
}

/// The command's own error.
fn failure(status: ExitStatus, stderr: &[u8]) -> Value {
    let stderr = String::from_utf8_lossy(stderr);
    match status.code() {
        Some(code) => json!({ "exit": code, "stderr": stderr }),
        None => json!({ "signal": status.signal(), "stderr": stderr }),
    }
}

/// JSON as it was printed; nothing is null.
fn result(printed: Bytes, program: &str) -> Outcome {
    let printed = printed.trim_ascii();
    if printed.is_empty() {
        return Ok(Response::json(&Value::Null)?);
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(printed) {
        let text = format!("{program} printed something else than JSON ({error}); serve it with --raw");
        return Err(Fault::new(ErrorCode::Internal, text).into());
    }
    let body = Body::Json(Bytes::copy_from_slice(printed));
    Ok(Response::from(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_standard_error_is_kept() {
        let long: Vec<u8> = (0..20_000_u32).map(|i| b'a' + u8::try_from(i % 26).unwrap()).collect();
        assert_eq!(tail(&long[..]).await, &long[20_000 - TAIL..]);
        assert_eq!(tail(&b"short"[..]).await, b"short");
    }

    #[test]
    fn what_is_printed_is_json_or_nothing() {
        let body = |text: &'static str| {
            result(Bytes::from_static(text.as_bytes()), "p")
                .map(|response| response.as_body().bytes().to_vec())
        };
        assert_eq!(body(" {\"a\": 1}\n").unwrap(), b"{\"a\": 1}");
        assert_eq!(body("\n").unwrap(), b"null");
        let error = body("HELLO").unwrap_err();
        assert!(format!("{error:?}").contains("p printed something else than JSON"), "{error:?}");
        assert!(body("1 2").is_err());
    }
}
