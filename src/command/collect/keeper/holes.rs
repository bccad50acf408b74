//! What came behind holes: held in memory until they are filled or given up, as [`vmkpi::delivery::hole`] says.
//! Nothing of it is confirmed meanwhile, so a collect that is killed loses nothing by it.

use std::collections::HashMap;

use vmkpi::clock::Timestamp;
use vmkpi::delivery::consumer::{Verdict, judge};
use vmkpi::delivery::hole::{Hole, Step};
use vmkpi::message::Event;

use super::{Batch, Known, begin};
use crate::command::collect::kept::Instance;

/// Bytes held behind all holes; over it, those of the hole that grew go.
const MAX_BYTES: usize = 64 << 20;
/// Holes that are remembered; behind others nothing is held, and they are not given up.
const MAX_HOLES: usize = 65_536;

/// The holes that are known of.
#[derive(Debug, Default)]
pub(super) struct Holes {
    of: HashMap<Instance, Hole>,
    bytes: usize,
}

/// What a batch found out, for when it is on disk.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Messages that did not connect.
    missing: Vec<(Instance, Event)>,
    /// Where cursors are that holes are known of.
    moved: Vec<(Instance, Known)>,
}

impl Holes {
    /// Takes over what a batch found out. `known` tells where cursors are.
    pub(super) fn take(&mut self, behind: Behind, now: Timestamp) {
        let now_ms = milliseconds(now);
        let cursors: HashMap<_, _> = behind.moved.into_iter().collect();
        for (instance, event) in behind.missing {
            let Some(known) = cursors.get(&instance) else {
                continue;
            };
            if !self.of.contains_key(&instance) && self.of.len() >= MAX_HOLES {
                continue;
            }
            let fresh = || Hole::new(known.through, now_ms);
            let hole = self.of.entry(instance).or_insert_with(fresh);
            let before = hole.bytes();
            hole.hold(event);
            while self.bytes - before + hole.bytes() > MAX_BYTES && hole.drop_oldest() {}
            self.bytes = self.bytes - before + hole.bytes();
        }
        for (instance, known) in cursors {
            let Some(hole) = self.of.get_mut(&instance) else {
                continue;
            };
            let before = hole.bytes();
            let open = hole.settle(known.through, now_ms) || known.seen > known.through.seq;
            self.bytes = self.bytes - before + hole.bytes();
            if !open {
                self.of.remove(&instance);
            }
        }
    }
}

impl Batch<'_> {
    /// Keeps what is held behind a hole, where `event` has filled it, or shows that nobody will.
    pub(super) fn look_behind(
        &mut self,
        instance: &Instance,
        known: &mut Known,
        (event, verdict): (&Event, Verdict),
    ) -> rusqlite::Result<()> {
        if !self.rules.asks || verdict == Verdict::OtherHistory {
            return Ok(());
        }
        let holes = self.holes;
        if let Some(hole) = holes.of.get(instance) {
            let now_ms = milliseconds(self.now);
            let steps = hole.steps(known.through, event.base, now_ms, self.rules.restored);
            let mut steps = steps.into_iter().peekable();
            while let Some(step) = steps.next() {
                match step {
                    Step::Keep(held) => self.accept(known, held)?,
                    Step::GiveUp(through) => {
                        let range = (known.through.seq, through.seq);
                        let next = match steps.peek() {
                            Some(Step::Keep(held)) => held,
                            _ => event,
                        };
                        self.put_gap(known, range, "not_sent", begin(next))?;
                        known.through = through;
                    }
                }
            }
        }
        if verdict == Verdict::Missing && judge(known.through, event) == Verdict::Accept {
            self.accept(known, event)?;
        }
        if verdict == Verdict::Missing && event.through.seq > known.through.seq {
            self.behind.missing.push((instance.clone(), event.clone()));
        }
        if verdict == Verdict::Missing || holes.of.contains_key(instance) {
            self.behind.moved.push((instance.clone(), *known));
        }
        Ok(())
    }
}

/// The clock in milliseconds since 1970. One that is set back or forward makes a gap come later, or after three
/// messages; what a guest keeps for this Consumer is no matter of time.
fn milliseconds(now: Timestamp) -> u64 {
    u64::try_from(now.as_micros() / 1000).unwrap_or(0)
}
