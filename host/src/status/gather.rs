//! From what is known at one moment to what is told. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkpi::clock::Timestamp;
use vmkpi::context::Class;
use vmkpi::descriptor::{self, Monitor};

use super::{
    Broker, Context, Contexts, Descriptor, Exporter, Libvirt, Link, LinkState, Live, Outbox,
    Status, Vm,
};
use crate::context::status::VmContext;
use crate::libvirt::{Domain, State, VmStats};
use crate::link::Fault;
use crate::snapshot::Snapshot;
use crate::vm::Report;

/// What the daemon alone knows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// libvirt's URI.
    pub libvirt_uri: String,
    /// For how long libvirt has answered, or has not, in milliseconds.
    pub libvirt_since_ms: u64,
    /// The broker's URL.
    pub broker: String,
    /// For how long the broker has been connected, or has not, in milliseconds.
    pub broker_since_ms: u64,
    /// Where the exporter listens.
    pub listen: String,
    /// What the outbox may hold, in bytes.
    pub outbox_bytes: u64,
    /// Names in the configuration that no domain has.
    pub unknown: Vec<String>,
    /// The domains that have a descriptor, in force or refused.
    pub vms: Vec<VmFacts>,
}

/// What the daemon alone knows of a VM.
#[derive(Clone, Debug, Default)]
pub struct VmFacts {
    /// The domain.
    pub domain: Arc<Domain>,
    /// The descriptor in force.
    pub descriptor: Option<Arc<descriptor::Descriptor>>,
    /// Where descriptors of it come from.
    pub source: String,
    /// Why what the source says now is not in force.
    pub refusal: Option<String>,
    /// Where its link is.
    pub address: Option<String>,
}

/// How everything is, with advice.
pub fn gather(facts: &Facts, snapshot: &Snapshot, now: Timestamp) -> Status {
    let mut vms: Vec<Vm> = facts
        .vms
        .iter()
        .map(|vm| of_vm(vm, snapshot, now))
        .collect();
    vms.sort_by(|a, b| a.domain.cmp(&b.domain));
    let mut status = Status {
        running: true,
        healthy: false,
        now,
        live: Some(live(facts, snapshot, &vms, now)),
        vms,
        advice: Vec::new(),
    };
    super::advice::advise(&mut status);
    status
}

fn live(facts: &Facts, snapshot: &Snapshot, vms: &[Vm], now: Timestamp) -> Live {
    Live {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_ms: facts.uptime_ms,
        libvirt: Libvirt {
            uri: facts.libvirt_uri.clone(),
            connected: snapshot.domains.connected,
            since_ms: facts.libvirt_since_ms,
            domains: snapshot.domains.by_uuid.len(),
            late_calls: snapshot.sampling.late,
        },
        broker: Broker {
            url: facts.broker.clone(),
            connected: snapshot.broker.is_connected(),
            since_ms: facts.broker_since_ms,
            in_flight: vms.iter().map(|vm| vm.in_flight).sum(),
            deferred: snapshot.broker.deferred(),
            refused: vms.iter().map(|vm| vm.messages_refused).sum(),
        },
        outbox: Outbox {
            bytes: snapshot.outbox.bytes(),
            limit_bytes: facts.outbox_bytes,
            errors: snapshot.outbox.errors(),
        },
        exporter: Exporter {
            listen: facts.listen.clone(),
        },
        context: contexts(snapshot, vms, now),
        unknown_domains: facts.unknown.clone(),
    }
}

