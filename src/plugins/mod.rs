//! The plugins that every daemon can have.

pub mod bench;
pub mod core;
pub mod fs;
