//! How the daemon ends and begins again: SIGTERM drains and unmounts within seconds whatever holds on to the
//! mount, and the mount of a daemon that was killed is taken over.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Guest;
use common::ledger::{Writers, judge_database, judge_files};

/// How long an end may take, on a busy machine.
const SECONDS: Duration = Duration::from_secs(5);

/// A process that stays in the mount: with a copy of the mount namespace, a file of it open and its folder
/// as its own.
struct Squatter(Child);

impl Squatter {
    fn in_mount(guest: &Guest) -> Self {
        let ready = guest.dir().join("ready");
        let script = format!(
            "cd {0}/unencrypted && exec 3<w00 && touch {1} && exec sleep 600",
            guest.mount().display(),
            ready.display()
        );
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        common::until("a process in the mount", || ready.exists());
        std::fs::remove_file(ready).unwrap();
        Self(child)
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_mounted(guest: &Guest) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&*guest.mount().to_string_lossy())
}

#[test]
fn sigterm_in_the_middle_of_stores_drains_them_and_unmounts_within_seconds() {
    let mut guest = Guest::start();
    let writers = Writers::start(&guest.mount(), 16, usize::MAX);
    let mut ends = 0;
    for round in 0..5 {
        let so_far = writers.noted();
        common::until("stores", || writers.noted() > so_far + 100 * (round + 1));
        let started = Instant::now();
        let (code, log) = guest.terminate();
        assert_eq!(code, Some(0), "{log}");
        assert!(started.elapsed() < SECONDS, "{:?}", started.elapsed());
        assert!(!is_mounted(&guest));
        assert!(!log.contains("ERROR"), "{log}");
        ends += 1;
        guest.restart();
    }
    let notes = writers.stop();
    let database = guest.state().join("unencrypted.db");
    // A store whose answer the kernel no longer took may be there.
    judge_database(&database, &notes, ends);
    judge_files(&guest.mount(), &database, 16);
}

#[test]
fn a_busy_mount_with_a_copy_in_another_namespace_keeps_it_from_nothing() {
    let mut guest = Guest::start();
    guest.write("unencrypted/w00", "n,half\n1,1.5\n").unwrap();
    let squatter = Squatter::in_mount(&guest);
    let started = Instant::now();
    let (code, log) = guest.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(started.elapsed() < SECONDS, "{:?}", started.elapsed());
    assert!(!is_mounted(&guest));
    guest.restart();
    guest.write("unencrypted/w00", "n,half\n2,2.5\n").unwrap();
    drop(squatter);
    guest.write("unencrypted/w00", "n,half\n3,3.5\n").unwrap();
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM w00"), 3);
}

#[test]
fn the_mount_of_a_killed_daemon_is_taken_over_though_a_process_is_in_it() {
    let mut guest = Guest::start();
    guest.write("unencrypted/w00", "n,half\n1,1.5\n").unwrap();
    let mut squatters = Vec::new();
    for n in 2..5 {
        squatters.push(Squatter::in_mount(&guest));
        guest.kill();
        // Attributes may still be in the kernel's cache; a listing is asked for.
        let gone = std::fs::read_dir(guest.mount()).unwrap_err();
        assert_eq!(
            gone.raw_os_error(),
            Some(nix::errno::Errno::ENOTCONN as i32)
        );
        guest.restart();
        assert!(guest.log().contains("taking over"), "{}", guest.log());
        guest
            .write("unencrypted/w00", format!("n,half\n{n},{n}.5\n"))
            .unwrap();
    }
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM w00"), 4);
    assert_eq!(guest.terminate().0, Some(0));
    assert!(!is_mounted(&guest));
}
