//! Which rows go, and why. Acknowledged rows go by number, bytes and age. Others go only where the
//! operator said so, or by age from a table that no host has ever asked for; each such loss is
//! counted and becomes a gap.
//!
//! A row's age is what the guest's clock says. A row from the future (the clock was ahead) is as old as
//! the next row after it that is not.

use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};
use vmkpi::clock::Timestamp;
use vmkpi::position::{Mark, Seq};
use vmkpi::value::Value;

use super::marks::mark_from;
use super::schema::{OWN_COLUMNS, quote};
use super::table::State;
use super::{RowData, files};
use crate::config::Limits;

/// Rows taken in one transaction at the most: stores wait for it.
pub const CHUNK_ROWS: usize = 500;

/// Bytes of rows taken in one transaction, but for the last row: likewise.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// What a row costs besides its values: its number, time, epoch and key, and SQLite's own.
const ROW_BYTES: u64 = 32;

/// Why a row went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The table had more rows than are kept.
    #[default]
    Rows,
    /// The table had more bytes than are kept, or the database was full.
    Bytes,
    /// The row was older than rows are kept.
    Age,
}

impl Reason {
    /// As a gap says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Rows => "retention_rows",
            Self::Bytes => "retention_bytes",
            Self::Age => "retention_age",
        }
    }

    /// The reverse; what is none of ours is [`Self::Rows`].
    pub fn from_text(text: &str) -> Self {
        [Self::Bytes, Self::Age]
            .into_iter()
            .find(|reason| reason.text() == text)
            .unwrap_or_default()
    }
}

/// What may go besides what is over a bound, as the database is full, and how many bytes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// Nothing.
    #[default]
    Enough,
    /// Acknowledged rows.
    Acknowledged(u64),
    /// Any row: the operator said so.
    Any(u64),
}

/// What a pass goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The bounds.
    pub limits: Limits,
    /// The guest's clock.
    pub now: Timestamp,
    /// Whether the database is full.
    pub room: Room,
}

/// What a pass took of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of the rows that were not acknowledged.
    pub lost: u64,
    /// Those of the lost rows that no host had ever asked for.
    pub unasked: u64,
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, more: Self) {
        self.rows += more.rows;
        self.bytes += more.bytes;
        self.lost += more.lost;
        self.unasked += more.unasked;
    }
}

/// How far each bound reaches into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Rows through here go, and why.
    sure: (Seq, Reason),
    /// Further rows go through there until so many bytes have gone.
    by_bytes: [(Seq, u64); 2],
}

impl Plan {
    /// `old`: rows through here are too old.
    fn new(state: &State, rule: &Rule, old: Seq) -> Self {
        let (head, kept, limits) = (&state.head, &state.kept, &rule.limits);
        let end = |reason| {
            let unasked = reason == Reason::Age && !kept.wanted;
            match limits.drop_unacknowledged || unasked {
                true => head.last,
                false => head.acked.seq,
            }
        };
        let rows = head.last.saturating_sub(limits.retain_rows);
        let room = match rule.room {
            Room::Enough => (0, 0),
            Room::Acknowledged(bytes) => (head.acked.seq, bytes),
            Room::Any(bytes) => (head.last, bytes),
        };
        let excess = kept.bytes.saturating_sub(limits.retain_bytes);
        let sure = [
            (rows.min(end(Reason::Rows)), Reason::Rows),
            (old.min(end(Reason::Age)), Reason::Age),
        ];
        Self {
            sure: sure.into_iter().max().unwrap_or_default(),
            by_bytes: [(end(Reason::Bytes), excess), room],
        }
    }

    /// Why the row `seq` goes after `taken` bytes have gone; nothing if it stays.
    fn takes(&self, seq: Seq, taken: u64) -> Option<Reason> {
        if seq <= self.sure.0 {
            return Some(self.sure.1);
        }
        let over = |(end, excess): &(Seq, u64)| seq <= *end && taken < *excess;
        self.by_bytes.iter().any(over).then_some(Reason::Bytes)
    }
}

/// Whether the table is so far over a bound that a transaction is worth while, without a look at its
/// rows: their age is left out.
pub fn is_due(state: &State, limits: &Limits) -> bool {
    let (head, kept) = (&state.head, &state.kept);
    let end = match limits.drop_unacknowledged {
        true => head.last,
        false => head.acked.seq,
    };
    let over = head.last.saturating_sub(limits.retain_rows).min(end);
    let slack = (limits.retain_rows / 8).min(CHUNK_ROWS as u64).max(1);
    let excess = kept.bytes.saturating_sub(limits.retain_bytes);
    over >= head.trimmed.seq + slack
        || (end > head.trimmed.seq && excess > (limits.retain_bytes / 8).min(CHUNK_BYTES))
}

