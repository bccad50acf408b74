//! From closed windows to messages: what `when` says of each sample or result, where a message is full,
//! and which rows a message accounts for.

use std::borrow::Cow;
use std::sync::Arc;

use super::instance::{Progress, Scope};
use crate::clock::Timestamp;
use crate::delivery::window::{Closed, Content};
use crate::descriptor::{Format, Monitor};
use crate::message::{Body, Event, MAX_MESSAGE_BYTES, Processed, Sample, SampleBody};
use crate::position::Position;
use crate::value::Value;
use crate::when::Lookup;

/// A sample larger than this, in bytes of JSON, cannot be delivered and becomes a gap. One over
/// [`MAX_MESSAGE_BYTES`] still gets a message of its own.
pub const MAX_SAMPLE_BYTES: usize = 3 << 19;

/// What a message costs a producer besides its samples, in bytes, about.
const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// Why a sample could not be delivered, in a gap's `reason`.
pub(super) const SAMPLE_TOO_LARGE: &str = "sample_too_large";

/// Makes messages of closed windows.
pub(super) fn publish(
    monitor: &Monitor,
    progress: &mut Progress,
    closed: Vec<Closed>,
    base: Position,
    scope: &mut Scope<'_>,
) {
    match monitor.format {
        Format::Raw => publish_raw(monitor, progress, closed, base, scope),
        Format::Processed(_) => {
            for window in closed {
                publish_processed(monitor, progress, window, base, scope);
            }
        }
    }
}

/// Whether the specifier's `when` is true, of the columns that `lookup` knows; what is neither true nor
/// false is counted, and is not.
fn is_wanted(monitor: &Monitor, lookup: &Lookup<'_>, scope: &mut Scope<'_>) -> bool {
    let Some(when) = &monitor.when else {
        return true;
    };
    let verdict = when.holds(lookup);
    scope.counters.when_errors += u64::from(verdict.is_err());
    let wanted = verdict.unwrap_or(false);
    scope.counters.suppressed += u64::from(!wanted);
    wanted
}

fn is_sample_wanted(monitor: &Monitor, sample: &Sample, scope: &mut Scope<'_>) -> bool {
    // Not even a lookup for what has no predicate: most.
    if monitor.when.is_none() {
        return true;
    }
    let lookup = |name: &str| match &sample.body {
        SampleBody::Values(values) => {
            let found = values.iter().find(|(column, _)| *column == name);
            found.map(|(_, value)| Cow::Borrowed(value))
        }
        SampleBody::Data(_) => None,
    };
    is_wanted(monitor, &lookup, scope)
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
    let (mut chunk, mut passed) = (Chunk::default(), None);
    for sample in samples {
        if !is_sample_wanted(monitor, &sample, scope) {
            passed = Some((Position::new(sample.seq, sample.key), sample.time));
            continue;
        }
        let bytes = sample.size_bytes();
        if bytes > MAX_SAMPLE_BYTES {
            chunk.post(monitor, progress, base, scope);
            cover_passed(monitor, progress, passed, base, scope);
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
        post(monitor, range, time, body, chunk.bytes, scope);
        progress.published = through;
    }
    progress.covered = through;
}

/// An empty message for suppressed rows, so that a gap after them names only what is lost.
fn cover_passed(
    monitor: &Monitor,
    progress: &mut Progress,
    passed: Option<(Position, Timestamp)>,
    base: Position,
    scope: &mut Scope<'_>,
) {
    if let Some((through, time)) = passed.filter(|(p, _)| p.seq > progress.published.seq) {
        let range = (progress.published, through, base);
        post(monitor, range, time, Body::Raw(Vec::new()), 0, scope);
        *progress = Progress::at(through);
    }
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
        post(monitor, range, time, Body::Raw(samples), bytes, scope);
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
        monitor,
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
    let lookup = |name: &str| values.get(name).map(|v| Cow::Owned(Value::Real(*v)));
    if !is_wanted(monitor, &lookup, scope) {
        progress.covered = window.through;
        return;
    }
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
    post(monitor, range, window.time, body, bytes, scope);
    *progress = Progress::at(window.through);
}

/// Puts one message into the outbox; `range` is after, through and base.
pub(super) fn post(
    monitor: &Monitor,
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
        specifier: monitor.id.clone(),
        revision: scope.origin.revision.clone(),
        stream: scope.table.stream,
        after,
        through,
        base,
        time,
        clock_skew_ms: scope.clock_skew_ms,
        body,
    };
    let key = scope.origin.primary_key.as_ref();
    let seal_to = key.filter(|_| monitor.seal).map(Arc::clone);
    scope.out.publish(
        scope.table,
        (event, seal_to),
        bytes + MESSAGE_OVERHEAD_BYTES,
    );
}
