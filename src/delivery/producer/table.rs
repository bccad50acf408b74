//! What a producer knows of one table of one stream.

use std::sync::Arc;

use super::Counters;
use super::instance::{Instance, Origin, Scope};
use super::outbox::Outbox;
use crate::clock::Timestamp;
use crate::delivery::waiting::Waiting;
use crate::descriptor::Monitor;
use crate::link::{HostMessage, Payload, Rows, TableId};
use crate::name::Label;
use crate::position::{Mark, Nonce, Position, Seq};
use crate::value::Value;

/// Acknowledgements of one table are at least this far apart, in milliseconds: each may cost the
/// guest a write.
const ACK_MS: u64 = 100;

/// Bytes of column names above which a newest row is not kept: what a guest can make a host hold is
/// bounded, table for table.
const MAX_LATEST_NAME_BYTES: usize = 16 << 10;

/// The newest row of a point.
#[derive(Clone, Debug)]
pub struct Latest {
    /// Its number.
    pub seq: Seq,
    /// When it was stored, by the guest's clock.
    pub time: Timestamp,
    /// The names of the values.
    pub columns: Arc<[Box<str>]>,
    /// The values, text left out (NULL in its place); none of an encrypted point.
    pub values: Vec<Value>,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Every row through here has been read.
    pub(super) received: Seq,
    /// The highest row ever read, or heard of as acknowledged: what shows another history.
    pub(super) highest: Position,
    /// What the guest says is acknowledged.
    pub(super) acked: Mark,
    pub(super) moved: u64,
    /// The highest acknowledgement sent.
    pub(super) sent: Position,
    pub(super) sent_ms: Option<u64>,
    pub(super) subscribed_ms: Option<u64>,
    pub(super) instances: Vec<Instance>,
    pub(super) latest: Option<Latest>,
    /// Rows that are read and not acknowledged.
    pub(super) waiting: Waiting,
    /// What open windows hold, as it was counted last.
    pub(super) held: Held,
}

/// Bytes in open windows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Of samples of raw windows that could go out.
    pub(super) raw: usize,
    /// Of everything.
    pub(super) all: usize,
}

impl Held {
    /// In place of what a table held, this.
    pub(super) fn replace(&mut self, before: Self, now: Self) {
        self.raw = self.raw - before.raw + now.raw;
        self.all = self.all - before.all + now.all;
    }
}

impl Table {
    pub(super) fn new(acked: Mark) -> Self {
        Self {
            received: acked.seq,
            highest: acked.position(),
            acked,
            moved: 0,
            sent: Position::START,
            sent_ms: None,
            subscribed_ms: None,
            instances: Vec::new(),
            latest: None,
            waiting: Waiting::default(),
            held: Held::default(),
        }
    }

    /// Everything through this row is acknowledged by all whose word counts.
    pub(super) fn settled(&self) -> Seq {
        let cursors = self.instances.iter().flat_map(|i| &i.cursors);
        let lowest = cursors.map(|cursor| cursor.position.seq).min();
        lowest.unwrap_or(self.acked.seq).min(self.received)
    }

    /// Sees how long its oldest row has waited.
    pub(super) fn look(&mut self, now_ms: u64) {
        let settled = self.settled();
        self.waiting.look(settled, self.received, now_ms);
    }

    /// What its open windows hold now.
    pub(super) fn count_held(&self) -> Held {
        let windows = self.instances.iter().map(|i| &i.window);
        windows.fold(Held::default(), |sum, window| Held {
            raw: sum.raw + window.raw_bytes(),
            all: sum.all + window.held_bytes(),
        })
    }

    /// Makes the instances that are missing. Whether rows must be read again for one.
    pub(super) fn specify(
        &mut self,
        id: &TableId,
        monitors: &[Arc<Monitor>],
        consumers: &[Option<Label>],
        now_ms: u64,
    ) -> bool {
        let start = if self.sent.seq > self.acked.seq {
            self.sent
        } else {
            self.acked.position()
        };
        let mut behind = false;
        for monitor in monitors.iter().filter(|m| m.point.matches(&id.point)) {
            if self.instances.iter().any(|i| i.monitor.id == monitor.id) {
                continue;
            }
            let monitor = Arc::clone(monitor);
            let instance = Instance::new(monitor, start, self.acked, consumers, now_ms);
            self.instances.push(instance);
            behind |= start.seq < self.received;
            self.received = self.received.min(start.seq);
        }
        behind
    }

    /// Others acknowledge from now on.
    pub(super) fn heed(&mut self, consumers: &[Option<Label>], now_ms: u64) {
        for instance in &mut self.instances {
            if instance.heed(consumers, self.acked, now_ms) {
                self.received = self.received.min(self.acked.seq);
            }
        }
    }

