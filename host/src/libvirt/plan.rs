//! Whom to ask for statistics, when, and what to make of silence. Pure: no thread, no libvirt.
//!
//! ```text
//!              in time, whole                    in time, whole
//!            ┌────────────────┐              ┌──────────────────────┐
//!            v                │              v                      │
//!          fine ── asked in bulk ── late ──> asked by itself ── late, or not whole ──> set apart
//!            ^                                                                            │
//!            └────────────── whole, when asked by itself after a pause (doubling) ────────┘
//! ```
//! A bulk call that is late says that one of its VMs hangs, and not which: each is then asked by itself,
//! side by side. Calls that are late are not waited for; how many there may be is bounded, as each
//! holds one of libvirtd's own workers (20 by default).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asker::{CallId, Order};
use super::stats::Kind;

/// VMs asked in one call: it takes about 5 ms for each that is a QEMU.
const BULK: usize = 25;
/// Calls for detailed figures that are under way and not late.
const MAX_UNDER_WAY: usize = 4;
/// Calls that are late, before no more VM is asked by itself. A VM that hangs holds one: whoever got
/// its job first; the others come back with less.
const MAX_LATE: usize = 10;
/// All calls that may be open at once; with the quick ones it is how many askers there can be.
pub(super) const MAX_OPEN: usize = MAX_UNDER_WAY + MAX_LATE + 1;
/// A call may always take this long, and no call longer than [`LONGEST`] and its share for each VM.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(2);
/// What each VM adds.
const EACH: Duration = Duration::from_millis(5);
/// How long a VM that was set apart is left alone first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

#[derive(Debug)]
struct Vm {
    every: Duration,
    due: Instant,
    /// In the queue, or in a call that is not late.
    waits: bool,
    apart: Option<Apart>,
}

/// A VM that did not answer.
#[derive(Clone, Copy, Debug)]
struct Apart {
    due: Instant,
    tries: u32,
}

#[derive(Debug)]
struct Call {
    kind: Kind,
    vms: Vec<Arc<str>>,
    deadline: Instant,
    late: bool,
}

/// What an answer says of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// All its figures.
    Whole,
    /// Less, as somebody else holds its job.
    Part,
    /// Nothing: it is gone.
    Gone,
}

/// Who is asked when.
#[derive(Debug, Default)]
pub(super) struct Plan {
    vms: HashMap<Arc<str>, Vm>,
    calls: BTreeMap<CallId, Call>,
    queue: VecDeque<(Kind, Vec<Arc<str>>)>,
    last_call: CallId,
    /// Calls that were late, ever.
    pub late_calls: u64,
}

impl Plan {
    /// Takes over which VMs there are and how often each is asked. A new one is asked at once. `next`
    /// says when an interval's next time is.
    pub fn follow<'a>(
        &mut self,
        now: Instant,
        vms: impl Iterator<Item = (&'a Arc<str>, Duration)>,
        next: &dyn Fn(Duration) -> Instant,
    ) {
        let mut before = std::mem::take(&mut self.vms);
        for (uuid, every) in vms {
            let vm = match before.remove(uuid) {
                Some(vm) if vm.every == every => vm,
                Some(vm) => Vm {
                    every,
                    due: vm.due.min(next(every)),
                    ..vm
                },
                None => Vm {
                    every,
                    due: now,
                    waits: false,
                    apart: None,
                },
            };
            self.vms.insert(Arc::clone(uuid), vm);
        }
    }

    /// Puts everybody who is due into the queue.
    pub fn begin(&mut self, now: Instant, next: &dyn Fn(Duration) -> Instant) {
        let (mut quick, mut bulk) = (Vec::new(), Vec::new());
        let mut times = HashMap::new();
        for (uuid, vm) in &mut self.vms {
            if vm.due <= now {
                vm.due = *times.entry(vm.every).or_insert_with(|| next(vm.every));
                quick.push(Arc::clone(uuid));
                if !vm.waits && vm.apart.is_none() {
                    vm.waits = true;
                    bulk.push(Arc::clone(uuid));
                }
            }
            if !vm.waits
                && vm.apart.is_some_and(|apart| apart.due <= now)
                && !is_alone(&self.calls, uuid)
            {
                vm.waits = true;
                self.queue
                    .push_back((Kind::Detailed, vec![Arc::clone(uuid)]));
            }
        }
        let quick_open = self.calls.values().any(|c| c.kind == Kind::Quick);
        if !quick.is_empty() && !quick_open {
            self.queue.push_front((Kind::Quick, quick));
        }
        for chunk in bulk.chunks(BULK) {
            self.queue.push_back((Kind::Detailed, chunk.to_vec()));
        }
    }

    /// Where in the queue the next call is, if there may be one.
    fn next_at(&self) -> Option<usize> {
        let late = self.late();
        let open = self.calls.values().filter(|c| c.kind == Kind::Detailed);
        let room = open.count() - late < MAX_UNDER_WAY && late < MAX_OPEN - 1;
        let may = |kind: &Kind, vms: &Vec<Arc<str>>| {
            *kind == Kind::Quick || (room && (vms.len() > 1 || late < MAX_LATE))
        };
        self.queue.iter().position(|(kind, vms)| may(kind, vms))
    }

