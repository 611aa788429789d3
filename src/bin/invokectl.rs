//! The tool of whoever operates or tries a daemon.

fn main() {}
