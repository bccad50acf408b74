//! A specifier that was removed and comes back under its id is a new one: it begins at the acknowledged row.
//! Whoever knows its id from before sees what no message accounts for, and may ask for it.

use super::pair::Pair;
use super::*;

const STAY: &str = "[[monitor]]\nid='stay'\npoint='unencrypted/*'\n";
const BOTH: &str = "[[monitor]]\nid='stay'\npoint='unencrypted/*'\n[[monitor]]\nid='back'\npoint='unencrypted/*'\n";

/// `after`, `through` and `base` of what a specifier has published.
fn of(pair: &Pair, specifier: &str) -> Vec<(u64, u64, u64)> {
    let events = pair.published.iter();
    let own = events.filter(|e| e.specifier.as_str() == specifier);
    own.map(|e| (e.after.seq, e.through.seq, e.base.seq))
        .collect()
}

fn store(pair: &mut Pair, count: i64, now_ms: u64) {
    for n in 0..count {
        pair.store(Value::Integer(n), now_ms);
    }
    pair.tick(now_ms + 500);
}

#[test]
fn it_begins_at_the_acknowledged_row_and_what_came_meanwhile_is_not_its_own() {
    let mut pair = Pair::with(BOTH, Vec::new());
    store(&mut pair, 2, 1000);
    pair.describe(STAY, 2000);
    store(&mut pair, 3, 3000);
    pair.describe(BOTH, 4000);
    store(&mut pair, 1, 5000);
    let back = of(&pair, "back");
    assert_eq!(back.last(), Some(&(5, 6, 5)), "{back:?}");
    assert!(
        back.iter()
            .all(|(after, through, _)| *through <= 2 || *after >= 5)
    );
    let stay = of(&pair, "stay");
    let whole = stay.windows(2).all(|pair| pair[1].0 <= pair[0].1);
    assert!(whole && stay.last().unwrap().1 == 6, "{stay:?}");
}

#[test]
fn a_consumer_that_knows_it_from_before_asks_and_gets_what_the_guest_still_holds() {
    let consumer: Label = "ops".parse().unwrap();
    let mut pair = Pair::with(BOTH, vec![consumer.clone()]);
    let limits = SpoolLimits {
        acknowledged_rows: 4,
        ..SpoolLimits::default()
    };
    pair.guest = Spool::new(StreamId(1), limits);
    pair.producer.connected(Nonce(2), 0);
    pair.settle(0);
    let table = TableId {
        stream: StreamId(1),
        point: "unencrypted/x".parse().unwrap(),
    };
    let confirm = |pair: &mut Pair, specifier: &str, seq: u64, want: Option<u64>, now_ms: u64| {
        let position = |seq| Position::new(seq, RowKey(seq));
        let confirmation = Confirmation {
            consumer: consumer.clone(),
            issued: now_ms,
            table: table.clone(),
            specifier: specifier.parse().unwrap(),
            through: position(seq),
            want_from: want.map(position),
        };
        pair.producer.on_confirm(&confirmation, now_ms);
        pair.settle(now_ms);
    };
    store(&mut pair, 2, 1000);
    for specifier in ["stay", "back"] {
        confirm(&mut pair, specifier, 2, None, 1500);
    }
    pair.describe(STAY, 2000);
    store(&mut pair, 5, 3000);
    confirm(&mut pair, "stay", 7, None, 4000);
    pair.describe(BOTH, 5000);
    store(&mut pair, 1, 6000);
    let event = pair
        .published
        .iter()
        .rfind(|e| e.specifier.as_str() == "back");
    let cursor = Position::new(2, RowKey(2));
    assert_eq!(judge(cursor, event.unwrap()), Verdict::Missing);
    pair.published.clear();
    confirm(&mut pair, "back", 2, Some(2), 7000);
    // Of rows 3 to 7 the guest has let go of 3; the rest comes again.
    let again = of(&pair, "back");
    assert_eq!((again[0].0, again[0].1), (2, 3), "{again:?}");
    assert!(matches!(pair.published[0].body, Body::Gap(_)));
    assert_eq!(again.last().unwrap().1, 8, "{again:?}");
}

#[test]
fn whose_word_counts_may_change_and_no_row_is_acknowledged_by_anybody_else() {
    let consumer: Label = "ops".parse().unwrap();
    let mut pair = Pair::with(STAY, Vec::new());
    let backlog = |pair: &Pair| pair.guest.backlogs().map(|(_, rows)| rows).sum::<u64>();
    store(&mut pair, 3, 1000);
    assert_eq!(backlog(&pair), 0, "the broker's word counts");
    pair.producer.heed(vec![consumer.clone()], 2000);
    pair.settle(2000);
    store(&mut pair, 4, 3000);
    assert_eq!(backlog(&pair), 4, "it counts no longer");
    let confirmation = |issued: u64, seq: u64| Confirmation {
        consumer: consumer.clone(),
        issued,
        table: TableId {
            stream: StreamId(1),
            point: "unencrypted/x".parse().unwrap(),
        },
        specifier: "stay".parse().unwrap(),
        through: Position::new(seq, RowKey(seq)),
        want_from: None,
    };
    for (issued, seq, heard, left) in [
        (5, 5, Heard::Taken, 2),
        (5, 6, Heard::Stale, 2),
        (4, 7, Heard::Stale, 2),
        (6, 6, Heard::Taken, 1),
    ] {
        let now_ms = 3000 + 1000 * issued;
        let confirmation = confirmation(issued, seq);
        assert_eq!(pair.producer.on_confirm(&confirmation, now_ms), heard);
        pair.settle(now_ms);
        pair.tick(now_ms + 500);
        assert_eq!(backlog(&pair), left, "{issued}");
    }
    let mut stranger = confirmation(9, 7);
    stranger.consumer = "other".parse().unwrap();
    assert_eq!(pair.producer.on_confirm(&stranger, 10_000), Heard::Unknown);
    pair.producer.heed(Vec::new(), 11_000);
    pair.settle(11_000);
    store(&mut pair, 1, 12_000);
    assert_eq!(
        backlog(&pair),
        0,
        "what was not confirmed is published again"
    );
}
