//! Finding a file without opening it, so that its real path can be judged first; and a place for one that is not there.
//!
//! A peer chooses the path, and may own directories on it. So: no link is trusted, the file that was judged is the file
//! that is read or written, a new one is made in the directory that was judged, and a path through another process's view
//! of the file system (`/proc/PID/root`) is no path at all, for its real name would be that process's invention.
//!
//! It knows no scope: what calls it asks, between finding and using.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};

/// How often something is looked for that is moved while it is looked at.
const ATTEMPTS: usize = 8;

/// A file that was found and not opened: opening a pipe or a device can have effects.
#[derive(Debug)]
pub(super) struct Located {
    handle: File,
    found: Metadata,
    /// Its path with all links resolved, as the kernel says it.
    pub(super) real: PathBuf,
}

/// A directory, and a name in it.
pub(super) struct Place {
    directory: File,
    name: OsString,
    /// The directory's path with all links resolved, and the name.
    pub(super) real: PathBuf,
}

/// Why nothing was found.
pub(super) struct Missing {
    pub(super) error: Error,
    /// Where it would be, links resolved; `None` if that can not be said, and then nothing may be told.
    pub(super) real: Option<PathBuf>,
}

/// What becomes of the bytes that a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// New ones are added after them.
    Kept,
    /// They go.
    Dropped,
}

/// Finds what `path`, which is absolute, leads to.
pub(super) fn locate(path: &Path) -> Result<Located, Missing> {
    find(path, OFlags::empty()).map_err(|error| Missing { real: real_place(path), error })
}

/// Finds the directory in which `path`, which is absolute and leads nowhere, would be.
pub(super) fn place(path: &Path) -> Result<Place, Missing> {
    // The kernel makes no file of such a name, and `Path` does not tell it from one without the slash.
    let is_directory = path.as_os_str().as_bytes().ends_with(b"/");
    let (Some(parent), Some(name), false) = (path.parent(), path.file_name(), is_directory) else {
        let error = Error::new(ErrorKind::NotFound, "no directory, and no name for a file");
        return Err(Missing { error, real: real_place(path) });
    };
    match find(parent, OFlags::DIRECTORY) {
        Ok(Located { handle, real, .. }) => {
            Ok(Place { directory: handle, real: real.join(name), name: name.to_owned() })
        }
        Err(error) => Err(Missing { real: real_place(path), error }),
    }
}

impl Located {
    pub(super) fn is_file(&self) -> bool {
        self.found.is_file()
    }

    /// What is known of it now.
    pub(super) fn metadata(&self) -> std::io::Result<Metadata> {
        self.handle.metadata()
    }

    /// Opens the regular file that was found, whatever its name leads to by now.
    pub(super) fn open_to_read(&self) -> std::io::Result<File> {
        self.open_file(OFlags::RDONLY)
    }

    /// The same for writing: at its end, or from its beginning.
    pub(super) fn open_to_write(&self, existing: Existing) -> std::io::Result<File> {
        match existing {
            Existing::Kept => self.open_file(OFlags::WRONLY | OFlags::APPEND),
            Existing::Dropped => self.open_file(OFlags::WRONLY | OFlags::TRUNC),
        }
    }

    /// Opens it for writing and changes nothing.
    pub(super) fn check_writable(&self) -> std::io::Result<()> {
        self.open_file(OFlags::WRONLY).map(drop)
    }

