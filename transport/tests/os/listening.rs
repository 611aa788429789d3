//! Listening: directories, modes, what is in the way, and what is left behind.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use invoked_transport::{
    Access, Address, AdoptError, BindFault, ConnectFault, DirectoryFault, Listener, PipeName, Stream,
};
use rustix::fs::{FileType, Mode, mknodat};

use crate::child::{Place, STRANGER, Start, can_be_others, leave_dead_socket, set_mode};

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("there").permissions().mode() & 0o7777
}

fn socket_of(address: &Address) -> &Path {
    address.socket_path().expect("a path")
}

fn directory_of(address: &Address) -> &Path {
    socket_of(address).parent().expect("a directory")
}

fn lock_of(address: &Address) -> OsString {
    let mut path = socket_of(address).as_os_str().to_os_string();
    path.push(".lock");
    path
}

fn fault(address: &Address, access: Access) -> BindFault {
    Listener::bind(address, access).expect_err("refused").fault
}

fn directory_fault(address: &Address) -> DirectoryFault {
    match fault(address, Access::Owner) {
        BindFault::Directory(fault) => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn directory_and_socket_have_the_modes_of_their_access() {
    let own_group = rustix::process::getegid().as_raw();
    for access in [Access::Owner, Access::Group(own_group), Access::Everyone] {
        let place = Place::new();
        let address = Address::unix(place.path("invoked-7/org.acme/invoked.sock")).expect("short enough");
        let listener = Listener::bind(&address, access).expect("bound");
        assert_eq!(listener.address(), &address);
        assert_eq!(mode(socket_of(&address)), access.socket_mode(), "{access:?}");
        assert_eq!(mode(directory_of(&address)), access.directory_mode(), "{access:?}");
        assert_eq!(mode(&place.path("invoked-7")), access.directory_mode(), "{access:?}");
        assert_eq!(mode(Path::new(&lock_of(&address))), 0o600);
        Stream::connect(&address).expect("connected");
        listener.try_accept().expect("accepted");
    }
}

#[test]
fn a_narrow_umask_does_not_close_the_socket() {
    assert_eq!(Start::new("narrow umask", &Place::new().address()).answer(), "755 666");
}

#[test]
fn a_group_s_files_belong_to_the_group() {
    if !can_be_others() {
        // Only root can give files to any group; the own one is covered above.
        return;
    }
    let place = Place::new();
    let _listener = Listener::bind(&place.address(), Access::Group(STRANGER)).expect("bound");
    let gid = |path: &Path| path.metadata().expect("there").gid();
    assert_eq!(gid(socket_of(&place.address())), STRANGER);
    assert_eq!(gid(directory_of(&place.address())), STRANGER);
}

#[test]
fn access_can_change_between_two_lives() {
    let place = Place::new();
    let address = place.address();
    for access in [Access::Owner, Access::Everyone, Access::Owner] {
        let _listener = Listener::bind(&address, access).expect("bound");
        assert_eq!(mode(directory_of(&address)), access.directory_mode());
    }
}

#[test]
fn a_directory_with_other_files_keeps_its_mode() {
    let place = Place::new();
    let address = place.address();
    std::fs::create_dir(directory_of(&address)).expect("made");
    std::fs::write(directory_of(&address).join("diary"), "").expect("written");
    set_mode(directory_of(&address), 0o700);
    match fault(&address, Access::Everyone) {
        BindFault::Directory(DirectoryFault::Closed { mode: 0o700, wanted: 0o711, .. }) => {}
        other => panic!("{other}"),
    }
    set_mode(directory_of(&address), 0o751);
    let _listener = Listener::bind(&address, Access::Everyone).expect("bound");
    assert_eq!(mode(directory_of(&address)), 0o751);
}

#[test]
fn unsafe_directories_are_refused() {
    let place = Place::new();
    let address = place.address();
    let directory = directory_of(&address).to_path_buf();
    std::fs::create_dir(&directory).expect("made");
    for mode in [0o770, 0o720, 0o707, 0o1777] {
        set_mode(&directory, mode);
        assert!(matches!(directory_fault(&address),
            DirectoryFault::WritableByOthers { mode: found, .. } if found == mode));
    }
    set_mode(&directory, 0o755);
    symlink(&directory, place.path("link")).expect("linked");
    let linked = Address::unix(place.path("link/invoked.sock")).expect("short enough");
    assert!(matches!(directory_fault(&linked), DirectoryFault::Symlink { .. }));
    std::fs::write(place.path("file"), "").expect("written");
    let in_file = Address::unix(place.path("file/invoked.sock")).expect("short enough");
    assert!(matches!(
        directory_fault(&in_file),
        DirectoryFault::NotADirectory { kind: "a regular file", .. }
    ));
    let deep = Address::unix(place.path("1/2/3/invoked.sock")).expect("short enough");
    assert!(matches!(directory_fault(&deep), DirectoryFault::Missing { .. }));
    assert!(!place.path("1").exists(), "nothing is made halfway");
    assert_eq!(std::fs::read_dir(&directory).expect("readable").count(), 0, "nothing was left there");

    // A link further up is followed if its owner is trusted, so that /var/run works.
    std::fs::create_dir(place.path("s/deeper")).expect("made");
    let through = Address::unix(place.path("link/deeper/invoked.sock")).expect("short enough");
    Listener::bind(&through, Access::Owner).expect("bound");
}

#[test]
fn unsafe_directories_above_are_refused() {
    let place = Place::new();
    let address = place.address();
    set_mode(&place.path(""), 0o777);
    assert!(matches!(directory_fault(&address), DirectoryFault::WritableByOthers { mode: 0o777, .. }));
    assert!(!directory_of(&address).exists(), "it is checked before anything is made");
    set_mode(&place.path(""), 0o1777);
    Listener::bind(&address, Access::Owner).expect("sticky is safe");
}

#[test]
fn other_users_directories_and_files_are_refused() {
    if !can_be_others() {
        // Only root can give files away.
        return;
    }
    let give = |path: &Path| std::os::unix::fs::lchown(path, Some(STRANGER), None).expect("given");
    let place = Place::new();
    let address = place.address();
    let directory = directory_of(&address).to_path_buf();
    std::fs::create_dir(&directory).expect("made");
    give(&directory);
    assert!(
        matches!(directory_fault(&address), DirectoryFault::ForeignOwner { path, .. } if path == directory)
    );
    let below = Address::unix(place.path("s/t/invoked.sock")).expect("short enough");
    assert!(
        matches!(directory_fault(&below), DirectoryFault::ForeignOwner { path, .. } if path == directory)
    );

    std::fs::create_dir_all(place.path("own/t")).expect("made");
    symlink(place.path("own"), place.path("link")).expect("linked");
    give(&place.path("link"));
    let through = Address::unix(place.path("link/t/invoked.sock")).expect("short enough");
    assert!(matches!(directory_fault(&through), DirectoryFault::Symlink { .. }));

    let socket = Address::unix(place.path("own/invoked.sock")).expect("short enough");
    leave_dead_socket(socket_of(&socket));
    give(socket_of(&socket));
    assert!(
        matches!(fault(&socket, Access::Owner), BindFault::ForeignSocket { owner } if owner.contains("47110"))
    );
    std::fs::remove_file(socket_of(&socket)).expect("removed");
    give(Path::new(&lock_of(&socket)));
    assert!(matches!(fault(&socket, Access::Owner), BindFault::UnsafeLock { .. }));
}

#[test]
fn the_second_is_told_of_the_first() {
    let place = Place::new();
    let address = place.address();
    let listener = Listener::bind(&address, Access::Owner).expect("bound");
    let error = Listener::bind(&address, Access::Owner).expect_err("in use");
    assert!(matches!(error.fault, BindFault::InUse { pid } if pid == Some(std::process::id())), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    // Even when the first one's socket file is gone, its lock speaks for it.
    std::fs::remove_file(socket_of(&address)).expect("removed");
    let error = Listener::bind(&address, Access::Owner).expect_err("in use");
    assert!(matches!(error.fault, BindFault::InUse { pid } if pid == Some(std::process::id())), "{error}");
    drop(listener);
    Listener::bind(&address, Access::Owner).expect("free again");
}

#[test]
fn a_server_without_a_lock_is_not_robbed() {
    let place = Place::new();
    let address = Address::unix(place.path("invoked.sock")).expect("short enough");
    let other = UnixListener::bind(socket_of(&address)).expect("bound");
    assert!(
        matches!(fault(&address, Access::Owner), BindFault::InUse { pid } if pid == Some(std::process::id()))
    );
    // Nor is one that is too busy to accept.
    rustix::net::listen(&other, 0).expect("a shorter queue");
    let mut waiting = Vec::new();
    let busy = loop {
        match Stream::try_connect(&address) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100, "the queue has no end");
    };
    assert!(matches!(busy.fault, ConnectFault::Busy { .. }), "{busy}");
    assert!(matches!(fault(&address, Access::Owner), BindFault::InUse { .. }));
    assert!(socket_of(&address).exists());
}

#[test]
fn a_dead_socket_is_taken_over_and_anything_else_is_not() {
    let place = Place::new();
    let address = Address::unix(place.path("invoked.sock")).expect("short enough");
    leave_dead_socket(socket_of(&address));
    drop(Listener::bind(&address, Access::Owner).expect("taken over"));
    assert!(!socket_of(&address).exists(), "removed at the end");

    std::fs::write(socket_of(&address), "precious").expect("written");
    assert!(matches!(fault(&address, Access::Owner), BindFault::NotASocket { kind: "a regular file" }));
    assert_eq!(std::fs::read(socket_of(&address)).expect("still there"), b"precious");
    std::fs::remove_file(socket_of(&address)).expect("removed");
    symlink(place.path("elsewhere"), socket_of(&address)).expect("linked");
    assert!(matches!(fault(&address, Access::Owner), BindFault::NotASocket { kind: "a symbolic link" }));
    let pipe = Address::Pipe(PipeName::new("invoked").expect("legal"));
    assert!(matches!(fault(&pipe, Access::Owner), BindFault::Unsupported));
}

#[test]
fn a_lock_file_that_is_none_is_refused() {
    let place = Place::new();
    let address = Address::unix(place.path("invoked.sock")).expect("short enough");
    let lock = lock_of(&address);
    let is_unsafe = || assert!(matches!(fault(&address, Access::Owner), BindFault::UnsafeLock { .. }));
    symlink(place.path("victim"), &lock).expect("linked");
    is_unsafe();
    assert!(!place.path("victim").exists(), "the link was not followed");
    std::fs::remove_file(&lock).expect("removed");
    std::fs::create_dir(&lock).expect("made");
    is_unsafe();
    std::fs::remove_dir(&lock).expect("removed");
    mknodat(rustix::fs::CWD, &lock, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    is_unsafe();
    std::fs::remove_file(&lock).expect("removed");
    std::fs::write(place.path("victim"), "precious").expect("written");
    std::fs::hard_link(place.path("victim"), &lock).expect("linked");
    is_unsafe();
    assert_eq!(std::fs::read(place.path("victim")).expect("there"), b"precious");
}

#[test]
fn at_the_end_only_one_s_own_socket_is_removed() {
    let place = Place::new();
    let address = place.address();
    let listener = Listener::bind(&address, Access::Owner).expect("bound");
    let moved = directory_of(&address).join("moved");
    std::fs::rename(socket_of(&address), &moved).expect("renamed");
    let _other = UnixListener::bind(socket_of(&address)).expect("bound");
    drop(listener);
    assert!(socket_of(&address).exists(), "another's");
    UnixStream::connect(socket_of(&address)).expect("and it works");
    assert!(Path::new(&lock_of(&address)).exists(), "the lock file stays");
}

#[test]
fn an_inherited_listener_is_adopted_and_its_file_left_alone() {
    let place = Place::new();
    let path = place.path("activated.sock");
    let inherited = UnixListener::bind(&path).expect("bound");
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("set");
    let listener = Listener::from_fd(inherited.into()).expect("adopted");
    assert_eq!(socket_of(listener.address()), path);
    assert!(rustix::io::fcntl_getfd(&listener).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(listener.try_accept().expect_err("nobody").kind(), std::io::ErrorKind::WouldBlock);
    let _client = Stream::connect(listener.address()).expect("connected");
    listener.try_accept().expect("accepted");
    drop(listener);
    assert!(path.exists(), "it is systemd's");

    let refused = |fd: OwnedFd| Listener::from_fd(fd).expect_err("refused");
    let (stream, _other) = UnixStream::pair().expect("a pair");
    assert!(matches!(refused(stream.into()), AdoptError::NotListening));
    assert!(matches!(
        refused(TcpListener::bind("127.0.0.1:0").expect("bound").into()),
        AdoptError::NotListening
    ));
    assert!(matches!(refused(tempfile::tempfile().expect("a file").into()), AdoptError::Io(_)));
    let name =
        SocketAddr::from_abstract_name(format!("invoked-test-{}", std::process::id())).expect("a name");
    let abstract_listener = UnixListener::bind_addr(&name).expect("bound");
    assert!(matches!(refused(abstract_listener.into()), AdoptError::Unnamed));
}

/// The shell stands for systemd: it passes its standard input as descriptor 3, or none, to the program that it becomes.
fn activated(stdin: Stdio, passing: &str) -> String {
    let script = format!(r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&{passing}"#);
    let unused = Address::unix("/unused").expect("legal");
    let mut child = Start::through(
        &["sh", "-c", &format!("export LISTEN_FDS LISTEN_PID; {script}")],
        "activated",
        &unused,
    )
    .stdin(stdin)
    .spawn();
    child.next()
}

#[test]
fn a_listener_that_systemd_passed_is_taken_once() {
    let place = Place::new();
    let path = place.path("activated.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let _client = UnixStream::connect(&path).expect("connected");
    assert_eq!(activated(OwnedFd::from(listener).into(), "0"), format!("unix:{}", path.display()));
    let said = activated(Stdio::null(), "0");
    assert!(said.contains("not a socket") || said.contains("refuses"), "{said}");
    let said = activated(Stdio::null(), "-");
    assert!(said.contains("Bad file descriptor"), "{said}");
}
