//! One instance: a specifier applied to one table. It makes messages of closed windows, knows what
//! it has published, and keeps a cursor for each Consumer whose word counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::outbox::Outbox;
use super::publish::{post, publish};
use super::repair::Repair;
use super::{Confirmation, Counters};
use crate::clock::Timestamp;
use crate::delivery::window::{Closed, Windower};
use crate::descriptor::Monitor;
use crate::link::TableId;
use crate::message::Body;
use crate::name::Label;
use crate::position::{Mark, Position, Seq};

/// How long a cursor may stand still before it is repaired unasked, in milliseconds; it doubles up
/// to the second figure, and progress resets it.
const PATIENCE_MS: (u64, u64) = (30_000, 600_000);

/// A silent instance says where it is at least this often, in milliseconds.
const HEARTBEAT_MS: u64 = 60_000;

/// Rows that `when` suppressed are covered by an empty message after this time at the latest, in
/// milliseconds: until then the guest keeps them.
const COVER_MS: u64 = 10_000;

/// Or when there are so many of them.
const MAX_UNCOVERED_ROWS: Seq = 1500;

/// Who publishes: the same for every message of one descriptor.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) site: Label,
    pub(super) vm: Label,
    pub(super) revision: Box<str>,
    /// The primary site's key, for what is sealed.
    pub(super) primary_key: Option<Arc<str>>,
}

/// What publishing needs to know of the table, and where messages go.
pub(super) struct Scope<'a> {
    pub(super) origin: &'a Origin,
    pub(super) table: &'a TableId,
    pub(super) acked: Mark,
    pub(super) moved: u64,
    pub(super) clock_skew_ms: Option<i32>,
    pub(super) now_ms: u64,
    pub(super) out: &'a mut Outbox,
    pub(super) counters: &'a mut Counters,
}

/// How far messages have got: the live ones, or those of a repair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The last message's `through`.
    pub(super) published: Position,
    /// Every row through here is accounted for, or would be by an empty message.
    pub(super) covered: Position,
}

impl Progress {
    pub(super) fn at(position: Position) -> Self {
        Self {
            published: position,
            covered: position,
        }
    }

    /// Rows accounted for in no message yet.
    pub(super) fn uncovered(&self) -> Seq {
        self.covered.seq.saturating_sub(self.published.seq)
    }
}

/// What one Consumer (or, without a name, the broker's PUBACK) has of an instance.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    pub(super) consumer: Option<Label>,
    /// Contiguously confirmed through here.
    pub(super) position: Position,
    /// Whether the Consumer has confirmed anything: before, it holds back acknowledgements.
    pub(super) spoken: bool,
    /// Its latest word, even a lower one; it steers repair.
    pub(super) told: Position,
    pub(super) repair: Option<Repair>,
    /// When it said so, by its own number.
    issued: u64,
    still_since_ms: u64,
    patience_ms: u64,
    /// Acknowledged messages that do not connect yet: their `after` and `through`.
    loose: BTreeMap<Seq, Position>,
}

/// What a confirmation has changed.
pub(super) struct Said {
    /// The cursor.
    pub(super) new: bool,
    /// The Consumer's own, which may have gone back.
    pub(super) moved: bool,
}

impl Cursor {
    fn new(consumer: Option<Label>, start: Position, spoken: bool, now_ms: u64) -> Self {
        Self {
            consumer,
            position: start,
            spoken,
            told: start,
            repair: None,
            issued: 0,
            still_since_ms: now_ms,
            patience_ms: PATIENCE_MS.0,
            loose: BTreeMap::new(),
        }
    }

    /// Takes its Consumer's word; `None`: it is no newer than the last.
    pub(super) fn hear(&mut self, confirmation: &Confirmation, now_ms: u64) -> Option<Said> {
        if confirmation.issued <= self.issued {
            return None;
        }
        self.issued = confirmation.issued;
        let through = confirmation.through;
        // A new instance's Consumer has spoken also when it says no more than where it began.
        let first_word = !self.spoken && through.seq == self.position.seq;
        let new = through.seq > self.position.seq || first_word;
        let moved = through.seq != self.told.seq;
        self.told = through;
        if new {
            self.advance(through, now_ms);
        }
        Some(Said { new, moved })
    }

    pub(super) fn advance(&mut self, position: Position, now_ms: u64) {
        self.position = position;
        self.spoken = true;
        self.progressed(now_ms);
    }

    fn progressed(&mut self, now_ms: u64) {
        (self.still_since_ms, self.patience_ms) = (now_ms, PATIENCE_MS.0);
    }