    /// Opens the directory that was found.
    pub(super) fn open_directory(&self) -> std::io::Result<File> {
        self.open(OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// A path that leads to what was found for as long as this lives, and to nothing else.
    #[cfg(feature = "watch")]
    pub(super) fn handle_path(&self) -> PathBuf {
        own_link(&self.handle).into()
    }

    /// Whether both are one file, maybe under two names.
    #[cfg(feature = "watch")]
    pub(super) fn is_same(&self, other: &Located) -> bool {
        (self.found.dev(), self.found.ino()) == (other.found.dev(), other.found.ino())
    }

    /// Whether the kernel still knows it by the path under which it was found. It asks no file system.
    #[cfg(feature = "watch")]
    pub(super) fn is_there(&self) -> bool {
        std::fs::read_link(own_link(&self.handle)).is_ok_and(|now| now == self.real)
    }

    /// The place where it is, if it still is there.
    pub(super) fn place(&self) -> std::io::Result<Place> {
        let moved = || Error::from(ErrorKind::WouldBlock);
        let (Some(parent), Some(name)) = (self.real.parent(), self.real.file_name()) else {
            return Err(ErrorKind::IsADirectory.into());
        };
        let directory = find(parent, OFlags::DIRECTORY).map_err(|_| moved())?;
        let there = statat(&directory.handle, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| moved())?;
        let is_it = (there.st_dev, there.st_ino) == (self.found.dev(), self.found.ino());
        if !is_it || directory.real != parent {
            return Err(moved());
        }
        Ok(Place { directory: directory.handle, name: name.to_owned(), real: self.real.clone() })
    }

    fn open_file(&self, flags: OFlags) -> std::io::Result<File> {
        if !self.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        self.open(flags)
    }

    fn open(&self, flags: OFlags) -> std::io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(rustix::fs::open(own_link(&self.handle), flags, Mode::empty())?.into())
    }
}

impl Place {
    /// The directory.
    pub(super) fn directory(&self) -> &File {
        &self.directory
    }

    /// The name in it.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Makes a file of this name, which nothing has. A link of that name, also one that leads nowhere, is something.
    pub(super) fn create(&self, name: &OsStr, mode: Mode) -> std::io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.directory, name, flags, mode)?.into())
    }
}

