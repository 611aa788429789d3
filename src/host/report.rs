//! Errors as people read them: the file, the line, the place in it.

use std::io::Write;

use miette::{Diagnostic, GraphicalReportHandler, LabeledSpan, NamedSource, Severity, SourceCode};

use crate::authority::PolicyError;
use crate::error::BuildError;

/// One or more errors or warnings, ready to print.
#[derive(Debug)]
pub(crate) struct Report(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    severity: Severity,
    message: String,
    help: Option<String>,
    source: Option<(NamedSource<String>, std::ops::Range<usize>)>,
}

impl Report {
    /// Everything that is wrong.
    pub(crate) fn of(error: &BuildError) -> Self {
        match error {
            BuildError::Policy(errors) => {
                let mut entries: Vec<_> = errors.iter().map(|e| Entry::policy(e, Severity::Error)).collect();
                entries.push(Entry::plain(format!("{error}; nothing was started")));
                Report(entries)
            }
            other => Report(vec![Entry::plain(chain(other))]),
        }
    }

    /// A warning.
    pub(crate) fn warning(warning: &PolicyError) -> Self {
        Report(vec![Entry::policy(warning, Severity::Warning)])
    }

    /// Something that is good to know.
    pub(crate) fn note(note: &PolicyError) -> Self {
        Report(vec![Entry::policy(note, Severity::Advice)])
    }

    /// An error of a policy.
    pub(crate) fn policy(error: &PolicyError) -> Self {
        Report(vec![Entry::policy(error, Severity::Error)])
    }

    /// Prints to standard error.
    pub(crate) fn print(&self) {
        let mut out = std::io::stderr().lock();
        for entry in &self.0 {
            // Nobody is left to be told when standard error is gone.
            drop(writeln!(out, "{}", entry.rendered()));
        }
    }
}

impl Entry {
    fn plain(message: String) -> Self {
        Entry { severity: Severity::Error, message, help: None, source: None }
    }

    fn policy(error: &PolicyError, severity: Severity) -> Self {
        let source = error.text().zip(error.span()).map(|(text, span)| {
            let name =
                error.path().map_or_else(|| error.file().to_owned(), |path| path.display().to_string());
            (NamedSource::new(name, text.to_owned()), span)
        });
        let message = match &source {
            Some(_) => error.message().to_owned(),
            None => error.to_string(),
        };
        Entry { severity, message, help: error.help().map(str::to_owned), source }
    }

    fn rendered(&self) -> String {
        let mut text = String::new();
        if self.source.is_none() && self.help.is_none() {
            let kind = match self.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Advice => "note",
            };
            return format!("{kind}: {}", self.message);
        }
        match GraphicalReportHandler::new().render_report(&mut text, self) {
            Ok(()) => text.trim_end().to_owned(),
            Err(_) => self.message.clone(),
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Entry {}

impl Diagnostic for Entry {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|(source, _)| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, span) = self.source.as_ref()?;
        let label = LabeledSpan::new(None, span.start, span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
