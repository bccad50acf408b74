//! The store on a real database: what a row holds, older formats, large databases, long readers.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::time::{Duration, Instant};

use common::rig::{Rig, errno};
use common::until;
use nix::errno::Errno;
use proptest::prelude::*;
use tempfile::TempDir;
use vmkpi::link::Payload;
use vmkpi::name::Area;
use vmkpi::position::RowKey;
use vmkpi::value::{Base64Bytes, Value};
use vmkpi_guest::config::Limits;
use vmkpi_guest::csv::Columns;

const W: &str = "unencrypted/w";

/// A state directory as the program of format 1 left it (`.dump` of both databases).
fn first_format() -> TempDir {
    let dir = TempDir::with_prefix("vmkpi-store-").unwrap();
    for (area, sql) in [
        ("encrypted", include_str!("fixtures/store-v1-encrypted.sql")),
        (
            "unencrypted",
            include_str!("fixtures/store-v1-unencrypted.sql"),
        ),
    ] {
        let db = rusqlite::Connection::open(dir.path().join(format!("{area}.db"))).unwrap();
        db.execute_batch(sql).unwrap();
    }
    dir
}

#[test]
fn a_store_of_the_first_format_is_opened_with_its_rows_files_marks_and_refused_inputs() {
    let mut rig = Rig::at(first_format(), Limits::default());
    let stream = "e7a3912f366b180605b3bff8859e57a0";
    assert_eq!(
        (rig.store.stream().to_string().as_str(), rig.set_aside),
        (stream, 0)
    );
    let web = rig.table("unencrypted/web");
    let rows = rig.rows(&web);
    let values = |i: usize| match &rows[i].payload {
        Payload::Values(values) => values.clone(),
        Payload::Data(_) => panic!("no bytes here"),
    };
    assert_eq!(rows.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(rows[1].key, RowKey(8_680_627_267_853_516_988));
    assert_eq!(
        values(0),
        [Value::Integer(10), Value::Real(10.5), Value::Null]
    );
    assert_eq!(
        values(1),
        [Value::Integer(11), Value::Null, Value::Text("007".into())]
    );
    let (reader, name) = (rig.reader(W), |name: &str| name.parse().unwrap());
    assert_eq!(
        reader.content(&name("web")).unwrap().unwrap(),
        b"users,load\n12,1\n"
    );
    assert_eq!(
        reader.content(&name("gone")).unwrap(),
        None,
        "it was removed"
    );
    assert_eq!(rig.seqs("unencrypted/gone"), [1, 2], "and its rows stayed");
    assert_eq!(rig.seqs("encrypted/blob"), [1, 2, 3]);
    let earlier = "447a539e9f6c51be5b323a9bcab61bab".parse().unwrap();
    let past = rig.marks(&rig.table_in(earlier, "unencrypted/web"));
    assert_eq!(
        (past.acked.seq, past.trimmed.seq, past.kept.wanted),
        (9, 8, true)
    );
    assert_eq!(rig.rows(&rig.table_in(earlier, "unencrypted/web")).len(), 1);
    let (total, refused) = reader.refused().unwrap();
    assert_eq!((total, refused[0].input.as_str()), (1, "a\n1\n2\n"));
    assert_eq!(rig.refuse(W, b"x", None), 2);
    let stored = rig.put("unencrypted/web", "users,load\n13,2\n").unwrap();
    assert_eq!(stored.seq, 4);
    assert!(
        rig.rows(&web)[3].epoch > rows[2].epoch,
        "a start begins an epoch"
    );
    rig.ack_row("unencrypted/web", 4);
    rig.reopen();
    let marks = rig.marks(&web);
    assert_eq!(
        (marks.acked.seq, marks.kept.bytes),
        (4, 4 * 32 + 16 + 11 + 16 + 16)
    );
    let version = "PRAGMA user_version";
    let version: i64 = rig
        .db(Area::Encrypted)
        .query_row(version, [], |r| r.get(0))
        .unwrap();
    assert!(version >= 2, "{version}");
}

#[test]
fn a_database_too_large_to_be_read_through_is_still_checked_where_rows_come_and_go() {
    let mut rig = Rig::new(Limits::default());
    rig.fill(W, 2_000);
    rig.reopen();
    let large = Limits {
        checked_bytes: 0,
        ..Limits::default()
    };
    rig.reopen_with(large);
    assert_eq!((rig.set_aside, rig.seqs(W).len()), (0, 1_000));
    rig.store.close();
    let path = rig.dir.path().join("unencrypted.db");
    let db = rig.db(Area::Unencrypted);
    let leaf = "SELECT pageno FROM dbstat WHERE name = 'w' AND pagetype = 'leaf' \
                ORDER BY path DESC LIMIT 1";
    let leaf: i64 = db.query_row(leaf, [], |r| r.get(0)).unwrap();
    drop(db);
    let mut bytes = std::fs::read(&path).unwrap();
    let page = usize::try_from(leaf - 1).unwrap() * 1024;
    bytes[page..page + 1024].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    rig.reopen_with(large);
    assert_eq!(
        (rig.set_aside, rig.seqs(W).len()),
        (1, 0),
        "set aside, and begun anew"
    );
}

#[test]
fn a_long_reader_makes_stores_fail_at_a_limit_and_they_go_on_when_it_leaves() {
    const LIMIT: u64 = 2 << 20;
    let rig = Rig::new(Limits {
        log_bytes: LIMIT,
        ..Limits::default()
    });
    let log = || {
        rig.dir
            .path()
            .join("encrypted.db-wal")
            .metadata()
            .unwrap()
            .len()
    };
    rig.put("encrypted/e", "x").unwrap();
    let reader = rig.db(Area::Encrypted);
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM e")
        .unwrap();
    let mut stored = 1;
    let failed = loop {
        let started = Instant::now();
        match rig.put("encrypted/e", vec![7; 50_000]) {
            Ok(_) => stored += 1,
            failed => break (errno(failed), started.elapsed()),
        }
        assert!(stored < 200);
    };
    assert_eq!(failed.0, Some(Errno::EAGAIN));
    assert!(
        failed.1 >= Duration::from_secs(1),
        "it was waited for: {failed:?}"
    );
    assert!((LIMIT..2 * LIMIT).contains(&log()), "{}", log());
    assert_eq!(rig.count(|c| &c.log_refusals), 1);
    let count = |sql: &str| reader.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(
        count("SELECT count(*) FROM e"),
        1,
        "it still sees what it saw"
    );
    rig.put(W, "1\n").unwrap();
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(rig.put("encrypted/e", "y").unwrap().seq, stored + 1);
    assert!(log() < LIMIT, "cut back: {}", log());
    assert_eq!(count("SELECT count(*) FROM e"), stored as i64 + 1);
}

#[test]
fn a_log_that_a_reader_made_grow_is_cut_back_without_another_store() {
    let rig = Rig::new(Limits {
        log_bytes: 1 << 20,
        ..Limits::default()
    });
    let log = || {
        rig.dir
            .path()
            .join("encrypted.db-wal")
            .metadata()
            .unwrap()
            .len()
    };
    rig.put("encrypted/e", "x").unwrap();
    let reader = rig.db(Area::Encrypted);
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM e")
        .unwrap();
    while rig.put("encrypted/e", vec![7; 100_000]).is_ok() {}
    assert!(log() >= 1 << 20);
    drop(reader);
    until("the log to be cut back", || log() == 0);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("no CSV makes these", |r| r.is_finite())
            .prop_map(Value::Real),
        "[^\u{0}]{0,20}".prop_map(|t| Value::Text(t.into())),
        prop::sample::select(vec![
            "007",
            "1e400",
            "18446744073709551616",
            "NaN",
            "-",
            "=cmd()"
        ])
        .prop_map(|t| Value::Text(t.into())),
    ]
}

