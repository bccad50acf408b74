//! What a predicate keeps back is accounted for: by the next message, or by an empty one.

use super::*;
use crate::delivery::producer::Counters;

/// A guest and a host that talk without a delay, and what was published.
struct Pair {
    guest: Spool,
    producer: Producer,
    published: Vec<Event>,
    stored: u64,
}

impl Pair {
    fn new(monitor: &str) -> Self {
        let text =
            format!("vm='v'\nprimary_site='s'\n[[monitor]]\npoint='unencrypted/*'\n{monitor}\n");
        let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
        let descriptor = Descriptor::parse(&text, Spelling::Toml, &no_file).unwrap();
        let mut producer = Producer::new(Source::Kpi, Identity::default(), &descriptor, 0);
        producer.connected(Nonce(1), 0);
        let mut pair = Self {
            guest: Spool::new(StreamId(1), SpoolLimits::default()),
            producer,
            published: Vec::new(),
            stored: 0,
        };
        pair.settle(0);
        pair
    }

    fn store(&mut self, value: Value, now_ms: u64) {
        self.stored += 1;
        let (point, time) = ("unencrypted/x".parse().unwrap(), at(now_ms));
        let (columns, key) = ([COLUMN.into()].into(), RowKey(self.stored));
        let payload = Payload::Values(vec![value]);
        self.guest.append(&point, columns, payload, key, time);
        self.settle(now_ms);
    }

    fn tick(&mut self, now_ms: u64) {
        self.producer.tick(now_ms);
        self.guest.tick(at(now_ms));
        self.settle(now_ms);
    }

    fn settle(&mut self, now_ms: u64) {
        loop {
            while let Some(line) = self.guest.poll() {
                self.producer.on_message(line, now_ms);
            }
            let Some(output) = self.producer.poll() else {
                return;
            };
            match output {
                Output::Send(line) => self.guest.on_message(line, &mut || StreamId(2)),
                Output::Publish(p) => {
                    self.producer.on_puback(p.token, now_ms);
                    self.published.push(*p.event);
                }
            }
        }
    }

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

    fn counters(&self) -> Counters {
        *self.producer.counters()
    }
}

fn at(now_ms: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(1_000_000_000 + now_ms).unwrap() * 1000)
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
