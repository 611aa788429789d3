//! The configuration file, `invoked.toml`.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};

use invoked_proto::registry::{LIMITS, Limit, limits, quotas};
use serde::{Deserialize, Serialize};

use crate::broker::{Bound, Bounds, ProviderBounds};
use crate::error::BuildError;

/// The configuration of a daemon. Every key has a default; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the daemon listens.
    pub listen: Listen,
    /// Where the policy is.
    pub policy: PolicyFiles,
    /// What a uid may hold at once.
    pub quotas: Quotas,
    /// How bodies travel.
    pub lanes: Lanes,
    /// Threads and times.
    pub runtime: Runtime,
    /// `[providers.NAME]`: processes that are started when commands of the plugin NAME are called.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub providers: std::collections::BTreeMap<String, ProviderProcess>,
    /// `[plugins.NAME]`: what plugins of a program's own are configured with.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub plugins: std::collections::BTreeMap<String, serde_json::Value>,
}

/// `[providers.NAME]`: a process that provides a plugin, started at the first call of one of its commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderProcess {
    /// The program and its arguments; no shell reads them. It finds the daemon by `INVOKED_ADDRESS`.
    pub command: Vec<String>,
    /// The user as whom it runs, without supplementary groups; the daemon's own unless it says one, which only root may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How long it may take to register.
    #[serde(default = "start_timeout")]
    pub start_timeout_ms: u64,
    /// After how long without a call it is stopped; 0 is never.
    #[serde(default = "idle_timeout")]
    pub idle_timeout_ms: u64,
}

const fn start_timeout() -> u64 {
    10_000
}

const fn idle_timeout() -> u64 {
    60_000
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// `unix:/path`; absent chooses by uid and environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Who may connect at all; the policy decides the rest.
    pub access: ListenAccess,
}

/// Who may connect: it sets the modes of the socket and its directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAccess {
    /// The daemon's uid (and root): modes 0700 and 0600.
    #[default]
    Owner,
    /// A group, by name or number: modes 0750 and 0660.
    Group(String),
    /// Every uid of the machine: modes 0755 and 0666.
    Everyone,
}

impl TryFrom<String> for ListenAccess {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.strip_prefix("group:")) {
            ("owner", _) => Ok(ListenAccess::Owner),
            ("everyone", _) => Ok(ListenAccess::Everyone),
            (_, Some(group)) if !group.is_empty() => Ok(ListenAccess::Group(group.to_owned())),
            _ => Err(format!("access is \"owner\", \"group:NAME\" or \"everyone\", not {text:?}")),
        }
    }
}

impl From<ListenAccess> for String {
    fn from(access: ListenAccess) -> String {
        match access {
            ListenAccess::Owner => "owner".to_owned(),
            ListenAccess::Group(group) => format!("group:{group}"),
            ListenAccess::Everyone => "everyone".to_owned(),
        }
    }
}

/// `[policy]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyFiles {
    /// Directories of capability files; absent is `capabilities.d` beside the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<PathBuf>>,
    /// Directories of permission files; absent is `permissions.d` there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<PathBuf>>,
    /// Directories of interface files; absent is `interfaces.d` there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<PathBuf>>,
    /// Whether permissions of plugins that aren't here, and windows that no named peer stands for, are warnings that grant
    /// nothing rather than errors.
    pub tauri_compat: bool,
    /// Whether files that change are read again by themselves. Needs the crate's feature `watch`, which the programs have;
    /// a daemon without it reads them when it is told to ([`DaemonHandle::reload`](crate::DaemonHandle::reload)).
    pub watch: bool,
}

impl Default for PolicyFiles {
    fn default() -> Self {
        PolicyFiles {
            capabilities: None,
            permissions: None,
            interfaces: None,
            tauri_compat: false,
            watch: true,
        }
    }
}

