//! `invokectl tour`: everything that works, shown and verified, in a temporary directory.
//!
//! It owns the order of the steps and how they are told. Each step types a line as a user would, in a process of its own
//! where the line is one of invokectl's, and fails unless the answer is what it should be.

mod faults;
mod providers;
mod steps;
mod streams;
mod world;

use std::io::BufRead;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;

use self::world::World;
use super::args::TourArgs;
use super::failure::Failure;
use super::output::Output;
use super::status::shown;

/// A step of the tour, by its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StepName {
    /// A daemon starts
    Start,
    /// A call with JSON in and out
    Json,
    /// 50 MB of raw bytes
    Raw,
    /// JSON and attachments in one call
    Mixed,
    /// Items on a channel, from a command to its caller
    Items,
    /// Items on a channel, from a caller to a command
    Lines,
    /// A call cancelled in the middle of its items
    Cancel,
    /// A call that no grant allows
    Denial,
    /// A command that a third process provides
    Provide,
    /// A provider killed in the middle of a call
    Killed,
    /// A call that has no time left, and one of a daemon that hangs
    Deadline,
    /// A daemon killed in the middle of a call
    Crash,
    /// A daemon that takes over a dead one's socket
    Takeover,
    /// How long a call takes, beside a bare socket
    Latency,
}

/// What a step has to show.
#[derive(Debug)]
pub(super) struct Shown {
    /// The lines that a user could type.
    line: String,
    /// What they gave.
    answer: String,
    /// What that means, in a sentence.
    meaning: &'static str,
}

pub(super) fn run(args: &TourArgs, output: &Output) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut world = World::new()?;
    let mut failed = Vec::new();
    let wanted = |step: &StepName| args.step.is_none_or(|only| only == *step || *step == StepName::Start);
    let steps: Vec<StepName> = StepName::value_variants().iter().copied().filter(wanted).collect();
    for step in &steps {
        let start = Instant::now();
        let result = step.run(&mut world);
        tell(*step, &result, start.elapsed(), output)?;
        if result.is_err() {
            failed.push(step.name());
            if *step == StepName::Start {
                break;
            }
        }
        if args.pause {
            output.note("-- Enter goes on --");
            let mut line = String::new();
            // At the end of input there is nobody to wait for.
            drop(std::io::stdin().lock().read_line(&mut line));
        }
    }
    let passed = steps.len() - failed.len();
    if output.is_json() {
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        output.object(&json!({ "tour": { "steps": steps.len(), "failed": failed, "ms": ms } }))?;
    } else {
        output.text(&format!("{passed} of {} steps verified in {}", steps.len(), shown(begin.elapsed())))?;
        if !failed.is_empty() {
            output.text(&format!("not as it should be: {}", failed.join(", ")))?;
            output.text(&format!("the daemon's log:\n{}", world.sandbox.log().trim_end()))?;
        }
    }
    if args.keep {
        keep(world, output)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

impl StepName {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn title(self) -> String {
        let help = self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    fn run(self, world: &mut World) -> Result<Shown, Failure> {
        // The step before may have killed it.
        world.sandbox.start()?;
        match self {
            StepName::Start => steps::start(world),
            StepName::Json => steps::json(world),
            StepName::Raw => steps::raw(world),
            StepName::Mixed => steps::mixed(world),
            StepName::Items => streams::items(world),
            StepName::Lines => streams::lines(world),
            StepName::Cancel => streams::cancel(world),
            StepName::Denial => steps::denial(world),
            StepName::Provide => providers::provide(world),
            StepName::Killed => providers::killed(world),
            StepName::Deadline => faults::deadline(world),
            StepName::Crash => faults::crash(world),
            StepName::Takeover => faults::takeover(world),
            StepName::Latency => steps::latency(world),
        }
    }
}

fn tell(
    step: StepName,
    result: &Result<Shown, Failure>,
    time: std::time::Duration,
    output: &Output,
) -> Result<(), Failure> {
    if output.is_json() {
        let ms = time.as_secs_f64() * 1e3;
        return output.object(&match result {
            Ok(shown) => json!({
                "step": step.name(), "ok": true, "line": shown.line, "answer": shown.answer, "ms": ms,
            }),
            Err(failure) => {
                json!({ "step": step.name(), "ok": false, "error": failure.to_string(), "ms": ms })
            }
        });
    }
    let mut text = String::new();
    let time = shown(time);
    match result {
        Ok(done) => {
            for line in done.line.lines() {
                text.push_str(&format!("$ {line}\n"));
            }
            for line in done.answer.lines() {
                text.push_str(&format!("  {line}\n"));
            }
            text.push_str(&format!("{}\n✓ {} ({}, {time})\n", done.meaning, step.title(), step.name()));
        }
        Err(failure) => {
            text.push_str(&format!("✗ {} ({}, {time}): {failure}\n", step.title(), step.name()));
        }
    }
    output.text(&text)
}

fn keep(world: World, output: &Output) -> Result<(), Failure> {
    let sandbox = world.sandbox;
    let (path, address, pid) = (sandbox.path().to_owned(), sandbox.address().clone(), sandbox.pid());
    sandbox.keep();
    if output.is_json() {
        return output.object(&json!({
            "kept": { "directory": path.to_string_lossy(), "address": address.to_string(), "pid": pid },
        }));
    }
    output.text(&format!("kept, for you to try: export INVOKED_ADDRESS={address}; invokectl list"))?;
    let pid = pid.map_or_else(String::new, |pid| format!("kill {pid}; "));
    output.text(&format!("and to end it: {pid}rm -r {}", path.display()))
}
