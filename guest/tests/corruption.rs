//! Bytes that change on the disk while the daemon does not run: noticed when it starts, or without effect;
//! never is the store silently another one.
//!
//! `VMKPI_SEED=n` shifts every seed. A failure names the place.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test, and says what was done until then"
)]

mod common;

use std::path::Path;

use common::Guest;
use common::ledger::{Arrived, Notes, Writers, judge_database, name, rows_in};
use common::seed::Seed;

const WRITERS: usize = 4;

/// A store whose daemon was killed, so that its log is still there.
fn stored() -> (Guest, Vec<Notes>) {
    let mut guest = Guest::start();
    let notes = Writers::start(&guest.mount(), WRITERS, 150).join();
    guest.kill();
    (guest, notes)
}

/// Copies the store's files back or away.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    for file in [
        "unencrypted.db",
        "unencrypted.db-wal",
        "encrypted.db",
        "encrypted.db-wal",
    ] {
        if from.join(file).exists() {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
}

fn flip(file: &Path, at: usize, bits: u8) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= bits;
    std::fs::write(file, bytes).unwrap();
}

fn contents(guest: &Guest) -> Vec<Vec<Arrived>> {
    let database = guest.state().join("unencrypted.db");
    (0..WRITERS)
        .map(|number| rows_in(&database, &name(number)))
        .collect()
}

#[test]
fn a_changed_byte_of_the_log_is_noticed_at_start_and_set_aside_or_at_its_end_like_a_power_cut() {
    let (mut guest, notes) = stored();
    let kept = tempfile::tempdir().unwrap();
    copy(&guest.state(), kept.path());
    // The log has its length from the start: what was written ends at its last byte that is not zero.
    let log = std::fs::read(kept.path().join("unencrypted.db-wal")).unwrap();
    let length = 1 + log.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let mut seed = Seed::of(0);
    let mut noticed = 0;
    for _ in 0..10 {
        let (at, bits) = (12 + seed.below(length - 12), 1 << seed.below(8));
        copy(kept.path(), &guest.state());
        flip(&guest.state().join("unencrypted.db-wal"), at as usize, bits);
        guest.restart();
        let aside = guest.status()["set_aside"].as_array().unwrap().len();
        let lost: usize = contents(&guest)
            .iter()
            .map(Vec::len)
            .sum::<usize>()
            .abs_diff(600);
        println!("byte {at} of {length}: {aside} set aside, {lost} rows not there");
        // The last commits of a log cannot be told from what the power cut short.
        assert!(
            aside == 1 || lost <= 2 * WRITERS,
            "byte {at} of {length}: {lost} rows lost in silence"
        );
        guest
            .write("unencrypted/w00", "n,half\n1000,1000.5\n")
            .unwrap();
        guest.kill();
        assert_eq!(aside == 1, guest.log().contains("ERROR"), "{}", guest.log());
        noticed += aside;
    }
    assert!(noticed > 5, "{noticed} of 10");
    copy(kept.path(), &guest.state());
    guest.restart();
    judge_database(&guest.state().join("unencrypted.db"), &notes, 0);
}

#[test]
fn changed_bytes_of_a_database_never_bring_down_the_daemon_or_change_rows_in_silence() {
    let (mut guest, _) = stored();
    // Ends in order, so everything is in the database.
    guest.restart();
    guest.terminate();
    let kept = tempfile::tempdir().unwrap();
    copy(&guest.state(), kept.path());
    let length = std::fs::metadata(kept.path().join("unencrypted.db"))
        .unwrap()
        .len();
    let mut seed = Seed::of(1);
    let mut noticed = 0;
    for _ in 0..10 {
        // A sector, as disks lose them.
        let from = seed.below(length / 512) * 512;
        copy(kept.path(), &guest.state());
        for at in from..from + 512 {
            flip(&guest.state().join("unencrypted.db"), at as usize, 0xff);
        }
        guest.restart();
        let aside = guest.status()["set_aside"].as_array().unwrap().len();
        println!("sector at {from} of {length}: {aside} set aside");
        guest
            .write("unencrypted/w00", "n,half\n1000,1000.5\n")
            .unwrap();
        guest.kill();
        noticed += aside;
    }
    assert!(noticed >= 7, "{noticed} of 10");
}
