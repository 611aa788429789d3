//! Large bodies of calls and items end to end: a daemon in this process, both clients over its socket, with and without shared
//! memory.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use bytes::Bytes;
use invoked::command;
use invoked::config::Config;
use invoked::generate_handler;
use invoked::ipc::{ChannelItem, ChannelReader, Fault, InvokeBody, Request, Response};
use invoked::transport::{Access, Listener};
use invoked_client::{Address, Client, ErrorCode, Options, blocking};
use serde_json::{Value, json};

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    let block: Vec<u8> =
        (0..4099_usize).map(|index| ((index * 31) ^ (index >> 8) ^ seed).to_le_bytes()[0]).collect();
    let mut bytes = block.repeat(len.div_ceil(4099));
    bytes.truncate(len);
    bytes
}

/// What the daemon found.
fn seen(request: &Request<'_>) -> Response {
    let body: &[u8] = match request.body() {
        InvokeBody::Raw(raw) => raw,
        InvokeBody::Json(_) => b"json",
    };
    let attachments = request.attachments().iter().map(|bytes| bytes.to_vec());
    attachments.fold(Response::from(body.to_vec()), Response::attach)
}

#[command(inline)]
fn inline(request: Request<'_>) -> Response {
    seen(&request)
}

#[command]
fn blocking(request: Request<'_>) -> Response {
    seen(&request)
}

#[command]
async fn on_workers(request: Request<'_>) -> Result<Response, Fault> {
    tokio::task::yield_now().await;
    Ok(seen(&request))
}

#[command]
fn text_len(text: String) -> usize {
    text.len()
}

/// Takes items and tells of each what it has, in order.
#[command]
fn take(items: ChannelReader<ChannelItem>) -> Result<Vec<(usize, u8, usize)>, Fault> {
    let mut taken = Vec::new();
    for item in items {
        let ChannelItem { body, attachments } = item?;
        let body = body.into_bytes();
        assert!(body == bytes(taken.len(), body.len()), "item {}", taken.len());
        taken.push((
            body.len(),
            body.first().copied().unwrap_or(0),
            attachments.iter().map(Bytes::len).sum(),
        ));
    }
    Ok(taken)
}

const ECHO: [&str; 3] = ["inline", "blocking", "on_workers"];

struct Daemon {
    running: invoked::Running,
    address: Address,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        Self::start_with(|_| {}, "")
    }

    fn start_with(configure: impl FnOnce(&mut Config), capability: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("capabilities");
        std::fs::create_dir(&policy).unwrap();
        let text = format!(
            "identifier = 'all'\npeers = ['everyone']\npermissions = ['allow-inline', 'allow-blocking', \
             'allow-on-workers', 'allow-text-len', 'allow-take', 'core:allow-stats']\n{capability}"
        );
        std::fs::write(policy.join("all.toml"), text).unwrap();
        let address: Address = format!("unix:{}/run/d.sock", directory.path().display()).parse().unwrap();
        let mut config = Config::default();
        configure(&mut config);
        let running = invoked::Builder::default()
            .config(config)
            .invoke_handler(generate_handler![inline, blocking, on_workers, text_len, take])
            .capabilities(&policy)
            .serve(Listener::bind(&address, Access::Owner).unwrap())
            .unwrap();
        Daemon { running, address, directory }
    }

    fn options(&self) -> Options {
        Options::new().address(self.address.clone())
    }

    fn client(&self) -> blocking::Client {
        blocking::Client::connect(self.options()).unwrap()
    }

    /// One that sends everything through its socket.
    fn plain(&self) -> blocking::Client {
        blocking::Client::connect(self.options().shared_memory(false)).unwrap()
    }
}

/// Bytes of the body of the call that asks for the counters.
const ITS_OWN: u64 = 4;

