//! What may go wrong at the edges: full, locked, corrupt, refused. Kills, power cuts and failing calls have
//! test programs of their own; docs/FAULTS.md names them all.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Guest, store, until};
use nix::errno::Errno;

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn a_locked_database_is_waited_for_and_then_eagain_and_nothing_is_lost() {
    let guest = Guest::start();
    guest.write("unencrypted/w", "v\n1\n").unwrap();
    let other = guest.db("unencrypted");
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    assert_eq!(
        errno(guest.write("unencrypted/w", "v\n2\n")),
        Some(Errno::EAGAIN as i32)
    );
    assert!(
        (1..6).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(guest.read("unencrypted/w"), "v\n1\n");
    let path = guest.path("unencrypted/w");
    let waiting = std::thread::spawn(move || store(&path, b"v\n3\n"));
    std::thread::sleep(Duration::from_millis(300));
    other.execute_batch("COMMIT").unwrap();
    waiting.join().unwrap().unwrap();
    assert_eq!(
        guest.query::<String>("SELECT group_concat(_seq || ':' || v) FROM w"),
        "1:1,2:3"
    );
}

#[test]
fn a_full_database_is_enospc_and_earlier_rows_stay() {
    let guest = Guest::start_with(&["--max-database-bytes", "131072"]);
    let mut stored = 0;
    let failure = loop {
        match guest.write("encrypted/e", vec![7; 10_000]) {
            Ok(()) => stored += 1,
            Err(error) => break error.raw_os_error(),
        }
        assert!(stored < 100);
    };
    assert_eq!(failure, Some(Errno::ENOSPC as i32));
    let count = "SELECT count(*) FROM e";
    let rows: i64 = guest
        .db("encrypted")
        .query_row(count, [], |r| r.get(0))
        .unwrap();
    assert_eq!(rows, stored);
    assert_eq!(
        std::fs::read(guest.path("encrypted/e")).unwrap(),
        vec![7; 10_000]
    );
    guest.write("unencrypted/w", "1\n").unwrap();
}

#[test]
fn a_full_disk_is_enospc_and_it_goes_on_when_there_is_room() {
    let disk = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(disk.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    struct Unmount<'a>(&'a std::path::Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(disk.path());
    let state = disk.path().join("state");
    let guest = Guest::start_with(&["--state", state.to_str().unwrap()]);
    let path = guest.path("unencrypted/w");
    let mut stored = 0;
    let failure = loop {
        match store(&path, format!("v\n{}\n", "x".repeat(5000)).as_bytes()) {
            Ok(()) => stored += 1,
            Err(error) => break error.raw_os_error(),
        }
        assert!(stored < 200);
    };
    assert_eq!(failure, Some(Errno::ENOSPC as i32));
    let grown = Command::new("mount")
        .args(["-o", "remount,size=8m"])
        .arg(disk.path())
        .status()
        .unwrap();
    assert!(grown.success());
    store(&path, b"v\n1\n").unwrap();
    let db = rusqlite::Connection::open(state.join("unencrypted.db")).unwrap();
    let ends = "SELECT count(*) || ' ' || max(_seq) FROM w";
    let ends: String = db.query_row(ends, [], |r| r.get(0)).unwrap();
    assert_eq!(ends, format!("{0} {0}", stored + 1));
}

#[test]
fn a_sync_that_fails_is_told_to_the_closer_and_later_stores_go_on() {
    if Command::new("strace").arg("-V").output().is_err() {
        return;
    }
    let guest = Guest::start();
    guest.write("unencrypted/w", "v\n0\n").unwrap();
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync,fsync",
        ])
        .args(["-e", "inject=fdatasync,fsync:error=EIO:when=3", "-p"])
        .arg(guest.pid().to_string())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let results: Vec<_> = (1..=8)
        .map(|i| (i, guest.write("unencrypted/w", format!("v\n{i}\n"))))
        .collect();
    let _ = strace.kill();
    let _ = strace.wait();
    let failed: Vec<_> = results.iter().filter(|(_, r)| r.is_err()).collect();
    assert_eq!(failed.len(), 1, "{results:?}");
    assert_eq!(
        failed[0].1.as_ref().unwrap_err().raw_os_error(),
        Some(Errno::EIO as i32)
    );
    let expected: Vec<String> = std::iter::once(0)
        .chain(results.iter().filter(|(_, r)| r.is_ok()).map(|(i, _)| *i))
        .enumerate()
        .map(|(seq, v)| format!("{}:{v}", seq + 1))
        .collect();
    let rows = "SELECT group_concat(_seq || ':' || v) FROM (SELECT * FROM w ORDER BY _seq)";
    assert_eq!(guest.query::<String>(rows), expected.join(","));
    assert_eq!(guest.status()["live"]["failed_commits"], 1);
}

