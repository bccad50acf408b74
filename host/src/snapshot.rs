//! What is known at one moment, and the page of metrics made of it. Pure: no scrape asks anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use vmkpi::broker::Kind;
use vmkpi::clock::Timestamp;
use vmkpi::link::Databases;
use vmkpi::query::Reason;
use vmkpi::topic::Branch;

use crate::consumers::{self, Deaf};
use crate::context;
use crate::libvirt::extra::Extra;
use crate::libvirt::figures::{Group, Readings};
use crate::libvirt::{Domains, Sampling, VmStats};
use crate::link::{self, Door, Fault};
use crate::metrics::{Labels, Metric, Page};
use crate::outbox;
use crate::vm::{BECAME, Report};
use vmkpi::broker::publisher::{Refusal, Status};

mod contexts;

/// Statistics older than this are no longer shown: a stale number is never served as new.
pub const MAX_STATS_AGE: Duration = Duration::from_secs(15);

/// Descriptors, as far as the exporter is concerned.
#[derive(Clone, Debug, Default)]
pub struct DescriptorStatus {
    /// How many were refused so far.
    pub errors: u64,
    /// By UUID, of those that have one: whether it is in force and nothing is refused.
    pub valid: HashMap<Arc<str>, bool>,
}

/// What the exporter has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scraped {
    /// Scrapes answered.
    pub scrapes: u64,
    /// Connections closed because there were too many.
    pub evicted: u64,
    /// Connections that could not be accepted.
    pub accept_errors: u64,
    /// Pages that could not be made.
    pub page_errors: u64,
    /// How long the last page took to write.
    pub page_took: Option<Duration>,
}

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The domains.
    pub domains: Arc<Domains>,
    /// The last statistics.
    pub sampling: Sampling,
    /// What the VMs' actors said last, by UUID.
    pub reports: HashMap<Arc<str>, Arc<Report>>,
    /// Descriptors.
    pub descriptors: DescriptorStatus,
    /// The publisher.
    pub broker: Arc<Status>,
    /// What named Consumers say and ask.
    pub consumers: Arc<consumers::Status>,
    /// Where guests come in from a network.
    pub door: Door,
    /// The outbox.
    pub outbox: Arc<outbox::Status>,
    /// What VMs are told, if they are.
    pub context: Option<context::status::Seen>,
    /// The exporter itself.
    pub exporter: Scraped,
}

impl Snapshot {
    /// The page.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        self.write(&mut page);
        page
    }

    /// Writes every series to an empty page.
    pub fn write(&self, page: &mut Page) {
        self.add_own(page);
        if let Some(seen) = &self.context {
            contexts::add(page, seen);
        }
        for (uuid, domain) in &self.domains.by_uuid {
            let vm = Labels::of_vm(&domain.name, uuid);
            for info in &domain.infos {
                info.add(page, &vm);
            }
            if let Some(stats) = self.sampling.vms.get(uuid) {
                add_stats(page, &vm, stats);
            }
            if let Some(valid) = self.descriptors.valid.get(uuid) {
                page.add(Metric::Descriptor, &vm, f64::from(*valid));
            }
            if let Some(context) = self.context.as_ref().and_then(|seen| seen.vms.get(uuid)) {
                contexts::add_vm(page, &vm, context);
            }
            if let Some(report) = self.reports.get(uuid) {
                add_report(page, &vm, report);
                add_link(page, &vm, report);
                add_kpis(page, &vm, report);
                add_databases(page, &vm, &report.databases);
            }
        }
    }

    fn add_own(&self, page: &mut Page) {
        let none = Labels::default();
        let version = none.with("version", env!("CARGO_PKG_VERSION"));
        page.add(Metric::BuildInfo, &version, 1.0);
        let (broker, sampling) = (&self.broker, &self.sampling);
        for (metric, on) in [
            (Metric::LibvirtUp, self.domains.connected),
            (Metric::BrokerConnected, broker.is_connected()),
            (Metric::ConfirmConnected, self.consumers.is_connected()),
        ] {
            page.add(metric, &none, f64::from(on));
        }
        if self.door.address().is_some() {
            for (refusal, count) in link::Refusal::ALL.iter().zip(self.door.refused()) {
                let reason = none.with("reason", refusal.as_str());
                page.add(Metric::LinkRefusals, &reason, count as f64);
            }
        }
        for (metric, count) in [
            (Metric::DomainsNumber, self.domains.by_uuid.len() as u64),
            (Metric::DescriptorErrors, self.descriptors.errors),
            (Metric::BrokerConnects, broker.connects()),
            (Metric::BrokerRepeated, broker.repeated()),
            (Metric::BrokerRetried, broker.deferred()),
            (Metric::Confirmations, self.consumers.confirmed()),
            (Metric::BrokerKept, broker.kept()),
            (Metric::OutboxBytes, self.outbox.bytes()),
            (Metric::OutboxLimit, self.outbox.max_bytes()),
            (Metric::OutboxCommits, self.outbox.commits()),
            (Metric::OutboxErrors, self.outbox.errors()),
            (Metric::LibvirtConnects, self.domains.connects),
            (Metric::StatsLate, sampling.late_calls),
            (Metric::StatsStuck, sampling.late as u64),
            (Metric::Scrapes, self.exporter.scrapes),
            (Metric::Evicted, self.exporter.evicted),
        ] {
            page.add(metric, &none, count as f64);
        }
        self.add_errors(page);
        self.add_questions(page);
        page.add(Metric::OutboxSeconds, &none, self.outbox.commit_seconds());
        let seconds = |time: Timestamp| time.as_seconds_f64();
        for (metric, value) in [
            (
                Metric::LibvirtReconciled,
                self.domains.reconciled.map(seconds),
            ),
            (Metric::StatsTime, sampling.time.map(seconds)),
            (
                Metric::StatsDuration,
                sampling.time.map(|_| sampling.took.as_secs_f64()),
            ),
            (
                Metric::ScrapeSeconds,
                self.exporter.page_took.map(|t| t.as_secs_f64()),
            ),
        ] {
            if let Some(value) = value {
                page.add(metric, &none, value);
            }
        }
    }
}

