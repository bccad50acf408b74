//! What is kept and what goes first, on a real database: docs/SEMANTICS.md, "What is kept".
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::time::Duration;

use common::rig::{Rig, errno};
use common::until;
use nix::errno::Errno;
use vmkpi::name::Area;
use vmkpi::position::{Mark, Position, RowKey};
use vmkpi_guest::config::Limits;
use vmkpi_guest::store::{AckOutcome, Reason};

const W: &str = "unencrypted/w";
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Nothing goes but what a test says.
fn ample() -> Limits {
    Limits {
        retain_rows: 1_000_000,
        retain_bytes: 1 << 40,
        retain_age: MONTH,
        ..Limits::default()
    }
}

/// Retention has had its turn on every table: a row of a table of its own went.
fn after_a_round(rig: &Rig) {
    let file = "unencrypted/round";
    rig.put(file, "1\n").unwrap();
    let table = rig.table(file);
    let last = rig.rows(&table).pop().unwrap();
    rig.ack(&table, last.position());
    until("a round of retention", || rig.seqs(file).is_empty());
}

#[test]
fn acknowledged_rows_beyond_the_number_kept_go() {
    let rig = Rig::new(Limits {
        retain_rows: 3,
        ..ample()
    });
    rig.fill(W, 10);
    rig.ack_row(W, 8);
    until("all but three to go", || rig.seqs(W) == [8, 9, 10]);
    assert_eq!(
        (rig.count(|c| &c.rows_trimmed), rig.count(|c| &c.rows_lost)),
        (7, 0)
    );
    let marks = rig.marks(&rig.table(W));
    assert_eq!((marks.trimmed.seq, marks.gap()), (7, None));
}

#[test]
fn acknowledged_rows_beyond_the_bytes_kept_go() {
    let rig = Rig::new(Limits {
        retain_bytes: 5_000,
        ..ample()
    });
    for _ in 0..10 {
        rig.put("encrypted/e", [7; 1_000]).unwrap();
    }
    rig.ack_row("encrypted/e", 9);
    until("rows to go until the rest fit", || {
        rig.seqs("encrypted/e") == [7, 8, 9, 10]
    });
    assert_eq!(rig.count(|c| &c.rows_lost), 0);
}

#[test]
fn acknowledged_rows_older_than_they_are_kept_go_without_any_store_or_acknowledgement() {
    let mut rig = Rig::new(ample());
    rig.fill(W, 700);
    rig.ack_row(W, 699);
    rig.reopen_with(Limits {
        retain_age: Duration::ZERO,
        ..ample()
    });
    until("the acknowledged rows to go", || rig.seqs(W) == [700]);
    assert_eq!(rig.count(|c| &c.rows_lost), 0);
}

#[test]
fn rows_that_nobody_acknowledged_stay_whatever_the_bounds_are() {
    let rig = Rig::new(Limits {
        retain_rows: 1,
        retain_bytes: 1,
        retain_age: Duration::ZERO,
        ..ample()
    });
    rig.put(W, "1\n").unwrap();
    rig.want(W);
    rig.fill(W, 20);
    rig.ack_row(W, 5);
    until("the acknowledged rows to go", || {
        rig.seqs(W).first() == Some(&6)
    });
    after_a_round(&rig);
    assert_eq!(rig.seqs(W), (6..=21).collect::<Vec<_>>());
}

#[test]
fn rows_of_a_table_nobody_ever_asked_for_go_by_age_alone_and_that_is_a_gap() {
    let mut rig = Rig::new(Limits {
        retain_rows: 1,
        retain_bytes: 1,
        ..ample()
    });
    rig.fill(W, 20);
    rig.fill("unencrypted/asked", 3);
    rig.want("unencrypted/asked");
    rig.ack(&rig.table(W), Position::START);
    rig.reopen();
    assert_eq!(
        rig.seqs(W).len(),
        20,
        "neither their number nor their bytes count"
    );
    rig.reopen_with(Limits {
        retain_age: Duration::ZERO,
        ..ample()
    });
    until("the rows to go", || rig.seqs(W).is_empty());
    after_a_round(&rig);
    assert_eq!(rig.seqs("unencrypted/asked"), [1, 2, 3]);
    let gap = rig.marks(&rig.table(W)).gap().unwrap();
    assert_eq!(
        (gap.after, gap.through.seq, gap.reason),
        (Position::START, 20, Reason::Age)
    );
    assert_eq!(rig.count(|c| &c.rows_lost), 20);
    assert_eq!(rig.reader(W).lost(&Rig::point(W).name).unwrap(), 20);
}

