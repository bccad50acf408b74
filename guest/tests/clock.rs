//! A clock that jumps by years, forwards and back (libfaketime, in the daemon alone): rows stay in order,
//! and what waits does not wait for the clock. Without libfaketime these tests say nothing.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::Guest;
use common::host::Collector;
use common::ledger::{Writers, judge_database, rows_in};

fn faketime() -> Option<PathBuf> {
    let library = "faketime/libfaketime.so.1";
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
    ];
    let mut places = folders.iter().map(|folder| Path::new(folder).join(library));
    places.find(|place| place.exists())
}

/// Sets the daemon's clock so far from the right time; it is seen by the next reading.
fn jump(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn a_clock_that_jumps_by_years_changes_no_order_and_no_timeout() {
    let Some(library) = faketime() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    jump(&clock, "+0");
    let wrapper = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let guest = Guest::start_under(&wrapper.each_ref().map(|w| &**w), &[]);
    let collector = Collector::start(&guest.socket());
    let writers = Writers::start(&guest.mount(), 2, usize::MAX);
    common::until("stores", || writers.noted() > 20);
    for offset in ["+5y", "-5y", "+20y", "-1y", "+0"] {
        let (noted, arrived) = (writers.noted(), collector.count());
        jump(&clock, offset);
        common::until("stores and rows at the host to go on", || {
            writers.noted() > noted + 50 && collector.count() > arrived + 50
        });
    }
    let other = guest.db("unencrypted");
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waited = Instant::now();
    jump(&clock, "+9y");
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
    let epochs = rows.last().unwrap().epoch - rows[0].epoch;
    assert_eq!(epochs, 2, "one for each time that it went back");
    collector.stop();
}
