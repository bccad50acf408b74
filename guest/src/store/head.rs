//! The end of a table: which number, epoch and time the next row has, and which promise a mark may
//! give. Pure (DELIVERY: `_timestamp` never decreases within an `_epoch`).

use vmkpi::clock::Timestamp;
use vmkpi::position::Seq;

/// The end of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableHead {
    /// The last row's number; 0 before the first.
    pub last: Seq,
    /// The epoch of the next row, unless the clock has stepped back.
    pub epoch: u64,
    /// The last row's time, if it is of this epoch.
    time: Timestamp,
    /// The last mark's time, if one was given in this epoch.
    mark_time: Timestamp,
}

impl TableHead {
    /// A table whose last row is `last`, at the beginning of `epoch`.
    pub fn new(last: Seq, epoch: u64) -> Self {
        Self {
            last,
            epoch,
            time: Timestamp::default(),
            mark_time: Timestamp::default(),
        }
    }

    /// The next row's number, time and epoch, with the clock at `now`.
    pub fn next_row(&mut self, now: Timestamp) -> (Seq, Timestamp, u64) {
        if now < self.time.max(self.mark_time) {
            self.epoch += 1;
            self.mark_time = Timestamp::default();
        }
        self.last += 1;
        self.time = now;
        (self.last, now, self.epoch)
    }

    /// The promise that no row before the time returned will follow in the epoch returned; none while
    /// the clock is behind.
    pub fn mark(&mut self, now: Timestamp) -> Option<(u64, Timestamp)> {
        if now < self.time.max(self.mark_time) {
            return None;
        }
        self.mark_time = now;
        Some((self.epoch, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_earlier_follows_a_row_or_a_mark_in_its_epoch(
            steps in prop::collection::vec((0i64..50, any::<bool>()), 1..100)
        ) {
            let mut head = TableHead::new(0, 1);
            let (mut seq, mut bound) = (0, (1, Timestamp::default()));
            for (now, is_row) in steps {
                let now = Timestamp::from_micros(now);
                if is_row {
                    let (s, time, epoch) = head.next_row(now);
                    prop_assert_eq!(s, seq + 1);
                    seq = s;
                    prop_assert!((epoch, time) >= bound);
                    bound = (epoch, time);
                } else if let Some((epoch, time)) = head.mark(now) {
                    prop_assert!((epoch, time) >= bound);
                    bound = (epoch, time);
                }
            }
        }
    }
}
