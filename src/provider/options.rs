//! How a provider connects, and what it does when it can't.

use std::time::Duration;

use invoked_transport::{Address, AddressOptions, AppName, CONNECT_TIMEOUT, Server};

/// The pauses between tries to reach the daemon: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where a provider connects to, and how.
///
/// ```
/// use invoked::provider::{ProvideOptions, Reconnect};
///
/// let options = ProvideOptions::new().take_over().reconnect(Reconnect::default());
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ProvideOptions {
    pub(super) address: AddressOptions,
    pub(super) server: Server,
    pub(super) connect_timeout: Duration,
    pub(super) take_over: bool,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) plugins: Option<Vec<String>>,
}

/// The pauses between tries to reach a daemon that went away; each is twice the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// The first.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Default for Reconnect {
    /// From 100 ms to 10 s.
    fn default() -> Self {
        Reconnect { first: FIRST_PAUSE, longest: LONGEST_PAUSE }
    }
}

impl Reconnect {
    /// The pause after `tries` that failed.
    pub(super) fn pause(self, tries: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(tries.min(31)).unwrap_or(u32::MAX)).min(self.longest)
    }
}

impl Default for ProvideOptions {
    fn default() -> Self {
        ProvideOptions {
            address: AddressOptions::default(),
            server: Server::default(),
            connect_timeout: CONNECT_TIMEOUT,
            take_over: false,
            reconnect: None,
            plugins: None,
        }
    }
}

impl ProvideOptions {
    /// The defaults: the address that a client of this process would choose, all plugins, nobody is put out of a name, and it
    /// ends with the connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects to this address and no other.
    pub fn address(mut self, address: Address) -> Self {
        self.address.explicit = Some(address);
        self
    }

    /// Connects to the daemon of this application.
    pub fn app(mut self, app: AppName) -> Self {
        self.address.app = Some(app);
        self
    }

    /// Says by which rules the address is chosen: `--system`, `--user`, `--app`.
    pub fn address_options(mut self, address: AddressOptions) -> Self {
        self.address = address;
        self
    }

    /// Whom to accept as the daemon; whoever that is says who calls.
    pub fn server(mut self, server: Server) -> Self {
        self.server = server;
        self
    }

    /// How long connecting may take while the daemon is slow to accept, and how long it may take to answer.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Takes the names over from another provider that serves them, if this one may provide them. Its open calls end first.
    pub fn take_over(mut self) -> Self {
        self.take_over = true;
        self
    }

    /// Connects and registers again when the daemon went away, after a pause that grows. The first connection is tried once.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = Some(reconnect);
        self
    }

    /// Provides only these plugins of the builder's.
    pub fn plugins<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.plugins = Some(names.into_iter().map(Into::into).collect());
        self
    }
}

impl From<Address> for ProvideOptions {
    fn from(address: Address) -> Self {
        ProvideOptions::new().address(address)
    }
}

impl From<AddressOptions> for ProvideOptions {
    fn from(address: AddressOptions) -> Self {
        ProvideOptions::new().address_options(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let reconnect = Reconnect { first: Duration::from_millis(10), longest: Duration::from_millis(50) };
        let pauses: Vec<_> = (0..5).map(|tries| reconnect.pause(tries).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 50, 50]);
        assert_eq!(reconnect.pause(u32::MAX), reconnect.longest);
    }
}
