//! Who is at the other end of a socket, as the kernel has it.
//!
//! Owns the reading of credentials and nothing else: no message of a peer's is looked at, no value is made up where the kernel
//! gives none, and what a uid may do is decided elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::sys;

/// Groups read at the first try; a peer with more costs a second call.
const USUAL_GROUPS: usize = 64;

/// `NGROUPS_MAX` of Linux: no process is in more groups.
const MAX_GROUPS: usize = 65_536;

/// What the kernel knows of the process that connected (or, at a client, of the one that listens), at that moment.
///
/// A connection that was handed on keeps the credentials of who made it. Uid, gid and groups are always the kernel's answer;
/// there is no default for any of them.
#[derive(Debug)]
pub struct Credentials {
    /// The effective uid.
    pub uid: u32,
    /// The effective gid.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// The process's number, for messages and logs: it may belong to another process by now, so identity must come from
    /// [`process`](Self::process). `None` when the process is not visible from this pid namespace.
    pub pid: Option<u32>,
    /// A hold on the process itself.
    pub process: PeerProcess,
}

/// A hold on the process at the other end.
#[derive(Debug)]
pub enum PeerProcess {
    /// A pidfd of a process that was running when the credentials were read: what is learned through it is true of this very
    /// process if [`Credentials::has_ended`] is still false afterwards.
    Held(OwnedFd),
    /// The process has ended, so nothing more can be learned about it.
    Ended,
    /// The kernel can't tell (Linux before 6.5).
    Unsupported,
}

impl Credentials {
    /// Reads the credentials of the peer of a connected Unix socket.
    ///
    /// # Errors
    ///
    /// Any error of `getsockopt(2)`: of `SO_PEERCRED`, of `SO_PEERGROUPS`, and of `SO_PEERPIDFD` except those that mean "not
    /// there" ([`PeerProcess`]). `EMFILE` is among them and concerns this connection only.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Self::gather(&SocketFacts(socket))
    }

    /// Whether the uid or the gid is the one that stands for "can't be expressed in this user namespace".
    ///
    /// Such a peer is somebody, but nobody knows who: no rule may match it. The numbers are read once from
    /// `/proc/sys/kernel/overflowuid` and `overflowgid`; 65534 counts where these can't be read.
    #[must_use]
    pub fn is_overflow(&self) -> bool {
        let overflow = OverflowIds::of_system();
        self.uid == overflow.uid || self.gid == overflow.gid
    }

    /// Whether the peer is in a group, be it the primary or a supplementary one.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// The pidfd, if the kernel gave one.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.process {
            PeerProcess::Held(pidfd) => Some(pidfd.as_fd()),
            PeerProcess::Ended | PeerProcess::Unsupported => None,
        }
    }

    /// Whether the process that connected is known to have ended; `false` as long as it runs, or when the kernel can't tell.
    ///
    /// # Errors
    ///
    /// The errors of `poll(2)`.
    pub fn has_ended(&self) -> io::Result<bool> {
        match &self.process {
            PeerProcess::Held(pidfd) => process_has_ended(pidfd.as_fd()),
            PeerProcess::Ended => Ok(true),
            PeerProcess::Unsupported => Ok(false),
        }
    }

    /// Whether the kernel gives a hold on a peer's process at all (Linux 6.5): asks it for one of this process.
    ///
    /// # Errors
    ///
    /// Any error that does not mean "not there".
    pub fn can_hold_processes() -> io::Result<bool> {
        let (one, _other) = UnixStream::pair()?;
        match sys::peer_pidfd(one.as_fd()) {
            Ok(_) => Ok(true),
            Err(error) if errno(&error) == Some(Errno::NOPROTOOPT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn gather(facts: &impl PeerFacts) -> io::Result<Self> {
        let (pid, uid, gid) = facts.user()?;
        if uid == u32::MAX || gid == u32::MAX {
            // The kernel's "no id": a socket that never had a peer.
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the kernel knows no peer of this socket",
            ));
        }
        let groups = read_groups(facts)?;
        let process = held_process(facts.pidfd())?;
        Ok(Self { uid, gid, groups, pid: u32::try_from(pid).ok().filter(|pid| *pid != 0), process })
    }
}

