//! Call and provide commands of invoked from Rust, async and blocking.
