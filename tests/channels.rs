//! Channels end to end: commands as they are written for Tauri, a daemon in this process, both clients over its socket.
#![allow(clippy::unwrap_used)] // a test may fail by panicking

extern crate invoked as tauri;

use std::sync::mpsc;
use std::time::Duration;

use crossbeam_channel::select;
use invoked_client::{Address, Body, Client, ErrorCode, Message, Options, Overflow, Update, blocking};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tauri::ipc::{
    Channel, ChannelItem, ChannelReader, ChannelSource, Fault, JavaScriptChannelId, RecvError, Request,
    Response, SendError,
};
use tauri::transport::{Access, Listener};
use tauri::{command, generate_handler};

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "event", content = "data")]
enum DownloadEvent<'a> {
    #[serde(rename_all = "camelCase")]
    Started {
        url: &'a str,
        content_length: usize,
    },
    Progress {
        chunk: usize,
    },
    Finished,
}

#[command]
fn download(url: String, on_event: Channel<DownloadEvent<'_>>) {
    on_event.send(DownloadEvent::Started { url: &url, content_length: 1000 }).unwrap();
    for chunk in [15, 150, 35] {
        on_event.send(DownloadEvent::Progress { chunk }).unwrap();
    }
    on_event.send(DownloadEvent::Finished).unwrap();
}

#[command]
async fn load_image(len: usize, reader: Channel<&[u8]>) {
    let mut left = len;
    while left > 0 {
        let chunk = vec![7; left.min(4096)];
        reader.send(&chunk).unwrap();
        left -= chunk.len();
    }
}

/// Sends without regard to who reads.
#[command]
fn flood(count: u64, on_number: Channel<u64>) -> tauri::Result<()> {
    (0..count).try_for_each(|number| on_number.send(number))
}

/// Goes on after it has returned, until the caller wants no more.
#[command]
async fn tick(on_tick: Channel<u64>) -> &'static str {
    tokio::spawn(async move {
        let mut count = 0;
        while on_tick.send_async(count).await.is_ok() {
            count += 1;
        }
    });
    "ticking"
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    name: String,
    on_done: JavaScriptChannelId,
}

#[command]
fn nested(job: Job, request: Request<'_>) -> Result<(), Fault> {
    let channel: Channel<String> = job.on_done.channel_on(request)?;
    channel.try_send(job.name).map_err(Fault::from)?;
    channel.close(Err(Fault::new(ErrorCode::Aborted, "enough")));
    let closed = channel.send(String::new());
    assert!(matches!(closed, Err(tauri::Error::Channel(error)) if error.is_closed()));
    Ok(())
}

#[command(inline)]
fn full(to: Channel<Vec<u8>>) -> usize {
    (0..).find(|_| matches!(to.send(vec![0; 1000]), Err(tauri::Error::Channel(SendError::Full)))).unwrap()
}

/// Tells when the caller has gone.
#[command]
async fn wait_for_the_end(to: Channel<()>, told: tauri::ipc::State<'_, Told>) -> Result<(), ()> {
    let code = to.closed().await;
    told.0.send(code).map_err(drop)
}

struct Told(mpsc::Sender<ErrorCode>);

#[command]
fn sum(numbers: ChannelReader<u64>) -> Result<u64, RecvError> {
    numbers.sum()
}

/// Sends back what comes, in upper case, and how many there were.
#[command]
async fn upper(mut lines: ChannelReader<String>, to: Channel<String>) -> Result<usize, Fault> {
    let mut count = 0;
    while let Some(line) = lines.recv_async().await {
        to.send_async(line?.to_uppercase()).await?;
        count += 1;
    }
    Ok(count)
}

/// Takes raw bytes, and wants no more than `most`.
#[command]
fn store(most: usize, mut data: ChannelReader<Vec<u8>>) -> Result<usize, Fault> {
    let mut len = 0;
    while len < most {
        match data.recv() {
            Some(chunk) => len += chunk?.len(),
            None => break,
        }
    }
    Ok(len)
}

