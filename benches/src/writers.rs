//! The load: N threads, each with a file of its own, each store open(O_WRONLY|O_CREAT|O_TRUNC), one
//! write of 35 bytes, close. What a close returned is what counts.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::unistd::{close, fsync};

/// How often and how long to measure.
pub struct Plan {
    /// Rounds; each measures every subject once.
    pub rounds: usize,
    /// How long a subject is measured in a round.
    pub each: Duration,
}

/// Two records of CSV, 35 bytes.
const RECORD: &[u8; 35] = b"users,load,name\n12345,0.75,web-00\r\n";

/// What one measurement saw.
#[derive(Clone, Copy, Default)]
pub struct Rate {
    /// Stores a second.
    pub per_second: f64,
    /// Stores whose close returned 0.
    pub stores: u64,
    /// The 99th percentile of one store's time, in microseconds.
    pub p99_us: f64,
}

/// One store. The error of close is the point: std's drop would hide it.
fn store(path: &Path, sync: bool) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(RECORD)?;
    if sync {
        fsync(&file)?;
    }
    close(file)?;
    Ok(())
}

/// Lets `writers` threads store in `dir` for `length`.
pub fn run(dir: &Path, writers: usize, length: Duration, sync: bool) -> anyhow::Result<Rate> {
    for n in 0..writers {
        store(&dir.join(format!("w{n}")), sync).context("the first store")?;
    }
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let times = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|n| {
                let (path, stop) = (dir.join(format!("w{n}")), &stop);
                scope.spawn(move || write_until(&path, stop, sync))
            })
            .collect();
        thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        let mut all = Vec::new();
        for times in joined {
            all.extend(times.map_err(|_| anyhow::anyhow!("a writer panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(rate(times, seconds))
}

fn write_until(path: &Path, stop: &AtomicBool, sync: bool) -> anyhow::Result<Vec<u32>> {
    let mut times = Vec::with_capacity(1 << 16);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        store(path, sync)?;
        times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(times)
}

fn rate(mut times: Vec<u32>, seconds: f64) -> Rate {
    times.sort_unstable();
    let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
    Rate {
        per_second: times.len() as f64 / seconds,
        stores: times.len() as u64,
        p99_us: times.get(at).copied().map_or(0.0, f64::from),
    }
}