/// `[quotas]`: what one uid, and all together, may hold at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Connections in all.
    pub connections: u64,
    /// Connections of one uid.
    pub connections_per_uid: u64,
    /// Connections that have not said who they are, in all; more wait.
    pub handshakes: NonZeroU32,
    /// The same for one uid.
    pub handshakes_per_uid: NonZeroU32,
    /// Calls in flight of one uid.
    pub calls_per_uid: u64,
    /// Calls in flight of one connection.
    pub calls_per_connection: usize,
    /// Bytes of messages held, in all.
    pub reassembly_bytes: u64,
    /// The same for one uid.
    pub reassembly_bytes_per_uid: u64,
    /// Bytes of replies that wait to be read, in all.
    pub reply_bytes: u64,
    /// The same for one uid.
    pub reply_bytes_per_uid: u64,
    /// Cost of channels' items that wait to be sent, in all.
    pub item_bytes: u64,
    /// The same for the peers of one uid.
    pub item_bytes_per_uid: u64,
    /// Memory that peers are written to, in bytes, in all.
    pub segment_bytes: u64,
    /// The same for the peers of one uid.
    pub segment_bytes_per_uid: u64,
    /// File descriptors sent and not confirmed, in all.
    pub unconfirmed_fds: u64,
    /// The same for the peers of one uid.
    pub unconfirmed_fds_per_uid: u64,
    /// Memory of clients that is held open, by its size, in bytes, in all.
    pub memory_file_bytes: u64,
    /// The same for the clients of one uid.
    pub memory_file_bytes_per_uid: u64,
    /// File descriptors of clients that are held, in all.
    pub received_fds: u64,
    /// The same for the clients of one uid.
    pub received_fds_per_uid: u64,
    /// Bytes of one message.
    pub max_message: u64,
    /// Calls in flight at one provider.
    pub calls_per_provider: usize,
    /// Interfaces that one connection provides.
    pub registrations_per_peer: usize,
    /// `core.provide` of one uid within a second.
    pub registrations_per_second: u32,
    /// Commands of one provided interface.
    pub commands_per_interface: usize,
    /// The text of one provided interface, in bytes.
    pub interface_bytes: usize,
    /// Provided interfaces that are known at once.
    pub interfaces: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Quotas {
            connections: quotas::CONNECTIONS,
            connections_per_uid: quotas::CONNECTIONS_PER_UID,
            handshakes: small(quotas::HANDSHAKES),
            handshakes_per_uid: small(quotas::HANDSHAKES_PER_UID),
            calls_per_uid: quotas::CALLS_PER_UID,
            calls_per_connection: limits::OPEN_CALLS,
            reassembly_bytes: quotas::REASSEMBLY_BYTES,
            reassembly_bytes_per_uid: quotas::REASSEMBLY_BYTES_PER_UID,
            reply_bytes: quotas::REPLY_BYTES,
            reply_bytes_per_uid: quotas::REPLY_BYTES_PER_UID,
            item_bytes: quotas::ITEM_BYTES,
            item_bytes_per_uid: quotas::ITEM_BYTES_PER_UID,
            segment_bytes: quotas::SEGMENT_BYTES,
            segment_bytes_per_uid: quotas::SEGMENT_BYTES_PER_UID,
            unconfirmed_fds: quotas::UNCONFIRMED_FDS,
            unconfirmed_fds_per_uid: quotas::UNCONFIRMED_FDS_PER_UID,
            memory_file_bytes: quotas::MEMORY_FILE_BYTES,
            memory_file_bytes_per_uid: quotas::MEMORY_FILE_BYTES_PER_UID,
            received_fds: quotas::RECEIVED_FDS,
            received_fds_per_uid: quotas::RECEIVED_FDS_PER_UID,
            max_message: limits::MAX_MESSAGE as u64,
            calls_per_provider: count(quotas::CALLS_PER_PROVIDER),
            registrations_per_peer: count(quotas::REGISTRATIONS_PER_PEER),
            registrations_per_second: small(quotas::REGISTRATIONS_PER_SECOND).get(),
            commands_per_interface: count(quotas::COMMANDS_PER_INTERFACE),
            interface_bytes: count(quotas::INTERFACE_BYTES),
            interfaces: count(quotas::INTERFACES),
        }
    }
}

/// A constant of the registry as a number of things in memory.
const fn count(value: u64) -> usize {
    small(value).get() as usize
}

