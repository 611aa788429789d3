//! What of the file system a policy was read from, and whether it is still the same.
//!
//! Owns which paths these are, symbolic links on the way to them included. Reads attributes only, and judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::authority::load::{DirectoryContents, PolicyDirectory, is_passed_over};

/// Symbolic links that are followed on one way, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// The attributes of everything that the policy depends on. Equal ones mean that nothing was written, replaced, removed
/// or given to somebody else in between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// By paths whose directories have no links in them; `None` is "not there".
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
    /// The policy directories that are there, without links.
    folders: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    /// Length, and the times of the last change of content and of attributes. Not of a directory: what is written to
    /// one that is of no concern must not look like a change.
    content: Option<(u64, [i64; 4])>,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            content: (!meta.is_dir()).then_some((meta.size(), times)),
        }
    }
}

impl Footprint {
    /// That of these directories now. Blocks on the disk.
    pub(crate) fn of(directories: &[PolicyDirectory]) -> Self {
        let mut footprint = Footprint::default();
        for directory in directories {
            let Some(real) = footprint.walk(directory.path()) else { continue };
            let entries = footprint.walk_entries(real);
            if directory.contents() == DirectoryContents::Permissions {
                for folder in entries.into_iter().filter(|path| path.is_dir()) {
                    footprint.walk_entries(folder);
                }
            }
        }
        footprint
    }

    /// Follows what lies in a policy directory. Gives where that is.
    fn walk_entries(&mut self, folder: PathBuf) -> Vec<PathBuf> {
        let mut found = Vec::new();
        // What can't be read is told by whoever loads it.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !is_passed_over(&entry.file_name()) {
                found.extend(self.walk(&entry.path()));
            }
        }
        self.folders.insert(folder);
        found
    }

    /// The directories in which a change would show, each with what identifies it.
    pub(crate) fn watched(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let parents = self.stamps.keys().filter_map(|path| path.parent());
        let all: BTreeSet<&Path> = parents.chain(self.folders.iter().map(PathBuf::as_path)).collect();
        let identified = |path: &Path| {
            let meta = path.symlink_metadata().ok()?;
            Some((path.to_owned(), (meta.dev(), meta.ino())))
        };
        all.into_iter().filter_map(identified).collect()
    }

    /// Whether a change of `path` may be a change of the policy. Its directory has no links in it.
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        let is_file_of_policy = || {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
            self.folders.contains(parent) && !is_passed_over(name)
        };
        self.stamps.contains_key(path) || self.folders.contains(path) || is_file_of_policy()
    }

    /// Follows `path` and notes each link on the way and what is at the end, or where the way ends.
    fn walk(&mut self, path: &Path) -> Option<PathBuf> {
        let mut ahead: Vec<OsString> = Vec::new();
        push(&mut ahead, &std::path::absolute(path).ok()?);
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            if step == "/" || step == ".." {
                // `..` at the root stays there.
                real = if step == "/" {
                    step.into()
                } else {
                    real.parent().map_or(real.clone(), Path::to_owned)
                };
                continue;
            }
            let next = real.join(step);
            let meta = next.symlink_metadata().ok();
            let is_link = meta.as_ref().is_some_and(Metadata::is_symlink);
            if is_link || meta.is_none() || ahead.is_empty() {
                self.stamps.insert(next.clone(), meta.as_ref().map(Stamp::of));
            }
            meta?;
            if is_link {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                push(&mut ahead, &next.read_link().ok()?);
            } else {
                real = next;
            }
        }
        Some(real)
    }
}

