//! Rows by time. There is no index on `_timestamp`, as each store would pay for it; but within an `_epoch` it
//! never decreases, and `_epoch` never decreases with `_seq`. So each epoch's end, and in it the first row that is
//! late enough, are found by halving: some 2 log2(n) looks into the table for each epoch, and no row is read
//! that is not asked for. A page looks through a bounded number of epochs; the next one goes on there.

use rusqlite::{Connection, OptionalExtension as _};
use vmkpi::clock::Timestamp;
use vmkpi::link::{HistoryPosition, HistoryQuery, MAX_ROWS};
use vmkpi::name::{Area, DataPoint, KpiName};
use vmkpi::position::{Mark, Seq, StreamId};

use super::inspect::{Page, Reader, columns_of, read_row, size_of};
use super::marks::{self, mark_from};
use super::mint::HISTORY;
use super::schema::{history_name, meta, quote};

/// Epochs looked through for one page: one is begun by each start of the program and each step of the clock
/// back, so a page nearly always gets by with fewer.
const MAX_EPOCHS: usize = 64;

/// A page of rows by time.
pub struct Found {
    /// The stream of its rows.
    pub stream: StreamId,
    /// The rows.
    pub page: Page,
    /// Where to go on; none at the end.
    pub next: Option<HistoryPosition>,
    /// The last row that retention took, where the span may have had it.
    pub trimmed: Option<Mark>,
    /// There is no table of that name in any stream.
    pub unknown: bool,
}

/// One table that is looked through.
struct Scan<'a> {
    conn: &'a Connection,
    table: String,
    area: Area,
    query: &'a HistoryQuery,
    max_bytes: usize,
    bytes: usize,
    page: Page,
    /// Rows through here were looked at.
    at: Seq,
}

/// What ended a scan.
enum End {
    /// There is no later row.
    Table,
    /// The page is full, or enough was looked through.
    Page,
}

impl Reader {
    /// A page of rows by time, of no more than about `max_bytes` but for the first row.
    ///
    /// # Errors
    /// The database failed.
    pub fn history(&self, query: &HistoryQuery, max_bytes: usize) -> rusqlite::Result<Found> {
        // One snapshot: a mint in the middle would show rows twice.
        let _snapshot = self.conn.unchecked_transaction()?;
        let current = self.stream()?;
        let nothing = Found {
            stream: query.after.map_or(current, |after| after.stream),
            page: Page::default(),
            next: None,
            trimmed: None,
            unknown: true,
        };
        let DataPoint::Kpi(area, name) = &query.point else {
            return Ok(nothing);
        };
        let tables = self.tables_of(name, current)?;
        let place = |stream| tables.iter().position(|table| table.0 == stream);
        let begun = query
            .after
            .and_then(|after| Some((place(after.stream)?, after.seq)));
        // A stream that is held no longer was before all those that are.
        let (index, at) = begun.unwrap_or((0, 0));
        let Some((stream, table)) = tables.get(index) else {
            return Ok(nothing);
        };
        let mut scan = Scan {
            conn: &self.conn,
            table: quote(table),
            area: *area,
            query,
            max_bytes,
            bytes: 0,
            page: Page::default(),
            at,
        };
        let next = match scan.run()? {
            End::Page => Some((*stream, scan.at)),
            End::Table => tables.get(index + 1).map(|(stream, _)| (*stream, 0)),
        };
        let trimmed = marks::read(&self.conn, *stream, name.as_str())?.trimmed;
        let missed = trimmed.seq > at && trimmed.time >= query.from;
        Ok(Found {
            stream: *stream,
            page: scan.page,
            next: next.map(|(stream, seq)| HistoryPosition { stream, seq }),
            trimmed: missed.then_some(trimmed),
            unknown: false,
        })
    }

