//! What a message must say, computed anew from the rows in the guest's database: the rules of sampling and
//! windows (docs/DELIVERY.md) written down a second time, the slow way.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use vmkpi::descriptor::{Format, Function, Monitor};
use vmkpi::message::{Body, Event, Processed, Sample, SampleBody};
use vmkpi::value::Value;

/// A row of the guest's database.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its number.
    pub seq: u64,
    /// Its epoch.
    pub epoch: u64,
    /// When it was stored, in microseconds.
    pub micros: u64,
    /// What is in its column `n`; in `half` there is half more.
    pub n: u64,
}

/// The rows of a table, by number.
pub type Rows = BTreeMap<u64, Row>;

/// Checks what a message says about its rows. `false`: rows are gone that it would take.
///
/// # Errors
/// It says something else than it should.
pub fn check(monitor: &Monitor, event: &Event, rows: &Rows) -> Result<bool> {
    let (after, through) = (event.after.seq, event.through.seq);
    let own: Vec<_> = rows
        .range(after + 1..through.max(after) + 1)
        .map(|(_, row)| row.clone())
        .collect();
    if own.len() as u64 != through - after {
        return Ok(false);
    }
    let windows = windows(monitor, &own);
    match (&event.body, monitor.format) {
        (Body::Raw(samples), Format::Raw) => check_raw(monitor, samples, &windows)?,
        (Body::Processed(result), Format::Processed(function)) => {
            let (last, before) = windows.split_last().context("a result of no rows")?;
            ensure!(
                result.rows_after + 1 == last[0].seq,
                "its window begins at {}",
                last[0].seq
            );
            check_result(monitor, function, result, last)?;
            check_border(monitor, result, last, rows)?;
            for window in before {
                ensure!(!is_wanted(monitor, function, window), "a result is missing");
            }
        }
        (Body::Raw(samples), Format::Processed(function)) => {
            ensure!(samples.is_empty(), "samples of a processed specifier");
            for window in &windows {
                ensure!(!is_wanted(monitor, function, window), "a result is missing");
            }
        }
        (Body::Gap(_), _) => {}
        _ => bail!("a result of a raw specifier"),
    }
    Ok(true)
}

/// Which window a row is in.
fn window_of(monitor: &Monitor, row: &Row) -> (u64, u64) {
    let number = (row.micros / 1000).checked_div(monitor.window_ms());
    (row.epoch, number.unwrap_or(row.seq))
}

fn windows(monitor: &Monitor, rows: &[Row]) -> Vec<Vec<Row>> {
    let same = |a: &Row, b: &Row| window_of(monitor, a) == window_of(monitor, b);
    rows.chunk_by(same).map(<[Row]>::to_vec).collect()
}

/// In each interval the last row.
fn samples(monitor: &Monitor, window: &[Row]) -> Vec<Row> {
    let interval = |row: &Row| {
        let number = (row.micros / 1000).checked_div(monitor.interval_ms);
        number.unwrap_or(row.seq)
    };
    let chunks = window.chunk_by(|a, b| interval(a) == interval(b));
    chunks.filter_map(|c| c.last().cloned()).collect()
}

fn holds(monitor: &Monitor, columns: &BTreeMap<&str, Value>) -> bool {
    let Some(when) = &monitor.when else {
        return true;
    };
    let lookup = |name: &str| columns.get(name).map(Cow::Borrowed);
    when.holds(&lookup).unwrap_or(false)
}

fn check_raw(monitor: &Monitor, got: &[Sample], windows: &[Vec<Row>]) -> Result<()> {
    let all = windows.iter().flat_map(|window| samples(monitor, window));
    let wanted: Vec<_> = all.filter(|row| holds(monitor, &columns(row))).collect();
    let numbers = |seqs: &mut dyn Iterator<Item = u64>| seqs.collect::<Vec<_>>();
    let expected = numbers(&mut wanted.iter().map(|row| row.seq));
    let came = numbers(&mut got.iter().map(|sample| sample.seq));
    ensure!(
        expected == came,
        "samples {came:?} in place of {expected:?}"
    );
    for (row, sample) in wanted.iter().zip(got) {
        let time = i64::try_from(row.micros)?;
        ensure!(
            number_of(sample)? == row.n && sample.time.as_micros() == time,
            "{sample:?} in place of {row:?}"
        );
    }
    Ok(())
}

