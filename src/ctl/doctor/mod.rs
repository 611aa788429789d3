//! `invokectl doctor`: what this machine has, and what stands between a caller and a daemon.
//!
//! It owns the list of questions. It looks and changes nothing.

mod daemon;
mod kernel;
mod policy;

use serde::Serialize;

use super::args::Global;
use super::failure::Failure;
use super::output::{Output, Sink};

/// What became of one question.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Finding { check, status: Status::Ok, detail: detail.into(), next: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Finding { check, status: Status::Warn, detail: detail.into(), next: Some(next.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Finding { check, status: Status::Fail, detail: detail.into(), next: Some(next.into()) }
    }
}

pub(super) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let mut findings = kernel::findings();
    findings.extend(daemon::findings(global));
    findings.extend(policy::findings(global));
    for finding in &findings {
        if output.is_json() {
            output.object(finding)?;
        } else if !output.is_quiet() || finding.status != Status::Ok {
            tell(finding, output)?;
        }
    }
    if findings.iter().any(|finding| finding.status == Status::Fail) { Err(Failure::Told) } else { Ok(()) }
}

fn tell(finding: &Finding, output: &Output) -> Result<(), Failure> {
    let (word, colour) = match finding.status {
        Status::Ok => ("ok", "32"),
        Status::Warn => ("warn", "33"),
        Status::Fail => ("FAIL", "31"),
    };
    let padded = format!("{word:<5}");
    let shown = match output.sink() {
        Sink::Terminal { colours: true } => format!("\x1b[{colour}m{padded}\x1b[0m"),
        Sink::Terminal { colours: false } | Sink::Pipe => padded,
    };
    output.marked(&shown, &format!("{:<12}  {}", finding.check, finding.detail))?;
    match &finding.next {
        Some(next) => output.text(&format!("{:21}-> {next}", "")),
        None => Ok(()),
    }
}
