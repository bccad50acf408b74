//! The link over a real Unix socket: an honest host, and hosts that are anything but.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod host;
mod hostile;
mod poll;
mod vsock;

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use common::Guest;
use host::{Host, table};
use vmkpi::link::{Databases, From, GuestMessage, Have, HostMessage, Payload};
use vmkpi::position::{Nonce, Position, RowKey};
use vmkpi::value::Value;

#[test]
fn a_host_subscribes_and_each_row_is_pushed_once_with_its_types_and_a_mark_follows() {
    let guest = Guest::start();
    let mode = std::fs::metadata(guest.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    guest
        .write("unencrypted/w", "i,r,t,n\n1,4.5,007,\n")
        .unwrap();
    let mut host = Host::connect(&guest, 7);
    let (stream, tables) = host.hello(vec![]);
    assert_eq!(tables.len(), 1);
    assert_eq!(
        (tables[0].first, tables[0].last, tables[0].acked.seq),
        (1, 1, 0)
    );
    host.subscribe(&["unencrypted/*", "encrypted/*"], vec![]);
    let first = host.rows();
    assert_eq!(first.table(), table(stream, "unencrypted/w"));
    assert_eq!(
        first.columns.iter().map(|c| &**c).collect::<Vec<_>>(),
        ["i", "r", "t", "n"]
    );
    let values = vec![
        Value::Integer(1),
        Value::Real(4.5),
        Value::Text("007".into()),
        Value::Null,
    ];
    assert_eq!(first.rows[0].payload, Payload::Values(values));
    guest.write("unencrypted/w", "i\n2\n").unwrap();
    let pushed = Instant::now();
    let second = host.rows();
    assert!(
        pushed.elapsed() < Duration::from_millis(500),
        "pushed at once"
    );
    assert_eq!((second.rows.len(), second.rows[0].seq), (1, 2));
    guest.write("encrypted/e", [1, 2, 3]).unwrap();
    let third = host.rows();
    assert_eq!(third.table(), table(stream, "encrypted/e"));
    assert!(matches!(&third.rows[0].payload, Payload::Data(d) if d.0 == [1, 2, 3]));
    let (position, epoch, time) = host.expect(|message| match message {
        GuestMessage::Mark {
            table,
            position,
            epoch,
            time,
            ..
        } if table == first.table() => Some((position, epoch, time)),
        _ => None,
    });
    assert_eq!(position, second.rows[0].position());
    assert!((epoch, time) >= (second.rows[0].epoch, second.rows[0].time));
    assert_eq!(guest.status()["live"]["link"]["subscribed_tables"], 2);
}

#[test]
fn a_backlog_comes_in_pages_without_a_hole_while_new_rows_are_stored() {
    let guest = Guest::start();
    for i in 1..=1500 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    host.subscribe(&["unencrypted/w"], vec![]);
    let path = guest.path("unencrypted/w");
    let writer = std::thread::spawn(move || {
        (1501..=2500).for_each(|i| common::store(&path, format!("v\n{i}\n").as_bytes()).unwrap());
    });
    let mut next = 1;
    let mut messages = 0;
    while next <= 2500 {
        let page = host.rows();
        messages += 1;
        for row in page.rows {
            assert_eq!(row.seq, next);
            assert_eq!(
                row.payload,
                Payload::Values(vec![Value::Integer(next.cast_signed())])
            );
            next += 1;
        }
    }
    writer.join().unwrap();
    assert!(messages < 1200, "several rows a line: {messages}");
}

#[test]
fn an_acknowledgement_is_verified_kept_and_lets_rows_go() {
    let mut guest = Guest::start_with(&["--retain-rows", "3"]);
    for i in 1..=10 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    let mut host = Host::connect(&guest, 1);
    let (stream, _) = host.hello(vec![]);
    let w = table(stream, "unencrypted/w");
    host.subscribe(&["unencrypted/w"], vec![]);
    let rows = host.rows().rows;
    // A Consumer that has not spoken yet holds everything back.
    host.ack(&w, vec![rows[9].position(), Position { seq: 9, key: None }]);
    host.ack(&w, vec![rows[8].position(), rows[7].position()]);
    let acked = |guest: &Guest| guest.status()["points"][0]["acked"].clone();
    common::until("the acknowledgement", || acked(&guest) == 8);
    common::until("all but 3 of 10 to go", || {
        guest.query::<i64>("SELECT min(_seq) FROM w") == 8
    });
    let query = From {
        table: w.clone(),
        seq: 1,
    };
    host.say(&HostMessage::Query {
        nonce: host.nonce,
        id: 99,
        from: query,
        limit: 2,
    });
    let answer = host.expect(|m| match m {
        GuestMessage::Rows(rows) if rows.query == Some(99) => Some(rows),
        _ => None,
    });
    assert_eq!(
        answer.rows.iter().map(|r| r.seq).collect::<Vec<_>>(),
        [8, 9]
    );
    let trimmed = answer.trimmed.unwrap();
    assert_eq!((trimmed.seq, trimmed.key), (7, Some(rows[6].key)));
    assert_eq!(answer.trimmed_reason.as_deref(), Some("retention_rows"));
    assert_eq!((answer.acked.seq, answer.acked.key), (8, Some(rows[7].key)));
    guest.kill();
    guest.restart();
    let mut host = Host::connect(&guest, 2);
    let (again, tables) = host.hello(vec![Have {
        table: w.clone(),
        highest: rows[9].position(),
    }]);
    assert_eq!(again, stream, "the same history");
    assert_eq!(
        (tables[0].first, tables[0].last, tables[0].acked.seq),
        (8, 10, 8)
    );
    host.subscribe(&["unencrypted/*"], vec![]);
    assert_eq!(
        host.rows().rows[0].seq,
        9,
        "it begins after what is acknowledged"
    );
}

#[test]
fn rows_lost_before_they_were_acknowledged_are_told_as_a_gap_until_it_is_acknowledged() {
    let mut guest = Guest::start_with(&["--retain-rows", "4", "--drop-unacknowledged"]);
    let gap_of = |host: &mut Host| {
        host.expect(|m| match m {
            GuestMessage::Gap {
                after,
                through,
                reason,
                ..
            } => Some((after, through, reason)),
            _ => None,
        })
    };
    for i in 1..=10 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    common::until("rows to go", || {
        guest.query::<i64>("SELECT min(_seq) FROM w") == 7
    });
    let point = |guest: &Guest| guest.status()["points"][0].clone();
    assert_eq!(point(&guest)["gap"]["through"], 6);
    for session in 1..=2 {
        let mut host = Host::connect(&guest, session);
        let (stream, tables) = host.hello(vec![]);
        assert_eq!(
            (tables[0].first, tables[0].last, tables[0].acked.seq),
            (7, 10, 0)
        );
        host.subscribe(&["unencrypted/w"], vec![]);
        let (after, through, reason) = gap_of(&mut host);
        assert_eq!(
            (after, through.seq, &*reason),
            (Position::START, 6, "retention_rows")
        );
        let rows = host.rows().rows;
        assert_eq!(
            rows.iter().map(|r| r.seq).collect::<Vec<_>>(),
            [7, 8, 9, 10]
        );
        if session == 2 {
            host.ack(&table(stream, "unencrypted/w"), vec![through.position()]);
            common::until("the acknowledgement", || point(&guest)["acked"] == 6);
        }
        guest.kill();
        guest.restart();
    }
    assert_eq!(point(&guest)["acked"], 6);
    assert!(point(&guest)["gap"].is_null());
    assert_eq!(point(&guest)["lost"], 6);
    for i in 11..=20 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    common::until("rows to go", || {
        guest.query::<i64>("SELECT min(_seq) FROM w") == 17
    });
    // Whoever has read further is told of no rows that it has.
    let mut host = Host::connect(&guest, 3);
    let (stream, _) = host.hello(vec![]);
    let w = table(stream, "unencrypted/w");
    let from = |seq| {
        vec![From {
            table: w.clone(),
            seq,
        }]
    };
    host.subscribe(&["unencrypted/w"], from(18));
    assert_eq!(host.rows().rows[0].seq, 18);
    host.subscribe(&["unencrypted/w"], from(12));
    let (after, through, _) = gap_of(&mut host);
    assert_eq!((after, through.seq), (Position { seq: 11, key: None }, 16));
    assert_eq!(host.rows().rows[0].seq, 17);
    let advice = guest.status()["advice"].to_string();
    assert!(
        advice.contains("were dropped before anyone had acknowledged them"),
        "{advice}"
    );
}

#[test]
fn a_host_that_knows_another_history_makes_the_guest_begin_a_new_stream() {
    let guest = Guest::start();
    for i in 1..=5 {
        guest.write("unencrypted/w", format!("v\n{i}\n")).unwrap();
    }
    let mut host = Host::connect(&guest, 1);
    let (old, _) = host.hello(vec![]);
    let w = table(old, "unencrypted/w");
    host.subscribe(&["unencrypted/w"], vec![]);
    let rows = host.rows().rows;
    host.ack(&w, vec![rows[1].position()]);
    host.ack(&w, vec![Position::new(4, RowKey(rows[3].key.0 ^ 1))]);
    host.expect(|m| matches!(m, GuestMessage::Rehello { .. }).then_some(()));
    host.nonce = Nonce(2);
    let (new, tables) = host.hello(vec![]);
    assert_ne!(new, old);
    let find = |s| tables.iter().find(|t| t.table.stream == s).unwrap();
    assert_eq!(
        (find(new).first, find(new).last, find(new).moved),
        (1, 3, 3)
    );
    assert_eq!((find(old).last, find(old).acked.seq), (2, 2));
    host.subscribe(
        &["unencrypted/w"],
        vec![From {
            table: w.clone(),
            seq: 1,
        }],
    );
    let mut keys = Vec::new();
    while keys.len() < 5 {
        let page = host.rows();
        keys.extend(page.rows.iter().map(|r| (page.stream == new, r.seq, r.key)));
    }
    keys.sort_unstable_by_key(|(is_new, seq, _)| (*is_new, *seq));
    let expected: Vec<_> = (0..5)
        .map(|i| {
            (
                i >= 2,
                if i < 2 { i + 1 } else { i - 1 } as u64,
                rows[i].key,
            )
        })
        .collect();
    assert_eq!(keys, expected, "rows keep their keys");
    guest.write("unencrypted/w", "v\n6\n").unwrap();
    assert_eq!(host.rows().rows[0].seq, 4);
    // A row beyond the end, another VM: likewise.
    let beyond = Have {
        table: table(new, "unencrypted/w"),
        highest: Position::new(99, RowKey(1)),
    };
    host.nonce = Nonce(3);
    let (third, _) = host.hello_as(vec![beyond], Some("vm-a"));
    assert_ne!(third, new);
    host.nonce = Nonce(4);
    let (fourth, _) = host.hello_as(vec![], Some("vm-b"));
    assert_ne!(fourth, third);
    assert_eq!(host.hello_as(vec![], Some("vm-b")).0, fourth);
    assert_eq!(guest.query::<i64>("SELECT max(_seq) FROM w"), 4);
    assert_eq!(guest.read("unencrypted/w"), "v\n6\n");
}

#[test]
fn the_newest_host_is_spoken_with() {
    let guest = Guest::start();
    let mut first = Host::connect(&guest, 1);
    first.hello(vec![]);
    let mut second = Host::connect(&guest, 2);
    second.hello(vec![]);
    assert!(first.next(Duration::from_secs(1)).is_none(), "hung up");
    second.subscribe(&["unencrypted/*"], vec![]);
    guest.write("unencrypted/w", "1\n").unwrap();
    assert_eq!(second.rows().rows.len(), 1);
}

/// How full the databases are, by the guest's word.
fn databases(host: &mut Host) -> Databases {
    let ping = HostMessage::Ping { nonce: host.nonce };
    host.say(&ping);
    host.expect(|message| match message {
        GuestMessage::Alive { databases, .. } => databases,
        _ => None,
    })
}

#[test]
fn a_guest_says_how_full_its_databases_are_until_no_store_fits() {
    const LIMIT: u64 = 256 << 10;
    let guest = Guest::start_with(&["--max-database-bytes", "262144"]);
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    let before = databases(&mut host);
    let wide = "x".repeat(10_000);
    let full = (0..100).find(|_| guest.write("unencrypted/w", &wide).is_err());
    assert!(full.is_some(), "nobody acknowledges, and yet all fits");
    let after = databases(&mut host);
    let (before, full) = (before.unencrypted.unwrap(), after.unencrypted.unwrap());
    assert_eq!((before.limit, full.limit), (LIMIT, LIMIT));
    assert!(before.bytes < LIMIT / 2, "{before:?}");
    assert!(
        full.bytes > LIMIT / 10 * 9 && full.bytes <= LIMIT,
        "{full:?}"
    );
    assert!(
        after.encrypted.unwrap().bytes < LIMIT / 2,
        "each by itself: {after:?}"
    );
}
