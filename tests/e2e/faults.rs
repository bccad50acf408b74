//! A program or the broker goes in the middle of stores and comes back: every store that returned
//! arrives, none twice.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::ledger::Ledger;

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
    let mut chain = Chain::start_with(EVERY_ROW, &["--link.poll-interval=1"])?;
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