    /// Whether there is a call to make.
    pub fn has_next(&self) -> bool {
        self.next_at().is_some()
    }

    /// The next call to make, if there may be one.
    pub fn next(&mut self, now: Instant) -> Option<Order> {
        let (kind, mut vms) = self.queue.remove(self.next_at()?)?;
        vms.retain(|uuid| self.vms.contains_key(uuid));
        self.last_call += 1;
        let every = vms
            .iter()
            .filter_map(|uuid| Some(self.vms.get(uuid)?.every));
        let patience = (every.min().unwrap_or(LONGEST) / 4).clamp(SHORTEST, LONGEST);
        let share = EACH * u32::try_from(vms.len()).unwrap_or(u32::MAX);
        let call = Call {
            kind,
            vms: vms.clone(),
            deadline: now + patience + share,
            late: false,
        };
        self.calls.insert(self.last_call, call);
        Some(Order {
            call: self.last_call,
            kind,
            vms,
        })
    }

    /// Gives up waiting for calls that are late; their VMs are asked one by one, or set apart.
    pub fn expire(&mut self, now: Instant) {
        let late = |c: &Call| !c.late && c.deadline <= now;
        let mut suspects = Vec::new();
        for call in self.calls.values_mut().filter(|c| late(c)) {
            call.late = true;
            self.late_calls += 1;
            if call.kind == Kind::Detailed {
                suspects.push(call.vms.clone());
            }
        }
        for vms in suspects {
            match &vms[..] {
                [alone] => self.set_apart(alone, now),
                _ => {
                    let each = vms.into_iter().map(|uuid| (Kind::Detailed, vec![uuid]));
                    each.for_each(|one| self.queue.push_front(one));
                }
            }
        }
    }

    /// Takes an answer, however late. `word` says what it holds of a VM. Returns whether its figures
    /// are to be used: those that came late in bulk are not, as nobody knows which waited for which.
    pub fn answered(&mut self, id: CallId, now: Instant, word: impl Fn(&Arc<str>) -> Word) -> bool {
        let Some(call) = self.calls.remove(&id) else {
            return false;
        };
        if call.kind == Kind::Quick {
            return true;
        }
        let late_bulk = call.late && call.vms.len() > 1;
        for uuid in &call.vms {
            let Some(vm) = self.vms.get_mut(uuid) else {
                continue;
            };
            if late_bulk {
                // Something moved: perhaps the one that hung.
                vm.apart = vm.apart.map(|apart| Apart { due: now, ..apart });
                continue;
            }
            vm.waits = false;
            match word(uuid) {
                Word::Part => self.set_apart(uuid, now),
                Word::Whole | Word::Gone => vm.apart = None,
            }
        }
        !late_bulk
    }

    /// A call failed: its VMs are asked again when they are due.
    pub fn failed(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        for uuid in call.vms.iter().filter(|_| call.kind == Kind::Detailed) {
            if let Some(vm) = self.vms.get_mut(uuid) {
                vm.waits = false;
            }
        }
    }

    fn set_apart(&mut self, uuid: &Arc<str>, now: Instant) {
        let Some(vm) = self.vms.get_mut(uuid) else {
            return;
        };
        let tries = vm.apart.map_or(0, |apart| apart.tries);
        let pause = PAUSE.0.saturating_mul(1 << tries.min(16)).min(PAUSE.1);
        vm.waits = false;
        vm.apart = Some(Apart {
            due: now + pause,
            tries: tries + 1,
        });
    }

    /// Whether the VM has been set apart.
    pub fn is_apart(&self, uuid: &str) -> bool {
        self.vms.get(uuid).is_some_and(|vm| vm.apart.is_some())
    }

    /// Calls that are late and have not returned.
    pub fn late(&self) -> usize {
        self.calls
            .values()
            .filter(|c| c.late && c.kind == Kind::Detailed)
            .count()
    }

    /// When something is to be done next, if nobody answers.
    pub fn wake(&self) -> Option<Instant> {
        let due = self.vms.values().map(|vm| vm.due);
        let apart = self
            .vms
            .iter()
            .filter(|(uuid, vm)| !vm.waits && !is_alone(&self.calls, uuid));
        let apart = apart.filter_map(|(_, vm)| Some(vm.apart?.due));
        let deadlines = self.calls.values().filter(|c| !c.late).map(|c| c.deadline);
        due.chain(apart).chain(deadlines).min()
    }

    /// Whether every answer that can be expected soon is there.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.calls.values().all(|c| c.late)
    }
}

/// Whether a call for this VM alone is open: another would only hang beside it.
fn is_alone(calls: &BTreeMap<CallId, Call>, uuid: &Arc<str>) -> bool {
    let mut calls = calls.values().filter(|c| c.kind == Kind::Detailed);
    calls.any(|c| matches!(&c.vms[..], [one] if one == uuid))
}

#[cfg(test)]
mod tests;
