//! What an exporter costs while all is well.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vmkpi_tests::lab::hypervisor::Hypervisor;
use vmkpi_tests::wait_for;

use super::Plan;
use super::subject::{Kind, Page, Subject};
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

/// An exporter and the libvirtd that it asks, by their processes.
struct Pair {
    exporter: i32,
    libvirtd: i32,
}

/// Processor time of both, in seconds.
#[derive(Clone, Copy)]
struct Cpu {
    exporter: f64,
    libvirtd: f64,
}

impl Pair {
    fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            exporter: cpu_seconds(self.exporter)?,
            libvirtd: cpu_seconds(self.libvirtd)?,
        })
    }

    /// What `work` takes: seconds, and processor time.
    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64, Cpu)> {
        let (begin, before) = (Instant::now(), self.cpu()?);
        let done = work()?;
        let (time, after) = (begin.elapsed().as_secs_f64(), self.cpu()?);
        let used = Cpu {
            exporter: after.exporter - before.exporter,
            libvirtd: after.libvirtd - before.libvirtd,
        };
        Ok((done, time, used))
    }
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
    let pair = Pair {
        exporter: i32::try_from(subject.process.pid())?,
        libvirtd: hypervisor.libvirtd()?.as_raw_nonzero().get(),
    };
    settle(&subject, vms.count)?;
    let ((), idle, rest) = pair.during(|| {
        std::thread::sleep(plan.idle);
        Ok(())
    })?;
    let (pages, busy, used) = pair.during(|| scrape(&subject, plan.scrapes))?;
    // What a scrape adds to what either uses while nobody scrapes, and what it is in a minute.
    let cost = |rest: f64, used: f64| {
        let scrape = (used - rest / idle * busy).max(0.0) / pages.len() as f64;
        (scrape * 1e3, rest / idle * 60.0 + scrape * SCRAPES_A_MINUTE)
    };
    let (cpu_ms_scrape, cpu_s_minute) = cost(rest.exporter, used.exporter);
    let (libvirtd_ms_scrape, libvirtd_s_minute) = cost(rest.libvirtd, used.libvirtd);
    let took = pages.iter().map(|page| page.took.as_secs_f64() * 1e3);
    Ok(Steady {
        vms: pages.iter().map(|p| p.vms().len()).min().unwrap_or(0),
        series: pages.last().map_or(0, Page::series),
        scrape_ms: took.collect(),
        cpu_ms_scrape,
        libvirtd_ms_scrape,
        cpu_s_minute,
        libvirtd_s_minute,
        rss_mb: rss_mb(pair.exporter)?,
    })
}

fn scrape(subject: &Subject, count: usize) -> Result<Vec<Page>> {
    let scrapes = (0..count).map(|_| {
        let page = subject.scrape()?;
        std::thread::sleep(SCRAPE_EVERY.saturating_sub(page.took));
        Ok(page)
    });
    scrapes.collect()
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
pub fn cpu_seconds(pid: i32) -> Result<f64> {
    let mut nanoseconds = 0;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads
        .with_context(|| format!("process {pid} has ended"))?
        .flatten()
    {
        // One that has ended meanwhile is not missed: exporters and libvirtd keep their threads.
        let Ok(text) = std::fs::read_to_string(thread.path().join("schedstat")) else {
            continue;
        };
        let used = text.split_whitespace().next().context("schedstat")?;
        nanoseconds += used.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Resident memory of a process.
pub fn rss_mb(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kb = line.and_then(|l| l.trim().strip_suffix(" kB"));
    let kb: f64 = kb.context("no VmRSS")?.parse()?;
    Ok(kb * 1024.0 / 1e6)
}
