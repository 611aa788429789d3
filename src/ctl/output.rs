//! Where results go, and in which form.
//!
//! It owns standard output: what is for people, what is for programs, and what is for neither a terminal nor `-q`.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::Global;
use super::failure::Failure;
use super::json::{Layout, layout, printable};

/// The narrowest terminal, in columns, for which tables are folded.
const NARROWEST: u16 = 40;

/// How the tool prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    form: Form,
    notes: Notes,
    sink: Sink,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    People,
    Programs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notes {
    Shown,
    Hidden,
}

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sink {
    /// A terminal, with colours or without.
    Terminal { colours: bool },
    /// A pipe or a file.
    Pipe,
}

impl Output {
    pub(super) fn new(global: &Global) -> Self {
        let sink = if io::stdout().is_terminal() {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            Sink::Terminal { colours: !refused && !dumb }
        } else {
            Sink::Pipe
        };
        let form = if global.json { Form::Programs } else { Form::People };
        let notes = if global.quiet { Notes::Hidden } else { Notes::Shown };
        Output { form, notes, sink }
    }

    /// Whether programs read it: `-j`.
    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Programs
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.notes == Notes::Hidden
    }

    pub(super) fn sink(&self) -> Sink {
        self.sink
    }

    /// One object on one line.
    pub(super) fn object(&self, object: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(object)
            .map_err(io::Error::from)
            .map_err(Failure::local("can't write json"))?;
        line.push(b'\n');
        write(&line)
    }

    /// Text for people, with a line end. Control characters are escaped.
    pub(super) fn text(&self, text: &str) -> Result<(), Failure> {
        write(format!("{}\n", printable(text)).as_bytes())
    }

    /// A line with a mark of the tool's own before it, which may have colours.
    pub(super) fn marked(&self, mark: &str, text: &str) -> Result<(), Failure> {
        write(format!("{mark} {}\n", printable(text)).as_bytes())
    }

    /// A JSON result for people: indented on a terminal, compact in a pipe.
    pub(super) fn json(&self, json: &[u8]) -> Result<(), Failure> {
        let style = match self.sink {
            Sink::Terminal { colours: true } => Layout::Coloured,
            Sink::Terminal { colours: false } => Layout::Indented,
            Sink::Pipe => Layout::Compact,
        };
        let mut text = layout(json, style);
        text.push(b'\n');
        write(&text)
    }

    /// Columns for people.
    pub(super) fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.iter().map(|name| name.to_uppercase()));
        for row in rows {
            table.add_row(row.iter().map(|cell| printable(cell)));
        }
        // In a pipe each row stays on its line; and some terminals don't know how wide they are.
        if self.sink != Sink::Pipe && table.width().is_some_and(|width| width >= NARROWEST) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index + 1 < header.len() { 3 } else { 0 }));
        }
        write(format!("{}\n", table.trim_fmt()).as_bytes())
    }

    /// Something worth knowing that is no result: to standard error, unless `-q` or `-j`.
    pub(super) fn note(&self, text: &str) {
        if self.notes == Notes::Shown && self.form == Form::People {
            // Nobody is left to be told when standard error is gone.
            drop(writeln!(io::stderr().lock(), "{}", printable(text)));
        }
    }
}

/// Bytes to standard output, as they are.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::output)
}