/// A counter of the daemon's.
fn stat(client: &blocking::Client, name: &str) -> u64 {
    let stats: Value = client.invoke("core.stats", &Value::Null).unwrap();
    stats[name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// Has the daemon read so many parts of `len` bytes from memory: the first calls ask for it, and make it known.
fn warm(client: &blocking::Client, len: usize) {
    let before = stat(client, "parts_read");
    for _ in 0..10 {
        client.call("blocking").raw(bytes(0, len)).send().unwrap();
        if stat(client, "parts_read") > before {
            return;
        }
    }
    panic!("{len} bytes are never read from memory");
}

#[test]
fn every_kind_of_handler_is_given_the_same_bytes_on_every_lane() {
    let daemon = Daemon::start();
    let (client, plain) = (daemon.client(), daemon.plain());
    for len in [65_535, 65_536, 65_537, 1_000_000, 1_048_577, 5_000_001] {
        if len >= 65_536 {
            warm(&client, len);
        }
        for (seed, command) in ECHO.into_iter().enumerate() {
            let call = |client: &blocking::Client| client.call(command).raw(bytes(seed, len)).send().unwrap();
            let before = stat(&client, "parts_read");
            assert!(call(&plain).bytes() == bytes(seed, len), "{command} {len} plain");
            assert_eq!(
                stat(&client, "parts_read"),
                before,
                "{command} {len}: a peer without it sends none so"
            );
            assert!(call(&client).bytes() == bytes(seed, len), "{command} {len}");
            assert_eq!(stat(&client, "parts_read"), before + u64::from(len >= 65_536), "{command} {len}");
        }
    }
    assert_eq!(stat(&client, "message_bytes"), ITS_OWN);
}

#[test]
fn json_and_attachments_arrive_whole() {
    let daemon = Daemon::start();
    for client in [daemon.client(), daemon.plain()] {
        for len in [100, 70_000, 3_000_000] {
            for round in 0..4 {
                let call =
                    client.call("blocking").raw(bytes(round, 10)).attach(bytes(1, len)).attach(bytes(2, 5));
                let reply = call.attach(bytes(3, len + 7)).send().unwrap();
                assert!(reply.bytes() == bytes(round, 10));
                let expected = [bytes(1, len), bytes(2, 5), bytes(3, len + 7)];
                assert!(reply.attachments().iter().zip(&expected).all(|(came, sent)| came == sent));
                let text = "t".repeat(len);
                let counted: usize = client.invoke("text_len", &json!({ "text": text })).unwrap();
                assert_eq!(counted, len);
            }
        }
    }
}

#[test]
fn threads_and_tasks_share_the_memory_of_their_connection() {
    let daemon = Daemon::start();
    let client = daemon.client();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..30 {
                    let len = 65_536 + (seed * 7 + round) * 9973;
                    let reply = client.call("blocking").raw(bytes(seed + round, len)).send().unwrap();
                    assert!(reply.bytes() == bytes(seed + round, len));
                }
            });
        }
    });
    assert!(stat(&client, "parts_read") > 60, "most of 120 go so");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(daemon.options()).await.unwrap();
        let tasks = (0..4).map(|seed| {
            let client = client.clone();
            tokio::spawn(async move {
                for round in 0..30 {
                    let len = 65_536 + (seed * 7 + round) * 9973;
                    let reply = client.call("on_workers").raw(bytes(seed + round, len)).send().await.unwrap();
                    assert!(reply.bytes() == bytes(seed + round, len));
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
    assert!(stat(&client, "parts_read") > 120);
    drop(client);
    let witness = daemon.plain();
    while stat(&witness, "memory_file_bytes") > 0 || stat(&witness, "received_fds") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn items_to_a_command_come_in_order_whatever_their_size() {
    let daemon = Daemon::start();
    for client in [daemon.client(), daemon.plain()] {
        let (call, mut items) = client.call("take").channel_to("items");
        let sizes: Vec<usize> =
            (0..60).map(|n| if n % 3 == 0 { 100 + n } else { n * 40_009 % 2_000_000 }).collect();
        let sent = std::thread::spawn({
            let sizes = sizes.clone();
            move || {
                for (seed, len) in sizes.into_iter().enumerate() {
                    let body = invoked_client::Body::Raw(bytes(seed, len).into());
                    let attachments = vec![bytes(9, len / 2).into()];
                    items.send_message(invoked_client::Message { body, attachments }).unwrap();
                }
                items.close();
            }
        });
        let taken: Vec<(usize, u8, usize)> = call.send().unwrap().json().unwrap();
        sent.join().unwrap();
        let expected: Vec<(usize, u8, usize)> =
            sizes.iter().enumerate().map(|(seed, len)| (*len, bytes(seed, 1)[0], len / 2)).collect();
        assert_eq!(taken, expected);
    }
    let witness = daemon.client();
    assert!(stat(&witness, "parts_read") > 20, "many go so");
    assert_eq!(stat(&witness, "message_bytes"), ITS_OWN);
}

#[test]
fn memory_ends_at_its_quota_and_the_rest_goes_through_the_socket() {
    // One segment of 1 MiB holds slots of 64 KiB; a body of 1 MiB needs another of its own.
    let daemon = Daemon::start_with(|config| config.quotas.memory_file_bytes_per_uid = 2 << 20, "");
    let client = daemon.client();
    warm(&client, 65_536);
    warm(&client, 1 << 20);
    assert_eq!(stat(&client, "memory_file_bytes"), 2 << 20, "n");
    let read = stat(&client, "parts_read");
    for _ in 0..4 {
        let reply = client.call("blocking").raw(bytes(1, 3 << 20)).send().unwrap();
        assert!(reply.bytes() == bytes(1, 3 << 20), "n + 1 goes all the same");
    }
    assert_eq!((stat(&client, "parts_read"), stat(&client, "memory_file_bytes")), (read, 2 << 20));
    drop(client);
    let other = daemon.plain();
    while stat(&other, "memory_file_bytes") > 0 || stat(&other, "received_fds") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn capabilities_and_the_configuration_decide_who_sends_so() {
    let read = |configure: fn(&mut Config), capability: &str| {
        let daemon = Daemon::start_with(configure, capability);
        let client = daemon.client();
        for _ in 0..6 {
            assert!(
                client.call("blocking").raw(bytes(1, 100_000)).send().unwrap().bytes() == bytes(1, 100_000)
            );
        }
        stat(&client, "parts_read") > 0
    };
    assert!(read(|_| {}, ""));
    assert!(read(|_| {}, "lanes = ['pool']"));
    assert!(!read(|_| {}, "lanes = ['file']"));
    assert!(!read(|config| config.lanes.pool_from = 0, ""));
    assert!(!read(|config| config.quotas.received_fds_per_uid = 0, ""));
    // Nine slots of 28 pages are one segment.
    assert!(read(|_| {}, "limits = { memory_file_bytes_per_uid = 1032192 }"));
    assert!(!read(|_| {}, "limits = { memory_file_bytes_per_uid = 1032191 }"));
}

#[test]
fn a_capability_that_is_taken_back_refuses_what_comes_still() {
    let daemon = Daemon::start();
    let client = daemon.client();
    warm(&client, 100_000);
    let path = daemon.directory.path().join("capabilities/all.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\nlanes = ['file']")).unwrap();
    let handle = daemon.running.handle().clone();
    invoked::async_runtime::block_on(async move { handle.reload().await }).unwrap();
    let error = client.call("blocking").raw(bytes(1, 100_000)).send().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::AttachmentRefused));
    assert!(error.message().contains("\"pool\""), "{error}");
    // From then on it is sent through the socket.
    let reply = client.call("blocking").raw(bytes(1, 100_000)).send().unwrap();
    assert!(reply.bytes() == bytes(1, 100_000));
}

/// A file of so many bytes.
fn file(daemon: &Daemon, seed: usize, len: usize) -> std::fs::File {
    let path = daemon.directory.path().join(format!("file-{seed}-{len}"));
    std::fs::write(&path, bytes(seed, len)).unwrap();
    std::fs::File::open(path).unwrap()
}

#[test]
fn a_file_is_read_by_the_daemon_or_by_its_sender_and_gives_the_same_bytes() {
    use std::io::{Seek, SeekFrom};
    let daemon = Daemon::start();
    for (client, sends) in [(daemon.client(), 2), (daemon.plain(), 0)] {
        let before = stat(&client, "parts_read");
        for (seed, len) in [(1, 100), (2, (1 << 20) - 1), (3, 1 << 20), (4, 5_000_000)] {
            let whole = file(&daemon, seed, len);
            let reply = client.call("blocking").file(&whole).attach("beside").send().unwrap();
            assert!(reply.bytes() == bytes(seed, len), "{len}");
            assert_eq!(reply.attachments(), ["beside"]);
        }
        assert_eq!(stat(&client, "parts_read"), before + sends, "n - 1 is read here");
        // From where it stands.
        let mut rest = file(&daemon, 5, 3_000_000);
        rest.seek(SeekFrom::Start(1_000_000)).unwrap();
        let reply = client.call("on_workers").file(&rest).send().unwrap();
        assert!(reply.bytes() == &bytes(5, 3_000_000)[1_000_000..]);
        // Larger than any message, and what is no file.
        let huge = file(&daemon, 6, 0);
        let path = daemon.directory.path().join("file-6-0");
        std::fs::File::options().write(true).open(path).unwrap().set_len(1 << 30).unwrap();
        assert!(client.call("blocking").file(&huge).send().is_err());
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"no file").unwrap();
        drop(writer);
        let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
        assert_eq!(client.call("blocking").file(&pipe).send().unwrap().bytes(), b"no file");
        assert_eq!(
            client.call("blocking").file(&pipe).raw("x").send().unwrap_err().code(),
            Some(ErrorCode::InvalidArgument)
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for shares in [true, false] {
            let client = Client::connect(daemon.options().shared_memory(shares)).await.unwrap();
            let whole = file(&daemon, 7, 2_000_000);
            let calls = (0..3).map(|_| client.call("blocking").file(&whole).send());
            for call in calls.collect::<Vec<_>>() {
                assert!(call.await.unwrap().bytes() == bytes(7, 2_000_000));
            }
        }
    });
    let witness = daemon.plain();
    while stat(&witness, "received_fds") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn a_file_is_read_here_where_the_policy_takes_none() {
    let daemon = Daemon::start_with(|_| {}, "lanes = ['pool']");
    let client = daemon.client();
    for seed in 0..3 {
        let reply = client.call("blocking").file(&file(&daemon, seed, 2_000_000)).send().unwrap();
        assert!(reply.bytes() == bytes(seed, 2_000_000));
    }
}
