//! Latency and throughput of invoked beside the bare socket.
