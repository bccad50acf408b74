//! The partition on a real mount: what writers do, and what is in the store then.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;

use common::{Guest, alone, close, store};

fn shell(guest: &Guest, script: &str) -> std::process::Output {
    let out = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(guest.mount())
        .output()
        .unwrap();
    assert!(
        out.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

#[test]
fn echo_is_exactly_one_row_and_values_keep_their_types() {
    let _alone = alone();
    let guest = Guest::start();
    shell(
        &guest,
        "echo 42 > unencrypted/a; printf 'i,r,t,n\\n42,4.5,007,\\n' > unencrypted/b",
    );
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM a"), 1);
    assert_eq!(
        guest.query::<String>("SELECT typeof(column1) FROM a"),
        "integer"
    );
    let types = "SELECT typeof(i)||typeof(r)||typeof(t)||typeof(n) FROM b";
    assert_eq!(guest.query::<String>(types), "integerrealtextnull");
    assert_eq!(guest.query::<i64>("SELECT _seq FROM b"), 1);
    assert_eq!(guest.read("unencrypted/a"), "42\n");
}

#[test]
fn a_new_label_adds_a_column_and_a_missing_one_is_null() {
    let _alone = alone();
    let guest = Guest::start();
    guest.write("unencrypted/w", "a,b\n1,2\n").unwrap();
    guest.write("unencrypted/w", "B,c\n3,4\n").unwrap();
    let row = "SELECT coalesce(a,'-')||b||c FROM w WHERE _seq = 2";
    assert_eq!(guest.query::<String>(row), "-34");
}

#[test]
fn reading_gives_the_last_store_after_a_remount_too() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.write("unencrypted/w", "a\n1\n").unwrap();
    guest.write("encrypted/e", [0, 159, 146, 150]).unwrap();
    let before = std::fs::metadata(guest.path("unencrypted/w")).unwrap();
    assert_eq!(before.len(), 4);
    let (code, log) = guest.terminate();
    assert_eq!((code, log.as_str()), (Some(0), ""));
    assert!(!guest.path("unencrypted").exists(), "unmounted");
    guest.restart();
    assert_eq!(guest.read("unencrypted/w"), "a\n1\n");
    assert_eq!(
        std::fs::read(guest.path("encrypted/e")).unwrap(),
        [0, 159, 146, 150]
    );
    let after = std::fs::metadata(guest.path("unencrypted/w")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    guest.write("unencrypted/w", "a\n2\n").unwrap();
    assert_eq!(guest.query::<i64>("SELECT max(_seq) FROM w"), 2);
    assert!(guest.query::<bool>("SELECT max(_epoch) > min(_epoch) FROM w"));
}

#[test]
fn append_overwrite_and_truncate_store_the_whole_file() {
    let _alone = alone();
    let guest = Guest::start();
    guest.write("unencrypted/w", "12\n").unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .open(guest.path("unencrypted/w"))
        .unwrap();
    file.write_all(b"34\n").unwrap();
    close(file).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "12\n34\n");
    assert_eq!(
        guest.query::<i64>("SELECT \"12\" FROM w WHERE _seq = 2"),
        34
    );
    let mut file = OpenOptions::new()
        .write(true)
        .open(guest.path("unencrypted/w"))
        .unwrap();
    file.write_all(b"56").unwrap();
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    close(file).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "56\n");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(guest.path("unencrypted/w"))
        .unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "56\n");
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"7").unwrap();
    close(file).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "76\n");
    shell(
        &guest,
        "truncate -s 1 unencrypted/w; : > unencrypted/w; touch unencrypted/w",
    );
    assert_eq!(
        guest.read("unencrypted/w"),
        "7",
        "an empty close stores nothing"
    );
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM w"), 5);
}

