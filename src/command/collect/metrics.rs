//! Collect's own numbers, and of each VM whether it is heard of: a page for Prometheus (text format 0.0.4).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use vmkpi::broker::Kind;

use super::freshness::Known;
use super::retention::TABLES;
use super::status::Vm;
use super::writer::Status;
use crate::command::series::Page;

/// The most VMs with series of their own; the others are in the totals.
const MAX_VMS: usize = 10_000;

/// What collect does, for whoever scrapes.
#[derive(Debug)]
pub struct Shared {
    writer: Arc<Status>,
    /// Whether the subscription stands.
    pub connected: AtomicBool,
    /// Connections that failed or broke, by kind.
    broker_errors: [AtomicU64; Kind::ALL.len()],
    /// Messages that found no room: they are asked for again.
    pub dropped: AtomicU64,
    /// Messages of confirmations that were published.
    pub confirmations: AtomicU64,
    /// Those that could not be queued: what they said is said again.
    pub unsaid: AtomicU64,
    intake: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    entries: Mutex<BTreeMap<&'static str, u64>>,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new(writer: Arc<Status>) -> Self {
        Self {
            writer,
            connected: AtomicBool::new(false),
            broker_errors: Default::default(),
            dropped: AtomicU64::new(0),
            confirmations: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
            intake: Mutex::default(),
            entries: Mutex::default(),
        }
    }

    /// A connection to the broker failed, or one that stood has ended.
    pub fn count_broker_error(&self, kind: Kind) {
        if let Some(at) = Kind::ALL.iter().position(|known| *known == kind) {
            self.broker_errors[at].fetch_add(1, Relaxed);
        }
    }

    /// What the Directory says, to be written down.
    pub fn leases(&self) -> &super::leases::Leases {
        &self.writer.leases
    }

    /// Takes over what the intake has counted.
    pub fn note_intake(&self, counts: impl Iterator<Item = (&'static str, &'static str, u64)>) {
        let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        intake.extend(counts.map(|(done, why, count)| ((done, why), count)));
    }

    /// Takes over how many entries of the Directory did not count.
    pub fn note_entries(&self, refused: impl Iterator<Item = (&'static str, u64)>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.extend(refused);
    }

    /// Whether what comes is kept.
    pub fn is_healthy(&self) -> bool {
        self.connected.load(Relaxed) && !self.writer.is_failing()
    }

    /// The page; of the VMs what the database says.
    pub fn page(&self, known: &Known) -> String {
        let mut page = Page::new("vmkpi_collect_");
        self.add_connection(&mut page);
        self.add_entries(&mut page);
        self.add_messages(&mut page);
        self.add_database(&mut page);
        add_vms(&mut page, &known.vms);
        add_points(&mut page, known);
        page.into_text()
    }

    fn add_connection(&self, page: &mut Page) {
        let up = f64::from(self.connected.load(Relaxed));
        page.gauge("broker_connected", "Whether the subscription stands.", up);
        page.head(
            "broker_errors_total",
            "Connections to the broker that failed, or stood and ended, by reason.",
            "counter",
        );
        for (kind, count) in Kind::ALL.iter().zip(&self.broker_errors) {
            let labels = [("reason", kind.as_str())];
            page.line("broker_errors_total", &labels, count.load(Relaxed) as f64);
        }
        for (name, help, count) in [
            (
                "messages_dropped_total",
                "Messages that found no room while the database was slow or full; they are asked for again.",
                &self.dropped,
            ),
            (
                "confirmations_total",
                "Messages of confirmations that were published.",
                &self.confirmations,
            ),
            (
                "confirmations_unsaid_total",
                "Those that could not be queued; what they said is said again.",
                &self.unsaid,
            ),
        ] {
            page.counter(name, help, count.load(Relaxed));
        }
        let help = "Messages that were ignored, unverified and taken all the same, or left sealed, by reason.";
        page.head("messages_irregular_total", help, "counter");
        let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        for ((done, why), count) in intake.iter() {
            let labels = [("what", *done), ("reason", *why)];
            page.line("messages_irregular_total", &labels, *count as f64);
        }
    }

    fn add_entries(&self, page: &mut Page) {
        let help = "Entries of the Directory that did not count, by reason.";
        page.head("directory_refused_total", help, "counter");
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for (why, count) in entries.iter() {
            page.line(
                "directory_refused_total",
                &[("reason", *why)],
                *count as f64,
            );
        }
    }

    fn add_messages(&self, page: &mut Page) {
        let (counts, taken) = self.writer.totals();
        page.head(
            "messages_total",
            "Messages by what became of them.",
            "counter",
        );
        for (became, count) in [
            ("accepted", counts.accepted),
            ("repeated", counts.repeated),
            ("missing", counts.missing),
            ("diverged", counts.diverged),
            ("refused", counts.refused),
        ] {
            page.line("messages_total", &[("became", became)], count as f64);
        }
        for (name, help, count) in [
            ("samples_total", "Samples kept.", counts.samples),
            (
                "samples_repeated_total",
                "Samples that were here already, under another number.",
                counts.samples_repeated,
            ),
            ("results_total", "Results kept.", counts.results),
            (
                "gaps_total",
                "Ranges of rows that will never come.",
                counts.gaps,
            ),
            ("sealed_total", "Messages kept sealed.", counts.sealed),
        ] {
            page.counter(name, help, count);
        }
        page.head(
            "retention_rows_total",
            "Rows that retention took, by reason.",
            "counter",
        );
        for (reason, count) in [
            ("age", taken.age),
            ("rows", taken.rows),
            ("bytes", taken.bytes),
        ] {
            page.line("retention_rows_total", &[("reason", reason)], count as f64);
        }
    }

    fn add_database(&self, page: &mut Page) {
        let writer = &self.writer;
        let failing = f64::from(writer.is_failing());
        page.gauge(
            "database_failing",
            "Whether the last transaction failed: nothing is kept or confirmed.",
            failing,
        );
        page.gauge(
            "database_bytes",
            "Bytes of pages in use.",
            writer.bytes.load(Relaxed) as f64,
        );
        page.gauge(
            "database_limit_bytes",
            "Bytes that they may be (--retain.bytes); over it the oldest goes.",
            writer.max_bytes.load(Relaxed) as f64,
        );
        page.counter(
            "commits_total",
            "Transactions synced to disk.",
            writer.commits.load(Relaxed),
        );
        page.counter(
            "commit_errors_total",
            "Transactions that failed.",
            writer.failures.load(Relaxed),
        );
        let seconds = writer.commit_us.load(Relaxed) as f64 / 1e6;
        page.head(
            "commit_seconds_total",
            "Time spent in transactions.",
            "counter",
        );
        page.line("commit_seconds_total", &[], seconds);
        let last = writer.committed.load(Relaxed) as f64 / 1e6;
        page.gauge(
            "commit_timestamp_seconds",
            "When the last transaction was.",
            last,
        );
        page.head("rows", "Rows in the database, by table.", "gauge");
        for (table, count) in TABLES.iter().zip(&writer.rows) {
            page.line("rows", &[("table", table)], count.load(Relaxed) as f64);
        }
    }
}

