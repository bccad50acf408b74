//! What an exporter does while the QEMU of one VM is stopped (SIGSTOP): it neither answers nor ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, kill_process};
use vmkpi_tests::lab::hypervisor::Hypervisor;
use vmkpi_tests::wait_for;

use super::subject::{Kind, Subject};
use super::vms::{QEMUS, Vms, name};

/// Which VM is stopped.
const STOPPED: usize = 4;

/// Between two scrapes.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// How fresh figures are when all is well: twice the longest interval at which anybody asks.
const FRESH: Duration = Duration::from_secs(20);

/// How long to wait for everything to be as before, once the VM goes on, in seconds.
const RECOVERY: u64 = 180;

/// What was seen.
#[derive(Default)]
pub struct Stopped {
    /// Scrapes tried while the VM was stopped.
    pub asked: usize,
    /// Scrapes answered within 10 s.
    pub answered: usize,
    /// The slowest, answered or not.
    pub slowest: Duration,
    /// The fewest of the other VMs on a page that was answered.
    pub fewest: Option<usize>,
    /// The greatest age of the last figures anybody could have of one of the other VMs.
    pub oldest: Duration,
    /// How long into the stop the stopped VM's figures of before were shown.
    pub stopped_shown: Duration,
    /// How long after the VM went on everything was fresh; `None`: not in [`RECOVERY`].
    pub recovered: Option<Duration>,
}

/// Starts ten QEMUs and an exporter, stops one QEMU for `time`, lets it go on.
pub fn stop_one(kind: Kind, folder: &Path, time: Duration) -> Result<Stopped> {
    let hypervisor = Hypervisor::start(folder)?;
    let vms = Vms::qemus(folder, &hypervisor, QEMUS)?;
    let subject = Subject::start(kind, folder, &vms.uri)?;
    let all = || {
        let fresh = subject.scrape().ok()?.vms();
        let is_fresh = |time: &SystemTime| time.elapsed().is_ok_and(|age| age <= FRESH);
        (fresh.len() == QEMUS && fresh.values().all(is_fresh)).then_some(fresh)
    };
    let known = wait_for(60, "all VMs", all).with_context(|| subject.process.words())?;
    let qemu = hypervisor.qemu(&name(STOPPED)).context("no QEMU")?;
    kill_process(qemu, Signal::STOP)?;
    let mut seen = watch(&subject, known, time);
    kill_process(qemu, Signal::CONT)?;
    let went_on = Instant::now();
    let again = wait_for(RECOVERY, "all VMs again", all);
    seen.recovered = again.ok().map(|_| went_on.elapsed());
    Ok(seen)
}

/// Scrapes for `time`; `known` is when figures of each VM were taken last.
fn watch(subject: &Subject, mut known: BTreeMap<String, SystemTime>, time: Duration) -> Stopped {
    let (mut seen, begin, stopped) = (Stopped::default(), Instant::now(), name(STOPPED));
    while begin.elapsed() < time {
        let asked = Instant::now();
        let page = subject.scrape();
        seen.asked += 1;
        seen.slowest = seen.slowest.max(asked.elapsed());
        if let Ok(page) = page {
            let mut shown = page.vms();
            if shown.remove(&stopped).is_some() {
                seen.stopped_shown = begin.elapsed();
            }
            seen.answered += 1;
            seen.fewest = Some(seen.fewest.unwrap_or(QEMUS).min(shown.len()));
            known.extend(shown);
        }
        let others = known.iter().filter(|(vm, _)| **vm != stopped);
        let ages = others.filter_map(|(_, time)| time.elapsed().ok());
        seen.oldest = seen.oldest.max(ages.max().unwrap_or_default());
        std::thread::sleep(SCRAPE_EVERY.saturating_sub(asked.elapsed()));
    }
    seen
}
