//! What came of messages: how far each instance is on disk, and how many were what.

use std::collections::BTreeMap;

use vmkpi::confirm::Confirmed;
use vmkpi::message::Event;
use vmkpi::name::{DataPoint, Label};
use vmkpi::position::{Position, StreamId};

/// A specifier's match on one VM, in one stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The primary site.
    pub site: Label,
    /// The VM.
    pub vm: Label,
    /// The stream.
    pub stream: StreamId,
    /// The data point.
    pub point: DataPoint,
    /// The specifier's id.
    pub specifier: Label,
}

impl Instance {
    /// The one that a message is of.
    pub fn of(event: &Event) -> Self {
        Self {
            site: event.site.clone(),
            vm: event.vm.clone(),
            stream: event.stream,
            point: event.point.clone(),
            specifier: event.specifier.clone(),
        }
    }

    /// What to say of it.
    pub fn confirmed(&self, stand: &Stand) -> Confirmed {
        Confirmed {
            stream: self.stream,
            point: self.point.clone(),
            specifier: self.specifier.clone(),
            through: stand.through,
            want_from: stand.missing.then_some(stand.through),
        }
    }
}

/// How far an instance is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Everything through here is.
    pub through: Position,
    /// The last message was of rows beyond it.
    pub missing: bool,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kept.
    pub accepted: u64,
    /// All of it was here.
    pub repeated: u64,
    /// Something before it is missing, and was asked for.
    pub missing: u64,
    /// Of another history of its stream.
    pub diverged: u64,
    /// Of an instance over [`super::keeper::MAX_INSTANCES`], or saying what no guest can.
    pub refused: u64,
    /// Samples kept.
    pub samples: u64,
    /// Samples that were here under another number.
    pub samples_repeated: u64,
    /// Results kept.
    pub results: u64,
    /// Ranges of rows that will never come.
    pub gaps: u64,
    /// Messages kept sealed.
    pub sealed: u64,
}

impl Counts {
    /// Adds what another batch came to.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.repeated += other.repeated;
        self.missing += other.missing;
        self.diverged += other.diverged;
        self.refused += other.refused;
        self.samples += other.samples;
        self.samples_repeated += other.samples_repeated;
        self.results += other.results;
        self.gaps += other.gaps;
        self.sealed += other.sealed;
    }
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Kept {
    /// What may be said of each instance in it, now that it is on disk.
    pub stands: BTreeMap<Instance, Stand>,
    /// What became of the messages.
    pub counts: Counts,
}
