//! `vmkpi-bench peers`: vmkpi-host beside Debian's prometheus-libvirt-exporter and collectd's virt plugin, on
//! one libvirtd: what a scrape takes, what it costs, what is shown; and what each does while the QEMU of
//! one VM is stopped. Every subject is started, measured and stopped in turn, in each round, so
//! that none pays for another.
#![expect(clippy::print_stdout, reason = "prints its own results")]

mod measure;
mod stopped;
mod subject;
mod vms;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vmkpi_tests::lab::hypervisor::Hypervisor;
use vmkpi_tests::scratch::Scratch;

use measure::{Steady, measure};
pub use measure::{cpu_seconds, rss_mb};
use stopped::{Stopped, stop_one};
use subject::Kind;
use vms::{QEMUS, Vms};

/// Domains of libvirt's test driver.
const COUNTS: [usize; 3] = [10, 100, 1000];

/// What has to be installed, and in which Debian package it is.
const NEEDED: [(&str, &str); 5] = [
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    (
        "/usr/bin/prometheus-libvirt-exporter",
        "prometheus-libvirt-exporter",
    ),
    ("/usr/sbin/collectd", "collectd-core"),
];

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Each measures every subject once.
    pub rounds: usize,
    /// How long nobody scrapes, to see what an exporter costs by itself.
    pub idle: Duration,
    /// How many scrapes a round.
    pub scrapes: usize,
    /// How long one VM's QEMU is stopped.
    pub stop: Duration,
}

/// Measures everything and prints two tables.
///
/// # Errors
/// Something is not installed, this is not root, or a part does not come up.
pub fn run(plan: &Plan) -> Result<()> {
    require()?;
    let qemus = (QEMUS, true);
    let domains = COUNTS.map(|count| (count, false));
    println!(
        "| VMs | exporter | fewest shown | series | scrape p50 ms | p99 ms | CPU ms a scrape (libvirtd's) \
         | CPU s a minute (libvirtd's) | MB |\n|{}",
        " --- |".repeat(9)
    );
    for (count, real) in std::iter::once(qemus).chain(domains) {
        let measured = steady(count, real, plan)?;
        for (kind, rounds) in Kind::ALL.into_iter().zip(measured) {
            print_steady(count, real, kind, &rounds);
        }
    }
    println!(
        "\n| exporter | scrapes answered | slowest s | fewest of the other {} shown | oldest figure of theirs s \
         | the stopped VM's last figures shown for s | all fresh again after s |\n|{}",
        QEMUS - 1,
        " --- |".repeat(7)
    );
    for kind in Kind::ALL {
        let scratch = Scratch::new()?;
        print_stopped(kind, &stop_one(kind, scratch.path(), plan.stop)?);
    }
    Ok(())
}

fn require() -> Result<()> {
    let missing = NEEDED.iter().filter(|(file, _)| !Path::new(file).exists());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        bail!(
            "run `tools/setup.sh peers`, or install {}",
            packages.join(" ")
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("a libvirtd of its own needs root: run it as root");
    }
    Ok(())
}

/// Every subject once a round, on one libvirtd.
fn steady(count: usize, real: bool, plan: &Plan) -> Result<[Vec<Steady>; 3]> {
    let scratch = Scratch::new()?;
    let folder = scratch.path();
    let hypervisor = Hypervisor::start(folder)?;
    let vms = if real {
        Vms::qemus(folder, &hypervisor, count)?
    } else {
        Vms::simulated(folder, &hypervisor, count)?
    };
    let mut measured: [Vec<Steady>; 3] = Default::default();
    for _ in 0..plan.rounds {
        for (kind, rounds) in Kind::ALL.into_iter().zip(&mut measured) {
            let result = measure(kind, folder, &hypervisor, &vms, plan);
            rounds.push(result.with_context(|| format!("{} of {count} VMs", kind.name()))?);
        }
    }
    Ok(measured)
}

fn print_steady(count: usize, real: bool, kind: Kind, rounds: &[Steady]) {
    let median = |of: &dyn Fn(&Steady) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let mut scrapes: Vec<f64> = rounds.iter().flat_map(|r| r.scrape_ms.clone()).collect();
    scrapes.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = scrapes.len().saturating_sub(1);
        let rank = (last as f64 * share).ceil() as usize;
        scrapes.get(rank).copied().unwrap_or(f64::NAN)
    };
    println!(
        "| {count} {} | {} | {} | {} | {:.1} | {:.1} | {:.1} ({:.1}) | {:.2} ({:.2}) | {:.0} |",
        if real { "QEMU" } else { "simulated" },
        kind.name(),
        median(&|r| r.vms as f64),
        median(&|r| r.series as f64),
        at(0.5),
        at(0.99),
        median(&|r| r.cpu_ms_scrape),
        median(&|r| r.libvirtd_ms_scrape),
        median(&|r| r.cpu_s_minute),
        median(&|r| r.libvirtd_s_minute),
        median(&|r| r.rss_mb),
    );
}

fn print_stopped(kind: Kind, stopped: &Stopped) {
    let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
    let never = || "never, in 3 minutes".to_owned();
    println!(
        "| {} | {} of {} | {} | {} | {} | {} | {} |",
        kind.name(),
        stopped.answered,
        stopped.asked,
        seconds(stopped.slowest),
        stopped.fewest.map_or("-".to_owned(), |n| n.to_string()),
        seconds(stopped.oldest),
        seconds(stopped.stopped_shown),
        stopped.recovered.map_or_else(never, seconds),
    );
}
