//! The descriptor changes while rows are stored all the time: what is delivered, how, and when changes, and
//! no row is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::ledger::Ledger;
use vmkpi_tests::soak::descriptors::FLIPS;
use vmkpi_tests::wait_for;

fn with(flip: &str, delivery_ms: u64) -> String {
    let every = EVERY_ROW.replace(
        "[[monitor]]\nid = \"every-blob\"",
        &format!("delivery_ms = {delivery_ms}\n[[monitor]]\nid = \"every-blob\""),
    );
    format!("{every}[[monitor]]\nid = \"flip\"\npoint = \"unencrypted/*\"\n{flip}\n")
}

fn is_flip(line: &Value) -> bool {
    line["specifier"] == "flip" && line["point"] == "unencrypted/load"
}

/// A number of the exporter, of the domain.
fn metric(chain: &Chain, name: &str) -> Option<f64> {
    let page = chain.scrape().ok()?;
    let line = page.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// A revision in force: the file's last change is taken over when messages of it arrive, or, where a
/// predicate keeps all back, when it has done so.
fn flips_through(chain: &Chain) -> Result<()> {
    for (n, flip) in (1..).zip(FLIPS) {
        // A column that is not there is an error; what is only not true is kept back.
        let count = match flip.contains("absent") {
            true => "vmkpi_when_errors_total",
            false => "vmkpi_when_suppressed_total",
        };
        // A VM's series are there with its first report.
        let before = wait_for(10, "the count", || metric(chain, count))?;
        let shown = chain.lines()?.len();
        chain.describe(&with(flip, 1000 * (n % 2)))?;
        let raw = !flip.contains("function");
        let none = flip.contains("absent") || flip.contains("1000000");
        wait_for(40, flip, || match none {
            true => (metric(chain, count)? > before + 1.0).then_some(()),
            false => {
                let lines = chain.lines().ok()?;
                let mut new = lines[shown..].iter().filter(|l| is_flip(l));
                new.any(|l| l["seq"].is_u64() == raw).then_some(())
            }
        })
        .with_context(|| chain.words())?;
    }
    Ok(())
}

#[test]
fn a_descriptor_that_changes_all_the_time_loses_no_row() -> Result<()> {
    let chain = Chain::start(&with("", 0))?;
    let ledger = Ledger::start(&chain, "load")?.of_specifier("every-row");
    flips_through(&chain)?;
    std::thread::sleep(Duration::from_secs(1));
    ledger.judge(&chain, 40)?;
    let lines = chain.lines()?;
    let lost: Vec<_> = lines
        .iter()
        .filter(|l| l.get("missing").is_some() || l.get("gap").is_some())
        .collect();
    ensure!(
        lost.is_empty(),
        "what each specifier accounts for has no hole: {lost:?}"
    );
    Ok(())
}

/// Broken, edited in place, replaced: the one before stays in force, it is said once, and shown.
#[test]
fn a_broken_descriptor_changes_nothing_and_is_said_once() -> Result<()> {
    let chain = Chain::start(&with("", 0))?;
    let ledger = Ledger::start(&chain, "load")?.of_specifier("every-row");
    chain.describe(&with("when = \"n >\"", 0))?;
    wait_for(40, "the refusal on /metrics", || {
        (metric(&chain, "vmkpi_descriptor_valid")? == 0.0).then_some(())
    })?;
    let shown = chain.lines()?.len();
    chain.wait_for_lines(40, "rows by the descriptor before", |lines| {
        lines[shown..].iter().filter(|l| is_flip(l)).count() > 500
    })?;
    ensure!(
        metric(&chain, "vmkpi_descriptor_errors_total") == Some(1.0),
        "counted once"
    );
    let said = chain.host.words();
    ensure!(
        said.matches("descriptor refused").count() == 1,
        "said once: {said}"
    );
    ensure!(
        said.contains("monitor[3].when: not CEL"),
        "with its key: {said}"
    );
    // In place this time.
    std::fs::write(
        chain.folder().join("descriptor.toml"),
        with("interval_ms = 1000", 0),
    )?;
    wait_for(40, "the right one in force", || {
        (metric(&chain, "vmkpi_descriptor_valid")? == 1.0).then_some(())
    })?;
    ledger.judge(&chain, 40)?;
    Ok(())
}
