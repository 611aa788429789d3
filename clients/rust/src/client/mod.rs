//! The client for tokio.

mod items;
mod link;
mod sender;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use invoked_proto::registry::{Direction, Overflow, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

pub use self::items::{Items, Subscription};
use self::link::{Flight, Link};
pub use self::sender::ItemSender;
use crate::dial::ConnectionInfo;
use crate::error::Error;
use crate::options::{Options, Reconnect};
use crate::reply::Reply;
use crate::request::{Call, Caller, Channels, Prepared, placeholder, sealed};

/// A connection to a daemon, for any number of tasks.
///
/// It belongs to the tokio runtime that it connects in, which must have I/O and time enabled; it may be called from others.
/// A call is written by the task that makes it. One task per connection reads the answers; it ends with the last clone of the
/// client. Clones share the connection.
///
/// ```no_run
/// use std::time::Duration;
/// use invoked_client::{Client, Options};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(Options::new()).await?;
/// let picture = std::fs::read("in.png")?;
/// let resize = client.call("thumbs.resize").arg("width", 200).attach(picture).timeout(Duration::from_secs(2));
/// std::fs::write("out.png", resize.send().await?.into_bytes())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    /// The connection that new calls use; earlier ones live as long as calls on them.
    link: Mutex<Arc<Link>>,
    /// One permit: whose turn it is to connect anew, so that tasks which find the same loss make one connection.
    renewing: Semaphore,
}

impl Client {
    /// Connects, and waits until the daemon has taken the connection. Cancel safe.
    ///
    /// # Errors
    /// `unavailable` if nobody answers at the address, or not whom the options trust: the message names the address, why it
    /// was chosen, and what is there. The daemon's own code if it turns the client away.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let link = Link::connect(&options, 1).await?;
        let link = Mutex::new(Arc::new(link));
        Ok(Client { inner: Arc::new(Inner { options, link, renewing: Semaphore::new(1) }) })
    }

    /// Begins a call of `fs.read_file`, say, which may be written as Tauri's front end does, `plugin:fs|read_file`;
    /// [`Call::send`] sends it.
    pub fn call(&self, command: &str) -> Call<'_, Self> {
        Call::new(self, command)
    }

    /// Calls `command` with `args` as JSON and reads its JSON result. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`Call::send`] and [`Reply::json`].
    pub async fn invoke<R: DeserializeOwned>(
        &self,
        command: &str,
        args: &(impl Serialize + ?Sized),
    ) -> Result<R, Error> {
        self.call(command).args(args).send().await?.json()
    }

    /// Whether new calls can be made on the connection, as far as is known. It may be lost the moment after.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link().is_open()
    }

    /// What is known of the connection.
    #[must_use]
    pub fn info(&self) -> ConnectionInfo {
        self.link().info().clone()
    }

    /// Which connection of this client's is in use: 1 at first, one more after each reconnect.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.link().info().generation
    }

    /// A number that changes with each start of the daemon: if it changed, what the daemon held for this client is gone.
    #[must_use]
    pub fn daemon_instance(&self) -> u64 {
        self.link().info().daemon_instance
    }

    /// Makes a new connection for the calls from here on, whatever the state of the old one. Calls that are open on the old
    /// one end there. Cancel safe: the old connection stays in use then.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); the old connection stays in use then.
    pub async fn reconnect(&self) -> Result<(), Error> {
        let old = self.link();
        self.renew(&old).await.map(drop)
    }

    /// Asks the daemon whether it is there (`core.ping`), and says how long the answer took. Cancel safe.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        self.call("core.ping").idempotent().send().await?;
        Ok(start.elapsed())
    }

    /// Asks the daemon who it takes this process for (`core.whoami`). Cancel safe.
    ///
    /// # Errors
    /// As [`Call::send`] and [`Reply::json`].
    pub async fn whoami(&self) -> Result<serde_json::Value, Error> {
        self.call("core.whoami").idempotent().send().await?.json()
    }

    async fn dispatch(&self, call: Prepared, channels: Channels<Link>) -> Result<Reply, Error> {
        let link = self.link_for_a_call().await?;
        let resend = self.inner.options.reconnect == Reconnect::AutomaticResend && !call.has_channels();
        let again = resend.then(|| call.clone());
        match (link.call(call, channels).await, again) {
            (Err(error), Some(again)) if again.may_follow(&error) => {
                self.renew(&link).await?.call(again, Vec::new()).await
            }
            (outcome, _) => outcome,
        }
    }

    async fn link_for_a_call(&self) -> Result<Arc<Link>, Error> {
        let link = self.link();
        if self.inner.options.reconnect != Reconnect::Explicit && !link.is_open() {
            return self.renew(&link).await;
        }
        Ok(link)
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.inner.link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces `old`, unless somebody has just done so.
    async fn renew(&self, old: &Arc<Link>) -> Result<Arc<Link>, Error> {
        // Nobody closes the semaphore, and without a permit there would only be one connection more.
        let _turn = self.inner.renewing.acquire().await;
        let current = self.link();
        if !Arc::ptr_eq(&current, old) {
            return Ok(current);
        }
        let new = Arc::new(Link::connect(&self.inner.options, old.info().generation + 1).await?);
        *self.inner.link.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(new)
    }
}

