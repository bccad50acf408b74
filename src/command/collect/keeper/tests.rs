use super::*;
use crate::command::database::Database;
use vmkpi::message::Values;
use vmkpi::position::StreamId;
use vmkpi::value::{Base64Bytes, Value};

struct Fixture {
    keeper: Keeper,
    _dir: tempfile::TempDir,
}

fn fixture(asks: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let database =
        Database::open(&dir.path().join("kpi.db"), &crate::command::collect::SCHEMA).unwrap();
    let rules = Rules {
        asks,
        restored: false,
    };
    Fixture {
        keeper: Keeper::new(database.connection, rules).unwrap(),
        _dir: dir,
    }
}

fn sample(seq: u64) -> Sample {
    let values = Values {
        columns: ["n".into(), "t".into()].into(),
        row: vec![
            Value::Integer(seq.cast_signed()),
            Value::Text("a\"b".into()),
        ],
    };
    Sample {
        seq,
        key: RowKey(u64::MAX - seq),
        time: Timestamp::from_micros(seq.cast_signed() * 1000),
        body: SampleBody::Values(values),
    }
}

fn raw(stream: u128, after: u64, through: u64) -> Event {
    let at = |seq: u64| match seq {
        0 => Position::START,
        seq => Position::new(seq, RowKey(u64::MAX - seq)),
    };
    Event {
        site: "acme".parse().unwrap(),
        vm: "shop".parse().unwrap(),
        point: "unencrypted/web".parse().unwrap(),
        specifier: "every".parse().unwrap(),
        revision: "r".into(),
        stream: StreamId(stream),
        after: at(after),
        through: at(through),
        base: Position::START,
        time: Timestamp::from_micros(5),
        clock_skew_ms: None,
        body: Body::Raw((after + 1..=through).map(sample).collect()),
    }
}

impl Fixture {
    fn keep(&mut self, events: &[Event]) -> Kept {
        let now = Timestamp::from_micros(90_000_000);
        self.keeper.keep(events, 7, now).unwrap()
    }

    fn seqs(&self) -> Vec<u64> {
        let sql = "SELECT seq FROM samples ORDER BY id";
        let mut found = self.keeper.connection.prepare(sql).unwrap();
        let seqs = found.query_map([], |r| r.get(0)).unwrap();
        seqs.map(Result::unwrap).collect()
    }

    fn count(&self, sql: &str) -> u64 {
        self.keeper
            .connection
            .query_row(sql, [], |r| r.get(0))
            .unwrap()
    }
}