/// Sends back on each of the first eight channels what comes on the one eight further, as it came.
#[command]
fn mirror(request: Request<'_>) -> Result<(), Fault> {
    for index in 1..=8 {
        let to: Channel<Response> = request.channel(index)?;
        let from: ChannelReader<ChannelItem> = request.channel_reader(index + 8)?;
        std::thread::spawn(move || {
            for item in from {
                let ChannelItem { body, attachments } = item.unwrap();
                to.send(attachments.into_iter().fold(Response::from(body), Response::attach)).unwrap();
            }
            to.close(Err(Fault::new(ErrorCode::OutOfRange, format!("end of {index}"))));
        });
    }
    Ok(())
}

struct Daemon {
    running: Option<invoked::Running>,
    address: Address,
    told: mpsc::Receiver<ErrorCode>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("capabilities");
        std::fs::create_dir(&policy).unwrap();
        let commands = [
            "download",
            "load-image",
            "flood",
            "tick",
            "nested",
            "full",
            "wait-for-the-end",
            "sum",
            "upper",
            "store",
            "mirror",
        ];
        let permissions: Vec<String> = commands.iter().map(|name| format!("\"allow-{name}\"")).collect();
        let text =
            format!("identifier = 'all'\npeers = ['everyone']\npermissions = [{}]", permissions.join(", "));
        std::fs::write(policy.join("all.toml"), text).unwrap();
        let address: Address = format!("unix:{}/run/d.sock", directory.path().display()).parse().unwrap();
        let (tell, told) = mpsc::channel();
        let running = invoked::Builder::default()
            .manage(Told(tell))
            .invoke_handler(generate_handler![
                download,
                load_image,
                flood,
                tick,
                nested,
                full,
                wait_for_the_end,
                sum,
                upper,
                store,
                mirror
            ])
            .capabilities(&policy)
            .serve(Listener::bind(&address, Access::Owner).unwrap())
            .unwrap();
        Daemon { running: Some(running), address, told, _directory: directory }
    }

    fn options(&self) -> Options {
        Options::new().address(self.address.clone())
    }

    fn blocking(&self) -> blocking::Client {
        blocking::Client::connect(self.options()).unwrap()
    }

    async fn client(&self) -> Client {
        Client::connect(self.options()).await.unwrap()
    }
}

#[test]
fn the_guide_s_download_sends_events_to_a_thread() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let (call, events) = client.call("download").arg("url", "https://x").channel("onEvent");
    let call = call.start().unwrap();
    let events: Vec<serde_json::Value> = events.map(|event| event.unwrap().json().unwrap()).collect();
    assert_eq!(events[0], json!({"event": "started", "data": {"url": "https://x", "contentLength": 1000}}));
    assert_eq!(events[2], json!({"event": "progress", "data": {"chunk": 150}}));
    assert_eq!(events[4], json!({"event": "finished"}));
    assert_eq!(events.len(), 5);
    call.wait().unwrap();
}

#[tokio::test]
async fn the_guide_s_image_arrives_raw_and_whole_though_it_is_larger_than_every_window() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let (call, mut chunks) = client.call("load_image").arg("len", 3_000_001).channel("reader");
    let call = call.start().await.unwrap();
    let mut len = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.unwrap();
        assert!(matches!(chunk.body(), invoked_client::Body::Raw(_)), "{:?}", chunk.body());
        assert!(chunk.bytes().iter().all(|byte| *byte == 7));
        len += chunk.bytes().len();
    }
    assert_eq!(len, 3_000_001);
    call.reply().await.unwrap();
}

#[tokio::test]
async fn a_channel_lives_on_after_the_reply_until_its_reader_leaves() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let (call, mut ticks) = client.call("tick").channel("onTick");
    assert_eq!(call.send().await.unwrap().json::<String>().unwrap(), "ticking");
    for count in 0..5000_u64 {
        let tick = ticks.next().await.unwrap().unwrap();
        assert_eq!(tick.json::<u64>().unwrap(), count);
    }
    drop(ticks);
    // The connection is as good as before.
    client.call("tick").arg("onTick", 1).send().await.expect_err("no channel");
    assert!(client.is_connected());
}

/// What came of `sent` numbers: how many, and the last; panics if one neither came nor was counted in its place.
fn counted(updates: impl Iterator<Item = Update>, sent: u64) -> (u64, Option<u64>) {
    let (mut place, mut came, mut last) = (0, 0, None);
    for update in updates {
        match update {
            Update::Item(item) => {
                let number: u64 = item.json().unwrap();
                assert_eq!(number, place, "it comes where it is counted");
                (place, came, last) = (place + 1, came + 1, Some(number));
            }
            Update::Lagged(count) => {
                assert!(count > 0);
                place += count;
            }
        }
    }
    assert_eq!(place, sent, "received and left out are what was sent");
    (came, last)
}

