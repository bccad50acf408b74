//! libvirt: which domains there are, how they change, what they use. The only room that knows
//! `virt`, `virt-sys` and `unsafe`; everything outside sees plain values.
//!
//! ```text
//! event loop thread ── events ──> follower thread ──> watch: Domains   (what is true now)
//!          askers (threads) <──> sampler thread ─────> watch: Sampling  (the last figures)
//! ```
//!
//! Follower and askers have read-only connections of their own, so a call that does not return holds up
//! nobody else: not the async runtime, not a scrape, not the other threads. Outside sees levels, not
//! edges: an event only makes the follower look sooner, so a lost one costs at most
//! [`RECONCILE_EVERY`].

mod asker;
pub mod drives;
mod event_loop;
mod events;
pub mod extra;
pub mod figures;
mod follower;
pub mod info;
pub mod lifecycle;
pub mod media;
mod plan;
mod sampler;
mod stats;
pub mod xml;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vmkpi::clock::Timestamp;

use figures::Figures;
pub use sampler::{Intervals, Pace};

/// How long a lost event can go unnoticed.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// How long to wait before a lost connection is tried again.
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

/// libvirt could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LibvirtError {
    /// A call failed.
    #[error("libvirt: {}", .0.message())]
    Call(#[from] virt::error::Error),
    /// The connection is gone.
    #[error("libvirt closed the connection")]
    Closed,
    /// A thread could not be started.
    #[error("starting a libvirt thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The live XML of a domain could not be read.
    #[error("domain XML: {0}")]
    Xml(#[from] xml::XmlError),
}

/// What a domain does (virDomainState).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// It runs, or is blocked on a resource while running.
    Running,
    /// Its processors are stopped; it keeps its memory.
    Paused,
    /// It has no process.
    #[default]
    Off,
}

impl State {
    /// The state of a virDomainState number.
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            // RUNNING, BLOCKED, and SHUTDOWN: still running while it shuts down.
            1 | 2 | 4 => Self::Running,
            // PAUSED, PMSUSPENDED.
            3 | 7 => Self::Paused,
            _ => Self::Off,
        }
    }
}

/// How a domain's last run on this host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was shut down, destroyed or saved, or has crashed: it runs nowhere.
    Stopped,
    /// It runs on another host.
    Migrated,
}

/// A domain as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Domain {
    /// Its UUID.
    pub uuid: Arc<str>,
    /// Its name on this host; never leaves it.
    pub name: Arc<str>,
    /// What it does.
    pub state: State,
    /// Another number for each time it was started or came to this host: its counters begin anew.
    pub residence: u64,
    /// How its last run ended, while it is off and libvirt knows.
    pub ended: Option<Ended>,
    /// It is paused as it is migrated: it may never run here, or never again.
    pub in_transit: bool,
    /// The id libvirt gave this run; `None` when it is off.
    pub id: Option<u32>,
    /// Its generation id, if it has one.
    pub genid: Option<String>,
    /// The host's socket of its KPI port, if it runs and has one.
    pub channel: Option<PathBuf>,
    /// Its context id (vsock), if it runs and has one.
    pub cid: Option<u32>,
    /// The `<vmkpi:monitoring>` element of its metadata, if it has one.
    pub metadata: Option<Arc<str>>,
    /// Guest-side names of its network interfaces, by the host's device name.
    pub interfaces: BTreeMap<String, String>,
    /// What its XML says of it, for the exporter.
    pub infos: Vec<info::Info>,
}

/// All domains, as they are now.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    /// Whether libvirt answers; if not, the domains are those of the last answer.
    pub connected: bool,
    /// The domains by UUID.
    pub by_uuid: BTreeMap<Arc<str>, Arc<Domain>>,
    /// How the last runs ended of domains that libvirt does not know any more; of the latest of them.
    pub ended: BTreeMap<Arc<str>, Ended>,
    /// When all of them were last looked at.
    pub reconciled: Option<Timestamp>,
    /// Connections to libvirt that were opened.
    pub connects: u64,
    /// Connections to libvirt that failed or broke.
    pub failures: u64,
}

/// Figures that were asked for together.
#[derive(Clone, Debug)]
pub struct Taken {
    /// When the answer arrived.
    pub time: Timestamp,
    /// The same, by the monotonic clock.
    pub at: Instant,
    /// When libvirt was asked.
    pub asked: Instant,
    /// The figures.
    pub figures: Arc<Figures>,
}

/// The last statistics of one VM.
#[derive(Clone, Debug, Default)]
pub struct VmStats {
    /// What libvirt knows itself: state, interfaces, perf, memory bandwidth.
    pub quick: Option<Taken>,
    /// What it has to ask the hypervisor's process for: all the rest.
    pub detailed: Option<Taken>,
    /// Whether the process does not answer, or somebody else holds the domain's job: it is asked by
    /// itself, ever less often, until it answers.
    pub apart: bool,
}

/// What became of collecting statistics.
#[derive(Clone, Debug, Default)]
pub struct Sampling {
    /// The last statistics by UUID.
    pub vms: Arc<HashMap<Arc<str>, VmStats>>,
    /// When libvirt last gave any.
    pub time: Option<Timestamp>,
    /// How long it took for the last detailed ones.
    pub took: Duration,
    /// How many calls failed.
    pub failures: u64,
    /// How many calls took too long, ever.
    pub late_calls: u64,
    /// How many of those have not returned yet.
    pub late: usize,
}

/// The running threads. They end soon after this is dropped.
#[derive(Debug)]
pub struct Libvirt {
    /// Which domains there are.
    pub domains: watch::Receiver<Arc<Domains>>,
    /// The last statistics.
    pub sampling: watch::Receiver<Sampling>,
    /// How often statistics are taken.
    pub pace: Pace,
    stop: Arc<AtomicBool>,
}

impl Libvirt {
    /// Starts to follow the domains of `uri`. Whether libvirt answers shows in
    /// [`Domains::connected`]: a daemon that starts before libvirtd waits for it.
    ///
    /// # Errors
    /// No thread could be started, or libvirt has no event loop.
    pub fn start(uri: &str) -> Result<Self, LibvirtError> {
        event_loop::start()?;
        let stop = Arc::new(AtomicBool::new(false));
        let domains = follower::start(uri, &stop)?;
        let (sampling, pace) = sampler::start(uri, domains.clone(), &stop)?;
        Ok(Self {
            domains,
            sampling,
            pace,
            stop,
        })
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pace.wake();
    }
}

/// Opens a read-only connection: nothing here changes a domain.
fn connect(uri: &str) -> Result<virt::connect::Connect, LibvirtError> {
    Ok(virt::connect::Connect::open_read_only(Some(uri))?)
}

fn is_gone(error: &virt::error::Error) -> bool {
    let no_domain = virt::error::ErrorNumberEnum::from(virt::error::ErrorNumber::NoDomain);
    error.code().to_raw() == no_domain.to_raw()
}
