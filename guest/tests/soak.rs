//! A million stores by sixteen writers. `make soak` runs it, in release; it takes minutes and prints figures.
//! `VMKPI_SOAK_STORES=n` for another number.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test; its figures are for a person"
)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::host::{Collector, Told};
use common::ledger::{Notes, Verdict, Writers, judge, name, rows_in};
use common::seed::Seed;
use common::{Guest, memory_bytes};

const WRITERS: usize = 16;

/// What the daemon may use with sixteen tables and a host: its own pages are a third of it, the rest is the
/// program and its libraries.
const MEMORY_BYTES: u64 = 8_000_000;

/// How much of it may come in the second half of the stores.
const GROWTH_BYTES: u64 = 256 << 10;

/// Acknowledged rows that are kept: few, so that retention has most of a million rows to take.
const RETAIN_ROWS: &str = "1000";

fn quota() -> usize {
    let stores = std::env::var("VMKPI_SOAK_STORES").ok();
    let stores: usize = stores.map_or(1_000_000, |text| text.parse().unwrap());
    stores.div_ceil(WRITERS)
}

/// Waits until every row that the databases have has arrived.
fn wait_for_arrival(guest: &Guest, collector: &Collector) {
    let stored = || -> u64 {
        let status = guest.status();
        let points = status["points"].as_array().unwrap();
        points.iter().map(|p| p["last"].as_u64().unwrap()).sum()
    };
    let expected = stored();
    let begun = Instant::now();
    while collector.count() < expected {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "rows do not arrive"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ledger against what arrived over the link, and what is still held against both.
fn judge_told(guest: &Guest, told: Told, notes: &[Notes], kills: usize) -> Verdict {
    let by_name: BTreeMap<_, _> = told
        .into_iter()
        .map(|(table, rows)| (table.point.to_string(), rows))
        .collect();
    assert_eq!(by_name.len(), WRITERS, "one stream");
    let mut verdict = Verdict::default();
    for (number, notes) in notes.iter().enumerate() {
        let table = name(number);
        let rows = &by_name[&format!("unencrypted/{table}")];
        verdict += judge(&table, rows, notes, kills);
        let held = rows_in(&guest.state().join("unencrypted.db"), &table);
        assert_eq!(
            held,
            rows[rows.len() - held.len()..],
            "{table}: the end is what arrived"
        );
    }
    verdict
}

fn say_size(guest: &Guest) {
    let size = |name| std::fs::metadata(guest.state().join(name)).map_or(0, |m| m.len() >> 10);
    println!(
        "unencrypted.db {} KiB, log {} KiB, rows held {}",
        size("unencrypted.db"),
        size("unencrypted.db-wal"),
        guest.status()["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["rows"].as_u64().unwrap())
            .sum::<u64>()
    );
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_million_stores_and_a_kill_every_few_seconds_are_a_million_rows_that_arrive_once() {
    let mut seed = Seed::of(0);
    let mut guest = Guest::start_with(&["--retain-rows", RETAIN_ROWS]);
    let collector = Collector::start(&guest.socket());
    let writers = Writers::start(&guest.mount(), WRITERS, quota());
    let begun = Instant::now();
    let (mut kills, mut peaks) = (0, Vec::new());
    while !writers.done() {
        let life = Duration::from_millis(1_000 + seed.below(4_000));
        let born = Instant::now();
        while born.elapsed() < life && !writers.done() {
            std::thread::sleep(Duration::from_millis(20));
        }
        peaks.push(memory_bytes(guest.pid(), "VmHWM:"));
        if !writers.done() {
            guest.kill();
            guest.restart();
            kills += 1;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let notes = writers.stop();
    wait_for_arrival(&guest, &collector);
    say_size(&guest);
    let verdict = judge_told(&guest, collector.stop(), &notes, kills);
    println!("seed {:?}, {kills} kills: {verdict:?}", Seed::of(0).0);
    println!(
        "{:.0} stores/s over {took:.0} s, all arrived after {:.0} s; peak memory of {} lives at most {} KiB",
        verdict.noted as f64 / took,
        begun.elapsed().as_secs_f64(),
        peaks.len(),
        peaks.iter().max().unwrap() >> 10
    );
    assert!(peaks.iter().all(|peak| *peak < MEMORY_BYTES), "{peaks:?}");
}

#[test]
#[ignore = "takes minutes; make soak"]
fn a_million_stores_in_one_life_leave_memory_flat() {
    let guest = Guest::start_with(&["--retain-rows", RETAIN_ROWS]);
    let collector = Collector::start(&guest.socket());
    let writers = Writers::start(&guest.mount(), WRITERS, quota());
    let begun = Instant::now();
    let all = (quota() * WRITERS) as u64;
    let mut samples = Vec::new();
    while !writers.done() {
        std::thread::sleep(Duration::from_millis(200));
        samples.push((writers.noted(), memory_bytes(guest.pid(), "VmRSS:")));
    }
    let took = begun.elapsed().as_secs_f64();
    let notes = writers.stop();
    wait_for_arrival(&guest, &collector);
    samples.push((all, memory_bytes(guest.pid(), "VmRSS:")));
    let peak = memory_bytes(guest.pid(), "VmHWM:");
    say_size(&guest);
    let verdict = judge_told(&guest, collector.stop(), &notes, 0);
    let half = samples
        .iter()
        .find(|(noted, _)| *noted >= all / 2)
        .unwrap()
        .1;
    let last = samples.last().unwrap().1;
    println!(
        "{verdict:?}, {:.0} stores/s over {took:.0} s",
        verdict.noted as f64 / took
    );
    for tenth in 0..=10 {
        let sample = samples.iter().find(|(noted, _)| *noted >= all * tenth / 10);
        println!(
            "resident at {:3} %: {:5} KiB",
            tenth * 10,
            sample.unwrap().1 >> 10
        );
    }
    println!("peak (VmHWM) {} KiB", peak >> 10);
    assert!(peak < MEMORY_BYTES, "{peak}");
    assert!(last <= half + GROWTH_BYTES, "{half} to {last}");
}