/// A constant of the registry as a count that can not be none.
const fn small(value: u64) -> NonZeroU32 {
    assert!(value > 0 && value <= u32::MAX as u64);
    #[allow(clippy::cast_possible_truncation)]
    // checked by the assertion, at compile time for the registry's numbers
    NonZeroU32::new(value as u32).expect("asserted")
}

impl Quotas {
    /// What providers are held to.
    pub(crate) fn provider_bounds(&self) -> ProviderBounds {
        ProviderBounds {
            calls: self.calls_per_provider,
            registrations: self.registrations_per_peer,
            registrations_per_second: self.registrations_per_second,
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            connections: Bound { per_uid: self.connections_per_uid, total: self.connections },
            calls: Bound { per_uid: self.calls_per_uid, total: u64::MAX },
            message_bytes: Bound { per_uid: self.reassembly_bytes_per_uid, total: self.reassembly_bytes },
            reply_bytes: Bound { per_uid: self.reply_bytes_per_uid, total: self.reply_bytes },
            item_bytes: Bound { per_uid: self.item_bytes_per_uid, total: self.item_bytes },
            segment_bytes: Bound { per_uid: self.segment_bytes_per_uid, total: self.segment_bytes },
            fds: Bound { per_uid: self.unconfirmed_fds_per_uid, total: self.unconfirmed_fds },
            memory_files: Bound { per_uid: self.memory_file_bytes_per_uid, total: self.memory_file_bytes },
            received_fds: Bound { per_uid: self.received_fds_per_uid, total: self.received_fds },
        }
    }
}

/// `[lanes]`: how bodies travel to clients that can take them otherwise than in the frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lanes {
    /// Parts of replies of so many bytes and more are written to memory that the caller reads; 0 is never.
    pub pool_from: usize,
    /// Results that are regular files of so many bytes and more are given as they are, open; 0 is never.
    pub file_from: u64,
    /// Memory that is shared with a client and was not used for so many milliseconds is given back, after twice as many at the
    /// latest; 0 is never.
    pub trim_after_ms: u64,
}

impl Lanes {
    /// From which size on what goes where.
    pub(crate) fn sizes(&self) -> crate::ipc::Lanes {
        crate::ipc::Lanes {
            pool_from: Some(self.pool_from).filter(|from| *from > 0),
            file_from: Some(self.file_from).filter(|from| *from > 0),
        }
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes { pool_from: limits::POOL_FROM, file_from: limits::FILE_FROM as u64, trim_after_ms: 30_000 }
    }
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Threads for blocking handlers, started when needed.
    pub pool_threads: NonZeroU16,
    /// Blocking calls that wait for a thread; one more is answered `resource_exhausted`.
    pub pool_queue: NonZeroU16,
    /// Threads for `async` handlers.
    pub workers: NonZeroU16,
    /// Deadline of a call that names none, in milliseconds.
    pub default_deadline_ms: u64,
    /// The longest deadline of a call, in milliseconds; a longer one, and none, is cut to it.
    pub max_deadline_ms: u64,
    /// How long a peer may leave bytes unread, in milliseconds.
    pub slow_consumer_timeout_ms: u64,
    /// How long a handshake may take, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// How long a frame may take from its first byte to its last, in milliseconds.
    pub frame_timeout_ms: u64,
    /// How long calls may go on after the daemon was told to stop, in milliseconds.
    pub drain_timeout_ms: u64,
    /// How long the next call of a peer that calls alone is looked for before it is waited for, in microseconds, at most
    /// 1000; 0 is never.
    pub busy_poll_us: u16,
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime {
            pool_threads: const { NonZeroU16::new(16).unwrap() },
            pool_queue: const { NonZeroU16::new(1024).unwrap() },
            workers: const { NonZeroU16::new(2).unwrap() },
            default_deadline_ms: limits::DEFAULT_DEADLINE_MS,
            max_deadline_ms: 3_600_000,
            slow_consumer_timeout_ms: limits::SLOW_CONSUMER_TIMEOUT_MS,
            handshake_timeout_ms: limits::HANDSHAKE_TIMEOUT_MS,
            frame_timeout_ms: limits::FRAME_TIMEOUT_MS,
            drain_timeout_ms: 10_000,
            busy_poll_us: 50,
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`BuildError::Io`] if it can't be read; [`BuildError::Config`] with line and column if it is not sound.
    pub fn read(path: &Path) -> Result<Self, BuildError> {
        let text = std::fs::read_to_string(path).map_err(BuildError::io(path.display().to_string()))?;
        Self::parse(&text, path)
    }

