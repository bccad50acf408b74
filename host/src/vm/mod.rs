//! One VM with a descriptor: an actor that owns its link, its producers and its messages. What it is
//! comes in as a [`Spec`], whole; what it does goes out as a [`Report`], whole, each second.

mod actor;
mod ages;
mod answering;
mod envelope;
mod lease;
mod report;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use vmkpi::descriptor::Descriptor;

use crate::consumers::Consumers;
use crate::libvirt::{Domain, Ended, Sampling};
use crate::link::{Door, Endpoint, HistoryClient, Limits};
use crate::outbox::{Left, Outbox};
use vmkpi::broker::publisher::Publisher;

pub use envelope::Signer;
pub use lease::BECAME;
pub use report::{KpiColumn, KpiRow, MAX_KPI_SERIES, Report};

/// What a VM is, as the daemon knows it now.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The domain.
    pub domain: Arc<Domain>,
    /// The descriptor in force.
    pub descriptor: Arc<Descriptor>,
    /// Where its link is; `None` where it has none now.
    pub link: Option<Endpoint>,
    /// The VM has left this host, or its descriptor was withdrawn: finish what is under way.
    pub leaving: bool,
    /// Of one that is leaving: how its run on this host ended, if that is known.
    pub ended: Option<Ended>,
}

/// The last report of each VM, by UUID.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<HashMap<Arc<str>, Arc<Report>>>>);

impl Reports {
    /// The last report of each VM.
    pub fn all(&self) -> HashMap<Arc<str>, Arc<Report>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn put(&self, uuid: &Arc<str>, report: Report) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.insert(Arc::clone(uuid), Arc::new(report));
    }

    /// The VM has left and takes its series along.
    pub fn remove(&self, uuid: &str) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.remove(uuid);
    }
}

/// What every VM shares.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The statistics as they come.
    pub sampling: watch::Receiver<Sampling>,
    /// The broker.
    pub publisher: Publisher,
    /// What Consumers confirm and ask.
    pub consumers: Consumers,
    /// Where reports go.
    pub reports: Reports,
    /// Where measurements are kept.
    pub outbox: Outbox,
    /// What a guest may do.
    pub limits: Limits,
    /// Where guests come in from a network.
    pub door: Door,
    /// How often guests are asked for rows; `None` has them pushed.
    pub poll_interval: Option<Duration>,
    /// The site's key, which may be replaced.
    pub signer: Signer,
    /// How long a VM's entry in the Directory lasts, in seconds.
    pub lease_seconds: u64,
}

/// A running VM.
#[derive(Debug)]
pub struct Handle {
    /// What it is; change it and the actor follows.
    pub spec: watch::Sender<Spec>,
    /// The actor. It ends by itself some time after `leaving`.
    pub task: JoinHandle<()>,
    /// Rows of an earlier time, from the guest.
    pub history: HistoryClient,
}

/// Starts the actor of a VM. `left` is what an earlier daemon left of its measurements.
pub fn start(spec: Spec, shared: Shared, left: Vec<Left>) -> Handle {
    let (spec, follow) = watch::channel(spec);
    let (history, asked) = HistoryClient::new();
    let asking = (history.clone(), asked);
    let task = tokio::spawn(actor::run(follow, shared, asking, left));
    Handle {
        spec,
        task,
        history,
    }
}