/// The number that the writer has given to a store.
///
/// # Errors
/// It is none of the writer's.
pub fn number_of(sample: &Sample) -> Result<u64> {
    let n = match &sample.body {
        SampleBody::Values(values) => {
            let values: BTreeMap<_, _> = values.iter().collect();
            match (values.get("n"), values.get("half")) {
                (Some(Value::Integer(n)), Some(Value::Real(half))) if *half == *n as f64 + 0.5 => {
                    u64::try_from(*n).ok()
                }
                _ => None,
            }
        }
        SampleBody::Data(bytes) => {
            let text = std::str::from_utf8(&bytes.0)?;
            let number = text
                .strip_prefix("n,half\n")
                .and_then(|t| t.split_once(','));
            number.and_then(|(n, _)| n.parse().ok())
        }
    };
    n.with_context(|| format!("changed: {sample:?}"))
}

fn columns(row: &Row) -> BTreeMap<&'static str, Value> {
    let n = Value::Integer(i64::try_from(row.n).unwrap_or(i64::MAX));
    BTreeMap::from([("n", n), ("half", Value::Real(row.n as f64 + 0.5))])
}

fn apply(function: Function, samples: &[Row], column: &str) -> Result<f64> {
    let more = if column == "half" { 0.5 } else { 0.0 };
    let values: Vec<f64> = samples.iter().map(|row| row.n as f64 + more).collect();
    let sum: f64 = values.iter().sum();
    Ok(match function {
        Function::Count => values.len() as f64,
        Function::Sum => sum,
        Function::Mean => sum / values.len() as f64,
        Function::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        Function::Max => values.iter().copied().fold(0.0, f64::max),
        Function::Last => values.last().copied().context("no sample")?,
        other => bail!("the soak has no {other:?}"),
    })
}

fn is_wanted(monitor: &Monitor, function: Function, window: &[Row]) -> bool {
    let samples = samples(monitor, window);
    let result = |column| apply(function, &samples, column).map_or(Value::Null, Value::Real);
    let columns = BTreeMap::from([("n", result("n")), ("half", result("half"))]);
    holds(monitor, &columns)
}

fn check_result(
    monitor: &Monitor,
    function: Function,
    result: &Processed,
    window: &[Row],
) -> Result<()> {
    ensure!(
        is_wanted(monitor, function, window),
        "a result that is not wanted"
    );
    let samples = samples(monitor, window);
    for column in ["n", "half"] {
        let (expected, value) = (apply(function, &samples, column)?, result.values[column]);
        ensure!(
            (value - expected).abs() <= 1e-9 * expected.abs(),
            "{column} is {value} in place of {expected}"
        );
        let (count, expected) = (result.count[column], samples.len() as u64);
        ensure!(count == expected, "{count} samples in place of {expected}");
    }
    let columns: BTreeSet<_> = result.values.keys().map(|name| &**name).collect();
    ensure!(columns.len() == 2, "columns {columns:?}");
    let begin = window_of(monitor, &window[0]).1 * monitor.window_ms() * 1000;
    ensure!(
        u64::try_from(result.from.as_micros())? == begin
            && u64::try_from(result.to.as_micros())? == begin + monitor.window_ms() * 1000,
        "its window is another"
    );
    Ok(())
}

