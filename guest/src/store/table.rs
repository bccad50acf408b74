//! One KPI's table: its end, its columns, what is acknowledged of it, and the row that is added.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::head::{Stamp, TableHead};
use vmkpi::name::{Area, KpiName};
use vmkpi::position::{Mark, Position, RowKey, Seq, StreamId};
use vmkpi::value::Value;

use super::files::Filing;
use super::form::Form;
use super::keeper;
use super::marks::{self, Kept, Marks, mark_from};
use super::retention::row_bytes;
use super::schema::{DATA_COLUMN, OWN_COLUMNS, create_table, quote};
use super::{Point, RowData, StoreError};
use crate::csv::Columns;

/// What changes with each row or acknowledgement, and is put back when a transaction fails.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The end, what is acknowledged and what is trimmed.
    pub head: TableHead,
    /// The last row's key.
    pub last_key: Option<RowKey>,
    /// What retention goes by.
    pub kept: Kept,
}

impl State {
    /// The table's last row.
    pub fn last(&self) -> Position {
        Position {
            seq: self.head.last,
            key: self.last_key,
        }
    }
}

/// A table as the writer knows it.
pub struct Table {
    /// Its row in `.files`.
    pub file: i64,
    /// What a failed transaction puts back.
    pub state: State,
    /// The names of its own columns, ASCII case folded; read when they are needed.
    columns: Option<HashSet<String>>,
    /// The labels of the last row and the statement for them: rows of a table are mostly alike.
    insert: Option<(Vec<Box<str>>, String)>,
    /// The form and the epoch that `.files` has of the file; none when it has its bytes.
    filed: Option<(Form, u64)>,
}

/// A failure while a job is carried out.
pub enum Fault {
    /// The database failed: the transaction is lost.
    Sql(rusqlite::Error),
    /// The job is refused, and has changed nothing.
    Refused(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// SQLite's integers have a sign and ours do not: the bits are the same.
pub fn key_to_sql(key: RowKey) -> i64 {
    key.0.cast_signed()
}

/// The reverse of [`key_to_sql`].
pub fn key_from_sql(key: i64) -> RowKey {
    RowKey(key.cast_unsigned())
}

/// The row of `table` (an SQLite name) with the number `seq`, or its last one.
pub fn read_row_mark(
    conn: &Connection,
    table: &str,
    seq: Option<Seq>,
) -> rusqlite::Result<Option<Mark>> {
    let which = match seq {
        Some(_) => "WHERE _seq = ?1",
        None => "WHERE _seq >= ?1 ORDER BY _seq DESC LIMIT 1",
    };
    let sql = format!(
        "SELECT _seq, _key, _epoch, _timestamp FROM {} {which}",
        quote(table)
    );
    // Not kept: acknowledgements are few, and a statement for each table would take memory.
    conn.prepare(&sql)?
        .query_row([seq.unwrap_or(0).cast_signed()], |row| mark_from(row, 0))
        .optional()
}

/// The names of a table's own columns, in order.
pub fn read_columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare_cached("SELECT name FROM pragma_table_info(?1)")?
        .query_map([table], |row| row.get(0))?
        .skip(OWN_COLUMNS)
        .collect()
}

impl Table {
    /// The table of `name` in `stream`, if there is one.
    pub fn load(
        conn: &Connection,
        stream: StreamId,
        name: &KpiName,
    ) -> rusqlite::Result<Option<Self>> {
        let found: Option<(i64, i64)> = conn
            .prepare_cached("SELECT id, epoch FROM \".files\" WHERE name = ?1")?
            .query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((file, epoch)) = found else {
            return Ok(None);
        };
        let marks = marks::read(conn, stream, name.as_str())?;
        let Marks {
            moved,
            acked,
            trimmed,
            ..
        } = marks;
        // When no row is left, the last one was the trimmed one: no number is given twice.
        let last = read_row_mark(conn, name.as_str(), None)?.unwrap_or(trimmed);
        let stamp = Stamp {
            seq: last.seq,
            time: last.time,
            // At least the last row's, and higher by one for each start of the program: a mark may
            // have been sent in an epoch that no row was ever stored in.
            epoch: epoch.cast_unsigned(),
        };
        Ok(Some(Self {
            file,
            state: State {
                head: TableHead::restored(stamp, acked, trimmed, moved),
                last_key: last.key,
                kept: keeper::sized(conn, name.as_str(), &marks, last.seq)?,
            },
            columns: None,
            insert: None,
            filed: None,
        }))
    }

    /// A new table, its file and its marks.
    pub fn create(
        conn: &Connection,
        stream: StreamId,
        point: &Point,
        data: &RowData,
    ) -> rusqlite::Result<Self> {
        let name = point.name.as_str();
        let labels: Vec<&str> = match data {
            RowData::Columns(columns) => columns.labels.iter().map(|l| &**l).collect(),
            RowData::Bytes => vec![DATA_COLUMN],
        };
        conn.execute_batch(&create_table(name, labels))?;
        conn.prepare_cached(
            "INSERT INTO \".files\" (name, mtime, epoch, content) VALUES (?1, 0, 0, x'')",
        )?
        .execute([name])?;
        let file = conn.last_insert_rowid();
        conn.prepare_cached("INSERT INTO \".marks\" (stream, name) VALUES (?1, ?2)")?
            .execute([&stream.to_string(), name])?;
        Ok(Self {
            file,
            state: State::default(),
            columns: None,
            insert: None,
            filed: None,
        })
    }

    /// Forgets what a transaction that failed may have added.
    pub fn put_back(&mut self, state: State) {
        self.state = state;
        self.columns = None;
        self.insert = None;
        self.filed = None;
    }

