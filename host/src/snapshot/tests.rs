//! The page of a fixture, to the letter; and what must never be on a page.

use super::*;
use crate::libvirt::extra::{DiskError, VcpuPlace};
use crate::libvirt::figures::{FIGURES, Figures, Param};
use crate::libvirt::{Domain, Taken, xml};
use crate::vm::{KpiColumn, KpiRow};
use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;
use vmkpi::link::DatabaseUse;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.prom");
/// Every parameter, as `virsh domstats --raw` writes them.
/// A domain's XML with all that is shown of it.
const DOMAIN_XML: &str = include_str!("../../tests/golden/domain.xml");
const DOMSTATS: &str = include_str!("../../tests/golden/domstats.txt");

fn figures() -> Figures {
    let mut figures = Figures::default();
    for line in DOMSTATS.lines() {
        let (name, value) = line.split_once('=').unwrap();
        match value.parse() {
            Ok(number) => figures.set(name, Param::Number(number)),
            Err(_) => figures.set(name, Param::Text(value)),
        }
    }
    figures.finish();
    figures.extra = Extra {
        vcpus: [(0, Some(3)), (1, None)]
            .map(|(vcpu, cpu)| VcpuPlace {
                vcpu,
                cpu,
                cpus: "0-3,8".into(),
            })
            .into(),
        disk_errors: [DiskError {
            disk: "vda".into(),
            code: 2,
        }]
        .into(),
    };
    figures
}

fn report() -> Report {
    Report {
        has_link: true,
        link_up: true,
        connects: 1,
        received_bytes: 4096,
        rows: 12,
        rows_time: Some(1_795_194_000.25),
        samples: 11,
        samples_time: Some(1_795_194_000.5),
        oldest_time: Some(1_795_193_999.5),
        messages: 10,
        messages_acknowledged: 9,
        acknowledged_time: Some(1_795_194_000.75),
        confirmed_time: Some(1_795_194_000.875),
        leases: [7, 1, 2],
        leased_time: Some(1_795_194_000.625),
        in_flight: 1,
        suppressed: 3,
        when_errors: 2,
        windows_lost: 1,
        clock_skew_ms: Some(-1500),
        identity: Some(("acme".parse().unwrap(), "shop".parse().unwrap())),
        databases: Databases {
            unencrypted: Some(DatabaseUse {
                bytes: 49_152,
                limit: 4 << 30,
            }),
            encrypted: Some(DatabaseUse {
                bytes: 45_056,
                limit: 61_440,
            }),
        },
        kpis: vec![KpiRow {
            point: "unencrypted/web".into(),
            time_seconds: 1_795_194_000.5,
            columns: vec![KpiColumn {
                name: "current users".into(),
                value: 42.0,
            }],
        }],
        ..Report::default()
    }
}

/// One VM was recontextualized, and of another class it cannot be.
fn contexts() -> context::status::Seen {
    use crate::context::machine::Trigger;
    use crate::context::status::{Ending, Fault, Histogram, Layer, Seen, VmContext};
    let mut attach = Histogram {
        count: 3,
        seconds: 20.015,
        ..Histogram::default()
    };
    (attach.counts[5], attach.counts[6]) = (1, 1);
    let good = Layer {
        digest: Some("00112233445566778899aabbccddeeff".into()),
        since: Some(Timestamp::from_micros(1_795_194_000_250_000)),
        drive: Some("sda".into()),
        problem: None,
    };
    let bad = Layer {
        problem: Some((Fault::Drive, "none".into())),
        ..Layer::default()
    };
    let layers = [("infrastructure", good), ("service", bad)];
    let layers = layers.map(|(class, layer)| (class.parse().unwrap(), layer));
    let vm = VmContext {
        name: "shop".into(),
        layers: layers.into(),
    };
    Seen {
        phases: [
            Histogram::default(),
            Histogram::default(),
            Histogram::default(),
            attach,
        ],
        endings: [((Trigger::Migrated, Ending::Changed), 3)].into(),
        faults: [(Fault::Drive, 1)].into(),
        vms: [(Arc::from("6695eb01-f6a4-8304-79aa-97f2502e193f"), vm)].into(),
        ..Seen::default()
    }
}

fn snapshot() -> Snapshot {
    let uuid: Arc<str> = "6695eb01-f6a4-8304-79aa-97f2502e193f".into();
    let domain = Domain {
        uuid: Arc::clone(&uuid),
        name: "a\"b\\c".into(),
        infos: xml::read(DOMAIN_XML, "none").unwrap().infos,
        ..Domain::default()
    };
    let time = Timestamp::from_micros(1_795_194_000_000_000);
    let stats = VmStats {
        detailed: Some(Taken {
            time,
            at: Instant::now(),
            asked: Instant::now(),
            figures: Arc::new(figures()),
        }),
        ..VmStats::default()
    };
    Snapshot {
        context: Some(contexts()),
        domains: Arc::new(Domains {
            connected: true,
            ended: std::collections::BTreeMap::new(),
            by_uuid: [(Arc::clone(&uuid), Arc::new(domain))].into(),
            reconciled: Some(time),
            connects: 1,
            failures: 2,
        }),
        sampling: Sampling {
            vms: Arc::new([(Arc::clone(&uuid), stats)].into()),
            time: Some(time),
            took: Duration::from_millis(55),
            ..Sampling::default()
        },
        reports: [(Arc::clone(&uuid), Arc::new(report()))].into(),
        descriptors: DescriptorStatus {
            errors: 0,
            valid: [(uuid, true)].into(),
        },
        broker: Arc::default(),
        consumers: Arc::default(),
        door: Door::default(),
        outbox: Arc::default(),
        exporter: Scraped::default(),
    }
}

