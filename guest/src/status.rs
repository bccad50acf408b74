//! What the program says about itself: live numbers through a socket in the state directory while it
//! runs, everything else from the databases, whether it runs or not; and what to do about it.

mod advice;
mod control;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::link::TableId;
use vmkpi::name::{Area, DataPoint};
use vmkpi::position::Seq;

use crate::config::{Limits, RunConfig};
use crate::context::Context;
use crate::context::report::{Answer, ContextStatus};
use crate::counters::Counters;
use crate::fs::Partition;
use crate::link::{Link, LinkState};
use crate::poller::{PollStatus, Poller};
use crate::store::inspect::{Reader, RefusedInput};
use crate::store::{StoredFile, set_aside};

use control::ask;
pub use control::{Control, ask_context};
pub use table::render;

/// A running program's numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LiveStatus {
    /// Its process.
    pub pid: u32,
    /// Where the partition is.
    pub mount: PathBuf,
    /// Since when.
    pub started: Timestamp,
    /// The link's URL in the image; [`LinkState::endpoint`] is the one in force.
    pub link_url: String,
    /// The link.
    pub link: LinkState,
    /// Times that the link went over to another endpoint.
    pub endpoint_changes: u64,
    /// Endpoints of contexts that were refused, and attempts to use one that failed.
    pub endpoint_failures: u64,
    /// The kernel's requests so far, by opcode.
    pub requests: BTreeMap<String, u64>,
    /// Rows stored.
    pub stores: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Transactions lost.
    pub failed_commits: u64,
    /// Acknowledged rows that retention took.
    pub rows_trimmed: u64,
    /// Rows that retention took before they were acknowledged.
    pub rows_lost: u64,
    /// Transactions refused as a log was at its limit.
    pub log_refusals: u64,
    /// Inputs refused.
    pub refused: u64,
    /// Rows sent over the link.
    pub rows_sent: u64,
    /// Lines of the host that were no message of its session.
    pub bad_lines: u64,
    /// Link sessions begun.
    pub sessions: u64,
    /// Open handles.
    pub open_handles: usize,
    /// Bytes written and not yet stored.
    pub buffered_bytes: usize,
    /// Memory in use, and the most it ever was.
    pub memory_rss_bytes: u64,
    /// The most memory that was ever in use.
    pub memory_peak_bytes: u64,
    /// The limits it was started with.
    pub limits: LimitStatus,
    /// The commands it runs.
    pub polls: Vec<PollStatus>,
    /// The context partition, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<ContextStatus>,
}

/// The limits that fill up with use.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Bytes of each database.
    pub database_bytes: u64,
    /// Names in each directory.
    pub files: usize,
    /// Bytes written and not yet stored.
    pub buffered_bytes: usize,
    /// Open handles.
    pub handles: usize,
}

impl LimitStatus {
    fn of(limits: &Limits) -> Self {
        Self {
            database_bytes: limits.database_bytes,
            files: limits.files,
            buffered_bytes: limits.buffered_bytes,
            handles: limits.handles,
        }
    }
}

/// One data point.
#[derive(Clone, Debug, Serialize)]
pub struct PointStatus {
    /// Its name.
    pub point: DataPoint,
    /// Whether its file was removed.
    pub removed: bool,
    /// Bytes of its last store.
    pub size_bytes: u64,
    /// When that was.
    pub last_store: Timestamp,
    /// The first row held; 0 when there is none.
    pub first: Seq,
    /// The last row ever stored in this stream.
    pub last: Seq,
    /// Rows held.
    pub rows: u64,
    /// The last acknowledged row.
    pub acked: Seq,
    /// Rows that nobody has acknowledged yet.
    pub unacknowledged: u64,
    /// How long ago the last store was.
    pub last_store_age_ms: u64,
    /// Whether a host has ever asked for it.
    pub wanted: bool,
    /// Rows that retention took before they were acknowledged.
    pub lost: u64,
    /// Those of them whose loss nobody has confirmed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<GapStatus>,
}

/// Rows (`after`, `through`] that are lost, and that is not confirmed.
#[derive(Clone, Debug, Serialize)]
pub struct GapStatus {
    /// The last acknowledged row.
    pub after: Seq,
    /// The last row dropped.
    pub through: Seq,
    /// Why.
    pub reason: &'static str,
}

/// What is on the disk of one database.
#[derive(Clone, Debug, Serialize)]
pub struct DiskStatus {
    /// Which.
    pub area: String,
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Of these, free and used again.
    pub free_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
}

/// Everything `status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether the program runs.
    pub running: bool,
    /// Its numbers, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveStatus>,
    /// The stream that new rows go to.
    pub stream: String,
    /// The data points.
    pub points: Vec<PointStatus>,
    /// How many inputs were ever refused.
    pub refused_total: i64,
    /// The last of them.
    pub refused: Vec<RefusedInput>,
    /// The databases.
    pub disk: Vec<DiskStatus>,
    /// Room on the file system that they are on, for this user.
    pub free_bytes: u64,
    /// Rows of the current stream that nobody has acknowledged yet.
    pub unacknowledged: u64,
    /// When this was looked at.
    pub now: Timestamp,
    /// Databases set aside as corrupt.
    pub set_aside: Vec<PathBuf>,
    /// Whether nothing needs attention: there is no advice.
    pub healthy: bool,
    /// What needs attention, and what to do; the most urgent first.
    pub advice: Vec<String>,
}

/// Where a running program's numbers come from.
pub struct Live {
    config: RunConfig,
    started: Timestamp,
    counters: Arc<Counters>,
    partition: Partition,
    link: Arc<Mutex<Link>>,
    poller: Arc<Mutex<Poller>>,
    context: Option<Arc<Context>>,
}