/// A window has all of its rows: neither the row before it nor the one after it is its own, or it says so.
fn check_border(monitor: &Monitor, result: &Processed, window: &[Row], rows: &Rows) -> Result<()> {
    let own = window_of(monitor, &window[0]);
    let is_own = |seq: u64| rows.get(&seq).map(|row| window_of(monitor, row) == own);
    if let Some(before) = is_own(result.rows_after) {
        ensure!(before == result.partial, "partial is {}", result.partial);
    }
    let after = window.last().map_or(0, |row| row.seq + 1);
    ensure!(
        is_own(after) != Some(true),
        "row {after} is missing from it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::clock::Timestamp;
    use vmkpi::delivery::producer::{Identity, Output, Producer, Source};
    use vmkpi::delivery::spool::{Spool, SpoolLimits};
    use vmkpi::descriptor::{Descriptor, Spelling};
    use vmkpi::link::Payload;
    use vmkpi::position::{Nonce, RowKey, StreamId};

    /// What a producer publishes of `rows`, and the specifier.
    fn published(specifier: &str, rows: &Rows) -> (Monitor, Vec<Event>) {
        let text = format!(
            "vm = \"v\"\nprimary_site = \"s\"\n[[monitor]]\nid = \"m\"\npoint = \"unencrypted/*\"\n{specifier}\n"
        );
        let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
        let descriptor = Descriptor::parse(&text, Spelling::Toml, &no_file).unwrap();
        let mut spool = Spool::new(StreamId(1), SpoolLimits::default());
        let mut producer = Producer::new(Source::Kpi, Identity::default(), &descriptor, 0);
        producer.connected(Nonce(1), 0);
        for row in rows.values() {
            spool.append(
                &"unencrypted/a".parse().unwrap(),
                ["n".into(), "half".into()].into(),
                Payload::Values(columns(row).into_values().rev().collect()),
                RowKey(row.seq),
                Timestamp::from_micros(i64::try_from(row.micros).unwrap()),
            );
        }
        let mut events = Vec::new();
        for tick in 0..3 {
            while let Some(output) = producer.poll() {
                match output {
                    Output::Send(line) => spool.on_message(line, &mut || StreamId(2)),
                    Output::Publish(publication) => events.push(*publication.event),
                }
                while let Some(line) = spool.poll() {
                    producer.on_message(line, 0);
                }
            }
            spool.tick(Timestamp::from_micros(100_000_000 + tick));
            while let Some(line) = spool.poll() {
                producer.on_message(line, 0);
            }
        }
        let monitor = descriptor.monitors.iter().find(|m| m.id.as_str() == "m");
        (monitor.unwrap().clone(), events)
    }

    fn rows() -> Rows {
        let row = |seq: u64| Row {
            seq,
            epoch: 0,
            micros: 10_000_000 + seq * 130_000,
            n: 7 * seq,
        };
        (1..=40).map(|seq| (seq, row(seq))).collect()
    }

    #[test]
    fn every_specifier_of_the_soak_is_understood_and_a_changed_row_is_noticed() {
        for specifier in crate::soak::descriptors::FLIPS {
            let rows = rows();
            let (monitor, events) = published(specifier, &rows);
            for event in &events {
                assert!(check(&monitor, event, &rows).unwrap(), "{specifier}");
            }
            if specifier.contains("when") {
                continue;
            }
            let mut changed = rows.clone();
            for row in changed.values_mut() {
                row.n += 1;
                row.micros += 1_500_000;
            }
            let wrong = |event: &&Event| check(&monitor, event, &changed).is_err();
            assert!(events.iter().any(|e| wrong(&e)), "{specifier}");
        }
    }

    #[test]
    fn a_window_that_lacks_a_row_is_noticed() {
        let all = rows();
        let specifier = "delivery_ms = 1000\nfunction = \"count\"";
        let part: Rows = all.clone().into_iter().take(22).collect();
        let (monitor, events) = published(specifier, &part);
        let last = events
            .iter()
            .rfind(|e| matches!(e.body, Body::Processed(_)))
            .unwrap();
        assert!(check(&monitor, last, &part).unwrap());
        let error = check(&monitor, last, &all).unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}
