use std::collections::BTreeMap;

use vmkpi::clock::Timestamp;
use vmkpi::message::{Processed, Sample, SampleBody, Values};
use vmkpi::value::Value;

use super::*;

const STREAM: StreamId = StreamId(7);

fn event(stream: StreamId, after: Seq, through: Seq, body: Body) -> Event {
    Event {
        site: "acme".parse().unwrap(),
        vm: "shop".parse().unwrap(),
        point: "unencrypted/web".parse().unwrap(),
        specifier: "load".parse().unwrap(),
        revision: "00".into(),
        stream,
        after: Position {
            seq: after,
            key: None,
        },
        through: Position {
            seq: through,
            key: None,
        },
        base: Position::START,
        time: Timestamp::from_micros(0),
        clock_skew_ms: None,
        body,
    }
}

fn sample(seq: Seq, key: u64) -> Sample {
    let values = Values {
        columns: ["a".into()].into(),
        row: vec![Value::Integer(1)],
    };
    Sample {
        seq,
        key: RowKey(key),
        time: Timestamp::from_micros(0),
        body: SampleBody::Values(values),
    }
}

/// Every row of (after, through], each with its number as key.
fn raw(after: Seq, through: Seq) -> Event {
    let samples = (after + 1..=through).map(|seq| sample(seq, seq)).collect();
    event(STREAM, after, through, Body::Raw(samples))
}

fn processed(after: Seq, rows_after: Seq, through: Seq) -> Event {
    let body = Body::Processed(Processed {
        function: "mean".into(),
        from: Timestamp::from_micros(0),
        to: Timestamp::from_micros(1),
        values: BTreeMap::new(),
        count: BTreeMap::new(),
        rows_after,
        rows_after_key: None,
        partial: false,
        forked: false,
    });
    event(STREAM, after, through, body)
}

fn seqs(verdict: &Verdict) -> Vec<Seq> {
    match verdict {
        Verdict::New { event, .. } => match &event.body {
            Body::Raw(samples) => samples.iter().map(|s| s.seq).collect(),
            _ => vec![],
        },
        _ => vec![],
    }
}

fn missing(verdict: &Verdict) -> Option<(Seq, Seq)> {
    match verdict {
        Verdict::New { missing, .. } => missing.map(|m| (m.after, m.through)),
        _ => None,
    }
}

#[test]
fn it_begins_at_its_first_message_and_shows_each_row_once() {
    let mut cursors = Cursors::default();
    let first = cursors.accept(raw(10, 12));
    assert_eq!((seqs(&first), missing(&first)), (vec![11, 12], None));
    assert_eq!(cursors.accept(raw(10, 12)), Verdict::Repetition);
    assert_eq!(cursors.accept(raw(0, 12)), Verdict::Repetition);
    assert_eq!(seqs(&cursors.accept(raw(12, 14))), [13, 14]);
    assert_eq!(seqs(&cursors.accept(raw(11, 16))), [15, 16], "straddling");
}

#[test]
fn an_empty_message_covers_rows_or_moves_nothing() {
    let mut cursors = Cursors::default();
    assert_eq!(cursors.accept(raw(5, 5)), Verdict::Repetition);
    let covered = event(STREAM, 5, 8, Body::Raw(vec![]));
    assert_eq!(seqs(&cursors.accept(covered)), [0; 0]);
    let next = cursors.accept(raw(8, 9));
    assert_eq!((seqs(&next), missing(&next)), (vec![9], None));
}

#[test]
fn what_never_came_is_said_to_be_missing_and_the_rest_is_shown() {
    let mut cursors = Cursors::default();
    cursors.accept(raw(0, 3));
    let later = cursors.accept(raw(7, 9));
    assert_eq!((seqs(&later), missing(&later)), (vec![8, 9], Some((3, 7))));
    assert_eq!(cursors.accept(raw(3, 7)), Verdict::Repetition, "too late");
}

#[test]
fn a_straddling_window_is_shown_when_it_holds_something_new() {
    let mut cursors = Cursors::default();
    cursors.accept(raw(0, 4));
    for (message, new) in [
        (processed(2, 4, 8), true),
        (processed(4, 4, 8), false),
        (processed(3, 3, 9), true),
        (processed(12, 12, 15), true),
    ] {
        let verdict = cursors.accept(message);
        assert_eq!(matches!(verdict, Verdict::New { .. }), new, "{verdict:?}");
    }
}

#[test]
fn a_row_that_moved_into_a_new_stream_is_not_shown_again() {
    let mut cursors = Cursors::default();
    cursors.accept(raw(0, 3));
    let moved = vec![sample(1, 2), sample(2, 3), sample(3, 99)];
    let verdict = cursors.accept(event(StreamId(8), 0, 3, Body::Raw(moved)));
    assert_eq!(seqs(&verdict), [3]);
}

#[test]
fn another_history_is_not_accepted() {
    let mut cursors = Cursors::default();
    let mut message = raw(0, 3);
    message.through.key = Some(RowKey(3));
    cursors.accept(message);
    let mut other = raw(3, 4);
    other.after.key = Some(RowKey(77));
    assert_eq!(cursors.accept(other), Verdict::Diverged);
    assert_eq!(
        seqs(&cursors.accept(raw(3, 4))),
        [4],
        "an absent key is never a divergence"
    );
}

#[test]
fn instances_are_apart_and_bounded() {
    let mut cursors = Cursors::default();
    for n in 0..MAX_INSTANCES + 10 {
        let mut message = raw(0, 1);
        message.vm = format!("vm-{n}").parse().unwrap();
        assert_eq!(seqs(&cursors.accept(message)), [1], "{n}");
    }
    assert!(cursors.instances.len() <= MAX_INSTANCES);
    let mut last = raw(0, 1);
    last.vm = format!("vm-{}", MAX_INSTANCES + 9).parse().unwrap();
    assert_eq!(
        cursors.accept(last),
        Verdict::Repetition,
        "the busy ones are remembered"
    );
    for n in 0..MAX_KEYS as u64 + 10 {
        cursors.accept(raw(n, n + 1));
    }
    assert!(cursors.shown.order.len() <= MAX_KEYS);
    assert_eq!(cursors.shown.order.len(), cursors.shown.hashes.len());
}
