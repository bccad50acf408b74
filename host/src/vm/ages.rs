//! Ages of a VM's deliveries, for the exporter: since when the oldest message is unacknowledged, when a
//! sample last went out, and whether the guest is still heard of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vmkpi::delivery::producer::Token;

/// A guest whose link has been closed for longer may have newer rows than the last that came: those
/// are no longer shown.
pub const MAX_SILENCE: Duration = Duration::from_secs(15);

/// Ages of a VM's deliveries. Holds an entry for each message that is made and not acknowledged, of
/// which producers allow a bounded number.
#[derive(Debug, Default)]
pub(super) struct Ages {
    made: BTreeMap<(u64, u64), f64>,
    samples: u64,
    heard: Option<Instant>,
    /// When a sample last went out, in seconds since 1970.
    pub(super) sampled: Option<f64>,
}

impl Ages {
    /// A message was made at `time`, in seconds since 1970.
    pub(super) fn made(&mut self, lane: u64, token: Token, time: f64) {
        self.made.insert((lane, token.0), time);
    }

    /// It is acknowledged, or given up.
    pub(super) fn settled(&mut self, lane: u64, token: Token) {
        self.made.remove(&(lane, token.0));
    }

    /// Nobody waits for the messages of this lane any more.
    pub(super) fn forget(&mut self, lane: u64) {
        self.made.retain(|(of, _), _| *of != lane);
    }

    /// When the oldest message was made that is not acknowledged, in seconds since 1970.
    pub(super) fn oldest(&self) -> Option<f64> {
        self.made.values().copied().reduce(f64::min)
    }

    /// So many samples have gone out until `time`, in seconds since 1970.
    pub(super) fn samples(&mut self, count: u64, time: f64) {
        if count != self.samples {
            (self.samples, self.sampled) = (count, Some(time));
        }
    }

    /// Whether what the guest said last still holds; `up`: whether its link is open now.
    pub(super) fn is_heard(&mut self, up: bool, now: Instant) -> bool {
        if up {
            self.heard = Some(now);
        }
        self.heard
            .is_some_and(|at| now.duration_since(at) <= MAX_SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_message_is_the_one_that_is_left() {
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        for (lane, token, time) in [(0, 1, 10.0), (5, 1, 9.0), (0, 2, 11.0)] {
            ages.made(lane, Token(token), time);
        }
        assert_eq!(ages.oldest(), Some(9.0));
        ages.forget(5);
        assert_eq!(ages.oldest(), Some(10.0));
        ages.settled(0, Token(1));
        assert_eq!(ages.oldest(), Some(11.0));
        ages.settled(0, Token(2));
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn the_time_of_samples_moves_with_their_number_alone() {
        let mut ages = Ages::default();
        ages.samples(0, 1.0);
        assert_eq!(ages.sampled, None);
        ages.samples(3, 2.0);
        ages.samples(3, 3.0);
        assert_eq!(ages.sampled, Some(2.0));
    }

    #[test]
    fn a_guest_is_heard_a_while_after_its_link_has_closed() {
        let (mut ages, begin) = (Ages::default(), Instant::now());
        assert!(!ages.is_heard(false, begin), "never");
        assert!(ages.is_heard(true, begin));
        assert!(ages.is_heard(false, begin + MAX_SILENCE));
        assert!(!ages.is_heard(false, begin + MAX_SILENCE + Duration::from_secs(1)));
    }
}
