//! `vmkpi relay status`: what a spool holds and which VMs are alive, beside a running relay or without one.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vmkpi::clock::Timestamp;

use super::alive::{Name, SILENT_AFTER_US, Vm};
use super::spool::{self, SCHEMA};
use crate::command::Format;
use crate::command::database::{OpenError, open_to_read};
use crate::command::print::Console;
use crate::command::watch::text::{age, fit};

/// Which relay.
#[derive(clap::Args)]
pub struct Args {
    /// The relay's state directory.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// A table for people, or one JSON object.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// What a spool holds.
#[derive(Debug, Serialize)]
struct Summary {
    /// Messages that wait for the next broker.
    messages: u64,
    /// What they count against the limit.
    bytes: u64,
    /// When the oldest of them came.
    oldest: Option<Timestamp>,
    /// The VMs whose messages are forwarded.
    vms: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    site: String,
    vm: String,
    heard: Timestamp,
    forwarded: Option<Timestamp>,
    lease: Option<Timestamp>,
    silent: bool,
}

/// Runs the command.
///
/// # Errors
/// There is no such spool, or nobody reads what is printed.
pub fn run(args: &Args, console: &mut Console) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let summary = read(&args.state, now)?;
    match args.format {
        Format::Json => console.line(&serde_json::to_string(&summary)?)?,
        Format::Table => {
            for line in table(&summary, now) {
                console.line(&line)?;
            }
        }
    }
    Ok(())
}

fn read(state: &Path, now: Timestamp) -> Result<Summary, OpenError> {
    let path = spool::file(state);
    let connection = open_to_read(&path, &SCHEMA)?;
    let read = || -> rusqlite::Result<Summary> {
        let held = spool::held(&connection)?;
        let vms = spool::vms(&connection)?;
        Ok(Summary {
            messages: held.rows,
            bytes: held.bytes,
            oldest: spool::oldest(&connection)?,
            vms: vms
                .into_iter()
                .map(|(name, vm)| row(name, &vm, now))
                .collect(),
        })
    };
    read().map_err(|error| OpenError::Sqlite(path, error))
}

fn row((site, name): Name, vm: &Vm, now: Timestamp) -> Row {
    // A relay that has ended writes nothing: what it knew gets older all the same.
    let quiet = now.as_micros().saturating_sub(vm.heard.as_micros()) > SILENT_AFTER_US;
    Row {
        site,
        vm: name,
        heard: vm.heard,
        forwarded: vm.forwarded,
        lease: vm.lease,
        silent: vm.silent || quiet,
    }
}

fn table(summary: &Summary, now: Timestamp) -> Vec<String> {
    let mib = summary.bytes as f64 / f64::from(1 << 20);
    let ago = |time: Timestamp| {
        let seconds = now.as_seconds_f64() - time.as_seconds_f64();
        format!("{} ago", age(seconds))
    };
    let oldest = summary
        .oldest
        .map_or_else(String::new, |at| format!(", the oldest of {}", ago(at)));
    let waiting = format!("{} messages wait in {mib:.1} MiB{oldest}", summary.messages);
    let mut lines = vec![waiting];
    if summary.vms.is_empty() {
        lines.push("no message has come yet".into());
        return lines;
    }
    lines.push(String::new());
    lines.push(cells(
        ["SITE", "VM", "HEARD", "FORWARDED", "STATE"].map(String::from),
    ));
    for vm in &summary.vms {
        let state = match vm.silent {
            true => "silent: its Producer is dead or cut off",
            false => "alive",
        };
        let forwarded = vm.forwarded.map_or_else(|| "never".into(), ago);
        let (site, name) = (vm.site.clone(), vm.vm.clone());
        lines.push(cells([
            site,
            name,
            ago(vm.heard),
            forwarded,
            state.to_owned(),
        ]));
    }
    lines
}

fn cells([site, vm, heard, forwarded, state]: [String; 5]) -> String {
    let cells = [
        fit(&site, 16),
        fit(&vm, 24),
        fit(&heard, 14),
        fit(&forwarded, 14),
        state,
    ];
    cells.join("  ")
}
