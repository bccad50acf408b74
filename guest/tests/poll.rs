//! `[[poll]]` on a real mount: commands that work, fail, hang, flood and are killed.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::path::Path;

use common::{Guest, until};
use serde_json::Value;

/// A guest that runs a shell script for `unencrypted/q`.
fn polling(script: &str, interval: &str, timeout: &str) -> Guest {
    let poll = format!(
        "[[poll]]\npoint = 'unencrypted/q'\ncommand = ['/bin/sh', '-c', {}]\ninterval = '{interval}'\ntimeout = '{timeout}'\n",
        serde_json::to_string(script).unwrap()
    );
    Guest::start_with_config(&poll, &[])
}

fn poll_of(guest: &Guest) -> Value {
    guest.status()["live"]["polls"][0].clone()
}

fn count(poll: &Value, key: &str) -> u64 {
    poll[key].as_u64().unwrap()
}

/// Waits until a run has ended with `error` in what `status` says, and returns that.
fn until_error(guest: &Guest, error: &str) -> Value {
    let mut last = Value::Null;
    until(error, || {
        last = poll_of(guest);
        last["error"]
            .as_str()
            .is_some_and(|said| said.contains(error))
    });
    last
}

#[test]
fn output_is_stored_at_each_interval_as_if_it_was_written() {
    let guest = polling("printf 'a,b\\n1,x\\n'", "100ms", "10s");
    until("five rows", || count(&poll_of(&guest), "stored") >= 5);
    assert_eq!(guest.read("unencrypted/q"), "a,b\n1,x\n");
    let poll = poll_of(&guest);
    assert!(poll["error"].is_null(), "{poll}");
    assert_eq!(poll["command"][0], "/bin/sh");
    assert!(guest.query::<i64>("SELECT count(*) FROM q WHERE a = 1 AND b = 'x'") >= 5);
    // Ticks are on a grid: never two within much less than the interval.
    let (runs, missed) = (count(&poll, "runs"), count(&poll, "missed"));
    let started = "SELECT (max(_timestamp) - min(_timestamp)) / 100000 FROM q";
    let elapsed: i64 = guest.query(started);
    assert!(
        runs + missed >= u64::try_from(elapsed).unwrap().saturating_sub(1),
        "{poll}"
    );
}

#[test]
fn a_command_that_is_slower_than_its_interval_never_overlaps_and_missed_ticks_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    let script = format!(
        "mkdir {0} || {{ echo twice >&2; exit 9; }}; sleep 0.35; rmdir {0}; echo 1",
        lock.display()
    );
    let guest = polling(&script, "100ms", "30s");
    until("three rows", || count(&poll_of(&guest), "stored") >= 3);
    let poll = poll_of(&guest);
    assert!(count(&poll, "missed") >= 6, "{poll}");
    assert_eq!(count(&poll, "failures"), 0, "{poll}");
}

#[test]
fn a_command_that_hangs_is_killed_with_its_group_at_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait",
        pids.display()
    );
    let guest = polling(&script, "1s", "300ms");
    let poll = until_error(&guest, "killed after 300ms");
    assert!(count(&poll, "timeouts") >= 1, "{poll}");
    let mut first = std::fs::read_to_string(&pids).unwrap();
    first = first.lines().take(2).collect::<Vec<_>>().join(" ");
    until("the end of shell and child", || {
        first.split(' ').all(|pid| !lives(pid))
    });
    assert!(!guest.path("unencrypted/q").exists());
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_command_that_leaves_a_child_behind_is_done_when_it_is_done() {
    let guest = polling("(sleep 1000 >/dev/null 2>&1 &) ; echo 1", "100ms", "30s");
    until("rows", || count(&poll_of(&guest), "stored") >= 2);
    assert_eq!(count(&poll_of(&guest), "timeouts"), 0);
}

#[test]
fn a_flood_of_output_is_cut_killed_and_kept_as_refused() {
    let guest = polling("echo b; yes 1234567", "1s", "30s");
    until_error(&guest, "EFBIG");
    let status = guest.status();
    assert_eq!(status["refused"][0]["point"], "unencrypted/q");
    assert!(
        status["refused"][0]["input"]
            .as_str()
            .unwrap()
            .starts_with("b\n1234567")
    );
    let peak = status["live"]["memory_peak_bytes"].as_u64().unwrap();
    assert!(peak < 40 << 20, "{peak}");
    assert!(
        !guest
            .path("unencrypted/q")
            .metadata()
            .is_ok_and(|m| m.len() > 0)
    );
}

#[test]
fn a_flood_of_errors_is_dropped() {
    let guest = polling("yes oops | head -c 3000000 >&2; exit 3", "100ms", "30s");
    let poll = until_error(&guest, "exit status 3: oops");
    assert!(poll["error"].as_str().unwrap().len() < 100);
}