#[test]
fn fsync_stores_and_the_close_after_it_does_not_store_again() {
    let _alone = alone();
    let guest = Guest::start();
    let mut file = File::create(guest.path("unencrypted/w")).unwrap();
    file.write_all(b"1\n").unwrap();
    file.sync_all().unwrap();
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM w"), 1);
    close(file).unwrap();
    assert_eq!(guest.query::<i64>("SELECT count(*) FROM w"), 1);
}

#[test]
fn write_then_rename_is_one_row_and_scratch_is_never_stored() {
    let _alone = alone();
    let guest = Guest::start();
    guest.write("unencrypted/w", "1\n").unwrap();
    guest.write("unencrypted/.tmp", "2\n").unwrap();
    let mut reader = File::open(guest.path("unencrypted/w")).unwrap();
    std::fs::rename(guest.path("unencrypted/.tmp"), guest.path("unencrypted/w")).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "2\n");
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1\n", "who opened it before goes on reading the old");
    let stored = guest.query::<i64>("SELECT count(*) FROM w");
    assert_eq!(stored, 2);
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '.tmp%'";
    assert_eq!(guest.query::<i64>(tables), 0);
    // A file of another name becomes a row there, and its own series ends.
    guest.write("unencrypted/w.new", "3\n").unwrap();
    std::fs::rename(guest.path("unencrypted/w.new"), guest.path("unencrypted/w")).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "3\n");
    assert!(!guest.path("unencrypted/w.new").exists());
    // Renamed before it is closed: the close stores it, under the new name.
    let mut file = File::create(guest.path("unencrypted/.late")).unwrap();
    file.write_all(b"4\n").unwrap();
    std::fs::rename(guest.path("unencrypted/.late"), guest.path("unencrypted/w")).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "3\n");
    close(file).unwrap();
    assert_eq!(guest.read("unencrypted/w"), "4\n");
    assert_eq!(guest.query::<i64>("SELECT max(_seq) FROM w"), 4);
}

#[test]
fn removing_ends_the_series_and_the_name_goes_on_where_it_was() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.write("unencrypted/w", "1\n").unwrap();
    std::fs::remove_file(guest.path("unencrypted/w")).unwrap();
    assert!(!guest.path("unencrypted/w").exists());
    guest.terminate();
    guest.restart();
    assert!(!guest.path("unencrypted/w").exists());
    assert_eq!(
        guest.query::<i64>("SELECT count(*) FROM w"),
        1,
        "its rows stay"
    );
    guest.write("unencrypted/w", "2\n").unwrap();
    assert_eq!(guest.query::<i64>("SELECT max(_seq) FROM w"), 2);
    let listed: Vec<_> = std::fs::read_dir(guest.path("unencrypted"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(listed, ["w"]);
}

#[test]
fn a_duplicated_descriptor_may_close_in_the_middle() {
    let _alone = alone();
    let guest = Guest::start();
    let mut file = File::create(guest.path("unencrypted/w")).unwrap();
    let twin = file.try_clone().unwrap();
    file.write_all(b"a,b\n1").unwrap();
    let error = close(twin).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EINVAL as i32));
    assert_eq!(guest.status()["refused_total"], 1);
    file.write_all(b",2\n").unwrap();
    close(file).unwrap();
    assert_eq!(guest.query::<i64>("SELECT a + b FROM w"), 3);
    assert_eq!(guest.status()["refused_total"], 0, "taken back");
}

#[test]
fn a_thousand_stores_each_by_shell_python_and_c_are_three_thousand_rows() {
    let _alone = alone();
    let guest = Guest::start();
    let code = guest.dir().join("w.c");
    std::fs::write(&code, C_WRITER).unwrap();
    let binary = guest.dir().join("w");
    let built = Command::new("cc")
        .arg("-o")
        .arg(&binary)
        .arg(&code)
        .status()
        .unwrap();
    assert!(built.success());
    let shell_loop = "i=1; while [ $i -le 1000 ]; do echo $i > unencrypted/sh; i=$((i+1)); done";
    shell(&guest, shell_loop);
    let python =
        "for i in range(1, 1001):\n with open('unencrypted/py', 'w') as f: f.write(f'{i}\\n')";
    shell(&guest, &format!("python3 -c \"{python}\""));
    let ran = Command::new(&binary)
        .current_dir(guest.mount())
        .status()
        .unwrap();
    assert!(ran.success());
    for table in ["sh", "py", "c"] {
        let sql = format!(
            "SELECT count(*) || ' ' || min(_seq) || ' ' || max(_seq) || ' ' || sum(column1 = _seq) FROM {table}"
        );
        assert_eq!(guest.query::<String>(&sql), "1000 1 1000 1000", "{table}");
    }
}