    /// The broker has acknowledged (after, through]. Whether the cursor has moved.
    pub(super) fn puback(&mut self, after: Position, through: Position, now_ms: u64) -> bool {
        if through.seq > self.position.seq {
            let known = self.loose.entry(after.seq).or_insert(through);
            if known.seq < through.seq {
                *known = through;
            }
        }
        let before = self.position.seq;
        while let Some(entry) = self.loose.first_entry() {
            if *entry.key() > self.position.seq {
                break;
            }
            let through = entry.remove();
            if through.seq > self.position.seq {
                self.advance(through, now_ms);
                self.told = through;
            }
        }
        self.position.seq > before
    }

    /// Whether the cursor has stood still for too long; asks once for each stretch of patience.
    pub(super) fn out_of_patience(&mut self, published: Seq, now_ms: u64) -> bool {
        if self.consumer.is_none() || self.position.seq >= published {
            self.still_since_ms = now_ms;
            return false;
        }
        if now_ms.saturating_sub(self.still_since_ms) < self.patience_ms {
            return false;
        }
        self.still_since_ms = now_ms;
        self.patience_ms = (2 * self.patience_ms).min(PATIENCE_MS.1);
        true
    }
}

/// A specifier applied to one table.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) monitor: Arc<Monitor>,
    pub(super) window: Windower,
    pub(super) live: Progress,
    pub(super) cursors: Vec<Cursor>,
    begin: Position,
    published_ms: u64,
}

impl Instance {
    /// Begins after `start`, whose row is known where it is the acknowledged one.
    pub(super) fn new(
        monitor: Arc<Monitor>,
        start: Position,
        acked: Mark,
        consumers: &[Option<Label>],
        now_ms: u64,
    ) -> Self {
        let spoken = start.seq <= acked.seq;
        let cursors = consumers
            .iter()
            .map(|c| Cursor::new(c.clone(), start, spoken, now_ms));
        Self {
            window: Windower::new(Arc::clone(&monitor), start, Some(acked)),
            cursors: cursors.collect(),
            monitor,
            live: Progress::at(start),
            begin: start,
            published_ms: now_ms,
        }
    }

    /// Which cursor is this Consumer's.
    pub(super) fn cursor_of(&self, consumer: &Label) -> Option<usize> {
        let by = |cursor: &Cursor| cursor.consumer.as_ref() == Some(consumer);
        self.cursors.iter().position(by)
    }

    /// Others acknowledge from now on; who is new begins at `acked`. Whether rows must be read again: the
    /// broker's word on what was published before did not count.
    pub(super) fn heed(&mut self, consumers: &[Option<Label>], acked: Mark, now_ms: u64) -> bool {
        let mut before = std::mem::take(&mut self.cursors);
        for consumer in consumers {
            let known = before.iter().position(|c| c.consumer == *consumer);
            self.cursors.push(match known {
                Some(at) => before.swap_remove(at),
                None => Cursor::new(consumer.clone(), acked.position(), true, now_ms),
            });
        }
        let anew = self.cursors.iter().any(|c| c.consumer.is_none());
        if anew {
            self.window = Windower::new(Arc::clone(&self.monitor), acked.position(), Some(acked));
            self.live = Progress::at(acked.position());
        }
        anew
    }

    /// Takes over a changed specifier: windows begin anew after what is published.
    pub(super) fn respecify(&mut self, monitor: Arc<Monitor>, acked: Mark) {
        self.window = Windower::new(Arc::clone(&monitor), self.live.published, Some(acked));
        self.live.covered = self.live.published;
        self.monitor = monitor;
        for cursor in &mut self.cursors {
            cursor.repair = None;
        }
    }

    /// The guest is acknowledged through `acked`: whoever is behind goes on there.
    pub(super) fn skip_to(&mut self, acked: Mark) {
        for cursor in &mut self.cursors {
            if cursor.position.seq < acked.seq {
                (cursor.position, cursor.spoken) = (acked.position(), true);
            }
        }
        if self.window.fed() < acked.seq {
            self.window = Windower::new(Arc::clone(&self.monitor), acked.position(), Some(acked));
            if self.live.published.seq < acked.seq {
                self.live = Progress::at(acked.position());
            }
            self.live.covered = self.live.published;
            for cursor in &mut self.cursors {
                cursor.repair = None;
            }
        }
    }

    /// Publishes closed windows of the live rows.
    pub(super) fn publish_live(&mut self, closed: Vec<Closed>, scope: &mut Scope<'_>) {
        let base = self.base(scope.acked);
        let before = scope.counters.messages;
        publish(&self.monitor, &mut self.live, closed, base, scope);
        if scope.counters.messages > before {
            self.published_ms = scope.now_ms;
        }
        if self.live.uncovered() > MAX_UNCOVERED_ROWS {
            self.cover_live(scope);
        }
    }

    pub(super) fn cover_live(&mut self, scope: &mut Scope<'_>) {
        self.published_ms = scope.now_ms;
        let mut live = self.live;
        self.cover(&mut live, scope);
        self.live = live;
    }

