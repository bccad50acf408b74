//! Whatever may go wrong, at random: half a minute of it in every run of the tests, as long as one likes in
//! `make soak`.

use std::time::Duration;

use anyhow::Result;
use vmkpi_tests::seed::Seed;
use vmkpi_tests::soak::footprint::Growth;
use vmkpi_tests::soak::{Soak, run};

/// A few seconds of trouble at a time, and everybody hurt several times.
const SHORT: Soak = Soak {
    seed: 1,
    lasts: Duration::from_secs(25),
    longest: Duration::from_millis(2500),
    pause: Duration::from_millis(700),
    hosts: 2,
    guests: 2,
    store_pause: Duration::from_millis(15),
    broker_kills: false,
    growth: Growth {
        rss_kib: 16 << 10,
        threads: 4,
        descriptors: 16,
    },
};

#[test]
fn whatever_goes_wrong_for_half_a_minute_the_ledger_holds() -> Result<()> {
    eprintln!("{}", run(&SHORT)?);
    Ok(())
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[ignore = "takes ten minutes and more; make soak"]
fn whatever_goes_wrong_for_long_the_ledger_holds_and_memory_is_flat() -> Result<()> {
    let soak = Soak {
        seed: Seed::of(0).0,
        lasts: Duration::from_secs(variable("SOAK_SECONDS").unwrap_or(600)),
        longest: Duration::from_secs(8),
        pause: Duration::from_secs(2),
        guests: 3,
        broker_kills: variable("SOAK_BROKER_KILLS").unwrap_or(1) > 0,
        ..SHORT
    };
    eprintln!("{}", run(&soak)?);
    Ok(())
}