fn add_vms(page: &mut Page, vms: &[Vm]) {
    page.gauge("vms", "VMs that a message ever came of.", vms.len() as f64);
    let shown = &vms[..vms.len().min(MAX_VMS)];
    type Of = fn(&Vm) -> f64;
    let series: [(&str, &str, Of); 3] = [
        (
            "heard_timestamp_seconds",
            "When a message last came of the VM.",
            |vm| vm.heard.as_seconds_f64(),
        ),
        (
            "producer_silent",
            "Whether nothing has come of the VM for three minutes, whatever its lease says.",
            |vm| f64::from(vm.silent),
        ),
        (
            "missing_instances",
            "Instances of the VM with rows that have not come.",
            |vm| vm.missing as f64,
        ),
    ];
    let help = "Whether the VM's lease in the Directory has expired: its Producer is dead or cut off. Absent of a VM that never had one.";
    page.head("producer_lease_expired", help, "gauge");
    for vm in shown {
        if let Some(lease) = &vm.lease {
            let labels = [("site", &*vm.site), ("vm", &*vm.vm)];
            page.line(
                "producer_lease_expired",
                &labels,
                f64::from(lease == "expired"),
            );
        }
    }
    let help = "Whether the VM's lease was taken back, as the VM stopped or went elsewhere: it is silent rightly. Absent of a VM that never had one.";
    page.head("producer_left", help, "gauge");
    for vm in shown {
        if let Some(lease) = &vm.lease {
            let labels = [("site", &*vm.site), ("vm", &*vm.vm)];
            page.line("producer_left", &labels, f64::from(lease == "left"));
        }
    }
    let help = "When the VM's lease in the Directory ends or ended, by the clock of who said it.";
    page.head("producer_lease_expires_timestamp_seconds", help, "gauge");
    for vm in shown {
        if let Some(expires) = vm.lease_expires {
            let labels = [("site", &*vm.site), ("vm", &*vm.vm)];
            page.line(
                "producer_lease_expires_timestamp_seconds",
                &labels,
                expires.as_seconds_f64(),
            );
        }
    }
    for (name, help, value) in series {
        page.head(name, help, "gauge");
        for vm in shown {
            page.line(name, &[("site", &vm.site), ("vm", &vm.vm)], value(vm));
        }
    }
}

fn add_points(page: &mut Page, known: &Known) {
    let help = "When the newest row kept of the point was stored, by the guest's clock (infra: by its host's), or its newest window ended. Absent where none is kept, or only sealed.";
    page.head("newest_row_timestamp_seconds", help, "gauge");
    for newest in &known.newest {
        let labels = [
            ("site", &*newest.site),
            ("vm", &*newest.vm),
            ("point", &*newest.point),
        ];
        let seconds = newest.time.as_seconds_f64();
        page.line("newest_row_timestamp_seconds", &labels, seconds);
    }
    let help = "Points left out of newest_row_timestamp_seconds, as there are too many.";
    page.gauge("points_left_out", help, known.left_out as f64);
}
