//! When retention works: in the writer's thread, in transactions of its own and a chunk at a time, so that
//! no store fails of it and none waits for long. After a batch, for the tables that it has brought over a
//! bound; when nothing waits, and once a second in any case, for the next few of all tables.
//!
//! Pages that become free are used again; the files do not shrink (no auto_vacuum: its pointer pages would
//! cost each store a write).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use vmkpi::clock::Timestamp;
use vmkpi::delivery::head::{Stamp, TableHead};
use vmkpi::name::KpiName;
use vmkpi::position::{Seq, StreamId};

use super::database::{Database, Failure};
use super::marks::{self, Kept, Marks};
use super::retention::{self, CHUNK_BYTES, CHUNK_ROWS, Room, Rule, Taken};
use super::schema::sql_name;
use super::table::{State, read_row_mark};
use super::writer::Patience;

/// How often tables are looked at while stores go on.
pub const TICK: Duration = Duration::from_secs(1);

/// How long tables are looked at in a tick, but for the last of them: thousands of tables take a few.
const LOOK: Duration = Duration::from_millis(2);

/// While stores wait, retention takes at most one part in so many of the writer's time.
const SHARE: u32 = 5;

/// Rows of a table after which its bytes are written down with a store, or [`CHUNK_BYTES`] of them: what is
/// read again at start.
const SIZED_EVERY: Seq = 1024;

/// Part of the database's limit that is freed at once when it is full, and the most of that.
const RESERVE: (u64, u64) = (64, 16 << 20);

/// A table of a stream.
type Name = (StreamId, Arc<KpiName>);

/// What retention has to do in one database.
#[derive(Debug, Default)]
pub struct Keeper {
    /// Tables that are over a bound.
    due: VecDeque<Name>,
    /// Tables still to be looked at.
    round: VecDeque<Name>,
    /// When tables are looked at next.
    look_at: Option<Instant>,
    /// Until when stores go first.
    rest_until: Option<Instant>,
    began: Began,
}

/// When the program began, by both clocks.
#[derive(Debug)]
struct Began {
    at: Instant,
    time: Timestamp,
}

impl Default for Began {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            time: Timestamp::now(),
        }
    }
}

impl Began {
    /// The guest's clock, but never further on than the program has run since it began: a clock that is
    /// set forward, as at boot, makes no row old.
    fn now(&self) -> Timestamp {
        let run = i64::try_from(self.at.elapsed().as_micros()).unwrap_or(i64::MAX);
        let lived = Timestamp::from_micros(self.time.as_micros().saturating_add(run));
        Timestamp::now().min(lived)
    }
}

impl Keeper {
    /// Notes that a table is over a bound.
    pub fn note(&mut self, stream: StreamId, name: &Arc<KpiName>) {
        if !self.due.iter().any(|(s, n)| *s == stream && n == name) {
            self.due.push_back((stream, Arc::clone(name)));
        }
    }

    /// Whether something is known to be over a bound.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }
}

impl Database {
    /// Does a bounded piece of what retention has to do; `idle`: nothing waits. Returns what was taken.
    ///
    /// # Errors
    /// The database failed; it is tried again later.
    pub fn keep(&mut self, idle: bool) -> Result<Taken, Failure> {
        let now = Instant::now();
        if self.keeper.look_at.is_none_or(|at| at <= now) {
            self.keeper.look_at = Some(now + TICK);
            self.tend_log(now);
            self.look_around()?;
        }
        if !self.keeper.is_due() || (!idle && self.keeper.rests(now)) {
            return Ok(Taken::default());
        }
        // Not waited for: whoever holds the lock keeps stores waiting, too, and they come first.
        let taken = self.take_chunk();
        self.keeper.rest_until = Some(Instant::now() + (SHARE - 1) * now.elapsed());
        taken
    }