/// Whether anything of the table must go.
pub fn is_over(
    conn: &Connection,
    table: &str,
    state: &State,
    rule: &Rule,
) -> rusqlite::Result<bool> {
    let old = old_through(conn, table, state, rule)?;
    let plan = Plan::new(state, rule, old);
    let first = state.head.trimmed.seq + 1;
    Ok(first <= state.head.last && plan.takes(first, 0).is_some())
}

/// Takes at most a chunk of the table `table` (an SQLite name) and notes it in `state`; whoever calls
/// writes the marks.
pub fn trim(
    conn: &Connection,
    table: &str,
    state: &mut State,
    rule: &Rule,
) -> rusqlite::Result<Taken> {
    let old = old_through(conn, table, state, rule)?;
    let plan = Plan::new(state, rule, old);
    let (acked, trimmed) = (state.head.acked.seq, state.head.trimmed.seq);
    let wanted = state.kept.wanted;
    let mut taken = Taken::default();
    let mut end: Option<Mark> = None;
    let mut walk = |mark: Mark, bytes: u64| {
        let Some(reason) = plan.takes(mark.seq, taken.bytes) else {
            return false;
        };
        taken.rows += 1;
        taken.bytes += bytes;
        if mark.seq > acked {
            taken.lost += 1;
            taken.unasked += u64::from(!wanted);
        }
        state.kept.reason = Some(reason);
        end = Some(mark);
        taken.bytes < CHUNK_BYTES
    };
    each_row(conn, table, trimmed, CHUNK_ROWS, &mut walk)?;
    if let Some(end) = end {
        if end.seq == state.head.last {
            files::settle(conn, table)?;
        }
        conn.prepare(&format!("DELETE FROM {} WHERE _seq <= ?1", quote(table)))?
            .execute([end.seq.cast_signed()])?;
        state.head.trimmed = end;
        state.kept.lost += taken.lost;
        state.kept.bytes = match end.seq == state.head.last {
            true => 0,
            false => state.kept.bytes.saturating_sub(taken.bytes),
        };
    }
    Ok(taken)
}

/// The bytes of the rows after `after`.
pub fn measure(conn: &Connection, table: &str, after: Seq) -> rusqlite::Result<u64> {
    let mut total = 0;
    each_row(conn, table, after, usize::MAX, &mut |_, bytes| {
        total += bytes;
        true
    })?;
    Ok(total)
}

/// Shows `see` the mark and the bytes of each row after `after`, until it has seen enough.
fn each_row(
    conn: &Connection,
    table: &str,
    after: Seq,
    limit: usize,
    see: &mut dyn FnMut(Mark, u64) -> bool,
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT _seq, _key, _epoch, _timestamp, * FROM {} WHERE _seq > ?1 ORDER BY _seq LIMIT ?2",
        quote(table)
    );
    // Not kept: a statement for each table would be a third of the program's memory.
    let mut statement = conn.prepare(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([after.cast_signed(), limit])?;
    while let Some(row) = rows.next()? {
        let mut bytes = ROW_BYTES;
        // Not asked before: a column that was added since shows with the first row.
        for at in 4 + OWN_COLUMNS..row.as_ref().column_count() {
            bytes += bytes_of(row.get_ref(at)?);
        }
        if !see(mark_from(row, 0)?, bytes) {
            break;
        }
    }
    Ok(())
}

fn bytes_of(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
    }
}

/// The bytes of a row that is stored, as [`measure`] finds them again.
pub fn row_bytes(data: &RowData, file: &[u8]) -> u64 {
    let values: u64 = match data {
        RowData::Bytes => file.len() as u64,
        RowData::Columns(columns) => columns
            .values
            .iter()
            .map(|value| match value {
                Value::Null => 0,
                Value::Integer(_) | Value::Real(_) => 8,
                Value::Text(text) => text.len() as u64,
            })
            .sum(),
    };
    ROW_BYTES + values
}

/// The last of the rows that are too old, as far as a few looks tell: at the 1st, 2nd, 4th, 8th ... of
/// those held. The next pass finds more.
fn old_through(
    conn: &Connection,
    table: &str,
    state: &State,
    rule: &Rule,
) -> rusqlite::Result<Seq> {
    let (trimmed, last) = (state.head.trimmed.seq, state.head.last);
    let oldest = oldest(rule.now, rule.limits.retain_age);
    let sql = format!("SELECT _timestamp FROM {} WHERE _seq = ?1", quote(table));
    let mut statement = conn.prepare(&sql)?;
    let (mut old, mut step) = (0, 1);
    while let Some(seq) = trimmed.checked_add(step).filter(|seq| *seq <= last) {
        let time: Option<i64> = statement
            .query_row([seq.cast_signed()], |row| row.get(0))
            .optional()?;
        match time.map(Timestamp::from_micros) {
            Some(time) if time < oldest => old = seq,
            Some(time) if time > rule.now => {}
            _ => break,
        }
        step = step.saturating_mul(2);
    }
    Ok(old)
}