#[test]
fn what_is_no_csv_is_kept_with_its_reason() {
    let mut guest = polling("printf 'a,b\\n1\\n'", "100ms", "10s");
    until_error(&guest, "is no CSV (EINVAL)");
    until("three runs", || count(&poll_of(&guest), "failures") >= 3);
    let status = guest.status();
    assert_eq!(status["refused"][0]["input"], "a,b\n1\n");
    assert_eq!(status["healthy"], false);
    let (code, log) = guest.terminate();
    assert_eq!(code, Some(0));
    assert_eq!(
        log.matches("a poll fails").count(),
        1,
        "once for each change: {log}"
    );
}

#[test]
fn a_command_that_is_not_there_or_ends_with_an_error_says_so() {
    let poll =
        "[[poll]]\npoint = 'unencrypted/q'\ncommand = ['/nonexistent/kpis']\ninterval = '100ms'\n";
    let guest = Guest::start_with_config(poll, &[]);
    until_error(
        &guest,
        "it cannot be started: /nonexistent/kpis: No such file",
    );
    drop(guest);
    let guest = polling(
        "echo 1; echo; echo ' no server' >&2; exit 7",
        "100ms",
        "10s",
    );
    until_error(&guest, "exit status 7: no server");
    assert!(
        !guest.path("unencrypted/q").exists(),
        "what a failed command printed is not stored"
    );
    drop(guest);
    let guest = polling("kill -SEGV $$", "100ms", "10s");
    until_error(&guest, "killed by signal 11");
}

#[test]
fn a_command_gets_little_environment_no_descriptors_and_no_blocked_signals() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let script = format!(
        "{{ env | sort | cut -d= -f1 | grep -v '^_$\\|^PWD$\\|^SHLVL$\\|^OLDPWD$'; pwd; \
         grep SigBlk /proc/self/status; }} > {0}.new; mv {0}.new {0}; echo 1",
        seen.display()
    );
    let guest = polling(&script, "100ms", "10s");
    until("a row", || count(&poll_of(&guest), "stored") >= 1);
    let seen = std::fs::read_to_string(seen).unwrap();
    let expected = "LANG\nPATH\nVMKPI_POINT\n/\nSigBlk:\t0000000000000000\n";
    assert_eq!(seen, expected);
    drop(guest);
    let poll = "[[poll]]\npoint = 'unencrypted/q'\ncommand = ['/bin/ls', '/proc/self/fd']\ninterval = '100ms'\n";
    let guest = Guest::start_with_config(poll, &[]);
    until_error(&guest, "EINVAL");
    // The three standard ones, and the directory that ls itself reads.
    assert_eq!(guest.status()["refused"][0]["input"], "0\n1\n2\n3\n");
}

#[test]
fn a_command_may_run_as_another_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may run commands as others");
        return;
    }
    let poll = "[[poll]]\npoint = 'unencrypted/q'\ncommand = ['/usr/bin/id', '-u']\ninterval = '100ms'\nuser = 'nobody'\n";
    let guest = Guest::start_with_config(poll, &[]);
    until("a row", || count(&poll_of(&guest), "stored") >= 1);
    assert_eq!(guest.read("unencrypted/q"), "65534\n");
}

#[test]
fn sigterm_ends_the_commands_that_run() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; trap '' TERM; while :; do sleep 1000; done",
        pid.display()
    );
    let mut guest = polling(&script, "1s", "1h");
    until("the command", || pid.exists());
    let pid = std::fs::read_to_string(&pid).unwrap().trim().to_owned();
    assert!(lives(&pid));
    let (code, _) = guest.terminate();
    assert_eq!(code, Some(0));
    assert!(!lives(&pid));
}

#[test]
fn sighup_takes_the_new_commands_and_says_what_needs_a_restart() {
    let mut guest = polling("echo 1", "100ms", "1s");
    until("a row", || count(&poll_of(&guest), "stored") >= 1);
    guest.configure("limits.columns = 7\n[[poll]]\npoint = 'unencrypted/r'\ncommand = ['/bin/echo', '2']\ninterval = '100ms'\n");
    guest.hang_up();
    until("the new command", || guest.path("unencrypted/r").exists());
    assert_eq!(poll_of(&guest)["point"], "unencrypted/r");
    // What is wrong changes nothing.
    guest.configure("[[poll]]\npoint = 3\n");
    guest.hang_up();
    let runs = count(&poll_of(&guest), "runs");
    until("it goes on", || count(&poll_of(&guest), "runs") > runs + 1);
    let (code, log) = guest.terminate();
    assert_eq!(code, Some(0));
    assert!(
        log.contains("it counts after a restart") && log.contains("limits.columns"),
        "{log}"
    );
    assert!(log.contains("poll[1].point: it must be a string"), "{log}");
}
