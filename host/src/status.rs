//! How the daemon and each of its VMs are: one value, made of what is known at one moment, told through a socket
//! in the state directory, and shown by `vmkpi-host status`.
//!
//! ```text
//! daemon ── facts ──┐                                             ┌─ JSON
//! snapshot ─────────┴──> gather ──> advice ──> control.sock ──────┴─ table
//! ```

mod advice;
mod control;
mod gather;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

pub(crate) use control::RECONTEXTUALIZE_TIMEOUT;
pub use control::{Control, Request, ask, recontextualize};
pub use gather::{Facts, VmFacts, gather};
pub use table::{render, render_answer};

/// Everything `status` shows. Times are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Whether the daemon runs.
    pub running: bool,
    /// Whether nothing needs attention: there is no advice, here or of a VM.
    pub healthy: bool,
    /// When this was looked at.
    pub now: Timestamp,
    /// The daemon, if it runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub live: Option<Live>,
    /// The domains that have a descriptor, by name.
    pub vms: Vec<Vm>,
    /// What needs attention beside the VMs, and what to do; the most urgent first.
    pub advice: Vec<String>,
}

/// A daemon that runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Live {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run.
    pub uptime_ms: u64,
    /// The hypervisor.
    pub libvirt: Libvirt,
    /// The broker.
    pub broker: Broker,
    /// What keeps infrastructure measurements.
    pub outbox: Outbox,
    /// What serves `/metrics`.
    pub exporter: Exporter,
    /// What VMs are told, if they are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<Contexts>,
    /// Names in the configuration that no domain has.
    pub unknown_domains: Vec<String>,
}

/// The connection to the hypervisor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Libvirt {
    /// Its URI.
    pub uri: String,
    /// Whether it answers.
    pub connected: bool,
    /// For how long it has, or has not.
    pub since_ms: u64,
    /// Domains it has.
    pub domains: usize,
    /// Calls for statistics that are late and have not returned.
    pub late_calls: usize,
}

/// The connection to the broker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Broker {
    /// Its URL.
    pub url: String,
    /// Whether it is connected.
    pub connected: bool,
    /// For how long it has been, or has not.
    pub since_ms: u64,
    /// Messages made and not acknowledged.
    pub in_flight: usize,
    /// Messages that it refused for now, so far; they are sent again.
    pub deferred: u64,
    /// Messages that could never be delivered, so far; they became gaps.
    pub refused: u64,
}

/// The outbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outbox {
    /// Its size on disk.
    pub bytes: u64,
    /// What it may hold.
    pub limit_bytes: u64,
    /// Transactions that failed.
    pub errors: u64,
}

/// The exporter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Exporter {
    /// Where it listens.
    pub listen: String,
}

/// How a VM's link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// The guest answers.
    Up,
    /// Connected, and the guest says nothing.
    Silent,
    /// Not connected.
    Down,
    /// The VM has none, is off, or nothing of its guest is monitored.
    #[default]
    None,
}

/// A VM's link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Link {
    /// How it is.
    pub state: LinkState,
    /// Whether the descriptor asks for anything of the guest.
    pub wanted: bool,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// Why it could not be connected to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// The version of the link that the guest speaks, where it is another than ours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub other_version: Option<u32>,
    /// Times that it was closed as the guest went over its limits.
    pub banned: u64,
}

/// A VM's descriptor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Descriptor {
    /// Where it comes from: a file, or "metadata".
    pub source: String,
    /// Whether what the source says now is in force.
    pub valid: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// What VMs are told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// The classes that are offered.
    pub classes: Vec<Class>,
    /// What is wrong with the folders: what was read before stays in force.
    pub problems: Vec<String>,
    /// Operations whose calls to libvirt do not return.
    pub stuck: usize,
    /// What VMs without a descriptor are told, by domain and class: those with a drive that is labelled.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub others: BTreeMap<String, BTreeMap<Class, Context>>,
}

/// What a VM is told of a class.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Context {
    /// The content of the medium in its drive.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// The drive, as the domain calls it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drive: Option<String>,
    /// For how long, as far as the daemon knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_ms: Option<u64>,
    /// Why it is not what it should be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// One VM with a descriptor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Vm {
    /// The domain's name on this host.
    pub domain: String,
    /// Its UUID.
    pub uuid: String,
    /// What it does: running, paused or off.
    pub state: String,
    /// The VM's name in its descriptor; none while no descriptor is in force.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vm: Option<String>,
    /// Its primary site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primary_site: Option<String>,
    /// The longest of its windows: rows are not acknowledged before.
    pub window_ms: u64,
    /// Its link.
    pub link: Link,
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Data points of its guest.
    pub points: usize,
    /// Rows read from its guest, those that were read again included.
    pub rows_received: u64,
    /// Rows read that nobody has acknowledged yet, those of open windows included.
    pub rows_unacknowledged: u64,
    /// How long the oldest of them, or of its measurements, has waited at least.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oldest_unacknowledged_ms: Option<u64>,
    /// Messages acknowledged.
    pub messages_acknowledged: u64,
    /// Messages on their way.
    pub in_flight: usize,
    /// Residences whose infrastructure measurements are on their way.
    pub infra_streams: u64,
    /// Measurements of so many moments that are kept until they are acknowledged.
    pub infra_unacknowledged: u64,
    /// The same that were lost as the outbox was full.
    pub infra_lost: u64,
    /// Ranges of rows that were lost and announced as such.
    pub gaps: u64,
    /// Messages that could never be delivered.
    pub messages_refused: u64,
    /// How long ago its guest's last row was read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_row_age_ms: Option<u64>,
    /// How long ago the hypervisor last gave figures of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_sample_age_ms: Option<u64>,
    /// Whether its hypervisor process does not answer.
    pub unresponsive: bool,
    /// What it is told by this host, by class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub context: BTreeMap<Class, Context>,
    /// What is wrong, and what to do; the most urgent first.
    pub advice: Vec<String>,
}

#[cfg(test)]
mod tests;