/// Puts the components of `path` before what is ahead.
fn push(ahead: &mut Vec<OsString>, path: &Path) {
    let steps = path.components().rev().filter(|component| !matches!(component, Component::CurDir));
    ahead.extend(steps.map(|component| component.as_os_str().to_owned()));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::Footprint;
    use crate::authority::load::{DirectoryContents, PolicyDirectory};

    /// A directory without links on the way to it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        (directory, real)
    }

    fn of(path: &Path) -> Footprint {
        Footprint::of(&[PolicyDirectory::optional(path)])
    }

    #[test]
    fn what_changes_a_policy_changes_its_footprint_and_nothing_else_does() {
        let (_guard, root) = place();
        let policy = root.join("d");
        let mut last = of(&policy);
        let mut step = |what: &str, differs: bool, act: &dyn Fn()| {
            act();
            let now = of(&policy);
            assert_eq!(now != last, differs, "{what}");
            last = now;
        };
        step("something beside it", false, &|| fs::write(root.join("other"), "x").unwrap());
        step("the directory appears", true, &|| fs::create_dir(&policy).unwrap());
        step("a file", true, &|| fs::write(policy.join("a.toml"), "x").unwrap());
        step("reading", false, &|| drop(fs::read(policy.join("a.toml")).unwrap()));
        step("a swap file", false, &|| fs::write(policy.join(".a.toml.swp"), "x").unwrap());
        step("a backup", false, &|| fs::write(policy.join("a.toml~"), "x").unwrap());
        step("as many bytes", true, &|| fs::write(policy.join("a.toml"), "y").unwrap());
        step("a replacement", true, &|| {
            fs::write(policy.join(".new"), "y").unwrap();
            fs::rename(policy.join(".new"), policy.join("a.toml")).unwrap();
        });
        let mode =
            |mode| fs::set_permissions(policy.join("a.toml"), fs::Permissions::from_mode(mode)).unwrap();
        step("who may write it", true, &|| mode(0o666));
        step("and back", true, &|| mode(0o644));
        step("a removal", true, &|| fs::remove_file(policy.join("a.toml")).unwrap());
        step("the directory goes", true, &|| fs::remove_dir_all(&policy).unwrap());
    }

    #[test]
    fn links_on_the_way_and_their_targets_count() {
        let (_guard, root) = place();
        for version in ["v1", "v2"] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.toml"), "x").unwrap();
        }
        fs::create_dir(root.join("d")).unwrap();
        symlink("../v1", root.join("d/..data")).unwrap();
        symlink("..data/a.toml", root.join("d/a.toml")).unwrap();
        symlink("d", root.join("named")).unwrap();
        let before = of(&root.join("named"));
        for path in ["named", "d", "d/..data", "d/a.toml", "d/new.toml", "v1/a.toml"] {
            assert!(before.concerns(&root.join(path)), "{path}");
        }
        for path in ["v2/a.toml", "v1/b.toml", "d/.hidden", "d/a.toml~", "other", "d/x/y.toml"] {
            assert!(!before.concerns(&root.join(path)), "{path}");
        }
        let watched: Vec<_> = before.watched().into_keys().collect();
        assert_eq!(watched, [root.clone(), root.join("d"), root.join("v1")]);
        symlink("../v2", root.join("d/..new")).unwrap();
        fs::rename(root.join("d/..new"), root.join("d/..data")).unwrap();
        assert_ne!(of(&root.join("named")), before);
    }

    #[test]
    fn permission_files_lie_one_directory_deeper() {
        let (_guard, root) = place();
        fs::create_dir_all(root.join("fs/deep")).unwrap();
        fs::write(root.join("fs/a.toml"), "x").unwrap();
        fs::write(root.join("fs/deep/b.toml"), "x").unwrap();
        let of = |contents| Footprint::of(&[PolicyDirectory::required(&root).of(contents)]);
        let flat = of(DirectoryContents::Capabilities);
        let nested = of(DirectoryContents::Permissions);
        assert!(!flat.concerns(&root.join("fs/a.toml")) && nested.concerns(&root.join("fs/a.toml")));
        assert!(!nested.concerns(&root.join("fs/deep/b.toml")));
        fs::write(root.join("fs/new.toml"), "x").unwrap();
        assert_eq!(of(DirectoryContents::Capabilities), flat);
        assert_ne!(of(DirectoryContents::Permissions), nested);
    }

    #[test]
    fn directories_of_plugins_count_and_none_below_them() {
        let (_guard, root) = place();
        fs::create_dir_all(root.join("d/thumbs/deeper")).unwrap();
        fs::write(root.join("d/thumbs/a.toml"), "x").unwrap();
        let of = |path: &Path| {
            Footprint::of(&[PolicyDirectory::optional(path).of(DirectoryContents::Permissions)])
        };
        let before = of(&root.join("d"));
        for (path, concerns) in [
            ("d/thumbs", true),
            ("d/thumbs/b.toml", true),
            ("d/other", true),
            ("d/thumbs/deeper/c.toml", false),
        ] {
            assert_eq!(before.concerns(&root.join(path)), concerns, "{path}");
        }
        fs::write(root.join("d/thumbs/a.toml"), "y").unwrap();
        assert_ne!(of(&root.join("d")), before);
    }

    #[test]
    fn where_a_way_ends_is_watched_for_its_going_on() {
        let (_guard, root) = place();
        let missing = root.join("a/b/c");
        let footprint = of(&missing);
        assert!(footprint.watched().into_keys().eq([root.clone()]));
        assert!(footprint.concerns(&root.join("a")) && !footprint.concerns(&root.join("b")));
        symlink("loop", root.join("loop")).unwrap();
        assert!(of(&root.join("loop/x")).folders.is_empty(), "a link to itself leads nowhere");
    }
}