const C_WRITER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    for (int i = 1; i <= 1000; i++) {
        char line[16];
        int n = sprintf(line, "%d\n", i), fd = open("unencrypted/c", O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (fd < 0 || write(fd, line, n) != n || close(fd) != 0) return 1;
    }
    return 0;
}
"#;

#[test]
fn other_readers_may_look_while_many_write_and_every_success_is_a_row() {
    let _alone = alone();
    let guest = Guest::start();
    let stored: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let path = guest.path(&format!("unencrypted/t{}", writer % 4));
                scope.spawn(move || {
                    (0..200)
                        .filter(|i| store(&path, format!("v\n{i}\n").as_bytes()).is_ok())
                        .count() as u64
                })
            })
            .collect();
        for _ in 0..20 {
            let _: i64 = guest.query("SELECT count(*) FROM sqlite_schema");
        }
        writers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(stored, 1600);
    let mut rows = 0;
    for table in 0..4 {
        let count: i64 = guest.query(&format!("SELECT count(*) FROM t{table}"));
        assert_eq!(
            count,
            guest.query::<i64>(&format!("SELECT max(_seq) FROM t{table}"))
        );
        let falls = format!(
            "SELECT count(*) FROM t{table} a JOIN t{table} b ON b._seq = a._seq + 1 \
             WHERE b._timestamp < a._timestamp AND b._epoch = a._epoch"
        );
        assert_eq!(guest.query::<i64>(&falls), 0);
        rows += count;
    }
    assert_eq!(rows, 1600);
    assert!(
        guest.status()["live"]["commits"].as_u64().unwrap() < 1600,
        "commits are shared"
    );
}

#[test]
fn the_store_is_as_documented() {
    let _alone = alone();
    let guest = Guest::start();
    guest
        .write("unencrypted/web", "users,load\n42,4.5\n")
        .unwrap();
    guest
        .write("unencrypted/web", "users,load,errors\n42,4.5,0\n")
        .unwrap();
    guest.write("encrypted/web", "x").unwrap();
    let example = include_str!("../../schemas/store.example.sql");
    let tables = |area| {
        let (_, rest) = example.split_once(&format!("-- {area}.db")).unwrap();
        rest.split("\n-- ").next().unwrap().to_owned()
    };
    for area in ["unencrypted", "encrypted"] {
        let documented = rusqlite::Connection::open_in_memory().unwrap();
        documented
            .execute_batch(include_str!("../../schemas/store.sql"))
            .unwrap();
        documented.execute_batch(&tables(area)).unwrap();
        assert_eq!(columns(&guest.db(area)), columns(&documented), "{area}");
        let pragma = |name| {
            guest
                .db(area)
                .query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(
            (pragma("user_version"), pragma("application_id")),
            (4, 0x766b_7069)
        );
    }
}

/// Every table with its columns, types, defaults and keys.
fn columns(db: &rusqlite::Connection) -> Vec<String> {
    let sql = "SELECT s.name || '|' || c.name || '|' || c.type || '|' || c.\"notnull\" || '|' || \
               coalesce(c.dflt_value, '') || '|' || c.pk FROM sqlite_schema s, pragma_table_info(s.name) c \
               WHERE s.type = 'table' ORDER BY s.name, c.cid";
    let mut statement = db.prepare(sql).unwrap();
    statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}
