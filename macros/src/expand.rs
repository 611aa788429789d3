//! The function that `#[command]` puts beside a command.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, Ident, ItemFn, Lit, Meta, Path};

use crate::arguments::{self, Argument, Read};
use crate::attributes::{Attributes, Place, check_name};
use crate::root;

/// The name of the function that makes the `Command` of `function`; it stands beside it with its visibility.
///
/// The leading underscore keeps the compiler from calling it dead: of a command that nobody registered it then names
/// the function that the author wrote.
pub(crate) fn maker(function: &Ident) -> Ident {
    format_ident!("__invoked_command_{}", function.unraw(), span = function.span())
}

/// The function, and its maker.
pub(crate) fn command(function: &ItemFn, attributes: Attributes) -> TokenStream {
    let root = attributes.root.clone().unwrap_or_else(root::find);
    match Plan::new(function, attributes, &root) {
        Ok(plan) => plan.expand(),
        Err(error) => refused(function, &root, &error),
    }
}

/// The errors, and what spares the author the errors that would follow from these.
pub(crate) fn refused(function: &ItemFn, root: &Path, error: &syn::Error) -> TokenStream {
    let errors = error.to_compile_error();
    let takes_self = function.sig.receiver().is_some();
    // A `self` outside of an impl would be refused a second time by the compiler.
    let kept = (!takes_self).then_some(function);
    let (vis, maker) = (&function.vis, maker(&function.sig.ident));
    quote! {
        #errors
        #kept
        #[doc(hidden)]
        #vis fn #maker() -> #root::ipc::Command { loop {} }
    }
}

/// What is known of a command before it is written out.
struct Plan<'a> {
    function: &'a ItemFn,
    root: &'a Path,
    name: String,
    arguments: Vec<Argument>,
    /// Parameters of the function that stand for the runtime.
    runtimes: Vec<Ident>,
    place: Place,
}

impl<'a> Plan<'a> {
    fn new(function: &'a ItemFn, attributes: Attributes, root: &'a Path) -> syn::Result<Self> {
        let Read { arguments, runtimes } = arguments::read(&function.sig, attributes.case)?;
        let ident = &function.sig.ident;
        let (name, span) = match &attributes.rename {
            Some(name) => (name.value(), name.span()),
            None => (ident.unraw().to_string(), ident.span()),
        };
        check_name(&name, span)?;
        Ok(Plan { function, root, name, arguments, runtimes, place: attributes.place })
    }