#[test]
fn a_command_never_waits_for_a_thread_that_wants_news_and_all_is_counted() {
    const COUNT: u64 = 20_000;
    let daemon = Daemon::start();
    let client = daemon.blocking();
    for overflow in [Overflow::DropOldest, Overflow::Latest] {
        // It is answered though nothing is taken, and the numbers are more than any window and queue.
        let (call, updates) = client.call("flood").arg("count", COUNT).subscribe("onNumber", overflow);
        call.send().unwrap();
        let (came, last) = counted(updates.map(Result::unwrap), COUNT);
        assert!(came < COUNT, "{overflow}: nothing was left out");
        assert_eq!(last, Some(COUNT - 1), "{overflow}");
    }
    // A channel that blocks is as it was.
    let (call, numbers) = client.call("flood").arg("count", 1000).channel("onNumber");
    let call = call.start().unwrap();
    let numbers: Vec<u64> = numbers.map(|number| number.unwrap().json().unwrap()).collect();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    call.wait().unwrap();
}

#[tokio::test]
async fn a_command_never_waits_for_a_task_that_wants_news_and_all_is_counted() {
    const COUNT: u64 = 20_000;
    let daemon = Daemon::start();
    let client = daemon.client().await;
    for overflow in [Overflow::DropOldest, Overflow::Latest] {
        let (call, mut updates) = client.call("flood").arg("count", COUNT).subscribe("onNumber", overflow);
        call.send().await.unwrap();
        let mut all = Vec::new();
        while let Some(update) = updates.next().await {
            all.push(update.unwrap());
        }
        let (came, last) = counted(all.into_iter(), COUNT);
        assert!(came < COUNT, "{overflow}: nothing was left out");
        assert_eq!(last, Some(COUNT - 1), "{overflow}");
    }
}

#[test]
fn a_channel_inside_a_structure_ends_with_the_handler_s_code() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let (call, mut done) = client.call("nested").open_channel();
    let job = json!({"job": {"name": "a", "onDone": done.placeholder()}});
    call.args(&job).send().unwrap();
    assert_eq!(done.next().unwrap().unwrap().json::<String>().unwrap(), "a");
    let error = done.next().unwrap().unwrap_err();
    assert_eq!((error.code(), error.message()), (Some(ErrorCode::Aborted), "enough"));
    assert!(done.next().is_none());
}

#[test]
fn a_string_is_a_channel_only_if_the_call_declares_it() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    for (argument, says) in [
        (json!("__CHANNEL__:2"), "declares no channel 2"),
        (json!("__CHANNEL__:01"), "expected a channel"),
        (json!("hello"), "expected a channel"),
        (json!(1), "expected a string"),
    ] {
        let (call, _items) = client.call("download").arg("url", "x").open_channel();
        let error = call.arg("onEvent", &argument).send().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{argument}");
        let message = error.message();
        assert!(message.contains("onEvent") && message.contains(says), "{argument}: {message}");
    }
    let error = client.call("download").arg("url", "x").send().unwrap_err();
    assert!(error.message().contains("missing `onEvent`, a channel"), "{error}");
}

#[test]
fn an_inline_command_is_never_held_up() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let (call, items) = client.call("full").channel("to");
    let sent: usize = call.send().unwrap().json().unwrap();
    assert!(sent > 0);
    assert_eq!(items.map(|item| item.unwrap().bytes().len()).filter(|len| *len == 1000).count(), sent);
}

