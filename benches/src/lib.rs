//! The bench `latency`: round trips of a call between two processes, beside bare sockets in the same run.
//!
//! It owns what is measured together, the daemon that answers, and the printing. How times are taken and summed up is
//! the business of `invoked::ctl::bench`, which `invokectl bench latency` uses as well; README.md says what is timed.

mod daemon;
mod echo;
mod options;
mod programs;
mod report;
mod run;

pub use options::Options;
pub use run::{Failure, run};
