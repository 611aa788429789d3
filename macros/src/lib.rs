//! The attribute and handler macros of invoked.
//!
//! The crate turns functions into commands: it reads signatures and writes calls into `invoked::ipc`. It knows nothing
//! of what the types in a signature are, only how they are spelled; the traits of `invoked::ipc` decide what they mean.
//! The macros are documented, with examples that are tested, where the root crate re-exports them.

mod arguments;
mod attributes;
mod context;
mod expand;
mod handler;
mod root;

use proc_macro::TokenStream;
use syn::{Item, ItemFn, parse_macro_input};

use crate::attributes::Attributes;
use crate::context::ContextInput;
use crate::handler::Handler;

/// Makes a command of a function.
///
/// # Errors
/// Does not compile on a function with `self`, type parameters other than `R: Runtime` or const parameters, on `unsafe` and `extern` functions, on an
/// argument without a name, on two arguments with the same key, and on an unknown attribute key.
#[proc_macro_attribute]
pub fn command(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let function = match syn::parse::<ItemFn>(item.clone()) {
        Ok(function) => function,
        Err(error) => return no_function(item, error),
    };
    match syn::parse::<Attributes>(attributes) {
        Ok(attributes) => expand::command(&function, attributes).into(),
        Err(error) => expand::refused(&function, &root::find(), &error).into(),
    }
}

/// The item with the reason why it can't be a command.
fn no_function(item: TokenStream, error: syn::Error) -> TokenStream {
    let error = match syn::parse::<Item>(item.clone()) {
        Ok(other) => syn::Error::new_spanned(other, "#[command] goes on a function"),
        // The function itself is not Rust.
        Err(_) => error,
    };
    let mut output = TokenStream::from(error.to_compile_error());
    output.extend(item);
    output
}

/// Collects commands into an `InvokeHandler`.
///
/// # Errors
/// Does not compile if a path names no function with `#[command]`, or if a command stands twice.
#[proc_macro]
pub fn generate_handler(input: TokenStream) -> TokenStream {
    parse_macro_input!(input as Handler).expand(&root::find()).into()
}

/// Tells who the program is: its package, and the `tauri.conf.json` beside its manifest if there is one.
///
/// # Errors
/// Does not compile if a file is named that is not there.
#[proc_macro]
pub fn generate_context(input: TokenStream) -> TokenStream {
    parse_macro_input!(input as ContextInput).expand(&root::find()).into()
}
