//! The user database as `/etc/passwd` and `/etc/group` have it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::authority::UserDirectory;

/// Users and groups of `/etc/passwd` and `/etc/group`, read once. Users of directory services are not among them:
/// name these by uid and gid, or give [`Policy`](crate::authority::Policy) another directory.
#[derive(Clone, Debug, Default)]
pub struct PasswdFiles {
    users: HashMap<String, u32>,
    by_uid: HashMap<u32, User>,
    groups: HashMap<String, u32>,
    /// Groups by the names of their members.
    memberships: HashMap<String, Vec<u32>>,
}

#[derive(Clone, Debug)]
struct User {
    name: String,
    gid: Option<u32>,
    home: PathBuf,
}

impl PasswdFiles {
    /// Reads the system's files; a file that doesn't exist has no entries.
    ///
    /// # Errors
    /// A file exists and can't be read.
    pub fn system() -> io::Result<Self> {
        Ok(Self::parse(&text("/etc/passwd")?, &text("/etc/group")?))
    }

    /// The same of two texts. Lines that are not entries are skipped; of two with one name or one uid, the first
    /// counts, as in the C library.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        let mut found = Self::default();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            let (name, uid, gid, home) = (fields.next(), fields.nth(1), fields.next(), fields.nth(1));
            if let (Some(name), Some(Ok(uid)), Some(home)) = (name, uid.map(str::parse), home) {
                found.users.entry(name.to_owned()).or_insert(uid);
                let gid = gid.and_then(|gid| gid.parse().ok());
                let user = || User { name: name.to_owned(), gid, home: PathBuf::from(home) };
                found.by_uid.entry(uid).or_insert_with(user);
            }
        }
        for line in group.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(Ok(gid))) = (fields.next(), fields.nth(1).map(str::parse)) {
                found.groups.entry(name.to_owned()).or_insert(gid);
                let members = fields.next().into_iter().flat_map(|members| members.split(','));
                for member in members.filter(|member| !member.is_empty()) {
                    found.memberships.entry(member.to_owned()).or_default().push(gid);
                }
            }
        }
        found
    }
}

fn text(path: &str) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

impl UserDirectory for PasswdFiles {
    fn uid_of(&self, name: &str) -> Option<u32> {
        self.users.get(name).copied()
    }

    fn gid_of(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }

    fn name_of(&self, uid: u32) -> Option<String> {
        self.by_uid.get(&uid).map(|user| user.name.clone())
    }

    /// With links resolved; as it is written when it doesn't exist.
    fn home_of(&self, uid: u32) -> Option<PathBuf> {
        let user = self.by_uid.get(&uid)?;
        let resolved = |home: &Path| home.canonicalize().unwrap_or_else(|_| home.to_owned());
        Some(resolved(&user.home))
    }

    fn groups_of(&self, uid: u32) -> Vec<u32> {
        let Some(user) = self.by_uid.get(&uid) else { return Vec::new() };
        let mut groups: Vec<u32> = user.gid.into_iter().collect();
        for gid in self.memberships.get(&user.name).into_iter().flatten() {
            if !groups.contains(gid) {
                groups.push(*gid);
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::PasswdFiles;
    use crate::authority::UserDirectory;

    #[test]
    fn entries_are_read_and_the_rest_is_skipped() {
        let passwd = "root:x:0:0:root:/nonexistent-root:/bin/sh\n# no\nana:x:1000:1000::/nonexistent/ana:/bin/sh\n\
                      twin:x:1000:1000::/b:/bin/sh\nana:x:7:7::/c:\nbad:x:minus:0::/d:\nshort:x:5\n+::::::\n";
        let users = PasswdFiles::parse(passwd, "root:x:0:\ndev:x:100:ana,bob\nbad:x::\n");
        assert_eq!((users.uid_of("ana"), users.uid_of("twin")), (Some(1000), Some(1000)));
        assert_eq!((users.uid_of("bad"), users.uid_of("short"), users.uid_of("")), (None, None, None));
        assert_eq!((users.gid_of("dev"), users.gid_of("bad")), (Some(100), None));
        assert_eq!(users.name_of(1000).as_deref(), Some("ana"));
        assert_eq!(users.home_of(1000), Some(PathBuf::from("/nonexistent/ana")));
        assert_eq!((users.name_of(5), users.home_of(5)), (None, None));
        assert_eq!((users.groups_of(1000), users.groups_of(5)), (vec![1000, 100], vec![]));
    }
}
