//! How far a guest's clock is from its host's. Each mark tells the guest's time when it was sent; on the
//! way it only grows older, so of several differences the greatest is nearest the truth. KPI messages carry
//! it (`clockskewms`), as KPI windows follow the guest's clock and windows of infrastructure the host's.

use std::collections::VecDeque;

use crate::clock::Timestamp;

/// How long a difference counts, in milliseconds: clocks drift.
const KEEP_MS: u64 = 60_000;
/// Differences within this time are one, of which the greatest is kept, in milliseconds.
const STEP_MS: u64 = 5000;
/// A difference so far below the greatest is another clock, not another delay, in milliseconds.
const JUMP_MS: i64 = 2000;

/// What was measured lately.
#[derive(Clone, Debug, Default)]
pub struct Skew {
    /// When, and the guest's time minus the host's, in milliseconds.
    seen: VecDeque<(u64, i64)>,
}

impl Skew {
    /// The guest said that it is `guest`, which arrived at `host` by the host's clock; `now_ms` is the
    /// monotonic clock.
    pub fn observe(&mut self, guest: Timestamp, host: Timestamp, now_ms: u64) {
        let difference_ms = (guest.as_micros() - host.as_micros()).div_euclid(1000);
        if self
            .milliseconds()
            .is_some_and(|known| difference_ms < known - JUMP_MS)
        {
            self.seen.clear();
        }
        while self
            .seen
            .front()
            .is_some_and(|(at, _)| now_ms.saturating_sub(*at) > KEEP_MS)
        {
            self.seen.pop_front();
        }
        match self.seen.back_mut() {
            Some((at, known)) if now_ms.saturating_sub(*at) < STEP_MS => {
                *known = difference_ms.max(*known);
            }
            _ => self.seen.push_back((now_ms, difference_ms)),
        }
    }

    /// The guest's clock minus the host's, in milliseconds; `None` before anything was measured.
    pub fn milliseconds(&self) -> Option<i64> {
        self.seen.iter().map(|(_, difference)| *difference).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_micros((1_000_000_000_000 + ms) * 1000)
    }

    #[test]
    fn the_least_delayed_mark_of_the_last_minute_counts() {
        let mut skew = Skew::default();
        assert_eq!(skew.milliseconds(), None);
        for (second, delay) in [(0, 40), (1, 3), (2, 900), (3, 12)] {
            let now = second * 1000;
            skew.observe(at(now + 500), at(now + delay), now.unsigned_abs());
        }
        assert_eq!(skew.milliseconds(), Some(497));
        for second in 4..100 {
            let now = second * 1000;
            skew.observe(at(now + 400), at(now), now.unsigned_abs());
        }
        assert_eq!(skew.milliseconds(), Some(400), "the clock drifted");
        assert!(skew.seen.len() <= 13, "{}", skew.seen.len());
    }

    #[test]
    fn a_clock_that_is_set_is_followed_at_once() {
        let mut skew = Skew::default();
        skew.observe(at(3_600_000), at(0), 0);
        skew.observe(at(1000 - 5), at(1000), 1000);
        assert_eq!(skew.milliseconds(), Some(-5), "set back");
        skew.observe(at(9000), at(2000), 2000);
        assert_eq!(skew.milliseconds(), Some(7000), "set forward");
        skew.observe(at(0), Timestamp::from_micros(i64::MAX), 3000);
        assert!(skew.milliseconds() < Some(-1_000_000_000_000));
    }
}