fn find(path: &Path, more: OFlags) -> std::io::Result<Located> {
    for _ in 0..ATTEMPTS {
        let handle = open_path(path, more, ResolveFlags::empty())?;
        let found = handle.metadata()?;
        if let Some(real) = real_name(&handle, &found)? {
            return Ok(Located { handle, found, real });
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// `O_PATH` finds and opens nothing. `NO_MAGICLINKS` keeps out the links of /proc, which lead into other mount namespaces,
/// where any name can be given to any file.
fn open_path(path: &Path, more: OFlags, resolve: ResolveFlags) -> std::io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    Ok(openat2(CWD, path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS)?.into())
}

/// The path under which the kernel knows what was found; `None` if that path does not lead there: it lost this name, or
/// was moved, just now. Of a file that lost its name the kernel says "NAME (deleted)", which a rule must not be asked about.
fn real_name(handle: &File, found: &Metadata) -> std::io::Result<Option<PathBuf>> {
    let real = std::fs::read_link(own_link(handle))?;
    let again = match open_path(&real, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
        Ok(again) => again.metadata()?,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error),
        Err(_) => return Ok(None),
    };
    let is_same = (again.dev(), again.ino()) == (found.dev(), found.ino());
    Ok(is_same.then_some(real))
}

fn own_link(handle: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Where a path that leads nowhere would lead: the real path of the deepest directory that exists, and the rest. `None` if a
/// link stands where the rest begins, as that would lead elsewhere.
fn real_place(path: &Path) -> Option<PathBuf> {
    for directory in path.ancestors().skip(1) {
        let Ok(found) = find(directory, OFlags::DIRECTORY) else { continue };
        let rest = path.strip_prefix(directory).ok()?;
        let next = rest.components().next()?;
        let is_link = statat(&found.handle, next.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        return (!is_link).then(|| found.real.join(rest));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().canonicalize().unwrap()
    }

    fn real_of_missing(path: &Path) -> Option<PathBuf> {
        locate(path).err().and_then(|missing| missing.real)
    }

    #[test]
    fn links_are_resolved_and_the_file_that_was_found_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        std::fs::write(root.join("a"), "first").unwrap();
        symlink(root.join("a"), root.join("link")).unwrap();
        let located = locate(&root.join("link")).ok().unwrap();
        assert_eq!(located.real, root.join("a"));
        std::fs::rename(root.join("a"), root.join("moved")).unwrap();
        std::fs::write(root.join("a"), "second").unwrap();
        assert_eq!(std::io::read_to_string(located.open_to_read().unwrap()).unwrap(), "first");
        located.open_to_write(Existing::Kept).unwrap().write_all(b" and more").unwrap();
        assert_eq!(std::fs::read(root.join("moved")).unwrap(), b"first and more");
        located.open_to_write(Existing::Dropped).unwrap().write_all(b"third").unwrap();
        assert_eq!(std::fs::read(root.join("moved")).unwrap(), b"third");
        assert_eq!(std::fs::read(root.join("a")).unwrap(), b"second");
        assert!(located.place().is_err(), "another file has its name");
    }

    #[test]
    fn the_view_of_another_process_is_no_path() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        std::fs::write(root.join("a"), "x").unwrap();
        for through in ["/proc/self/root", "/proc/self/cwd", "/proc/thread-self/root"] {
            let path = Path::new(through).join(root.strip_prefix("/").unwrap());
            assert!(locate(&path.join("a")).is_err(), "{}", path.display());
            assert!(place(&path.join("new")).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn nothing_is_told_of_what_is_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        std::fs::create_dir(root.join("elsewhere")).unwrap();
        symlink(root.join("elsewhere"), root.join("to-directory")).unwrap();
        symlink(root.join("elsewhere/gone"), root.join("dangling")).unwrap();
        assert_eq!(real_of_missing(&root.join("gone")), Some(root.join("gone")));
        assert_eq!(real_of_missing(&root.join("gone/deeper")), Some(root.join("gone/deeper")));
        let behind = root.join("elsewhere/gone");
        assert_eq!(real_of_missing(&root.join("to-directory/gone")), Some(behind), "the real place");
        assert_eq!(real_of_missing(&root.join("dangling")), None);
    }

    #[test]
    fn a_place_is_in_the_directory_that_was_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        std::fs::create_dir_all(root.join("real/deep")).unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        let found = place(&root.join("link/deep/../new")).ok().unwrap();
        assert_eq!(found.real, root.join("real/new"));
        std::fs::rename(root.join("real"), root.join("moved")).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        found.create(found.name(), Mode::RUSR).unwrap();
        assert!(root.join("moved/new").exists() && !root.join("real/new").exists());
        symlink("nowhere", root.join("moved/dangling")).unwrap();
        let error = found.create(OsStr::new("dangling"), Mode::RUSR).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        for no_name in ["moved/x/", "moved/..", "moved/new/x", "gone/x"] {
            assert!(place(&root.join(no_name)).is_err(), "{no_name}");
        }
        assert!(place(Path::new("/")).is_err());
    }

    #[test]
    fn a_name_that_is_gone_is_not_judged_even_if_the_file_has_another() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        std::fs::write(root.join("a"), "x").unwrap();
        let handle = open_path(&root.join("a"), OFlags::empty(), ResolveFlags::empty()).unwrap();
        let found = handle.metadata().unwrap();
        assert_eq!(real_name(&handle, &found).unwrap(), Some(root.join("a")));
        std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
        std::fs::remove_file(root.join("a")).unwrap();
        assert_eq!(real_name(&handle, &found).unwrap(), None, "the kernel calls it \"a (deleted)\"");
        std::fs::write(root.join("a (deleted)"), "another").unwrap();
        assert_eq!(real_name(&handle, &found).unwrap(), None);
        std::fs::remove_file(root.join("b")).unwrap();
        assert_eq!(real_name(&handle, &found).unwrap(), None);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let located = locate(directory.path()).ok().unwrap();
        assert!(located.open_to_read().is_err() && located.open_directory().is_ok());
        let null = locate(Path::new("/dev/null")).ok().unwrap();
        assert!(null.open_to_read().is_err() && null.open_to_write(Existing::Dropped).is_err());
        assert!(null.open_directory().is_err());
    }
}
