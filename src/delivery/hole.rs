//! What a Consumer that asks does about a hole that nobody fills.
//!
//! A Producer whose descriptor names the Consumer reads again what it asks for; for any other Producer's VM it
//! would ask for ever. It cannot see the descriptor, but it sees what follows from it: `base`, the row through which
//! the guest was acknowledged. A guest is acknowledged through the lowest cursor of all whose word counts, so while
//! this Consumer's word counts, `base` is never beyond its cursor. Where it is, the rows up to it have been
//! acknowledged without this Consumer: no guest keeps them for it. These, and no row beyond, it may give up.
//!
//! It does so only after it has asked for long: a Consumer that has just been named, whose specifier comes back, or
//! whose database is an older one is sent what the guest still has of them.
//!
//! ```text
//! does not connect ──> held, and asked for ──┬── the hole is filled: what is held follows
//!                                            ├── base is not beyond the cursor: asked for, however long it takes
//!                                            └── base is, and it has asked for long: a gap; what is held follows
//! ```

use std::collections::VecDeque;

use super::consumer::{Verdict, judge};
use crate::message::{Body, Event, SampleBody};
use crate::position::Position;

/// How long it asks, in milliseconds: three of a Producer's heartbeats.
pub const PATIENCE_MS: u64 = 180_000;
/// And how many messages have not connected by then: a clock that jumps is no patience.
pub const MIN_ASKED: u32 = 3;
/// Messages behind one hole that are held; over it the oldest goes, and is part of the gap. Ten a second for twice the
/// time that it asks.
pub const MAX_HELD: usize = 4096;
/// The same, in bytes, about.
pub const MAX_HELD_BYTES: usize = 4 << 20;

/// A hole in one instance, and what came behind it.
#[derive(Clone, Debug)]
pub struct Hole {
    /// The cursor that it begins at.
    at: Position,
    /// When that was asked for first.
    since_ms: u64,
    asked: u32,
    /// By their `after`.
    held: VecDeque<Event>,
    bytes: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step<'a> {
    /// Keep this message: it connects, or else what of it is behind the cursor.
    Keep(&'a Event),
    /// Note the rows through this one as a gap: no guest keeps them for this Consumer, and nobody sends them.
    GiveUp(Position),
}

impl Step<'_> {
    /// Where the cursor is then.
    fn end(&self) -> Position {
        match self {
            Self::Keep(event) => event.through,
            Self::GiveUp(through) => *through,
        }
    }
}

impl Hole {
    /// A hole after `cursor`.
    pub fn new(cursor: Position, now_ms: u64) -> Self {
        Self {
            at: cursor,
            since_ms: now_ms,
            asked: 0,
            held: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Holds a message that did not connect, which was answered with `want_from`.
    pub fn hold(&mut self, event: Event) {
        self.asked = self.asked.saturating_add(1);
        let end = |e: &Event| (e.after.seq, e.through.seq);
        let place = self.held.partition_point(|e| end(e) < end(&event));
        if self.held.get(place).is_some_and(|e| end(e) == end(&event)) {
            return;
        }
        self.bytes += size(&event);
        self.held.insert(place, event);
        while self.held.len() > MAX_HELD || self.bytes > MAX_HELD_BYTES {
            self.drop_oldest();
        }
    }

    /// The cursor is there now: what is held of rows before it goes, and patience begins anew if it has moved.
    /// Whether there is still something missing that is known of.
    pub fn settle(&mut self, cursor: Position, now_ms: u64) -> bool {
        if cursor.seq == self.at.seq {
            return !self.held.is_empty();
        }
        let behind = |e: &Event| e.through.seq > cursor.seq;
        self.held.retain(behind);
        self.bytes = self.held.iter().map(size).sum();
        (self.at, self.since_ms, self.asked) = (cursor, now_ms, 0);
        !self.held.is_empty()
    }

    /// What to do where the cursor is, by a message that says `base`, in this order; nothing: wait. `lasting`: what is
    /// missing may come however long it takes, so nothing is given up.
    pub fn steps(
        &self,
        mut cursor: Position,
        base: Position,
        now_ms: u64,
        lasting: bool,
    ) -> Vec<Step<'_>> {
        let gives_up = !lasting && self.is_over(cursor, now_ms);
        let mut steps = Vec::new();
        while let Some(step) = self.next(cursor, base, gives_up) {
            cursor = step.end();
            steps.push(step);
        }
        steps
    }

    fn next(&self, cursor: Position, base: Position, gives_up: bool) -> Option<Step<'_>> {
        let connects = |e: &&Event| judge(cursor, e) == Verdict::Accept;
        if let Some(event) = self.held.iter().find(connects) {
            return Some(Step::Keep(event));
        }
        if !gives_up || base.seq <= cursor.seq {
            return None;
        }
        let straddles = |e: &&Event| e.after.seq < cursor.seq && e.through.seq > cursor.seq;
        if let Some(event) = self.held.iter().find(straddles) {
            return Some(Step::Keep(event));
        }
        let mut beyond = self.held.iter().filter(|e| e.after.seq > cursor.seq);
        let Some(next) = beyond.next() else {
            return Some(Step::GiveUp(base));
        };
        // Rows between `base` and what is held may be kept for this Consumer: they are not given up.
        (next.after.seq <= base.seq).then_some(Step::GiveUp(next.after))
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of the oldest message. Whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        let dropped = self.held.pop_front();
        self.bytes -= dropped.as_ref().map_or(0, size);
        dropped.is_some()
    }

