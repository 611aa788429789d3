//! What the transport promises, tried on the real operating system: sockets, files, other processes and other users.

mod child;
mod connecting;
mod identity;
mod leaks;
mod listening;
mod races;

/// Also the entry of the child processes, see [`child`].
#[test]
fn child_process() {
    if !child::play() {
        let address = child::Place::new().address();
        assert_eq!(child::Start::new("echo", &address).answer(), address.to_string());
    }
}
