//! Items a second on a channel, from a hosted command to one reader.

use invoked_client::{Call, Client, Options, Reply, blocking};
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::bulk::in_chunks;
use super::throughput::{call_failed, runtime};
use super::{Amount, BenchError, Carrier, Done, HOSTED, Load, Pin, Rate};

/// Items of one system at one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChannelRow {
    /// What was measured.
    pub system: &'static str,
    /// How items are written or read.
    pub mode: &'static str,
    /// Bytes of an item.
    pub size: u32,
    /// Items.
    pub n: u64,
    /// Items a second.
    pub items_per_s: u64,
    /// Bytes of items a second.
    pub bytes_per_s: u64,
    /// Processor time of both ends for an item, in nanoseconds; `None` if the kernel doesn't tell.
    pub cpu_ns_per_item: Option<u64>,
    /// Where the processes ran.
    pub pin: Pin,
    /// The median, over the rounds, of this rate beside that of the floor in the same round: more is better.
    pub ratio: f64,
}

impl From<&Rate> for ChannelRow {
    fn from(rate: &Rate) -> Self {
        ChannelRow {
            system: rate.system,
            mode: rate.mode,
            size: rate.load.size,
            n: rate.n,
            items_per_s: rate.per_s,
            bytes_per_s: rate.bytes_per_s,
            cpu_ns_per_item: rate.cpu_ns,
            pin: rate.pin,
            ratio: rate.ratio,
        }
    }
}

/// Items of the daemon's `bench.count`, read by the blocking Rust client.
#[derive(Debug)]
pub struct BlockingItems {
    client: blocking::Client,
    daemon: Option<u32>,
}

impl BlockingItems {
    /// Measures through `client`, whose daemon has the plugin `bench`. `daemon` is its process, for the processor time.
    #[must_use]
    pub fn new(client: blocking::Client, daemon: Option<u32>) -> Self {
        BlockingItems { client, daemon }
    }
}

impl Carrier for BlockingItems {
    fn system(&self) -> &'static str {
        HOSTED
    }

    fn mode(&self, _: Load) -> &'static str {
        "blocking"
    }

    fn servers(&self) -> Option<Vec<u32>> {
        self.daemon.map(|daemon| vec![daemon])
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
        in_chunks(load.size, amount, |items| {
            let (call, channel) = self.client.call("bench.count").open_channel();
            let call = counting(call, load.size, items, channel.placeholder());
            let running = call.start().map_err(call_failed)?;
            let mut came = 0;
            for item in channel {
                check(item.map_err(call_failed)?.bytes().len(), load.size)?;
                came += 1;
            }
            check_end(&running.wait().map_err(call_failed)?, came, items)
        })
    }
}

/// The same, read by the async Rust client on one thread.
#[derive(Debug)]
pub struct AsyncItems {
    // It ends before what runs its driver.
    client: Client,
    runtime: Runtime,
    daemon: Option<u32>,
}

impl AsyncItems {
    /// Connects by `options` to a daemon that has the plugin `bench`. `daemon` is its process, for the processor time.
    ///
    /// # Errors
    /// Whatever keeps it from connecting.
    pub fn connect(options: Options, daemon: Option<u32>) -> Result<Self, BenchError> {
        let runtime = runtime()?;
        let client = runtime.block_on(Client::connect(options)).map_err(call_failed)?;
        Ok(AsyncItems { client, runtime, daemon })
    }
}

impl Carrier for AsyncItems {
    fn system(&self) -> &'static str {
        HOSTED
    }

    fn mode(&self, _: Load) -> &'static str {
        "async"
    }

    fn servers(&self) -> Option<Vec<u32>> {
        self.daemon.map(|daemon| vec![daemon])
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
        let AsyncItems { client, runtime, .. } = self;
        in_chunks(load.size, amount, |items| {
            runtime.block_on(async {
                let (call, mut channel) = client.call("bench.count").open_channel();
                let call = counting(call, load.size, items, channel.placeholder());
                let running = call.start().await.map_err(call_failed)?;
                let mut came = 0;
                while let Some(item) = channel.next().await {
                    check(item.map_err(call_failed)?.bytes().len(), load.size)?;
                    came += 1;
                }
                check_end(&running.reply().await.map_err(call_failed)?, came, items)
            })
        })
    }
}

fn counting<C: invoked_client::Caller>(call: Call<'_, C>, size: u32, items: u64, to: String) -> Call<'_, C> {
    call.args(&json!({ "items": items, "size": size, "to": to }))
}

fn check(got: usize, expected: u32) -> Result<(), BenchError> {
    if u32::try_from(got) == Ok(expected) {
        return Ok(());
    }
    Err(BenchError::WrongReply { system: HOSTED, got, expected })
}

fn check_end(reply: &Reply, came: u64, items: u64) -> Result<(), BenchError> {
    let told: u64 = reply.json().map_err(call_failed)?;
    if told == items && came == items {
        return Ok(());
    }
    Err(BenchError::WrongItems { system: HOSTED, came, told, expected: items })
}