    /// Looks at the next few tables and notes those that are over a bound.
    fn look_around(&mut self) -> Result<(), Failure> {
        let rule = self.rule(Room::Enough);
        let found = self.look(|db| {
            if db.keeper.round.is_empty() {
                let tables = marks::list(db.connection()?)?;
                let names = tables.into_iter().map(|(s, n)| (s, Arc::new(n)));
                db.keeper.round = names.collect();
            }
            let (mut over, started) = (Vec::new(), Instant::now());
            while started.elapsed() < LOOK
                && let Some((stream, name)) = db.keeper.round.pop_front()
            {
                let state = db.state_of(stream, &name)?;
                let table = sql_name(db.stream, stream, &name);
                // An earlier stream's table is measured once.
                let unmeasured = stream != db.stream && state.kept.sized < state.head.last;
                if unmeasured || retention::is_over(db.connection()?, &table, &state, &rule)? {
                    over.push((stream, name));
                }
            }
            Ok(over)
        });
        for (stream, name) in found.map_err(|error| Failure {
            error,
            alone: false,
        })? {
            self.keeper.note(stream, &name);
        }
        Ok(())
    }

    /// Takes a chunk of the tables that are due, in one transaction.
    fn take_chunk(&mut self) -> Result<Taken, Failure> {
        let rule = self.rule(Room::Enough);
        let mut due = std::mem::take(&mut self.keeper.due);
        let taken = self.transaction(Patience::None, |db| {
            let mut taken = Taken::default();
            while taken.rows < CHUNK_ROWS as u64
                && taken.bytes < CHUNK_BYTES
                && let Some((stream, name)) = due.pop_front()
            {
                let part = db.trim_table(stream, &name, &rule)?;
                taken += part;
                if part.rows > 0 {
                    due.push_back((stream, name));
                }
            }
            Ok(taken)
        });
        // After a failure the next round finds them again.
        if taken.is_ok() {
            self.keeper.due = due;
        }
        taken
    }

    /// Makes room in a full database for `need` bytes, and some more: acknowledged rows go, of the largest
    /// tables first, and others where the operator said so. Says what was taken; nothing if there is no more.
    ///
    /// # Errors
    /// The database failed.
    pub fn make_room(&mut self, need: u64) -> Result<Taken, Failure> {
        let reserve = (self.limits.database_bytes / RESERVE.0).min(RESERVE.1);
        let wanted = need.saturating_add(reserve);
        // What is in the log takes room on the disk twice.
        self.checkpoint_at_once();
        let mut rooms: Vec<fn(u64) -> Room> = vec![Room::Acknowledged];
        if self.limits.drop_unacknowledged {
            rooms.push(Room::Any);
        }
        let mut taken = Taken::default();
        for room in rooms {
            while taken.bytes < wanted {
                let part = self.take_of_largest(room(wanted - taken.bytes))?;
                if part.rows == 0 {
                    break;
                }
                taken += part;
            }
        }
        Ok(taken)
    }

    fn take_of_largest(&mut self, room: Room) -> Result<Taken, Failure> {
        let rule = self.rule(room);
        self.transaction(Patience::None, |db| {
            let largest = match room {
                Room::Any(_) => db.largest_of_all()?,
                _ => marks::largest_acknowledged(db.connection()?)?,
            };
            let Some((stream, name)) = largest else {
                return Ok(Taken::default());
            };
            db.trim_table(stream, &Arc::new(name), &rule)
        })
    }

    /// The table of the current stream that holds most bytes.
    fn largest_of_all(&mut self) -> rusqlite::Result<Option<(StreamId, KpiName)>> {
        let tables = marks::list(self.connection()?)?;
        let mut largest = (0, None);
        let current = self.stream;
        for (stream, name) in tables.into_iter().filter(|(s, _)| *s == current) {
            let bytes = self.state_of(stream, &Arc::new(name.clone()))?.kept.bytes;
            if bytes > largest.0 {
                largest = (bytes, Some((stream, name)));
            }
        }
        Ok(largest.1)
    }