#[test]
fn where_the_operator_said_so_bounds_count_for_all_rows_and_the_loss_is_a_gap() {
    for (limits, reason, left) in [
        (
            Limits {
                retain_rows: 4,
                ..ample()
            },
            Reason::Rows,
            4,
        ),
        (
            Limits {
                retain_bytes: 4 * 40,
                ..ample()
            },
            Reason::Bytes,
            4,
        ),
        (
            Limits {
                retain_age: Duration::ZERO,
                ..ample()
            },
            Reason::Age,
            0,
        ),
    ] {
        let mut rig = Rig::new(ample());
        rig.put(W, "1\n").unwrap();
        rig.want(W);
        rig.fill(W, 19);
        rig.ack_row(W, 3);
        rig.reopen_with(Limits {
            drop_unacknowledged: true,
            ..limits
        });
        until("rows to go", || rig.seqs(W).len() == left);
        let marks = rig.marks(&rig.table(W));
        let gap = marks.gap().unwrap();
        let through = 20 - left as u64;
        assert_eq!(
            (gap.after.seq, gap.through.seq, gap.reason),
            (3, through, reason)
        );
        assert_eq!(marks.kept.lost, through - 3);
        assert_eq!(rig.count(|c| &c.rows_lost), through - 3);
    }
}

#[test]
fn a_full_database_gives_up_acknowledged_rows_before_a_writer_is_told() {
    let limits = Limits {
        database_bytes: 256 << 10,
        ..ample()
    };
    let rig = Rig::new(limits);
    let fill = |file: &str| {
        let mut stored = 0;
        while let Ok(done) = rig.put(file, [7; 5_000]) {
            stored = done.seq;
            assert!(stored < 1_000);
        }
        stored
    };
    let stored = fill("encrypted/a");
    assert_eq!(
        errno(rig.put("encrypted/a", [7; 5_000])),
        Some(Errno::ENOSPC)
    );
    assert_eq!(
        rig.seqs("encrypted/a").len() as u64,
        stored,
        "nobody has any of them"
    );
    rig.ack_row("encrypted/a", stored / 2);
    for _ in 0..stored / 4 {
        rig.put("encrypted/b", [7; 5_000]).unwrap();
    }
    let held = rig.seqs("encrypted/a");
    assert!(held[0] > 1 && held.ends_with(&[stored]), "{held:?}");
    assert!(
        held[0] <= stored / 2 + 1,
        "acknowledged ones alone: {held:?}"
    );
    fill("encrypted/b");
    assert_eq!(
        rig.seqs("encrypted/a"),
        (stored / 2 + 1..=stored).collect::<Vec<_>>()
    );
    assert_eq!(rig.count(|c| &c.rows_lost), 0);
    assert_eq!(
        errno(rig.put("encrypted/b", [7; 5_000])),
        Some(Errno::ENOSPC)
    );
}

#[test]
fn a_full_database_gives_up_other_rows_where_the_operator_said_so() {
    let limits = Limits {
        database_bytes: 256 << 10,
        drop_unacknowledged: true,
        ..ample()
    };
    let rig = Rig::new(limits);
    rig.put("encrypted/small", "x").unwrap();
    for _ in 0..200 {
        rig.put("encrypted/a", [7; 5_000]).unwrap();
    }
    let held = rig.seqs("encrypted/a");
    assert!(held.len() > 10 && held.ends_with(&[200]), "{held:?}");
    assert_eq!(
        rig.seqs("encrypted/small"),
        [1],
        "the largest table's rows go"
    );
    let gap = rig.marks(&rig.table("encrypted/a")).gap().unwrap();
    assert_eq!((gap.through.seq, gap.reason), (held[0] - 1, Reason::Bytes));
    assert_eq!(rig.count(|c| &c.rows_lost), held[0] - 1);
}

