//! `vmkpi collect status`: what a database holds, who is silent and what is missing, beside a running collect or
//! without one.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Serialize;
use vmkpi::clock::Timestamp;
use vmkpi::position::Seq;

use super::retention::{ids, used_bytes};
use crate::command::Format;
use crate::command::database::{OpenError, open_to_read};
use crate::command::print::Console;
use crate::command::watch::text::{age, fit, safe};

/// A Producer says where it is each minute (docs/DELIVERY.md, "Coverage"); one that has missed three is silent.
pub const SILENT_AFTER_S: i64 = 180;
/// The most missing ranges and gaps that are listed; their number is told in full.
const MAX_LISTED: usize = 100;

/// Which database.
#[derive(clap::Args)]
pub struct Args {
    /// The database.
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// A table for people, or one JSON object.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// What a database holds.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Samples kept.
    pub samples: u64,
    /// Results kept.
    pub results: u64,
    /// Ranges of rows that will never come.
    pub gaps: u64,
    /// Messages that are sealed still.
    pub sealed: u64,
    /// Bytes of pages in use.
    pub bytes: u64,
    /// Instances with rows that have not come.
    pub missing_instances: u64,
    /// VMs.
    pub vms: Vec<Vm>,
    /// Rows that have not come, at most so many.
    pub missing: Vec<Missing>,
}

/// A VM.
#[derive(Debug, Serialize)]
pub struct Vm {
    /// Its primary site.
    pub site: String,
    /// Its name.
    pub vm: String,
    /// Its data points.
    pub points: u64,
    /// When a message last came of it.
    pub heard: Timestamp,
    /// Whether that is longer ago than a Producer is silent.
    pub silent: bool,
    /// What its lease in the Directory is: live, expired, left; it may never have had one.
    pub lease: Option<String>,
    /// When that ends or ended, by the clock of who said it.
    pub lease_expires: Option<Timestamp>,
    /// Instances with rows that have not come.
    pub missing: u64,
}

/// Rows (after, through] that have not come.
#[derive(Debug, Serialize)]
pub struct Missing {
    /// The primary site.
    pub site: String,
    /// The VM.
    pub vm: String,
    /// The data point.
    pub point: String,
    /// The specifier's id.
    pub specifier: String,
    /// The stream.
    pub stream: String,
    /// The last row before them.
    pub after: Seq,
    /// The last of them that any message spoke of.
    pub through: Seq,
}

