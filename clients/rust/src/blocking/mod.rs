//! The client for threads: no runtime, and no thread of its own but for a [`Receiver`].

mod items;
mod link;
mod receiver;
mod sender;

use std::time::{Duration, Instant};

use invoked_proto::registry::{Direction, Overflow};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::items::{Items, Subscription};
use self::link::Link;
pub use self::receiver::Receiver;
pub use self::sender::ItemSender;
use crate::core::StreamId;
use crate::dial::ConnectionInfo;
use crate::error::Error;
use crate::options::{Options, Reconnect};
use crate::reply::Reply;
use crate::request::{Call, Caller, Channels, Prepared, placeholder, sealed};
use crate::sync::{Arc, Mutex, PoisonError};

/// A connection to a daemon, for any number of threads.
///
/// The thread that waits for an answer reads the socket itself, so a call costs one `sendmsg` and one `recvmsg` and no
/// change of thread. Nothing is read while nobody waits. Clones share the connection.
///
/// ```no_run
/// use std::time::Duration;
/// use invoked_client::{Options, blocking::Client};
///
/// let client = Client::connect(Options::new())?;
/// let picture = std::fs::read("in.png")?;
/// let reply = client.call("thumbs.resize").arg("width", 200).attach(picture).timeout(Duration::from_secs(2)).send()?;
/// std::fs::write("out.png", reply.into_bytes())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
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
    /// Held while connecting anew, so that threads which find the same loss make one connection.
    renewing: Mutex<()>,
}

impl Client {
    /// Connects, and waits until the daemon has taken the connection.
    ///
    /// # Errors
    /// `unavailable` if nobody answers at the address, or not whom the options trust: the message names the address, why it
    /// was chosen, and what is there. The daemon's own code if it turns the client away.
    pub fn connect(options: Options) -> Result<Self, Error> {
        let link = Link::connect(&options, 1)?;
        let link = Mutex::new(Arc::new(link));
        Ok(Client { inner: Arc::new(Inner { options, link, renewing: Mutex::new(()) }) })
    }

    /// Begins a call of `fs.read_file`, say, which may be written as Tauri's front end does, `plugin:fs|read_file`;
    /// [`Call::send`] sends it.
    pub fn call(&self, command: &str) -> Call<'_, Self> {
        Call::new(self, command)
    }

    /// Calls `command` with `args` as JSON and reads its JSON result.
    ///
    /// # Errors
    /// As [`Call::send`] and [`Reply::json`].
    pub fn invoke<R: DeserializeOwned>(
        &self,
        command: &str,
        args: &(impl Serialize + ?Sized),
    ) -> Result<R, Error> {
        self.call(command).args(args).send()?.json()
    }

    /// Whether new calls can be made on the connection, as far as its socket shows without waiting. It may be lost the
    /// moment after.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link().is_usable()
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
    /// one end there.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); the old connection stays in use then.
    pub fn reconnect(&self) -> Result<(), Error> {
        let old = self.link();
        self.renew(&old).map(drop)
    }

    /// Asks the daemon whether it is there (`core.ping`), and says how long the answer took.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub fn ping(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        self.call("core.ping").idempotent().send()?;
        Ok(start.elapsed())
    }

    /// Asks the daemon who it takes this process for (`core.whoami`).
    ///
    /// # Errors
    /// As [`Call::send`] and [`Reply::json`].
    pub fn whoami(&self) -> Result<serde_json::Value, Error> {
        self.call("core.whoami").idempotent().send()?.json()
    }

    fn dispatch(&self, call: Prepared, channels: Channels<Link>) -> Result<Reply, Error> {
        let link = self.link_for_a_call()?;
        let resend = self.inner.options.reconnect == Reconnect::AutomaticResend && !call.has_channels();
        let again = resend.then(|| call.clone());
        match (link.call(call, channels), again) {
            (Err(error), Some(again)) if again.may_follow(&error) => {
                self.renew(&link)?.call(again, Vec::new())
            }
            (outcome, _) => outcome,
        }
    }

    fn link_for_a_call(&self) -> Result<Arc<Link>, Error> {
        let link = self.link();
        if self.inner.options.reconnect != Reconnect::Explicit && !link.is_open() {
            return self.renew(&link);
        }
        Ok(link)
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.inner.link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces `old`, unless somebody has just done so.
    fn renew(&self, old: &Arc<Link>) -> Result<Arc<Link>, Error> {
        let _turn = self.inner.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.link();
        if !Arc::ptr_eq(&current, old) {
            return Ok(current);
        }
        let new = Arc::new(Link::connect(&self.inner.options, old.info().generation + 1)?);
        *self.inner.link.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(new)
    }
}

impl sealed::Sealed for Client {}

impl Caller for Client {
    type Link = Link;
}

/// Credit of a channel at its start. Less than a socket holds: while no thread waits, a channel that nobody takes from
/// leaves room for answers.
const WINDOW: u64 = 64 * 1024;