fn of_vm(facts: &VmFacts, snapshot: &Snapshot, now: Timestamp) -> Vm {
    let uuid = &facts.domain.uuid;
    let none = Arc::default();
    let report: &Report = snapshot.reports.get(uuid).unwrap_or(&none);
    let stats = snapshot.sampling.vms.get(uuid);
    let wanted = facts.descriptor.as_ref();
    let age_ms = |seconds: f64| {
        let then = Timestamp::from_micros((seconds * 1e6) as i64);
        age_ms(then, now)
    };
    let windows = wanted
        .iter()
        .flat_map(|d| &d.monitors)
        .map(Monitor::window_ms);
    Vm {
        domain: facts.domain.name.to_string(),
        uuid: uuid.to_string(),
        state: state(facts.domain.state).into(),
        vm: wanted.map(|d| d.vm.to_string()),
        primary_site: wanted.map(|d| d.primary_site.to_string()),
        window_ms: windows.max().unwrap_or(0),
        link: link(facts, report),
        descriptor: Descriptor {
            source: facts.source.clone(),
            valid: facts.refusal.is_none(),
            error: facts.refusal.clone(),
        },
        points: report.backlog.points,
        rows_received: report.guest_rows,
        rows_unacknowledged: report.backlog.rows,
        oldest_unacknowledged_ms: report.backlog.oldest_ms.max(report.kept_oldest_ms),
        messages_acknowledged: report.messages_acknowledged,
        in_flight: report.in_flight,
        infra_streams: report.streams,
        infra_unacknowledged: report.kept,
        infra_lost: report.trimmed,
        gaps: report.gaps,
        messages_refused: report.messages_refused,
        last_row_age_ms: report.rows_time.map(age_ms),
        last_sample_age_ms: stats.and_then(|stats| sampled_ms(stats, now)),
        unresponsive: stats.is_some_and(|stats| stats.apart),
        context: contexts_of(snapshot, uuid, now),
        advice: Vec::new(),
    }
}

/// What VMs are told, as far as it is not any VM's of `vms`.
fn contexts(snapshot: &Snapshot, vms: &[Vm], now: Timestamp) -> Option<Contexts> {
    let seen = snapshot.context.as_ref()?;
    let described = |uuid: &str| vms.iter().any(|vm| vm.uuid == uuid);
    let others = seen.vms.iter().filter(|(uuid, _)| !described(uuid));
    Some(Contexts {
        classes: seen.classes.clone(),
        problems: seen.problems.clone(),
        stuck: seen.late(),
        others: others
            .map(|(_, vm)| (vm.name.to_string(), by_class(vm, now)))
            .collect(),
    })
}

/// What a VM is told, by class.
fn contexts_of(snapshot: &Snapshot, uuid: &str, now: Timestamp) -> BTreeMap<Class, Context> {
    let seen = snapshot.context.as_ref();
    let vm = seen.and_then(|seen| seen.vms.get(uuid));
    vm.map(|vm| by_class(vm, now)).unwrap_or_default()
}

fn by_class(vm: &VmContext, now: Timestamp) -> BTreeMap<Class, Context> {
    let of = vm.layers.iter().map(|(class, layer)| {
        let context = Context {
            digest: layer.digest.clone(),
            drive: layer.drive.clone(),
            since_ms: layer.since.map(|since| age_ms(since, now)),
            problem: layer.problem.as_ref().map(|(_, text)| text.clone()),
        };
        (class.clone(), context)
    });
    of.collect()
}

fn sampled_ms(stats: &VmStats, now: Timestamp) -> Option<u64> {
    let taken = stats.quick.iter().chain(&stats.detailed);
    taken.map(|taken| age_ms(taken.time, now)).min()
}

fn link(facts: &VmFacts, report: &Report) -> Link {
    let monitors = facts.descriptor.iter().flat_map(|d| &d.monitors);
    let wanted = monitors.into_iter().any(|monitor| monitor.point.is_kpi());
    Link {
        state: match (report.has_link, report.link_open, report.link_up) {
            (false, ..) => LinkState::None,
            (_, _, true) => LinkState::Up,
            (_, true, _) => LinkState::Silent,
            _ => LinkState::Down,
        },
        wanted,
        address: report
            .link_by
            .as_deref()
            .map(ToOwned::to_owned)
            .or_else(|| facts.address.clone()),
        problem: report.link_problem.as_deref().map(ToOwned::to_owned),
        other_version: report.link_other_version,
        banned: report.faults[Fault::Banned as usize] + report.faults[Fault::Deaf as usize],
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Paused => "paused",
        State::Off => "off",
    }
}

/// Milliseconds from `then` to `now`; none when the clock was set back since.
fn age_ms(then: Timestamp, now: Timestamp) -> u64 {
    let micros = now.as_micros().saturating_sub(then.as_micros());
    u64::try_from(micros / 1000).unwrap_or(0)
}
