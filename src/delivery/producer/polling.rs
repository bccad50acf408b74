//! Polling: rows are asked for at an interval instead of being pushed. One poll is under way at a time; an
//! answer that says that there is more is followed by the next poll at once, as long as there is room.

use crate::link::{From, HostMessage, MAX_POLL_ROWS};
use crate::name::PointPattern;
use crate::position::Nonce;

/// An answer that has not come for so long, in milliseconds, is waited for no longer. The link loses no
/// line within a session; this is for a guest that forgot.
const PATIENCE_MS: u64 = 30_000;

/// When to poll.
#[derive(Clone, Debug)]
pub(super) struct Polling {
    every_ms: u64,
    last_id: u64,
    /// When the poll that is under way was sent.
    asked_ms: Option<u64>,
    due_ms: u64,
}

impl Polling {
    pub(super) fn new(every_ms: u64) -> Self {
        Self {
            every_ms,
            last_id: 0,
            asked_ms: None,
            due_ms: 0,
        }
    }

    /// The next poll. It takes the place of one that is under way.
    pub(super) fn ask(
        &mut self,
        nonce: Nonce,
        patterns: Vec<PointPattern>,
        from: Vec<From>,
        now_ms: u64,
    ) -> HostMessage {
        self.last_id += 1;
        self.asked_ms = Some(now_ms);
        self.due_ms = now_ms.saturating_add(self.every_ms);
        HostMessage::Poll {
            nonce,
            id: self.last_id,
            patterns,
            from,
            limit: MAX_POLL_ROWS,
        }
    }

    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        match self.asked_ms {
            Some(asked_ms) => now_ms.saturating_sub(asked_ms) > PATIENCE_MS,
            None => now_ms >= self.due_ms,
        }
    }

    pub(super) fn answered(&mut self, id: u64, more: bool, now_ms: u64) {
        if id != self.last_id {
            return;
        }
        self.asked_ms = None;
        if more {
            self.due_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_follows_at_its_time_or_at_once_when_there_is_more() {
        let mut polling = Polling::new(1000);
        assert!(polling.is_due(0));
        polling.ask(Nonce(1), Vec::new(), Vec::new(), 10);
        assert!(!polling.is_due(5000), "one at a time");
        polling.answered(7, true, 20);
        assert!(!polling.is_due(5000), "not the answer");
        polling.answered(1, false, 20);
        assert!(!polling.is_due(1009) && polling.is_due(1010));
        polling.ask(Nonce(1), Vec::new(), Vec::new(), 1010);
        polling.answered(2, true, 1020);
        assert!(polling.is_due(1020), "there is more");
        polling.ask(Nonce(1), Vec::new(), Vec::new(), 1020);
        assert!(polling.is_due(1021 + PATIENCE_MS), "not for ever");
    }
}