#[test]
fn no_number_is_given_twice_when_a_table_was_emptied_removed_and_opened_again() {
    let mut rig = Rig::new(Limits {
        retain_age: Duration::ZERO,
        ..ample()
    });
    rig.fill(W, 5);
    until("the table to be empty", || rig.seqs(W).is_empty());
    rig.reopen();
    assert_eq!(rig.put(W, "6\n").unwrap().seq, 6);
    until("the table to be empty", || rig.seqs(W).is_empty());
    rig.remove(W);
    rig.reopen();
    assert_eq!(rig.put(W, "7\n").unwrap().seq, 7);
    rig.remove(W);
    assert_eq!(rig.put(W, "8\n").unwrap().seq, 8);
    until("the table to be empty", || rig.seqs(W).is_empty());
    let marks = rig.marks(&rig.table(W));
    assert_eq!(
        (marks.trimmed.seq, marks.kept.lost, marks.kept.bytes),
        (8, 8, 0)
    );
}

#[test]
fn a_gap_stands_until_its_last_row_is_acknowledged() {
    let mut rig = Rig::new(ample());
    rig.fill(W, 20);
    rig.ack_row(W, 3);
    let table = rig.table(W);
    let rows = rig.rows(&table);
    rig.reopen_with(Limits {
        retain_rows: 10,
        drop_unacknowledged: true,
        ..ample()
    });
    until("rows to go", || rig.seqs(W).len() == 10);
    let gap = |rig: &Rig| {
        rig.marks(&table)
            .gap()
            .map(|gap| (gap.after.seq, gap.through.seq))
    };
    assert_eq!(gap(&rig), Some((3, 10)));
    rig.reopen();
    assert_eq!(gap(&rig), Some((3, 10)), "after a restart too");
    // A host that had got some of the lost rows: what is left of the gap is still not confirmed.
    let outcome = rig.ack(&table, rows[6].position());
    assert!(
        matches!(outcome, AckOutcome::Acked(Mark { seq: 3, .. })),
        "{outcome:?}"
    );
    assert_eq!(gap(&rig), Some((3, 10)));
    let stream = rig.store.stream();
    let outcome = rig.ack(&table, rows[9].position());
    assert_eq!(outcome, AckOutcome::Acked(rows[9].mark()));
    assert_eq!((gap(&rig), rig.store.stream()), (None, stream));
    rig.ack_row(W, 20);
    // The trimmed row's key is remembered: another one is of another history.
    let other = Position::new(10, RowKey(rows[9].key.0 ^ 1));
    assert!(matches!(rig.ack(&table, other), AckOutcome::Minted(_)));
}

