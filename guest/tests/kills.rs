//! kill -9 of the guest daemon at seeded moments, while sixteen writers store and go on when the partition
//! is back: every store whose close returned 0 is one row, and nothing else is but what was under way.
//!
//! `VMKPI_SEED=n` shifts every seed. A failure names the history whose seed it was.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test, and says what was done until then"
)]

mod common;

use std::time::{Duration, Instant};

use common::Guest;
use common::ledger::{Verdict, Writers, judge_database, judge_files};
use common::seed::Seed;

const WRITERS: usize = 16;

/// When the daemon dies.
#[derive(Debug)]
enum Moment {
    /// So long after it was started: while it takes over the stale mount, recovers the log, migrates.
    AfterStart(Duration),
    /// So long after it was mounted: while it commits, mostly.
    AfterMount(Duration),
    /// At the entry of that call, the one with that number: in the middle of a commit, of a checkpoint or
    /// of making a database.
    AtCall(&'static str, u64),
}

impl Moment {
    fn draw(seed: &mut Seed, strace: bool) -> Self {
        match seed.below(8) {
            0 | 1 => Self::AfterStart(Duration::from_micros(seed.below(40_000))),
            2 | 3 if strace => match seed.below(4) {
                0 => Self::AtCall("fdatasync", 1 + seed.below(40)),
                1 => Self::AtCall("ftruncate,unlink", 1 + seed.below(4)),
                _ => Self::AtCall("pwrite64", 1 + seed.below(1500)),
            },
            _ => Self::AfterMount(Duration::from_micros(seed.below(80_000))),
        }
    }

    /// Starts the daemon and has it die.
    fn strike(&self, guest: &mut Guest) {
        match self {
            Self::AfterStart(length) => {
                guest.relaunch();
                std::thread::sleep(*length);
            }
            Self::AfterMount(length) => {
                guest.restart();
                std::thread::sleep(*length);
            }
            Self::AtCall(calls, number) => {
                let trace = format!("trace={calls}");
                let inject = format!("inject={calls}:signal=KILL:when={number}");
                // -D: the guest is our child, and strace the grandchild.
                let strace = "strace -D -f --seccomp-bpf -qq -o /dev/null -e".split(' ');
                let words: Vec<&str> = strace.chain([&*trace, "-e", &inject]).collect();
                guest.wrap(&words);
                guest.relaunch();
                guest.wrap(&[]);
                // So many calls may never come.
                let patience = Instant::now() + Duration::from_millis(400);
                while Instant::now() < patience && !guest.has_ended() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        guest.kill();
    }
}

/// One history of a store: made, killed again and again, even before it was whole, and judged.
fn history(index: u64, kills: usize) -> Verdict {
    let mut seed = Seed::of(index);
    let strace = std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_ok();
    let mut guest = Guest::launch(&[], &[]);
    std::thread::sleep(Duration::from_micros(seed.below(30_000)));
    guest.kill();
    let writers = Writers::start(&guest.mount(), WRITERS, usize::MAX);
    for _ in 1..kills {
        Moment::draw(&mut seed, strace).strike(&mut guest);
    }
    guest.restart();
    let so_far = writers.noted();
    common::until("every writer to go on", || {
        writers.noted() >= so_far + 2 * WRITERS as u64
    });
    let notes = writers.stop();
    let database = guest.state().join("unencrypted.db");
    let verdict = judge_database(&database, &notes, kills);
    judge_files(&guest.mount(), &database, WRITERS);
    assert!(guest.status()["set_aside"].as_array().unwrap().is_empty());
    verdict
}

#[test]
fn killed_at_two_hundred_seeded_moments_it_keeps_what_it_confirmed_and_goes_on() {
    let mut total = Verdict::default();
    for index in 0..10 {
        let begun = Instant::now();
        let verdict = std::panic::catch_unwind(|| history(index, 20));
        let Ok(verdict) = verdict else {
            panic!(
                "history {index} of VMKPI_SEED={:?}",
                std::env::var("VMKPI_SEED")
            );
        };
        println!("history {index}: {verdict:?} in {:?}", begun.elapsed());
        total += verdict;
    }
    assert!(total.noted > 2_000, "{total:?}: hardly anything was tested");
    assert!(
        total.failed > 100,
        "{total:?}: no store was under way at a kill"
    );
}
