//! Large bodies end to end: a daemon in this process, both clients over its socket, with and without shared memory.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use invoked::command;
use invoked::config::Config;
use invoked::generate_handler;
use invoked::ipc::{Channel, Fault, Response, ResponseBuffer};
use invoked::transport::{Access, Listener};
use invoked_client::{Address, Client, Options, Overflow, Reply, Update, blocking};
use serde_json::{Value, json};

/// What handlers repeat: as long as no size of a page, a slot or a frame.
fn block(seed: usize) -> Vec<u8> {
    (0..4099_usize).map(|index| ((index * 31) ^ (index >> 8) ^ seed).to_le_bytes()[0]).collect()
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    let mut bytes = block(seed).repeat(len.div_ceil(4099));
    bytes.truncate(len);
    bytes
}

fn written(seed: usize, len: usize) -> ResponseBuffer {
    let mut buffer = Response::alloc(len);
    assert_eq!(buffer.len(), len);
    let block = block(seed);
    buffer.chunks_mut(block.len()).for_each(|chunk| chunk.copy_from_slice(&block[..chunk.len()]));
    buffer
}

#[command(inline)]
fn copied_inline(seed: usize, len: usize) -> Vec<u8> {
    bytes(seed, len)
}

#[command]
fn copied(seed: usize, len: usize) -> Vec<u8> {
    bytes(seed, len)
}

#[command]
async fn copied_async(seed: usize, len: usize) -> Vec<u8> {
    bytes(seed, len)
}

#[command(inline)]
fn in_place_inline(seed: usize, len: usize) -> ResponseBuffer {
    written(seed, len)
}

#[command]
fn in_place(seed: usize, len: usize) -> ResponseBuffer {
    written(seed, len)
}

/// Also after it has waited, on whatever thread goes on with it.
#[command]
async fn in_place_async(seed: usize, len: usize) -> Response {
    tokio::task::yield_now().await;
    written(seed, len).into()
}

#[command]
fn attached(seed: usize, len: usize) -> Response {
    Response::json(&len).unwrap().attach(bytes(seed, len)).attach(bytes(seed, 5)).header("k", "v")
}

#[command]
fn text(len: usize) -> String {
    "t".repeat(len)
}

#[command]
fn fails(len: usize) -> Result<(), Vec<u8>> {
    drop(written(1, len));
    Err(bytes(2, len))
}

/// Allocates one thing and answers with another.
#[command]
fn changes_its_mind(seed: usize, len: usize) -> Vec<u8> {
    drop(written(seed + 1, len));
    bytes(seed, len)
}

/// The same memory twice in one reply: only one of the parts can be lent.
#[command]
fn twice(seed: usize, len: usize) -> Response {
    let response: Response = written(seed, len).into();
    let same = match response.as_body() {
        invoked::ipc::Body::Raw(bytes) => bytes.clone(),
        _ => unreachable!("it is raw"),
    };
    response.attach(same)
}

/// Items of growing size, half of them written anew, half as they were.
#[command]
async fn items(count: usize, len: usize, to: Channel<Response>) -> Result<(), Fault> {
    let same: Response = bytes(1000, len).into();
    for seed in 0..count {
        let item = if seed % 2 == 0 { Response::from(bytes(seed, len + seed)) } else { same.clone() };
        to.send_async(item.attach(bytes(seed, 3))).await?;
    }
    Ok(())
}

#[command]
fn flood(len: usize, to: Channel<Vec<u8>>) -> invoked::Result<()> {
    (0..).try_for_each(|seed| to.send(bytes(seed, len)))
}