/// A call that is sent. Dropping it cancels the call, if it has not ended.
#[derive(Debug)]
#[must_use = "dropping it cancels the call"]
pub struct Running {
    link: Arc<Link>,
    stream: Option<StreamId>,
    deadline: Option<Instant>,
}

/// Cancels a call from another thread than the one that waits for its end.
#[derive(Debug, Clone)]
pub struct Canceller {
    link: Arc<Link>,
    stream: StreamId,
}

impl Canceller {
    /// Asks the daemon to cancel the call, without waiting for its answer. [`Running::wait`] then ends with `cancelled`, or with the result
    /// if that came first. Where the call has ended, the channels that it left open are stopped, and end with
    /// `cancelled` too. What came before is still there to be taken. Asking again changes nothing.
    pub fn cancel(&self) {
        self.link.ask_to_cancel(self.stream);
    }
}

impl Running {
    /// What another thread can cancel the call with, while this one waits for its end.
    ///
    /// ```no_run
    /// use invoked_client::{Options, blocking::Client};
    ///
    /// let client = Client::connect(Options::new())?;
    /// let running = client.call("index.build").start()?;
    /// let canceller = running.canceller();
    /// std::thread::spawn(move || {
    ///     // Enter is enough.
    ///     std::io::stdin().read_line(&mut String::new()).ok();
    ///     canceller.cancel();
    /// });
    /// match running.wait() {
    ///     Err(error) if error.is_cancelled() => println!("given up"),
    ///     outcome => println!("{} bytes", outcome?.bytes().len()),
    /// }
    /// # Ok::<(), invoked_client::Error>(())
    /// ```
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        let Some(stream) = self.stream else { unreachable!("it is taken by what ends this") };
        Canceller { link: Arc::clone(&self.link), stream }
    }

    /// Waits for the result. Channels of the call may go on after it.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub fn wait(mut self) -> Result<Reply, Error> {
        let Some(stream) = self.stream.take() else { unreachable!("it is taken here only") };
        self.link.finish(stream, self.deadline)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.link.cancel(stream);
        }
    }
}

impl Call<'_, Client> {
    /// Opens a channel on which the command sends, and names it in the argument `name`.
    ///
    /// Take the items while the call runs: with [`start`](Self::start), or in another thread. A command that sends more
    /// than the channel's credit waits until items are taken.
    ///
    /// ```no_run
    /// use invoked_client::{Options, blocking::Client};
    ///
    /// let client = Client::connect(Options::new())?;
    /// let (call, lines) = client.call("log.follow").arg("unit", "sshd").channel("onLine");
    /// let call = call.start()?;
    /// for line in lines {
    ///     println!("{}", line?.json::<String>()?);
    /// }
    /// call.wait()?;
    /// # Ok::<(), invoked_client::Error>(())
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
    /// use invoked_client::{Options, Overflow, Update, blocking::Client};
    ///
    /// let client = Client::connect(Options::new())?;
    /// let (call, loads) = client.call("machine.load").subscribe("onLoad", Overflow::Latest);
    /// let call = call.start()?;
    /// for update in loads {
    ///     match update? {
    ///         Update::Item(load) => println!("{}", load.json::<f64>()?),
    ///         Update::Lagged(count) => println!("{count} were left out"),
    ///     }
    /// }
    /// call.wait()?;
    /// # Ok::<(), invoked_client::Error>(())
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
    /// use invoked_client::{Options, blocking::Client};
    ///
    /// let client = Client::connect(Options::new())?;
    /// let (call, mut numbers) = client.call("numbers.sum").channel_to("numbers");
    /// let call = call.start()?;
    /// for number in 1..=1000 {
    ///     numbers.send(&number)?;
    /// }
    /// numbers.close();
    /// let sum: u64 = call.wait()?.json()?;
    /// # Ok::<(), invoked_client::Error>(())
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

    /// Sends the call, and does not wait for its end.
    ///
    /// # Errors
    /// As [`send`](Self::send), for a call that can't be sent.
    pub fn start(self) -> Result<Running, Error> {
        let client = self.client;
        let (call, channels) = self.prepare(client.inner.options.timeout)?;
        let deadline = call.deadline;
        let link = client.link_for_a_call()?;
        let stream = link.start(call, channels)?;
        Ok(Running { link, stream: Some(stream), deadline })
    }

    /// Sends the call and waits for its result.
    ///
    /// Any number of threads may do so at once. A call beyond what the daemon allows to be open waits for another to end.
    /// At the deadline the daemon is told to cancel.
    ///
    /// # Errors
    /// What the daemon or the command answered; `deadline_exceeded`; `unavailable` if the connection was lost;
    /// `invalid_argument` or `too_large` if the call can't be sent. [`Error::delivery`] says whether the command may have
    /// run.
    pub fn send(self) -> Result<Reply, Error> {
        let client = self.client;
        let (call, channels) = self.prepare(client.inner.options.timeout)?;
        client.dispatch(call, channels)
    }
}
