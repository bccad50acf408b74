//! A clock that jumps by years, forwards and back (libfaketime, in the daemon alone): rows stay in order,
//! and what waits does not wait for the clock. Without libfaketime these tests say nothing.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::time::Instant;

use common::Guest;
use common::faketime::{Clock, forget};
use common::host::Collector;
use common::ledger::{Arrived, Writers, judge_database, rows_in};

#[test]
fn a_clock_that_jumps_by_years_changes_no_order_and_no_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = Clock::new(&folder.path().join("clock")) else {
        return;
    };
    let clock = clock.unwrap();
    let variables = clock.environment().into_iter();
    let variables = variables.map(|(name, value)| format!("{name}={value}"));
    let wrapper: Vec<_> = std::iter::once("env".to_owned()).chain(variables).collect();
    let wrapper: Vec<_> = wrapper.iter().map(|w| &**w).collect();
    let guest = Guest::start_under(&wrapper, &[]);
    let collector = Collector::start(&guest.socket());
    let writers = Writers::start(&guest.mount(), 2, usize::MAX);
    common::until("stores", || writers.noted() > 20);
    for offset in ["+5y", "-5y", "+20y", "-1y", "+0"] {
        let (noted, arrived) = (writers.noted(), collector.count());
        clock.set(offset).unwrap();
        common::until("stores and rows at the host to go on", || {
            writers.noted() > noted + 50 && collector.count() > arrived + 50
        });
    }
    let other = guest.db("unencrypted");
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waited = Instant::now();
    clock.set("+9y").unwrap();
    assert!(guest.write("unencrypted/w00", "n,half\n1,1.5\n").is_err());
    assert!((1..10).contains(&waited.elapsed().as_secs()), "{waited:?}");
    other.execute_batch("ROLLBACK").unwrap();
    let notes = writers.stop();
    let database = guest.state().join("unencrypted.db");
    judge_database(&database, &notes, 0);
    let rows = rows_in(&database, "w00");
    let years = |micros: i64| micros / 31_557_600_000_000;
    let span = rows.iter().map(|r| years(r.time)).max().unwrap() - years(rows[0].time);
    assert!((19..=20).contains(&span), "the clock did jump: {span}");
    // The machine's own clock may be stepped too, by little.
    let day = 86_400_000_000;
    let back = |pair: &[Arrived], by: i64| pair[1].time + by < pair[0].time;
    for pair in rows.windows(2) {
        let begun = pair[1].epoch - pair[0].epoch;
        assert_eq!(begun, i64::from(back(pair, 0)), "{pair:?}");
    }
    let backs = rows.windows(2).filter(|pair| back(pair, day)).count();
    assert_eq!(backs, 2, "it was set back twice");
    collector.stop();
    let pid = guest.pid();
    drop(guest);
    forget(pid);
}
