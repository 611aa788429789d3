//! A peer as a question names it: who would this be, if it connected?
//!
//! Owns the forms in which an operator names a peer. What is not said is what the user database says of the uid, as it
//! would be after login.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::peer::{PeerFacts, ProcessFact, UserDirectory};

/// A peer that is asked about: a connected one, or any that might be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerQuestion {
    /// Its uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Or the name of its uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its group; without it, the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<Group>,
    /// Its supplementary groups; without it, the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// The file that its process runs: absolute, links resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<PathBuf>,
    /// The unit of the service manager that it is in: `foo.service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The capabilities that it keeps, if it narrows itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeps: Option<Vec<String>>,
    /// The process id of a connected peer, instead of all the above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The number of a connected peer, instead of all the above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
}

/// A group by number or name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Group {
    /// Its number.
    Id(u32),
    /// Its name.
    Name(String),
}

/// A connected peer that a question names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connected {
    /// By its process id.
    Process(u32),
    /// By its number.
    Connection(u64),
}

/// Why a question names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuestionError(String);

impl PeerQuestion {
    /// The connected peer that is meant, if it is one.
    ///
    /// # Errors
    /// A connected peer has facts of its own: nothing may be said of it besides.
    pub fn connected(&self) -> Result<Option<Connected>, QuestionError> {
        let named = match (self.pid, self.connection) {
            (None, None) => return Ok(None),
            (Some(pid), None) => Connected::Process(pid),
            (None, Some(connection)) => Connected::Connection(connection),
            (Some(_), Some(_)) => return Err(QuestionError("pid or connection, not both".to_owned())),
        };
        if *self != (PeerQuestion { pid: self.pid, connection: self.connection, ..PeerQuestion::default() }) {
            let text = "pid and connection name a connected peer, whose facts are known: say nothing besides";
            return Err(QuestionError(text.to_owned()));
        }
        Ok(Some(named))
    }

    /// What the kernel would say of a peer that is not connected.
    ///
    /// # Errors
    /// No uid, a uid and another user's name, an unknown user or group.
    pub fn facts(&self, users: &dyn UserDirectory) -> Result<PeerFacts, QuestionError> {
        let fail = |text: String| Err(QuestionError(text));
        let of_name = self.user.as_deref().map(|name| {
            users
                .uid_of(name)
                .ok_or_else(|| QuestionError(format!("unknown user \"{}\"", name.escape_debug())))
        });
        let uid = match (self.uid, of_name.transpose()?) {
            (Some(uid), Some(other)) if uid != other => {
                return fail(format!("uid {uid} and a user whose uid is {other}"));
            }
            (Some(uid), _) | (None, Some(uid)) => uid,
            (None, None) => return fail("a peer has a uid: say uid, user, pid or connection".to_owned()),
        };
        let login = users.groups_of(uid);
        let group = |group: &Group| match group {
            Group::Id(gid) => Ok(*gid),
            Group::Name(name) => users
                .gid_of(name)
                .ok_or_else(|| QuestionError(format!("unknown group \"{}\"", name.escape_debug()))),
        };
        let gid = match &self.gid {
            Some(named) => group(named)?,
            // A user without an entry: private groups have the uid's number almost everywhere.
            None => login.first().copied().unwrap_or(uid),
        };
        let groups = match &self.groups {
            Some(named) => named.iter().map(group).collect::<Result<Vec<u32>, QuestionError>>()?,
            None => login,
        };
        let mut facts = PeerFacts::new(uid, gid, groups).with_names(users);
        if let Some(exe) = &self.exe {
            if !exe.is_absolute() {
                return fail(format!("exe is an absolute path, not {exe:?}"));
            }
            facts.executable = ProcessFact::Known(exe.clone());
        }
        if let Some(unit) = &self.unit {
            facts.unit = ProcessFact::Known(unit.clone());
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::{Connected, PeerQuestion};
    use crate::authority::load::PasswdFiles;
    use crate::authority::{PeerFacts, UserDirectory};

    fn users() -> PasswdFiles {
        PasswdFiles::parse("ana:x:1000:1000::/nonexistent/ana:\n", "dev:x:100:ana\naudio:x:29:\n")
    }

    fn facts(question: serde_json::Value) -> Result<PeerFacts, String> {
        let question: PeerQuestion = serde_json::from_value(question).map_err(|error| error.to_string())?;
        question.facts(&users()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_is_as_after_login() {
        let ana = facts(json!({ "user": "ana" })).unwrap();
        assert_eq!(ana, PeerFacts::new(1000, 1000, [1000, 100]).with_names(&users()));
        assert_eq!(ana.home, Some(PathBuf::from("/nonexistent/ana")));
        assert_eq!(facts(json!({ "uid": 1000 })), Ok(ana));
        assert_eq!(facts(json!({ "uid": 7 })), Ok(PeerFacts::new(7, 7, [])));
        let said = facts(json!({ "uid": 1000, "gid": "audio", "groups": [5, "dev"] })).unwrap();
        assert_eq!((said.gid, said.groups), (29, vec![5, 100]));
        assert_eq!(facts(json!({ "uid": 1000, "groups": [] })).unwrap().groups, [0_u32; 0]);
        let said = facts(json!({ "uid": 7, "exe": "/usr/bin/x", "unit": "x.service" })).unwrap();
        assert_eq!(said.to_string(), "uid=7 exe=/usr/bin/x unit=x.service");
        assert_eq!(users().groups_of(7), [0_u32; 0]);
    }

    #[test]
    fn a_question_that_names_nobody_is_refused() {
        for (question, text) in [
            (json!({}), "a peer has a uid: say uid, user, pid or connection"),
            (json!({ "user": "eve\n" }), "unknown user \"eve\\n\""),
            (json!({ "uid": 7, "user": "ana" }), "uid 7 and a user whose uid is 1000"),
            (json!({ "uid": 7, "groups": ["no"] }), "unknown group \"no\""),
            (json!({ "uid": 7, "exe": "x" }), "exe is an absolute path, not \"x\""),
        ] {
            assert_eq!(facts(question), Err(text.to_owned()));
        }
        assert!(facts(json!({ "uid": 7, "pids": 5 })).unwrap_err().starts_with("unknown field `pids`"));
        assert!(facts(json!({ "uid": -1 })).is_err() && facts(json!({ "uid": 4_294_967_296_u64 })).is_err());
    }

    #[test]
    fn a_connected_peer_is_named_alone() {
        let connected = |question| serde_json::from_value::<PeerQuestion>(question).unwrap().connected();
        assert_eq!(connected(json!({ "uid": 7 })), Ok(None));
        assert_eq!(connected(json!({ "pid": 7 })), Ok(Some(Connected::Process(7))));
        assert_eq!(connected(json!({ "connection": 7 })), Ok(Some(Connected::Connection(7))));
        assert!(connected(json!({ "pid": 7, "uid": 7 })).is_err());
        assert!(connected(json!({ "pid": 7, "connection": 7 })).is_err());
    }
}
