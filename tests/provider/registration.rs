//! What a provider registers, and what becomes of it where that is refused.

use invoked::authority::{Format, PathScope, Permission, Policy, ScopeDefault, ScopeKind, Source};
use invoked::ipc::{CommandScope, ErrorCode};
use invoked::plugin::{self, Plugin};
use invoked::provider::ProvideError;
use invoked::{Builder, command, generate_handler};
use invoked_proto::registry::features;
use serde_json::json;

use crate::script::{Place, joined};

/// Writes it in capitals.
///
/// In every language.
#[command]
fn upper(text: String, times: Option<u32>) -> Vec<String> {
    vec![text.to_uppercase(); times.unwrap_or(1) as usize]
}

#[command]
fn make(path: std::path::PathBuf, scope: CommandScope<'_, PathScope>) -> bool {
    scope.matches(&path)
}

fn thumbs() -> Plugin {
    plugin::Builder::new("thumbs")
        .invoke_handler(generate_handler![make])
        .scope(ScopeKind::Path, ScopeDefault::Nothing)
        .permission(Permission {
            identifier: "no-secrets".to_owned(),
            scope_deny: vec![json!("/srv/secret/**")],
            ..Permission::default()
        })
        .permissions(
            r#"
            [default]
            description = "Thumbnails."
            permissions = ["allow-make", "no-secrets"]

            [[set]]
            identifier = "all"
            description = "All."
            permissions = ["default"]
            "#,
        )
        .build()
}

#[test]
fn the_interface_is_what_the_table_of_commands_says() {
    let place = Place::new();
    let builder = Builder::new("org.acme.text")
        .provide_as("text")
        .invoke_handler(generate_handler![upper])
        .plugin(thumbs());
    let starting = {
        let options = place.options().take_over();
        std::thread::spawn(move || builder.provide_blocking(options))
    };
    let mut daemon = place.accept();
    let first = daemon.take_registration();
    let second = daemon.take_registration();
    let provider = joined(starting).unwrap();
    assert_eq!((&first["takeOver"], &second["takeOver"]), (&json!(true), &json!(true)));
    let names: Vec<_> = provider.provided().iter().map(|provided| provided.plugin.as_str()).collect();
    assert_eq!(names, ["thumbs", "text"]);
    let text = &second["interface"];
    assert_eq!(
        text["methods"][0],
        json!({
            "name": "text.upper",
            "summary": "Writes it in capitals.",
            "description": "In every language.",
            "paramStructure": "by-name",
            "params": [
                { "name": "text", "required": true, "schema": { "title": "String", "type": "string" } },
                {
                    "name": "times", "required": false,
                    "schema": {
                        "title": "Option<u32>",
                        "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "null" }],
                    },
                },
            ],
            "result": { "name": "result", "schema": true },
            "x-invoked": { "scope": false, "raw": false, "runs": "blocking" },
        })
    );
    assert_eq!(first["interface"]["methods"][0]["x-invoked"]["scope"], true);
    assert_eq!(first["interface"]["info"]["version"], env!("CARGO_PKG_VERSION"));
    // Without its daemon it has nobody to take its leave of.
    drop(daemon);
    drop(provider);
}

/// What is registered is read by the same code as an interface file, so a policy for it is checked in full.
#[test]
fn the_authority_reads_every_interface_and_knows_its_permissions() {
    let place = Place::new();
    let starting = {
        let (builder, options) = (Builder::new("text").plugin(thumbs()), place.options());
        std::thread::spawn(move || builder.provide_blocking(options))
    };
    let interface = place.accept().take_registration()["interface"].to_string();
    drop(joined(starting));
    let compile = |permissions: &str| {
        let users = invoked::authority::load::PasswdFiles::default();
        let capability = format!("identifier = \"c\"\npeers = [\"uid:1\"]\npermissions = {permissions}");
        let compiled = Policy::new(9, &users)
            .interface(Source::new("thumbs.json", None, interface.clone()))
            .document(Source::new("c.toml", None, capability), Format::Toml)
            .compile();
        compiled.map(|_| ()).map_err(|errors| errors[0].message().to_owned())
    };
    assert_eq!(
        compile(r#"["thumbs:all", { identifier = "thumbs:allow-make", allow = ["/srv/**"] }]"#),
        Ok(())
    );
    let wrong = compile(r#"[{ identifier = "thumbs:allow-make", allow = ["relative"] }]"#);
    assert!(wrong.as_ref().is_err_and(|text| text.contains("path pattern starts with")), "{wrong:?}");
    assert!(compile(r#"["thumbs:allow-mak"]"#).is_err());
}

#[test]
fn a_refusal_says_what_to_do() {
    let place = Place::new();
    let cases =
        [(ErrorCode::PermissionDenied, "provide = [\"text\"]"), (ErrorCode::AlreadyExists, "take_over")];
    for (code, advice) in cases {
        let (builder, options) =
            (Builder::new("text").invoke_handler(generate_handler![upper]), place.options());
        let starting = std::thread::spawn(move || builder.provide_blocking(options));
        let mut daemon = place.accept();
        let (stream, ..) = daemon.called();
        daemon.fail(stream, code, "no");
        let error = joined(starting).unwrap_err();
        assert!(
            matches!(&error, ProvideError::Registration { plugin, code: c, .. } if plugin == "text" && *c == code)
        );
        assert!(error.to_string().contains(advice), "{error}");
        assert!(daemon.ends());
    }
}

#[test]
fn a_daemon_without_providers_is_told_from_one_that_refuses() {
    let place = Place::new();
    let (builder, options) = (Builder::new("text").invoke_handler(generate_handler![upper]), place.options());
    let starting = std::thread::spawn(move || builder.provide_blocking(options));
    let mut daemon = place.accept_with(features::CHANNELS);
    assert!(daemon.ends());
    assert!(matches!(joined(starting), Err(ProvideError::Unsupported)));
}

#[test]
fn what_can_not_be_provided_is_said_before_anybody_is_asked() {
    let nowhere: invoked::transport::Address = "unix:/nowhere/at.sock".parse().unwrap();
    let told = |builder: Builder<invoked::Wry, invoked::Named>, plugins: Option<&str>| {
        let mut options = invoked::provider::ProvideOptions::from(nowhere.clone());
        if let Some(name) = plugins {
            options = options.plugins([name]);
        }
        builder.provide_blocking(options).unwrap_err().to_string()
    };
    let with_upper = |name: &str| Builder::new(name).invoke_handler(generate_handler![upper]);
    assert_eq!(told(Builder::new("text"), None), "there is no command to provide");
    assert_eq!(told(with_upper("text"), Some("other")), "there is no plugin other to provide");
    assert_eq!(told(with_upper("thumbs").plugin(thumbs()), None), "plugin thumbs is there twice");
    assert!(told(with_upper("Not A Name"), None).starts_with("name \"Not A Name\":"));
    assert!(told(with_upper("text"), None).contains("/nowhere/at.sock"));
    let unnamed = Builder::default().invoke_handler(generate_handler![upper]);
    let text = unnamed.provide_blocking(nowhere.clone()).unwrap_err().to_string();
    assert!(text.contains("provide_as"), "{text}");
    let fails = with_upper("text").setup(|_| Err("no disk".into()));
    assert_eq!(told(fails, None), "setup: no disk");
}
