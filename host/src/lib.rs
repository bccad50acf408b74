//! The host's side of vmkpi: it follows libvirt's domains, reads KPIs over each domain's link, takes
//! infrastructure measurements, and publishes both as their VM descriptors say.
//!
//! ```text
//! libvirt ──> daemon ──> vm (an actor each) ──> publisher ──> broker
//!    │                     ^            │
//!    └── infra ────────────┤            └──> snapshot ──> exporter ──> /metrics
//! guest ──> link ──────────┘
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`cli`], [`settings`] | what it is told: flags, environment, file |
//! | [`service`], [`reload`] | signals and the service manager; what SIGHUP changes |
//! | [`logging`] | what is not worth a line in the log |
//! | [`status`] | what it says about itself and its VMs, and what to do |
//! | [`daemon`] | which VMs there are; starts, tells and lets go their actors |
//! | [`descriptors`] | VM descriptors from files and metadata, and which are in force |
//! | [`libvirt`] | domains and statistics; the only room that knows libvirt |
//! | [`vm`] | one VM's actor: link, producers, messages |
//! | [`link`] | the link to one guest, which may be hostile |
//! | [`infra`] | from libvirt's figures to delivered measurements |
//! | [`outbox`] | measurements on disk until they are acknowledged |
//! | [`context`] | what VMs are told by this host, on CD-ROMs: the recontextualizer |
//! | [`consumers`] | what named Consumers say they have on disk, and ask for, if it is they who say it |
//! | [`metrics`] | every metric of the exporter, in one table |
//! | [`snapshot`] | what is known at one moment, as a page of metrics |
//! | [`exporter`] | serves that page |
//! | [`state`] | the state directory |

pub mod cli;
pub mod consumers;
pub mod context;
pub mod daemon;
pub mod descriptors;
pub mod exporter;
pub mod infra;
pub mod libvirt;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod outbox;
mod random;
pub mod reload;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod vm;