    /// The tables of `name`, that of the oldest stream first.
    fn tables_of(
        &self,
        name: &KpiName,
        current: StreamId,
    ) -> rusqlite::Result<Vec<(StreamId, String)>> {
        let earlier = meta::<String>(&self.conn, HISTORY)?.unwrap_or_default();
        let earlier = earlier.split_whitespace().filter_map(|s| s.parse().ok());
        let mut tables: Vec<_> = earlier.map(|s| (s, history_name(s, name))).collect();
        tables.push((current, name.as_str().to_owned()));
        let mut held = Vec::with_capacity(tables.len());
        for (stream, table) in tables {
            if self.has_table(&table)? {
                held.push((stream, table));
            }
        }
        Ok(held)
    }
}

impl Scan<'_> {
    fn run(&mut self) -> rusqlite::Result<End> {
        let Some(last) = self.look("1 ORDER BY _seq DESC", 0)? else {
            return Ok(End::Table);
        };
        for _ in 0..MAX_EPOCHS {
            let Some(first) = self.look("_seq > ?1 ORDER BY _seq", self.at)? else {
                return Ok(End::Table);
            };
            let end = self.end_of_epoch(first, last)?;
            if end.time >= self.query.from && first.time < self.query.to {
                let begin = self.first_since(first, end, self.query.from)?;
                if !self.read(begin, end.seq)? {
                    return Ok(End::Page);
                }
            }
            self.at = end.seq;
        }
        Ok(End::Page)
    }

    /// The first row that is `which`.
    fn look(&self, which: &str, seq: Seq) -> rusqlite::Result<Option<Mark>> {
        let table = &self.table;
        let sql =
            format!("SELECT _seq, _key, _epoch, _timestamp FROM {table} WHERE {which} LIMIT 1");
        let mut statement = self.conn.prepare_cached(&sql)?;
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        let found = match statement.parameter_count() {
            0 => statement.query_row([], |row| mark_from(row, 0)),
            _ => statement.query_row([seq], |row| mark_from(row, 0)),
        };
        found.optional()
    }

    fn at_or_after(&self, seq: Seq) -> rusqlite::Result<Option<Mark>> {
        self.look("_seq >= ?1 ORDER BY _seq", seq)
    }

    /// The last row of the epoch of `first`.
    fn end_of_epoch(&self, first: Mark, last: Mark) -> rusqlite::Result<Mark> {
        if first.epoch == last.epoch {
            return Ok(last);
        }
        let (mut end, mut beyond) = (first, last.seq);
        while beyond - end.seq > 1 {
            let middle = end.seq + (beyond - end.seq) / 2;
            match self.at_or_after(middle)? {
                Some(row) if row.epoch == first.epoch => end = row,
                _ => beyond = middle,
            }
        }
        Ok(end)
    }

    /// No row of the epoch below this `_seq` is at or after `time`; `end` is.
    fn first_since(&self, first: Mark, end: Mark, time: Timestamp) -> rusqlite::Result<Seq> {
        let (mut before, mut since) = (first.seq - 1, end.seq);
        while since - before > 1 {
            let middle = before + (since - before) / 2;
            match self.at_or_after(middle)? {
                Some(row) if row.time < time => before = row.seq,
                _ => since = middle,
            }
        }
        Ok(since)
    }

    /// Takes rows from `begin` on, to `end` or to the end of the span. Whether there is room for more.
    fn read(&mut self, begin: Seq, end: Seq) -> rusqlite::Result<bool> {
        let limit = self.query.limit.clamp(1, MAX_ROWS);
        let sql = format!(
            "SELECT * FROM {} WHERE _seq BETWEEN ?1 AND ?2 ORDER BY _seq",
            self.table
        );
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut found = statement.query([begin.cast_signed(), end.cast_signed()])?;
        while let Some(row) = found.next()? {
            if Timestamp::from_micros(row.get(1)?) >= self.query.to {
                return Ok(true);
            }
            if self.page.rows.len() >= limit {
                return Ok(false);
            }
            if self.page.rows.is_empty() && self.area == Area::Unencrypted {
                self.page.columns = columns_of(row);
            }
            let row = read_row(row, self.area, self.page.columns.len())?;
            self.bytes += size_of(&row.payload);
            if self.bytes > self.max_bytes && !self.page.rows.is_empty() {
                return Ok(false);
            }
            self.at = row.seq;
            self.page.rows.push(row);
        }
        Ok(true)
    }
}