    /// The next store says in `.files` what the file gives.
    pub fn unfile(&mut self) {
        self.filed = None;
    }

    /// Notes what was acknowledged and trimmed.
    pub fn set_state(&mut self, state: State) {
        if state.head.trimmed.seq == state.head.last {
            // The last row is gone, and with it what the form is filled from.
            self.unfile();
        }
        self.state = state;
    }

    /// What `.files` has to be told after a row was added; nothing while the row gives the bytes back
    /// in the form that is there.
    pub fn file(&mut self, data: &RowData, bytes: &Arc<Vec<u8>>, stamp: Stamp) -> Option<Filing> {
        let known = |(form, epoch): &(Form, u64)| *epoch == stamp.epoch && form.gives(bytes, data);
        if self.filed.as_ref().is_some_and(known) {
            return None;
        }
        let form = Form::of(bytes, data);
        self.filed = form.clone().map(|form| (form, stamp.epoch));
        Some(Filing {
            form,
            bytes: Arc::clone(bytes),
            mtime: stamp.time,
        })
    }

    /// Adds a row and returns its number, time and epoch.
    pub fn insert(
        &mut self,
        conn: &Connection,
        point: &Point,
        key: RowKey,
        data: &RowData,
        bytes: &[u8],
    ) -> Result<Stamp, Fault> {
        self.state.kept.add(row_bytes(data, bytes));
        match data {
            RowData::Bytes => {
                if self.insert.is_none() {
                    self.prepare(point, &[DATA_COLUMN.into()]);
                }
                self.execute(conn, key, |stmt, at| stmt.raw_bind_parameter(at, bytes))
            }
            RowData::Columns(columns) => {
                if self
                    .insert
                    .as_ref()
                    .is_none_or(|(l, _)| *l != columns.labels)
                {
                    self.prepare(point, &columns.labels);
                }
                let values = &columns.values;
                self.execute(conn, key, |stmt, at| bind_values(stmt, at, values))
            }
        }
    }

    fn prepare(&mut self, point: &Point, labels: &[Box<str>]) {
        let mut sql = format!(
            "INSERT INTO {} (_seq, _timestamp, _epoch, _key",
            quote(point.name.as_str())
        );
        for label in labels {
            sql.push_str(", ");
            sql.push_str(&quote(label));
        }
        sql.push_str(") VALUES (?1, ?2, ?3, ?4");
        sql.push_str(&", ?".repeat(labels.len()));
        sql.push(')');
        self.insert = Some((labels.to_vec(), sql));
    }

    fn execute(
        &mut self,
        conn: &Connection,
        key: RowKey,
        bind: impl FnOnce(&mut rusqlite::Statement<'_>, usize) -> rusqlite::Result<()>,
    ) -> Result<Stamp, Fault> {
        let sql = self.insert.as_ref().map_or("", |(_, sql)| sql);
        let mut statement = conn.prepare_cached(sql)?;
        let stamp = self.state.head.next_stamp(Timestamp::now());
        statement.raw_bind_parameter(1, stamp.seq.cast_signed())?;
        statement.raw_bind_parameter(2, stamp.time.as_micros())?;
        statement.raw_bind_parameter(3, stamp.epoch.cast_signed())?;
        statement.raw_bind_parameter(4, key_to_sql(key))?;
        bind(&mut statement, OWN_COLUMNS + 1)?;
        statement.raw_execute()?;
        self.state.head.stored(stamp);
        self.state.last_key = Some(key);
        Ok(stamp)
    }

    /// Adds the columns that the row has and the table has not.
    pub fn widen(
        &mut self,
        conn: &Connection,
        point: &Point,
        columns: &Columns,
        limit: usize,
    ) -> Result<(), Fault> {
        if self
            .insert
            .as_ref()
            .is_some_and(|(l, _)| *l == columns.labels)
        {
            return Ok(());
        }
        let known = match self.columns.take() {
            Some(known) => known,
            None => read_columns(conn, point.name.as_str())?
                .iter()
                .map(|c| c.to_ascii_lowercase())
                .collect(),
        };
        let new: Vec<&str> = columns
            .labels
            .iter()
            .map(|l| &**l)
            .filter(|l| !known.contains(&l.to_ascii_lowercase()))
            .collect();
        let fits = known.len() + new.len() <= limit;
        let known = self.columns.insert(known);
        if !fits {
            return Err(Fault::Refused(StoreError::TooManyColumns {
                point: point.clone(),
                limit,
            }));
        }
        for label in new {
            conn.execute_batch(&format!(
                "ALTER TABLE {} ADD COLUMN {}",
                quote(point.name.as_str()),
                quote(label)
            ))?;
            known.insert(label.to_ascii_lowercase());
        }
        Ok(())
    }
}

fn bind_values(
    statement: &mut rusqlite::Statement<'_>,
    from: usize,
    values: &[Value],
) -> rusqlite::Result<()> {
    for (i, value) in values.iter().enumerate() {
        match value {
            Value::Null => statement.raw_bind_parameter(from + i, rusqlite::types::Null)?,
            Value::Integer(integer) => statement.raw_bind_parameter(from + i, integer)?,
            Value::Real(real) => statement.raw_bind_parameter(from + i, real)?,
            Value::Text(text) => statement.raw_bind_parameter(from + i, &**text)?,
        }
    }
    Ok(())
}

/// The row made of a file's bytes.
///
/// # Errors
/// They are no CSV, and the directory takes nothing else.
pub fn row_data(
    area: Area,
    bytes: &[u8],
    max_columns: usize,
) -> Result<RowData, crate::csv::CsvError> {
    match area {
        Area::Encrypted => Ok(RowData::Bytes),
        Area::Unencrypted => crate::csv::parse(bytes, max_columns).map(RowData::Columns),
    }
}
