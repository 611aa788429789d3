//! Finding a file without opening it, so that its real path can be judged first.
//!
//! A peer chooses the path, and may own directories on it. So: no link is trusted, the file that was judged is the file
//! that is read, and a path through another process's view of the file system (`/proc/PID/root`) is no path at all, for
//! its real name would be that process's invention.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

/// A file that was found and not opened: opening a pipe or a device can have effects.
pub(super) struct Located {
    handle: File,
    /// Its path with all links resolved, as the kernel says it.
    pub(super) real: PathBuf,
}

/// Why nothing was found.
pub(super) struct Missing {
    pub(super) error: Error,
    /// Where it would be, links resolved; `None` if that can not be said, and then nothing may be told.
    pub(super) real: Option<PathBuf>,
}

/// Finds what `path` leads to.
pub(super) fn locate(path: &Path) -> Result<Located, Missing> {
    if !path.is_absolute() {
        let error = Error::new(ErrorKind::InvalidInput, "the path is not absolute");
        return Err(Missing { error, real: None });
    }
    find(path).map_err(|error| Missing { real: real_place(path), error })
}

impl Located {
    /// Opens the file that was found, whatever its name leads to by now.
    pub(super) fn open(&self) -> std::io::Result<File> {
        if !self.handle.metadata()?.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(rustix::fs::open(own_link(&self.handle), flags, Mode::empty())?.into())
    }
}

fn find(path: &Path) -> std::io::Result<Located> {
    let handle = open_path(path, OFlags::empty())?;
    let real = real_name(&handle)?;
    Ok(Located { handle, real })
}

/// `O_PATH` finds and opens nothing. `NO_MAGICLINKS` keeps out the links of /proc, which lead into other mount namespaces,
/// where any name can be given to any file.
fn open_path(path: &Path, more: OFlags) -> std::io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    Ok(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?.into())
}

fn real_name(handle: &File) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    if handle.metadata()?.nlink() == 0 {
        // Its name is gone, so no rule can be asked about it.
        return Err(ErrorKind::NotFound.into());
    }
    std::fs::read_link(own_link(handle))
}

fn own_link(handle: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Where a path that leads nowhere would lead: the real path of the deepest directory that exists, and the rest. `None` if a
/// link stands where the rest begins, as that would lead elsewhere.
fn real_place(path: &Path) -> Option<PathBuf> {
    for directory in path.ancestors().skip(1) {
        let Ok(handle) = open_path(directory, OFlags::DIRECTORY) else { continue };
        let rest = path.strip_prefix(directory).ok()?;
        let next = rest.components().next()?;
        let is_link = statat(&handle, next.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        return if is_link { None } else { Some(real_name(&handle).ok()?.join(rest)) };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place(path: &Path) -> Option<PathBuf> {
        locate(path).err().and_then(|missing| missing.real)
    }

    #[test]
    fn links_are_resolved_and_the_file_that_was_found_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::write(root.join("a"), "first").unwrap();
        symlink(root.join("a"), root.join("link")).unwrap();
        let located = locate(&root.join("link")).ok().unwrap();
        assert_eq!(located.real, root.join("a"));
        std::fs::rename(root.join("a"), root.join("moved")).unwrap();
        std::fs::write(root.join("a"), "second").unwrap();
        assert_eq!(std::io::read_to_string(located.open().unwrap()).unwrap(), "first");
    }

    #[test]
    fn the_view_of_another_process_is_no_path() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::write(root.join("a"), "x").unwrap();
        for through in ["/proc/self/root", "/proc/self/cwd", "/proc/thread-self/root"] {
            let path = Path::new(through).join(root.strip_prefix("/").unwrap()).join("a");
            assert!(locate(&path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn nothing_is_told_of_what_is_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("elsewhere")).unwrap();
        symlink(root.join("elsewhere"), root.join("to-directory")).unwrap();
        symlink(root.join("elsewhere/gone"), root.join("dangling")).unwrap();
        assert_eq!(place(&root.join("gone")), Some(root.join("gone")));
        assert_eq!(place(&root.join("gone/deeper")), Some(root.join("gone/deeper")));
        assert_eq!(
            place(&root.join("to-directory/gone")),
            Some(root.join("elsewhere/gone")),
            "the real place"
        );
        assert_eq!(place(&root.join("dangling")), None);
        assert_eq!(place(Path::new("relative")), None);
    }

    #[test]
    fn a_file_without_a_name_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::write(root.join("a"), "x").unwrap();
        let located = locate(&root.join("a")).ok().unwrap();
        std::fs::remove_file(root.join("a")).unwrap();
        assert!(real_name(&located.handle).is_err());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let located = locate(directory.path()).ok().unwrap();
        assert!(located.open().is_err());
        let null = locate(Path::new("/dev/null")).ok().unwrap();
        assert!(null.open().is_err());
    }
}