#[test]
fn a_handler_is_told_why_its_channel_ended() {
    let daemon = Daemon::start();
    // The caller leaves.
    let client = daemon.blocking();
    let (call, items) = client.call("wait_for_the_end").channel("to");
    let call = call.start().unwrap();
    drop((call, items, client));
    let told = || daemon.told.recv_timeout(Duration::from_secs(60)).unwrap();
    let code = told();
    assert!(matches!(code, ErrorCode::Cancelled | ErrorCode::Unavailable), "{code}");
    // It wants no more.
    let client = daemon.blocking();
    let (call, items) = client.call("wait_for_the_end").channel("to");
    let call = call.start().unwrap();
    drop(items);
    assert_eq!(told(), ErrorCode::Cancelled);
    call.wait().unwrap();
    // Its deadline passes.
    let (call, mut items) = client.call("wait_for_the_end").timeout(Duration::from_millis(20)).channel("to");
    let error = call.send().unwrap_err();
    assert!(error.is_deadline());
    let end = items.next().unwrap().unwrap_err();
    assert!(end.is_deadline() || end.is_cancelled(), "{end}");
    let code = told();
    assert!(matches!(code, ErrorCode::DeadlineExceeded | ErrorCode::Cancelled), "{code}");
}

#[test]
fn a_thread_waits_on_two_channels_at_once() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let (flood, numbers) = client.call("flood").arg("count", 5000).channel("onNumber");
    let (told, ends) = client.call("wait_for_the_end").channel("to");
    let (flood, told) = (flood.start().unwrap(), told.start().unwrap());
    let (numbers, ends) = (numbers.into_receiver(4).unwrap(), ends.into_receiver(0).unwrap());
    let mut next = 0;
    loop {
        select! {
            recv(numbers) -> number => match number {
                Ok(number) => assert_eq!(number.unwrap().json::<u64>().unwrap(), next),
                Err(_) => break,
            },
            recv(ends) -> end => panic!("nothing is sent there: {end:?}"),
        }
        next += 1;
    }
    assert_eq!(next, 5000);
    flood.wait().unwrap();
    // While its thread waits for an item.
    drop(ends);
    assert_eq!(daemon.told.recv_timeout(Duration::from_secs(60)).unwrap(), ErrorCode::Cancelled);
    told.wait().unwrap();
}

#[test]
fn a_receiver_tells_of_news_left_out_and_how_its_channel_ended() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let (call, numbers) = client.call("flood").arg("count", 20_000).subscribe("onNumber", Overflow::Latest);
    let call = call.start().unwrap();
    let updates = numbers.into_receiver(1).unwrap();
    let (received, last) = counted(updates.iter().map(Result::unwrap), 20_000);
    assert!(received >= 1);
    assert_eq!(last, Some(19_999));
    call.wait().unwrap();
    let (call, done) = client.call("nested").channel("unused");
    drop(call);
    let done = done.into_receiver(1).unwrap();
    assert!(done.recv().is_err(), "its call was never sent");
}

#[test]
fn a_daemon_that_stops_ends_the_channels_that_live_on() {
    let mut daemon = Daemon::start();
    let client = daemon.blocking();
    let (call, mut ticks) = client.call("tick").channel("onTick");
    call.send().unwrap();
    assert!(ticks.next().unwrap().is_ok());
    let running = daemon.running.take().unwrap();
    let stopping = std::thread::spawn(move || running.shutdown().unwrap());
    let end = ticks.find_map(Result::err).expect("the channel ends badly");
    assert_eq!(end.code(), Some(ErrorCode::Unavailable), "{end}");
    stopping.join().unwrap();
}

#[test]
fn a_command_reads_what_its_caller_sends() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let (call, mut numbers) = client.call("sum").channel_to("numbers");
    let call = call.start().unwrap();
    // More than every window holds.
    for number in 1..=5000_u64 {
        numbers.send(&number).unwrap();
    }
    numbers.close();
    assert_eq!(call.wait().unwrap().json::<u64>().unwrap(), 5000 * 5001 / 2);
    // None at all, closed before the call is sent.
    let (call, numbers) = client.call("sum").channel_to("numbers");
    numbers.close();
    assert_eq!(call.send().unwrap().json::<u64>().unwrap(), 0);
}

#[test]
fn half_of_what_a_caller_sends_is_not_taken_for_all() {
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let sum = || {
        let (call, mut numbers) = client.call("sum").channel_to("numbers");
        let call = call.start().unwrap();
        numbers.send(&1).unwrap();
        (call, numbers)
    };
    let (call, numbers) = sum();
    drop(numbers);
    let error = call.wait().unwrap_err();
    assert!(error.to_string().contains("the caller dropped the channel"), "{error}");
    let (call, numbers) = sum();
    numbers.fail(ErrorCode::DataLoss, "the disk is gone");
    assert!(call.wait().unwrap_err().to_string().contains("data_loss: the disk is gone"));
    let (call, mut numbers) = sum();
    numbers.send("two").unwrap();
    let error = call.wait().unwrap_err();
    assert!(error.to_string().contains("not what is expected"), "{error}");
}

