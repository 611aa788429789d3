//! What the transport promises, tried on the real operating system: sockets, files, other processes and other users.

mod child;
mod connecting;
mod identity;
mod leaks;
mod listening;
mod races;

/// The entry of a child process, see [`child`].
#[test]
#[ignore = "started by other tests as their child process"]
fn child_process() {
    child::run();
}
