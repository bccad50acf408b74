//! What is known at one moment, and the page of metrics made of it. Pure: no scrape asks anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::libvirt::figures::{Group, Readings};
use crate::libvirt::{Domain, Domains, Sampling};
use crate::link::Fault;
use crate::metrics::{Metric, Page};
use crate::mqtt::Status;
use crate::vm::Report;

/// Statistics older than this are no longer shown: a stale number is never served as new.
pub const MAX_STATS_AGE: Duration = Duration::from_secs(30);

/// Descriptors, as far as the exporter is concerned.
#[derive(Clone, Debug, Default)]
pub struct DescriptorStatus {
    /// How many were refused so far.
    pub errors: u64,
    /// By UUID, of those that have one: whether it is in force and nothing is refused.
    pub valid: HashMap<Arc<str>, bool>,
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
}

impl Snapshot {
    /// The page.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        self.add_own(&mut page);
        for (uuid, domain) in &self.domains.by_uuid {
            self.add_figures(&mut page, domain);
            if let Some(valid) = self.descriptors.valid.get(uuid) {
                let labels = [&*domain.name, &**uuid];
                page.add(Metric::Descriptor, &labels, f64::from(*valid));
            }
            if let Some(report) = self.reports.get(uuid) {
                add_report(&mut page, domain, report);
                add_kpis(&mut page, domain, report);
            }
        }
        page
    }

    fn add_own(&self, page: &mut Page) {
        let flag = |on: bool| f64::from(u8::from(on));
        page.add(Metric::LibvirtUp, &[], flag(self.domains.connected));
        page.add(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.add(
            Metric::DescriptorErrors,
            &[],
            self.descriptors.errors as f64,
        );
        page.add(
            Metric::BrokerConnected,
            &[],
            flag(self.broker.is_connected()),
        );
        for (metric, count) in [
            (Metric::BrokerConnects, self.broker.connects()),
            (Metric::BrokerFailures, self.broker.failures()),
            (Metric::BrokerRepeated, self.broker.repeated()),
            (Metric::BrokerRetried, self.broker.deferred()),
            (Metric::StatsFailures, self.sampling.failures),
        ] {
            page.add(metric, &[], count as f64);
        }
        if let Some(stats) = &self.sampling.last {
            page.add(Metric::StatsTime, &[], stats.time.as_seconds_f64());
            page.add(Metric::StatsDuration, &[], stats.took.as_secs_f64());
        }
    }

    fn add_figures(&self, page: &mut Page, domain: &Domain) {
        let fresh = |at: std::time::Instant| at.elapsed() <= MAX_STATS_AGE;
        let stats = self.sampling.last.as_ref().filter(|s| fresh(s.at));
        let Some(figures) = stats.and_then(|s| s.by_uuid.get(&domain.uuid)) else {
            return;
        };
        for (group, index, readings) in figures.groups() {
            let device = device_label(group, index, readings);
            for reading in &readings.readings {
                let metric = reading.figure.metric;
                match &device {
                    Some(device) => page.add(
                        metric,
                        &[&domain.name, &domain.uuid, device],
                        reading.as_f64(),
                    ),
                    None => page.add(metric, &[&domain.name, &domain.uuid], reading.as_f64()),
                }
            }
        }
    }
}

/// Here, on the host, a device has the host's name, as the libvirt exporters have it.
fn device_label(group: Group, index: u32, readings: &Readings) -> Option<String> {
    match group {
        Group::State | Group::Cpu | Group::Memory => None,
        Group::Vcpu => Some(index.to_string()),
        Group::Net | Group::Block => {
            Some(readings.name.clone().unwrap_or_else(|| index.to_string()))
        }
    }
}

fn add_report(page: &mut Page, domain: &Domain, report: &Report) {
    let vm = [&*domain.name, &*domain.uuid];
    for (metric, count) in [
        (Metric::Rows, report.rows),
        (Metric::RowsReplayed, report.rows_replayed),
        (Metric::Samples, report.samples),
        (Metric::Suppressed, report.suppressed),
        (Metric::WhenErrors, report.when_errors),
        (Metric::Gaps, report.gaps),
        (Metric::Messages, report.messages),
        (Metric::MessagesAcked, report.messages_acknowledged),
        (Metric::MessagesRefused, report.messages_refused),
        (Metric::MessagesWaiting, report.in_flight as u64),
        (Metric::KpiDropped, report.dropped as u64),
    ] {
        page.add(metric, &vm, count as f64);
    }
    if let Some(skew_ms) = report.clock_skew_ms {
        page.add(Metric::ClockSkew, &vm, f64::from(skew_ms) / 1000.0);
    }
    if !report.has_link {
        return;
    }
    page.add(Metric::LinkUp, &vm, f64::from(report.link_up));
    page.add(Metric::LinkConnects, &vm, report.connects as f64);
    page.add(Metric::LinkReceivedBytes, &vm, report.received_bytes as f64);
    for (fault, count) in Fault::ALL.iter().zip(report.faults) {
        let labels = [&*domain.name, &*domain.uuid, fault.as_str()];
        page.add(Metric::LinkErrors, &labels, count as f64);
    }
}

