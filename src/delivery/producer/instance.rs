//! One instance: a specifier applied to one table. It makes messages of closed windows, knows what
//! it has published, and keeps a cursor for each Consumer whose word counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Counters;
use super::outbox::Outbox;
use super::repair::Repair;
use crate::clock::Timestamp;
use crate::delivery::window::{Closed, Content, Windower};
use crate::descriptor::{Format, Monitor};
use crate::link::TableId;
use crate::message::{Body, Event, MAX_MESSAGE_BYTES, Processed, Sample};
use crate::name::Label;
use crate::position::{Mark, Position, Seq};

/// A sample larger than this, in bytes of JSON, cannot be delivered and becomes a gap. One over
/// [`MAX_MESSAGE_BYTES`] still gets a message of its own.
pub const MAX_SAMPLE_BYTES: usize = 3 << 19;

/// What a message costs a producer besides its samples, in bytes, about.
const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// Why a sample could not be delivered, in a gap's `reason`.
pub(super) const SAMPLE_TOO_LARGE: &str = "sample_too_large";

/// How long a cursor may stand still before it is repaired unasked, in milliseconds; it doubles up
/// to the second figure, and progress resets it.
const PATIENCE_MS: (u64, u64) = (30_000, 600_000);

/// A silent instance says where it is at least this often, in milliseconds.
const HEARTBEAT_MS: u64 = 60_000;

/// Who publishes: the same for every message of one descriptor.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) site: Label,
    pub(super) vm: Label,
    pub(super) revision: Box<str>,
}

/// What publishing needs to know of the table, and where messages go.
pub(super) struct Scope<'a> {
    pub(super) origin: &'a Origin,
    pub(super) table: &'a TableId,
    pub(super) acked: Mark,
    pub(super) moved: u64,
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
    still_since_ms: u64,
    patience_ms: u64,
    /// Acknowledged messages that do not connect yet: their `after` and `through`.
    loose: BTreeMap<Seq, Position>,
}

impl Cursor {
    fn new(consumer: Option<Label>, start: Position, spoken: bool, now_ms: u64) -> Self {
        Self {
            consumer,
            position: start,
            spoken,
            told: start,
            repair: None,
            still_since_ms: now_ms,
            patience_ms: PATIENCE_MS.0,
            loose: BTreeMap::new(),
        }
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
        if publish(&self.monitor, &mut self.live, closed, base, scope) {
            self.published_ms = scope.now_ms;
        }
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
        let mut live = self.live;
        self.gap(&mut live, through, reason, scope);
        self.live = live;
        self.window = Windower::new(Arc::clone(&self.monitor), through.position(), Some(through));
    }

