//! Many calls at once on a real mount: what is seen is what is stored, and it costs no more requests.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::{AtomicI64, Ordering};

use common::{Guest, close, store, until};

#[test]
fn names_that_change_while_files_are_closed_agree_with_the_store() {
    let mut guest = Guest::start();
    let at = |name: &str| guest.path("encrypted").join(name);
    let (stores, moves) = (AtomicI64::new(0), AtomicI64::new(0));
    let count_in = |counter: &AtomicI64, done: std::io::Result<()>| match done {
        Ok(()) => counter.fetch_add(1, Ordering::Relaxed),
        // Another thread has moved or removed it.
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            0
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..3u8 {
            let (at, counted) = (&at, |done| count_in(&stores, done));
            scope.spawn(move || {
                for i in 0..150u8 {
                    counted(store(&at("w"), &vec![writer; usize::from(i) + 1]));
                }
            });
            scope.spawn(move || {
                let scratch = at(&format!(".w{writer}"));
                for i in 0..150u8 {
                    store(&scratch, &vec![writer + 10; usize::from(i) + 1]).unwrap();
                    counted(std::fs::rename(&scratch, at("w")));
                }
            });
        }
        scope.spawn(|| {
            for i in 0..150 {
                match i % 3 {
                    0 => drop(std::fs::remove_file(at("w"))),
                    1 => drop(count_in(&moves, std::fs::rename(at("w"), at("v")))),
                    _ => drop(count_in(&moves, std::fs::rename(at("v"), at("w")))),
                }
            }
        });
    });
    let seen = |guest: &Guest, name: &str| {
        let path = guest.path("encrypted").join(name);
        let found = std::fs::metadata(&path).ok()?;
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(found.len(), bytes.len() as u64, "{name}");
        Some((bytes, found.mtime_nsec()))
    };
    let before = ["v", "w"].map(|name| seen(&guest, name));
    let db = guest.db("encrypted");
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        db.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    // A file that was just made and not yet closed is renamed without a row.
    let (stores, moves) = (stores.into_inner(), moves.into_inner());
    assert!((stores..=stores + moves).contains(&(count("v") + count("w"))));
    drop(db);
    assert_eq!(guest.terminate().0, Some(0));
    guest.restart();
    assert_eq!(before, ["v", "w"].map(|name| seen(&guest, name)));
}

/// How many requests there were, and how many handles are open. A FORGET is the kernel's housekeeping.
fn requests(guest: &Guest) -> (u64, u64) {
    let requests = guest.status()["live"]["requests"].clone();
    let of = |name: &str| requests[name].as_u64().unwrap_or(0);
    let all = requests.as_object().unwrap().values();
    let open = of("OPEN") + of("CREATE") - of("RELEASE");
    let sum: u64 = all.map(|n| n.as_u64().unwrap()).sum();
    (sum - of("FORGET"), open)
}

/// The requests of `work`, with the releases that nobody waits for.
fn cost(guest: &Guest, work: impl FnOnce()) -> u64 {
    let quiet = || until("the last release", || requests(guest).1 == 0);
    quiet();
    let before = requests(guest).0;
    work();
    quiet();
    requests(guest).0 - before
}

#[test]
fn a_store_costs_four_requests_also_after_somebody_looked() {
    let guest = Guest::start();
    let path = guest.path("unencrypted/w");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"1\n").unwrap();
    // The kernel was told what the store then changes.
    assert_eq!(file.metadata().unwrap().len(), 2);
    close(file).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "1\n");
    store(&path, b"2\n").unwrap();
    let stores = cost(&guest, || {
        python(&path, 200, "os.O_WRONLY | os.O_CREAT | os.O_TRUNC");
    });
    assert_eq!(stores, 800);
    // Appending needs no more.
    let appends = cost(&guest, || {
        python(&path, 50, "os.O_WRONLY | os.O_APPEND");
    });
    assert_eq!(appends, 200);
}

/// Stores so many times, from a process of its own: one that starts another while a file is open gives it a
/// duplicate, whose close is a request.
fn python(path: &std::path::Path, times: u32, flags: &str) {
    let script = format!(
        "import os, sys\nfor _ in range({times}):\n  fd = os.open(sys.argv[1], {flags})\n  \
         os.write(fd, b'1')\n  os.close(fd)\n"
    );
    let done = std::process::Command::new("python3")
        .args(["-c", &script])
        .arg(path)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn many_writers_of_one_file_cost_four_requests_each() {
    let guest = Guest::start();
    let path = guest.path("unencrypted/w");
    store(&path, b"0\n").unwrap();
    let stores = cost(&guest, || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    std::fs::metadata(&path).unwrap();
                    for _ in 0..100 {
                        store(&path, b"1\n").unwrap();
                    }
                });
            }
        });
    });
    // Whoever looks while another writes may make the kernel ask once more.
    assert!((3200..3300).contains(&stores), "{stores}");
}

#[test]
fn where_only_the_owner_may_use_it_modes_say_so() {
    let guest = Guest::start_with(&["--allow-other", "owner"]);
    store(&guest.path("unencrypted/w"), b"1\n").unwrap();
    let mode = |name: &str| std::fs::metadata(guest.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode(""), mode("unencrypted")), (0o700, 0o700));
    assert_eq!(mode("unencrypted/w"), 0o600);
}

#[test]
fn a_shell_of_another_user_writes_and_reads() {
    let guest = Guest::start();
    std::fs::set_permissions(guest.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let out = std::process::Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-ec",
        ])
        .arg("echo 1 > unencrypted/w; cat unencrypted/w; echo 2 > .x 2>/dev/null || echo refused")
        .current_dir(guest.mount())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "1\nrefused\n",
        "{out:?}"
    );
    let mut text = String::new();
    File::open(guest.path("unencrypted/w"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "1\n");
}
