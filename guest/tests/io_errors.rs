//! Calls of the daemon that fail, one by one (strace): what fails is told to its closer, nothing that was
//! confirmed is touched, and the stores after it go on. Without strace these tests say nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test, and says what was done until then"
)]

mod common;

use std::process::{Child, Command};

use common::ledger::{Notes, Verdict, Writers, judge_database, judge_files};
use common::seed::Seed;
use common::{Guest, alone};
use nix::errno::Errno;

const WRITERS: usize = 4;

fn has_strace() -> bool {
    Command::new("strace").arg("-V").output().is_ok()
}

/// Has `calls` of a running guest fail as `how` says, from when this returns.
fn inject(guest: &Guest, calls: &str, how: &str) -> Child {
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={calls}"))
        .args(["-e", &format!("inject={calls}:{how}"), "-p"])
        .arg(guest.pid().to_string())
        .spawn()
        .unwrap();
    let tracer = format!("TracerPid:\t{}\n", strace.id());
    common::until("strace to have every thread", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status"));
            status.is_ok_and(|text| text.contains(&tracer))
        })
    });
    strace
}

fn end(mut strace: Child) {
    let pid = nix::unistd::Pid::from_raw(strace.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    strace.wait().unwrap();
}

fn errnos(notes: &[Notes]) -> Vec<i32> {
    let mut errnos: Vec<i32> = notes.iter().flatten().flatten().copied().collect();
    errnos.sort_unstable();
    errnos.dedup();
    errnos
}

/// One call of a thread's fails once while writers store; says how many commits failed.
fn one_failure(calls: &str, error: &str, when: u64, expected: Errno) -> (Verdict, u64) {
    let guest = Guest::start();
    let strace = inject(&guest, calls, &format!("error={error}:when={when}"));
    let quota = if when > 200 { 400 } else { 60 };
    let notes = Writers::start(&guest.mount(), WRITERS, quota).join();
    end(strace);
    let database = guest.state().join("unencrypted.db");
    let verdict = judge_database(&database, &notes, 0);
    judge_files(&guest.mount(), &database, WRITERS);
    let told = errnos(&notes);
    assert!(told.is_empty() || told == [expected as i32], "{told:?}");
    let failed = guest.status()["live"]["failed_commits"].as_u64().unwrap();
    (verdict, failed)
}

#[test]
fn a_call_that_fails_once_costs_the_stores_of_one_commit_and_they_are_told() {
    if !has_strace() {
        return;
    }
    let _alone = alone();
    let mut seed = Seed::of(0);
    let mut total = Verdict::default();
    for (calls, error, expected, span) in [
        ("fdatasync", "EIO", Errno::EIO, 60),
        ("fdatasync", "EIO", Errno::EIO, 200),
        ("pwrite64", "EIO", Errno::EIO, 200),
        ("pwrite64", "EIO", Errno::EIO, 3000),
        ("pwrite64", "ENOSPC", Errno::ENOSPC, 200),
        ("pwrite64", "ENOSPC", Errno::ENOSPC, 3000),
        ("pread64", "EIO", Errno::EIO, 40),
        ("ftruncate,fallocate", "EIO", Errno::EIO, 2),
    ] {
        let when = 1 + seed.below(span);
        let (verdict, failed) = one_failure(calls, error, when, expected);
        println!("{calls} {error} at {when}: {verdict:?}, {failed} commits failed");
        // None where the call was a checkpoint's, which is made again from the log; two where both threads that commit
        // have come so far, as strace counts the calls of each.
        assert!(
            failed <= 2,
            "{calls} {error} at {when}: {failed} commits failed"
        );
        assert_eq!(failed == 0, verdict.failed == 0, "everyone is told");
        total += verdict;
    }
    assert!(total.failed > 0, "nothing failed");
}

#[test]
fn while_every_sync_fails_every_store_is_eio_and_afterwards_none() {
    if !has_strace() {
        return;
    }
    let _alone = alone();
    let guest = Guest::start();
    guest.write("unencrypted/w", "v\n0\n").unwrap();
    let strace = inject(&guest, "fdatasync,fsync", "error=EIO");
    for i in 1..=5 {
        let told = guest.write("unencrypted/w", format!("v\n{i}\n"));
        assert_eq!(told.unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
    }
    // Reading asks no disk to sync.
    assert_eq!(guest.read("unencrypted/w"), "v\n0\n");
    end(strace);
    for i in 6..=8 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    let rows = "SELECT group_concat(_seq || ':' || v) FROM (SELECT * FROM w ORDER BY _seq)";
    assert_eq!(guest.query::<String>(rows), "1:0,2:6,3:7,4:8");
    assert!(guest.log().contains("commits fail"), "{}", guest.log());
}
