//! The daemon as a real process: its main job, who may do what, hostile peers, two at one address, the cost of a call,
//! handlers that fail, and how it stops.
//!
//! After each hostile case the same five things must hold (`watch.rs`): it is the same process, a well-behaved peer was
//! answered all along, descriptors, calls and bytes are back where they were, memory is within a few MiB, and the log
//! has a line with uid and code.
#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

mod access;
mod allowances;
mod attachments;
mod bad_input;
mod channels;
mod child;
mod ends;
mod files;
mod floods;
mod handlers;
mod harness;
mod hostile_files;
mod hostile_memory;
mod killed;
mod lanes;
mod loading;
mod memory;
mod narrowing;
mod peer;
mod policies;
mod processes;
mod providers;
mod racing_files;
mod reading;
mod runtime;
mod scripted;
mod silence;
mod starting;
mod steady;
mod stopping;
mod watch;
mod watching;

/// What this binary does when it was started again as a child; by itself there is nothing to test.
#[test]
fn child_process() {
    if !child::play() {
        assert!(std::env::var_os(child::ROLE).is_none(), "a child has a role");
    }
}
