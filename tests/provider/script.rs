//! The daemon's side of a connection, as a test writes it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use invoked::ipc::{Body, ErrorCode};
use invoked::provider::{ProvideError, ProvideOptions, Provider};
use invoked::transport::{Access, Address, Attachment, Interest, Listener, Stream};
use invoked_proto::Blob;
use invoked_proto::body::{Assembly, Message};
use invoked_proto::connection::{Connection, Event, More, Request, Settings, Transmit};
use invoked_proto::metadata::{Call, ChannelDeclaration, Extensions, Failure, Grant, OriginStamp, Welcome};
use invoked_proto::registry::{LIMITS, features, tags};
use serde_json::{Value, json};

/// Longer than anything takes that does not hang.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// For whom calls are made unless a test says otherwise.
pub(crate) const CALLER: OriginStamp = OriginStamp { uid: 4711, gid: 815, peer: 77, pid: Some(42), grant: 5 };

/// A directory with a socket.
pub(crate) struct Place {
    _directory: tempfile::TempDir,
    pub(crate) address: Address,
    listener: Listener,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address: Address =
            format!("unix:{}/run/daemon.sock", directory.path().display()).parse().unwrap();
        let listener = Listener::bind(&address, Access::Owner).unwrap();
        Place { _directory: directory, address, listener }
    }

    /// Where a provider connects to.
    pub(crate) fn options(&self) -> ProvideOptions {
        ProvideOptions::new().address(self.address.clone())
    }

    /// The next connection, its handshake done.
    pub(crate) fn accept(&self) -> Script {
        self.accept_with(features::CHANNELS | features::PROVIDE)
    }

    fn connected(&self) -> Stream {
        let end = Instant::now() + HANG;
        while Instant::now() < end {
            match self.listener.try_accept() {
                Ok(stream) => return stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nobody connects");
    }

    pub(crate) fn accept_with(&self, features: u64) -> Script {
        let settings = Settings { features, ..Settings::default() };
        let mut script = Script {
            stream: self.connected(),
            connection: Connection::daemon(settings, Instant::now()),
            fds: VecDeque::new(),
        };
        let Some(Event::Greeted(hello)) = script.next() else { panic!("no HELLO") };
        assert!(hello.library.as_str().starts_with("invoked "), "{hello:?}");
        let limits = LIMITS.iter().filter_map(|limit| Some((limit.id?, limit.value))).collect();
        script.connection.welcome(&Welcome { peer: 1, limits, ..Welcome::default() }).unwrap();
        script.flush();
        script
    }

    /// Starts what `provide` makes, takes its registrations, and gives the daemon's side and the provider.
    pub(crate) fn serve(
        &self,
        builder: invoked::Builder<invoked::Wry, invoked::Named>,
    ) -> (Provider, Script) {
        self.serve_with(builder, self.options())
    }

    pub(crate) fn serve_with(
        &self,
        builder: invoked::Builder<invoked::Wry, invoked::Named>,
        options: ProvideOptions,
    ) -> (Provider, Script) {
        let starting = std::thread::spawn(move || builder.provide_blocking(options));
        let mut script = self.accept();
        script.take_registration();
        (joined(starting).unwrap(), script)
    }
}

pub(crate) fn joined(
    starting: std::thread::JoinHandle<Result<Provider, ProvideError>>,
) -> Result<Provider, ProvideError> {
    starting.join().unwrap()
}

/// A connection, from the daemon's side.
pub(crate) struct Script {
    pub(crate) connection: Connection<Attachment>,
    stream: Stream,
    fds: VecDeque<Attachment>,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Result(Message),
    Error(ErrorCode, String, Message),
}

impl Script {
    /// The next event; `None` when the provider has left.
    pub(crate) fn next(&mut self) -> Option<Event<Attachment>> {
        let end = Instant::now() + HANG;
        loop {
            self.flush();
            if let Some(event) = self.connection.poll_event() {
                self.connection.release(event.payload_len());
                return Some(event);
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing came");
            self.stream.wait(Interest::Read, Some(left)).unwrap();
            let mut buffer = BytesMut::with_capacity(256 * 1024);
            let received = match self.stream.try_read(&mut buffer, &mut self.fds) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                received => received.unwrap(),
            };
            if received.bytes == 0 {
                return None;
            }
            let fds = self.fds.drain(..).collect::<Vec<_>>();
            self.connection.handle_input(Instant::now(), buffer.freeze(), fds).unwrap();
        }
    }

    pub(crate) fn flush(&mut self) {
        let mut transmit = Transmit::default();
        while self.connection.poll_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let mut slices = [IoSlice::new(&[]); 16];
                let filled = transmit.slices(&mut slices);
                match self.stream.try_write(&slices[..filled], &[]) {
                    Ok(written) => transmit.advance(written),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        self.stream.wait(Interest::Write, Some(HANG)).unwrap();
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// The next call of the provider's own: its stream, itself, its body.
    pub(crate) fn called(&mut self) -> (u64, Call, Value) {
        loop {
            match self.next().expect("a call") {
                Event::Called { stream, call, payload, mut more, .. } => {
                    let mut assembly = Assembly::begin(call.parts.clone(), payload).unwrap();
                    while more == More::Follows {
                        let Some(Event::Continued { payload, more: next, .. }) = self.next() else {
                            panic!()
                        };
                        assembly.push(&payload).unwrap();
                        more = next;
                    }
                    let message = assembly.finish().unwrap();
                    return (stream, call, serde_json::from_slice(message.body.bytes()).unwrap());
                }
                Event::Cancelled { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn reply(&mut self, stream: u64, value: &Value) {
        let message = Message::from(Body::Json(value.to_string().into()));
        self.connection.reply(stream, Vec::new(), message).unwrap();
        self.flush();
    }

    pub(crate) fn fail(&mut self, stream: u64, code: ErrorCode, text: &str) {
        let failure = Failure::framework(code, text, invoked::ipc::Delivery::NotDelivered);
        self.connection.fail_call(stream, code, failure, Message::default()).unwrap();
        self.flush();
    }

    /// Takes one `core.provide`; what it brought.
    pub(crate) fn take_registration(&mut self) -> Value {
        let (stream, call, args) = self.called();
        assert_eq!(call.command.as_str(), "core.provide");
        let interface = &args["interface"];
        let commands: Vec<&Value> =
            interface["methods"].as_array().unwrap().iter().map(|method| &method["name"]).collect();
        let plugin = &interface["x-invoked"]["plugin"];
        let answer = json!({ "plugin": plugin, "major": 0, "commands": commands, "pending": false });
        self.reply(stream, &answer);
        args
    }

    /// Gives the grant of [`CALLER`], for one command.
    pub(crate) fn grant(&mut self, command: &str) {
        self.grant_scopes(CALLER.grant, 1, &json!({ "command": command }));
    }

    pub(crate) fn grant_scopes(&mut self, grant: u64, generation: u64, scopes: &Value) {
        let scopes = Blob(Bytes::from(scopes.to_string()));
        self.connection.grant(&Grant { grant, generation, scopes, ..Grant::default() }).unwrap();
        self.flush();
    }

    /// Calls for `origin`; the stream.
    pub(crate) fn start(
        &mut self,
        command: &str,
        body: Body,
        origin: OriginStamp,
        channels: Vec<ChannelDeclaration>,
    ) -> u64 {
        let mut extensions = Extensions::none();
        extensions.insert(tags::ORIGIN, origin.encode());
        self.send(Request {
            command: command.into(),
            message: Message::from(body),
            deadline_us: Some(15_000_000),
            extensions,
            channels,
            ..Request::default()
        })
    }

    pub(crate) fn send(&mut self, request: Request) -> u64 {
        let stream = self.connection.call(request).unwrap();
        self.flush();
        stream
    }

    /// Calls with JSON arguments for [`CALLER`], and waits.
    pub(crate) fn call(&mut self, command: &str, args: &Value) -> Answer {
        self.call_for(command, args, CALLER)
    }

    pub(crate) fn call_for(&mut self, command: &str, args: &Value, origin: OriginStamp) -> Answer {
        let stream = self.start(command, Body::Json(args.to_string().into()), origin, Vec::new());
        self.answer(stream)
    }

    /// Waits for the end of a call.
    pub(crate) fn answer(&mut self, stream: u64) -> Answer {
        loop {
            let event = self.next().expect("an answer");
            if let Some(answer) = self.answer_of(stream, event) {
                return answer;
            }
        }
    }

    /// The answer that an event begins, if it is that of `stream`.
    pub(crate) fn answer_of(&mut self, stream: u64, event: Event<Attachment>) -> Option<Answer> {
        let (of, parts, payload, mut more, failed) = match event {
            Event::Replied { stream, reply, payload, more, .. } => (stream, reply.parts, payload, more, None),
            Event::Failed { stream, code, failure, payload, more, .. } => {
                (stream, failure.parts, payload, more, Some((code, failure.message.to_string())))
            }
            _ => return None,
        };
        assert_eq!(of, stream);
        let mut assembly = Assembly::begin(parts, payload).unwrap();
        while more == More::Follows {
            let Some(Event::Continued { payload, more: next, .. }) = self.next() else { panic!() };
            assembly.push(&payload).unwrap();
            more = next;
        }
        let message = assembly.finish().unwrap();
        Some(match failed {
            None => Answer::Result(message),
            Some((code, text)) => Answer::Error(code, text, message),
        })
    }

    /// Whether the provider leaves without saying more than is left out here.
    pub(crate) fn ends(&mut self) -> bool {
        self.next().is_none()
    }
}

impl Answer {
    /// The result, as JSON.
    pub(crate) fn json(&self) -> Value {
        match self {
            Answer::Result(message) => serde_json::from_slice(message.body.bytes()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The code and the text of an error.
    pub(crate) fn error(&self) -> (ErrorCode, &str) {
        match self {
            Answer::Error(code, text, _) => (*code, text),
            other => panic!("{other:?}"),
        }
    }
}
