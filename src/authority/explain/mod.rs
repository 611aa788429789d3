//! Why a verdict is as it is: in full for the operator, in short for the peer.
//!
//! Owns the words. It asks the same snapshot as a verdict does and decides nothing itself.

mod argument;
mod proposal;
mod reasons;

use std::fmt;

use serde_json::{Value, json};

pub use self::argument::{Judged, ScopeRefusal};
pub(crate) use self::reasons::About;
use super::peer::PeerFacts;

/// What a peer is told about a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of answer it is.
    pub code: RefusalCode,
    /// One line. For a peer that doesn't hold `core:operate` it is the same for a command that doesn't exist.
    pub message: String,
}

/// The kinds of answer to a call that isn't allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// `permission_denied`
    PermissionDenied,
    /// `not_found`, for those who operate the daemon.
    NotFound,
}

/// Whose call is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// What is known of the peer.
    pub facts: &'a PeerFacts,
    /// The capabilities that it keeps, if it narrowed itself.
    pub kept: Option<&'a [String]>,
}

impl<'a> From<&'a PeerFacts> for Asking<'a> {
    fn from(facts: &'a PeerFacts) -> Self {
        Asking { facts, kept: None }
    }
}

/// A verdict with its reasons, for the operator. Displays as the lines of a log.
#[derive(Clone, Debug)]
pub struct Explanation {
    command: String,
    facts: PeerFacts,
    kept: Option<Vec<String>>,
    argument: Option<Judged>,
    allowed: bool,
    reasons: Vec<String>,
    remedy: Remedy,
    revision: u64,
    decision: Option<String>,
}

#[derive(Clone, Debug)]
enum Remedy {
    None,
    Advice(String),
    /// A capability file to save.
    File {
        name: String,
        text: String,
    },
}

impl Explanation {
    /// Whether the call is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// The reasons, one line each; the nearest capability first.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// A capability file that would allow exactly this call, as a name and TOML; `None` when no addition would.
    #[must_use]
    pub fn would_be_allowed_by(&self) -> Option<(&str, &str)> {
        match &self.remedy {
            Remedy::File { name, text } => Some((name, text)),
            _ => None,
        }
    }

    /// The revision of the policy that was asked.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Advice in place of such a file, where no addition would help.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        match &self.remedy {
            Remedy::Advice(advice) => Some(advice),
            _ => None,
        }
    }

    /// All of it as JSON, for programs: `allowed`, `command`, `peer`, `argument`, `reasons`, `would_be_allowed_by` (`file`
    /// and `toml`) or `advice`, `revision`, `decision`, and `text`, which is the same for people. What there is none of is
    /// null; an argument that was too long to be kept is its beginning.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let file = self.would_be_allowed_by().map(|(file, toml)| json!({ "file": file, "toml": toml }));
        let mut peer = self.facts.to_json();
        peer["keeps"] = json!(self.kept);
        json!({
            "allowed": self.allowed,
            "command": self.command,
            "peer": peer,
            "argument": self.argument.as_ref().map(Judged::to_json),
            "reasons": self.reasons,
            "would_be_allowed_by": file,
            "advice": self.advice(),
            "revision": self.revision,
            "decision": self.decision,
            "text": self.lines(),
        })
    }

    /// The same explanation under the number by which `invokectl explain` finds it.
    #[must_use]
    pub fn with_decision(mut self, decision: impl Into<String>) -> Self {
        self.decision = Some(decision.into());
        self
    }
}

impl Explanation {
    /// The lines without the decision's, which come with a reason to read them.
    fn lines(&self) -> String {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        let mut text = format!("{verdict}: {} for {}", self.command, self.facts);
        for reason in &self.reasons {
            text.push_str(&format!("\n  {reason}"));
        }
        match &self.remedy {
            Remedy::None => {}
            Remedy::Advice(advice) => text.push_str(&format!("\n  {advice}")),
            Remedy::File { name, text: toml } => {
                text.push_str(&format!("\n  would be allowed by: {name} in a capability directory"));
                toml.lines().for_each(|line| text.push_str(&format!("\n    {line}")));
            }
        }
        text
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines())?;
        match &self.decision {
            Some(decision) => write!(f, "\n  decision {decision}, invokectl explain {decision}"),
            None => Ok(()),
        }
    }
}
