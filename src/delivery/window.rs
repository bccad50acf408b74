//! Sampling and windows: rows in, closed windows out. The same rows give the same windows, whoever
//! computes them and however they arrive (docs/DELIVERY.md, "Sampling and windows").
//!
//! ```text
//!            row in the same window            row or mark beyond, or a new epoch
//!          ┌───────────────┐                  ┌──────────────────> Closed
//!  (none) ─┴─> open window ┴──────────────────┘
//! ```

use std::sync::Arc;

use super::function::Aggregate;
use crate::clock::Timestamp;
use crate::descriptor::{Format, Monitor};
use crate::link::Row;
use crate::message::{MAX_MESSAGE_BYTES, Sample, SampleBody};
use crate::position::{Mark, Position, Seq};

/// Which window a row is in: its epoch, and the window's number since 1970 (or the row's own
/// number, where every row is a window of its own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WindowId {
    epoch: u64,
    number: u64,
}

/// What a closed window holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// The samples.
    Raw(Vec<Sample>),
    /// The function applied to them, from and to (excluded).
    Processed(Aggregate, Timestamp, Timestamp),
}

/// A closed window, or as much of a raw one as fills a message.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Where its rows begin.
    pub after: Position,
    /// Its first row.
    pub first: Seq,
    /// Its last row.
    pub through: Position,
    /// Its last row's time.
    pub time: Timestamp,
    /// Whether rows at its beginning are missing from it.
    pub partial: bool,
    /// The samples or the result.
    pub content: Content,
}

/// A sample that a later row of the same interval may still replace.
#[derive(Clone, Debug)]
struct Pending {
    interval: u64,
    sample: Sample,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Open {
    id: WindowId,
    first: Seq,
    partial: bool,
    raw: Vec<Sample>,
    raw_bytes: usize,
    aggregate: Option<Aggregate>,
    pending: Option<Pending>,
    last: Mark,
}

/// Makes windows of the rows of one instance, fed in order. Feeding may close a window; so may a mark,
/// the guest's promise that no earlier row will follow.
#[derive(Clone, Debug)]
pub struct Windower {
    monitor: Arc<Monitor>,
    after: Position,
    fed: Seq,
    /// The window of the row before the first one, where it is known.
    previous: Option<WindowId>,
    open: Option<Open>,
}

impl Windower {
    /// Begins after `start`. Its epoch and time tell whether the first window has lost its
    /// beginning; where only the position is known, feed the row itself again to tell.
    pub fn new(monitor: Arc<Monitor>, start: Position, row: Option<Mark>) -> Self {
        let mut windower = Self {
            monitor,
            after: start,
            fed: start.seq,
            previous: None,
            open: None,
        };
        windower.previous = row
            .filter(|row| row.seq == start.seq && row.seq > 0)
            .map(|row| windower.id_of(row.seq, row.epoch, row.time));
        windower
    }

    /// The last row fed.
    pub fn fed(&self) -> Seq {
        self.fed
    }

