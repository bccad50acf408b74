//! The head of a table: what the next row's number, time and epoch are, what a mark may promise,
//! and what an acknowledgement or a host's memory proves about the store. The guest keeps one for
//! each table, on disk but for the marks.

use crate::clock::Timestamp;
use crate::position::{Mark, Position, RowKey, Seq};

/// What a row gets when it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its `_seq`.
    pub seq: Seq,
    /// Its `_timestamp`.
    pub time: Timestamp,
    /// Its `_epoch`.
    pub epoch: u64,
}

/// The head of one table of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableHead {
    /// The last row ever stored; 0 before the first.
    pub last: Seq,
    /// The last row's `_timestamp`.
    pub time: Timestamp,
    /// The last row's `_epoch`.
    pub epoch: u64,
    /// The last acknowledged row.
    pub acked: Mark,
    /// The last row that retention took.
    pub trimmed: Mark,
    /// How many rows were moved into the stream when it was minted.
    pub moved: u64,
    /// The latest mark sent in this epoch; not kept, as each start begins an epoch.
    marked: Timestamp,
    /// Whether the next row begins an epoch whatever the clock says.
    begins_epoch: bool,
}

/// What the cursors of an acknowledgement come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckVerdict {
    /// Nothing new.
    Nothing,
    /// Everything through this row is acknowledged.
    Through(Seq),
    /// A cursor names a row that this store never had: the store went back in time.
    Refuted,
}

impl TableHead {
    /// The head of a table that was read back from disk at the start of the program: the next row
    /// begins an epoch, as nobody knows what the clock did meanwhile. `last.epoch` is the last row's,
    /// raised by one for each start since: an earlier start may have sent marks in an epoch that no
    /// row was stored in.
    pub fn restored(last: Stamp, acked: Mark, trimmed: Mark, moved: u64) -> Self {
        Self {
            last: last.seq,
            time: last.time,
            epoch: last.epoch,
            acked,
            trimmed,
            moved,
            marked: Timestamp::default(),
            begins_epoch: true,
        }
    }

    /// The head of this table's continuation in a new stream: `moved` rows come along and are
    /// numbered from 1; time and epoch go on.
    pub fn minted(&self, moved: u64) -> Self {
        Self {
            last: moved,
            acked: Mark::default(),
            trimmed: Mark::default(),
            moved,
            ..self.clone()
        }
    }

    /// The stamp of a row stored at `now`. Take it inside the transaction and [`Self::stored`] it
    /// when that has been committed: a row that failed leaves no hole.
    pub fn next_stamp(&self, now: Timestamp) -> Stamp {
        let begins = self.begins_epoch || now < self.time.max(self.marked);
        Stamp {
            seq: self.last + 1,
            time: now,
            epoch: self.epoch + u64::from(begins),
        }
    }

    /// Notes that a row with `stamp` has been stored.
    pub fn stored(&mut self, stamp: Stamp) {
        if stamp.epoch != self.epoch {
            self.marked = Timestamp::default();
        }
        self.begins_epoch = false;
        (self.last, self.time, self.epoch) = (stamp.seq, stamp.time, stamp.epoch);
    }

    /// What a mark sent at `now` may promise: (epoch, time). `None` while the clock is behind.
    /// A table of an old stream gets no more rows, so its windows may all be closed.
    pub fn mark(&mut self, now: Timestamp, current_stream: bool) -> Option<(u64, Timestamp)> {
        if !current_stream {
            return Some((self.epoch + 1, now));
        }
        if now < self.time.max(self.marked) {
            return None;
        }
        self.marked = now;
        Some((self.epoch + u64::from(self.begins_epoch), now))
    }

    /// Whether a host that has `have` of this table has seen another history. `key_of` tells the
    /// key of a row as far as the store still knows it.
    pub fn refutes(&self, have: Position, key_of: impl Fn(Seq) -> Option<RowKey>) -> bool {
        have.seq > self.last
            || have.contradicts(&Position {
                seq: have.seq,
                key: self.known_key(have.seq, key_of),
            })
    }