impl sealed::Sealed for Client {}

impl Caller for Client {
    type Link = Link;
}

/// Credit of a channel at its start.
const WINDOW: u64 = limits::CHANNEL_WINDOW as u64;

/// A call that is sent. Dropping it cancels the call, if it has not ended.
#[derive(Debug)]
#[must_use = "dropping it cancels the call"]
pub struct Running {
    flight: Flight,
}

impl Running {
    /// Waits for the result. Channels of the call may go on after it. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub async fn reply(mut self) -> Result<Reply, Error> {
        self.flight.finish().await
    }
}

impl Call<'_, Client> {
    /// Opens a channel on which the command sends, and names it in the argument `name`.
    ///
    /// Take the items while the call runs: with [`start`](Self::start), or in another task. A command that sends more
    /// than the channel's credit waits until items are taken.
    ///
    /// ```no_run
    /// # async fn example(client: invoked_client::Client) -> Result<(), invoked_client::Error> {
    /// let (call, mut lines) = client.call("log.follow").arg("unit", "sshd").channel("onLine");
    /// let call = call.start().await?;
    /// while let Some(line) = lines.next().await {
    ///     println!("{}", line?.json::<String>()?);
    /// }
    /// call.reply().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn channel(mut self, name: &str) -> (Self, Items) {
        let (index, slot) = self.declare(Direction::Down, WINDOW);
        (self.arg(name, placeholder(index)), Items::new(index, slot))
    }

    /// Opens a channel that stands in a body written by hand, as [`Items::placeholder`].
    pub fn open_channel(mut self) -> (Self, Items) {
        let (index, slot) = self.declare(Direction::Down, WINDOW);
        (self, Items::new(index, slot))
    }

    /// Opens a channel that leaves items out where the command sends faster than they are taken, as `overflow` says, and
    /// names it in the argument `name`. The command never waits for this reader.
    ///
    /// ```no_run
    /// use invoked_client::{Overflow, Update};
    ///
    /// # async fn example(client: invoked_client::Client) -> Result<(), invoked_client::Error> {
    /// let (call, mut loads) = client.call("machine.load").subscribe("onLoad", Overflow::Latest);
    /// let call = call.start().await?;
    /// while let Some(update) = loads.next().await {
    ///     match update? {
    ///         Update::Item(load) => println!("{}", load.json::<f64>()?),
    ///         Update::Lagged(count) => println!("{count} were left out"),
    ///     }
    /// }
    /// call.reply().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(mut self, name: &str, overflow: Overflow) -> (Self, Subscription) {
        let (index, slot) = self.declare_lossy(overflow, WINDOW);
        (self.arg(name, placeholder(index)), Subscription::new(index, slot))
    }

    /// The same for a channel that stands in a body written by hand, as [`Subscription::placeholder`].
    pub fn open_subscription(mut self, overflow: Overflow) -> (Self, Subscription) {
        let (index, slot) = self.declare_lossy(overflow, WINDOW);
        (self, Subscription::new(index, slot))
    }

    /// Opens a channel on which the command reads, and names it in the argument `name`.
    ///
    /// ```no_run
    /// # async fn example(client: invoked_client::Client) -> Result<(), invoked_client::Error> {
    /// let (call, mut numbers) = client.call("numbers.sum").channel_to("numbers");
    /// let call = call.start().await?;
    /// for number in 1..=1000 {
    ///     numbers.send(&number).await?;
    /// }
    /// numbers.close();
    /// let sum: u64 = call.reply().await?.json()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn channel_to(mut self, name: &str) -> (Self, ItemSender) {
        let (index, slot) = self.declare(Direction::Up, 0);
        (self.arg(name, placeholder(index)), ItemSender::new(index, slot))
    }

    /// The same for a channel that stands in a body written by hand, as [`ItemSender::placeholder`].
    pub fn open_channel_to(mut self) -> (Self, ItemSender) {
        let (index, slot) = self.declare(Direction::Up, 0);
        (self, ItemSender::new(index, slot))
    }

    /// Sends the call, and does not wait for its end. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`send`](Self::send), for a call that can't be sent.
    pub async fn start(self) -> Result<Running, Error> {
        let client = self.client;
        let (call, channels) = self.prepare(client.inner.options.timeout)?;
        let flight = client.link_for_a_call().await?.start(call, channels).await?;
        Ok(Running { flight })
    }

    /// Sends the call and waits for its result.
    ///
    /// Any number of tasks may do so at once. A call beyond what the daemon allows to be open waits for another to end.
    /// At the deadline the daemon is told to cancel.
    ///
    /// Dropping the future cancels the call: the daemon is told without waiting, and the command may have run. In that sense
    /// it is cancel safe: nothing of the connection is lost with it.
    ///
    /// # Errors
    /// What the daemon or the command answered; `deadline_exceeded`; `unavailable` if the connection was lost;
    /// `invalid_argument` or `too_large` if the call can't be sent. [`Error::delivery`] says whether the command may have
    /// run.
    pub async fn send(self) -> Result<Reply, Error> {
        let client = self.client;
        let (call, channels) = self.prepare(client.inner.options.timeout)?;
        client.dispatch(call, channels).await
    }
}
