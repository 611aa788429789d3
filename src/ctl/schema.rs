//! `invokectl schema`: JSON Schemas of policy files, for editors.
//!
//! It owns where they go. What they say is the authority's, from the manifests of a running daemon or, offline, of the files that one
//! would read.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::{Global, SchemaArgs};
use super::connection::{connect, prefix};
use super::delivery::write_file;
use super::failure::Failure;
use super::output::{Output, write};
use super::policy_files::{Named, Plugins, PolicyFiles};
use crate::host::report::Report;
use crate::plugins::core::schema::schemas;

pub(super) fn run(global: &Global, args: &SchemaArgs, output: &Output) -> Result<(), Failure> {
    let schemas = if args.is_offline() { built_in(global, args)? } else { live(global)? };
    match &args.out {
        Some(directory) if directory != Path::new("-") => save(&schemas, directory, output),
        _ => print(&schemas, args, output),
    }
}

/// One schema to standard output.
fn print(schemas: &Map<String, Value>, args: &SchemaArgs, output: &Output) -> Result<(), Failure> {
    let name = args.kind.name();
    let schema = schemas.get(name).ok_or_else(|| {
        Failure::Usage(format!(
            "this daemon has no schema of {name} files; it may be older than this invokectl"
        ))
    })?;
    if output.is_json() {
        return output.object(schema);
    }
    let mut text = serde_json::to_vec_pretty(schema).expect("a schema is JSON");
    text.push(b'\n');
    write(&text)
}

/// All of them, as files.
fn save(schemas: &Map<String, Value>, directory: &Path, output: &Output) -> Result<(), Failure> {
    let made = std::fs::create_dir_all(directory);
    made.map_err(Failure::local(format!("can't make {}", directory.display())))?;
    for (name, schema) in schemas {
        let path = directory.join(format!("{name}.schema.json"));
        let mut text = serde_json::to_vec_pretty(schema).expect("a schema is JSON");
        text.push(b'\n');
        write_file(&path, &text).map_err(Failure::local(format!("can't write {}", path.display())))?;
        if output.is_json() {
            output.object(&json!({ "schema": name, "file": path.to_string_lossy() }))?;
        } else if !output.is_quiet() {
            output.text(&path.display().to_string())?;
        }
    }
    Ok(())
}

fn live(global: &Global) -> Result<Map<String, Value>, Failure> {
    let offline = |failure| match failure {
        Failure::Call { error, hint: None, kept } if error.is_unavailable() => {
            let hint = format!("{} schema --offline asks the files that a daemon would read", prefix(global));
            Failure::Call { error, hint: Some(hint), kept }
        }
        other => other,
    };
    let client = connect(global).map_err(offline)?;
    let called = client.call("core.schema").idempotent().send();
    Ok(called.map_err(|error| Failure::for_operators(error, None))?.json()?)
}

fn built_in(global: &Global, args: &SchemaArgs) -> Result<Map<String, Value>, Failure> {
    let plugins = if args.dev { Plugins::Dev } else { Plugins::BuiltIn };
    let named = Named { permissions: &args.permissions, interfaces: &args.interfaces, ..Named::default() };
    let built = PolicyFiles::of(global, named).and_then(|files| files.build(plugins));
    let (daemon, _) = built.map_err(|error| {
        Report::of(&error).print();
        Failure::Told
    })?;
    Ok(schemas(&daemon.policy, &daemon.commands))
}