impl Live {
    /// The numbers of a program that has just started.
    pub fn new(
        config: &RunConfig,
        counters: Arc<Counters>,
        partition: Partition,
        link: Arc<Mutex<Link>>,
        poller: Arc<Mutex<Poller>>,
        context: Option<Arc<Context>>,
    ) -> Self {
        Self {
            config: config.clone(),
            started: Timestamp::now(),
            counters,
            partition,
            link,
            poller,
            context,
        }
    }

    fn polls(&self) -> Vec<PollStatus> {
        let poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        poller.status()
    }

    fn context(&self, request: &str) -> Answer {
        match &self.context {
            Some(context) => context.answer(request),
            None => Answer::Refused(
                "there is no context partition: set context.mount in the configuration".into(),
            ),
        }
    }

    fn status(&self) -> LiveStatus {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let (_, open_handles, buffered_bytes) = self.partition.usage();
        let (memory_rss_bytes, memory_peak_bytes) = memory();
        LiveStatus {
            pid: std::process::id(),
            mount: self.config.mount.clone(),
            started: self.started,
            link_url: self.config.link.url.to_string(),
            link: self
                .link
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .state(),
            requests: counters
                .requests()
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            stores: count(&counters.stores),
            commits: count(&counters.commits),
            failed_commits: count(&counters.failed_commits),
            rows_trimmed: count(&counters.rows_trimmed),
            rows_lost: count(&counters.rows_lost),
            log_refusals: count(&counters.log_refusals),
            refused: count(&counters.refused),
            rows_sent: count(&counters.rows_sent),
            bad_lines: count(&counters.bad_lines),
            sessions: count(&counters.sessions),
            endpoint_changes: count(&counters.endpoint_changes),
            endpoint_failures: count(&counters.endpoint_failures),
            open_handles,
            buffered_bytes,
            memory_rss_bytes,
            memory_peak_bytes,
            limits: LimitStatus::of(&self.config.limits),
            polls: self.polls(),
            context: self.context.as_ref().map(|context| context.status()),
        }
    }
}

/// Memory in use and its peak, in bytes, as the kernel counts them.
fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    };
    (kib("VmRSS:"), kib("VmHWM:"))
}

/// Everything about the store in `state`, and about the program if it runs.
///
/// # Errors
/// There is no store, or it cannot be read.
pub fn gather(state: &Path) -> anyhow::Result<Status> {
    use anyhow::Context as _;
    let live = ask(state);
    let mut status = Status {
        running: live.is_some(),
        live,
        stream: String::new(),
        points: Vec::new(),
        refused_total: 0,
        refused: Vec::new(),
        disk: Vec::new(),
        free_bytes: free_bytes(state),
        unacknowledged: 0,
        now: Timestamp::now(),
        healthy: false,
        set_aside: set_aside(state),
        advice: Vec::new(),
    };
    for area in Area::ALL {
        let at = || format!("cannot read the {area} store in {}", state.display());
        let reader = Reader::open(state, area).with_context(at)?;
        let stream = reader.stream().with_context(at)?;
        status.stream = stream.to_string();
        for file in reader.files().with_context(at)? {
            let point = point(&reader, stream, &file, status.now).with_context(at)?;
            status.unacknowledged += point.unacknowledged;
            status.points.push(point);
        }
        let (total, inputs) = reader.refused().with_context(at)?;
        status.refused_total += total;
        status.refused.extend(inputs);
        let (database_bytes, wal_bytes) = reader.disk_bytes();
        status.disk.push(DiskStatus {
            area: area.to_string(),
            database_bytes,
            free_bytes: reader.free_bytes().with_context(at)?,
            wal_bytes,
        });
    }
    status
        .refused
        .sort_by_key(|input| std::cmp::Reverse(input.time));
    status.advice = advice::advice(&status);
    status.healthy = status.advice.is_empty();
    Ok(status)
}

/// Milliseconds from `then` to `now`; none when the clock was set back since.
fn age_ms(then: Timestamp, now: Timestamp) -> u64 {
    let micros = now.as_micros().saturating_sub(then.as_micros());
    u64::try_from(micros / 1000).unwrap_or(0)
}

/// Bytes that this user may still write beside `path`.
fn free_bytes(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |disk| {
        disk.blocks_available().saturating_mul(disk.fragment_size())
    })
}

fn point(
    reader: &Reader,
    stream: vmkpi::position::StreamId,
    file: &StoredFile,
    now: Timestamp,
) -> rusqlite::Result<PointStatus> {
    let point = DataPoint::Kpi(file.point.area, (*file.point.name).clone());
    let extent = reader.extent(&file.point.name)?;
    let marks = reader.marks(&TableId {
        stream,
        point: point.clone(),
    })?;
    let (first, last) = extent.unwrap_or((0, marks.trimmed.seq));
    Ok(PointStatus {
        point,
        removed: file.removed,
        size_bytes: file.size,
        last_store: file.mtime,
        first,
        last,
        rows: extent.map_or(0, |(first, last)| last - first + 1),
        acked: marks.acked.seq,
        unacknowledged: last.saturating_sub(marks.acked.seq.max(marks.trimmed.seq)),
        last_store_age_ms: age_ms(file.mtime, now),
        wanted: marks.kept.wanted,
        lost: reader.lost(&file.point.name)?,
        gap: marks.gap().map(|gap| GapStatus {
            after: gap.after.seq,
            through: gap.through.seq,
            reason: gap.reason.text(),
        }),
    })
}