impl Snapshot {
    fn add_questions(&self, page: &mut Page) {
        let metrics = [
            Metric::Queries,
            Metric::QueriesAnswered,
            Metric::QueryPages,
            Metric::QueryRows,
            Metric::QueryBytes,
        ];
        let counts = self.consumers.questions.counts();
        for (metric, count) in metrics.into_iter().zip(counts) {
            page.add(metric, &Labels::default(), count as f64);
        }
    }

    /// Errors of the daemon's own stages, by reason; every reason is there from the start, so that the
    /// first error is an increase.
    fn add_errors(&self, page: &mut Page) {
        let mut add = |metric, reason, count: u64| {
            let labels = Labels::default().with("reason", reason);
            page.add(metric, &labels, count as f64);
        };
        for kind in Kind::ALL {
            add(
                Metric::BrokerErrors,
                kind.as_str(),
                self.broker.failures(kind),
            );
        }
        for (metric, branch, reasons) in [
            (Metric::ConfirmRefused, Branch::Confirm, Deaf::CONFIRMATION),
            (Metric::QueriesRefused, Branch::Query, Deaf::QUESTION),
        ] {
            for reason in reasons {
                let count = self.consumers.refused(branch, *reason);
                add(metric, reason.as_str(), count);
            }
        }
        for reason in Reason::ALL {
            let count = self.consumers.questions.failed(reason);
            add(Metric::QueriesFailed, reason.as_str(), count);
        }
        for reason in Refusal::ALL {
            let count = self.broker.refused(reason);
            add(Metric::BrokerRefused, reason.as_str(), count);
        }
        for (metric, reason, count) in [
            (Metric::LibvirtErrors, "connection", self.domains.failures),
            (Metric::LibvirtErrors, "statistics", self.sampling.failures),
            (
                Metric::ExporterErrors,
                "accept",
                self.exporter.accept_errors,
            ),
            (Metric::ExporterErrors, "page", self.exporter.page_errors),
        ] {
            add(metric, reason, count);
        }
    }
}

fn add_stats(page: &mut Page, vm: &Labels, stats: &VmStats) {
    page.add(Metric::DomainUnresponsive, vm, f64::from(stats.apart));
    if let Some(taken) = &stats.detailed {
        page.add(Metric::DomainStatsTime, vm, taken.time.as_seconds_f64());
    }
    let taken = stats.quick.iter().chain(&stats.detailed);
    let mut dropped = 0;
    for taken in taken.filter(|t| t.at.elapsed() <= MAX_STATS_AGE) {
        dropped += taken.figures.dropped();
        for (group, index, readings) in taken.figures.groups() {
            let device = device_label(vm, group, index, readings);
            let labels = device.as_ref().unwrap_or(vm);
            for reading in &readings.readings {
                page.add(reading.figure.metric, labels, reading.number());
            }
        }
        add_extra(page, vm, &taken.figures.extra);
    }
    page.add(Metric::DevicesDropped, vm, dropped as f64);
}

