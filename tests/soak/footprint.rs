//! What a program uses, looked at again and again.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// What a process uses at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory of its own, in KiB: what it has allocated. Pages of the program's file come as its
    /// code is used for the first time.
    pub own_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

/// Looks at a process.
///
/// # Errors
/// It is not there.
pub fn look(pid: u32) -> Result<Footprint> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let number = |name: &str| -> Result<u64> {
        let mut lines = status.lines();
        let line = lines.find_map(|l| l.strip_prefix(name)).context("status")?;
        Ok(line.split_whitespace().next().context("status")?.parse()?)
    };
    Ok(Footprint {
        own_kib: number("RssAnon:")?,
        threads: number("Threads:")?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
    })
}

/// One process over time.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<(Duration, Footprint)>);

/// How much more than before a program may use.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Of resident memory of its own, in KiB.
    pub own_kib: u64,
    /// Of threads.
    pub threads: u64,
    /// Of open file descriptors.
    pub descriptors: u64,
}

impl Series {
    /// Adds what was seen at a time of the run.
    pub fn add(&mut self, at: Duration, footprint: Footprint) {
        self.0.push((at, footprint));
    }

    /// Compares the last quarter with the second: the first is the warm-up. Medians, as troubles come and go.
    ///
    /// # Errors
    /// It grew.
    pub fn judge(&self, what: &str, allowed: Growth) -> Result<String> {
        ensure!(self.0.len() >= 8, "{what}: looked at too seldom");
        let quarter = self.0.len() / 4;
        let before = medians(&self.0[quarter..2 * quarter]);
        let after = medians(&self.0[self.0.len() - quarter..]);
        let peak = self.0.iter().map(|(_, f)| f.own_kib).max().unwrap_or(0);
        let tenths: Vec<_> = (self.0.chunks(self.0.len().div_ceil(10)))
            .map(|tenth| medians(tenth).own_kib)
            .collect();
        let said = format!(
            "{what}: {before:?}, later {after:?}, at most {peak} KiB, by tenths {tenths:?}"
        );
        ensure!(
            after.own_kib <= before.own_kib + allowed.own_kib
                && after.threads <= before.threads + allowed.threads
                && after.descriptors <= before.descriptors + allowed.descriptors,
            "it grew: {said}"
        );
        Ok(said)
    }
}

fn medians(of: &[(Duration, Footprint)]) -> Footprint {
    let median = |value: fn(&Footprint) -> u64| {
        let mut all: Vec<u64> = of.iter().map(|(_, f)| value(f)).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    };
    Footprint {
        own_kib: median(|f| f.own_kib),
        threads: median(|f| f.threads),
        descriptors: median(|f| f.descriptors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Growth = Growth {
        own_kib: 100,
        threads: 0,
        descriptors: 1,
    };

    fn series(of: impl Fn(u64) -> u64) -> Series {
        let mut series = Series::default();
        for n in 0..100 {
            let footprint = Footprint {
                own_kib: of(n),
                threads: 3,
                descriptors: 9,
            };
            series.add(Duration::from_secs(n), footprint);
        }
        series
    }

    #[test]
    fn a_leak_is_seen_and_a_peak_or_the_warm_up_is_none() {
        assert!(series(|n| 1000 + 3 * n).judge("leak", ALLOWED).is_err());
        let peaks = series(|n| if n % 7 == 0 { 9000 } else { 1000 });
        assert!(peaks.judge("peaks", ALLOWED).is_ok());
        let warm = series(|n| 1000 + 300 * n.min(20));
        assert!(warm.judge("warm-up", ALLOWED).is_ok());
        let own = look(std::process::id()).unwrap();
        assert!(own.own_kib > 0 && own.threads > 0 && own.descriptors > 2);
    }
}
