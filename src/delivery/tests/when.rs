//! What a predicate keeps back is accounted for: by the next message, or by an empty one.

use super::pair::Pair;
use super::*;

impl Pair {
    /// `after`, `through` and the samples' numbers of each message.
    fn covered(&self) -> Vec<(u64, u64, Vec<u64>)> {
        let of = |event: &Event| {
            let seqs = match &event.body {
                Body::Raw(samples) => samples.iter().map(|s| s.seq).collect(),
                _ => Vec::new(),
            };
            (event.after.seq, event.through.seq, seqs)
        };
        self.published.iter().map(of).collect()
    }
}

#[test]
fn each_sample_that_is_true_is_delivered_and_covers_those_before_it() {
    let mut pair = Pair::new("when = 'a > 10'");
    for value in [1, 11, 12, 3, 4, 13] {
        pair.store(Value::Integer(value), 0);
    }
    let expected = [(0, 2, vec![2]), (2, 3, vec![3]), (3, 6, vec![6])];
    assert_eq!(pair.covered(), expected, "a level, not an edge");
    assert_eq!(pair.counters().suppressed, 3);
    assert_eq!(
        (pair.counters().samples, pair.counters().when_errors),
        (3, 0)
    );
}

#[test]
fn what_is_undecided_is_kept_back_and_counted() {
    let mut pair = Pair::new("when = 'a > 10'");
    for value in [Value::Null, Value::Text("x".into()), Value::Real(11.5)] {
        pair.store(value, 0);
    }
    assert_eq!(pair.covered(), [(0, 3, vec![3])]);
    assert_eq!(
        (pair.counters().suppressed, pair.counters().when_errors),
        (2, 2)
    );
}

#[test]
fn rows_kept_back_are_covered_by_an_empty_message_within_ten_seconds() {
    let mut pair = Pair::new("when = 'a > 10'");
    pair.store(Value::Integer(11), 0);
    for second in 1..=10 {
        assert_eq!(pair.published.len(), 1, "after {second} s");
        pair.store(Value::Integer(1), second * 1000 - 500);
        pair.tick(second * 1000);
    }
    assert_eq!(pair.covered()[1..], [(1, 11, vec![])]);
    pair.tick(11_000);
    let backlog: u64 = pair.guest.backlogs().map(|(_, rows)| rows).sum();
    assert_eq!(backlog, 0, "the guest need not keep what was kept back");
}

#[test]
fn many_rows_kept_back_are_covered_at_once() {
    let mut pair = Pair::new("when = 'a > 10'");
    for _ in 0..1501 {
        pair.store(Value::Integer(1), 0);
    }
    assert_eq!(pair.covered(), [(0, 1501, vec![])]);
}

#[test]
fn a_result_is_judged_after_the_function_was_applied() {
    let mut pair =
        Pair::new("interval_ms = 1000\nfunction = 'mean'\nwhen = 'a > 10.0 && double(1) > 0.0'");
    for (second, value) in [(0, 4), (1, 11), (2, 5), (3, 12), (4, 0)] {
        pair.store(Value::Integer(value), second * 1000);
    }
    let windows: Vec<_> = pair.covered().iter().map(|c| (c.0, c.1)).collect();
    assert_eq!(windows, [(0, 2), (2, 4)]);
    let means = pair.published.iter().map(|event| match &event.body {
        Body::Processed(p) => (p.rows_after, p.values["a"]),
        other => panic!("{other:?}"),
    });
    assert_eq!(means.collect::<Vec<_>>(), [(1, 11.0), (3, 12.0)]);
}
