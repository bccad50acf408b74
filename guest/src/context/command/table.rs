//! `vmkpi-guest context` for people: at most 80 columns wide.

use std::fmt::Write as _;

use vmkpi::clock::Timestamp;
use vmkpi::terminal::{age, bytes, cut, wrap};

use crate::context::hooks::HooksStatus;
use crate::context::memory::Counted;
use crate::context::report::{Answer, ContextStatus};
use crate::context::view::Holder;

/// Paths of a change that are shown.
const SHOWN: usize = 20;

/// An answer as text.
pub(super) fn render(answer: &Answer, now: Timestamp) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match answer {
        Answer::Context(status) => context(status, now, &mut text),
        Answer::Where(holders) => places(holders, &mut text),
        Answer::Changes(changes) => history(changes, now, &mut text),
        Answer::Apply(_) => Ok(()),
        Answer::Refused(why) => writeln!(text, "{why}"),
    };
    text
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    let micros = now.as_micros().saturating_sub(then.as_micros());
    age(u64::try_from(micros / 1000).unwrap_or(0))
}

fn context(status: &ContextStatus, now: Timestamp, out: &mut String) -> std::fmt::Result {
    let mounted = match (status.mounted, status.starting) {
        (false, _) => ", NOT mounted any more",
        (true, true) => ", waiting for the layers of before the start",
        (true, false) => "",
    };
    wrap(
        out,
        "context     ",
        &format!("{}{mounted}", status.mount.display()),
    )?;
    writeln!(
        out,
        "generation  {}, files {}",
        status.generation, status.files
    )?;
    if status.layers.is_empty() {
        writeln!(out, "\nthere is no layer")?;
    } else {
        writeln!(
            out,
            "\n{:<15} {:<25} {:>5} {:>9} {:>6}  DIGEST",
            "CLASS", "SOURCE", "FILES", "BYTES", "SINCE"
        )?;
    }
    for layer in &status.layers {
        let since = match layer.lingers {
            true => "gone".into(),
            false => ago(layer.since, now),
        };
        writeln!(
            out,
            "{:<15} {:<25} {:>5} {:>9} {since:>6}  {}",
            cut(layer.class.as_str(), 15),
            cut(&layer.source, 25),
            layer.files,
            bytes(layer.bytes),
            &layer.digest[..12.min(layer.digest.len())]
        )?;
    }
    hooks(&status.hooks, now, out)?;
    for drive in &status.drives {
        if let Some(problem) = &drive.problem {
            writeln!(out)?;
            wrap(out, "=> ", &format!("the drive {}: {problem}", drive.drive))?;
        }
    }
    for problem in &status.problems {
        writeln!(out)?;
        wrap(out, "=> ", problem)?;
    }
    Ok(())
}

fn hooks(hooks: &HooksStatus, now: Timestamp, out: &mut String) -> std::fmt::Result {
    writeln!(out)?;
    if hooks.outcomes.is_empty() && hooks.running.is_none() {
        wrap(
            out,
            "hooks       ",
            &format!("none has run; they are in {}", hooks.directory.display()),
        )?;
    } else {
        writeln!(
            out,
            "{:<30} {:>10} {:>8} {:>8}  RESULT",
            "HOOK", "GENERATION", "TOOK", "AGO"
        )?;
    }
    for outcome in &hooks.outcomes {
        let took = match outcome.duration_ms {
            ms @ 0..10_000 => format!("{ms}ms"),
            ms => age(ms),
        };
        writeln!(
            out,
            "{:<30} {:>10} {took:>8} {:>8}  {}",
            cut(&outcome.hook, 30),
            outcome.generation,
            ago(outcome.started, now),
            outcome.result
        )?;
        if !outcome.ok {
            for line in &outcome.output {
                writeln!(out, "    {}", cut(line, 76))?;
            }
        }
    }
    if let Some(running) = &hooks.running {
        writeln!(out, "{} runs now", cut(running, 60))?;
    }
    if hooks.waiting {
        writeln!(out, "a change waits for the hooks that run")?;
    }
    for refused in &hooks.refused {
        writeln!(out)?;
        wrap(out, "=> ", refused)?;
    }
    Ok(())
}

fn places(holders: &[Holder], out: &mut String) -> std::fmt::Result {
    if holders.is_empty() {
        return writeln!(out, "no layer has it");
    }
    writeln!(
        out,
        "{:>5}  {:<26} {:<10} {:>9}  SHOWN",
        "LAYER", "CLASS", "KIND", "BYTES"
    )?;
    for holder in holders {
        let (kind, size) = match holder.directory {
            true => ("directory", String::new()),
            false => ("file", bytes(holder.bytes)),
        };
        let shown = if holder.shown { "yes" } else { "hidden" };
        let place = holder.place + 1;
        writeln!(
            out,
            "{place:>5}  {:<26} {kind:<10} {size:>9}  {shown}",
            holder.class.as_str()
        )?;
    }
    Ok(())
}

fn history(changes: &[Counted], now: Timestamp, out: &mut String) -> std::fmt::Result {
    if changes.is_empty() {
        return writeln!(out, "nothing has changed yet");
    }
    for counted in changes.iter().rev() {
        writeln!(
            out,
            "generation {}, {} ago: {} paths",
            counted.generation,
            ago(counted.time, now),
            counted.paths
        )?;
        for change in counted.changes.iter().take(SHOWN) {
            let (kind, layer) = (change.change.as_str(), change.layer.as_str());
            writeln!(out, "  {kind:<8} {:<52} {layer}", cut(&change.path, 52))?;
        }
        let more = counted.paths - counted.changes.len().min(SHOWN);
        if more > 0 {
            writeln!(out, "  and {more} more")?;
        }
    }
    Ok(())
}
