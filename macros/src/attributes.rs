//! What stands in the parentheses of `#[command(…)]`.

use heck::{ToLowerCamelCase, ToSnakeCase};
use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{LitStr, Path};

/// How names of arguments become keys on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum KeyCase {
    /// `filePath`, as Tauri does.
    #[default]
    Camel,
    /// `file_path`.
    Snake,
}

impl KeyCase {
    /// The key of an argument called `name`.
    pub(crate) fn key(self, name: &str) -> String {
        match self {
            KeyCase::Camel => name.to_lower_camel_case(),
            KeyCase::Snake => name.to_snake_case(),
        }
    }
}

/// Where the attribute says that the command runs; the function's own `async` says the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not said: a plain function runs on the pool, an `async` one on the workers.
    #[default]
    Default,
    /// `async`: on the workers.
    Workers,
    /// `inline`: in place.
    Inline,
}

/// The attribute.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) rename: Option<LitStr>,
    pub(crate) case: KeyCase,
    pub(crate) root: Option<Path>,
    pub(crate) place: Place,
    seen: Vec<String>,
}

impl Parse for Attributes {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut attributes = Attributes::default();
        let tokens = input.parse()?;
        syn::meta::parser(|meta| attributes.entry(&meta)).parse2(tokens)?;
        Ok(attributes)
    }
}

impl Attributes {
    fn entry(&mut self, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        if self.seen.contains(&key) {
            return Err(meta.error(format!("`{key}` stands twice")));
        }
        match key.as_str() {
            "async" => self.place(meta, Place::Workers)?,
            "inline" => self.place(meta, Place::Inline)?,
            "rename" => self.rename = Some(meta.value()?.parse()?),
            "rename_all" => self.case = key_case(&meta.value()?.parse()?)?,
            "root" => self.root = Some(meta.value()?.parse::<LitStr>()?.parse_with(Path::parse_mod_style)?),
            _ => {
                let known =
                    "known are `async`, `inline`, `rename = \"…\"`, `rename_all = \"…\"`, `root = \"…\"`";
                return Err(meta.error(format!("#[command] has no key `{key}`; {known}")));
            }
        }
        self.seen.push(key);
        Ok(())
    }

    fn place(&mut self, meta: &ParseNestedMeta<'_>, place: Place) -> syn::Result<()> {
        if self.place != Place::Default {
            return Err(meta.error("`inline` runs in place, `async` on the workers; keep one of them"));
        }
        self.place = place;
        Ok(())
    }
}

fn key_case(text: &LitStr) -> syn::Result<KeyCase> {
    match text.value().as_str() {
        "camelCase" => Ok(KeyCase::Camel),
        "snake_case" => Ok(KeyCase::Snake),
        other => {
            let text_of_error = format!("no case `{other}`; known are `camelCase` and `snake_case`");
            Err(syn::Error::new(text.span(), text_of_error))
        }
    }
}

/// Refuses what can not stand in a name on the wire after the plugin's part (the grammar of `invoked_proto::name`).
pub(crate) fn check_name(name: &str, span: Span) -> syn::Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > MAX_NAME_LEN || name.starts_with('-') || !name.chars().all(fits) {
        let text = "a command's name is made of ASCII letters, digits, `_` and, but first, `-`; \
                    the plugin's name and the dot come from the plugin";
        return Err(syn::Error::new(span, text));
    }
    Ok(())
}

/// The longest name on the wire, in bytes.
const MAX_NAME_LEN: usize = 255;
