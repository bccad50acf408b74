//! Rows that are lost are told, with the reason why.

use super::pair::Pair;
use super::*;
use crate::delivery::producer::MAX_WINDOW_BYTES;
use crate::delivery::spool::RETENTION_BYTES;

const EVERY: &str = "[[monitor]]\nid='m'\npoint='unencrypted/*'\n";

fn gaps(pair: &Pair) -> Vec<(u64, u64, &str)> {
    let gap = |e| match e {
        &Event {
            after,
            through,
            body: Body::Gap(ref reason),
            ..
        } => Some((after.seq, through.seq, &**reason)),
        _ => None,
    };
    pair.published.iter().filter_map(gap).collect()
}

fn word(issued: u64, seq: u64, want_from: Option<Position>) -> Confirmation {
    let table = TableId {
        stream: StreamId(1),
        point: "unencrypted/x".parse().unwrap(),
    };
    Confirmation {
        consumer: "ops".parse().unwrap(),
        issued,
        table,
        specifier: "m".parse().unwrap(),
        through: Position::new(seq, RowKey(seq)),
        want_from,
    }
}

#[test]
fn the_gap_of_a_repair_says_why_the_rows_went() {
    let mut pair = Pair::with(EVERY, vec!["ops".parse().unwrap()]);
    for n in 1..=9 {
        pair.store(Value::Integer(n), 1000);
    }
    pair.producer.on_confirm(&word(1, 9, None), 2000);
    pair.settle(2000);
    pair.store(Value::Integer(10), 3000);
    pair.store(Value::Integer(11), 3000);
    pair.guest
        .trim_through(&"unencrypted/x".parse().unwrap(), 10, RETENTION_BYTES);
    pair.settle(3000);
    assert_eq!(gaps(&pair), [], "the host has read them all");
    // Its database was restored from an older backup.
    let behind = word(2, 4, Some(Position::new(4, RowKey(4))));
    pair.producer.on_confirm(&behind, 20_000);
    pair.settle(20_000);
    assert_eq!(gaps(&pair), [(4, 10, "retention_bytes")]);
    assert_eq!(pair.published.last().unwrap().through.seq, 11);
}

#[test]
fn what_consumers_have_not_confirmed_says_where_it_is_when_they_are_heard_again() {
    let mut pair = Pair::with(EVERY, vec!["ops".parse().unwrap()]);
    pair.store(Value::Integer(1), 1000);
    let published = pair.published.len();
    pair.producer.on_listening(1500);
    pair.settle(1500);
    let [said] = &pair.published[published..] else {
        panic!("{:?}", &pair.published[published..]);
    };
    assert_eq!((said.after.seq, said.through.seq), (1, 1), "where it is");
    assert!(matches!(&said.body, Body::Raw(samples) if samples.is_empty()));
    pair.producer.on_confirm(&word(1, 1, None), 2000);
    pair.producer.on_listening(2500);
    pair.settle(2500);
    assert_eq!(pair.published.len(), published + 1, "all is confirmed");
}

#[test]
fn a_guest_that_says_nothing_or_much_of_why_rows_went_is_passed_on_in_few_words() {
    for (said, told) in [
        ("", "retention".to_owned()),
        (&*"x".repeat(999), "x".repeat(64)),
    ] {
        let mut pair = Pair::with(EVERY, Vec::new());
        pair.store(Value::Integer(1), 1000);
        let line = format!(
            r#"{{"op":"gap","nonce":"{}","stream":"{}","point":"unencrypted/x","after":{{"seq":1}},
               "through":{{"seq":3,"key":"{}","epoch":0,"time":"2026-01-01T00:00:00Z"}},"reason":"{said}"}}"#,
            Nonce(1),
            StreamId(1),
            RowKey(3)
        );
        pair.producer
            .on_message(serde_json::from_str(&line).unwrap(), 2000);
        pair.settle(2000);
        assert_eq!(gaps(&pair), [(1, 3, &*told)]);
    }
}

/// A guest with many tables of many columns, in windows that never close: what they hold has a bound.
#[test]
fn open_windows_of_one_vm_hold_a_bounded_number_of_bytes_and_what_is_over_it_is_a_gap() {
    for monitor in [
        "delivery_ms = 60000\nfunction = \"count\"",
        "interval_ms = 60000\nfunction = \"max\"",
        "interval_ms = 60000",
    ] {
        let mut pair = Pair::new(monitor);
        let columns: Arc<[Box<str>]> = (0..400).map(|n| format!("column{n:03}").into()).collect();
        let long = Value::Text("x".repeat(100_000).into());
        let mut most = 0;
        for round in 0..2u64 {
            for table in 0..500 {
                let mut values: Vec<_> = (0..400).map(Value::Integer).collect();
                values[0] = long.clone();
                pair.store_at(&format!("unencrypted/t{table:03}"), &columns, values, round);
                most = most.max(pair.producer.window_bytes());
            }
        }
        assert!(most > MAX_WINDOW_BYTES / 2, "{monitor}: {most}");
        assert!(most <= MAX_WINDOW_BYTES, "{monitor}: {most}");
        let lost = pair.counters().windows_lost;
        assert!(
            lost > 0 && lost == pair.counters().gaps,
            "{monitor}: {lost}"
        );
        let told = gaps(&pair);
        assert!(told.iter().all(|(_, _, why)| *why == "window_too_large"));
        // A window after a lost one says that its beginning is missing.
        pair.tick(120_000);
        let mut through: BTreeMap<DataPoint, (u64, bool)> = BTreeMap::new();
        for event in &pair.published {
            let (at, lost) = through.entry(event.point.clone()).or_default();
            assert_eq!(event.after.seq, *at, "{monitor}: {event:?}");
            if let Body::Processed(processed) = &event.body {
                assert_eq!(processed.partial, *lost, "{monitor}: {event:?}");
            }
            *lost |= matches!(event.body, Body::Gap(_));
            *at = event.through.seq;
        }
        assert_eq!(through.len(), 500);
        assert!(through.values().all(|(at, _)| *at == 2), "{monitor}");
        assert_eq!(pair.producer.window_bytes(), 0, "{monitor}");
    }
}
