//! Names of users and groups, from the system's user database.
//!
//! Look-ups go through the name service switch, which may ask a network: not for the loop that serves peers. "Nobody of that
//! name" and "the database did not answer" are different results, and only the first is `None`.

use std::io;
use std::path::PathBuf;

use nix::unistd;

/// An entry of the user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of the user's primary group.
    pub gid: u32,
    /// The home directory as the database has it; it need not exist.
    pub home: PathBuf,
}

impl User {
    /// Looks a user up by number.
    ///
    /// # Errors
    ///
    /// The error of `getpwuid_r(3)` when the database could not be read.
    pub fn by_uid(uid: u32) -> io::Result<Option<Self>> {
        Ok(unistd::User::from_uid(uid.into())?.map(Self::from))
    }

    /// Looks a user up by login name.
    ///
    /// # Errors
    ///
    /// The error of `getpwnam_r(3)` when the database could not be read.
    pub fn by_name(name: &str) -> io::Result<Option<Self>> {
        Ok(unistd::User::from_name(name)?.map(Self::from))
    }
}

impl From<unistd::User> for User {
    fn from(found: unistd::User) -> Self {
        Self { name: found.name, uid: found.uid.as_raw(), gid: found.gid.as_raw(), home: found.dir }
    }
}

/// An entry of the group database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// The group's number.
    pub gid: u32,
}

impl Group {
    /// Looks a group up by number.
    ///
    /// # Errors
    ///
    /// The error of `getgrgid_r(3)` when the database could not be read.
    pub fn by_gid(gid: u32) -> io::Result<Option<Self>> {
        Ok(unistd::Group::from_gid(gid.into())?.map(Self::from))
    }

    /// Looks a group up by name.
    ///
    /// # Errors
    ///
    /// The error of `getgrnam_r(3)` when the database could not be read.
    pub fn by_name(name: &str) -> io::Result<Option<Self>> {
        Ok(unistd::Group::from_name(name)?.map(Self::from))
    }
}

impl From<unistd::Group> for Group {
    fn from(found: unistd::Group) -> Self {
        Self { name: found.name, gid: found.gid.as_raw() }
    }
}

/// A uid as an operator reads it: `root (uid 0)`, or `uid 4711` when the database has no name for it.
#[must_use]
pub fn describe_uid(uid: u32) -> String {
    match User::by_uid(uid) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// A gid as an operator reads it: `adm (gid 4)`, or `gid 4711` when the database has no name for it.
#[must_use]
pub fn describe_gid(gid: u32) -> String {
    match Group::by_gid(gid) {
        Ok(Some(group)) => format!("{} (gid {gid})", group.name),
        Ok(None) | Err(_) => format!("gid {gid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, User, describe_gid, describe_uid};

    /// No account has it: it is -2 in 32 bits less one, which user management tools never give out.
    const NOBODY_S: u32 = 0xffff_fff0;

    #[test]
    fn root_is_found_both_ways() {
        let root = User::by_uid(0).expect("database").expect("root exists");
        assert_eq!(root, User::by_name(&root.name).expect("database").expect("by its name"));
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.home.is_absolute());
        let group = Group::by_gid(0).expect("database").expect("root's group exists");
        assert_eq!(group, Group::by_name(&group.name).expect("database").expect("by its name"));
    }

    #[test]
    fn nobody_is_none_and_described_by_number() {
        assert_eq!(User::by_uid(NOBODY_S).expect("database"), None);
        assert_eq!(User::by_name("no-such-user-here").expect("database"), None);
        assert_eq!(User::by_name("nul\0inside").expect("database"), None);
        assert_eq!(Group::by_name("no-such-group-here").expect("database"), None);
        assert_eq!(describe_uid(NOBODY_S), format!("uid {NOBODY_S}"));
        assert_eq!(describe_gid(NOBODY_S), format!("gid {NOBODY_S}"));
        assert!(describe_uid(0).ends_with(" (uid 0)"));
    }
}