#[test]
fn the_page_is_the_golden_one() {
    let page = snapshot().page().render();
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
fn every_figure_of_the_table_is_on_the_page_and_no_series_is_there_twice() {
    let page = snapshot().page().render();
    for figure in FIGURES {
        let name = figure.metric.about().name;
        assert!(page.contains(&format!("\n{name}{{")), "{name}");
    }
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let series: Vec<_> = lines.filter_map(|l| Some(l.rsplit_once(' ')?.0)).collect();
    let distinct: HashSet<_> = series.iter().collect();
    assert_eq!(distinct.len(), series.len());
    assert!(!page.contains("secret"), "no path of the host");
}

#[test]
fn promtool_has_nothing_to_say_against_the_page() {
    check_with_promtool(&snapshot().page().render());
}

fn check_with_promtool(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is part of the package prometheus");
    let mut to = promtool.stdin.take().unwrap();
    to.write_all(page.as_bytes()).unwrap();
    drop(to);
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
    let page = snapshot.page().render();
    assert!(!page.contains("uuid="), "{page}");
}

#[test]
fn stale_figures_are_not_shown_and_fresh_ones_beside_them_are() {
    let mut snapshot = snapshot();
    let mut vms = (*snapshot.sampling.vms).clone();
    let stats = vms.values_mut().next().unwrap();
    let mut quick = Figures::default();
    quick.set("state.state", Param::Number(1));
    stats.quick = Some(Taken {
        figures: Arc::new(quick),
        ..stats.detailed.clone().unwrap()
    });
    stats.detailed.as_mut().unwrap().at = Instant::now().checked_sub(2 * MAX_STATS_AGE).unwrap();
    stats.apart = true;
    snapshot.sampling.vms = Arc::new(vms);
    let page = snapshot.page().render();
    // What the XML says does not age.
    let figures = page
        .lines()
        .filter(|l| l.starts_with("libvirt_domain_") && !l.contains("_info{"));
    let figures: Vec<_> = figures.collect();
    assert!(
        matches!(figures[..], [state] if state.starts_with("libvirt_domain_info_vstate{")),
        "{figures:?}"
    );
    assert!(page.contains("vmkpi_domain_unresponsive{"), "{page}");
    let time = page
        .lines()
        .find(|l| l.starts_with("vmkpi_domain_stats_timestamp_seconds{"));
    assert!(time.unwrap().ends_with(" 1795194000"));
}

/// Alerts ask for an increase: that needs a number before the first error.
#[test]
fn every_error_of_the_daemon_is_there_from_the_start() {
    let page = Snapshot::default().page().render();
    for (name, reasons) in [
        (
            "vmkpi_broker_errors_total",
            Kind::ALL.map(Kind::as_str).to_vec(),
        ),
        (
            "vmkpi_broker_messages_refused_total",
            Refusal::ALL.map(Refusal::as_str).to_vec(),
        ),
        (
            "vmkpi_libvirt_errors_total",
            vec!["connection", "statistics"],
        ),
        ("vmkpi_exporter_errors_total", vec!["accept", "page"]),
    ] {
        for reason in reasons {
            let series = format!("\n{name}{{reason=\"{reason}\"}} 0\n");
            assert!(page.contains(&series), "{series}");
        }
    }
}

/// Whatever names a guest gives, each series is there once.
#[test]
fn names_of_a_guest_make_no_series_twice_and_no_line_of_their_own() {
    let mut snapshot = snapshot();
    let mut report = report();
    let names = [
        "a",
        "A",
        "a\\",
        "a\"",
        "a\n",
        "a\nlibvirt_up 0",
        "a,column=\"b",
        "",
        " ",
        "\u{1f600}",
    ];
    for point in ["unencrypted/web", "unencrypted/w\"eb", "unencrypted/\u{e9}"] {
        report.kpis.push(KpiRow {
            point: format!("{point}2"),
            time_seconds: 1.0,
            columns: names
                .map(|name| KpiColumn {
                    name: name.into(),
                    value: 1.0,
                })
                .to_vec(),
        });
    }
    let uuid = Arc::clone(snapshot.reports.keys().next().unwrap());
    snapshot.reports = [(uuid, Arc::new(report))].into();
    let page = snapshot.page().render();
    let series: Vec<_> = page
        .lines()
        .filter(|l| l.starts_with("vmkpi_kpi_value{"))
        .collect();
    let distinct: HashSet<_> = series.iter().collect();
    assert_eq!((series.len(), distinct.len()), (31, 31));
    assert_eq!(page.matches("\nlibvirt_up ").count(), 1);
    check_with_promtool(&page);
}