fn add_extra(page: &mut Page, vm: &Labels, extra: &Extra) {
    for place in &*extra.vcpus {
        let vcpu = vm.with("vcpu", &place.vcpu.to_string());
        if let Some(cpu) = place.cpu {
            page.add(Metric::VcpuCpu, &vcpu, f64::from(cpu));
        }
        page.add(Metric::VcpuAffinity, &vcpu.with("cpus", &place.cpus), 1.0);
    }
    for error in &*extra.disk_errors {
        let disk = vm.with("target_device", &error.disk);
        page.add(Metric::BlockError, &disk, f64::from(error.code));
    }
}

/// Here, on the host, a device has the host's name, as the libvirt exporters have it.
fn device_label(vm: &Labels, group: Group, index: u32, readings: &Readings) -> Option<Labels> {
    let label = match group {
        Group::Vcpu => "vcpu",
        Group::Net | Group::Block => "target_device",
        Group::Iothread => "iothread",
        Group::Bandwidth => "monitor",
        _ => return None,
    };
    Some(match &readings.name {
        Some(name) => vm.with(label, name),
        None => vm.with(label, &index.to_string()),
    })
}

fn add_report(page: &mut Page, vm: &Labels, report: &Report) {
    for (metric, count) in [
        (Metric::Rows, report.rows),
        (Metric::RowsReplayed, report.rows_replayed),
        (Metric::Holes, report.holes),
        (Metric::Repairs, report.repairs),
        (Metric::TablesRefused, report.tables_refused),
        (Metric::Samples, report.samples),
        (Metric::Suppressed, report.suppressed),
        (Metric::WhenErrors, report.when_errors),
        (Metric::WindowsLost, report.windows_lost),
        (Metric::Gaps, report.gaps),
        (Metric::Sealed, report.sealed),
        (Metric::SealFailures, report.seal_failures),
        (Metric::Messages, report.messages),
        (Metric::MessagesAcked, report.messages_acknowledged),
        (Metric::MessagesRefused, report.messages_refused),
        (Metric::MessagesWaiting, report.in_flight as u64),
        (Metric::KpiDropped, report.dropped as u64),
        (Metric::OutboxBatches, report.kept),
        (Metric::OutboxStreams, report.streams),
        (Metric::OutboxTrimmed, report.trimmed),
    ] {
        page.add(metric, vm, count as f64);
    }
    if let Some((site, name)) = &report.identity {
        let labels = vm.with("site", site.as_str()).with("vm", name.as_str());
        page.add(Metric::DescriptorInfo, &labels, 1.0);
    }
    for (became, count) in BECAME.iter().zip(report.leases) {
        page.add(Metric::Leases, &vm.with("became", became), count as f64);
    }
    if let Some(skew_ms) = report.clock_skew_ms {
        page.add(Metric::ClockSkew, vm, f64::from(skew_ms) / 1000.0);
    }
    for (metric, time) in [
        (Metric::RowsTime, report.rows_time),
        (Metric::SamplesTime, report.samples_time),
        (Metric::MessagesOldest, report.oldest_time),
        (Metric::MessagesAckedTime, report.acknowledged_time),
        (Metric::ConfirmTime, report.confirmed_time),
        (Metric::LeaseTime, report.leased_time),
    ] {
        if let Some(time) = time {
            page.add(metric, vm, time);
        }
    }
}

fn add_link(page: &mut Page, vm: &Labels, report: &Report) {
    if !report.has_link {
        return;
    }
    page.add(Metric::LinkUp, vm, f64::from(report.link_up));
    page.add(Metric::LinkConnects, vm, report.connects as f64);
    page.add(Metric::LinkReceivedBytes, vm, report.received_bytes as f64);
    for (fault, count) in Fault::ALL.iter().zip(report.faults) {
        let labels = vm.with("reason", fault.as_str());
        page.add(Metric::LinkErrors, &labels, count as f64);
    }
}

fn add_databases(page: &mut Page, vm: &Labels, databases: &Databases) {
    for (name, usage) in [
        ("unencrypted", databases.unencrypted),
        ("encrypted", databases.encrypted),
    ] {
        if let Some(usage) = usage {
            let labels = vm.with("database", name);
            page.add(Metric::GuestDatabaseBytes, &labels, usage.bytes as f64);
            page.add(Metric::GuestDatabaseLimit, &labels, usage.limit as f64);
        }
    }
}

fn add_kpis(page: &mut Page, vm: &Labels, report: &Report) {
    for row in &report.kpis {
        let point = vm.with("point", &row.point);
        page.add(Metric::KpiTime, &point, row.time_seconds);
        for column in &row.columns {
            page.add(
                Metric::KpiValue,
                &point.with("column", &column.name),
                column.value,
            );
        }
    }
}

#[cfg(test)]
mod tests;