/// The guest under strace, with `inject` for its system calls, until it is dropped.
struct Injected(std::process::Child);

impl Injected {
    fn start(guest: &Guest, calls: &str, inject: &str) -> Self {
        let pid = guest.pid().to_string();
        let child = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={calls}"),
            ])
            .args(["-e", &format!("inject={calls}:{inject}"), "-p", &pid])
            .spawn()
            .unwrap();
        let injected = Self(child);
        let tasks = format!("/proc/{pid}/task");
        until("strace to hold every thread", || {
            std::fs::read_dir(&tasks).unwrap().flatten().all(|task| {
                let status = std::fs::read_to_string(task.path().join("status"));
                status.is_ok_and(|text| {
                    text.lines()
                        .any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
                })
            })
        });
        injected
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        // strace lets go of what it traces when it is asked to end, not when it is killed.
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.0.wait();
    }
}

#[test]
fn a_quota_that_is_used_up_is_edquot_and_stores_go_on_when_there_is_room() {
    let guest = Guest::start();
    guest.write("unencrypted/w", "v\n1\n").unwrap();
    let injected = Injected::start(&guest, "pwrite64", "error=EDQUOT");
    for _ in 0..2 {
        let failed = errno(guest.write("unencrypted/w", "v\n2\n"));
        assert_eq!(failed, Some(Errno::EDQUOT as i32));
    }
    drop(injected);
    guest.write("unencrypted/w", "v\n3\n").unwrap();
    let rows = "SELECT group_concat(_seq || ':' || v) FROM w";
    assert_eq!(guest.query::<String>(rows), "1:1,2:3");
    assert!(!guest.state().join("probe").exists());
}

#[test]
fn a_disk_that_stays_broken_is_said_once_and_so_is_its_end() {
    let mut guest = Guest::start();
    guest.write("unencrypted/w", "v\n0\n").unwrap();
    let injected = Injected::start(&guest, "fdatasync,fsync", "error=EIO");
    for i in 0..20 {
        let failed = errno(guest.write("unencrypted/w", format!("v\n{i}\n")));
        assert_eq!(failed, Some(Errno::EIO as i32));
    }
    drop(injected);
    guest.write("unencrypted/w", "v\n1\n").unwrap();
    guest.write("unencrypted/w", "v\n2\n").unwrap();
    assert_eq!(guest.status()["live"]["failed_commits"], 20);
    let (_, log) = guest.terminate();
    let lines = |word: &str| log.lines().filter(|line| line.contains(word)).count();
    assert_eq!(lines("ERROR"), 1, "{log}");
    assert_eq!(lines("commits work again"), 1, "{log}");
    assert!(log.lines().count() < 6, "{log}");
}

#[test]
fn a_corrupt_database_is_set_aside_and_said_loudly() {
    let mut guest = Guest::start();
    for i in 0..200 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    guest.write("encrypted/e", "x").unwrap();
    let before = guest.status()["stream"].clone();
    guest.terminate();
    let path = guest.state().join("unencrypted.db");
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in &mut bytes[3000..6000] {
        *byte ^= 0x5a;
    }
    std::fs::write(&path, &bytes).unwrap();
    guest.restart();
    let status = guest.status();
    let aside = status["set_aside"][0].as_str().unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), bytes);
    assert!(status["advice"][0].as_str().unwrap().contains("corrupt"));
    assert_ne!(status["stream"], before, "a new history is a new stream");
    guest.write("unencrypted/w", "v\n1\n").unwrap();
    assert_eq!(guest.query::<i64>("SELECT _seq FROM w"), 1);
    assert_eq!(
        guest.read("encrypted/e"),
        "x",
        "the other database is not touched"
    );
    let (code, log) = guest.terminate();
    assert_eq!(code, Some(0));
    assert!(log.contains("ERROR") && log.contains("corrupt"), "{log}");
}