/// Runs the command.
///
/// # Errors
/// There is no such database, or nobody reads what is printed.
pub fn run(args: &Args, console: &mut Console) -> anyhow::Result<()> {
    let summary = read(&args.db)?;
    match args.format {
        Format::Json => console.line(&serde_json::to_string(&summary)?)?,
        Format::Table => {
            for line in table(&summary, Timestamp::now()) {
                console.line(&line)?;
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Summary, OpenError> {
    let connection = open_to_read(path, &super::SCHEMA)?;
    summary(&connection, Timestamp::now()).map_err(|e| OpenError::Sqlite(path.to_owned(), e))
}

/// What the database holds.
///
/// # Errors
/// SQLite says so.
pub fn summary(connection: &Connection, now: Timestamp) -> rusqlite::Result<Summary> {
    let count = |table| {
        let (first, last) = ids(connection, table)?;
        Ok::<_, rusqlite::Error>((last + 1).saturating_sub(first))
    };
    Ok(Summary {
        samples: count("sample")?,
        results: count("result")?,
        gaps: count("gap")?,
        sealed: count("sealed")?,
        bytes: used_bytes(connection)?,
        missing_instances: connection
            .query_row("SELECT count(*) FROM missing", [], |row| row.get(0))?,
        vms: vms(connection, now)?,
        missing: missing(connection)?,
    })
}

/// Every VM.
///
/// # Errors
/// SQLite says so.
pub fn vms(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Vm>> {
    let sql =
        "SELECT site, vm, points, heard, missing, lease, lease_expires FROM vms ORDER BY site, vm";
    let mut statement = connection.prepare(sql)?;
    let vms = statement.query_map([], |row| {
        let heard = Timestamp::from_micros(row.get(3)?);
        Ok(Vm {
            site: row.get(0)?,
            vm: row.get(1)?,
            points: row.get(2)?,
            heard,
            silent: is_silent(heard, now),
            missing: row.get(4)?,
            lease: row.get(5)?,
            lease_expires: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_micros),
        })
    })?;
    vms.collect()
}

/// Whether a VM of which a message last came at `heard` has a Producer that is dead, or cut off.
pub fn is_silent(heard: Timestamp, now: Timestamp) -> bool {
    now.as_micros() - heard.as_micros() > SILENT_AFTER_S * 1_000_000
}

fn missing(connection: &Connection) -> rusqlite::Result<Vec<Missing>> {
    let sql = "SELECT site, vm, point, specifier, stream, after, through FROM missing \
               ORDER BY site, vm, point, specifier LIMIT ?";
    let mut statement = connection.prepare(sql)?;
    let missing = statement.query_map([MAX_LISTED], |row| {
        Ok(Missing {
            site: row.get(0)?,
            vm: row.get(1)?,
            point: row.get(2)?,
            specifier: row.get(3)?,
            stream: row.get(4)?,
            after: row.get(5)?,
            through: row.get(6)?,
        })
    })?;
    missing.collect()
}

fn table(summary: &Summary, now: Timestamp) -> Vec<String> {
    let mib = summary.bytes as f64 / f64::from(1 << 20);
    let mut lines = vec![format!(
        "{} samples, {} results, {} gaps and {} sealed messages in {mib:.1} MiB",
        summary.samples, summary.results, summary.gaps, summary.sealed
    )];
    if summary.vms.is_empty() {
        lines.push("no message has come yet".into());
        return lines;
    }
    lines.push(String::new());
    let head = ["SITE", "VM", "POINTS", "HEARD", "STATE"];
    lines.push(row(head.map(String::from)));
    for vm in &summary.vms {
        let seconds = now.as_seconds_f64() - vm.heard.as_seconds_f64();
        let state = state(vm, now);
        let heard = format!("{} ago", age(seconds));
        lines.push(row([
            vm.site.clone(),
            vm.vm.clone(),
            vm.points.to_string(),
            heard,
            state,
        ]));
    }
    if !summary.missing.is_empty() {
        lines.push(String::new());
        lines.push("missing:".into());
    }
    for m in &summary.missing {
        let (after, through) = (m.after, m.through);
        let place = format!("{} {} {} {}", m.site, m.vm, m.point, m.specifier);
        lines.push(format!(
            "  {} rows {} to {through}",
            safe(&place),
            after + 1
        ));
    }
    let more = summary
        .missing_instances
        .saturating_sub(summary.missing.len() as u64);
    if more > 0 {
        lines.push(format!("  and of {more} more instances"));
    }
    lines
}

/// How a VM is: a lease that has expired says more than silence does, and sooner.
fn state(vm: &Vm, now: Timestamp) -> String {
    let expired = || {
        let expires = vm.lease_expires.unwrap_or_default().as_seconds_f64();
        age(now.as_seconds_f64() - expires)
    };
    match (vm.lease.as_deref(), vm.silent, vm.missing) {
        (Some("expired"), ..) => {
            format!(
                "lease expired {} ago: its Producer is dead or cut off",
                expired()
            )
        }
        (Some("left"), ..) => "left the Directory: it has stopped".to_owned(),
        (Some(_), true, _) => "silent, with a live lease: its messages do not come".to_owned(),
        (None, true, _) => "silent: its Producer is dead or cut off".to_owned(),
        (_, false, 0) => "complete".to_owned(),
        (_, false, missing) => format!("rows missing in {missing} instances"),
    }
}

fn row([site, vm, points, heard, state]: [String; 5]) -> String {
    let cells = [
        fit(&site, 16),
        fit(&vm, 24),
        fit(&points, 6),
        fit(&heard, 14),
        state,
    ];
    cells.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_lease_is_told_from_silence() {
        let now = Timestamp::from_micros(1000 * 1_000_000);
        let shown = |lease: Option<&str>, silent| {
            let vm = Vm {
                site: "acme".into(),
                vm: "shop".into(),
                points: 1,
                heard: now,
                silent,
                lease: lease.map(Into::into),
                lease_expires: lease.map(|_| Timestamp::from_micros(940 * 1_000_000)),
                missing: 0,
            };
            state(&vm, now)
        };
        assert!(shown(Some("expired"), false).starts_with("lease expired 1 min ago"));
        assert!(shown(Some("expired"), true).starts_with("lease expired"));
        assert!(shown(Some("live"), true).starts_with("silent, with a live lease"));
        assert!(shown(None, true).starts_with("silent: "));
        assert!(shown(Some("left"), true).starts_with("left"));
        assert_eq!(shown(Some("live"), false), "complete");
        assert_eq!(shown(None, false), "complete");
    }

    #[test]
    fn a_producer_that_missed_three_heartbeats_is_silent() {
        let at = |s: i64| Timestamp::from_micros(s * 1_000_000);
        assert!(!is_silent(at(1000), at(1000 + SILENT_AFTER_S)));
        assert!(is_silent(at(1000), at(1001 + SILENT_AFTER_S)));
        assert!(!is_silent(at(1000), at(0)), "the clock was set back");
    }
}
