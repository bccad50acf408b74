//! History: rows of one point over a span of time, over every stream that is still held. Asked for and
//! answered a bounded page at a time; nothing is remembered between two pages but what the asker repeats.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{MAX_ROWS, Payload, Row};
use crate::clock::Timestamp;
use crate::name::DataPoint;
use crate::position::{MAX_SEQ, Mark, Nonce, Seq, StreamId};

/// What is asked for: rows of `point` with `from <= _timestamp < to`, in the order of the streams, the oldest
/// first, and of `_seq` within each. Where the guest's clock was set back, that is not the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryQuery {
    /// The data point.
    pub point: DataPoint,
    /// The first instant wanted.
    pub from: Timestamp,
    /// The first instant not wanted any more.
    pub to: Timestamp,
    /// The last answer's `next`; absent at the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<HistoryPosition>,
    /// At most so many rows (at least 1, at most [`MAX_ROWS`]).
    pub limit: usize,
}

/// Where the next page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPosition {
    /// The stream.
    pub stream: StreamId,
    /// Rows through here were looked at.
    pub seq: Seq,
}

/// The answer. It may hold no rows and still have a `next`: what is looked through for one page is bounded
/// too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// The session's nonce.
    pub nonce: Nonce,
    /// The question's id.
    pub id: u64,
    /// The data point.
    pub point: DataPoint,
    /// The stream of all rows of this page.
    pub stream: StreamId,
    /// The names of the values, in the order of the table's columns.
    #[serde(default)]
    pub columns: Arc<[Box<str>]>,
    /// The rows, by `_seq`.
    pub rows: Vec<Row>,
    /// Where to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<HistoryPosition>,
    /// The last row of the stream that retention took, if it may have been of the span and is not before where
    /// the page begins: rows through it are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<Mark>,
    /// Nothing of this point is held, and never was as far as the guest knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

impl HistoryQuery {
    /// Whether `page` can be the answer: of the point, within the span and the limit, in order, one value for
    /// each column, and leading further.
    pub fn admits(&self, page: &HistoryPage) -> bool {
        let span = self.from..self.to;
        let fits = |row: &Row| {
            let payload_fits = match &row.payload {
                Payload::Values(values) => {
                    !page.point.is_encrypted() && values.len() == page.columns.len()
                }
                Payload::Data(_) => page.point.is_encrypted(),
            };
            payload_fits && span.contains(&row.time) && (1..=MAX_SEQ).contains(&row.seq)
        };
        let begun = self.after.filter(|after| after.stream == page.stream);
        let begun = begun.map_or(0, |after| after.seq);
        let last = page.rows.last().map_or(begun, |row| row.seq);
        let leads_on = |next: HistoryPosition| {
            next.seq <= MAX_SEQ
                && (next.stream != page.stream || (next.seq >= last && next.seq > begun))
        };
        page.point == self.point
            && page.rows.len() <= self.limit.clamp(1, MAX_ROWS)
            && page.rows.iter().all(fits)
            && page.rows.first().is_none_or(|row| row.seq > begun)
            && page.rows.is_sorted_by(|a, b| a.seq < b.seq)
            && page.next.is_none_or(leads_on)
    }
}
