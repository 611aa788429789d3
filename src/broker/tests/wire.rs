//! The bytes between a client and the daemon's side of its connection, which tests may hold up anywhere.

use bytes::{Bytes, BytesMut};
use invoked_proto::connection::Role;
use invoked_proto::testing::{CreditWitness, output};

use super::bus::Bus;

/// Bytes that were written and not read, each way.
#[derive(Debug, Default)]
pub(super) struct Wire {
    to_daemon: BytesMut,
    to_client: BytesMut,
    /// Who holds them against the rules of credit, if somebody does.
    pub(super) witness: Option<CreditWitness>,
}

impl Wire {
    fn to(&mut self, reader: Role) -> &mut BytesMut {
        match reader {
            Role::Daemon => &mut self.to_daemon,
            Role::Client => &mut self.to_client,
        }
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Daemon,
        Role::Daemon => Role::Client,
    }
}

impl Bus {
    /// What a side has to say goes onto the wire.
    pub(super) fn write(&mut self, at: usize, writer: Role) {
        let peer = &mut self.peers[at];
        let bytes = match writer {
            Role::Client => output(&mut peer.client),
            Role::Daemon => output(&mut peer.daemon),
        };
        peer.wire.to(other(writer)).extend_from_slice(&bytes);
        if let Some(witness) = &mut peer.wire.witness {
            witness.leave(writer, bytes);
        }
    }

    /// A side reads up to `most` bytes from the wire; false if there were none. Its events are not taken yet.
    pub(super) fn read(&mut self, at: usize, reader: Role, most: usize) -> bool {
        let peer = &mut self.peers[at];
        let wire = peer.wire.to(reader);
        let bytes: Bytes = wire.split_to(most.min(wire.len())).freeze();
        if bytes.is_empty() {
            return false;
        }
        if let Some(witness) = &mut peer.wire.witness {
            witness.arrive(other(reader), bytes.clone());
        }
        match reader {
            Role::Daemon => peer.daemon.handle_input(self.now, bytes, []).unwrap(),
            Role::Client => peer.client.handle_input(self.now, bytes, []).unwrap(),
        }
        true
    }

    /// What a side has to say goes onto the wire, and up to `most` bytes of the wire come to the other, which sees to them.
    pub(super) fn carry_some(&mut self, at: usize, reader: Role, most: usize) {
        self.write(at, other(reader));
        self.read(at, reader, most);
        let peer = &self.peers[at];
        // As a session says it.
        let unread = peer.wire.to_client.len() + peer.daemon.unsent().bytes;
        self.broker.note_unread(peer.id, unread);
        match reader {
            Role::Daemon => self.take_events(at),
            Role::Client => self.take_replies(at),
        }
        self.pump_outputs();
    }
}
