//! `.marks`: what is known of each table of each stream besides its rows: acknowledged, trimmed, how
//! many bytes are held, and what was lost. A gap needs no record of its own: while the trimmed row lies
//! beyond the acknowledged one, the rows between them are gone and their owner has not confirmed that.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::head::TableHead;
use vmkpi::name::KpiName;
use vmkpi::position::{Mark, Position, Seq, StreamId};

use super::retention::Reason;
use super::table::{key_from_sql, key_to_sql};

/// A row of `.marks`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Rows moved into the stream when it was minted.
    pub moved: u64,
    /// The last acknowledged row.
    pub acked: Mark,
    /// The last row that retention took.
    pub trimmed: Mark,
    /// What retention goes by.
    pub kept: Kept,
}

/// What retention knows of a table besides its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of the rows held.
    pub bytes: u64,
    /// The last row that `bytes` on disk accounts for.
    pub sized: Seq,
    /// Bytes of the rows after it.
    pub fresh: u64,
    /// Whether a host has ever subscribed to the table or acknowledged a row of it.
    pub wanted: bool,
    /// Rows dropped in this stream before they were acknowledged.
    pub lost: u64,
    /// Why the last of them was.
    pub reason: Option<Reason>,
}

/// Rows that were dropped and are not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last acknowledged row.
    pub after: Position,
    /// The last row dropped.
    pub through: Mark,
    /// Why.
    pub reason: Reason,
}

impl Kept {
    /// A row is stored.
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.fresh += bytes;
    }

    /// What is known now, with `last` as the last row, is about to be written down.
    pub fn settle(&mut self, last: Seq) {
        (self.sized, self.fresh) = (last, 0);
    }
}

impl Marks {
    /// The rows whose loss nobody has confirmed yet.
    pub fn gap(&self) -> Option<Gap> {
        (self.trimmed.seq > self.acked.seq).then(|| Gap {
            after: self.acked.position(),
            through: self.trimmed,
            reason: self.kept.reason.unwrap_or_default(),
        })
    }
}

/// A mark from four columns beginning at `at`: seq, key, epoch, timestamp.
pub fn mark_from(row: &Row<'_>, at: usize) -> rusqlite::Result<Mark> {
    Ok(Mark {
        seq: row.get::<_, i64>(at)?.cast_unsigned(),
        key: row.get::<_, Option<i64>>(at + 1)?.map(key_from_sql),
        epoch: row.get::<_, i64>(at + 2)?.cast_unsigned(),
        time: Timestamp::from_micros(row.get(at + 3)?),
    })
}

fn kept_from(row: &Row<'_>, at: usize) -> rusqlite::Result<Kept> {
    let reason: Option<String> = row.get(at + 4)?;
    Ok(Kept {
        bytes: row.get::<_, i64>(at)?.cast_unsigned(),
        sized: row.get::<_, i64>(at + 1)?.cast_unsigned(),
        fresh: 0,
        wanted: row.get(at + 2)?,
        lost: row.get::<_, i64>(at + 3)?.cast_unsigned(),
        reason: reason.map(|text| Reason::from_text(&text)),
    })
}

/// What is known of a table; nothing of one that is not there.
pub fn read(conn: &Connection, stream: StreamId, name: &str) -> rusqlite::Result<Marks> {
    let found = conn
        .prepare_cached(
            "SELECT moved, acked_seq, acked_key, acked_epoch, acked_timestamp, trimmed_seq, \
             trimmed_key, trimmed_epoch, trimmed_timestamp, bytes, sized_seq, wanted, lost, \
             lost_reason FROM \".marks\" WHERE stream = ?1 AND name = ?2",
        )?
        .query_row(params![stream.to_string(), name], |row| {
            Ok(Marks {
                moved: row.get::<_, i64>(0)?.cast_unsigned(),
                acked: mark_from(row, 1)?,
                trimmed: mark_from(row, 5)?,
                kept: kept_from(row, 9)?,
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Writes what changes with acknowledgements and retention.
pub fn write(
    conn: &Connection,
    stream: StreamId,
    name: &str,
    head: &TableHead,
    kept: &Kept,
) -> rusqlite::Result<()> {
    let (acked, trimmed) = (&head.acked, &head.trimmed);
    conn.prepare_cached(
        "UPDATE \".marks\" SET acked_seq = ?3, acked_key = ?4, acked_epoch = ?5, \
         acked_timestamp = ?6, trimmed_seq = ?7, trimmed_key = ?8, trimmed_epoch = ?9, \
         trimmed_timestamp = ?10, bytes = ?11, sized_seq = ?12, wanted = ?13, lost = ?14, \
         lost_reason = ?15 WHERE stream = ?1 AND name = ?2",
    )?
    .execute(params![
        stream.to_string(),
        name,
        acked.seq.cast_signed(),
        acked.key.map(key_to_sql),
        acked.epoch.cast_signed(),
        acked.time.as_micros(),
        trimmed.seq.cast_signed(),
        trimmed.key.map(key_to_sql),
        trimmed.epoch.cast_signed(),
        trimmed.time.as_micros(),
        kept.bytes.cast_signed(),
        kept.sized.cast_signed(),
        kept.wanted,
        kept.lost.cast_signed(),
        kept.reason.map(Reason::text),
    ])?;
    Ok(())
}

/// Every table of every stream still held. What another program put there and is none is left out.
pub fn list(conn: &Connection) -> rusqlite::Result<Vec<(StreamId, KpiName)>> {
    let mut statement = conn.prepare_cached("SELECT stream, name FROM \".marks\"")?;
    let mut rows = statement.query([])?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next()? {
        let (stream, name): (String, String) = (row.get(0)?, row.get(1)?);
        if let (Ok(stream), Ok(name)) = (stream.parse(), name.parse()) {
            tables.push((stream, name));
        }
    }
    Ok(tables)
}

/// The table with most bytes of those that hold acknowledged rows.
pub fn largest_acknowledged(conn: &Connection) -> rusqlite::Result<Option<(StreamId, KpiName)>> {
    let sql = "SELECT stream, name FROM \".marks\" WHERE acked_seq > trimmed_seq \
               ORDER BY bytes DESC LIMIT 1";
    let mut statement = conn.prepare_cached(sql)?;
    let found = statement
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found
        .and_then(|(stream, name): (String, String)| stream.parse().ok().zip(name.parse().ok())))
}

/// Rows of `name` lost before they were acknowledged, in every stream still held.
pub fn lost(conn: &Connection, name: &str) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT coalesce(sum(lost), 0) FROM \".marks\" WHERE name = ?1")?
        .query_row([name], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}