fn row() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let labels = prop::sample::subsequence(vec!["a", "b", "C", "select", "d \"e\"", "ü"], 1..=6);
    labels.prop_flat_map(|labels| {
        let values = prop::collection::vec(value(), labels.len());
        values.prop_map(move |values| labels.iter().copied().zip(values).collect())
    })
}

/// What the rows should be: every column that ever was, NULL where a row has none.
fn table(stored: &[Vec<(&'static str, Value)>]) -> (Vec<&'static str>, Vec<Vec<Value>>) {
    let mut columns: Vec<&str> = Vec::new();
    for (label, _) in stored.iter().flatten() {
        if !columns.iter().any(|c| c.eq_ignore_ascii_case(label)) {
            columns.push(label);
        }
    }
    let cell = |row: &Vec<(&str, Value)>, column: &&str| {
        let found = row
            .iter()
            .find(|(label, _)| label.eq_ignore_ascii_case(column));
        found.map_or(Value::Null, |(_, value)| value.clone())
    };
    let rows = stored
        .iter()
        .map(|row| columns.iter().map(|c| cell(row, c)).collect());
    (columns.clone(), rows.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_come_back_as_they_were_stored_and_columns_come_and_go(
        stored in prop::collection::vec(row(), 1..8),
    ) {
        let mut rig = Rig::new(Limits::default());
        for row in &stored {
            let labels = row.iter().map(|(label, _)| (*label).into()).collect();
            let values = row.iter().map(|(_, value)| value.clone()).collect();
            rig.put_columns(W, Columns { labels, values }).unwrap();
        }
        rig.reopen();
        let (columns, rows) = table(&stored);
        let page = rig.reader(W).page(&rig.table(W), 1, 100, 1 << 20).unwrap().unwrap();
        prop_assert_eq!(page.columns.iter().map(|c| &**c).collect::<Vec<_>>(), columns);
        let read: Vec<Payload> = page.rows.into_iter().map(|row| row.payload).collect();
        prop_assert_eq!(read, rows.into_iter().map(Payload::Values).collect::<Vec<_>>());
    }

    #[test]
    fn encrypted_bytes_and_the_bytes_of_every_file_come_back_as_they_were_written(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 1..6),
    ) {
        let mut rig = Rig::new(Limits::default());
        for bytes in &contents {
            rig.put("encrypted/e", bytes).unwrap();
        }
        rig.reopen();
        let read: Vec<_> = rig.rows(&rig.table("encrypted/e")).into_iter().map(|r| r.payload).collect();
        let expected = contents.iter().map(|c| Payload::Data(Base64Bytes(c.clone())));
        prop_assert_eq!(read, expected.collect::<Vec<_>>());
        let file = rig.reader("encrypted/e").content(&"e".parse().unwrap()).unwrap();
        prop_assert_eq!(file.as_ref(), contents.last());
    }
}

#[test]
fn a_row_has_a_number_a_time_an_epoch_and_a_key_and_each_start_begins_an_epoch() {
    let mut rig = Rig::new(Limits::default());
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(rig.put(W, "1\n").unwrap().time);
        times.push(rig.put(W, "1\n").unwrap().time);
        rig.reopen();
    }
    let rows = rig.rows(&rig.table(W));
    assert_eq!(
        rows.iter().map(|r| r.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(rows.iter().map(|r| r.time).collect::<Vec<_>>(), times);
    let epochs: Vec<u64> = rows.iter().map(|r| r.epoch).collect();
    assert!(
        epochs[0] == epochs[1] && epochs[1] < epochs[2],
        "{epochs:?}"
    );
    assert!(
        epochs[2] == epochs[3] && epochs[3] < epochs[4],
        "{epochs:?}"
    );
    let mut keys: Vec<_> = rows.iter().map(|r| r.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 6, "each is another");
}

#[test]
fn the_bytes_of_a_file_are_there_after_its_rows_have_gone() {
    let rig = Rig::new(Limits {
        retain_age: Duration::ZERO,
        ..Limits::default()
    });
    rig.put(W, "a,b\r\n1,\"x\"\r\n").unwrap();
    until("its rows to go", || rig.seqs(W).is_empty());
    let content = rig.reader(W).content(&"w".parse().unwrap()).unwrap();
    assert_eq!(content.unwrap(), b"a,b\r\n1,\"x\"\r\n");
}

#[test]
fn a_removed_file_is_gone_for_readers_and_its_rows_go_by_retention_alone() {
    let mut rig = Rig::new(Limits::default());
    rig.fill(W, 3);
    rig.want(W);
    rig.remove(W);
    rig.reopen();
    assert_eq!(rig.reader(W).content(&"w".parse().unwrap()).unwrap(), None);
    assert_eq!(rig.seqs(W), [1, 2, 3]);
    rig.ack_row(W, 2);
    rig.reopen_with(Limits {
        retain_age: Duration::ZERO,
        ..Limits::default()
    });
    until("the acknowledged ones to go", || rig.seqs(W) == [3]);
    assert_eq!(rig.put(W, "v\n4\n").unwrap().seq, 4);
}