    fn expand(&self) -> TokenStream {
        let (function, root) = (self.function, self.root);
        let (vis, maker) = (&function.vis, maker(&function.sig.ident));
        let cfgs = function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg"));
        let (command, facts) = (self.make(), self.facts());
        let absent = self.absent();
        quote! {
            #function

            #(#cfgs)*
            #[doc(hidden)]
            #[allow(deprecated)]
            #vis fn #maker() -> #root::ipc::Command {
                #absent
                #command #facts
            }
        }
    }

    /// `Command::blocking("name", |message| …)` or one of its kin.
    ///
    /// Everything here has the span of the function's name, so that an error about the whole (a future that isn't
    /// `Send`) points there, and `mixed_site`'s hygiene, so that nothing here meets a name of the author's.
    fn make(&self) -> TokenStream {
        let (name, function) = (&self.name, &self.function.sig.ident);
        let span = mixed(function.span());
        let root = self.root_at(span);
        let is_async = self.function.sig.asyncness.is_some();
        let takes: Vec<_> = (0..self.arguments.len()).map(|n| self.take(n)).collect();
        let values = (0..self.arguments.len()).map(value);
        let runtimes = self.runtimes.iter().map(|_| quote_spanned!(span=> #root::Wry));
        let turbofish = (!self.runtimes.is_empty()).then(|| quote_spanned!(span=> ::<#(#runtimes),*>));
        let wait = is_async.then(|| quote_spanned!(span=> .await));
        let reply = self.reply(span);
        let body = quote_spanned! {span=>
            #(#takes)*
            let output = #function #turbofish(#(#values),*)#wait;
            #reply
        };
        let constructor = match (self.place, is_async) {
            (Place::Inline, false) => quote_spanned!(span=> inline),
            (Place::Inline, true) => quote_spanned!(span=> inline_future),
            (Place::Default, false) => quote_spanned!(span=> blocking),
            (Place::Default, true) | (Place::Workers, _) => quote_spanned!(span=> future),
        };
        let constructor = quote_spanned!(span=> #root::ipc::Command::#constructor);
        if is_async || self.place == Place::Workers {
            // The future owns the call, and what it gives to the function borrows from the future.
            return quote_spanned! {span=>
                #constructor(#name, |call: #root::ipc::InvokeMessage| async move {
                    let message = &call;
                    #body
                })
            };
        }
        quote_spanned!(span=> #constructor(#name, |message: &#root::ipc::InvokeMessage| { #body }))
    }

    /// Takes argument `n` from `message`; errors about its type point to the type.
    fn take(&self, n: usize) -> TokenStream {
        let argument = &self.arguments[n];
        let (name, key) = (&self.name, &argument.key);
        let (value, span) = (value(n), mixed(argument.span));
        let root = self.root_at(span);
        quote_spanned! {span=>
            let #value = #root::ipc::reply::argument(#name, #key, message)?;
        }
    }

    /// Lets the compiler refuse, with a reason, types of Tauri's that a daemon can't have.
    fn absent(&self) -> TokenStream {
        let checks: Vec<_> = self
            .arguments
            .iter()
            .filter_map(|argument| argument.absent.as_ref())
            .map(|kind| {
                let span = mixed(kind.span());
                let root = self.root_at(span);
                quote_spanned! {span=>
                    {
                        #[allow(unused_imports)]
                        use #root::ipc::reply::AsHere as _;
                        #root::ipc::reply::Probe::<#kind>::of_type().is_here();
                    }
                }
            })
            .collect();
        if checks.is_empty() {
            return TokenStream::new();
        }
        let (runtimes, root) = (&self.runtimes, self.root);
        quote!(#(type #runtimes = #root::Wry;)* #(#checks)*)
    }

    /// Makes an `Outcome` of `output`; how is decided by the type, in `invoked::ipc::reply`.
    fn reply(&self, span: Span) -> TokenStream {
        let root = self.root_at(span);
        let probe = quote_spanned!(span=> #root::ipc::reply::Probe::of);
        quote_spanned! {span=>
            #[allow(unused_imports)]
            use #root::ipc::reply::{AsError as _, AsJson as _, AsOutput as _, AsResponse as _};
            match (&#probe(&output)).split(output) {
                ::core::result::Result::Ok(value) => (&#probe(&value)).reply(value),
                ::core::result::Result::Err(error) => {
                    ::core::result::Result::Err((&#probe(&error)).error(error))
                }
            }
        }
    }

    /// The path to the crate, for code with this span: errors would otherwise point to the attribute.
    fn root_at(&self, span: Span) -> TokenStream {
        let located = |mut token: TokenTree| {
            token.set_span(token.span().located_at(span));
            token
        };
        self.root.to_token_stream().into_iter().map(located).collect()
    }

    /// What `describe` tells.
    fn facts(&self) -> TokenStream {
        let root = self.root;
        let docs = docs(&self.function.attrs).map(|docs| quote!(.docs(#docs)));
        let listed: Vec<_> = self.arguments.iter().filter(|argument| !argument.is_injected()).collect();
        let arguments = listed.iter().map(|argument| {
            let (key, kind, optional) = (&argument.key, &argument.kind, argument.is_optional());
            quote!(.argument(#root::ipc::Argument { key: #key, kind: #kind, optional: #optional }))
        });
        let is_raw = listed.is_empty() && self.arguments.iter().any(Argument::is_request);
        let raw = is_raw.then(|| quote!(.takes_raw()));
        let is_scoped = self.arguments.iter().any(Argument::is_scope);
        let scoped = is_scoped.then(|| quote!(.scoped()));
        quote!(#docs #(#arguments)* #raw #scoped)
    }
}

fn mixed(span: Span) -> Span {
    Span::mixed_site().located_at(span)
}

fn value(n: usize) -> Ident {
    Ident::new(&format!("argument{n}"), Span::mixed_site())
}

/// The doc comment as an expression; `None` without one.
fn docs(attributes: &[Attribute]) -> Option<TokenStream> {
    let mut lines: Vec<TokenStream> = Vec::new();
    let mut literal: Option<String> = Some(String::new());
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else { continue };
        if !meta.path.is_ident("doc") {
            continue;
        }
        if let Expr::Lit(expression) = &meta.value
            && let Lit::Str(line) = &expression.lit
        {
            let line = line.value();
            let line = line.strip_prefix(' ').unwrap_or(&line);
            if let Some(literal) = &mut literal {
                literal.push_str(line);
                literal.push('\n');
            }
            lines.push(quote!(#line));
        } else {
            // `#[doc = include_str!("…")]`: only the compiler knows the text.
            literal = None;
            let value = &meta.value;
            lines.push(quote!(#value));
        }
    }
    if lines.is_empty() {
        return None;
    }
    Some(match literal {
        Some(text) => {
            let text = text.trim_end();
            quote!(#text)
        }
        None => quote!(::core::concat!(#(#lines, "\n"),*)),
    })
}
