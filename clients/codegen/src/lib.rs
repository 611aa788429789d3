//! Generates what the project has in more than one language from the files that say it once.
//!
//! Owns reading `proto/registry.toml` and writing the constants of each language and the tables of `proto/SPEC.md`.
//! Must not depend on the daemon or on the crates it generates for: a broken generated file would then keep the
//! generator from building.

pub mod registry;
