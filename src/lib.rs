//! invoked
