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

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Guest;
use common::disk::Disk;
use common::ledger::{Notes, Verdict, Writers, judge_database, judge_files};
use common::lossy::Lossy;
use common::seed::Seed;
use nix::errno::Errno;
use tempfile::TempDir;

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

/// A daemon whose state is the mount point of a disk; it does not run yet.
struct Machine {
    guest: Guest,
    state: PathBuf,
    // Last: the guest unmounts first.
    _home: TempDir,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("disk");
        std::fs::create_dir(&state).unwrap();
        let mut guest = Guest::launch(&[], &["--state", state.to_str().unwrap()]);
        // What that one has made is below the mount.
        guest.kill();
        for entry in std::fs::read_dir(&state).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        Self {
            guest,
            state,
            _home: home,
        }
    }

    /// The power fails a last time; what is then on the disk is judged.
    fn judge(mut self, lossy: Lossy, seed: &mut Seed, notes: &[Notes], unknown: usize) -> Verdict {
        let mut found = lossy.cut(seed);
        self.guest.kill();
        drop(lossy);
        copy(&mut found, &self.state);
        let database = self.state.join("unencrypted.db");
        let verdict = judge_database(&database, notes, unknown);
        self.guest.restart();
        judge_files(&self.guest.mount(), &database, WRITERS);
        assert!(
            self.guest.status()["set_aside"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        self.guest.terminate();
        verdict
    }
}

/// Waits until every writer goes on.
fn go_on(writers: &Writers) {
    let so_far = writers.noted();
    common::until("every writer to go on", || {
        writers.noted() >= so_far + 2 * WRITERS as u64
    });
}

fn history(index: u64, cuts: usize) -> Verdict {
    let mut seed = Seed::of(index);
    let mut machine = Machine::new();
    let writers = Writers::start(&machine.guest.mount(), WRITERS, usize::MAX);
    let mut disk = Disk::default();
    for _ in 0..cuts {
        disk = life(&mut machine.guest, &machine.state, disk, &mut seed);
    }
    let lossy = Lossy::mount(disk, &machine.state, None);
    machine.guest.restart();
    go_on(&writers);
    assert!(
        machine.guest.status()["set_aside"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    machine.judge(lossy, &mut seed, &writers.stop(), cuts + 1)
}

/// Syncs fail for a while, the daemon is killed meanwhile or not, and what they could not write is gone
/// when the power fails after all.
fn broken_history(index: u64) -> Verdict {
    let mut seed = Seed::of(index);
    let mut machine = Machine::new();
    let lossy = Lossy::mount(Disk::default(), &machine.state, None);
    machine.guest.restart();
    let writers = Writers::start(&machine.guest.mount(), WRITERS, usize::MAX);
    go_on(&writers);
    for _ in 0..3 {
        let target = lossy.failed_syncs() + 1 + seed.below(12);
        lossy.break_syncs(true);
        common::until("syncs to fail", || lossy.failed_syncs() >= target);
        if seed.coin() {
            machine.guest.kill();
            lossy.break_syncs(false);
            machine.guest.restart();
        }
        lossy.break_syncs(false);
        go_on(&writers);
    }
    let notes = writers.stop();
    let gone = [Errno::EIO, Errno::ENOTCONN, Errno::ECONNABORTED].map(|errno| errno as i32);
    let told = notes.iter().flatten().flatten();
    let other: Vec<&i32> = told.filter(|errno| !gone.contains(errno)).collect();
    assert!(other.is_empty(), "{other:?}");
    // A store that was told EIO may be there.
    machine.judge(lossy, &mut seed, &notes, usize::MAX)
}

/// Runs histories, and names the one that fails.
fn run(count: u64, history: impl Fn(u64) -> Verdict + std::panic::RefUnwindSafe) -> Verdict {
    let mut total = Verdict::default();
    for index in 0..count {
        let begun = Instant::now();
        let Ok(verdict) = std::panic::catch_unwind(|| history(index)) else {
            panic!(
                "history {index} of VMKPI_SEED={:?}",
                std::env::var("VMKPI_SEED")
            );
        };
        println!("history {index}: {verdict:?} in {:?}", begun.elapsed());
        total += verdict;
    }
    total
}

#[test]
fn after_a_hundred_power_cuts_every_store_that_was_confirmed_is_there_once() {
    let total = run(10, |index| history(index, 10));
    assert!(total.noted > 1_000, "{total:?}: hardly anything was tested");
}

#[test]
fn syncs_that_fail_for_a_while_and_then_a_power_cut_take_nothing_that_was_confirmed() {
    let total = run(10, broken_history);
    assert!(total.failed > 100, "{total:?}: hardly a store failed");
}
