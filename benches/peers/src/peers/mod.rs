//! What is measured, by name: how each is started and served, and what it can't do.

mod bus;
mod capnp;
mod iceoryx2;
mod invoked;
mod sockets;
mod tarpc;
pub(crate) mod tonic;
mod ttrpc;
mod zbus;
mod zlink;
mod zmq;

use std::path::Path;

use self::bus::{Bus, Kind};
use self::iceoryx2::{Iceoryx2, Waits};
use crate::asynchronous::{Asynchronous, Connection};
use crate::peer::Peer;
use crate::request::Fault;
use crate::server::{Place, Server};

/// Connections of the measurement that has the most.
pub(crate) const CONNECTIONS: u32 = 8;

/// What a peer is beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// What is carried without any protocol.
    Floor,
    /// This repository.
    Own,
    /// A protocol through sockets.
    Rpc,
    /// Shared memory without a socket; `bool` is whether it waits for events.
    Shared(bool),
}

/// What is measured of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Round trips with a reply of so many bytes.
    Trip(u32),
    /// Many calls on one connection.
    InFlight,
    /// Many connections, each with one call.
    Connections,
}

/// A peer that can be measured.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) family: Family,
    start: fn(&Place<'_>) -> Result<Box<dyn Peer>, Fault>,
    /// Why it can't do this, if it can't.
    pub(crate) cannot: fn(Work) -> Option<&'static str>,
}

const ZLINK_LONG: &str =
    "its writer begins a message again for each piece that its buffer grows by: the first takes minutes";

/// A peer that does everything.
fn all(_: Work) -> Option<&'static str> {
    None
}

/// All peers, the floor first.
pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        name: "uds",
        mode: "blocking",
        family: Family::Floor,
        start: |place| Ok(Box::new(sockets::Uds::start(place, CONNECTIONS)?)),
        cannot: all,
    },
    Entry {
        name: "tokio",
        mode: "async",
        family: Family::Floor,
        start: |place| async_peer::<sockets::Tokio>(place, "tokio"),
        cannot: all,
    },
    Entry {
        name: "invoked",
        mode: "blocking",
        family: Family::Own,
        start: |place| Ok(Box::new(invoked::Blocking::start(place)?)),
        cannot: |work| (work == Work::InFlight).then_some("a thread waits for each call: see invoked-async"),
    },
    Entry {
        name: "invoked-async",
        mode: "async",
        family: Family::Own,
        start: |place| Ok(Box::new(invoked::start_async(place)?)),
        cannot: all,
    },
    Entry {
        name: "tonic",
        mode: "async",
        family: Family::Rpc,
        start: |place| async_peer::<tonic::Calls>(place, "tonic"),
        cannot: all,
    },
    Entry {
        name: "tarpc",
        mode: "async",
        family: Family::Rpc,
        start: |place| async_peer::<tarpc::Calls>(place, "tarpc"),
        cannot: all,
    },
    Entry {
        name: "capnp",
        mode: "async",
        family: Family::Rpc,
        start: |place| async_peer::<capnp::Calls>(place, "capnp"),
        cannot: all,
    },
    Entry {
        name: "ttrpc",
        mode: "async",
        family: Family::Rpc,
        start: |place| async_peer::<ttrpc::Calls>(place, "ttrpc"),
        cannot: |work| {
            (work == Work::Trip(16 << 20)).then_some("a message has at most 4 MiB, which can't be lifted")
        },
    },
    Entry {
        name: "zlink",
        mode: "text",
        family: Family::Rpc,
        start: |place| async_peer::<zlink::Calls>(place, "zlink"),
        cannot: |work| (work == Work::Trip(16 << 20)).then_some(ZLINK_LONG),
    },
    Entry {
        name: "zbus-p2p",
        mode: "async",
        family: Family::Rpc,
        start: |place| async_peer::<zbus::Direct>(place, "zbus-p2p"),
        cannot: all,
    },
    Entry {
        name: "zbus-broker",
        mode: "async",
        family: Family::Rpc,
        start: |place| routed(place, Kind::Broker),
        cannot: all,
    },
    Entry {
        name: "zbus-daemon",
        mode: "async",
        family: Family::Rpc,
        start: |place| routed(place, Kind::Daemon),
        cannot: all,
    },
    Entry {
        name: "zmq",
        mode: "blocking",
        family: Family::Rpc,
        start: |place| Ok(Box::new(zmq::Zmq::start(Server::start(place, "zmq")?)?)),
        cannot: all,
    },
    Entry {
        name: "iceoryx2-event",
        mode: "event",
        family: Family::Shared(true),
        start: |place| Ok(Box::new(Iceoryx2::start(place, Waits::Event)?)),
        cannot: all,
    },
    Entry {
        name: "iceoryx2-busy",
        mode: "busy",
        family: Family::Shared(false),
        start: |place| Ok(Box::new(Iceoryx2::start(place, Waits::Busy)?)),
        cannot: all,
    },
];

impl Entry {
    /// Starts its server, and connects.
    pub(crate) fn start(&self, place: &Place<'_>) -> Result<Box<dyn Peer>, Fault> {
        (self.start)(place)
    }
}

/// The entry of a peer's name.
pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

fn async_peer<C: Connection>(place: &Place<'_>, name: &str) -> Result<Box<dyn Peer>, Fault> {
    let server = Server::start(place, name)?;
    let (address, id) = (server.address().to_owned(), server.id());
    Ok(Box::new(Asynchronous::<C, _>::new(server, &address, vec![id])?))
}

fn routed(place: &Place<'_>, kind: Kind) -> Result<Box<dyn Peer>, Fault> {
    let mut bus = Bus::start(place, kind)?;
    let address = bus.address().to_owned();
    let server = Server::start_at(place, "zbus-routed", address.clone(), bus.take_directory()?)?;
    let servers = vec![bus.id(), server.id()];
    // The server first, while the bus is there.
    Ok(Box::new(Asynchronous::<zbus::Routed, _>::new((server, bus), &address, servers)?))
}

/// The server of a peer, in a process of its own.
pub(crate) fn serve(name: &str, address: &Path) -> Result<(), Fault> {
    match name {
        "tokio" => sockets::serve(address),
        "tonic" => tonic::serve(address),
        "tarpc" => tarpc::serve(address),
        "capnp" => capnp::serve(address),
        "ttrpc" => ttrpc::serve(address),
        "zlink" => zlink::serve(address),
        "zbus-p2p" => zbus::serve_direct(address),
        "zbus-routed" => zbus::serve_routed(address),
        "zmq" => zmq::serve(address),
        bus::DAEMON => bus::serve_daemon(address),
        name if iceoryx2::SERVERS.contains(&name) => iceoryx2::serve(name, address),
        _ => Err(format!("there is no server for {name}").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ENTRIES, Family, Work, entry, serve};

    #[test]
    fn each_peer_has_a_name_of_its_own_and_the_floor_is_the_first() {
        assert_eq!((ENTRIES[0].name, ENTRIES[0].family), ("uds", Family::Floor));
        for one in ENTRIES {
            assert_eq!(ENTRIES.iter().filter(|other| other.name == one.name).count(), 1, "{}", one.name);
            assert!(entry(one.name).is_some_and(|found| found.mode == one.mode));
            assert_eq!((one.cannot)(Work::Trip(64)), None, "{} can do a small call", one.name);
        }
        assert!(entry("corba").is_none());
    }

    #[test]
    fn what_has_no_server_is_refused() {
        let refused = serve("corba", Path::new("nowhere")).expect_err("no server");
        assert_eq!(refused.to_string(), "there is no server for corba");
    }
}
