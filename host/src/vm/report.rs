//! What a VM's actor says of itself, for the exporter: numbers only, nothing that grows with time,
//! and of KPIs no more series than are exported.

use std::sync::Arc;

use vmkpi::delivery::producer::{Backlog, Counters, Producer};
use vmkpi::link::Databases;
use vmkpi::name::Label;

use crate::link::Fault;

/// The most series of `vmkpi_kpi_value` of one VM: what a guest can cause is bounded.
pub const MAX_KPI_SERIES: usize = 1000;

/// A numeric column of a KPI's newest row.
#[derive(Clone, Debug, PartialEq)]
pub struct KpiColumn {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// The newest row of an unencrypted KPI.
#[derive(Clone, Debug, PartialEq)]
pub struct KpiRow {
    /// The data point.
    pub point: String,
    /// When it was stored, by the guest's clock, in seconds since 1970.
    pub time_seconds: f64,
    /// Its numeric columns.
    pub columns: Vec<KpiColumn>,
}

/// What a VM's actor says of itself.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The primary site and the VM's name there, by the descriptor in force.
    pub identity: Option<(Label, Label)>,
    /// Whether the VM has a link that could be open.
    pub has_link: bool,
    /// Whether the link is open and the guest answered.
    pub link_up: bool,
    /// Whether the link's socket is connected; QEMU listens there without a guest, too.
    pub link_open: bool,
    /// By what the guest is connected.
    pub link_by: Option<Arc<str>>,
    /// Why the link's socket could not be connected to the last time it was tried.
    pub link_problem: Option<Arc<str>>,
    /// The version of the link that the guest speaks, where it is another than ours.
    pub link_other_version: Option<u32>,
    /// Link sessions that were opened.
    pub connects: u64,
    /// Bytes read from the link.
    pub received_bytes: u64,
    /// Faults of the link, in the order of [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// Rows read.
    pub rows: u64,
    /// Rows read again.
    pub rows_replayed: u64,
    /// When the last row was read, in seconds since 1970.
    pub rows_time: Option<f64>,
    /// Rows read from the guest: those of [`Report::rows`] that are no measurements.
    pub guest_rows: u64,
    /// Rows that were read from it and are not acknowledged.
    pub backlog: Backlog,
    /// Holes that were seen and asked for again.
    pub holes: u64,
    /// Replays that were begun.
    pub repairs: u64,
    /// Tables over the limit.
    pub tables_refused: u64,
    /// Samples that went into messages.
    pub samples: u64,
    /// When one last did, in seconds since 1970.
    pub samples_time: Option<f64>,
    /// Samples and results that `when` kept back.
    pub suppressed: u64,
    /// Those of them of which `when` was neither true nor false.
    pub when_errors: u64,
    /// Open windows that were lost as they held too much.
    pub windows_lost: u64,
    /// The guest's clock minus the host's, in milliseconds, if it was measured.
    pub clock_skew_ms: Option<i32>,
    /// How full the guest's databases are, as it said last, while it is heard.
    pub databases: Databases,
    /// Ranges that were lost.
    pub gaps: u64,
    /// Messages made.
    pub messages: u64,
    /// Messages that were sealed for their primary site.
    pub sealed: u64,
    /// Attempts to seal one that failed.
    pub seal_failures: u64,
    /// Messages acknowledged.
    pub messages_acknowledged: u64,
    /// When the last was, in seconds since 1970.
    pub acknowledged_time: Option<f64>,
    /// When a named Consumer last confirmed anything, in seconds since 1970.
    pub confirmed_time: Option<f64>,
    /// Entries in the Directory by what became of them, in the order of [`super::lease::BECAME`].
    pub leases: [u64; 3],
    /// When the broker last took one, in seconds since 1970.
    pub leased_time: Option<f64>,
    /// Messages that can never be delivered.
    pub messages_refused: u64,
    /// Messages on their way.
    pub in_flight: usize,
    /// When the oldest of them was made, in seconds since 1970.
    pub oldest_time: Option<f64>,
    /// Batches of infrastructure measurements that are kept until they are acknowledged.
    pub kept: u64,
    /// How long the oldest of them has waited at least, in milliseconds.
    pub kept_oldest_ms: Option<u64>,
    /// Batches of them that were lost because the outbox was full.
    pub trimmed: u64,
    /// Residences whose measurements are on their way.
    pub streams: u64,
    /// The newest rows, by point; at most [`MAX_KPI_SERIES`] columns in all.
    pub kpis: Vec<KpiRow>,
    /// Columns left out.
    pub dropped: usize,
}

impl Report {
    /// Adds what a producer counted.
    pub fn count(&mut self, counters: &Counters) {
        self.rows += counters.rows;
        self.rows_replayed += counters.rows_replayed;
        self.holes += counters.holes;
        self.repairs += counters.repairs;
        self.tables_refused += counters.tables_refused;
        self.samples += counters.samples;
        self.suppressed += counters.suppressed;
        self.when_errors += counters.when_errors;
        self.windows_lost += counters.windows_lost;
        self.gaps += counters.gaps;
        self.messages += counters.messages;
        self.messages_acknowledged += counters.messages_acknowledged;
        self.messages_refused += counters.messages_refused;
    }

    /// Takes the newest rows of `producer`. A point that is in two streams is there once, with the
    /// row that was stored last.
    pub fn take_kpis(&mut self, producer: &Producer) {
        let mut latest: Vec<_> = producer
            .latest()
            .filter(|(point, _)| !point.is_encrypted() && !producer.is_sealed(point))
            .collect();
        latest.sort_by(|a, b| a.0.cmp(b.0).then(b.1.time.cmp(&a.1.time)));
        latest.dedup_by(|later, first| later.0 == first.0);
        let mut left = MAX_KPI_SERIES;
        for (point, row) in latest {
            let numbers = row.columns.iter().zip(&row.values);
            let mut columns: Vec<_> = numbers
                .filter_map(|(name, value)| {
                    Some(KpiColumn {
                        name: name.to_string(),
                        value: value.as_f64()?,
                    })
                })
                .collect();
            self.dropped += columns.len().saturating_sub(left);
            columns.truncate(left);
            left -= columns.len();
            // A row's time is a series as well: without columns it has none of its own to spend.
            if columns.is_empty() && left == 0 {
                continue;
            }
            self.kpis.push(KpiRow {
                point: point.to_string(),
                time_seconds: row.time.as_seconds_f64(),
                columns,
            });
        }
        self.kpis.truncate(MAX_KPI_SERIES);
    }
}
