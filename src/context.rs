//! What a program tells of itself.

use std::marker::PhantomData;

use serde::Deserialize;

use crate::ipc::{Runtime, Wry};

/// Identifier and version of the program, as [`generate_context!`](crate::generate_context) finds them.
#[derive(Debug, Clone)]
#[must_use]
pub struct Context<R: Runtime = Wry> {
    pub(crate) identifier: String,
    pub(crate) version: String,
    runtime: PhantomData<R>,
}

/// What is of use here in a `tauri.conf.json`.
#[derive(Debug, Default, Deserialize)]
struct TauriConfig {
    identifier: Option<String>,
    version: Option<String>,
}

impl<R: Runtime> Context<R> {
    /// The context of the program `identifier`.
    pub fn new(identifier: impl Into<String>, version: impl Into<String>) -> Self {
        Context { identifier: identifier.into(), version: version.into(), runtime: PhantomData }
    }

    /// The context of a package, with what its `tauri.conf.json` says on top.
    #[doc(hidden)]
    pub fn of_package(name: &str, version: &str, tauri_conf: Option<&str>) -> Self {
        let config = tauri_conf.and_then(|text| serde_json::from_str(text).ok());
        let TauriConfig { identifier, version: configured } = config.unwrap_or_default();
        // A version may also be the path of a package.json, which is not here.
        let configured = configured.filter(|version| !version.ends_with(".json"));
        Context::new(
            identifier.unwrap_or_else(|| name.to_owned()),
            configured.unwrap_or_else(|| version.to_owned()),
        )
    }

    /// The application's identifier: it names the address and the configuration.
    #[must_use]
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// The application's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

#[cfg(test)]
mod tests {
    use super::Context;
    use crate::ipc::Wry;

    fn of_package(conf: Option<&str>) -> (String, String) {
        let context = Context::<Wry>::of_package("photos", "1.2.3", conf);
        (context.identifier, context.version)
    }

    #[test]
    fn the_tauri_configuration_comes_before_the_package() {
        let own = ("photos".to_owned(), "1.2.3".to_owned());
        assert_eq!(of_package(None), own);
        assert_eq!(of_package(Some("{}")), own);
        let conf = r#"{"identifier":"org.acme.photos","version":"../package.json","bundle":{}}"#;
        assert_eq!(of_package(Some(conf)), ("org.acme.photos".to_owned(), "1.2.3".to_owned()));
        assert_eq!(of_package(Some(r#"{"version":"2.0.0"}"#)).1, "2.0.0");
    }
}