    /// Whether it has asked for long where the cursor is.
    fn is_over(&self, cursor: Position, now_ms: u64) -> bool {
        cursor.seq == self.at.seq
            && self.asked >= MIN_ASKED
            && now_ms.saturating_sub(self.since_ms) >= PATIENCE_MS
    }
}

/// About how many bytes a message takes.
fn size(event: &Event) -> usize {
    const FRAME: usize = 400;
    let data = match &event.body {
        Body::Raw(samples) => samples
            .iter()
            .map(|sample| match &sample.body {
                SampleBody::Values(_) => sample.size_bytes(),
                SampleBody::Data(data) => 110 + data.0.len(),
            })
            .sum(),
        Body::Processed(processed) => 100 * processed.values.len(),
        Body::Gap(reason) => reason.len(),
        Body::Sealed(sealed) => sealed.envelope.len(),
    };
    FRAME + data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::position::{RowKey, StreamId};

    fn at(seq: u64) -> Position {
        Position::new(seq, RowKey(seq))
    }

    fn event(after: u64, through: u64) -> Event {
        Event {
            site: "s".parse().unwrap(),
            vm: "v".parse().unwrap(),
            point: "unencrypted/a".parse().unwrap(),
            specifier: "m".parse().unwrap(),
            revision: "r".into(),
            stream: StreamId(1),
            after: at(after),
            through: at(through),
            base: Position::START,
            time: Timestamp::default(),
            clock_skew_ms: None,
            body: Body::Raw(Vec::new()),
        }
    }

    /// A hole after row 5, asked for by these messages.
    fn hole(held: &[(u64, u64)]) -> Hole {
        let mut hole = Hole::new(at(5), 0);
        for (after, through) in held {
            hole.hold(event(*after, *through));
        }
        hole
    }

    /// Where the cursor is after what is to be done, and how much was given up.
    fn follow(hole: &Hole, (cursor, base): (u64, u64), now_ms: u64) -> (u64, u64) {
        let (mut cursor, mut given_up) = (at(cursor), 0);
        for step in hole.steps(cursor, at(base), now_ms, false) {
            if let Step::GiveUp(through) = step {
                given_up += through.seq - cursor.seq;
            }
            cursor = step.end();
        }
        (cursor.seq, given_up)
    }

    const LONG: u64 = 365 * 86_400_000;

    #[test]
    fn what_a_guest_may_keep_for_the_consumer_is_never_given_up() {
        let hole = hole(&[(8, 9), (9, 10), (12, 13), (13, 14)]);
        for base in 0..=7 {
            assert_eq!(follow(&hole, (5, base), LONG), (5, 0), "base {base}");
        }
        assert_eq!(follow(&hole, (5, 8), LONG), (10, 3), "11 and 12 are kept");
        assert_eq!(follow(&hole, (5, 12), LONG), (14, 5));
        assert_eq!(hole.steps(at(5), at(12), LONG, true), [], "restored");
    }

    #[test]
    fn it_asks_long_and_often_before_it_gives_up() {
        let mut hole = hole(&[(8, 9), (9, 10)]);
        assert_eq!(follow(&hole, (5, 9), LONG), (5, 0), "asked twice");
        hole.hold(event(10, 11));
        assert_eq!(follow(&hole, (5, 9), PATIENCE_MS - 1), (5, 0));
        assert_eq!(follow(&hole, (5, 9), PATIENCE_MS), (11, 3));
        assert_eq!(follow(&hole, (6, 9), LONG), (6, 0), "somebody sends");
        assert!(hole.settle(at(6), PATIENCE_MS));
        assert_eq!(follow(&hole, (6, 9), 2 * PATIENCE_MS), (6, 0));
    }

    #[test]
    fn what_is_held_follows_when_the_hole_is_filled() {
        let mut hole = hole(&[(9, 11), (7, 9), (7, 9), (6, 7)]);
        assert_eq!(follow(&hole, (5, 2), 0), (5, 0));
        assert_eq!(follow(&hole, (7, 2), 0), (11, 0));
        assert!(!hole.settle(at(11), 0));
        assert_eq!(hole.bytes(), 0);
    }

    #[test]
    fn of_a_message_that_straddles_nothing_is_given_up() {
        let hole = hole(&[(3, 9), (3, 9), (9, 10)]);
        assert_eq!(follow(&hole, (5, 10), PATIENCE_MS), (10, 0));
    }

    #[test]
    fn a_producer_that_only_says_where_it_is_ends_a_hole_too() {
        let mut hole = hole(&[(10, 10), (10, 10), (10, 10)]);
        assert_eq!(follow(&hole, (5, 10), PATIENCE_MS), (10, 5));
        while hole.drop_oldest() {}
        assert_eq!(follow(&hole, (5, 8), PATIENCE_MS), (8, 3));
    }

    #[test]
    fn what_is_held_has_a_bound_and_the_oldest_goes() {
        let mut hole = hole(&[]);
        for n in 0..2 * MAX_HELD as u64 {
            hole.hold(event(10 + n, 11 + n));
        }
        assert_eq!(hole.held.len(), MAX_HELD);
        assert_eq!(hole.held[0].after.seq, 10 + MAX_HELD as u64);
        for n in 0..3 {
            let mut large = event(50_000 + n, 50_001 + n);
            large.body = Body::Gap("x".repeat(MAX_HELD_BYTES / 2).into());
            hole.hold(large);
            assert!(hole.bytes() <= MAX_HELD_BYTES);
        }
        assert_eq!(hole.held.len(), 1);
    }
}