#[test]
fn a_new_stream_begins_with_one_after_a_gap_and_the_gap_stays_in_the_old_one() {
    let mut rig = Rig::new(ample());
    rig.hello("vm-a");
    rig.fill(W, 20);
    rig.fill("unencrypted/all", 2);
    rig.ack_row(W, 3);
    let (old, rows) = (rig.table(W), rig.rows(&rig.table(W)));
    let emptied = rig.table("unencrypted/all");
    rig.reopen_with(Limits {
        retain_rows: 10,
        drop_unacknowledged: true,
        ..ample()
    });
    until("rows to go", || rig.seqs(W).len() == 10);
    rig.reopen_with(Limits {
        retain_age: Duration::ZERO,
        ..ample()
    });
    until("the other table to be empty", || {
        rig.seqs("unencrypted/all").is_empty()
    });
    rig.reopen_with(ample());
    let inventory = rig.hello("vm-b");
    assert!(inventory.minted.is_some());
    let moved = rig.rows(&rig.table(W));
    let expected: Vec<_> = rows[10..]
        .iter()
        .zip(1..)
        .map(|(r, seq)| (seq, r.key))
        .collect();
    assert_eq!(
        moved.iter().map(|r| (r.seq, r.key)).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(rig.put(W, "v\n21\n").unwrap().seq, 11);
    for (table, last, through) in [
        (&old, 10, rows[9].position()),
        (&emptied, 2, Position { seq: 2, key: None }),
    ] {
        let listed = inventory.tables.iter().find(|t| t.table == *table).unwrap();
        assert_eq!((listed.first, listed.last), (last + 1, last));
        let gap = rig.marks(table).gap().unwrap();
        assert_eq!(gap.through.seq, last);
        let through = Position {
            key: through.key.or(gap.through.key),
            ..through
        };
        assert!(matches!(rig.ack(table, through), AckOutcome::Acked(mark) if mark.seq == last));
        assert_eq!(rig.marks(table).gap(), None);
    }
}

#[test]
fn acknowledged_rows_of_an_earlier_stream_go_by_the_same_bounds() {
    let mut rig = Rig::new(ample());
    rig.hello("vm-a");
    rig.fill(W, 12);
    rig.ack_row(W, 10);
    let old = rig.table(W);
    assert!(rig.hello("vm-b").minted.is_some());
    let held = |rig: &Rig| rig.rows(&old).iter().map(|r| r.seq).collect::<Vec<_>>();
    assert_eq!(held(&rig), (1..=10).collect::<Vec<_>>());
    until("their bytes to be known", || {
        rig.marks(&old).kept.bytes == 10 * 40
    });
    rig.reopen_with(Limits {
        retain_rows: 3,
        ..ample()
    });
    until("all but three to go", || held(&rig) == [8, 9, 10]);
    assert_eq!(rig.marks(&old).kept.bytes, 3 * 40);
    assert_eq!(rig.seqs(W), [1, 2], "nobody has these");
    rig.reopen_with(Limits {
        retain_age: Duration::ZERO,
        ..ample()
    });
    until("the others to go", || held(&rig).is_empty());
    assert_eq!(rig.marks(&old).gap(), None);
    assert_eq!(rig.put(W, "v\n13\n").unwrap().seq, 3);
}

#[test]
fn the_bytes_of_rows_are_known_again_after_a_restart() {
    let mut rig = Rig::new(ample());
    for i in 0..1_500u32 {
        let text = "x".repeat((i % 40) as usize);
        rig.put(W, format!("i,r,t,n\n{i},{i}.5,{text},\n")).unwrap();
    }
    let expected = |rig: &Rig| {
        let sql = "SELECT coalesce(sum(32 + 16 + coalesce(octet_length(t), 0)), 0) FROM w";
        let db = rig.db(Area::Unencrypted);
        db.query_row(sql, [], |r| r.get::<_, i64>(0))
            .unwrap()
            .unsigned_abs()
    };
    let on_disk = rig.marks(&rig.table(W)).kept;
    assert!((1_000..1_500).contains(&on_disk.sized), "{on_disk:?}");
    rig.reopen();
    rig.ack_row(W, 700);
    assert_eq!(rig.marks(&rig.table(W)).kept.bytes, expected(&rig));
    rig.reopen_with(Limits {
        retain_rows: 1_000,
        ..ample()
    });
    until("rows to go", || rig.marks(&rig.table(W)).trimmed.seq == 500);
    assert_eq!(rig.marks(&rig.table(W)).kept.bytes, expected(&rig));
}

#[test]
fn a_refused_input_is_never_withdrawn_under_another_ones_id_and_their_bytes_are_bounded() {
    let rig = Rig::new(ample());
    let first = rig.refuse(W, b"a", None);
    let second = rig.refuse(W, b"ab", Some(first));
    assert!(
        second > first,
        "withdrawn, and its number is not given again"
    );
    for _ in 0..120 {
        rig.refuse(W, &[b'x'; 10_000], None);
    }
    let (total, kept) = rig.reader(W).refused().unwrap();
    let bytes: usize = kept.iter().map(|input| input.input.len()).sum();
    assert_eq!(total, 121);
    assert!(
        kept.len() > 50 && bytes <= 256 << 10,
        "{} inputs, {bytes} bytes",
        kept.len()
    );
}
