//! Takes statistics of every VM at its own pace, on threads of its own: who is asked when is the
//! [`Plan`]'s, how is the [`Asker`]s'. A VM that does not answer costs its own figures and nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vmkpi::clock::Timestamp;

use super::asker::{Asker, Reply, Said};
use super::plan::{MAX_OPEN, Plan, Word};
use super::stats::Kind;
use super::{Domains, LibvirtError, Sampling, Taken, VmStats};

/// How often statistics are taken when no descriptor asks for more: fresh enough for a scrape.
pub const DEFAULT_PACE: Duration = Duration::from_secs(5);

/// How long to sleep at most: whether VMs came or went, and whether to stop, is seen then.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often each VM is to be asked, by UUID.
pub type Intervals = HashMap<Arc<str>, Duration>;

/// How often each VM is asked for statistics; shared between those who want them and the thread that
/// takes them.
#[derive(Clone, Debug)]
pub struct Pace {
    intervals: Arc<Mutex<Arc<Intervals>>>,
    events: Sender<Event>,
}

/// What the sampler wakes up for.
#[derive(Debug)]
enum Event {
    Said(Said),
    /// The pace has changed, or it is time to stop.
    Look,
}

impl Pace {
    fn new(events: Sender<Event>) -> Self {
        Self {
            intervals: Arc::default(),
            events,
        }
    }

    /// Asks for statistics of each VM at its interval, by UUID; at the default where it is longer, and
    /// for all others.
    pub fn set(&self, intervals: Intervals) {
        let mut current = self
            .intervals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if **current != intervals {
            *current = Arc::new(intervals);
            drop(current);
            self.wake();
        }
    }

