//! The path under which the expansion reaches the crate invoked.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::Span;
use syn::{Ident, Path, parse_quote};

/// The name that the manifest of the crate being built gives to the package `invoked`, as a path.
///
/// Within the package itself this is `::invoked`, which the library makes true by `extern crate self as invoked`. It
/// is also the fallback where there is no manifest or the package stands in none of its tables; `root = "…"` is for
/// crates that reach invoked only through another crate.
pub(crate) fn find() -> Path {
    let name = match crate_name("invoked") {
        Ok(FoundCrate::Name(name)) => name,
        Ok(FoundCrate::Itself) | Err(_) => "invoked".to_owned(),
    };
    let name = Ident::new(&name, Span::call_site());
    parse_quote!(::#name)
}