    /// Trims a table within the open transaction.
    fn trim_table(
        &mut self,
        stream: StreamId,
        name: &Arc<KpiName>,
        rule: &Rule,
    ) -> rusqlite::Result<Taken> {
        let mut state = self.state_of(stream, name)?;
        let conn = self.connection()?;
        let table = sql_name(self.stream, stream, name);
        let taken = retention::trim(conn, &table, &mut state, rule)?;
        let sized = stream == self.stream || state.kept.sized == state.head.last;
        if taken.rows == 0 && sized {
            return Ok(taken);
        }
        state.kept.settle(state.head.last);
        marks::write(conn, stream, name.as_str(), &state.head, &state.kept)?;
        if stream == self.stream
            && let Some(found) = self.table_mut(name)
        {
            found.set_state(state);
        }
        Ok(taken)
    }

    /// The state of a table of any stream.
    fn state_of(&mut self, stream: StreamId, name: &Arc<KpiName>) -> rusqlite::Result<State> {
        if stream == self.stream {
            self.touch(name)?;
            return Ok(self
                .table_mut(name)
                .map(|t| t.state.clone())
                .unwrap_or_default());
        }
        history_state(self.connection()?, stream, name)
    }

    /// Writes down the bytes of every table, so that the next start need not read rows for it.
    pub fn settle(&mut self) -> Result<(), Failure> {
        let names = self.unsettled();
        if names.is_empty() {
            return Ok(());
        }
        self.transaction(Patience::Full, |db| {
            for name in names {
                db.touch(&name)?;
                db.write_sizes(&name)?;
            }
            Ok(())
        })
    }

    /// Writes down what retention knows of a table, within the open transaction.
    pub fn write_sizes(&mut self, name: &Arc<KpiName>) -> rusqlite::Result<()> {
        let stream = self.stream;
        let Some(table) = self.table_mut(name) else {
            return Ok(());
        };
        table.state.kept.settle(table.state.head.last);
        let state = table.state.clone();
        marks::write(
            self.connection()?,
            stream,
            name.as_str(),
            &state.head,
            &state.kept,
        )
    }

    fn rule(&self, room: Room) -> Rule {
        Rule {
            limits: self.limits,
            now: self.keeper.began.now(),
            room,
        }
    }

    /// Notes which of the tables that the open transaction has changed are over a bound, and writes down
    /// the bytes of those that have many rows whose bytes are not.
    pub fn note_sizes(&mut self) -> rusqlite::Result<()> {
        let names: Vec<_> = self.touched_names().cloned().collect();
        for name in names {
            let (limits, stream) = (self.limits, self.stream);
            let Some(table) = self.table_mut(&name) else {
                continue;
            };
            let State { head, kept, .. } = &table.state;
            let many = head.last >= kept.sized + SIZED_EVERY || kept.fresh >= CHUNK_BYTES;
            if retention::is_due(&table.state, &limits) {
                self.keeper.note(stream, &name);
            }
            if many {
                self.write_sizes(&name)?;
            }
        }
        Ok(())
    }
}

/// The bytes of the rows held, those stored since they were written down last included.
pub fn sized(conn: &Connection, table: &str, found: &Marks, last: Seq) -> rusqlite::Result<Kept> {
    let mut kept = found.kept;
    if kept.sized < last {
        let after = kept.sized.max(found.trimmed.seq);
        kept.add(retention::measure(conn, table, after)?);
    }
    Ok(kept)
}

/// The state of a table of an earlier stream, which gets no more rows.
pub fn history_state(
    conn: &Connection,
    stream: StreamId,
    name: &KpiName,
) -> rusqlite::Result<State> {
    let found = marks::read(conn, stream, name.as_str())?;
    let table = super::schema::history_name(stream, name);
    let last = read_row_mark(conn, &table, None)?.unwrap_or(found.trimmed);
    let stamp = Stamp {
        seq: last.seq,
        time: last.time,
        epoch: last.epoch,
    };
    Ok(State {
        head: TableHead::restored(stamp, found.acked, found.trimmed, found.moved),
        last_key: last.key,
        kept: sized(conn, &table, &found, last.seq)?,
    })
}
