//! What an exporter costs while all is well.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vmkpi_tests::lab::hypervisor::Hypervisor;
use vmkpi_tests::wait_for;

use super::Plan;
use super::subject::{Kind, Subject};
use super::vms::Vms;

/// Between two scrapes: longer than vmkpi-host keeps a page for others, so each has its own.
const SCRAPE_EVERY: Duration = Duration::from_millis(250);

/// How often one scrapes when it comes to a minute's cost: every 15 s.
const SCRAPES_A_MINUTE: f64 = 4.0;

/// How long the number of VMs has to stay the same before it is taken for all that will be shown.
const SETTLED: Duration = Duration::from_secs(3);

/// How long to wait for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// One round of one exporter.
pub struct Steady {
    /// The fewest VMs on a page of its.
    pub vms: usize,
    /// Series on its last page.
    pub series: usize,
    /// What scrapes took, in milliseconds.
    pub scrape_ms: Vec<f64>,
    /// Processor time of the exporter that a scrape adds, in milliseconds.
    pub cpu_ms_scrape: f64,
    /// The same of libvirtd.
    pub libvirtd_ms_scrape: f64,
    /// Processor time of the exporter in a minute with four scrapes, in seconds.
    pub cpu_s_minute: f64,
    /// The same of libvirtd.
    pub libvirtd_s_minute: f64,
    /// Its resident memory at the end.
    pub rss_mb: f64,
}

/// Processor time of exporter and libvirtd, in seconds.
#[derive(Clone, Copy)]
struct Cpu {
    exporter: f64,
    libvirtd: f64,
}

/// Starts an exporter, measures, and stops it.
pub fn measure(
    kind: Kind,
    folder: &Path,
    hypervisor: &Hypervisor,
    vms: &Vms,
    plan: &Plan,
) -> Result<Steady> {
    let subject = Subject::start(kind, folder, &vms.uri)?;
    let libvirtd = hypervisor.libvirtd()?.as_raw_nonzero().get();
    let own = i32::try_from(subject.process.pid())?;
    let cpu = || -> Result<Cpu> {
        Ok(Cpu {
            exporter: cpu_seconds(own)?,
            libvirtd: cpu_seconds(libvirtd)?,
        })
    };
    settle(&subject, vms.count)?;
    let (begin, before) = (Instant::now(), cpu()?);
    std::thread::sleep(plan.idle);
    let (idle, after) = (begin.elapsed().as_secs_f64(), cpu()?);
    // What either uses in a second while nobody scrapes.
    let rest = Cpu {
        exporter: (after.exporter - before.exporter) / idle,
        libvirtd: (after.libvirtd - before.libvirtd) / idle,
    };

    let (begin, before) = (Instant::now(), cpu()?);
    let (mut scrape_ms, mut last, mut fewest) = (Vec::new(), None, usize::MAX);
    for _ in 0..plan.scrapes {
        let page = subject.scrape()?;
        scrape_ms.push(page.took.as_secs_f64() * 1e3);
        fewest = fewest.min(page.vms().len());
        std::thread::sleep(SCRAPE_EVERY.saturating_sub(page.took));
        last = Some(page);
    }
    let (busy, after) = (begin.elapsed().as_secs_f64(), cpu()?);
    let page = last.context("no scrape")?;
    let each = |used: f64, rest: f64| (used - rest * busy).max(0.0) / plan.scrapes as f64;
    let scrape = Cpu {
        exporter: each(after.exporter - before.exporter, rest.exporter),
        libvirtd: each(after.libvirtd - before.libvirtd, rest.libvirtd),
    };
    Ok(Steady {
        vms: fewest,
        series: page.series(),
        scrape_ms,
        cpu_ms_scrape: scrape.exporter * 1e3,
        libvirtd_ms_scrape: scrape.libvirtd * 1e3,
        cpu_s_minute: rest.exporter * 60.0 + scrape.exporter * SCRAPES_A_MINUTE,
        libvirtd_s_minute: rest.libvirtd * 60.0 + scrape.libvirtd * SCRAPES_A_MINUTE,
        rss_mb: rss_mb(own)?,
    })
}

/// Waits until all VMs are shown, or their number stays, or for [`PATIENCE`]: who shows another number each
/// time is measured as it is.
fn settle(subject: &Subject, count: usize) -> Result<()> {
    let (begin, mut shown, mut since) = (Instant::now(), 0, Instant::now());
    wait_for(120, "VMs on the page", || {
        let now = subject.scrape().ok()?.vms().len();
        if now != shown {
            (shown, since) = (now, Instant::now());
        }
        std::thread::sleep(SCRAPE_EVERY);
        let settled = since.elapsed() > SETTLED || begin.elapsed() > PATIENCE;
        (now == count || (now > 0 && settled)).then_some(())
    })
    .with_context(|| subject.process.words())
}

/// Processor time that the threads of a process have used so far (the first field of
/// /proc/PID/task/TID/schedstat, in nanoseconds; /proc/PID/stat knows no less than 10 ms).
fn cpu_seconds(pid: i32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has ended meanwhile is not missed: exporters and libvirtd keep their threads.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let used = text.split_whitespace().next().context("schedstat")?;
        nanoseconds += used.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

fn rss_mb(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kb = line.and_then(|l| l.trim().strip_suffix(" kB"));
    let kb: f64 = kb.context("no VmRSS")?.parse()?;
    Ok(kb * 1024.0 / 1e6)
}
