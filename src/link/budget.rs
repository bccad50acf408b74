//! A budget that refills with time: a token bucket. What the other end may cost, in whatever unit. Reads
//! no clock: the instants are given.

use std::time::{Duration, Instant};

/// So many units at once, and so many more a second.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    /// A full budget.
    pub fn new(burst: f64, per_second: f64, now: Instant) -> Self {
        Self {
            burst,
            per_second,
            left: burst,
            at: now,
        }
    }

    /// Spends `units`, into debt if need be, and says whether there was enough.
    pub fn spend(&mut self, units: f64, now: Instant) -> bool {
        self.refill(now);
        let enough = self.left >= units;
        self.left = (self.left - units).max(-self.burst);
        enough
    }

    /// When the budget is out of debt, if it is in debt.
    pub fn in_debt_until(&self) -> Option<Instant> {
        let debt = -self.left;
        (debt > 0.0).then(|| self.at + Duration::from_secs_f64(debt / self.per_second))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * self.per_second).min(self.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let start = Instant::now();
        let mut budget = Budget::new(10.0, 5.0, start);
        assert!(budget.spend(10.0, start));
        assert!(!budget.spend(5.0, start));
        let free = budget.in_debt_until().unwrap();
        assert_eq!(free, start + Duration::from_secs(1));
        assert!(budget.spend(5.0, start + Duration::from_secs(3)));
        assert!(budget.in_debt_until().is_none());
    }

    #[test]
    fn debt_is_bounded() {
        let start = Instant::now();
        let mut budget = Budget::new(10.0, 5.0, start);
        budget.spend(1e12, start);
        assert_eq!(budget.in_debt_until(), Some(start + Duration::from_secs(2)));
    }
}
