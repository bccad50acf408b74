//! Writes values at a rate, and looks at what became of each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use vmkpi_tests::process::Process;
use vmkpi_tests::wait_for;

use super::way::{SCRAPE_EVERY, Way};
use crate::peers::{cpu_seconds, rss_mb};

/// How long nothing more has to come until nothing more is waited for; collectd reads each second, and a client
/// that has lost its broker may wait for long before it tries again.
const QUIET: Duration = Duration::from_secs(15);

/// What one run, or all of them, came to.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Values that the writer handed over, and was told that it had.
    pub written: u64,
    /// Values that it was told could not be.
    pub refused: u64,
    /// Of those handed over, how many were seen.
    pub arrived: u64,
    /// How many were not.
    pub lost: u64,
    /// Values that came more than once.
    pub twice: u64,
    /// Pages or messages with half of a value, or none.
    pub torn: u64,
    /// From handing over to being seen, in milliseconds.
    latencies_ms: Vec<f64>,
    /// Processor time of the writer and of whatever works between, in seconds.
    cpu_s: f64,
    /// Resident memory of what works between.
    pub rss_mb: f64,
    /// When the last value was seen, after the last one was written.
    pub settled_s: f64,
}

impl Run {
    /// All rounds as one: counts are added, of memory and of the last value's time the worst is taken.
    pub fn sum(runs: &[Self]) -> Self {
        let mut all = Self::default();
        for run in runs {
            all.written += run.written;
            all.refused += run.refused;
            all.arrived += run.arrived;
            all.lost += run.lost;
            all.twice += run.twice;
            all.torn += run.torn;
            all.cpu_s += run.cpu_s;
            all.latencies_ms.extend(&run.latencies_ms);
            all.rss_mb = all.rss_mb.max(run.rss_mb);
            all.settled_s = all.settled_s.max(run.settled_s);
        }
        all.latencies_ms.sort_by(f64::total_cmp);
        all
    }

    /// Median and 99th percentile.
    pub fn latency_ms(&self) -> (f64, f64) {
        let last = self.latencies_ms.len().saturating_sub(1) as f64;
        let at = |share: f64| {
            let value = self.latencies_ms.get((last * share).ceil() as usize);
            value.copied().unwrap_or(f64::NAN)
        };
        (at(0.5), at(0.99))
    }

    /// Processor time for each value that was written, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / (self.written + self.refused).max(1) as f64
    }
}

/// What was handed over, and when.
#[derive(Default)]
struct Written {
    at: BTreeMap<u64, Instant>,
    refused: u64,
}

/// Writes at `rate` for `time`, the first value before that.
pub fn steady(way: &mut Way, rate: u32, time: Duration) -> Result<Run> {
    begin(way)?;
    let before = cpu(way)?;
    let mut written = Written::default();
    write(way, &mut written, rate, time);
    // Whatever works between is given until the next scrape to do so.
    std::thread::sleep(SCRAPE_EVERY);
    let used = cpu(way)? - before;
    let mut run = judge(way, &written);
    run.cpu_s = used;
    Ok(run)
}

/// The same with the broker, or the scraper, away from a while after the beginning on, and as long again with it. With
/// `crash`, what works between is killed and started again before the broker comes back.
pub fn away(way: &mut Way, rate: u32, time: Duration, crash: bool) -> Result<Run> {
    begin(way)?;
    let mut written = Written::default();
    write(way, &mut written, rate, time / 2);
    way.eye.set_away(true);
    if let Some(broker) = &mut way.broker {
        broker.process().signal(Signal::TERM)?;
    }
    write(way, &mut written, rate, time);
    if crash {
        way.crash()?;
    }
    if let Some(broker) = &mut way.broker {
        broker.process().wait(10)?;
        broker.begin()?;
    }
    way.eye.set_away(false);
    write(way, &mut written, rate, time);
    Ok(judge(way, &written))
}

/// A value that nobody counts, until it is seen: everything is connected.
fn begin(way: &mut Way) -> Result<()> {
    let mut asked = Instant::now();
    way.writer.put(0)?;
    let words = |way: &Way| way.processes.iter().map(Process::words).collect::<String>();
    let seen = wait_for(60, "the first value", || {
        if asked.elapsed() > Duration::from_secs(2) {
            asked = Instant::now();
            way.writer.put(0).ok()?;
        }
        (!way.eye.seen().first.is_empty()).then_some(())
    });
    seen.with_context(|| words(way))
}

fn write(way: &mut Way, written: &mut Written, rate: u32, time: Duration) {
    let begin = Instant::now();
    let count = (f64::from(rate) * time.as_secs_f64()) as u32;
    for of in 0..count {
        let due = begin + Duration::from_secs(1) * of / rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let n = written.at.len() as u64 + written.refused + 1;
        let at = Instant::now();
        match way.writer.put(n) {
            Ok(()) => drop(written.at.insert(n, at)),
            Err(_) => written.refused += 1,
        }
    }
}

/// Waits until everything has been seen or nothing comes any more, and counts.
fn judge(way: &Way, written: &Written) -> Run {
    let ended = Instant::now();
    let (mut count, mut since) = (0, ended);
    let missing = |seen: &super::seen::Seen| {
        let there = written.at.keys().filter(|n| seen.first.contains_key(n));
        written.at.len() - there.count()
    };
    let mut seen = way.eye.seen();
    while missing(&seen) > 0 && since.elapsed() < QUIET && may_come(way) {
        std::thread::sleep(Duration::from_millis(50));
        seen = way.eye.seen();
        if seen.first.len() > count {
            (count, since) = (seen.first.len(), Instant::now());
        }
    }
    let last = seen.first.values().max().copied().unwrap_or(ended);
    let latency = |(n, at): (&u64, &Instant)| {
        let came = seen.first.get(n)?;
        Some(came.saturating_duration_since(*at).as_secs_f64() * 1e3)
    };
    let latencies_ms: Vec<f64> = written.at.iter().filter_map(latency).collect();
    let arrived = latencies_ms.len() as u64;
    Run {
        written: written.at.len() as u64,
        refused: written.refused,
        arrived,
        lost: written.at.len() as u64 - arrived,
        // The value before the first may come twice: it was written until it was seen.
        twice: seen.twice,
        torn: seen.torn,
        latencies_ms,
        cpu_s: 0.0,
        rss_mb: way
            .pids()
            .into_iter()
            .filter_map(|pid| rss_mb(pid).ok())
            .sum(),
        settled_s: last.saturating_duration_since(ended).as_secs_f64(),
    }
}

/// What is scraped shows the last value alone.
fn may_come(way: &Way) -> bool {
    way.broker.is_some()
}

/// Processor time of this thread, which writes, of the children that it has waited for, and of what works between.
fn cpu(way: &Way) -> Result<f64> {
    let own = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let own = own.split_whitespace().next().context("schedstat")?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    // cutime and cstime, in hundredths of a second.
    let children = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
    let children = children(14).context("stat")? + children(15).context("stat")?;
    let mut all = own.parse::<f64>()? / 1e9 + children / 100.0;
    for pid in way.pids() {
        all += cpu_seconds(pid)?;
    }
    Ok(all)
}
