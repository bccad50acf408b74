//! A trouble that lasts, told without a flood: at once, then a count each minute, and once when it is over.

use std::time::{Duration, Instant};

/// How often a trouble that lasts is told again.
const AGAIN: Duration = Duration::from_secs(60);

/// One kind of trouble.
#[derive(Debug, Default)]
pub struct Complaint {
    /// When it was told last; absent: there is none.
    told: Option<Instant>,
    /// How often it was met since it began.
    times: u64,
}

impl Complaint {
    /// It is met once more. Returns how often it was so far, if that is to be told now.
    pub fn again(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let due = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= AGAIN);
        due.then(|| {
            self.told = Some(now);
            self.times
        })
    }

    /// It is over. Returns how often it was met, if it was there.
    pub fn over(&mut self) -> Option<u64> {
        self.told.take()?;
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_then_counted_each_minute_and_once_when_it_is_over() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(complaint.over(), None);
        assert_eq!(complaint.again(at(0)), Some(1));
        assert_eq!(complaint.again(at(1)), None);
        assert_eq!(complaint.again(at(59)), None);
        assert_eq!(complaint.again(at(60)), Some(4));
        assert_eq!(complaint.again(at(61)), None);
        assert_eq!(complaint.over(), Some(5));
        assert_eq!(complaint.over(), None);
        assert_eq!(complaint.again(at(62)), Some(1));
    }
}
