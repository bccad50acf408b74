//! A guest and a host that talk without a delay, for what concerns one table or a few.

use super::*;
use crate::delivery::producer::Counters;

/// The guest's clock.
pub(super) fn at(now_ms: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(1_000_000_000 + now_ms).unwrap() * 1000)
}

/// Both, and what was published.
pub(super) struct Pair {
    pub(super) guest: Spool,
    pub(super) producer: Producer,
    pub(super) published: Vec<Event>,
    /// Whom each of them is sealed for.
    pub(super) seal_to: Vec<Option<Arc<str>>>,
    pub(super) stored: u64,
}

impl Pair {
    /// One specifier of every point, with what `monitor` says. The broker acknowledges at once.
    pub(super) fn new(monitor: &str) -> Self {
        let text = format!("[[monitor]]\npoint='unencrypted/*'\n{monitor}\n");
        Self::with(&text, Vec::new())
    }

    /// The specifiers in `text`, and the Consumers whose word counts.
    pub(super) fn with(text: &str, consumers: Vec<Label>) -> Self {
        let (identity, descriptor) = (Identity::default(), describe_as(text));
        let mut producer =
            Producer::with_consumers(Source::Kpi, identity, &descriptor, consumers, 0);
        producer.connected(Nonce(1), 0);
        let mut pair = Self {
            guest: Spool::new(StreamId(1), SpoolLimits::default()),
            producer,
            published: Vec::new(),
            seal_to: Vec::new(),
            stored: 0,
        };
        pair.settle(0);
        pair
    }

    /// Other specifiers.
    pub(super) fn describe(&mut self, text: &str, now_ms: u64) {
        self.producer.adopt(&describe_as(text), now_ms);
        self.settle(now_ms);
    }

    pub(super) fn store(&mut self, value: Value, now_ms: u64) {
        self.store_at(
            "unencrypted/x",
            &[COLUMN.into()].into(),
            vec![value],
            now_ms,
        );
    }

    pub(super) fn store_at(
        &mut self,
        point: &str,
        columns: &Arc<[Box<str>]>,
        values: Vec<Value>,
        now_ms: u64,
    ) {
        self.stored += 1;
        let (point, time) = (point.parse().unwrap(), at(now_ms));
        let (key, payload) = (RowKey(self.stored), Payload::Values(values));
        self.guest
            .append(&point, Arc::clone(columns), payload, key, time);
        self.settle(now_ms);
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        self.producer.tick(now_ms);
        self.guest.tick(at(now_ms));
        self.settle(now_ms);
    }

    pub(super) fn settle(&mut self, now_ms: u64) {
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
                    self.seal_to.push(p.seal_to);
                    self.published.push(*p.event);
                }
            }
        }
    }

    pub(super) fn counters(&self) -> Counters {
        *self.producer.counters()
    }
}

fn describe_as(text: &str) -> Descriptor {
    let text = format!("vm='v'\nprimary_site='s'\n{text}");
    let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
    Descriptor::parse(&text, Spelling::Toml, &no_file).unwrap()
}
