//! The power fails at seeded moments: the store lies on a disk that loses whatever was not synced, sector by
//! sector ([`common::disk`]). Every store whose close returned 0 is there when the machine is back, and a
//! cut is never taken for corruption.
//!
//! `VMKPI_SEED=n` shifts every seed. A failure names the history whose seed it was.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test, and says what was done until then"
)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::Guest;
use common::disk::Disk;
use common::ledger::{Verdict, Writers, judge_database, judge_files};
use common::lossy::Lossy;
use common::seed::Seed;

const WRITERS: usize = 16;

/// The longest that a machine has power.
const LIFE: Duration = Duration::from_millis(120);

/// One life: the disk is mounted, the daemon runs, the power fails. Returns what is on the disk.
fn life(guest: &mut Guest, state: &Path, disk: Disk, seed: &mut Seed) -> Disk {
    // Half of the cuts come at a number of writes and syncs: also while the daemon starts, and in the
    // middle of a checkpoint; the others at a moment.
    let left = seed.coin().then(|| 1 + seed.below(1500));
    let lossy = Lossy::mount(disk, state, left);
    guest.relaunch();
    let length = match left {
        Some(_) => 4 * LIFE,
        None => Duration::from_micros(seed.below(LIFE.as_micros() as u64)),
    };
    let begun = Instant::now();
    while begun.elapsed() < length && !lossy.is_off() {
        std::thread::sleep(Duration::from_micros(200));
    }
    let found = lossy.cut(seed);
    guest.kill();
    found
}

/// Copies what is on a disk to a folder.
fn copy(disk: &mut Disk, folder: &Path) {
    for (name, ino) in disk.names.clone() {
        if let Some(file) = disk.file(ino) {
            std::fs::write(folder.join(name), &file.live).unwrap();
        }
    }
}

fn history(index: u64, cuts: usize) -> Verdict {
    let mut seed = Seed::of(index);
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("disk");
    std::fs::create_dir(&state).unwrap();
    let mut guest = Guest::launch(&[], &["--state", state.to_str().unwrap()]);
    // That one was on the disk below the mount.
    guest.kill();
    for entry in std::fs::read_dir(&state).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let writers = Writers::start(&guest.mount(), WRITERS, usize::MAX);
    let mut disk = Disk::default();
    for _ in 0..cuts {
        disk = life(&mut guest, &state, disk, &mut seed);
    }
    let lossy = Lossy::mount(disk, &state, None);
    guest.restart();
    let so_far = writers.noted();
    common::until("every writer to go on", || {
        writers.noted() >= so_far + 2 * WRITERS as u64
    });
    let notes = writers.stop();
    assert!(guest.status()["set_aside"].as_array().unwrap().is_empty());
    // And once more, with everything said to be stored.
    let mut found = lossy.cut(&mut seed);
    guest.kill();
    drop(lossy);
    copy(&mut found, &state);
    let database = state.join("unencrypted.db");
    let verdict = judge_database(&database, &notes, cuts + 1);
    guest.restart();
    judge_files(&guest.mount(), &database, WRITERS);
    guest.terminate();
    verdict
}

#[test]
fn after_a_hundred_power_cuts_every_store_that_was_confirmed_is_there_once() {
    let mut total = Verdict::default();
    for index in 0..10 {
        let begun = Instant::now();
        let verdict = std::panic::catch_unwind(|| history(index, 10));
        let Ok(verdict) = verdict else {
            panic!(
                "history {index} of VMKPI_SEED={:?}",
                std::env::var("VMKPI_SEED")
            );
        };
        println!("history {index}: {verdict:?} in {:?}", begun.elapsed());
        total += verdict;
    }
    assert!(total.noted > 1_000, "{total:?}: hardly anything was tested");
}