    /// Takes over changed specifiers; those that are gone go.
    pub(super) fn respecify(&mut self, monitors: &[Arc<Monitor>]) {
        self.instances
            .retain(|i| monitors.iter().any(|m| m.id == i.monitor.id));
        for instance in &mut self.instances {
            let changed = monitors
                .iter()
                .find(|m| m.id == instance.monitor.id && **m != instance.monitor);
            if let Some(monitor) = changed {
                instance.respecify(Arc::clone(monitor), self.acked);
                self.received = self.received.min(instance.live.published.seq);
            }
        }
    }

    /// The guest says that it is acknowledged through `acked`. That may be less than before, when
    /// its store was reverted to a state with the same rows: it is told again.
    pub(super) fn acknowledged(&mut self, acked: Mark) {
        let behind = acked.seq < self.acked.seq;
        if acked.seq > self.highest.seq {
            self.highest = acked.position();
        }
        self.acked = acked;
        if behind {
            return;
        }
        for instance in &mut self.instances {
            instance.skip_to(acked);
        }
        self.received = self.received.max(acked.seq);
    }

    /// Whether the rows have another key for the highest row read than it had.
    pub(super) fn contradicted_by(&self, rows: &Rows) -> bool {
        rows.rows
            .iter()
            .any(|row| row.position().contradicts(&self.highest))
    }

    /// Notes what has been read.
    pub(super) fn note(&mut self, rows: &Rows) {
        let Some(last) = rows.rows.last() else { return };
        self.received = self.received.max(last.seq);
        if last.seq <= self.highest.seq {
            return;
        }
        self.highest = last.position();
        let names: usize = rows.columns.iter().map(|c| c.len()).sum();
        let values = match &last.payload {
            Payload::Values(values) if names <= MAX_LATEST_NAME_BYTES => numbers(values),
            _ => Vec::new(),
        };
        self.latest = Some(Latest {
            seq: last.seq,
            time: last.time,
            columns: if values.is_empty() {
                Arc::from([])
            } else {
                Arc::clone(&rows.columns)
            },
            values,
        });
    }
}

/// The values with text left out: `/metrics` has no use for it, and a guest could send much of it.
fn numbers(values: &[Value]) -> Vec<Value> {
    values
        .iter()
        .map(|value| match value {
            Value::Text(_) => Value::Null,
            other => other.clone(),
        })
        .collect()
}

/// A table's instances together with what publishing from them needs, borrowed side by side.
pub(super) struct Hands<'a> {
    pub(super) nonce: Option<Nonce>,
    pub(super) id: TableId,
    pub(super) instances: &'a mut Vec<Instance>,
    pub(super) acked: Mark,
    pub(super) moved: u64,
    pub(super) sent: &'a mut Position,
    pub(super) sent_ms: &'a mut Option<u64>,
    pub(super) origin: &'a Origin,
    pub(super) out: &'a mut Outbox,
    pub(super) counters: &'a mut Counters,
    pub(super) clock_skew_ms: Option<i32>,
    pub(super) now_ms: u64,
}

impl Hands<'_> {
    pub(super) fn split(&mut self) -> (&mut Vec<Instance>, Scope<'_>) {
        let scope = Scope {
            origin: self.origin,
            table: &self.id,
            acked: self.acked,
            moved: self.moved,
            clock_skew_ms: self.clock_skew_ms,
            now_ms: self.now_ms,
            out: self.out,
            counters: self.counters,
        };
        (self.instances, scope)
    }

    /// Tells the guest its cursors, if one is beyond what is acknowledged.
    pub(super) fn acknowledge(&mut self) {
        let Some(nonce) = self.nonce else { return };
        let recently = |then: u64| self.now_ms.saturating_sub(then) < ACK_MS;
        if self.sent_ms.is_some_and(recently) {
            return;
        }
        let cursors = self.instances.iter().flat_map(|i| &i.cursors);
        let beyond = cursors.clone().any(|c| c.position.seq > self.acked.seq);
        let Some(lowest) = cursors.clone().map(|c| c.position).min_by_key(|p| p.seq) else {
            return;
        };
        if !beyond {
            return;
        }
        let positions = cursors.map(|c| Position {
            key: c.position.key.filter(|_| c.spoken),
            ..c.position
        });
        self.out.send(HostMessage::Ack {
            nonce,
            table: self.id.clone(),
            cursors: positions.collect(),
        });
        *self.sent_ms = Some(self.now_ms);
        if lowest.seq > self.sent.seq {
            *self.sent = lowest;
        }
    }
}