const RAW: [&str; 7] = [
    "copied_inline",
    "copied",
    "copied_async",
    "in_place_inline",
    "in_place",
    "in_place_async",
    "changes_its_mind",
];

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
        let others = ["attached", "text", "fails", "twice", "items", "flood"];
        let names = RAW.into_iter().chain(others).map(|name| format!("'allow-{}'", name.replace('_', "-")));
        let permissions = names.collect::<Vec<_>>().join(", ");
        let text = format!(
            "identifier = 'all'\npeers = ['everyone']\npermissions = [{permissions}, 'core:allow-stats']\n{capability}"
        );
        std::fs::write(policy.join("all.toml"), text).unwrap();
        let address: Address = format!("unix:{}/run/d.sock", directory.path().display()).parse().unwrap();
        let mut config = Config::default();
        configure(&mut config);
        let running = invoked::Builder::default()
            .config(config)
            .invoke_handler(generate_handler![
                copied_inline,
                copied,
                copied_async,
                in_place_inline,
                in_place,
                in_place_async,
                changes_its_mind,
                attached,
                text,
                fails,
                twice,
                items,
                flood
            ])
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

    /// One that takes everything through its socket.
    fn plain(&self) -> blocking::Client {
        blocking::Client::connect(self.options().shared_memory(false)).unwrap()
    }
}

fn call(client: &blocking::Client, command: &str, seed: usize, len: usize) -> Reply {
    client.call(command).args(&json!({ "seed": seed, "len": len })).send().unwrap()
}

