//! What a relay does, counted as it happens, and the page of it for Prometheus (text format 0.0.4).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmkpi::broker::publisher::{self, Refusal as Unsendable};
use vmkpi::clock::Timestamp;
use vmkpi::topic::{Branch, Direction};

use super::alive::{Vm, Vms};
use super::gate::Refusal;
use super::keeper;
use crate::command::series::Page;

/// The most VMs with series of their own; the others are in the totals.
const MAX_SHOWN: usize = 10_000;

/// Why a message that crossed the gate does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// It waited to go down, and newer ones of its topic came.
    Superseded,
    /// It waited to go down, and there were too many others.
    Crowded,
    /// The broker does not let us write it, and whoever said it says it again.
    Denied,
    /// Its life was over (message expiry).
    Expired,
}

impl Drop {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Superseded, Self::Crowded, Self::Denied, Self::Expired];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Crowded => "crowded",
            Self::Denied => "denied",
            Self::Expired => "expired",
        }
    }
}

/// One way: the broker that is read, and the one that is written to.
#[derive(Debug)]
pub struct Way {
    name: &'static str,
    /// Whether its subscription stands.
    pub listening: AtomicBool,
    /// Messages that came.
    pub received: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    dropped: [AtomicU64; Drop::ALL.len()],
    publisher: Arc<publisher::Status>,
}

impl Way {
    fn new(name: &'static str, publisher: Arc<publisher::Status>) -> Self {
        Self {
            name,
            listening: AtomicBool::new(false),
            received: AtomicU64::new(0),
            refused: Default::default(),
            dropped: Default::default(),
            publisher,
        }
    }

    /// Counts a message that does not cross. Whether it is the first of its kind.
    pub fn refuse(&self, why: Refusal) -> bool {
        self.refused[why as usize].fetch_add(1, Relaxed) == 0
    }

    /// Counts messages that do not arrive.
    pub fn drop(&self, why: Drop, count: u64) {
        self.dropped[why as usize].fetch_add(count, Relaxed);
    }

