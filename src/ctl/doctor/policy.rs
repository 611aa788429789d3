//! Whether the capability files that a daemon would read are there, safe and sound.

use super::super::args::Global;
use super::super::check::counted;
use super::super::policy_files::{Loaded, Named, Plugins, PolicyFiles, is_there};
use super::Finding;
use crate::error::BuildError;

const CHECK: &str = "policy";

pub(super) fn findings(global: &Global) -> Vec<Finding> {
    let files = match PolicyFiles::of(global, Named::default()) {
        Ok(files) => files,
        Err(error) => {
            return vec![Finding::fail(
                CHECK,
                error.to_string(),
                "correct the file; no daemon starts with it",
            )];
        }
    };
    let mut findings: Vec<Finding> = files
        .capabilities()
        .filter(|directory| !is_there(directory))
        .map(|directory| {
            let detail = format!("{} is not there: only the built-in policy holds", directory.display());
            Finding::warn(CHECK, detail, "put capability files there, or start a daemon with --dev to try")
        })
        .collect();
    let directories: Vec<String> = files.capabilities().map(|path| path.display().to_string()).collect();
    let directories = directories.join(", ");
    match files.load(Plugins::BuiltIn) {
        Ok(Loaded { capabilities, warnings, .. }) if warnings.is_empty() => {
            findings.push(Finding::ok(
                CHECK,
                format!("{} in force ({directories})", counted(capabilities, "capability")),
            ));
        }
        Ok(Loaded { capabilities, warnings, .. }) => findings.push(Finding::warn(
            CHECK,
            format!(
                "{} in force, {} ({directories})",
                counted(capabilities, "capability"),
                counted(warnings.len(), "warning")
            ),
            "invokectl check shows them",
        )),
        Err(BuildError::Policy(errors)) => findings.extend(errors.iter().map(|error| {
            let next =
                error.help().map_or_else(|| "invokectl check shows the place".to_owned(), str::to_owned);
            Finding::fail(CHECK, error.to_string(), next)
        })),
        Err(error) => findings.push(Finding::fail(CHECK, error.to_string(), "invokectl check tells more")),
    }
    findings
}
