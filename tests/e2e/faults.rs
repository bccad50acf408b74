//! A program or the broker goes in the middle of stores and comes back: every store that returned
//! arrives, none twice.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::ledger::Ledger;
use vmkpi_tests::wait_for;

/// How long the broker is away.
const OUTAGE: Duration = Duration::from_secs(30);

#[test]
fn a_host_that_is_killed_again_and_again_loses_and_repeats_nothing() -> Result<()> {
    let mut chain = Chain::start(EVERY_ROW)?;
    let ledger = Ledger::start(&chain, "load")?;
    for pause_ms in [700, 150, 1300, 40] {
        sleep(Duration::from_millis(pause_ms));
        chain.kill_host()?;
    }
    sleep(Duration::from_secs(1));
    ledger.judge(&chain, 40)?;
    Ok(())
}

#[test]
fn a_host_that_polls_and_is_killed_loses_and_repeats_nothing() -> Result<()> {
    let mut chain = Chain::start_with(EVERY_ROW, &[], &["--link.poll-interval=1"])?;
    let ledger = Ledger::start(&chain, "load")?;
    for pause_ms in [1300, 400] {
        sleep(Duration::from_millis(pause_ms));
        chain.kill_host()?;
    }
    sleep(Duration::from_secs(2));
    ledger.judge(&chain, 40)?;
    Ok(())
}

#[test]
fn a_guest_that_is_killed_again_and_again_keeps_what_it_confirmed() -> Result<()> {
    let mut chain = Chain::start(EVERY_ROW)?;
    let ledger = Ledger::start(&chain, "load")?;
    for pause_ms in [700, 150, 1300, 40] {
        sleep(Duration::from_millis(pause_ms));
        chain.kill_guest()?;
    }
    sleep(Duration::from_secs(1));
    ledger.judge(&chain, 40)?;
    Ok(())
}

#[test]
fn a_broker_that_hangs_for_half_a_minute_costs_nothing() -> Result<()> {
    let mut chain = Chain::start(EVERY_ROW)?;
    let ledger = Ledger::start(&chain, "load")?;
    sleep(Duration::from_secs(1));
    chain.broker.process().signal(Signal::STOP)?;
    sleep(OUTAGE);
    chain.broker.process().signal(Signal::CONT)?;
    sleep(Duration::from_secs(1));
    ledger.judge(&chain, 60)?;
    Ok(())
}

#[test]
fn a_broker_that_is_away_for_half_a_minute_costs_nothing() -> Result<()> {
    let mut chain = Chain::start(EVERY_ROW)?;
    let ledger = Ledger::start(&chain, "load")?;
    sleep(Duration::from_secs(1));
    chain.broker.restart_after(OUTAGE)?;
    sleep(Duration::from_secs(1));
    ledger.judge(&chain, 60)?;
    Ok(())
}

#[test]
fn rows_lost_while_no_host_was_there_arrive_as_a_gap_and_the_guest_is_acknowledged_past_it()
-> Result<()> {
    let bounds = ["--retain-rows=5", "--drop-unacknowledged"];
    let mut chain = Chain::start_with(EVERY_ROW, &bounds, &[])?;
    let store = |chain: &Chain, n: u64| {
        std::fs::write(chain.mount().join("unencrypted/w"), format!("n\n{n}\n"))
    };
    let marks = |chain: &Chain| -> Result<(u64, u64)> {
        let sql = "SELECT acked_seq, trimmed_seq FROM \".marks\" WHERE name = 'w'";
        let rows = chain.query("unencrypted.db", sql)?;
        let number = |at: usize| {
            rows.first()
                .and_then(|r| r[at].as_u64())
                .unwrap_or_default()
        };
        Ok((number(0), number(1)))
    };
    store(&chain, 1)?;
    wait_for(30, "the first row to be acknowledged", || {
        marks(&chain).ok().filter(|(acked, _)| *acked == 1)
    })?;
    chain.without_host(|chain| {
        for n in 2..=20 {
            store(chain, n)?;
        }
        wait_for(30, "rows to go", || {
            marks(chain).ok().filter(|(_, trimmed)| *trimmed == 15)
        })?;
        Ok(())
    })?;
    let of_point = |line: &&serde_json::Value| line["point"] == "unencrypted/w";
    let lines = chain.wait_for_lines(60, "the last row", |lines| {
        lines.iter().filter(of_point).any(|l| l["seq"] == 20)
    })?;
    let lines: Vec<_> = lines.iter().filter(of_point).collect();
    let gaps: Vec<_> = lines.iter().filter(|l| l["gap"].is_string()).collect();
    ensure!(gaps.len() == 1, "{lines:?}");
    let told = (&gaps[0]["gap"], &gaps[0]["after"], &gaps[0]["through"]);
    ensure!(
        told.0 == "retention_rows" && told.1 == 1 && told.2 == 15,
        "{told:?}"
    );
    let seqs: Vec<_> = lines.iter().filter_map(|l| l["seq"].as_u64()).collect();
    ensure!(seqs == [1, 16, 17, 18, 19, 20], "{seqs:?}");
    wait_for(30, "the guest to be acknowledged", || {
        marks(&chain).ok().filter(|(acked, _)| *acked == 20)
    })?;
    Ok(())
}