    /// Bytes of samples in an open raw window that could go out, about.
    pub fn raw_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.raw_bytes)
    }

    /// Bytes held in the open window, about: samples, the one that may be replaced, and what a function needs.
    pub fn held_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, Open::held_bytes)
    }

    /// The last row of the open window.
    pub fn open_end(&self) -> Option<Mark> {
        self.open.as_ref().map(|open| open.last)
    }

    fn id_of(&self, seq: Seq, epoch: u64, time: Timestamp) -> WindowId {
        let window_ms = self.monitor.window_ms();
        let number = match window_ms {
            0 => seq,
            ms => time.as_millis().unsigned_abs() / ms,
        };
        WindowId { epoch, number }
    }

    /// Takes a row; rows before the one that is due are ignored. Closed windows go to `out`.
    ///
    /// # Panics
    /// A row is missing: the caller sees to it that none is.
    pub fn feed(&mut self, columns: &Arc<[Box<str>]>, row: &Row, out: &mut Vec<Closed>) {
        let id = self.id_of(row.seq, row.epoch, row.time);
        if row.seq == self.fed {
            self.previous = Some(id);
        }
        if row.seq <= self.fed {
            return;
        }
        assert_eq!(row.seq, self.fed + 1, "a row is missing from its window");
        if self.open.as_ref().is_some_and(|open| open.id != id) {
            self.close(out);
        }
        let partial = self.previous == Some(id);
        let open = self
            .open
            .get_or_insert_with(|| Open::new(id, row, partial, &self.monitor));
        open.add(columns, row, &self.monitor);
        (self.previous, self.fed) = (Some(id), row.seq);
        if self.monitor.window_ms() == 0 {
            self.close(out);
        } else {
            self.shed(out);
        }
    }

    /// Takes the guest's promise that no row before `time` in `epoch` will follow.
    pub fn mark(&mut self, epoch: u64, time: Timestamp, out: &mut Vec<Closed>) {
        let Some(open) = &self.open else { return };
        let end_ms = (open.id.number + 1).saturating_mul(self.monitor.window_ms());
        let over = time.as_millis().unsigned_abs() >= end_ms;
        if epoch > open.id.epoch || (epoch == open.id.epoch && over) {
            self.close(out);
        }
    }

    /// Closes the open window as it is.
    pub fn close(&mut self, out: &mut Vec<Closed>) {
        if let Some(open) = self.open.take() {
            let through = open.last.position();
            out.push(open.closed(self.after, self.monitor.window_ms()));
            self.after = through;
        }
    }

    /// Hands out the samples of an open raw window that fill a message already.
    fn shed(&mut self, out: &mut Vec<Closed>) {
        if self.raw_bytes() >= MAX_MESSAGE_BYTES {
            self.shed_all(out);
        }
    }

    /// Hands out every settled sample of an open raw window before it closes, so that windows cost
    /// bounded memory: where a raw window is cut makes no difference to what it says.
    pub fn shed_all(&mut self, out: &mut Vec<Closed>) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let Some(last) = open.raw.last() else { return };
        let through = Position::new(last.seq, last.key);
        let time = last.time;
        out.push(Closed {
            after: self.after,
            first: open.first,
            through,
            time,
            partial: open.partial,
            content: Content::Raw(std::mem::take(&mut open.raw)),
        });
        open.raw_bytes = 0;
        open.first = through.seq + 1;
        self.after = through;
    }
}

impl Open {
    fn new(id: WindowId, row: &Row, partial: bool, monitor: &Monitor) -> Self {
        Self {
            id,
            first: row.seq,
            partial,
            raw: Vec::new(),
            raw_bytes: 0,
            aggregate: match monitor.format {
                Format::Raw => None,
                Format::Processed(function) => Some(Aggregate::new(function)),
            },
            pending: None,
            last: row.mark(),
        }
    }

    fn add(&mut self, columns: &Arc<[Box<str>]>, row: &Row, monitor: &Monitor) {
        self.last = row.mark();
        let interval = (row.time.as_millis().unsigned_abs())
            .checked_div(monitor.interval_ms)
            .unwrap_or(row.seq);
        if self
            .pending
            .as_ref()
            .is_some_and(|p| p.interval != interval)
        {
            self.settle();
        }
        let sample = Sample::of_row(columns, row);
        // Where every row is a sample nothing waits, and nothing needs to be counted.
        let bytes = match monitor.interval_ms {
            0 => 0,
            _ => sample.size_bytes(),
        };
        self.pending = Some(Pending {
            interval,
            sample,
            bytes,
        });
        if monitor.interval_ms == 0 {
            self.settle();
        }
    }

    fn held_bytes(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |p| p.bytes);
        let aggregate = self.aggregate.as_ref().map_or(0, Aggregate::held_bytes);
        self.raw_bytes + pending + aggregate
    }

    /// The pending sample can no longer be replaced.
    fn settle(&mut self) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        match &mut self.aggregate {
            Some(aggregate) => {
                if let SampleBody::Values(values) = &pending.sample.body {
                    let micros = pending.sample.time.as_micros();
                    aggregate.add(&values.columns, &values.row, micros);
                }
            }
            None => {
                self.raw_bytes += pending.sample.size_bytes();
                self.raw.push(pending.sample);
            }
        }
    }

    fn closed(mut self, after: Position, window_ms: u64) -> Closed {
        self.settle();
        let content = match self.aggregate {
            None => Content::Raw(self.raw),
            Some(aggregate) => {
                let micros = |number: u64| {
                    let micros = number.saturating_mul(window_ms).saturating_mul(1000);
                    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
                };
                let (from, to) = (micros(self.id.number), micros(self.id.number + 1));
                Content::Processed(aggregate, from, to)
            }
        };
        Closed {
            after,
            first: self.first,
            through: self.last.position(),
            time: self.last.time,
            partial: self.partial,
            content,
        }
    }
}

#[cfg(test)]
mod tests;