    fn get(&self) -> Arc<Intervals> {
        Arc::clone(
            &self
                .intervals
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) fn wake(&self) {
        let _ = self.events.send(Event::Look);
    }
}

pub(super) fn start(
    uri: &str,
    domains: watch::Receiver<Arc<Domains>>,
    stop: &Arc<AtomicBool>,
) -> Result<(watch::Receiver<Sampling>, Pace), LibvirtError> {
    let (out, sampling) = watch::channel(Sampling::default());
    let (events, inbox) = channel();
    let pace = Pace::new(events.clone());
    let mut sampler = Sampler {
        uri: uri.to_owned(),
        domains,
        pace: pace.clone(),
        followed: Default::default(),
        plan: Plan::default(),
        askers: Vec::new(),
        free: Vec::new(),
        connecting: false,
        vms: HashMap::new(),
        state: Sampling::default(),
        dirty: false,
        events,
        out,
    };
    let stop = Arc::clone(stop);
    std::thread::Builder::new()
        .name("libvirt-stats".into())
        .spawn(move || sampler.run(&inbox, &stop))?;
    Ok((sampling, pace))
}

struct Sampler {
    uri: String,
    domains: watch::Receiver<Arc<Domains>>,
    pace: Pace,
    /// The domains and intervals that the plan follows.
    followed: (Arc<Domains>, Arc<Intervals>),
    plan: Plan,
    askers: Vec<Asker>,
    free: Vec<usize>,
    /// The youngest of them has not connected yet.
    connecting: bool,
    vms: HashMap<Arc<str>, VmStats>,
    state: Sampling,
    /// Something has changed since it was published last.
    dirty: bool,
    events: Sender<Event>,
    out: watch::Sender<Sampling>,
}

impl Sampler {
    fn run(&mut self, inbox: &Receiver<Event>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.ask();
            if self.dirty && self.plan.is_settled() {
                self.publish();
            }
            let now = Instant::now();
            let due = self.plan.wake().filter(|_| self.domains.borrow().connected);
            let time = due.map_or(LOOK_EVERY, |due| due.saturating_duration_since(now));
            match inbox.recv_timeout(time.min(LOOK_EVERY)) {
                Ok(event) => {
                    for event in std::iter::once(event).chain(inbox.try_iter()) {
                        match event {
                            Event::Said(Said::Ready(asker)) => self.ready(asker),
                            Event::Said(Said::Reply(reply)) => self.take(*reply),
                            Event::Look => {}
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn ask(&mut self) {
        let (now, domains) = (
            Instant::now(),
            Arc::clone(&self.domains.borrow_and_update()),
        );
        let next = |every| now + until_middle(every);
        self.follow(now, &domains, &next);
        let late = self.plan.late_calls;
        self.plan.expire(now);
        if self.plan.late_calls > late {
            tracing::warn!(
                late = self.plan.late(),
                "libvirt took long to give statistics: a domain may hang"
            );
            self.dirty = true;
        }
        if !domains.connected {
            return;
        }
        self.plan.begin(now, &next);
        while let Some(asker) = self.free.pop() {
            let Some(order) = self.plan.next(now) else {
                self.free.push(asker);
                return;
            };
            let call = order.call;
            if !self.askers[asker].ask(order) {
                tracing::error!("nobody can ask libvirt for statistics");
                self.state.failures += 1;
                self.plan.failed(call);
                return;
            }
        }
        if self.plan.has_next() && !self.connecting {
            self.add_asker();
        }
    }

    /// Takes over which VMs there are and their intervals, when either has changed.
    fn follow(&mut self, now: Instant, domains: &Arc<Domains>, next: &dyn Fn(Duration) -> Instant) {
        let intervals = self.pace.get();
        let (known, paced) = &self.followed;
        if Arc::ptr_eq(known, domains) && Arc::ptr_eq(paced, &intervals) {
            return;
        }
        let vms = domains.by_uuid.keys().map(|uuid| {
            let wanted = intervals.get(uuid).copied().unwrap_or(DEFAULT_PACE);
            (uuid, wanted.min(DEFAULT_PACE))
        });
        self.plan.follow(now, vms, next);
        self.vms
            .retain(|uuid, _| domains.by_uuid.contains_key(uuid));
        self.followed = (Arc::clone(domains), intervals);
    }

    /// One more who may be asked once it is connected; one after the other, as a busy libvirt would only be
    /// busier.
    fn add_asker(&mut self) {
        if self.askers.len() >= MAX_OPEN {
            return;
        }
        let (id, events) = (self.askers.len(), self.events.clone());
        match Asker::start(id, &self.uri, move |said| {
            events.send(Event::Said(said)).is_ok()
        }) {
            Ok(asker) => {
                self.askers.push(asker);
                self.connecting = true;
            }
            Err(error) => {
                tracing::error!(%error, "nobody can ask libvirt for statistics");
                self.state.failures += 1;
            }
        }
    }

    fn ready(&mut self, asker: usize) {
        self.connecting &= asker + 1 != self.askers.len();
        self.free.push(asker);
    }

    fn take(&mut self, reply: Reply) {
        self.dirty = true;
        let answers = match reply.result {
            Ok(answers) => answers,
            Err(error) => {
                // The follower says that libvirt does not answer; once is enough.
                tracing::debug!(%error, "no statistics");
                self.state.failures += 1;
                return self.plan.failed(reply.call);
            }
        };
        let words: HashMap<_, _> = answers
            .iter()
            .map(|(uuid, taken)| {
                (
                    Arc::clone(uuid),
                    if taken.is_some() {
                        Word::Whole
                    } else {
                        Word::Part
                    },
                )
            })
            .collect();
        let word = |uuid: &Arc<str>| words.get(uuid).copied().unwrap_or(Word::Gone);
        if !self.plan.answered(reply.call, Instant::now(), word) {
            return;
        }
        for (uuid, taken) in answers {
            if let Some(taken) = taken {
                self.keep(uuid, reply.kind, taken);
            }
        }
    }

    fn keep(&mut self, uuid: Arc<str>, kind: Kind, taken: Taken) {
        self.state.time = Some(taken.time);
        let vm = self.vms.entry(uuid).or_default();
        match kind {
            Kind::Quick => vm.quick = Some(taken),
            Kind::Detailed => {
                self.state.took = taken.asked.elapsed();
                vm.detailed = Some(taken);
            }
        }
    }

    fn publish(&mut self) {
        self.dirty = false;
        for (uuid, vm) in &mut self.vms {
            vm.apart = self.plan.is_apart(uuid);
        }
        self.state.late = self.plan.late();
        self.state.late_calls = self.plan.late_calls;
        self.state.vms = Arc::new(self.vms.clone());
        self.out.send_replace(self.state.clone());
    }
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
    let left = interval - into;
    // The clocks differ a little: what is as good as now was this interval's turn.
    let left = if left < interval / 8 {
        left + interval
    } else {
        left
    };
    Duration::from_micros(u64::try_from(left).unwrap_or_default())
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
            assert!(until_middle(interval) <= interval + interval / 8);
        }
    }
}