/// The ids that stand for owners that this user namespace can't express.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverflowIds {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl OverflowIds {
    pub(crate) fn of_system() -> Self {
        static READ: OnceLock<OverflowIds> = OnceLock::new();
        *READ.get_or_init(|| Self { uid: read_id("overflowuid"), gid: read_id("overflowgid") })
    }
}

fn read_id(name: &str) -> u32 {
    const DEFAULT: u32 = 65_534;
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT)
}

/// The kernel's answers, so that tests can give others.
trait PeerFacts {
    fn user(&self) -> io::Result<(i32, u32, u32)>;
    fn groups(&self, into: &mut [u32]) -> io::Result<usize>;
    fn pidfd(&self) -> io::Result<OwnedFd>;
}

struct SocketFacts<'fd>(BorrowedFd<'fd>);

impl PeerFacts for SocketFacts<'_> {
    fn user(&self) -> io::Result<(i32, u32, u32)> {
        sys::peer_user(self.0)
    }

    fn groups(&self, into: &mut [u32]) -> io::Result<usize> {
        sys::peer_groups(self.0, into)
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        sys::peer_pidfd(self.0)
    }
}

fn read_groups(facts: &impl PeerFacts) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; USUAL_GROUPS];
    loop {
        match facts.groups(&mut groups) {
            Ok(count) => {
                groups.truncate(count);
                groups.shrink_to_fit();
                return Ok(groups);
            }
            Err(error) if errno(&error) == Some(Errno::RANGE) && groups.len() < MAX_GROUPS => {
                groups.resize(MAX_GROUPS, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

fn held_process(answer: io::Result<OwnedFd>) -> io::Result<PeerProcess> {
    let error = match answer {
        // From 6.16 on the kernel gives a pidfd even of a process that has been reaped.
        Ok(pidfd) if process_has_ended(pidfd.as_fd())? => return Ok(PeerProcess::Ended),
        Ok(pidfd) => return Ok(PeerProcess::Held(pidfd)),
        Err(error) => error,
    };
    match errno(&error) {
        Some(Errno::NOPROTOOPT) => Ok(PeerProcess::Unsupported),
        // Before 6.16 a reaped peer is EINVAL or ESRCH; ENODATA is a socket whose peer was never recorded.
        Some(Errno::SRCH | Errno::INVAL | Errno::NODATA) => Ok(PeerProcess::Ended),
        _ => Err(error),
    }
}

/// A pidfd is readable from the moment that its process ends.
pub(crate) fn process_has_ended(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&at_once)))?;
    Ok(ready > 0)
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use super::{Credentials, MAX_GROUPS, OverflowIds, PeerFacts, PeerProcess};
    use crate::stream::Stream;

    /// A kernel whose answers, errnos above all, are made up.
    struct Faked {
        user: Result<(i32, u32, u32), i32>,
        groups: Result<Vec<u32>, i32>,
        pidfd: Result<(), i32>,
        asked: Cell<usize>,
        writers: RefCell<Vec<io::PipeWriter>>,
    }

    impl Faked {
        fn good() -> Self {
            Self {
                user: Ok((9, 7, 8)),
                groups: Ok(vec![3, 4]),
                pidfd: Ok(()),
                asked: Cell::new(0),
                writers: RefCell::default(),
            }
        }

        fn gather(&self) -> io::Result<Credentials> {
            Credentials::gather(self)
        }
    }

    impl PeerFacts for Faked {
        fn user(&self) -> io::Result<(i32, u32, u32)> {
            self.user.map_err(io::Error::from_raw_os_error)
        }

        fn groups(&self, into: &mut [u32]) -> io::Result<usize> {
            self.asked.set(self.asked.get() + 1);
            let groups = self.groups.as_ref().map_err(|errno| io::Error::from_raw_os_error(*errno))?;
            let room = into.get_mut(..groups.len()).ok_or(io::Error::from_raw_os_error(libc::ERANGE))?;
            room.copy_from_slice(groups);
            Ok(groups.len())
        }

        fn pidfd(&self) -> io::Result<OwnedFd> {
            self.pidfd.map_err(io::Error::from_raw_os_error)?;
            // Readable is "ended"; a pipe whose writing end is open is not.
            let (reader, writer) = io::pipe()?;
            self.writers.borrow_mut().push(writer);
            Ok(reader.into())
        }
    }

    #[test]
    fn the_kernel_s_answers_are_taken_as_they_are() {
        let fake = Faked::good();
        let found = fake.gather().expect("credentials");
        assert_eq!((found.uid, found.gid, found.pid), (7, 8, Some(9)));
        assert_eq!(found.groups, [3, 4]);
        assert!(found.pidfd().is_some());
        assert!(found.in_group(8) && found.in_group(3) && !found.in_group(7));
        assert!(!found.is_overflow());
        assert!(!found.has_ended().expect("polled"));
    }

    #[test]
    fn a_failed_answer_is_an_error_and_never_a_default() {
        let failed = |fake: Faked| fake.gather().expect_err("no answer, no credentials").raw_os_error();
        assert_eq!(failed(Faked { user: Err(libc::EPERM), ..Faked::good() }), Some(libc::EPERM));
        assert_eq!(failed(Faked { groups: Err(libc::ENOMEM), ..Faked::good() }), Some(libc::ENOMEM));
        assert_eq!(
            failed(Faked { groups: Err(libc::ENOPROTOOPT), ..Faked::good() }),
            Some(libc::ENOPROTOOPT)
        );
        assert_eq!(failed(Faked { groups: Err(libc::ERANGE), ..Faked::good() }), Some(libc::ERANGE));
        assert_eq!(failed(Faked { pidfd: Err(libc::EMFILE), ..Faked::good() }), Some(libc::EMFILE));
        for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
            let nobody = Faked { user: Ok((0, uid, gid)), ..Faked::good() };
            assert_eq!(nobody.gather().expect_err("nobody").kind(), io::ErrorKind::NotConnected);
        }
    }

    #[test]
    fn a_kernel_without_pidfds_and_a_reaped_peer_differ() {
        let process =
            |errno| Faked { pidfd: Err(errno), ..Faked::good() }.gather().expect("the rest is there").process;
        assert!(matches!(process(libc::ENOPROTOOPT), PeerProcess::Unsupported));
        for errno in [libc::ESRCH, libc::EINVAL, libc::ENODATA] {
            assert!(matches!(process(errno), PeerProcess::Ended));
        }
    }

    #[test]
    fn an_ended_peer_is_told_where_the_kernel_still_gives_a_pidfd() {
        let fake = Faked::good();
        let found = fake.gather().expect("credentials");
        fake.writers.borrow_mut().clear();
        assert!(found.has_ended().expect("polled"));
        let (reader, _) = io::pipe().expect("a pipe");
        assert!(matches!(super::held_process(Ok(reader.into())), Ok(PeerProcess::Ended)));
    }

    #[test]
    fn many_groups_cost_one_more_call_and_all_are_read() {
        let many = Faked { groups: Ok((0..65_536).collect()), ..Faked::good() };
        assert_eq!(many.gather().expect("all groups").groups.len(), MAX_GROUPS);
        assert_eq!(many.asked.get(), 2);
    }

    #[test]
    fn a_pid_of_another_namespace_is_none() {
        assert_eq!(Faked { user: Ok((0, 7, 8)), ..Faked::good() }.gather().expect("credentials").pid, None);
    }

    #[test]
    fn overflow_ids_are_told() {
        let overflow = OverflowIds::of_system();
        for (uid, gid) in [(overflow.uid, 8), (7, overflow.gid)] {
            assert!(
                Faked { user: Ok((9, uid, gid)), ..Faked::good() }
                    .gather()
                    .expect("credentials")
                    .is_overflow()
            );
        }
    }

    #[test]
    fn a_pair_is_of_this_process() {
        let (one, _other) = Stream::pair().expect("a pair");
        let found = Credentials::of(one.as_fd()).expect("credentials");
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(found.gid, rustix::process::getegid().as_raw());
        assert_eq!(found.pid, Some(std::process::id()));
    }
}
