//! What a command's signature says of its arguments.

use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    FnArg, GenericParam, Generics, Ident, Pat, Signature, Type, TypeParam, TypeParamBound, WherePredicate,
};

use crate::attributes::KeyCase;

/// One argument, as far as its spelling tells.
pub(crate) struct Argument {
    /// The key on the wire; empty for `_` of an injected type.
    pub(crate) key: String,
    /// The type, as it stands in the source.
    pub(crate) kind: String,
    /// The name of the type, without its path, reference and parameters.
    name: String,
    /// Where errors about the type point to.
    pub(crate) span: Span,
    /// The type, if it may be one of those that Tauri has and invoked can't have.
    pub(crate) absent: Option<Type>,
}

/// What a signature says.
pub(crate) struct Read {
    pub(crate) arguments: Vec<Argument>,
    /// The parameters that stand for the runtime.
    pub(crate) runtimes: Vec<Ident>,
}

impl Argument {
    /// Whether a call may leave it out.
    pub(crate) fn is_optional(&self) -> bool {
        self.name == "Option"
    }

    /// Whether the call itself gives it, so that it has no key on the wire.
    pub(crate) fn is_injected(&self) -> bool {
        INJECTED.contains(&self.name.as_str())
    }

    /// Whether it is the view of the whole call, which a command takes to read a raw body.
    pub(crate) fn is_request(&self) -> bool {
        self.name == "Request"
    }

    /// Whether it gives the scopes of the call's grant.
    pub(crate) fn is_scope(&self) -> bool {
        self.name == "CommandScope"
    }
}

/// The types that `invoked::ipc` injects. A macro sees only names: a type of the user's with one of these is still
/// read from the call, but `describe` doesn't tell of it.
const INJECTED: [&str; 13] = [
    "AppHandle",
    "CancellationToken",
    "CommandScope",
    "Deadline",
    "GlobalScope",
    "InvokeMessage",
    "Origin",
    "Peer",
    "Request",
    "State",
    "Webview",
    "WebviewWindow",
    "Window",
];

/// Types of Tauri's that a daemon can't have. Whether one is meant, and not a type of the user's, the compiler decides.
const ABSENT: [&str; 3] = ["Webview", "WebviewWindow", "Window"];

/// Reads the signature of a function.
///
/// # Errors
/// All that is wrong with the signature, combined.
pub(crate) fn read(signature: &Signature, case: KeyCase) -> syn::Result<Read> {
    let mut errors = Errors::default();
    let runtimes = check_signature(signature, &mut errors);
    let mut arguments: Vec<Argument> = Vec::new();
    for input in &signature.inputs {
        match argument(input, case) {
            Ok(argument) => {
                if !argument.key.is_empty() && arguments.iter().any(|known| known.key == argument.key) {
                    errors.add(input, &format!("two arguments have the key `{}` on the wire", argument.key));
                }
                arguments.push(argument);
            }
            Err(error) => errors.push(error),
        }
    }
    errors.finish().map(|()| Read { arguments, runtimes })
}

/// The parameters of a signature that stand for the runtime; nothing else may be generic.
fn check_signature(signature: &Signature, errors: &mut Errors) -> Vec<Ident> {
    let mut runtimes = Vec::new();
    for parameter in &signature.generics.params {
        match parameter {
            GenericParam::Lifetime(_) => {}
            GenericParam::Type(parameter) if is_runtime(parameter, &signature.generics) => {
                runtimes.push(parameter.ident.clone());
            }
            GenericParam::Type(_) | GenericParam::Const(_) => {
                let text = "a command can't be generic: nobody could say for which type it is registered; \
                            only a parameter `R: Runtime` may stand here";
                errors.add(parameter, text);
            }
        }
    }
    if let Some(token) = &signature.unsafety {
        errors.add(token, "a command can't be unsafe: its callers are other processes");
    }
    if let Some(abi) = &signature.abi {
        errors.add(abi, "a command is an ordinary Rust function, without `extern`");
    }
    if let Some(variadic) = &signature.variadic {
        errors.add(variadic, "a command has a fixed number of arguments");
    }
    runtimes
}