    /// Reads the text of a configuration file; `path` is for messages.
    ///
    /// # Errors
    /// [`BuildError::Config`] with line and column.
    pub fn parse(text: &str, path: &Path) -> Result<Self, BuildError> {
        toml::from_str(text).map_err(|error| {
            let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
            BuildError::Config {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
                message: error.message().to_owned(),
            }
        })
    }

    /// The limits of the wire with the values that this configuration puts in force.
    pub(crate) fn limits_in_force(&self) -> impl Iterator<Item = (&'static Limit, u64)> {
        LIMITS.iter().map(|limit| {
            let value = match limit.name {
                "max_message" => self.quotas.max_message,
                "open_calls" => self.quotas.calls_per_connection as u64,
                "default_deadline_ms" => self.runtime.default_deadline_ms,
                "handshake_timeout_ms" => self.runtime.handshake_timeout_ms,
                "frame_timeout_ms" => self.runtime.frame_timeout_ms,
                "slow_consumer_timeout_ms" => self.runtime.slow_consumer_timeout_ms,
                "pool_from" => self.lanes.pool_from as u64,
                "file_from" => self.lanes.file_from,
                _ => limit.value,
            };
            (limit, value)
        })
    }

    /// What is in force, by the names of the registry, and bounds what capabilities may set.
    pub(crate) fn ceilings(&self) -> Vec<(&'static str, u64)> {
        let of = &self.quotas;
        let quotas = [
            ("connections", of.connections),
            ("calls_per_uid", of.calls_per_uid),
            ("reassembly_bytes", of.reassembly_bytes),
            ("reply_bytes", of.reply_bytes),
            ("segment_bytes", of.segment_bytes),
            ("unconfirmed_fds", of.unconfirmed_fds),
            ("memory_file_bytes", of.memory_file_bytes),
            ("received_fds", of.received_fds),
        ];
        self.limits_in_force().map(|(limit, value)| (limit.name, value)).chain(quotas).collect()
    }

    /// The file that gives every default, as `--print-default-config` prints it.
    #[must_use]
    pub fn default_text() -> String {
        toml::to_string(&Config::default()).expect("the default configuration is plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_text_is_the_default() {
        let text = Config::default_text();
        assert_eq!(Config::parse(&text, Path::new("x")).unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let error =
            Config::parse("[listen]\naccess = \"owner\"\nacces = 1\n", Path::new("a.toml")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("a.toml:3:1: unknown field `acces`"), "{text}");
    }

    #[test]
    fn a_count_that_would_let_nobody_in_is_refused() {
        let error = Config::parse("[quotas]\nhandshakes = 0\n", Path::new("a.toml")).unwrap_err();
        assert!(error.to_string().starts_with("a.toml:2:14:"), "{error}");
        assert!(Config::parse("[runtime]\npool_queue = 1000000\n", Path::new("a.toml")).is_err());
    }

    #[test]
    fn limits_in_force_are_those_configured() {
        let config = Config::parse("[quotas]\nmax_message = 7\n", Path::new("a.toml")).unwrap();
        let value =
            |name| config.limits_in_force().find(|(limit, _)| limit.name == name).map(|(_, value)| value);
        assert_eq!((value("max_message"), value("open_calls")), (Some(7), Some(1024)));
    }

    #[test]
    fn access_is_one_of_three() {
        let error = Config::parse("[listen]\naccess = \"all\"\n", Path::new("a.toml")).unwrap_err();
        assert!(error.to_string().contains("\"group:NAME\""), "{error}");
    }
}
