//! The attribute and handler macros of invoked.