    /// A silent instance says where it is.
    pub(super) fn heartbeat(&mut self, scope: &mut Scope<'_>) {
        if scope.now_ms.saturating_sub(self.published_ms) >= HEARTBEAT_MS {
            self.published_ms = scope.now_ms;
            let mut live = self.live;
            self.cover(&mut live, scope);
            self.live = live;
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
        post(
            &self.monitor.id,
            (after, through, base),
            time,
            body,
            0,
            scope,
        );
    }
}

/// Makes messages of closed windows. Whether there were any.
fn publish(
    monitor: &Monitor,
    progress: &mut Progress,
    closed: Vec<Closed>,
    base: Position,
    scope: &mut Scope<'_>,
) -> bool {
    if closed.is_empty() {
        return false;
    }
    match monitor.format {
        Format::Raw => publish_raw(monitor, progress, closed, base, scope),
        Format::Processed(_) => {
            for window in closed {
                publish_processed(monitor, progress, window, base, scope);
            }
        }
    }
    true
}

/// Windows closed together go out together, cut where a message is full.
fn publish_raw(
    monitor: &Monitor,
    progress: &mut Progress,
    closed: Vec<Closed>,
    base: Position,
    scope: &mut Scope<'_>,
) {
    let Some((through, time)) = closed.last().map(|c| (c.through, c.time)) else {
        return;
    };
    let samples = closed.into_iter().flat_map(|c| match c.content {
        Content::Raw(samples) => samples,
        Content::Processed(..) => Vec::new(),
    });
    let mut chunk = Chunk::default();
    for sample in samples {
        let bytes = sample.size_bytes();
        if bytes > MAX_SAMPLE_BYTES {
            chunk.post(monitor, progress, base, scope);
            lose_sample(monitor, progress, &sample, base, scope);
            continue;
        }
        if chunk.bytes + bytes > MAX_MESSAGE_BYTES {
            chunk.post(monitor, progress, base, scope);
        }
        chunk.bytes += bytes;
        chunk.samples.push(sample);
    }
    if !chunk.samples.is_empty() {
        scope.counters.samples += chunk.samples.len() as u64;
        let body = Body::Raw(chunk.samples);
        let range = (progress.published, through, base);
        post(&monitor.id, range, time, body, chunk.bytes, scope);
        progress.published = through;
    }
    progress.covered = through;
}

/// Samples on their way into one message.
#[derive(Default)]
struct Chunk {
    samples: Vec<Sample>,
    bytes: usize,
}

impl Chunk {
    /// Publishes what is there through its last sample.
    fn post(
        &mut self,
        monitor: &Monitor,
        progress: &mut Progress,
        base: Position,
        scope: &mut Scope<'_>,
    ) {
        let samples = std::mem::take(&mut self.samples);
        let bytes = std::mem::take(&mut self.bytes);
        let Some(last) = samples.last() else { return };
        let (through, time) = (Position::new(last.seq, last.key), last.time);
        scope.counters.samples += samples.len() as u64;
        let range = (progress.published, through, base);
        post(&monitor.id, range, time, Body::Raw(samples), bytes, scope);
        *progress = Progress::at(through);
    }
}

fn lose_sample(
    monitor: &Monitor,
    progress: &mut Progress,
    sample: &Sample,
    base: Position,
    scope: &mut Scope<'_>,
) {
    scope.counters.gaps += 1;
    let through = Position::new(sample.seq, sample.key);
    let body = Body::Gap(SAMPLE_TOO_LARGE.into());
    post(
        &monitor.id,
        (progress.published, through, base),
        sample.time,
        body,
        0,
        scope,
    );
    *progress = Progress::at(through);
}

fn publish_processed(
    monitor: &Monitor,
    progress: &mut Progress,
    window: Closed,
    base: Position,
    scope: &mut Scope<'_>,
) {
    let Content::Processed(aggregate, from, to) = window.content else {
        return;
    };
    let (values, count) = aggregate.result();
    let bytes = 100 * values.len();
    let body = Body::Processed(Processed {
        function: aggregate.function().as_str().into(),
        from,
        to,
        values,
        count,
        rows_after: window.after.seq,
        rows_after_key: window.after.key,
        partial: window.partial,
        forked: window.first <= scope.moved,
    });
    scope.counters.samples += 1;
    let range = (progress.published, window.through, base);
    post(&monitor.id, range, window.time, body, bytes, scope);
    *progress = Progress::at(window.through);
}

/// Puts one message into the outbox; `range` is after, through and base.
fn post(
    specifier: &Label,
    (after, through, base): (Position, Position, Position),
    time: Timestamp,
    body: Body,
    bytes: usize,
    scope: &mut Scope<'_>,
) {
    scope.counters.messages += 1;
    let event = Event {
        site: scope.origin.site.clone(),
        vm: scope.origin.vm.clone(),
        point: scope.table.point.clone(),
        specifier: specifier.clone(),
        revision: scope.origin.revision.clone(),
        stream: scope.table.stream,
        after,
        through,
        base,
        time,
        body,
    };
    scope
        .out
        .publish(scope.table, event, bytes + MESSAGE_OVERHEAD_BYTES);
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