/// Whether a parameter is bounded by `Runtime`, by whatever path it is reached.
fn is_runtime(parameter: &TypeParam, generics: &Generics) -> bool {
    let names_runtime = |bound: &TypeParamBound| match bound {
        TypeParamBound::Trait(bound) => last_segment(&bound.path) == "Runtime",
        _ => false,
    };
    let is_about_it = |bounded: &Type| match bounded {
        Type::Path(path) => path.path.is_ident(&parameter.ident),
        _ => false,
    };
    let mut wheres = generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    parameter.bounds.iter().any(names_runtime)
        || wheres.any(|predicate| match predicate {
            WherePredicate::Type(kind) => {
                is_about_it(&kind.bounded_ty) && kind.bounds.iter().any(names_runtime)
            }
            _ => false,
        })
}

fn argument(input: &FnArg, case: KeyCase) -> syn::Result<Argument> {
    let typed = match input {
        FnArg::Receiver(receiver) => {
            let text =
                "a command has no `self`: take the value as `State<'_, T>` and manage it in the builder";
            return Err(syn::Error::new_spanned(receiver, text));
        }
        FnArg::Typed(typed) => typed,
    };
    if let Type::ImplTrait(generic) = &*typed.ty {
        let text = "a command can't be generic: write the type that callers send";
        return Err(syn::Error::new_spanned(generic, text));
    }
    let mut argument = Argument {
        key: String::new(),
        kind: spelling(&typed.ty),
        name: type_name(&typed.ty),
        span: typed.ty.span(),
        absent: None,
    };
    if ABSENT.contains(&argument.name.as_str()) && !argument.kind.contains('\'') {
        argument.absent = Some(Type::clone(&typed.ty));
    }
    argument.key = match &*typed.pat {
        Pat::Ident(name) => case.key(&name.ident.unraw().to_string()),
        Pat::Struct(pattern) => case.key(&last_segment(&pattern.path)),
        Pat::TupleStruct(pattern) => case.key(&last_segment(&pattern.path)),
        Pat::Wild(_) if argument.is_injected() => String::new(),
        Pat::Wild(pattern) => {
            let text = "an argument's name is its key on the wire: write `_name` for one that isn't used";
            return Err(syn::Error::new_spanned(pattern, text));
        }
        other => {
            let text =
                "an argument's name is its key on the wire: only a name or a struct pattern can stand here";
            return Err(syn::Error::new_spanned(other, text));
        }
    };
    if argument.key.is_empty() && !matches!(&*typed.pat, Pat::Wild(_)) {
        return Err(syn::Error::new_spanned(&typed.pat, "this name leaves nothing for a key on the wire"));
    }
    Ok(argument)
}

fn last_segment(path: &syn::Path) -> String {
    path.segments.last().map(|segment| segment.ident.unraw().to_string()).unwrap_or_default()
}

fn type_name(kind: &Type) -> String {
    match kind {
        Type::Path(path) => last_segment(&path.path),
        Type::Reference(reference) => type_name(&reference.elem),
        Type::Paren(inner) => type_name(&inner.elem),
        Type::Group(inner) => type_name(&inner.elem),
        _ => String::new(),
    }
}

/// A type as a person would write it; tokens print with a space between any two.
fn spelling(kind: &Type) -> String {
    let mut text = kind.to_token_stream().to_string();
    for (spaced, tight) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        ("& ", "&"),
        ("( ", "("),
        (" )", ")"),
        ("[ ", "["),
        (" ]", "]"),
        (" ;", ";"),
    ] {
        text = text.replace(spaced, tight);
    }
    text
}

/// Errors of one signature, reported together.
#[derive(Default)]
struct Errors(Option<syn::Error>);

impl Errors {
    fn add(&mut self, tokens: &impl ToTokens, text: &str) {
        self.push(syn::Error::new_spanned(tokens, text));
    }

    fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn finish(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_str;

    use super::spelling;

    #[test]
    fn types_are_spelt_as_people_write_them() {
        for text in [
            "Option<String>",
            "std::collections::HashMap<String, Vec<(u8, i64)>>",
            "&str",
            "&'a [u8]",
            "::std::path::PathBuf",
            "[u8; 4]",
            "State<'_, Mutex<u32>>",
            "()",
        ] {
            let kind = parse_str(text).unwrap();
            assert_eq!(spelling(&kind), text);
        }
    }
}
