//! Generates the constants, tables and clients of invoked from its registry and manifests.