#[test]
fn bad_inputs_have_the_documented_error_and_lose_nothing() {
    let guest = Guest::start();
    guest.write("unencrypted/w", "v\n1\n").unwrap();
    let einval = Some(Errno::EINVAL as i32);
    let wide = format!("{}\n", ",".repeat(9_999));
    for (input, expected, reason) in [
        ("\n\n", einval, "no record"),
        ("a\n1\n2\n", einval, "more than two records"),
        ("a,\"b\n1,2\n", einval, "never closed"),
        ("a\u{0}b\n", einval, "NUL"),
        ("a\r1\r", einval, "carriage return"),
        ("a,A\n1,2\n", einval, "twice"),
        ("_seq\n7\n", einval, "underscore"),
        ("a,b\n1\n", einval, "the record 1"),
        (&wide, Some(Errno::EFBIG as i32), "10000 columns"),
    ] {
        assert_eq!(
            errno(guest.write("unencrypted/w", input)),
            expected,
            "{reason}"
        );
        let kept = &guest.status()["refused"][0];
        assert!(kept["reason"].as_str().unwrap().contains(reason), "{kept}");
        assert!(input.starts_with(kept["input"].as_str().unwrap()), "{kept}");
    }
    assert_eq!(errno(guest.write("unencrypted/w", b"\xff\xfe")), einval);
    // What looks like an attack is a name or a value like any other.
    for name in ["a\"; DROP TABLE w;--", "select", "..%2f", "日本", "a b'c"] {
        guest
            .write(&format!("unencrypted/{name}"), "=cmd()\n")
            .unwrap();
        assert_eq!(guest.read(&format!("unencrypted/{name}")), "=cmd()\n");
    }
    guest
        .write("unencrypted/n", "NaN,1e999,18446744073709551616\n")
        .unwrap();
    let text = "SELECT column1 || column2 || column3 FROM n";
    assert_eq!(guest.query::<String>(text), "NaN1e99918446744073709551616");
    assert_eq!(guest.query::<String>("SELECT group_concat(v) FROM w"), "1");
    assert_eq!(guest.read("unencrypted/w"), "v\n1\n");
    let status = guest.status();
    assert_eq!(status["refused_total"], 10);
    assert_eq!(status["live"]["failed_commits"], 0);
}

#[test]
fn too_many_names_are_enospc_and_the_others_go_on() {
    let guest = Guest::start_with(&["--max-files", "20"]);
    let results: Vec<_> = (0..30)
        .map(|i| guest.write(&format!("unencrypted/n{i}"), "1\n"))
        .collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 20);
    assert_eq!(
        errno(results.into_iter().last().unwrap()),
        Some(Errno::ENOSPC as i32)
    );
    guest.write("unencrypted/n0", "2\n").unwrap();
}

#[test]
fn one_state_directory_has_one_daemon_and_usage_errors_are_two() {
    let guest = Guest::start();
    let run = |args: &[&str]| {
        Command::new(common::PROGRAM)
            .args(args)
            .env_clear()
            .output()
            .unwrap()
    };
    let other = guest.dir().join("other");
    let second = run(&[
        "run",
        "--state",
        guest.state().to_str().unwrap(),
        "--mount",
        other.to_str().unwrap(),
    ]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another"));
    assert_eq!(run(&["run", "--mout", "/x"]).status.code(), Some(2));
    assert_eq!(
        run(&["run", "--mount", "/x", "--state", "/y", "--link", "ftp:x"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        run(&["status", "--state", "/nonexistent"]).status.code(),
        Some(1)
    );
}

#[test]
fn a_handle_left_open_does_not_keep_it_from_ending() {
    let mut guest = Guest::start();
    let mut file = std::fs::File::create(guest.path("unencrypted/w")).unwrap();
    // No CSV: a child that is forked meanwhile closes its copy, and that would be a store.
    file.write_all(b"\"1").unwrap();
    let started = Instant::now();
    let (code, _) = guest.terminate();
    assert_eq!(code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(
        common::close(file).is_err(),
        "what was not stored is not said to be"
    );
    guest.restart();
    guest.write("unencrypted/w", "2\n").unwrap();
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM w"), 1);
}

#[test]
fn every_test_that_the_documentation_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let text = std::fs::read_to_string(root.join("docs/FAULTS.md")).unwrap();
    let named: Vec<(&str, &str)> = text
        .split('`')
        .filter_map(|word| word.split_once(".rs::"))
        .collect();
    assert!(named.len() > 20);
    for (file, test) in named {
        let file = root.join(format!("{file}.rs"));
        let code = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            code.contains(&format!("fn {test}(")),
            "{} has no {test}",
            file.display()
        );
    }
}
