//! Retention: what bounds the database, and what goes first: the oldest, by when it was kept. What goes was
//! confirmed long ago; cursors stay, so nothing comes again. The pages are used again, and the file does not shrink.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use vmkpi::clock::Timestamp;

/// Rows of a table deleted in one transaction: messages wait meanwhile.
const STEP_ROWS: u64 = 2000;
/// The least that `bytes` may be: an empty database has pages, and a batch must fit.
pub const MIN_BYTES: u64 = 1 << 20;
/// What grows. Ids are given in the order of keeping and taken from the oldest on, so two of them tell how many there are.
pub const TABLES: [&str; 4] = ["sample", "result", "gap", "sealed"];

/// What the database may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its pages in use.
    pub bytes: u64,
    /// Samples, and as many of each of the other [`TABLES`].
    pub rows: Option<u64>,
    /// How long anything is kept.
    pub age: Option<Duration>,
}

/// Rows that retention took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// By age.
    pub age: u64,
    /// By number.
    pub rows: u64,
    /// By bytes.
    pub bytes: u64,
}

impl Taken {
    /// Of all reasons.
    pub fn all(&self) -> u64 {
        self.age + self.rows + self.bytes
    }

    /// Adds what another step took.
    pub fn add(&mut self, other: &Self) {
        self.age += other.age;
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// The first and the last id of a table; (1, 0) of an empty one.
///
/// # Errors
/// SQLite says so.
pub fn ids(connection: &Connection, table: &str) -> rusqlite::Result<(u64, u64)> {
    let sql = format!(
        "SELECT coalesce((SELECT min(id) FROM {table}), 1), coalesce((SELECT max(id) FROM {table}), 0)"
    );
    let mut ids = connection.prepare_cached(&sql)?;
    ids.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Bytes of the pages in use.
///
/// # Errors
/// SQLite says so.
pub fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let get = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok((get("page_count")? - get("freelist_count")?) * get("page_size")?)
}

/// Takes some of what is too much at `now`; call it again while it takes anything.
///
/// # Errors
/// SQLite says so: then nothing was taken.
pub fn step(
    connection: &mut Connection,
    limits: &Limits,
    now: Timestamp,
) -> rusqlite::Result<Taken> {
    let over = used_bytes(connection)? > limits.bytes;
    let transaction = connection.transaction()?;
    let mut taken = Taken::default();
    if let Some(age) = limits.age {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = now.as_micros().saturating_sub(age);
        taken.age = by_age(&transaction, before)?;
    }
    if let Some(limit) = limits.rows {
        for table in TABLES {
            let (first, last) = ids(&transaction, table)?;
            let through = last.saturating_sub(limit);
            taken.rows += delete(&transaction, table, (first, through))?;
        }
    }
    if over && taken.all() == 0 {
        taken.bytes = oldest(&transaction)?;
    }
    transaction.commit()?;
    Ok(taken)
}

/// Deletes the rows of a table through an id, at most so many. The last row of a table always stays, so that
/// ids go on.
fn delete(
    from: &Transaction<'_>,
    table: &str,
    (first, through): (u64, u64),
) -> rusqlite::Result<u64> {
    let (_, last) = ids(from, table)?;
    let through = through
        .min(first + STEP_ROWS - 1)
        .min(last.saturating_sub(1));
    if through < first {
        return Ok(0);
    }
    let sql = format!("DELETE FROM {table} WHERE id <= ?");
    let deleted = from.prepare_cached(&sql)?.execute([through])?;
    Ok(deleted as u64)
}

/// Takes what was kept before a time, to the minute.
fn by_age(from: &Transaction<'_>, before: i64) -> rusqlite::Result<u64> {
    let sql =
        "SELECT sample, result, gap, sealed FROM kept WHERE time <= ? ORDER BY time DESC LIMIT 1";
    let marks = marks(from, sql, before)?;
    let Some(marks) = marks else { return Ok(0) };
    let deleted = through(from, marks)?;
    if deleted == 0 {
        let newest = "(SELECT max(time) FROM kept WHERE time <= ?1)";
        let sql = format!("DELETE FROM kept WHERE time < {newest}");
        from.prepare_cached(&sql)?.execute([before])?;
    }
    Ok(deleted)
}

/// Takes some of the oldest minute.
fn oldest(from: &Transaction<'_>) -> rusqlite::Result<u64> {
    loop {
        let sql = "SELECT sample, result, gap, sealed FROM kept WHERE time > ? ORDER BY time LIMIT 1 OFFSET 1";
        let Some(marks) = marks(from, sql, i64::MIN)? else {
            break;
        };
        let deleted = through(from, marks)?;
        if deleted > 0 {
            return Ok(deleted);
        }
        let sql = "DELETE FROM kept WHERE time = (SELECT min(time) FROM kept)";
        from.prepare_cached(sql)?.execute([])?;
    }
    // All of one minute: a part of each.
    let mut deleted = 0;
    for table in TABLES {
        let (first, last) = ids(from, table)?;
        let some = (last + 1).saturating_sub(first).div_ceil(16);
        deleted += delete(from, table, (first, first + some - 1.min(some)))?;
    }
    Ok(deleted)
}

fn marks(from: &Transaction<'_>, sql: &str, time: i64) -> rusqlite::Result<Option<[u64; 4]>> {
    let mut found = from.prepare_cached(sql)?;
    let marks = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
    found.query_row([time], marks).optional()
}

fn through(from: &Transaction<'_>, marks: [u64; 4]) -> rusqlite::Result<u64> {
    let mut deleted = 0;
    for (table, mark) in TABLES.into_iter().zip(marks) {
        let (first, _) = ids(from, table)?;
        deleted += delete(from, table, (first, mark))?;
    }
    Ok(deleted)
}
