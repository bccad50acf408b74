//! Why a word does not count, and how often which reason was met.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use vmkpi::delivery::producer::Heard;
use vmkpi::query::{Late, NotHeard, Reason};
use vmkpi::sign::Refusal;
use vmkpi::topic::Branch;

/// Why a confirmation or a question does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deaf {
    /// It is none by its form, or too long.
    Malformed,
    /// It speaks of another site, Consumer or VM than its topic.
    AnotherTopic,
    /// It was retained: nobody says now what it says.
    Retained,
    /// Its signature does not count.
    Signature(Refusal),
    /// It is no newer than what was heard before: sent again, or overtaken.
    Stale,
    /// It is about what is not followed here.
    Unknown,
    /// More came than one Consumer says of one VM, or all of all.
    TooMany,
    /// A question that was issued too long ago.
    Old,
    /// A question that was issued too far ahead of this host's clock.
    Ahead,
    /// A question that cannot be noted on disk, so that it could be asked again after a restart.
    Unrecorded,
}

const COUNT: usize = 14;

impl Deaf {
    /// Every reason.
    const EVERY: [Self; COUNT] = [
        Self::Malformed,
        Self::AnotherTopic,
        Self::Retained,
        Self::Signature(Refusal::Unsigned),
        Self::Signature(Refusal::Malformed),
        Self::Signature(Refusal::Algorithm),
        Self::Signature(Refusal::UnknownKey),
        Self::Signature(Refusal::Signature),
        Self::Stale,
        Self::Unknown,
        Self::TooMany,
        Self::Old,
        Self::Ahead,
        Self::Unrecorded,
    ];
    /// Those of a confirmation.
    pub const CONFIRMATION: &[Self] = Self::EVERY.split_at(COUNT - 3).0;
    /// Those of a question.
    pub const QUESTION: &[Self] = &Self::EVERY;

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AnotherTopic => "another_topic",
            Self::Retained => "retained",
            Self::Signature(refusal) => refusal.as_str(),
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::TooMany => "too_many",
            Self::Old => "old",
            Self::Ahead => "ahead",
            Self::Unrecorded => "unrecorded",
        }
    }

    fn place(self) -> usize {
        let at = Self::EVERY.iter().position(|known| *known == self);
        at.expect("every reason is among them")
    }
}

impl From<NotHeard> for Deaf {
    fn from(reason: NotHeard) -> Self {
        match reason {
            NotHeard::Malformed => Self::Malformed,
            NotHeard::Elsewhere => Self::AnotherTopic,
            NotHeard::Refused(refusal) => Self::Signature(refusal),
        }
    }
}

impl From<Late> for Deaf {
    fn from(late: Late) -> Self {
        match late {
            Late::Old => Self::Old,
            Late::Ahead => Self::Ahead,
            Late::Repeated => Self::Stale,
        }
    }
}

/// What was heard and answered, for the exporter.
#[derive(Debug, Default)]
pub struct Status {
    connected: AtomicBool,
    confirmed: AtomicU64,
    deaf: [AtomicU64; COUNT],
    /// What became of questions.
    pub questions: Questions,
}

/// What became of questions.
#[derive(Debug, Default)]
pub struct Questions {
    deaf: [AtomicU64; COUNT],
    asked: AtomicU64,
    answered: AtomicU64,
    pages: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    failed: [AtomicU64; Reason::ALL.len()],
}

impl Status {
    /// Whether Consumers can be heard.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    pub(super) fn connect(&self, on: bool) {
        self.connected.store(on, Relaxed);
    }

    /// Confirmations of an instance that counted.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Relaxed)
    }

    /// Words of a branch that did not count.
    pub fn refused(&self, branch: Branch, reason: Deaf) -> u64 {
        self.of(branch)[reason.place()].load(Relaxed)
    }

    /// Counts a word that did not count.
    pub fn refuse(&self, branch: Branch, reason: Deaf) {
        self.of(branch)[reason.place()].fetch_add(1, Relaxed);
    }

    fn of(&self, branch: Branch) -> &[AtomicU64; COUNT] {
        match branch {
            Branch::Query => &self.questions.deaf,
            _ => &self.deaf,
        }
    }

    /// Counts what a producer made of a confirmation.
    pub fn count(&self, heard: Heard) {
        match heard {
            Heard::Taken => {
                self.confirmed.fetch_add(1, Relaxed);
            }
            Heard::Stale => self.refuse(Branch::Confirm, Deaf::Stale),
            Heard::Unknown => self.refuse(Branch::Confirm, Deaf::Unknown),
        }
    }
}

impl Questions {
    /// Counts a question that counts.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    /// Counts a page that the broker has, of so many rows and bytes.
    pub fn page(&self, rows: usize, bytes: usize) {
        self.pages.fetch_add(1, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts a question that was answered to its end.
    pub fn answer(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    /// Counts a question that could not be answered.
    pub fn fail(&self, reason: Reason) {
        let at = Reason::ALL.iter().position(|known| *known == reason);
        if let Some(at) = at {
            self.failed[at].fetch_add(1, Relaxed);
        }
    }

    /// Questions that counted, those that were answered to their end, and pages, rows and bytes of answers.
    pub fn counts(&self) -> [u64; 5] {
        let of = [
            &self.asked,
            &self.answered,
            &self.pages,
            &self.rows,
            &self.bytes,
        ];
        of.map(|count| count.load(Relaxed))
    }

    /// Questions that could not be answered.
    pub fn failed(&self, reason: Reason) -> u64 {
        let at = Reason::ALL.iter().position(|known| *known == reason);
        at.map_or(0, |at| self.failed[at].load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_for_its_branch_alone() {
        let status = Status::default();
        for (n, reason) in Deaf::QUESTION.iter().enumerate() {
            (0..=n).for_each(|_| status.refuse(Branch::Query, *reason));
        }
        for (n, reason) in Deaf::QUESTION.iter().enumerate() {
            assert_eq!(status.refused(Branch::Query, *reason), n as u64 + 1);
            assert_eq!(status.refused(Branch::Confirm, *reason), 0);
        }
        assert!(!Deaf::CONFIRMATION.contains(&Deaf::Old));
    }
}
