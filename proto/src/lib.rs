//! The wire format of invoked and its per-connection state machine, without I/O.
