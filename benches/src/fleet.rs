//! One host daemon with 10, 100 and 1,000 VMs: what it costs when little happens, how long a row is on its way,
//! what a scrape of it all takes, and how many rows a second it brings from its guests to the broker's
//! acknowledgement on one processor. The daemon is the real one, on a processor of its own; mosquitto, a real
//! guest and the simulated ones share the others.
#![expect(clippy::print_stdout, reason = "prints its own results")]

pub mod guests;
pub mod lab;
mod latency;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use guests::Fleet;
use lab::{Program, until};

/// More rows a second than any host takes: the guests hold back.
const FLOOD: f64 = 1_000_000.0;
/// Rows a second when latency is measured, half of them of the real guest.
const STEADY: f64 = 1000.0;
/// Scrapes of each fleet.
const SCRAPES: usize = 15;

/// How rows flood the host: what is measured, the point they are stored to, and how many share a line.
const FLOODS: [(&str, usize, u64); 3] = [
    ("a row a line, delivered at once", 0, 1),
    ("rows in pages, delivered at once", 0, 500),
    ("rows in pages, delivered each second", 1, 500),
];

/// What to measure.
pub struct Plan {
    /// The vmkpi-host program.
    pub host: PathBuf,
    /// The vmkpi-guest program.
    pub guest: PathBuf,
    /// Where state is kept; a disk.
    pub dir: PathBuf,
    /// How many VMs, in turn; each two or more.
    pub counts: Vec<usize>,
    /// How long each figure is measured.
    pub each: Duration,
}

/// The figures of one fleet: what, and how much.
type Figures = Vec<(String, f64)>;

/// A running fleet.
struct Running {
    fleet: std::sync::Arc<Fleet>,
    /// All but the first, whose guest is a real one.
    simulated: usize,
    host: Program,
    metrics: SocketAddr,
    broker: SocketAddr,
    /// `unencrypted/` of the real guest's partition.
    directory: PathBuf,
    /// What else runs, and ends with this.
    _others: [Program; 2],
}

/// Measures each fleet and prints a column for it.
///
/// # Errors
/// A program is missing or does not come up.
pub fn run(plan: &Plan) -> Result<()> {
    let (others, first) = split_processors()?;
    sched_setaffinity(Pid::from_raw(0), &others)?;
    let fleets = plan.counts.iter().map(|vms| measure(plan, *vms, &first));
    print(&plan.counts, &fleets.collect::<Result<Vec<_>>>()?);
    Ok(())
}

/// The first processor is the daemon's.
fn split_processors() -> Result<(CpuSet, String)> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let is_ours = |cpu: &usize| all.is_set(*cpu).unwrap_or(false);
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(is_ours).collect();
    ensure!(
        cpus.len() > 1,
        "two processors are needed: one for the daemon"
    );
    let mut others = CpuSet::new();
    for cpu in &cpus[1..] {
        others.set(*cpu)?;
    }
    Ok((others, cpus[0].to_string()))
}

fn measure(plan: &Plan, vms: usize, cpu: &str) -> Result<Figures> {
    let home = tempfile::TempDir::with_prefix_in("vmkpi-bench-", &plan.dir)?;
    let begin = Instant::now();
    let running = Running::start(plan, home.path(), vms, cpu)?;
    let mut figures = Figures::new();
    let mut note = |what: &str, much: f64| figures.push((what.to_owned(), much));
    note(
        "seconds until all are subscribed to",
        begin.elapsed().as_secs_f64(),
    );
    thread::sleep(plan.each);
    note("idle: % of a processor", 100.0 * running.idle(plan.each)?);
    let resident = running.host.memory()?.0;
    note("idle: MB resident", resident / 1e6);
    note("idle: KB resident a VM", resident / 1e3 / vms as f64);
    running.steady(plan.each, &mut note)?;
    running.scrapes(&mut note)?;
    for (what, point, line_rows) in FLOODS {
        let (rows, cpu) = running.flood(point, line_rows, plan.each)?;
        note(&format!("{what}: rows/s"), rows);
        note("  % of a processor", 100.0 * cpu);
        note("  rows a second of processor time", rows / cpu);
    }
    note("MB resident at most", running.host.memory()?.1 / 1e6);
    ensure!(running.fleet.repairs() == 0, "rows were asked for again");
    Ok(figures)
}