    fn connected(&self) -> bool {
        self.listening.load(Relaxed) && self.publisher.is_connected()
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Shared {
    /// Up: from the broker nearer to the VMs.
    pub up: Way,
    /// Down: to it.
    pub down: Way,
    forwarded: [AtomicU64; Branch::ALL.len()],
    spool: Arc<keeper::Status>,
    vms: Mutex<Vms>,
    /// Messages that wait to go down.
    pub waiting: AtomicU64,
    /// Topics that the next broker denies.
    pub denied: AtomicU64,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new(
        up: Arc<publisher::Status>,
        down: Arc<publisher::Status>,
        spool: Arc<keeper::Status>,
        vms: Vms,
    ) -> Self {
        Self {
            up: Way::new("up", up),
            down: Way::new("down", down),
            forwarded: Default::default(),
            spool,
            vms: Mutex::new(vms),
            waiting: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        }
    }

    /// The way of a direction.
    pub fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Counts a message that has arrived.
    pub fn forward(&self, branch: Branch) {
        self.forwarded[branch as usize].fetch_add(1, Relaxed);
    }

    /// What is known of the VMs.
    pub fn vms(&self) -> MutexGuard<'_, Vms> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what comes is kept and goes on.
    pub fn is_healthy(&self) -> bool {
        let kept = !self.spool.failing.load(Relaxed) && !self.spool.full.load(Relaxed);
        kept && self.up.connected() && self.down.connected()
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut page = Page::new("vmkpi_relay_");
        self.add_ways(&mut page);
        self.add_messages(&mut page);
        self.add_spool(&mut page);
        self.add_vms(&mut page);
        page.into_text()
    }

    fn ways(&self) -> [&Way; 2] {
        [&self.up, &self.down]
    }

    fn add_ways(&self, page: &mut Page) {
        page.head("connected", "Whether this way is open: its subscription stands, and so does the connection it publishes on.", "gauge");
        for way in self.ways() {
            let up = f64::from(way.connected());
            page.line("connected", &[("way", way.name)], up);
        }
        page.head(
            "broker_errors_total",
            "Connections to publish on that failed or broke, by reason.",
            "counter",
        );
        for way in self.ways() {
            for kind in vmkpi::broker::Kind::ALL {
                let labels = [("way", way.name), ("reason", kind.as_str())];
                let count = way.publisher.failures(kind);
                page.line("broker_errors_total", &labels, count as f64);
            }
        }
        page.head(
            "deferred_total",
            "Messages that a broker refused for now, for want of permission or room.",
            "counter",
        );
        for way in self.ways() {
            let count = way.publisher.deferred();
            page.line("deferred_total", &[("way", way.name)], count as f64);
        }
    }

    fn add_messages(&self, page: &mut Page) {
        page.head("received_total", "Messages that came.", "counter");
        for way in self.ways() {
            let count = way.received.load(Relaxed);
            page.line("received_total", &[("way", way.name)], count as f64);
        }
        page.head(
            "forwarded_total",
            "Messages that the next broker has acknowledged, by branch.",
            "counter",
        );
        for branch in Branch::ALL {
            let count = self.forwarded[branch as usize].load(Relaxed);
            page.line(
                "forwarded_total",
                &[("branch", branch.as_str())],
                count as f64,
            );
        }
        page.head(
            "refused_total",
            "Messages that did not cross, by reason.",
            "counter",
        );
        for way in self.ways() {
            for why in Refusal::ALL {
                let labels = [("way", way.name), ("reason", why.as_str())];
                let count = way.refused[why as usize].load(Relaxed);
                page.line("refused_total", &labels, count as f64);
            }
        }
        page.head(
            "dropped_total",
            "Messages that crossed and did not arrive, by reason.",
            "counter",
        );
        for way in self.ways() {
            let ours = Drop::ALL.map(|why| (why.as_str(), way.dropped[why as usize].load(Relaxed)));
            let theirs = Unsendable::ALL.map(|why| (why.as_str(), way.publisher.refused(why)));
            for (reason, count) in ours.into_iter().chain(theirs) {
                let labels = [("way", way.name), ("reason", reason)];
                page.line("dropped_total", &labels, count as f64);
            }
        }
        let waiting = self.waiting.load(Relaxed);
        page.gauge(
            "down_waiting_messages",
            "Messages that wait to go down.",
            waiting as f64,
        );
        let denied = self.denied.load(Relaxed);
        page.gauge("denied_topics", "Topics that the next broker does not let us write on; their messages stay in the spool.", denied as f64);
    }

    fn add_spool(&self, page: &mut Page) {
        let spool = &self.spool;
        let oldest = spool.oldest.load(Relaxed) as f64 / 1e6;
        for (name, help, value) in [
            (
                "spool_messages",
                "Messages in the spool.",
                spool.rows.load(Relaxed) as f64,
            ),
            (
                "spool_bytes",
                "What they count against the limit.",
                spool.bytes.load(Relaxed) as f64,
            ),
            (
                "spool_limit_bytes",
                "The limit: when it is reached, nothing is taken any more.",
                spool.max_bytes.load(Relaxed) as f64,
            ),
            (
                "spool_oldest_timestamp_seconds",
                "When the oldest of them came; 0 without one.",
                oldest,
            ),
            (
                "spool_full",
                "Whether the spool holds what it may: nothing is taken any more.",
                f64::from(spool.full.load(Relaxed)),
            ),
            (
                "spool_failing",
                "Whether the last transaction failed: nothing is taken or acknowledged.",
                f64::from(spool.failing.load(Relaxed)),
            ),
        ] {
            page.gauge(name, help, value);
        }
        for (name, help, count) in [
            (
                "spool_filled_total",
                "How often the spool came to its limit.",
                &spool.filled,
            ),
            (
                "spool_commits_total",
                "Transactions synced to disk.",
                &spool.commits,
            ),
            (
                "spool_commit_errors_total",
                "Transactions that failed.",
                &spool.failures,
            ),
            (
                "spool_superseded_total",
                "Retained messages in the spool that a newer one of their topic replaced.",
                &spool.superseded,
            ),
        ] {
            page.counter(name, help, count.load(Relaxed));
        }
    }

    fn add_vms(&self, page: &mut Page) {
        let vms = self.vms();
        page.gauge(
            "vms",
            "VMs whose messages are forwarded.",
            vms.iter().count() as f64,
        );
        page.counter(
            "unfollowed_messages_total",
            "Messages of VMs that are not followed, as there are too many.",
            vms.unfollowed,
        );
        type Of = fn(&Vm) -> f64;
        let series: [(&str, &str, Of); 4] = [
            (
                "heard_timestamp_seconds",
                "When a message of the VM last came.",
                |vm| vm.heard.as_seconds_f64(),
            ),
            (
                "forwarded_timestamp_seconds",
                "When the next broker last acknowledged one; 0 for never.",
                |vm| or_zero(vm.forwarded),
            ),
            (
                "lease_timestamp_seconds",
                "Until when its Producer says that it is there; 0 if it does not say so.",
                |vm| or_zero(vm.lease),
            ),
            (
                "producer_silent",
                "Whether its lease has expired or nothing has come of it for three minutes.",
                |vm| f64::from(vm.silent),
            ),
        ];
        for (name, help, value) in series {
            page.head(name, help, "gauge");
            for ((site, name_of_vm), vm) in vms.iter().take(MAX_SHOWN) {
                page.line(name, &[("site", site), ("vm", name_of_vm)], value(vm));
            }
        }
    }
}

fn or_zero(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, Timestamp::as_seconds_f64)
}