#[tokio::test]
async fn items_go_both_ways_at_once() {
    use futures_core::Stream;

    let daemon = Daemon::start();
    let client = daemon.client().await;
    let (call, mut lines) = client.call("upper").channel_to("lines");
    let (call, mut answers) = call.channel("to");
    let call = call.start().await.unwrap();
    let sending = tokio::spawn(async move {
        for index in 0..3000 {
            lines.send(&format!("line {index}")).await.unwrap();
        }
        lines.close();
    });
    for index in 0..3000 {
        let answer =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut answers).poll_next(context)).await;
        assert_eq!(answer.unwrap().unwrap().json::<String>().unwrap(), format!("LINE {index}"));
    }
    assert!(answers.next().await.is_none());
    sending.await.unwrap();
    assert_eq!(call.reply().await.unwrap().json::<usize>().unwrap(), 3000);
}

#[tokio::test]
async fn a_command_that_has_enough_stops_its_caller() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let (call, mut data) = client.call("store").arg("most", 1_000_000).channel_to("data");
    let call = call.start().await.unwrap();
    let mut sent = 0;
    let error = loop {
        match data.send_raw(vec![7; 100_000]).await {
            Ok(()) => sent += 100_000,
            Err(error) => break error,
        }
    };
    assert!(error.is_cancelled() && sent >= 1_000_000, "{sent}: {error}");
    assert_eq!(call.reply().await.unwrap().json::<usize>().unwrap(), 1_000_000);
    // A channel of the other direction is not taken for it.
    let (call, _items) = client.call("store").arg("most", 1).channel("data");
    let error = call.send().await.unwrap_err();
    assert!(error.message().contains("goes the other way"), "{error}");
}

/// The `at`th item of a channel: JSON, raw, or none, with up to three attachments.
fn mixed(channel: usize, at: usize) -> Message {
    let body = match (channel + at) % 3 {
        0 => Body::Json(format!("[{channel},{at}]").into()),
        1 => Body::Raw(vec![7; at * 997].into()),
        _ => Body::None,
    };
    let attachments = (0..at % 4).map(|index| vec![1; index * 5000 + channel].into()).collect();
    Message { body, attachments }
}

#[test]
fn sixteen_channels_of_one_call_bring_any_items_in_order_and_one_more_is_refused() {
    const ITEMS: usize = 40;
    let daemon = Daemon::start();
    let client = daemon.blocking();
    let mut call = client.call("mirror");
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let (with, items) = call.open_channel();
        call = with;
        down.push(items);
    }
    for _ in 0..8 {
        let (with, sender) = call.open_channel_to();
        call = with;
        up.push(sender);
    }
    call.send().unwrap();
    let mut came = 0;
    std::thread::scope(|scope| {
        for (channel, mut sender) in up.into_iter().enumerate() {
            scope.spawn(move || {
                (0..ITEMS).for_each(|at| sender.send_message(mixed(channel, at)).unwrap());
                sender.close();
            });
        }
        let takers: Vec<_> = down
            .into_iter()
            .enumerate()
            .map(|(channel, mut items)| {
                scope.spawn(move || {
                    for at in 0..ITEMS {
                        assert_eq!(items.next().unwrap().unwrap().into_message(), mixed(channel, at));
                    }
                    let end = items.next().unwrap().unwrap_err();
                    let told = (end.code(), end.message().to_owned());
                    assert_eq!(told, (Some(ErrorCode::OutOfRange), format!("end of {}", channel + 1)));
                    ITEMS
                })
            })
            .collect();
        came = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
    });
    assert_eq!(came, 8 * ITEMS);
    let mut call = client.call("mirror");
    let mut items = Vec::new();
    for _ in 0..17 {
        let (with, of_one) = call.open_channel();
        call = with;
        items.push(of_one);
    }
    let error = call.send().unwrap_err();
    assert_eq!(error.delivery(), invoked_client::Delivery::NotDelivered, "{error}");
    drop(items);
    client.ping().expect("the connection goes on");
}
