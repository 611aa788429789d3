//! Connecting, and what is said when it fails.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use invoked_transport::{
    Access, Address, AddressSource, ChosenAddress, ConnectFault, DeniedKind, Listener, PipeName, Stream,
};

use crate::child::{Place, Start, can_be_others, leave_dead_socket, set_mode};

fn fault(address: &Address) -> ConnectFault {
    Stream::connect(address).expect_err("nothing to connect to").fault
}

#[test]
fn each_thing_in_the_way_is_named() {
    let place = Place::new();
    let address = |name: &str| Address::unix(place.path(name)).expect("short enough");
    assert!(matches!(fault(&address("nothing")), ConnectFault::NotFound));
    assert!(matches!(fault(&address("no/directory")), ConnectFault::NotFound));

    leave_dead_socket(&place.path("dead"));
    let error = Stream::connect(&address("dead")).expect_err("nobody listens");
    assert!(matches!(error.fault, ConnectFault::NotListening { .. }));
    assert!(error.to_string().contains(&format!("uid {}", rustix::process::geteuid().as_raw())), "{error}");

    std::fs::write(place.path("file"), "").expect("written");
    assert!(matches!(fault(&address("file")), ConnectFault::NotASocket { kind: "a regular file" }));
    assert!(matches!(fault(&address("file/below")), ConnectFault::NotASocket { .. }));
    let _datagram = UnixDatagram::bind(place.path("datagram")).expect("bound");
    assert!(matches!(fault(&address("datagram")), ConnectFault::NotASocket { .. }));
    let pipe = Address::Pipe(PipeName::new("invoked").expect("legal"));
    assert!(matches!(fault(&pipe), ConnectFault::Unsupported));
}

#[test]
fn a_full_queue_is_waited_for_up_to_the_limit() {
    let place = Place::new();
    let listener = Listener::bind(&place.address(), Access::Owner).expect("bound");
    rustix::net::listen(&listener, 0).expect("a shorter queue");
    let address = place.address();
    let mut waiting = Vec::new();
    let busy = loop {
        match Stream::try_connect(&address) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100, "the queue has no end");
    };
    assert!(matches!(busy.fault, ConnectFault::Busy { .. }), "{busy}");
    let limit = Duration::from_millis(30);
    let busy = Stream::connect_within(&address, limit).expect_err("still full");
    assert!(matches!(busy.fault, ConnectFault::Busy { waited } if waited >= limit), "{busy}");

    std::thread::scope(|scope| {
        let late = scope.spawn(|| Stream::connect_within(&address, Duration::from_secs(20)));
        for _ in 0..=waiting.len() {
            while listener.try_accept().is_err() {
                std::thread::yield_now();
            }
        }
        late.join().expect("the client").expect("connected in the end");
    });
}

#[test]
fn who_is_kept_out_learns_by_what() {
    let place = Place::new();
    let address = place.address();
    let socket = address.socket_path().expect("a path").to_path_buf();
    let _listener = Listener::bind(&address, Access::Owner).expect("bound");
    if !can_be_others() {
        if rustix::process::geteuid().is_root() {
            // The root of a user namespace: nothing of its own is closed to it.
            return;
        }
        // Nobody else to be; one's own socket can be closed to oneself.
        set_mode(&socket, 0);
        let error = Stream::connect(&address).expect_err("closed");
        assert!(matches!(&error.fault, ConnectFault::PermissionDenied { denied, .. }
            if denied.kind == DeniedKind::Socket && denied.mode == 0 && denied.path == socket));
        return;
    }
    let said = Start::as_stranger("connect", &address).answer();
    let directory = socket.parent().expect("a directory");
    let expected = [&address.to_string()[..], "permission denied", "(uid 0)", "mode 0700", "access"];
    for part in expected.iter().copied().chain([directory.to_str().expect("text")]) {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    set_mode(directory, 0o755);
    let said = Start::as_stranger("connect", &address).answer();
    assert!(said.contains("the socket is owned by") && said.contains("mode 0600"), "{said}");
}

#[test]
fn access_opens_the_socket_to_others() {
    if !can_be_others() {
        // That the modes are set is tested for everyone in `listening`.
        return;
    }
    let cases = [
        (Access::Owner, false),
        (Access::Group(crate::child::STRANGERS), true),
        (Access::Group(crate::child::STRANGERS + 1), false),
        (Access::Everyone, true),
    ];
    for (access, lets_in) in cases {
        let place = Place::new();
        let _listener = Listener::bind(&place.address(), access).expect("bound");
        let said = Start::as_stranger("connect", &place.address()).answer();
        assert_eq!(said == "connected", lets_in, "{access:?}: {said}");
    }
}

#[test]
fn an_address_by_rule_wants_a_server_to_trust_and_one_by_name_does_not() {
    let place = Place::new();
    let chosen = |address: &Address, source| ChosenAddress { address: address.clone(), source };
    let own = place.address();
    let _listener = Listener::bind(&own, Access::Owner).expect("bound");
    Stream::connect_chosen(&chosen(&own, AddressSource::TempDir)).expect("one's own");
    let missing = Address::unix(place.path("none")).expect("short enough");
    let error = Stream::connect_chosen(&chosen(&missing, AddressSource::RunUser)).expect_err("not there");
    assert!(error.to_string().contains("the user's directory in /run/user"), "{error}");
    let error = error
        .look_elsewhere(&[chosen(&missing, AddressSource::TempDir), chosen(&own, AddressSource::SystemFlag)]);
    assert!(
        error.to_string().ends_with(&format!("a daemon does answer on {own} (from --system)")),
        "{error}"
    );

    if !can_be_others() {
        // Another user's server can't be had.
        return;
    }
    // As in /tmp: whoever comes first has the name.
    set_mode(&place.path(""), 0o1777);
    let squatted = Address::unix(place.path("invoked-0/invoked.sock")).expect("short enough");
    let mut squatter = Start::as_stranger("serve", &squatted).spawn();
    assert_eq!(squatter.next(), "bound");
    let error =
        Stream::connect_chosen(&chosen(&squatted, AddressSource::TempDir)).expect_err("another user's");
    assert!(matches!(error.fault, ConnectFault::Impostor { .. }), "{error}");
    assert!(error.to_string().contains(&format!("uid {}", crate::child::STRANGER)), "{error}");
    Stream::connect_chosen(&chosen(&squatted, AddressSource::Flag)).expect("asked for by name");
}