    /// Publishes closed windows of a repair.
    pub(super) fn publish_repair(
        &self,
        progress: &mut Progress,
        closed: Vec<Closed>,
        scope: &mut Scope<'_>,
    ) {
        let base = self.base(scope.acked);
        publish(&self.monitor, progress, closed, base, scope);
    }

    /// An empty message for rows that had none.
    pub(super) fn cover(&self, progress: &mut Progress, scope: &mut Scope<'_>) {
        let (after, through) = (progress.published, progress.covered);
        let time = scope.acked.time;
        self.message(after, through, time, Body::Raw(Vec::new()), scope);
        progress.published = through;
    }

    /// Announces that the rows through `through` are lost.
    pub(super) fn gap(
        &self,
        progress: &mut Progress,
        through: Mark,
        reason: &str,
        scope: &mut Scope<'_>,
    ) {
        scope.counters.gaps += 1;
        let body = Body::Gap(reason.into());
        self.message(
            progress.published,
            through.position(),
            through.time,
            body,
            scope,
        );
        *progress = Progress::at(through.position());
    }

    /// Live rows through `through` are lost.
    pub(super) fn lose(&mut self, through: Mark, reason: &str, scope: &mut Scope<'_>) {
        let mut closed = Vec::new();
        self.window.close(&mut closed);
        self.publish_live(closed, scope);
        if self.live.uncovered() > 0 {
            self.cover_live(scope);
        }
        let mut live = self.live;
        self.gap(&mut live, through, reason, scope);
        self.live = live;
        self.window = Windower::new(Arc::clone(&self.monitor), through.position(), Some(through));
    }

    /// The rows of the open window are lost, as it holds too much. Whether there was one.
    pub(super) fn lose_open(&mut self, reason: &str, scope: &mut Scope<'_>) -> bool {
        let Some(through) = self.window.open_end() else {
            return false;
        };
        if self.live.uncovered() > 0 {
            self.cover_live(scope);
        }
        let mut live = self.live;
        self.gap(&mut live, through, reason, scope);
        self.live = live;
        self.window = Windower::new(Arc::clone(&self.monitor), through.position(), Some(through));
        true
    }

    /// Whether a named Consumer has not confirmed all that was published.
    pub(super) fn awaits_confirmation(&self) -> bool {
        let published = self.live.published.seq;
        let behind = |c: &Cursor| !c.spoken || c.position.seq < published;
        let mut named = self.cursors.iter().filter(|c| c.consumer.is_some());
        named.any(behind)
    }

    /// A silent instance says where it is.
    pub(super) fn heartbeat(&mut self, scope: &mut Scope<'_>) {
        let due_ms = match self.live.uncovered() {
            0 => HEARTBEAT_MS,
            _ => COVER_MS,
        };
        if scope.now_ms.saturating_sub(self.published_ms) >= due_ms {
            self.cover_live(scope);
        }
    }

    fn base(&self, acked: Mark) -> Position {
        if self.begin.seq > acked.seq {
            self.begin
        } else {
            acked.position()
        }
    }

    fn message(
        &self,
        after: Position,
        through: Position,
        time: Timestamp,
        body: Body,
        scope: &mut Scope<'_>,
    ) {
        let base = self.base(scope.acked);
        post(&self.monitor, (after, through, base), time, body, 0, scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::RowKey;

    #[test]
    fn pubacks_out_of_order_advance_only_what_connects() {
        let at = |seq| Position::new(seq, RowKey(seq));
        let mut cursor = Cursor::new(None, Position::START, true, 0);
        assert!(
            !cursor.puback(at(5), at(9), 0),
            "1 to 5 are not acknowledged"
        );
        assert!(!cursor.puback(at(9), at(12), 0));
        assert_eq!(cursor.position.seq, 0);
        assert!(cursor.puback(Position::START, at(5), 0));
        assert_eq!(cursor.position, at(12));
        assert!(!cursor.puback(at(5), at(9), 0), "again");
        assert!(cursor.loose.is_empty());
    }

    #[test]
    fn patience_doubles_and_progress_resets_it() {
        let mut cursor = Cursor::new(Some("c".parse().unwrap()), Position::START, true, 0);
        assert!(!cursor.out_of_patience(5, 29_999));
        assert!(cursor.out_of_patience(5, 30_000));
        assert!(!cursor.out_of_patience(5, 89_999));
        assert!(cursor.out_of_patience(5, 90_000));
        cursor.advance(Position::new(3, RowKey(3)), 100_000);
        assert!(cursor.out_of_patience(5, 130_000));
        assert!(!cursor.out_of_patience(3, 900_000), "nothing is missing");
    }
}
