//! A provider that does what a test says, on the protocol's own state machine.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use invoked_client::ErrorCode;
use invoked_proto::body::{Assembly, Body, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Settings, Transmit};
use invoked_proto::metadata::{Call, Hello};
use invoked_proto::registry::features;
use serde_json::{Value, json};

use crate::harness::{Daemon, HANG};

/// A call that it has.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) stream: u64,
    pub(crate) call: Call,
    pub(crate) body: Body,
}

/// A connection that offers to be called.
pub(crate) struct Scripted {
    stream: UnixStream,
    connection: Connection<()>,
    seen: VecDeque<Event<()>>,
}

/// The interface of `text`, with a command that looks at scopes.
pub(crate) fn interface() -> Value {
    json!({
        "openrpc": "1.3.2",
        "info": { "title": "text", "version": "1.2.0" },
        "methods": [
            { "name": "text.upper", "summary": "Makes it loud.", "description": "All of it.",
              "params": [{ "name": "text", "required": true, "schema": { "type": "string" } }] },
            { "name": "text.read", "x-invoked": { "scope": true } },
        ],
        "x-invoked": { "plugin": "text", "scope": "path" },
    })
}

impl Scripted {
    pub(crate) fn connect(daemon: &Daemon) -> Self {
        Self::connect_to(&daemon.place().socket())
    }

    pub(crate) fn connect_to(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let settings = Settings { features: features::CHANNELS | features::PROVIDE, ..Settings::default() };
        let hello = Hello { name: "scripted".into(), version: "1".into(), ..Hello::default() };
        let connection = Connection::client(settings, &hello, Instant::now()).unwrap();
        let mut scripted = Scripted { stream, connection, seen: VecDeque::new() };
        scripted.wait_for(|event| matches!(event, Event::Welcomed(_)));
        scripted
    }

    /// The same, serving `text`.
    pub(crate) fn providing(daemon: &Daemon) -> Self {
        let mut scripted = Self::connect(daemon);
        scripted.provide(&interface()).unwrap();
        scripted
    }

    pub(crate) fn provide(&mut self, interface: &Value) -> Result<Value, (ErrorCode, String)> {
        self.ask("core.provide", &json!({ "interface": interface }))
    }

    /// Calls the daemon and waits for its answer.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, (ErrorCode, String)> {
        let body = Body::Json(Bytes::from(arguments.to_string()));
        let request = Request { command: command.into(), message: body.into(), ..Request::default() };
        let of_call = self.connection.call(request).unwrap();
        let is_answer = |event: &Event<()>| matches!(event, Event::Replied { stream, .. } | Event::Failed { stream, .. } if *stream == of_call);
        match self.wait_for(is_answer) {
            Event::Replied { payload, .. } => Ok(serde_json::from_slice(&payload).unwrap()),
            Event::Failed { code, failure, .. } => Err((code, failure.message.to_string())),
            other => panic!("{other:?}"),
        }
    }

    /// The next call, whole.
    pub(crate) fn next_call(&mut self) -> Called {
        let event = self.wait_for(|event| matches!(event, Event::Called { .. }));
        let Event::Called { stream, mut call, payload, mut more, .. } = event else { unreachable!() };
        let mut assembly = Assembly::begin(std::mem::take(&mut call.parts), payload).unwrap();
        while more == More::Follows {
            let continued =
                self.wait_for(|e| matches!(e, Event::Continued { stream: of, .. } if *of == stream));
            let Event::Continued { payload, more: next, .. } = continued else { unreachable!() };
            assembly.push(&payload).unwrap();
            more = next;
        }
        Called { stream, call, body: assembly.finish().unwrap().body }
    }

    /// The scopes of the next grant that it is given.
    pub(crate) fn next_grant(&mut self) -> (u64, Value) {
        let event = self.wait_for(|event| matches!(event, Event::Granted(_)));
        let Event::Granted(grant) = event else { unreachable!() };
        (grant.grant, serde_json::from_slice(grant.scopes()).unwrap())
    }

    pub(crate) fn reply(&mut self, stream: u64, message: impl Into<Message>) {
        self.connection.reply(stream, Vec::new(), message.into()).unwrap();
        self.write();
    }

    /// Waits for an event, and keeps what comes before it.
    pub(crate) fn wait_for(&mut self, is_it: impl Fn(&Event<()>) -> bool) -> Event<()> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.iter().position(&is_it) {
                return self.seen.remove(at).unwrap();
            }
            assert!(start.elapsed() < HANG, "what it waits for does not come: {:?}", self.seen);
            self.read();
        }
    }

    fn write(&mut self) {
        let mut transmit = Transmit::default();
        while self.connection.poll_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let mut slices = [IoSlice::new(&[]); 16];
                let filled = transmit.slices(&mut slices);
                let written = self.stream.write_vectored(&slices[..filled]).unwrap();
                transmit.advance(written);
            }
        }
    }

    fn read(&mut self) {
        self.write();
        let mut buffer = vec![0; 64 * 1024];
        let read = match self.stream.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Err(error) => panic!("{error}"),
        };
        assert!(read > 0, "the daemon closed the connection: {:?}", self.seen);
        buffer.truncate(read);
        self.connection.handle_input(Instant::now(), buffer.into(), []).unwrap();
        while let Some(event) = self.connection.poll_event() {
            self.connection.release(event.payload_len());
            self.seen.push_back(event);
        }
        self.write();
    }
}