fn add_kpis(page: &mut Page, domain: &Domain, report: &Report) {
    for row in &report.kpis {
        let labels = [&*domain.name, &*domain.uuid, row.point.as_str()];
        page.add(Metric::KpiTime, &labels, row.time_seconds);
        for column in &row.columns {
            let labels = [labels[0], labels[1], labels[2], &column.name];
            page.add(Metric::KpiValue, &labels, column.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::Stats;
    use crate::libvirt::figures::{Figures, Param};
    use crate::vm::{KpiColumn, KpiRow};
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::time::Instant;
    use vmkpi::clock::Timestamp;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.prom");

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (name, number) in [
            ("state.state", 1),
            ("cpu.time", 1_500_000_000),
            ("vcpu.current", 2),
            ("balloon.current", 1024),
            ("balloon.maximum", 2048),
            ("balloon.rss", 512),
            ("vcpu.0.time", 7_000_000_000),
            ("vcpu.0.state", 1),
            ("net.0.rx.bytes", 90),
            ("net.0.tx.bytes", 80),
            ("block.0.rd.bytes", 70),
            ("block.0.rd.times", 60),
        ] {
            figures.set(name, Param::Number(number));
        }
        figures.set("net.0.name", Param::Text("vnet0"));
        figures.set("block.0.name", Param::Text("vda"));
        figures
    }

    fn snapshot() -> Snapshot {
        let uuid: Arc<str> = "6695eb01-f6a4-8304-79aa-97f2502e193f".into();
        let domain = Domain {
            uuid: Arc::clone(&uuid),
            name: "a\"b\\c".into(),
            ..Domain::default()
        };
        let report = Report {
            has_link: true,
            link_up: true,
            connects: 1,
            received_bytes: 4096,
            rows: 12,
            samples: 11,
            messages: 10,
            messages_acknowledged: 9,
            in_flight: 1,
            suppressed: 3,
            when_errors: 2,
            clock_skew_ms: Some(-1500),
            kpis: vec![KpiRow {
                point: "unencrypted/web".into(),
                time_seconds: 1_795_194_000.5,
                columns: vec![KpiColumn {
                    name: "current users".into(),
                    value: 42.0,
                }],
            }],
            ..Report::default()
        };
        let stats = Stats {
            time: Timestamp::from_micros(1_795_194_000_000_000),
            at: Instant::now(),
            took: Duration::from_millis(55),
            by_uuid: [(Arc::clone(&uuid), Arc::new(figures()))].into(),
        };
        Snapshot {
            domains: Arc::new(Domains {
                connected: true,
                by_uuid: [(Arc::clone(&uuid), Arc::new(domain))].into(),
            }),
            sampling: Sampling {
                last: Some(Arc::new(stats)),
                failures: 0,
            },
            reports: [(Arc::clone(&uuid), Arc::new(report))].into(),
            descriptors: DescriptorStatus {
                errors: 0,
                valid: [(uuid, true)].into(),
            },
            broker: Arc::default(),
        }
    }

    #[test]
    fn the_page_is_the_golden_one() {
        let page = snapshot().page().render().unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(GOLDEN, &page).unwrap();
        }
        let golden = std::fs::read_to_string(GOLDEN).unwrap();
        assert_eq!(
            page, golden,
            "run the test with UPDATE_GOLDEN=1 to accept the page"
        );
    }

    #[test]
    fn promtool_has_nothing_to_say_against_the_page() {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is part of the package prometheus");
        let page = snapshot().page().render().unwrap();
        promtool
            .stdin
            .take()
            .unwrap()
            .write_all(page.as_bytes())
            .unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && said.is_empty(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }

    #[test]
    fn a_vm_that_left_takes_its_series_along() {
        let mut snapshot = snapshot();
        snapshot.domains = Arc::new(Domains {
            connected: true,
            ..Domains::default()
        });
        let page = snapshot.page().render().unwrap();
        assert!(!page.contains("uuid="), "{page}");
    }

    #[test]
    fn stale_statistics_are_not_shown() {
        let mut snapshot = snapshot();
        let mut stats = Stats::clone(snapshot.sampling.last.as_ref().unwrap());
        stats.at = Instant::now().checked_sub(2 * MAX_STATS_AGE).unwrap();
        snapshot.sampling.last = Some(Arc::new(stats));
        let page = snapshot.page().render().unwrap();
        assert!(!page.contains("libvirt_domain_"), "{page}");
        assert!(
            page.contains("vmkpi_libvirt_stats_timestamp_seconds 1795194000\n"),
            "{page}"
        );
    }
}
