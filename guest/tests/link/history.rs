//! History by time, over real databases.

use std::sync::LazyLock;

use super::common::Guest;
use super::host::{Host, table};
use vmkpi::clock::Timestamp;
use vmkpi::link::{GuestMessage, HistoryPage, HistoryQuery, HostMessage, Row};
use vmkpi::position::{Nonce, Position, RowKey};

/// Seconds after an hour before the test began: retention takes what is older than a week, asked for or not.
fn at(seconds: i64) -> Timestamp {
    static BEGIN: LazyLock<i64> = LazyLock::new(|| Timestamp::now().as_micros() - 3_600_000_000);
    Timestamp::from_micros(*BEGIN + seconds * 1_000_000)
}

fn ask(host: &mut Host, id: u64, query: &HistoryQuery) -> HistoryPage {
    host.say(&HostMessage::History {
        nonce: host.nonce,
        id,
        query: query.clone(),
    });
    let page = host.expect(|message| match message {
        GuestMessage::History(page) if page.id == id => Some(page),
        _ => None,
    });
    assert!(query.admits(&page), "{query:?}: {page:?}");
    page
}

/// Every row of the span, page by page, and the number of pages.
fn all(host: &mut Host, point: &str, span: (i64, i64), limit: usize) -> (Vec<Row>, usize) {
    let mut query = HistoryQuery {
        point: point.parse().unwrap(),
        from: at(span.0),
        to: at(span.1),
        after: None,
        limit,
    };
    let (mut rows, mut pages) = (Vec::new(), 0);
    loop {
        pages += 1;
        let page = ask(host, pages as u64, &query);
        rows.extend(page.rows);
        query.after = page.next;
        if query.after.is_none() {
            return (rows, pages);
        }
    }
}

/// A guest whose table `w` holds rows at these (epoch, seconds): written while it is down, as its clock
/// cannot be turned here.
fn guest_with(rows: impl Iterator<Item = (i64, i64)>) -> Guest {
    let mut guest = Guest::start();
    guest.write("unencrypted/w", "v\n0\n").unwrap();
    guest.terminate();
    let mut db = guest.db("unencrypted");
    let transaction = db.transaction().unwrap();
    transaction.execute("DELETE FROM w", []).unwrap();
    for (n, (epoch, seconds)) in (1i64..).zip(rows) {
        transaction
            .execute(
                "INSERT INTO w VALUES (?1, ?2, ?3, ?4, ?5)",
                [n, at(seconds).as_micros(), epoch, 7 * n, n],
            )
            .unwrap();
    }
    transaction.commit().unwrap();
    guest.restart();
    guest
}

fn seqs(rows: &[Row]) -> Vec<u64> {
    rows.iter().map(|row| row.seq).collect()
}

#[test]
fn rows_of_a_span_come_over_clocks_set_back_and_each_page_size_gives_the_same() {
    // Three epochs: 100..200 s, then the clock was set back to 50..150 s, then 300..310 s.
    let first = (100..200).map(|s| (1, s));
    let rows: Vec<_> = first
        .chain((50..150).map(|s| (2, s)))
        .chain((300..310).map(|s| (3, s)))
        .collect();
    let guest = guest_with(rows.iter().copied());
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    let spans = [
        (0, 1000),
        (120, 130),
        (0, 60),
        (199, 301),
        (400, 500),
        (60, 60),
        (155, 300),
    ];
    for span in spans {
        let expected: Vec<u64> = (1..)
            .zip(&rows)
            .filter(|(_, (_, s))| (span.0..span.1).contains(s))
            .map(|(n, _)| n)
            .collect();
        for limit in [1000, 7, 1] {
            let (found, _) = all(&mut host, "unencrypted/w", span, limit);
            assert_eq!(seqs(&found), expected, "{span:?} by {limit}");
        }
    }
    assert!(
        all(&mut host, "unencrypted/none", (0, 1000), 10)
            .0
            .is_empty()
    );
    assert!(all(&mut host, "infra/cpu", (0, 1000), 10).0.is_empty());
}

#[test]
fn a_table_of_nothing_but_epochs_costs_bounded_pages_and_is_read_whole() {
    let guest = guest_with((0..500).map(|n| (n, 1000 - n)));
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    let (found, pages) = all(&mut host, "unencrypted/w", (510, 520), 100);
    assert_eq!(seqs(&found), (482..=491).collect::<Vec<_>>());
    assert!((500 / 64..=500 / 64 + 2).contains(&pages), "{pages} pages");
}

#[test]
fn history_goes_over_every_stream_that_is_held_and_a_mint_in_between_loses_nothing() {
    let guest = Guest::start();
    for value in 1..=6 {
        guest
            .write("unencrypted/w", format!("v\n{value}\n"))
            .unwrap();
    }
    let mut host = Host::connect(&guest, 1);
    let (stream, _) = host.hello(vec![]);
    let w = table(stream, "unencrypted/w");
    host.subscribe(&["unencrypted/w"], vec![]);
    let stored = host.rows().rows;
    let mut query = HistoryQuery {
        point: "unencrypted/w".parse().unwrap(),
        from: at(0),
        to: at(4_000_000_000),
        after: None,
        limit: 2,
    };
    let first = ask(&mut host, 1, &query);
    assert_eq!(seqs(&first.rows), [1, 2]);
    query.after = first.next;
    host.ack(&w, vec![stored[3].position()]);
    host.ack(&w, vec![Position::new(5, RowKey(stored[4].key.0 ^ 1))]);
    host.expect(|m| matches!(m, GuestMessage::Rehello { .. }).then_some(()));
    host.nonce = Nonce(2);
    host.hello(vec![]);
    let mut keys: Vec<_> = first.rows.iter().map(|row| row.key).collect();
    for id in 2.. {
        let page = ask(&mut host, id, &query);
        keys.extend(page.rows.iter().map(|row| row.key));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    let due: Vec<_> = stored.iter().map(|row| row.key).collect();
    assert_eq!(keys, due);
}

#[test]
fn questions_without_end_do_not_keep_live_rows_from_being_sent() {
    let guest = Guest::start();
    for value in 1..=2000 {
        guest
            .write("unencrypted/w", format!("v\n{value}\n"))
            .unwrap();
    }
    let mut host = Host::connect(&guest, 1);
    host.hello(vec![]);
    host.subscribe(&["unencrypted/live"], vec![]);
    let query = HistoryQuery {
        point: "unencrypted/w".parse().unwrap(),
        from: at(0),
        to: at(4_000_000_000),
        after: None,
        limit: 1000,
    };
    // 60 pages of 64 KiB: four times what waits to be sent at most.
    for id in 0..60 {
        host.say(&HostMessage::History {
            nonce: host.nonce,
            id,
            query: query.clone(),
        });
    }
    guest.write("unencrypted/live", "v\n1\n").unwrap();
    let (mut pages, mut before) = (0, None);
    while pages < 60 {
        match host.expect(Some) {
            GuestMessage::History(_) => pages += 1,
            GuestMessage::Rows(_) => before = Some(pages),
            _ => {}
        }
    }
    let before = before.expect("the live row came");
    assert!(before < 40, "after {before} of 60 pages");
}
