//! When a command is run next.

use std::time::{Duration, Instant};

/// The first tick after `now`, of those that follow `due` at `interval`, and how many were missed: between
/// `due`, which is run now, and the next.
pub(super) fn next(due: Instant, interval: Duration, now: Instant) -> (Instant, u64) {
    let late = now.saturating_duration_since(due).as_nanos();
    let missed = u32::try_from(late / interval.as_nanos().max(1)).unwrap_or(u32::MAX - 1);
    (due + interval * (missed + 1), missed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stay_on_their_grid_and_missed_ones_are_skipped_and_counted() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(next(start, second, start), (at(1000), 0));
        assert_eq!(next(start, second, at(300)), (at(1000), 0));
        assert_eq!(next(at(1000), second, at(1000)), (at(2000), 0));
        assert_eq!(next(at(1000), second, at(4200)), (at(5000), 3));
    }
}