/// A counter of the daemon's.
fn stat(client: &blocking::Client, name: &str) -> u64 {
    let stats: Value = client.invoke("core.stats", &Value::Null).unwrap();
    stats[name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

#[test]
fn every_kind_of_handler_gives_the_same_bytes_on_every_lane() {
    let daemon = Daemon::start();
    let (client, plain) = (daemon.client(), daemon.plain());
    let mut expected = 0;
    for len in [0, 1, 65_535, 65_536, 65_537, 1_000_000, 5_000_001] {
        for (seed, command) in RAW.into_iter().enumerate() {
            assert!(call(&plain, command, seed, len).bytes() == bytes(seed, len), "{command} {len} plain");
            assert_eq!(stat(&client, "pooled"), expected, "{command} {len}: a peer without it is sent none");
            assert!(call(&client, command, seed, len).bytes() == bytes(seed, len), "{command} {len}");
            expected += u64::from(len >= 65_536);
            assert_eq!(stat(&client, "pooled"), expected, "{command} {len}");
        }
    }
    assert_eq!(stat(&client, "pool_fallbacks"), 0);
}

#[test]
fn json_attachments_and_errors_arrive_whole() {
    let daemon = Daemon::start();
    for client in [daemon.client(), daemon.plain()] {
        for len in [100, 70_000, 3_000_000] {
            let reply = call(&client, "attached", 3, len);
            assert_eq!((reply.json::<usize>().unwrap(), reply.header("k")), (len, Some("v")));
            assert!(reply.attachments()[0] == bytes(3, len) && reply.attachments()[1] == bytes(3, 5));
            let text: String =
                client.call("text").args(&json!({ "len": len })).send().unwrap().json().unwrap();
            assert!(text.len() == len && text.bytes().all(|byte| byte == b't'));
            let error = client.call("fails").args(&json!({ "len": len })).send().unwrap_err();
            assert!(error.body().bytes() == bytes(2, len), "an error's body stays in the frames");
            let reply = call(&client, "twice", 4, len);
            assert!(reply.bytes() == bytes(4, len) && reply.attachments()[0] == bytes(4, len));
        }
    }
}

#[test]
fn memory_that_is_not_used_is_given_back_and_made_again() {
    let daemon = Daemon::start_with(|config| config.lanes.trim_after_ms = 20, "");
    let client = daemon.client();
    for round in 0..3 {
        let held = call(&client, "in_place", round, 300_000);
        let gone = call(&client, "copied", round, 3_000_000);
        assert!(held.bytes() == bytes(round, 300_000) && gone.bytes() == bytes(round, 3_000_000));
        let both = stat(&client, "segment_bytes");
        drop(gone);
        while stat(&client, "segment_bytes") == both {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(stat(&client, "segment_bytes") > 0, "what is held stays");
        assert!(held.bytes() == bytes(round, 300_000));
        drop(held);
        while stat(&client, "segment_bytes") > 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    let kept = Daemon::start_with(|config| config.lanes.trim_after_ms = 0, "");
    let client = kept.client();
    drop(call(&client, "copied", 0, 300_000));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(stat(&client, "segment_bytes") > 0);
}

#[test]
fn memory_is_used_again_from_call_to_call() {
    let daemon = Daemon::start();
    let client = daemon.client();
    drop(call(&client, "in_place", 0, 300_000));
    let (first, held) = (call(&client, "in_place", 1, 300_000), stat(&client, "segment_bytes"));
    let address = first.bytes().as_ptr();
    drop(first);
    for seed in 0..200 {
        let command = RAW[seed % RAW.len()];
        let reply = call(&client, command, seed, 300_000);
        assert!(reply.bytes() == bytes(seed, 300_000));
        assert!(held < (1 << 20) * 2 && reply.bytes().as_ptr().addr().abs_diff(address.addr()) < 1 << 20);
    }
    assert_eq!(stat(&client, "segment_bytes"), held);
}

#[test]
fn a_reply_that_is_kept_stays_as_it_is() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let kept: Vec<Reply> = (0..20).map(|seed| call(&client, "copied", seed, 500_000)).collect();
    for seed in 100..150 {
        assert!(call(&client, "in_place", seed, 500_000).bytes() == bytes(seed, 500_000));
    }
    let clone = kept[7].clone().into_bytes().slice(1000..2000);
    for (seed, reply) in kept.iter().enumerate() {
        assert!(reply.bytes() == bytes(seed, 500_000), "{seed}");
    }
    // Also when the connection, the other replies and the daemon are gone.
    drop((kept, client));
    let Daemon { running, directory, .. } = daemon;
    running.shutdown().unwrap();
    drop(directory);
    assert!(clone == bytes(7, 500_000)[1000..2000]);
}

#[test]
fn what_finds_no_memory_goes_inline_and_is_counted() {
    let daemon = Daemon::start_with(|config| config.quotas.segment_bytes_per_uid = 4 << 20, "");
    let client = daemon.client();
    let mut kept: Vec<Reply> = (0..4).map(|seed| call(&client, "copied", seed, 1 << 20)).collect();
    assert_eq!((stat(&client, "pooled"), stat(&client, "pool_fallbacks")), (4, 0));
    assert_eq!(stat(&client, "segment_bytes"), 4 << 20, "n");
    for (seed, command) in [(5, "copied"), (6, "in_place"), (7, "copied_inline")] {
        assert!(call(&client, command, seed, 1 << 20).bytes() == bytes(seed, 1 << 20), "n + 1, {command}");
    }
    assert_eq!((stat(&client, "pooled"), stat(&client, "pool_fallbacks")), (4, 3));
    // Another connection of the uid has no more.
    let other = daemon.client();
    assert!(call(&other, "copied", 8, 1 << 20).bytes() == bytes(8, 1 << 20));
    assert_eq!(stat(&client, "pool_fallbacks"), 4);
    kept.pop();
    assert!(call(&client, "copied", 9, 1 << 20).bytes() == bytes(9, 1 << 20));
    assert_eq!((stat(&client, "pooled"), stat(&client, "pool_fallbacks")), (5, 4), "a lease came back");
    drop((kept, client));
    // The other connection is a witness of what is left.
    while stat(&other, "segment_bytes") > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn capabilities_and_the_configuration_decide_who_shares_memory() {
    let pooled = |daemon: &Daemon| {
        let client = daemon.client();
        assert!(call(&client, "copied", 1, 1 << 20).bytes() == bytes(1, 1 << 20));
        stat(&client, "pooled")
    };
    assert_eq!(pooled(&Daemon::start_with(|_| {}, "lanes = ['inline']")), 0);
    assert_eq!(pooled(&Daemon::start_with(|_| {}, "lanes = ['file', 'sealed']")), 0);
    assert_eq!(pooled(&Daemon::start_with(|_| {}, "lanes = ['pool']")), 1);
    assert_eq!(pooled(&Daemon::start_with(|config| config.lanes.pool_from = 0, "")), 0);
    assert_eq!(pooled(&Daemon::start_with(|config| config.lanes.pool_from = (1 << 20) + 1, "")), 0, "n - 1");
    assert_eq!(pooled(&Daemon::start_with(|config| config.lanes.pool_from = 1 << 20, "")), 1, "n");
    assert_eq!(pooled(&Daemon::start_with(|config| config.quotas.unconfirmed_fds_per_uid = 0, "")), 0);
}

#[test]
fn many_calls_at_once_have_their_own_bytes() {
    let daemon = Daemon::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(daemon.options()).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for seed in 0..200_usize {
            let client = client.clone();
            tasks.spawn(async move {
                let len = 60_000 + seed * 7000;
                let args = json!({ "seed": seed, "len": len });
                let reply = client.call(RAW[seed % RAW.len()]).args(&args).send().await.unwrap();
                tokio::task::yield_now().await;
                assert!(reply.bytes() == bytes(seed, len), "{seed}");
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    let client = daemon.client();
    assert!(stat(&client, "pooled") + stat(&client, "pool_fallbacks") > 190);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..30 {
                    let seed = thread * 100 + round;
                    let reply = call(client, RAW[round % RAW.len()], seed, 66_000 + seed * 50);
                    assert!(reply.bytes() == bytes(seed, 66_000 + seed * 50));
                }
            });
        }
    });
}

#[test]
fn items_of_channels_come_whole_on_every_lane() {
    let daemon = Daemon::start();
    for (client, shares) in [(daemon.plain(), 0), (daemon.client(), 1)] {
        for len in [1000, 65_535, 65_536, 1_000_000] {
            let before = stat(&client, "pooled");
            let (call, came) = client.call("items").arg("count", 40).arg("len", len).channel("to");
            let call = call.start().unwrap();
            let mut kept = Vec::new();
            for (seed, item) in came.enumerate() {
                let item = item.unwrap();
                let expected = if seed % 2 == 0 { bytes(seed, len + seed) } else { bytes(1000, len) };
                assert!(item.bytes() == expected, "{seed} of {len}");
                assert!(item.attachments()[0] == bytes(seed, 3));
                kept.push(item);
            }
            assert_eq!(kept.len(), 40);
            call.wait().unwrap();
            for (seed, item) in kept.iter().enumerate().filter(|(seed, _)| seed % 2 == 0) {
                assert!(item.bytes() == bytes(seed, len + seed), "{seed} of {len}, later");
            }
            let pooled = stat(&client, "pooled") - before;
            let large = if len >= 65_536 { 40 } else { 40 / 2 - 1 };
            let large = if len + 40 < 65_536 { 0 } else { large };
            assert!(pooled <= shares * large, "{pooled} of {len}");
            assert!(shares * large == 0 || pooled > 10, "{pooled} of {len}");
        }
    }
}

#[test]
fn a_receiver_that_stops_or_leaves_gives_all_back() {
    let daemon = Daemon::start();
    let witness = daemon.plain();
    for round in 0..10 {
        let client = daemon.client();
        let (call, mut came) = client.call("flood").arg("len", 500_000).channel("to");
        let running = call.start().unwrap();
        for seed in 0..round {
            assert!(came.next().unwrap().unwrap().bytes() == bytes(seed, 500_000));
        }
        drop(came);
        if round % 2 == 0 {
            assert!(running.wait().is_err(), "the command is told");
            // The connection goes on with the same memory.
            assert!(call_again(&client) == bytes(3, 500_000));
        }
        drop(client);
    }
    while stat(&witness, "segment_bytes") > 0 || stat(&witness, "item_bytes") > 0 {
        std::thread::yield_now();
    }
}

fn call_again(client: &blocking::Client) -> Vec<u8> {
    call(client, "copied", 3, 500_000).into_bytes().to_vec()
}

#[test]
fn of_a_channel_that_leaves_items_out_the_latest_comes() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let call = client.call("items").arg("count", 200).arg("len", 300_000);
    let (call, updates) = call.subscribe("to", Overflow::Latest);
    let call = call.start().unwrap();
    let mut last = None;
    let mut lagged = 0;
    let mut seen = 0;
    for update in updates {
        match update.unwrap() {
            Update::Item(item) => {
                seen += 1;
                last = Some(item);
            }
            Update::Lagged(left_out) => lagged += left_out,
        }
    }
    call.wait().unwrap();
    assert_eq!(seen + lagged, 200);
    assert!(last.unwrap().attachments()[0] == bytes(199, 3));
}
