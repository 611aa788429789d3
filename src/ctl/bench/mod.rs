//! Round trips and rates, measured beside a floor, in turns and within one run.
//!
//! It owns how times are taken and summed up: what is measured is a [`Subject`] or a [`Carrier`], rounds are interleaved,
//! and only ratios within one run are compared. Used by `invokectl bench`, by the tour and by the package `benches`; no API of the crate.

mod bulk;
mod channels;
pub(super) mod command;
mod cpu;
pub mod floor;
mod hosted;
pub mod placement;
mod rates;
pub(super) mod rates_command;
mod rounds;
mod throughput;

pub use self::bulk::{BatchedFloor, ItemsFloor, Writes};
pub use self::channels::{AsyncItems, BlockingItems, ChannelRow};
pub use self::cpu::of_process as processor_time;
pub use self::floor::Floor;
pub use self::hosted::Hosted;
pub use self::placement::{Pin, Placement};
pub use self::rates::{Carrier, Done, Load, Rate, RatePlan, measure_rates};
pub use self::rounds::{Amount, Plan, Row, measure};
pub use self::throughput::{HostedCalls, ThroughputRow};

/// The bare blocking Unix socket, beside which everything is measured.
pub const UDS: &str = "uds";

/// A bare tokio loop on one thread, serving the same blocking client as [`UDS`].
pub const TOKIO_UDS: &str = "tokio-uds";

/// A command that the daemon itself runs.
pub const HOSTED: &str = "hosted";

/// Something with a round trip: a small request, and a reply of a given size.
pub trait Subject {
    /// Its name in rows.
    fn system(&self) -> &'static str;

    /// How the other end answers with so many bytes, in rows.
    fn mode(&self, size: u32) -> &'static str {
        let _ = size;
        "inline"
    }

    /// Does one round trip whose reply has `size` bytes, and checks that it has.
    ///
    /// # Errors
    /// Whatever keeps it from being done; the measurement ends then.
    fn round_trip(&mut self, size: u32) -> Result<(), BenchError>;
}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A call failed.
    #[error("{0}")]
    Call(Box<invoked_client::Error>),
    /// The reply is not the one that was asked for.
    #[error("{system} answered {got} bytes where {expected} were asked for")]
    WrongReply {
        /// Who answered.
        system: &'static str,
        /// What came.
        got: usize,
        /// What should have come.
        expected: u32,
    },
    /// The items are not those that were asked for.
    #[error("{system} sent {came} items, says {told}, and {expected} were asked for")]
    WrongItems {
        /// Who sent them.
        system: &'static str,
        /// How many came.
        came: u64,
        /// How many the command says it sent.
        told: u64,
        /// How many should have come.
        expected: u64,
    },
    /// There are fewer processors than the measurement wants.
    #[error("{wanted} processors are wanted and {available} may be used")]
    Processors {
        /// How many are wanted.
        wanted: usize,
        /// How many this process may use.
        available: usize,
    },
}

impl BenchError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| BenchError::Io { what, source }
    }
}
