//! The same calls through invoked and through other systems, interleaved in one run. README.md says what is timed, how each
//! peer is set up, and what came out.

mod asynchronous;
mod options;
mod peer;
mod peers;
mod report;
mod request;
mod run;
mod server;
mod window;

/// Written by `capnpc` from `schema/echo.capnp`; its paths want it here.
#[allow(missing_docs, unreachable_pub, dead_code, unused_qualifications, clippy::all, clippy::unimplemented)]
#[path = "peers/echo_capnp.rs"]
mod echo_capnp;

use std::process::ExitCode;

use clap::Parser;
use invoked::ctl::bench::Pin;
use invoked_benches::Programs;

use options::{Command, Measuring, Options};
use peer::with_sources;
use report::Report;
use request::Fault;
use run::Wanted;

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Latency(measuring) => measure(measuring, [true, false, false]),
        Command::InFlight(measuring) => measure(measuring, [false, true, false]),
        Command::Connections(measuring) => measure(measuring, [false, false, true]),
        Command::All(measuring) => measure(measuring, [true; 3]),
        Command::Serve { peer, address } => {
            server::end_with_parent().and_then(|()| peers::serve(&peer, &address))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("invoked-peers: {}", with_sources(fault.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn measure(measuring: Measuring, [trips, in_flight, connections]: [bool; 3]) -> Result<(), Fault> {
    let programs = Programs::ready()?;
    let wanted = Wanted { trips, in_flight, connections, quick: measuring.quick, only: measuring.only };
    let mut report = Report::new(measuring.quick);
    for pin in measuring.placement.into_iter().map(Pin::from) {
        let placed = run::placed(&programs, pin, &wanted)?;
        println!("\n{}\n{}", invoked_benches::machine(), report::text(pin, &placed));
        report.add(pin, placed);
    }
    if let Some(folder) = &measuring.out {
        report.write(folder)?;
        println!("the report is {}", folder.join("report.md").display());
    }
    Ok(())
}