impl Running {
    fn start(plan: &Plan, dir: &Path, vms: usize, cpu: &str) -> Result<Self> {
        let sockets: Vec<_> = (1..vms).map(|vm| guests::socket(dir, vm)).collect();
        let fleet = guests::start(&sockets)?;
        let (mosquitto, broker) = lab::start_broker(dir)?;
        let (guest, directory) = lab::start_guest(&plan.guest, dir, 0)?;
        let (host, metrics) = lab::start_host(&plan.host, dir, vms, broker, cpu)?;
        let running = Self {
            fleet,
            simulated: vms - 1,
            host,
            metrics,
            broker,
            directory,
            _others: [mosquitto, guest],
        };
        let fleet = &running.fleet;
        until("every guest is subscribed to", || {
            fleet.subscribed() == running.simulated
        })?;
        Ok(running)
    }

    /// Processors that the daemon uses.
    fn idle(&self, time: Duration) -> Result<f64> {
        let (before, begin) = (self.host.cpu_seconds()?, Instant::now());
        thread::sleep(time);
        Ok((self.host.cpu_seconds()? - before) / begin.elapsed().as_secs_f64())
    }

    /// A thousand rows a second over all VMs, half of them of the real guest, whose way is timed.
    fn steady(&self, time: Duration, note: &mut impl FnMut(&str, f64)) -> Result<()> {
        let subscriber = latency::Subscriber::start(self.broker, "vm-0")?;
        subscriber.warm(&self.directory)?;
        let each = STEADY / 2.0 / self.simulated as f64;
        self.fleet.store(each, 0, 1);
        let (before, begin) = (self.host.cpu_seconds()?, Instant::now());
        let every = Duration::from_secs_f64(2.0 / STEADY);
        let [ways, closes] = subscriber.measure(&self.directory, every, 2 * time)?;
        let cpu = (self.host.cpu_seconds()? - before) / begin.elapsed().as_secs_f64();
        self.fleet.store(0.0, 0, 1);
        self.drained()?;
        note("1,000 rows/s: % of a processor", 100.0 * cpu);
        note("  close() to subscriber, p50 ms", percentile_ms(&ways, 50));
        note("  close() to subscriber, p99 ms", percentile_ms(&ways, 99));
        note(
            "  of these close() itself, p50 ms",
            percentile_ms(&closes, 50),
        );
        note(
            "  of these close() itself, p99 ms",
            percentile_ms(&closes, 99),
        );
        Ok(())
    }

    fn scrapes(&self, note: &mut impl FnMut(&str, f64)) -> Result<()> {
        let (mut times, mut page) = (Vec::new(), String::new());
        for _ in 0..SCRAPES {
            // Longer than a page is kept for others: each scrape has its own.
            thread::sleep(Duration::from_millis(300));
            let took;
            (took, page) = lab::scrape(self.metrics)?;
            times.push(took);
        }
        times.sort();
        let count = |prefix: &str| page.lines().filter(|l| l.starts_with(prefix)).count() as f64;
        note("scrape: p50 ms", percentile_ms(&times, 50));
        note("  MB", page.len() as f64 / 1e6);
        note("  VMs in it", count("libvirt_domain_info_vstate{"));
        Ok(())
    }

    /// As many rows as the host takes: rows a second, and processors used.
    fn flood(&self, point: usize, line_rows: u64, time: Duration) -> Result<(f64, f64)> {
        let each = FLOOD / self.simulated as f64;
        self.fleet.store(each, point, line_rows);
        thread::sleep(time / 2);
        let before = (self.host.cpu_seconds()?, self.fleet.rows().1);
        let begin = Instant::now();
        thread::sleep(2 * time);
        let seconds = begin.elapsed().as_secs_f64();
        let rows = (self.fleet.rows().1 - before.1) as f64 / seconds;
        let cpu = (self.host.cpu_seconds()? - before.0) / seconds;
        self.fleet.store(0.0, point, line_rows);
        self.drained()?;
        Ok((rows, cpu))
    }

    fn drained(&self) -> Result<()> {
        until("every row is acknowledged", || {
            let (stored, acknowledged) = self.fleet.rows();
            stored == acknowledged
        })
    }
}

fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn print(counts: &[usize], fleets: &[Figures]) {
    let heads = counts.iter().map(|vms| format!("{vms:>11} VMs"));
    println!("{:<48}{}", "", heads.collect::<String>());
    let Some(first) = fleets.first() else { return };
    for (at, (what, _)) in first.iter().enumerate() {
        let values = fleets.iter().map(|fleet| fleet[at].1);
        let texts = values.map(|value| match value.abs() {
            1000.0.. => format!("{value:>15.0}"),
            _ => format!("{value:>15.2}"),
        });
        println!("{what:<48}{}", texts.collect::<String>());
    }
}