fn oldest(now: Timestamp, age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::delivery::head::{Stamp, TableHead};

    const DAY: i64 = 24 * 3_600_000_000;
    /// The clock of these tests, in days since 1970.
    const TODAY: i64 = 20_000;

    fn state(last: Seq, acked: Seq, wanted: bool) -> State {
        let stamp = Stamp {
            seq: last,
            time: Timestamp::default(),
            epoch: 0,
        };
        let acked = Mark {
            seq: acked,
            ..Mark::default()
        };
        let mut state = State {
            head: TableHead::restored(stamp, acked, Mark::default(), 0),
            ..State::default()
        };
        state.kept.wanted = wanted;
        state
    }

    fn rule(limits: Limits) -> Rule {
        Rule {
            limits,
            now: Timestamp::from_micros(TODAY * DAY),
            room: Room::Enough,
        }
    }

    /// A table with rows of these days, and the last that is found to be more than a week old.
    fn old(days: &[i64]) -> Seq {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&super::super::schema::create_table("t", ["v"]))
            .unwrap();
        for day in days {
            conn.execute(
                "INSERT INTO t (_timestamp, _epoch, _key) VALUES (?1, 0, 0)",
                [day * DAY],
            )
            .unwrap();
        }
        let state = state(days.len() as Seq, 0, true);
        let limits = Limits {
            retain_age: Duration::from_secs(7 * 24 * 3600),
            ..Limits::default()
        };
        old_through(&conn, "t", &state, &rule(limits)).unwrap()
    }

    #[test]
    fn a_row_is_as_old_as_the_clock_says_and_one_from_the_future_as_the_next_that_is_not() {
        let (ancient, young, ahead) = (TODAY - 8, TODAY - 6, TODAY + 900);
        assert_eq!(old(&[]), 0);
        assert_eq!(old(&[young, young]), 0);
        assert_eq!(old(&[ancient, young]), 1);
        assert_eq!(old(&[ancient; 8]), 8);
        assert_eq!(
            old(&[[ancient; 6].as_slice(), &[young; 9]].concat()),
            4,
            "more in the next pass"
        );
        assert_eq!(old(&[ahead, ahead, young, young]), 0);
        assert_eq!(old(&[ahead, ahead, ancient, ancient, young]), 4);
        assert_eq!(old(&[ahead; 9]), 0);
        // A clock that was back in 1970 for a while makes nothing before it old.
        assert_eq!(old(&[young, young, 0, 0, young]), 0);
    }

    #[test]
    fn a_row_goes_for_the_bound_that_reaches_it_and_only_if_it_may() {
        let limits = Limits {
            retain_rows: 4,
            retain_bytes: 100,
            ..Limits::default()
        };
        let mut found = state(10, 3, true);
        found.kept.bytes = 150;
        let plan = Plan::new(&found, &rule(limits), 5);
        assert_eq!(plan.takes(3, 0), Some(Reason::Age));
        assert_eq!(plan.takes(4, 0), None, "nobody has it");
        let any = Limits {
            drop_unacknowledged: true,
            ..limits
        };
        let plan = Plan::new(&found, &rule(any), 5);
        assert_eq!(plan.takes(6, 60), Some(Reason::Rows));
        assert_eq!(
            (plan.takes(7, 49), plan.takes(7, 50)),
            (Some(Reason::Bytes), None)
        );
        found.kept.wanted = false;
        let plan = Plan::new(&found, &rule(limits), 5);
        assert_eq!(
            (plan.takes(5, 60), plan.takes(6, 0)),
            (Some(Reason::Age), None)
        );
    }

    #[test]
    fn making_room_takes_what_is_needed_and_no_more() {
        let found = state(10, 6, true);
        let plan = |room| {
            Plan::new(
                &found,
                &Rule {
                    room,
                    ..rule(Limits::default())
                },
                0,
            )
        };
        assert_eq!(plan(Room::Enough).takes(1, 0), None);
        let acknowledged = plan(Room::Acknowledged(50));
        assert_eq!(acknowledged.takes(6, 49), Some(Reason::Bytes));
        assert_eq!(
            (acknowledged.takes(6, 50), acknowledged.takes(7, 0)),
            (None, None)
        );
        assert_eq!(plan(Room::Any(50)).takes(10, 49), Some(Reason::Bytes));
    }

    #[test]
    fn reasons_are_read_as_they_are_written() {
        for reason in [Reason::Rows, Reason::Bytes, Reason::Age] {
            assert_eq!(Reason::from_text(reason.text()), reason);
        }
    }
}
