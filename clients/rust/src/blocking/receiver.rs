//! Items of a channel as a receiver that a thread can wait on together with others.
//!
//! The only thread that the blocking client ever makes is here: someone has to read the socket while the program waits for
//! something else too.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;

use super::items::{Items, Subscription};
use super::link::Link;
use crate::channel::{Farewell, Item, Slot, Update};
use crate::error::Error;

/// What comes on a channel, for [`crossbeam_channel::select!`]: it stands for a [`crossbeam_channel::Receiver`] of results.
///
/// A thread of its own takes the items as [`Items`] does, and waits while `capacity` of them were not received, so that the
/// credit of the channel holds the command back as ever. The receiver is disconnected after the last item, or after the error
/// with which the channel ended. Dropping it asks the command to stop; the thread ends with the channel, a few seconds later
/// at most.
///
/// ```no_run
/// use std::time::Duration;
/// use crossbeam_channel::{after, select};
/// use invoked_client::{Options, blocking::Client};
///
/// let client = Client::connect(Options::new())?;
/// let (call, lines) = client.call("log.follow").arg("unit", "sshd").channel("onLine");
/// let call = call.start()?;
/// let (lines, enough) = (lines.into_receiver(16)?, after(Duration::from_secs(60)));
/// loop {
///     select! {
///         recv(lines) -> line => match line {
///             Ok(line) => println!("{}", line?.json::<String>()?),
///             Err(_) => break,
///         },
///         recv(enough) -> _ => break,
///     }
/// }
/// # drop(call);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it asks the command to stop sending"]
pub struct Receiver<T> {
    receiver: crossbeam_channel::Receiver<Result<T, Error>>,
    slot: Arc<Slot<Link>>,
}

impl<T: Send + 'static> Receiver<T> {
    fn pump(
        items: impl Iterator<Item = Result<T, Error>> + Send + 'static,
        slot: Arc<Slot<Link>>,
        capacity: usize,
    ) -> io::Result<Self> {
        let (sender, receiver) = bounded(capacity);
        let pump = move || {
            for next in items {
                if sender.send(next).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("invoked-items".to_owned()).spawn(pump)?;
        Ok(Receiver { receiver, slot })
    }
}

impl<T> Deref for Receiver<T> {
    type Target = crossbeam_channel::Receiver<Result<T, Error>>;

    fn deref(&self) -> &Self::Target {
        &self.receiver
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // The thread may wait for an item for long.
        if let Some((link, key, farewell)) = self.slot.leave(Farewell::Stop) {
            link.say(key, farewell);
        }
    }
}

impl Items {
    /// Hands the items to a receiver that can be waited on together with others, `capacity` of them ahead.
    ///
    /// # Errors
    /// Of starting a thread.
    pub fn into_receiver(self, capacity: usize) -> io::Result<Receiver<Item>> {
        let slot = self.slot();
        Receiver::pump(self, slot, capacity)
    }
}

impl Subscription {
    /// As [`Items::into_receiver`]. What waits there is not left out any more, so a small `capacity` keeps news new.
    ///
    /// # Errors
    /// Of starting a thread.
    pub fn into_receiver(self, capacity: usize) -> io::Result<Receiver<Update>> {
        let slot = self.slot();
        Receiver::pump(self, slot, capacity)
    }
}
