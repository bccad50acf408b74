//! Takes bulk statistics at the pace that is asked for, on a thread of its own: a domain that does not
//! answer holds up this thread, and how old the figures are shows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use virt::connect::Connect;
use vmkpi::clock::Timestamp;

use super::figures::{Figures, Param};
use super::{LibvirtError, RECONNECT_EVERY, Sampling, Stats, connect, stats};

/// How often statistics are taken when no descriptor asks for more: fresh enough for a scrape.
pub const DEFAULT_PACE: Duration = Duration::from_secs(5);

/// A call that takes longer is said.
const SLOW_CALL: Duration = Duration::from_secs(5);

/// How often statistics are taken; shared between those who want them and the thread that takes them.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<(Mutex<Option<Duration>>, Condvar)>);

impl Pace {
    /// Asks for statistics each `interval`; the default where it is longer, or `None`.
    pub fn set(&self, interval: Option<Duration>) {
        let mut current = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != interval {
            *current = interval;
            self.0.1.notify_all();
        }
    }

    /// How often statistics are taken.
    pub fn get(&self) -> Duration {
        let current = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.unwrap_or(DEFAULT_PACE).min(DEFAULT_PACE)
    }

    pub(super) fn wake(&self) {
        self.0.1.notify_all();
    }

    /// Waits for `time`, or until the pace changes.
    fn wait(&self, time: Duration) {
        let current = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_timeout(current, time));
    }
}

pub(super) fn start(
    uri: &str,
    pace: &Pace,
    stop: &Arc<AtomicBool>,
) -> Result<watch::Receiver<Sampling>, LibvirtError> {
    let (out, sampling) = watch::channel(Sampling::default());
    let (uri, pace, stop) = (uri.to_owned(), pace.clone(), Arc::clone(stop));
    std::thread::Builder::new()
        .name("libvirt-stats".into())
        .spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // The follower says that libvirt does not answer; once is enough.
                if let Err(error) = session(&uri, &pace, &stop, &out) {
                    tracing::debug!(%error, "no statistics");
                    out.send_modify(|sampling| sampling.failures += 1);
                    pace.wait(RECONNECT_EVERY);
                }
            }
        })?;
    Ok(sampling)
}

fn session(
    uri: &str,
    pace: &Pace,
    stop: &AtomicBool,
    out: &watch::Sender<Sampling>,
) -> Result<(), LibvirtError> {
    let connection = connect(uri)?;
    let test_driver = connection.driver_type()?.eq_ignore_ascii_case("test");
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now < due {
            pace.wait((due - now).min(until_middle(pace.get())));
            due = due.min(Instant::now() + until_middle(pace.get()));
            continue;
        }
        let stats = take(&connection, test_driver)?;
        if stats.took > SLOW_CALL {
            tracing::warn!(took = ?stats.took, "libvirt took long to give statistics: a domain may hang");
        }
        out.send_modify(|sampling| sampling.last = Some(Arc::new(stats)));
        due = Instant::now() + until_middle(pace.get());
    }
    Ok(())
}

/// How long until the middle of the next sampling interval. Intervals are [k·i, (k+1)·i) since 1970;
/// whoever samples in their middle may be early or late by nearly half of one and still has exactly
/// one sample in each.
fn until_middle(interval: Duration) -> Duration {
    let interval = i64::try_from(interval.as_micros())
        .unwrap_or(i64::MAX)
        .max(1);
    let half = interval / 2;
    let into = (Timestamp::now().as_micros() + half).rem_euclid(interval);
    Duration::from_micros(u64::try_from(interval - into).unwrap_or_default().max(1000))
}

fn take(connection: &Connect, test_driver: bool) -> Result<Stats, LibvirtError> {
    let before = Instant::now();
    let mut found = stats::collect(connection)?;
    if test_driver {
        for (uuid, figures) in &mut found {
            add_info(connection, uuid, figures);
        }
    }
    Ok(Stats {
        time: Timestamp::now(),
        at: Instant::now(),
        took: before.elapsed(),
        by_uuid: found.into_iter().map(|(u, f)| (u, Arc::new(f))).collect(),
    })
}

/// The test driver's bulk statistics know only the state (libvirt 9); its virDomainGetInfo knows
/// more. Only there: of a domain that hangs the call would not return.
fn add_info(connection: &Connect, uuid: &str, figures: &mut Figures) {
    if figures.is_detailed() {
        return;
    }
    let info = connection
        .lookup_domain_by_uuid_string(uuid)
        .and_then(|domain| domain.info());
    let Ok(info) = info else { return };
    figures.set("cpu.time", Param::Number(info.cpu_time));
    figures.set("vcpu.current", Param::Number(info.nr_virt_cpu.into()));
    figures.set("balloon.current", Param::Number(info.memory));
    figures.set("balloon.maximum", Param::Number(info.max_mem));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_sample_is_in_the_middle_of_an_interval() {
        for ms in [100, 1000, 5000] {
            let interval = Duration::from_millis(ms);
            let at = Timestamp::now().as_micros()
                + i64::try_from(until_middle(interval).as_micros()).unwrap();
            let micros = i64::try_from(interval.as_micros()).unwrap();
            let off = (at % micros - micros / 2).abs();
            assert!(off < micros / 4, "{off} us from the middle of {ms} ms");
            assert!(until_middle(interval) <= interval + Duration::from_millis(1));
        }
    }

    #[test]
    fn a_pace_is_never_slower_than_the_default() {
        let pace = Pace::default();
        assert_eq!(pace.get(), DEFAULT_PACE);
        pace.set(Some(Duration::from_secs(60)));
        assert_eq!(pace.get(), DEFAULT_PACE);
        pace.set(Some(Duration::from_millis(100)));
        assert_eq!(pace.get(), Duration::from_millis(100));
    }
}
