//! `invokectl check`: the files of a policy, judged by the daemon's own loader.

use serde_json::{Value, json};

use super::args::{CheckArgs, Global};
use super::failure::Failure;
use super::output::Output;
use super::policy_files::{Loaded, Named, Plugins, PolicyFiles, is_there};
use crate::authority::PolicyError;
use crate::error::BuildError;
use crate::host::report::Report;

pub(super) fn run(global: &Global, args: &CheckArgs, output: &Output) -> Result<(), Failure> {
    let known = if args.dev { Plugins::Dev } else { Plugins::BuiltIn };
    let checked = files(global, args).and_then(|files| {
        let loaded = files.load(known)?;
        Ok((files, loaded))
    });
    let (files, loaded) = match checked {
        Ok(checked) => checked,
        Err(error) => return refuse(&error, output),
    };
    let Loaded { capabilities, warnings, notes } = loaded;
    for (level, remark) in warnings.iter().map(|w| ("warning", w)).chain(notes.iter().map(|n| ("note", n))) {
        match level {
            _ if output.is_json() => output.object(&finding(level, remark))?,
            "warning" => Report::warning(remark).print(),
            _ => Report::note(remark).print(),
        }
    }
    if let Some(app) = &global.app {
        let name = app.as_str();
        output.note(&format!("{name}'s own commands are known to it alone: its --check-config checks them"));
    }
    if args.strict && !warnings.is_empty() {
        output.note(&format!("{} under --strict", counted(warnings.len(), "warning")));
        return Err(Failure::Told);
    }
    if output.is_json() {
        return output
            .object(&json!({ "level": "ok", "capabilities": capabilities, "warnings": warnings.len() }));
    }
    for directory in files.capabilities().filter(|directory| !is_there(directory)) {
        output.note(&format!("{} is not there: no files", directory.display()));
    }
    if output.is_quiet() {
        return Ok(());
    }
    let from: Vec<String> = files.capabilities().map(|path| path.display().to_string()).collect();
    output.text(&format!(
        "sound: {} in force, {} ({})",
        counted(capabilities, "capability"),
        counted(warnings.len(), "warning"),
        from.join(", ")
    ))
}

fn files(global: &Global, args: &CheckArgs) -> Result<PolicyFiles, BuildError> {
    let named = Named {
        capabilities: &args.directories,
        permissions: &args.permissions,
        interfaces: &args.interfaces,
        tauri_compat: args.tauri_compat,
    };
    PolicyFiles::of(global, named)
}

fn refuse(error: &BuildError, output: &Output) -> Result<(), Failure> {
    match error {
        BuildError::Policy(errors) if output.is_json() => {
            errors.iter().try_for_each(|error| output.object(&finding("error", error)))?;
        }
        BuildError::Policy(errors) => {
            errors.iter().for_each(|error| Report::policy(error).print());
            output.note(&format!("{error}; a daemon would not start with it"));
        }
        other if output.is_json() => {
            output.object(&json!({ "level": "error", "message": other.to_string() }))?;
        }
        other => Report::of(other).print(),
    }
    Err(Failure::Told)
}

fn finding(level: &str, error: &PolicyError) -> Value {
    let file = error.path().map_or_else(|| error.file().to_owned(), |path| path.display().to_string());
    json!({
        "level": level,
        "file": file,
        "line": error.position().map(|position| position.line),
        "column": error.position().map(|position| position.column),
        "message": error.message(),
        "help": error.help(),
    })
}

/// A number of things that have an ordinary plural.
pub(super) fn counted(count: usize, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (count, Some(stem)) => format!("{count} {stem}ies"),
        (count, None) => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn numbers_agree() {
        assert_eq!(counted(1, "warning"), "1 warning");
        assert_eq!(counted(0, "warning"), "0 warnings");
        assert_eq!(counted(2, "capability"), "2 capabilities");
    }
}
