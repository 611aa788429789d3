//! A run of a bench: the placements one after the other, with what they print and write.

use std::process::ExitCode;

use invoked::ctl::bench::Pin;
use serde::Serialize;

use crate::failure::Failure;
use crate::holders;
use crate::options::{BenchOptions, Measuring};
use crate::tables;

/// Rounds of each measurement; each begins with another subject.
pub const ROUNDS: u32 = 20;

/// The program of a bench: measures as the command line says, if it is `cargo bench` that asks.
pub fn main<O: BenchOptions>(name: &str, bench: impl FnOnce(&O) -> Result<(), Failure>) -> ExitCode {
    if let Some(ended) = holders::run() {
        return ended;
    }
    let options = O::parse();
    if !options.is_bench() {
        println!("{name} measures under cargo bench only");
        return ExitCode::SUCCESS;
    }
    match bench(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Measures in each placement that is asked for, and prints and writes the rows.
pub(crate) fn in_each<R: Serialize>(
    measuring: &Measuring,
    table: impl Fn(Pin, &[R]) -> String,
    mut measure: impl FnMut(Pin) -> Result<Vec<R>, Failure>,
) -> Result<Vec<R>, Failure> {
    let mut rows = Vec::new();
    for pin in &measuring.pin {
        let measured = measure(*pin)?;
        show(&table(*pin, &measured));
        rows.extend(measured);
    }
    if let Some(path) = &measuring.json {
        let written = tables::write_json(path, &rows);
        written.map_err(Failure::io(format!("can't write {}", path.display())))?;
        println!("\n{} rows in {}", rows.len(), path.display());
    }
    Ok(rows)
}

/// Prints a table below the machine it was measured on.
pub(crate) fn show(table: &str) {
    print!("\n{}\n{table}", tables::machine());
}

#[cfg(test)]
mod tests {
    use invoked::ctl::bench::Pin;

    use super::in_each;
    use crate::options::Measuring;

    #[test]
    fn each_placement_is_measured_and_all_rows_are_written() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (pin, json) = (vec![Pin::One, Pin::None], Some(file.path().to_owned()));
        let measuring = Measuring { quick: true, pin, json, attempts: 1, bench: true };
        let mut measured = Vec::new();
        let rows = in_each(
            &measuring,
            |_, _| String::new(),
            |pin| {
                measured.push(pin);
                Ok(vec![pin; 2])
            },
        );
        assert_eq!(rows.expect("measured"), [Pin::One, Pin::One, Pin::None, Pin::None]);
        assert_eq!(measured, [Pin::One, Pin::None]);
        let text = std::fs::read_to_string(file.path()).expect("readable");
        assert_eq!(text, "\"one\"\n\"one\"\n\"none\"\n\"none\"\n");
    }
}
