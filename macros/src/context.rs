//! `generate_context!`.

use std::path::PathBuf;

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::{LitStr, Path};

/// The path of a `tauri.conf.json`, if one is named.
pub(crate) struct ContextInput(Option<LitStr>);

impl Parse for ContextInput {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Ok(ContextInput(if input.is_empty() { None } else { Some(input.parse()?) }))
    }
}

impl ContextInput {
    /// `Context::of_package(…)`, with the text of the `tauri.conf.json` beside the manifest, if there is one.
    pub(crate) fn expand(self, root: &Path) -> TokenStream {
        let directory = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
        let named = self.0.as_ref().map(|path| directory.join(path.value()));
        let path = named.unwrap_or_else(|| directory.join("tauri.conf.json"));
        let text = match (path.to_str(), self.0.is_some() || path.exists()) {
            (Some(path), true) => quote!(::core::option::Option::Some(::core::include_str!(#path))),
            _ => quote!(::core::option::Option::None),
        };
        quote! {
            #root::Context::of_package(
                ::core::env!("CARGO_PKG_NAME"), ::core::env!("CARGO_PKG_VERSION"), #text,
            )
        }
    }
}
