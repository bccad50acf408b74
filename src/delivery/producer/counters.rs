//! What a producer counts, and what waits in it.

use std::collections::BTreeSet;

use super::Producer;

/// What has happened, each counted from the producer's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows received, repeated ones included.
    pub rows: u64,
    /// Rows received again in pages of a repair.
    pub rows_replayed: u64,
    /// Samples and results put into messages.
    pub samples: u64,
    /// Samples and results that `when` kept back; of them [`Self::when_errors`] as they were undecided.
    pub suppressed: u64,
    /// Samples and results of which a `when` was neither true nor false.
    pub when_errors: u64,
    /// Messages handed out for publishing.
    pub messages: u64,
    /// Messages that the broker has acknowledged.
    pub messages_acknowledged: u64,
    /// Messages that can never be delivered.
    pub messages_refused: u64,
    /// Gaps announced.
    pub gaps: u64,
    /// Open windows that were lost over [`MAX_WINDOW_BYTES`]; each is a gap.
    pub windows_lost: u64,
    /// Holes seen in the rows of the link and subscribed again.
    pub holes: u64,
    /// Repairs begun.
    pub repairs: u64,
    /// Lines of an earlier session, dropped.
    pub lines_stale: u64,
    /// Lines that say something impossible, dropped.
    pub lines_refused: u64,
    /// Tables over [`MAX_TABLES`], not followed.
    pub tables_refused: u64,
}

/// What has been read and is not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Points that the producer knows of.
    pub points: usize,
    /// Rows, those of open windows included.
    pub rows: u64,
    /// How long the oldest of them has waited at least, in milliseconds, as [`Producer::tick`] saw it.
    pub oldest_ms: Option<u64>,
}

impl Producer {
    /// What has been read and is not acknowledged.
    pub fn backlog(&self, now_ms: u64) -> Backlog {
        let points: BTreeSet<_> = self.tables.keys().map(|id| &id.point).collect();
        let tables = self.tables.values();
        let ages = tables.clone().filter_map(|t| t.waiting.age_ms(now_ms));
        Backlog {
            points: points.len(),
            oldest_ms: ages.max(),
            rows: tables.map(|t| t.received - t.settled()).sum(),
        }
    }
}
