//! What an unnamed Consumer accepts (docs/DELIVERY.md, "Coverage"), without any I/O: a message comes in,
//! what is new in it comes out. QoS 1, replays, two hosts around a migration and specifiers that
//! overlap all repeat rows; here each is shown once.
//!
//! ```text
//!               after    cursor   through
//! repetition    ------------|                 through <= cursor: dropped
//! next                      |---------        after == cursor: shown
//! straddling    ------------|---------        raw: samples beyond the cursor; processed: shown
//! missing                   |   ------        (cursor, after] is said to be missing, then shown
//! ```

use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

use vmkpi::delivery::consumer::{Verdict as Connection, judge};
use vmkpi::message::{Body, Event};
use vmkpi::name::{DataPoint, Label};
use vmkpi::position::{Position, RowKey, Seq, StreamId};

/// The most instances remembered. Over it the half that was silent longest is forgotten: a flood of
/// invented VMs costs memory only up to here.
const MAX_INSTANCES: usize = 65_536;
/// The most row keys remembered, oldest forgotten first.
const MAX_KEYS: usize = 131_072;

/// A specifier's match on one VM, in one stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Instance {
    site: Label,
    vm: Label,
    point: DataPoint,
    specifier: Label,
    stream: StreamId,
}

#[derive(Debug)]
struct Cursor {
    at: Position,
    /// When it was last used, counted in messages.
    used: u64,
}

/// Rows (after, through] that no message has accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The last row before them.
    pub after: Seq,
    /// The last of them.
    pub through: Seq,
}

/// What a message turned out to be.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Nothing in it is new.
    Repetition,
    /// It knows another row at the cursor: the store went back in time, and will start a new stream.
    Diverged,
    /// It is new, all of it or what is left of it here.
    New {
        /// Rows before it that never came.
        missing: Option<Missing>,
        /// The message without what was shown before; raw may hold no sample any more.
        event: Box<Event>,
    },
}

/// The cursors of everything seen so far.
#[derive(Debug, Default)]
pub struct Cursors {
    instances: HashMap<Instance, Cursor>,
    shown: Shown,
    messages: u64,
}

impl Cursors {
    /// Takes a message and says what of it is new.
    pub fn accept(&mut self, mut event: Event) -> Verdict {
        self.messages += 1;
        self.make_room();
        let instance = instance_of(&event);
        let cursor = match self.instances.entry(instance) {
            Entry::Vacant(vacant) => vacant.insert(Cursor {
                at: event.after,
                used: 0,
            }),
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        cursor.used = self.messages;
        let at = cursor.at;
        match judge(at, &event) {
            Connection::Accept | Connection::Missing => {}
            Connection::OtherHistory => return Verdict::Diverged,
            Connection::Repetition => {
                // A key that was not known yet is remembered: it tells histories apart.
                if event.through.seq == at.seq && at.key.is_none() {
                    cursor.at.key = event.through.key;
                }
                return Verdict::Repetition;
            }
        }
        cursor.at = event.through;
        // What straddles the cursor connects well enough to be shown: nothing is kept here.
        let missing = (event.after.seq > at.seq).then_some(Missing {
            after: at.seq,
            through: event.after.seq,
        });
        self.drop_shown(&mut event, at.seq);
        Verdict::New {
            missing,
            event: Box::new(event),
        }
    }

    fn drop_shown(&mut self, event: &mut Event, cursor: Seq) {
        let Event {
            site,
            vm,
            point,
            specifier,
            body,
            ..
        } = event;
        if let Body::Raw(samples) = body {
            samples.retain(|s| {
                s.seq > cursor
                    && self
                        .shown
                        .first_time(&(&*site, &*vm, &*point, &*specifier), s.key)
            });
        }
    }

    fn make_room(&mut self) {
        if self.instances.len() < MAX_INSTANCES {
            return;
        }
        let mut used: Vec<u64> = self.instances.values().map(|c| c.used).collect();
        let middle = used.len() / 2;
        let (_, median, _) = used.select_nth_unstable(middle);
        let median = *median;
        self.instances.retain(|_, c| c.used > median);
    }
}

fn instance_of(event: &Event) -> Instance {
    Instance {
        site: event.site.clone(),
        vm: event.vm.clone(),
        point: event.point.clone(),
        specifier: event.specifier.clone(),
        stream: event.stream,
    }
}

/// Which rows were shown, by key: rows that moved into a new stream have new numbers and old keys.
/// Only hashes are kept, by a hash that nobody outside can predict.
#[derive(Debug, Default)]
struct Shown {
    hasher: RandomState,
    hashes: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Shown {
    fn first_time(&mut self, of: &(&Label, &Label, &DataPoint, &Label), key: RowKey) -> bool {
        let hash = self.hasher.hash_one((of, key));
        if !self.hashes.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > MAX_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests;
