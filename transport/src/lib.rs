//! Sockets, credentials, file descriptors and memory under invoked.