    /// What the cursors of an `ack` come to. A cursor without a key beyond what is acknowledged
    /// stands for a Consumer that has not spoken yet: it holds everything back.
    pub fn judge_ack(
        &self,
        cursors: &[Position],
        key_of: impl Fn(Seq) -> Option<RowKey>,
    ) -> AckVerdict {
        let silent = |c: &Position| c.key.is_none() && c.seq > self.acked.seq;
        if cursors.iter().any(silent) {
            return AckVerdict::Nothing;
        }
        if cursors.iter().any(|c| self.refutes(*c, &key_of)) {
            return AckVerdict::Refuted;
        }
        match cursors.iter().map(|c| c.seq).min() {
            Some(seq) if seq > self.acked.seq => AckVerdict::Through(seq),
            _ => AckVerdict::Nothing,
        }
    }

    /// The mark of the row `seq`: the row's own where it is held (`row`), or that of the trimmed one, by
    /// which a gap is acknowledged.
    pub fn mark_at(&self, seq: Seq, row: Option<Mark>) -> Option<Mark> {
        row.or(Some(self.trimmed).filter(|trimmed| seq > 0 && trimmed.seq == seq))
    }

    fn known_key(&self, seq: Seq, key_of: impl Fn(Seq) -> Option<RowKey>) -> Option<RowKey> {
        key_of(seq)
            .or_else(|| self.acked.key.filter(|_| seq == self.acked.seq))
            .or_else(|| self.trimmed.key.filter(|_| seq == self.trimmed.seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn store(head: &mut TableHead, seconds: i64) -> (Seq, u64) {
        let stamp = head.next_stamp(at(seconds));
        head.stored(stamp);
        (stamp.seq, stamp.epoch)
    }

    #[test]
    fn an_epoch_begins_when_the_clock_falls_behind_a_row_or_a_mark_and_at_each_start() {
        let mut head = TableHead::default();
        assert_eq!(store(&mut head, 10), (1, 0));
        assert_eq!(store(&mut head, 10), (2, 0), "the same time is not behind");
        assert_eq!(store(&mut head, 9), (3, 1), "behind the last row");
        assert_eq!(head.mark(at(20), true), Some((1, at(20))));
        assert_eq!(
            head.mark(at(19), true),
            None,
            "no mark while the clock is behind"
        );
        assert_eq!(store(&mut head, 15), (4, 2), "behind the last mark");
        let last = Stamp {
            seq: 4,
            time: at(15),
            epoch: 2,
        };
        let mut head = TableHead::restored(last, Mark::default(), Mark::default(), 0);
        assert_eq!(head.mark(at(30), true), Some((3, at(30))));
        assert_eq!(store(&mut head, 31), (5, 3));
    }

    #[test]
    fn a_row_that_failed_leaves_no_hole() {
        let head = TableHead::default();
        let failed = head.next_stamp(at(1));
        assert_eq!(head.next_stamp(at(2)).seq, failed.seq);
    }

    #[test]
    fn a_gap_is_acknowledged_by_the_trimmed_row_and_by_no_row_within_it() {
        let trimmed = Mark {
            seq: 5,
            key: Some(RowKey(5)),
            epoch: 1,
            time: at(5),
        };
        let head = TableHead {
            last: 8,
            trimmed,
            ..TableHead::default()
        };
        let through = Position::new(5, RowKey(5));
        assert_eq!(head.judge_ack(&[through], |_| None), AckVerdict::Through(5));
        assert_eq!(head.mark_at(5, None), Some(trimmed));
        assert_eq!(head.mark_at(4, None), None);
        let other = Position::new(5, RowKey(6));
        assert_eq!(head.judge_ack(&[other], |_| None), AckVerdict::Refuted);
        assert_eq!(TableHead::default().mark_at(0, None), None);
    }

    #[test]
    fn only_cursors_that_this_history_has_acknowledge() {
        let head = TableHead {
            last: 5,
            ..TableHead::default()
        };
        let key_of = |seq: Seq| (seq > 0).then_some(RowKey(seq));
        let p = |seq, key| Position::new(seq, RowKey(key));
        assert_eq!(
            head.judge_ack(&[p(4, 4), p(3, 3)], key_of),
            AckVerdict::Through(3)
        );
        assert_eq!(
            head.judge_ack(&[p(4, 4), Position { seq: 2, key: None }], key_of),
            AckVerdict::Nothing
        );
        assert_eq!(
            head.judge_ack(&[p(4, 4), Position::START], key_of),
            AckVerdict::Nothing
        );
        assert_eq!(head.judge_ack(&[p(6, 6)], key_of), AckVerdict::Refuted);
        assert_eq!(head.judge_ack(&[p(4, 9)], key_of), AckVerdict::Refuted);
        assert_eq!(head.judge_ack(&[], key_of), AckVerdict::Nothing);
    }
}