#[test]
fn what_connects_is_kept_once_and_what_is_missing_is_asked_for() {
    let mut at = fixture(true);
    let kept = at.keep(&[raw(1, 0, 2), raw(1, 0, 2), raw(1, 4, 6)]);
    let stand = kept.stands.values().next().unwrap();
    assert_eq!(stand.through.seq, 2);
    assert!(stand.missing);
    let (instance, stand) = kept.stands.first_key_value().unwrap();
    let want = instance.confirmed(stand).want_from.unwrap();
    assert_eq!(want, Position::new(2, RowKey(u64::MAX - 2)));
    let counts = kept.counts;
    assert_eq!(
        (counts.accepted, counts.repeated, counts.missing),
        (1, 1, 1)
    );
    assert_eq!(at.count("SELECT through - after FROM missing"), 4);
    let kept = at.keep(&[raw(1, 2, 4), raw(1, 4, 6), raw(1, 1, 5)]);
    let stand = kept.stands.values().next().unwrap();
    assert_eq!((stand.through.seq, stand.missing), (6, false));
    assert_eq!(at.seqs(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(at.count("SELECT count(*) FROM missing"), 0);
    assert_eq!(at.count("SELECT value FROM about WHERE name = 'issued'"), 7);
}

#[test]
fn a_row_that_moved_to_a_new_stream_is_kept_once() {
    let mut at = fixture(true);
    at.keep(&[raw(1, 0, 3)]);
    let mut moved = raw(2, 0, 2);
    if let Body::Raw(samples) = &mut moved.body {
        samples[0].key = RowKey(u64::MAX - 3);
        samples[1].key = RowKey(12);
    }
    let counts = at.keep(&[moved]).counts;
    assert_eq!((counts.samples, counts.samples_repeated), (1, 1));
    assert_eq!(at.seqs(), [1, 2, 3, 2]);
}

#[test]
fn another_history_of_a_stream_is_not_kept_and_is_told_what_is_here() {
    let mut at = fixture(true);
    at.keep(&[raw(1, 0, 3)]);
    let mut other = raw(1, 3, 4);
    other.after.key = Some(RowKey(1));
    let kept = at.keep(&[other]);
    assert_eq!(kept.counts.diverged, 1);
    let stand = kept.stands.values().next().unwrap();
    assert_eq!(stand.through, Position::new(3, RowKey(u64::MAX - 3)));
    assert_eq!(at.seqs(), [1, 2, 3]);
}

#[test]
fn without_a_name_what_was_missed_is_a_gap_and_what_follows_is_kept() {
    let mut at = fixture(false);
    at.keep(&[raw(1, 5, 7), raw(1, 9, 10), raw(1, 8, 12)]);
    assert_eq!(at.seqs(), [6, 7, 10, 11, 12]);
    let sql = "SELECT after * 100 + through FROM gaps WHERE reason = 'not_sent'";
    assert_eq!(at.count(sql), 709);
    assert_eq!(at.count("SELECT count(*) FROM gaps"), 1);
    // Rows are a millisecond apart: the seventh is the latest before it, the tenth the first behind.
    assert_eq!(
        at.count("SELECT since * 100000 + time FROM gaps"),
        700_010_000
    );
    let sql = "SELECT first * 100000 + last FROM streams";
    assert_eq!(at.count(sql), 600_012_000);
}

#[test]
fn a_stream_says_from_when_to_when_there_are_rows_of_it() {
    let mut at = fixture(true);
    at.keep(&[raw(1, 0, 0)]);
    let sql = "SELECT count(*) FROM streams WHERE first IS NULL AND last IS NULL";
    assert_eq!(at.count(sql), 1, "a message without rows is no row");
    at.keep(&[raw(1, 0, 3), raw(1, 5, 6)]);
    at.keep(&[raw(2, 0, 9)]);
    let sql = "SELECT first * 100000 + last FROM streams WHERE through = ";
    assert_eq!(at.count(&format!("{sql} 3")), 100_003_000);
    assert_eq!(at.count(&format!("{sql} 9")), 100_009_000);
    assert_eq!(at.count("SELECT since FROM missing"), 3000);
}

#[test]
fn of_streams_from_before_version_3_the_beginning_is_not_known() {
    let mut at = fixture(true);
    at.keep(&[raw(1, 0, 3)]);
    let sql = "UPDATE instance SET first = 0, last = 0";
    at.keeper.connection.execute(sql, []).unwrap();
    at.keeper.known.clear();
    let sql = "SELECT count(*) FROM streams WHERE first IS NULL AND last IS NULL";
    assert_eq!(at.count(sql), 1);
    at.keep(&[raw(1, 3, 6)]);
    let sql = "SELECT last FROM streams WHERE first IS NULL";
    assert_eq!(at.count(sql), 6000);
}

#[test]
fn a_batch_that_fails_has_kept_nothing_and_comes_again() {
    let mut at = fixture(true);
    at.keep(&[raw(1, 0, 1)]);
    let pages = at.count("PRAGMA page_count");
    at.keeper
        .connection
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let mut large = raw(1, 1, 2);
    if let Body::Raw(samples) = &mut large.body {
        samples[0].body = SampleBody::Data(Base64Bytes(vec![7; 1 << 20]));
    }
    let now = Timestamp::from_micros(90_000_000);
    let failed = at.keeper.keep(&[large.clone()], 8, now).unwrap_err();
    assert_eq!(
        failed.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DiskFull)
    );
    assert_eq!(at.seqs(), [1]);
    at.keeper
        .connection
        .pragma_update(None, "max_page_count", 1 << 20)
        .unwrap();
    assert_eq!(at.keep(&[large]).counts.accepted, 1);
    assert_eq!(at.seqs(), [1, 2]);
    assert_eq!(
        at.count("SELECT count(*) FROM samples WHERE typeof(data) = 'blob'"),
        1
    );
}

#[test]
fn windows_of_kpis_and_of_infrastructure_join_by_vm_and_time() {
    let mut at = fixture(true);
    let result = |point: &str, column: &str| {
        let processed = Processed {
            function: "mean".into(),
            from: Timestamp::from_micros(0),
            to: Timestamp::from_micros(10_000_000),
            values: [(column.into(), 41.5)].into(),
            count: [(column.into(), 3)].into(),
            rows_after: 0,
            rows_after_key: None,
            partial: false,
            forked: false,
        };
        Event {
            point: point.parse().unwrap(),
            body: Body::Processed(processed),
            ..raw(1, 0, 3)
        }
    };
    at.keep(&[
        result("unencrypted/web", "users"),
        result("infra/cpu", "cpu_per_second"),
    ]);
    let sql = "SELECT count(*) FROM joined WHERE kpi ->> 'users' = 41.5 AND infra ->> 'cpu_per_second' = 41.5";
    assert_eq!(at.count(sql), 1);
    assert_eq!(at.count("SELECT sum(count) FROM result_values"), 6);
}

#[test]
fn retention_takes_the_oldest_and_nothing_comes_again() {
    use crate::command::collect::retention::{Limits, step, used_bytes};
    let mut at = fixture(true);
    for n in 0..50 {
        let now = Timestamp::from_micros(n * 60_000_000);
        let after = n.cast_unsigned() * 100;
        at.keeper
            .keep(&[raw(1, after, after + 100)], 1, now)
            .unwrap();
    }
    let mut limits = Limits {
        bytes: u64::MAX,
        rows: Some(4000),
        age: None,
    };
    let now = Timestamp::from_micros(49 * 60_000_000);
    let mut take = |limits: &Limits| {
        let mut all = 0;
        loop {
            match step(at.keeper.connection(), limits, now).unwrap().all() {
                0 => return all,
                taken => all += taken,
            }
        }
    };
    assert_eq!(take(&limits), 1000);
    limits.age = Some(std::time::Duration::from_secs(1200));
    assert_eq!(take(&limits), 1900, "those of minutes 10 to 28");
    let used = used_bytes(at.keeper.connection()).unwrap();
    limits.bytes = used / 2;
    let mut take = |limits: &Limits| {
        while step(at.keeper.connection(), limits, now).unwrap().all() > 0 {}
    };
    take(&limits);
    let left = at.seqs();
    assert!(used_bytes(at.keeper.connection()).unwrap() <= used / 2);
    assert!(!left.is_empty() && left.len() < 2100, "{}", left.len());
    assert_eq!(left.last(), Some(&5000));
    assert_eq!(at.keep(&[raw(1, 0, 100)]).counts.repeated, 1);
    assert_eq!(at.keep(&[raw(1, 5000, 5001)]).counts.accepted, 1);
}

#[test]
fn what_no_guest_can_say_is_refused_and_harms_no_other_message() {
    let mut at = fixture(true);
    let mut beyond = raw(1, 0, 0);
    beyond.through.seq = u64::MAX;
    let mut base = raw(1, 0, 1);
    base.base.seq = u64::MAX;
    let mut outside = raw(1, 0, 2);
    outside.through = Position::new(1, RowKey(u64::MAX - 1));
    let kept = at.keep(&[beyond, base, outside, raw(1, 0, 3)]);
    assert_eq!((kept.counts.refused, kept.counts.accepted), (3, 1));
    assert_eq!(at.seqs(), [1, 2, 3]);
}

#[test]
fn what_does_not_open_is_kept_sealed_and_covers_its_rows() {
    let mut at = fixture(true);
    let sealed = Event {
        body: Body::Sealed(Sealed {
            kind: vmkpi::message::Kind::Raw,
            envelope: "eyJ..".into(),
        }),
        ..raw(1, 0, 4)
    };
    let kept = at.keep(&[sealed, raw(1, 4, 5)]);
    assert_eq!((kept.counts.sealed, kept.counts.accepted), (1, 2));
    let sql = "SELECT through FROM sealed_messages WHERE kind = 'raw' AND envelope = 'eyJ..'";
    assert_eq!(at.count(sql), 4);
    assert_eq!(at.seqs(), [5]);
}

/// Keeps a message that says that the guest is acknowledged through `base`, so many seconds after the first.
fn keep_at(at: &mut Fixture, seconds: i64, (after, through): (u64, u64), base: u64) -> Kept {
    let mut event = raw(1, after, through);
    event.base = Position::new(base, RowKey(u64::MAX - base));
    let now = Timestamp::from_micros(90_000_000 + seconds * 1_000_000);
    at.keeper.keep(&[event], 7, now).unwrap()
}

#[test]
fn a_hole_in_what_the_guest_was_acknowledged_without_us_becomes_a_gap() {
    let mut at = fixture(true);
    keep_at(&mut at, 0, (0, 2), 0);
    for (n, row) in (4..=9).enumerate() {
        let kept = keep_at(&mut at, 40 * n as i64, (row, row + 1), row - 1);
        let stand = kept.stands.values().next().unwrap();
        let ended = n >= 5;
        assert_eq!(stand.missing, !ended, "{n}");
        assert_eq!(stand.through.seq, if ended { 10 } else { 2 }, "{n}");
    }
    assert_eq!(
        at.seqs(),
        [1, 2, 5, 6, 7, 8, 9, 10],
        "none that came is lost"
    );
    let sql = "SELECT after * 100 + through FROM gaps WHERE reason = 'not_sent'";
    assert_eq!(at.count(sql), 204);
    assert_eq!(
        at.count("SELECT since * 100000 + time FROM gaps"),
        200_005_000
    );
    assert_eq!(at.count("SELECT count(*) FROM missing"), 0);
    let kept = keep_at(&mut at, 240, (10, 11), 9);
    assert_eq!(kept.counts.accepted, 1);
}

#[test]
fn a_hole_in_what_a_guest_keeps_for_us_is_asked_for_for_ever() {
    let mut at = fixture(true);
    keep_at(&mut at, 0, (0, 2), 0);
    for n in 0..50_i64 {
        let row = 4 + n.cast_unsigned();
        let kept = keep_at(&mut at, 3600 * n, (row, row + 1), n.cast_unsigned() % 3);
        let (instance, stand) = kept.stands.first_key_value().unwrap();
        assert_eq!(instance.confirmed(stand).want_from, Some(stand.through));
        assert_eq!(stand.through.seq, 2);
    }
    assert_eq!(at.count("SELECT count(*) FROM gaps"), 0);
    let kept = keep_at(&mut at, 3600 * 51, (2, 4), 2);
    assert_eq!(kept.counts.accepted, 51, "and what came meanwhile follows");
    assert_eq!(at.seqs(), (1..=54).collect::<Vec<_>>());
}

#[test]
fn a_restored_collect_gives_nothing_up() {
    let mut at = fixture(true);
    at.keeper.rules.restored = true;
    for n in 0..9 {
        keep_at(&mut at, 3600 * n, (4, 5), 5);
    }
    assert_eq!(at.count("SELECT count(*) FROM gaps"), 0);
    assert_eq!(at.count("SELECT through FROM missing"), 5);
}

#[test]
fn a_batch_that_fails_lets_go_of_nothing_that_is_held() {
    let mut at = fixture(true);
    at.keep(&[raw(1, 0, 1), raw(1, 2, 3)]);
    at.keeper
        .connection
        .execute_batch("PRAGMA query_only = 1")
        .unwrap();
    let now = Timestamp::from_micros(90_000_000);
    assert!(at.keeper.keep(&[raw(1, 1, 2)], 8, now).is_err());
    at.keeper
        .connection
        .execute_batch("PRAGMA query_only = 0")
        .unwrap();
    assert_eq!(at.keep(&[raw(1, 1, 2)]).counts.accepted, 2);
    assert_eq!(at.seqs(), [1, 2, 3]);
}
