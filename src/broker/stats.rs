//! Counters of the broker.

use invoked_proto::registry::ErrorCode;
use serde::Serialize;

/// What has happened since the start, and what is there now.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Stats {
    /// Connections now.
    pub(crate) peers: usize,
    /// Calls now whose handler has not ended.
    pub(crate) calls_in_flight: usize,
    /// Bytes of messages held now.
    pub(crate) message_bytes: u64,
    /// Bytes now that wait for peers to read them.
    pub(crate) unread_bytes: u64,
    /// Channels open now.
    pub(crate) channels: usize,
    /// Bytes now of items that wait for the loop, each counted as 256 at least.
    pub(crate) item_bytes: u64,
    /// Who is told of each call now.
    pub(crate) monitors: usize,
    /// Calls recorded for them since the start; nothing is while there are none.
    pub(crate) calls_recorded: u64,
    /// Bytes now of memory that replies are written to.
    pub(crate) segment_bytes: u64,
    /// Parts of replies that were sent in such memory.
    pub(crate) pooled: u64,
    /// Their bytes.
    pub(crate) pooled_bytes: u64,
    /// Parts that were large enough for it and went inline all the same: there was no memory.
    pub(crate) pool_fallbacks: u64,
    /// Results that were given as open files.
    pub(crate) files: u64,
    /// Interfaces that are provided now.
    pub(crate) providers: usize,
    /// Registrations of such since the start.
    pub(crate) registrations: u64,
    /// Calls handed to providers since the start.
    pub(crate) routed: u64,
    /// Calls that providers went on with long after they were cancelled.
    pub(crate) overdue: u64,
    /// Bytes now of segments and sealed files of clients that are held open.
    pub(crate) memory_file_bytes: u64,
    /// File descriptors of clients now that are held, or wait to be closed.
    pub(crate) received_fds: u64,
    /// Parts of calls and items that were read from memory or files of their callers.
    pub(crate) parts_read: u64,
    /// Their bytes.
    pub(crate) parts_read_bytes: u64,
    /// Connections taken since the start.
    pub(crate) connections: u64,
    /// Connections turned away for a quota.
    pub(crate) connections_refused: u64,
    /// Calls since the start.
    pub(crate) calls: u64,
    /// Calls that ended with a result.
    pub(crate) replies: u64,
    /// Calls that were denied, or named no command.
    pub(crate) denied: u64,
    /// Calls whose caller left, cancelled or passed its deadline.
    pub(crate) abandoned: u64,
    /// Handlers that ended after their call.
    pub(crate) late_completions: u64,
    /// Bytes of messages announced.
    pub(crate) bytes_in: u64,
    /// Bytes of answers.
    pub(crate) bytes_out: u64,
    /// Calls that ended with an error, by its name.
    pub(crate) errors: std::collections::BTreeMap<&'static str, u64>,
}

impl Stats {
    pub(super) fn count_error(&mut self, code: ErrorCode) {
        *self.errors.entry(code.name()).or_default() += 1;
    }
}
