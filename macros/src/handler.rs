//! `generate_handler!`.

use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Path, PathArguments, Token};

use crate::expand::maker;

/// The paths of commands, each with its `#[cfg(…)]`.
pub(crate) struct Handler(Vec<Entry>);

struct Entry {
    attributes: Vec<Attribute>,
    path: Path,
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        if let Some(other) = attributes.iter().find(|attribute| !attribute.path().is_ident("cfg")) {
            return Err(syn::Error::new_spanned(other, "only `#[cfg(…)]` can stand before a command here"));
        }
        let path: Path = input.parse()?;
        let generic = path.segments.iter().find(|segment| !matches!(segment.arguments, PathArguments::None));
        match generic {
            Some(segment) => Err(syn::Error::new_spanned(&segment.arguments, "a command can't be generic")),
            None => Ok(Entry { attributes, path }),
        }
    }
}

impl Parse for Handler {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let entries: Vec<Entry> =
            Punctuated::<Entry, Token![,]>::parse_terminated(input)?.into_iter().collect();
        // Of two under `#[cfg]` with the same path usually one is left out.
        let mut seen = HashSet::new();
        for entry in entries.iter().filter(|entry| entry.attributes.is_empty()) {
            let path = entry.path.to_token_stream().to_string().replace(' ', "");
            if !seen.insert(path.clone()) {
                return Err(syn::Error::new_spanned(&entry.path, format!("`{path}` stands twice")));
            }
        }
        Ok(Handler(entries))
    }
}

impl Handler {
    /// `InvokeHandler::new(…)` of the commands.
    pub(crate) fn expand(self, root: &Path) -> TokenStream {
        let pushes = self.0.into_iter().map(|Entry { attributes, mut path }| {
            if let Some(last) = path.segments.last_mut() {
                last.ident = maker(&last.ident);
            }
            quote!(#(#attributes)* commands.push(#path());)
        });
        quote! {{
            #[allow(unused_mut)]
            let mut commands: ::std::vec::Vec<#root::ipc::Command> = ::std::vec::Vec::new();
            #(#pushes)*
            #root::ipc::InvokeHandler::new(commands)
        }}
    }
}
