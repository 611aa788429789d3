//! The kernel's word on who is at the other end.

use std::process::Stdio;

use invoked_transport::{Access, Credentials, Interest, Listener, PeerProcess, Stream};

use crate::child::{Place, STRANGER, STRANGERS, Start, can_be_others};

/// Starts a client and gives the credentials that the server has of it, while it still runs.
fn credentials_of(listener: &Listener, start: Start) -> (Credentials, u32) {
    let mut client = start.stdin(Stdio::null()).spawn();
    assert_eq!(client.next(), "connected");
    let stream = listener.try_accept().expect("accepted");
    let found = stream.credentials().expect("credentials");
    assert!(!found.has_ended().expect("asked"));
    let pid = client.pid();
    client.kill();
    if matches!(found.process, PeerProcess::Held(_)) {
        assert!(found.has_ended().expect("asked"), "what was held has ended, whoever has the number now");
    }
    // The connection keeps the identity of who made it, and a process that has been reaped is told as such.
    let late = stream.credentials().expect("credentials");
    assert_eq!((late.uid, late.gid, &late.groups), (found.uid, found.gid, &found.groups));
    assert!(!matches!(late.process, PeerProcess::Held(_)));
    (found, pid)
}

#[test]
fn a_client_is_who_the_kernel_says() {
    let place = Place::new();
    let listener = Listener::bind(&place.address(), Access::Everyone).expect("bound");
    let (found, pid) = credentials_of(&listener, Start::new("hello", &place.address()));
    let mut groups: Vec<u32> =
        rustix::process::getgroups().expect("groups").iter().map(|gid| gid.as_raw()).collect();
    let mut found_groups = found.groups.clone();
    groups.sort_unstable();
    found_groups.sort_unstable();
    assert_eq!(found.uid, rustix::process::geteuid().as_raw());
    assert_eq!(found.gid, rustix::process::getegid().as_raw());
    assert_eq!((found_groups, found.pid), (groups, Some(pid)));
}

#[test]
fn another_user_is_that_user_with_all_groups() {
    if !can_be_others() {
        // Only root can become somebody else; `a_client_is_who_the_kernel_says` reads the same for one's own uid.
        return;
    }
    let place = Place::new();
    let listener = Listener::bind(&place.address(), Access::Everyone).expect("bound");
    let (found, pid) = credentials_of(&listener, Start::as_stranger("hello", &place.address()));
    assert_eq!((found.uid, found.gid, found.pid), (STRANGER, STRANGERS, Some(pid)));
    assert!(found.groups.is_empty() && !found.is_overflow());

    // More groups than are read at the first try.
    let many: Vec<u32> = (50_000..50_300).collect();
    let list = many.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let wrapper = ["setpriv", "--groups", &list];
    let (found, _) = credentials_of(&listener, Start::through(&wrapper, "hello", &place.address()));
    assert_eq!(found.groups, many);
    assert!(found.in_group(50_299) && !found.in_group(50_300));
}

#[test]
fn a_client_learns_who_serves() {
    let place = Place::new();
    let mut server = Start::new("serve", &place.address()).stdin(Stdio::null()).spawn();
    assert_eq!(server.next(), "bound");
    let stream = Stream::connect(&place.address()).expect("connected");
    let found = stream.credentials().expect("credentials");
    assert_eq!((found.uid, found.pid), (rustix::process::geteuid().as_raw(), Some(server.pid())));
    server.kill();
    assert!(stream.wait(Interest::Read, None).expect("waited").readable, "the end of the stream");
}
