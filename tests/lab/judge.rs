//! The judge of migrations: every row once, every window as if the VM had stayed where it was, and how long nothing
//! was delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::collector::Collector;
use crate::mqtt::Received;

/// The specifier that delivers every row at once.
pub const ROWS: &str = "every-row";

/// The specifier that delivers means of windows.
pub const MEANS: &str = "means";

/// How long its windows are, in microseconds.
const WINDOW_MICROS: u64 = 1_000_000;

/// What both deliver, and what the hypervisor says.
pub const MONITORS: &str = r#"<vmkpi:monitor id="every-row" point="unencrypted/load"/>
<vmkpi:monitor id="means" point="unencrypted/load" delivery_ms="1000" format="processed" function="mean"/>
<vmkpi:monitor id="infra" point="infra/*" interval_ms="1000"/>"#;

/// A row: when the guest stored it, in microseconds, and the number that the application gave it.
type Row = (u64, u64);

/// The rows 1 to `stored`, as the collect keeps them: each once, in one stream, and nothing else.
///
/// # Errors
/// One is missing, twice, changed or invented.
fn rows(collect: &Collector, stored: u64) -> Result<Vec<Row>> {
    let sql = format!(
        "SELECT stream, seq, time, data ->> 'n', data ->> 'half' FROM samples \
         WHERE point = 'unencrypted/load' AND specifier = '{ROWS}' ORDER BY seq"
    );
    let found = collect.query(&sql)?;
    let streams: BTreeSet<String> = found.iter().map(|row| row[0].to_string()).collect();
    ensure!(streams.len() == 1, "{} streams", streams.len());
    let number = |value: &Value| value.as_u64().with_context(|| value.to_string());
    let mut rows = Vec::new();
    for (row, n) in found.iter().zip(1..) {
        let half = row[4].as_f64();
        let is_it = number(&row[1])? == n && number(&row[3])? == n && half == Some(n as f64 + 0.5);
        ensure!(is_it, "in place of row {n}: {row}");
        rows.push((number(&row[2])?, n));
    }
    ensure!(
        rows.len() as u64 == stored,
        "{} rows are kept, {stored} were stored",
        rows.len()
    );
    Ok(rows)
}

/// A window: how many rows, and their mean.
#[derive(Clone, Copy, Debug)]
struct Window {
    count: u64,
    mean: f64,
}

/// The windows of rows, by where they begin.
fn windows(rows: &[Row]) -> BTreeMap<u64, Window> {
    let mut sums: BTreeMap<u64, (u64, f64)> = BTreeMap::new();
    for (time, n) in rows {
        let sum = sums.entry(time - time % WINDOW_MICROS).or_default();
        *sum = (sum.0 + 1, sum.1 + *n as f64);
    }
    let mean = |(count, sum)| Window {
        count,
        mean: sum / count as f64,
    };
    sums.into_iter()
        .map(|(from, sum)| (from, mean(sum)))
        .collect()
}

/// The windows that the collect keeps, each once and whole.
fn kept_windows(collect: &Collector) -> Result<BTreeMap<u64, Window>> {
    let sql = format!(
        "SELECT window_from, count ->> 'n', data ->> 'n', partial + forked FROM results \
         WHERE point = 'unencrypted/load' AND specifier = '{MEANS}'"
    );
    let mut windows = BTreeMap::new();
    for row in collect.query(&sql)? {
        let number = |n: usize| row[n].as_u64().with_context(|| row.to_string());
        let mean = row[2].as_f64().with_context(|| row.to_string())?;
        let window = Window {
            count: number(1)?,
            mean,
        };
        ensure!(number(3)? == 0, "partial or forked: {row}");
        let before = windows.insert(number(0)?, window);
        ensure!(before.is_none(), "the window of {row} is kept twice");
    }
    Ok(windows)
}

/// Whether the window of the last row is kept already.
pub fn is_last_window_kept(collect: &Collector) -> bool {
    let sql = format!(
        "SELECT max(time) < (SELECT max(window_to) FROM results WHERE specifier = '{MEANS}') FROM samples \
         WHERE specifier = '{ROWS}'"
    );
    collect.query(&sql).is_ok_and(|rows| rows[0][0] == 1)
}

/// Judges what the collect keeps: every row once, no gap, every window computed anew; how many windows.
///
/// # Errors
/// Something is not as it would be if the VM had never migrated.
pub fn judge(collect: &Collector, stored: u64) -> Result<usize> {
    let expected = windows(&rows(collect, stored)?);
    let kept = kept_windows(collect)?;
    for (from, window) in &expected {
        let found = kept
            .get(from)
            .with_context(|| format!("no window of {from}"))?;
        let same = found.count == window.count && (found.mean - window.mean).abs() < 1e-6;
        ensure!(
            same,
            "the window of {from} is {found:?}, its rows make {window:?}"
        );
    }
    ensure!(
        kept.len() == expected.len(),
        "windows of no rows: {} {}",
        kept.len(),
        expected.len()
    );
    for of in ["gaps", "missing"] {
        let found = collect.query(&format!(
            "SELECT count(*) FROM {of} WHERE point LIKE 'unencrypted/%'"
        ))?;
        ensure!(found[0][0] == 0, "{of}: {found:?}");
    }
    Ok(expected.len())
}

/// Rows a second by the guest's own clock, which stands still while the VM does.
///
/// # Errors
/// There are none.
pub fn rate(collect: &Collector) -> Result<f64> {
    let sql = format!(
        "SELECT (count(*) - 1) * 1e6 / (max(time) - min(time)) FROM samples \
         WHERE point = 'unencrypted/load' AND specifier = '{ROWS}'"
    );
    let found = collect.query(&sql)?;
    found[0][0].as_f64().context("two rows")
}

/// When rows came that had not come before.
pub fn new_rows(messages: &[Received]) -> Vec<Instant> {
    let mut seen = BTreeSet::new();
    let mut arrivals = Vec::new();
    for message in messages {
        let event: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let samples = event["data"]["samples"].as_array();
        let numbers = samples
            .into_iter()
            .flatten()
            .filter_map(|s| s["seq"].as_u64());
        // Every one: whichever is new counts.
        if numbers.filter(|n| seen.insert(*n)).count() > 0 {
            arrivals.push(message.at);
        }
    }
    arrivals
}

/// The longest time without a new row, around each migration: from its begin to three seconds after its end.
pub fn gaps(messages: &[Received], migrations: &[(Instant, Instant)]) -> Vec<Duration> {
    let arrivals = new_rows(messages);
    let after = Duration::from_secs(3);
    let longest = |(begin, end): &(Instant, Instant)| {
        let pairs = arrivals.iter().zip(arrivals.iter().skip(1));
        let around = pairs.filter(|(one, next)| *next >= begin && **one <= *end + after);
        around
            .map(|(one, next)| *next - *one)
            .max()
            .unwrap_or_default()
    };
    migrations.iter().map(longest).collect()
}

/// The median, and the longest.
pub fn median_and_most(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}
