//! How long things have waited that come, and go, in order of their numbers.

/// Since when the oldest of them has waited, as far as it shows when one looks now and then. It is never told
/// older than it is, and while nothing goes, younger by no more than the time between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The last number that had come at a look, and when that was.
    since: Option<(u64, u64)>,
}

impl Waiting {
    /// At `now_ms` everything through `last` has come, and everything through `gone` has gone.
    pub fn look(&mut self, gone: u64, last: u64, now_ms: u64) {
        if self.since.is_none_or(|(number, _)| gone >= number) {
            self.since = (gone < last).then_some((last, now_ms));
        }
    }

    /// How long the oldest has waited, in milliseconds; none while nothing waits.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        self.since.map(|(_, then)| now_ms.saturating_sub(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_grows_older_and_what_goes_makes_room_for_what_came_later() {
        let mut waiting = Waiting::default();
        waiting.look(0, 0, 1000);
        assert_eq!(waiting.age_ms(2000), None, "nothing has come");
        waiting.look(0, 5, 2000);
        waiting.look(4, 9, 3000);
        assert_eq!(waiting.age_ms(4000), Some(2000), "5 is still there");
        waiting.look(5, 9, 4000);
        assert_eq!(waiting.age_ms(4500), Some(500), "6 had come by then");
        waiting.look(9, 9, 5000);
        assert_eq!(waiting.age_ms(6000), None);
    }
}
