//! Reading the databases beside the writer, through connections that cannot write: pages of rows for
//! the link, a file's bytes for the partition, and everything for `status`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row as SqlRow};
use serde::Serialize;
use vmkpi::clock::Timestamp;
use vmkpi::link::{DatabaseUse, MAX_ROWS, Payload, Row, TableId};
use vmkpi::name::{Area, DataPoint, KpiName};
use vmkpi::position::{Seq, StreamId};
use vmkpi::value::{Base64Bytes, Value};

use super::log::log_path;
use super::marks::{self, Marks};
use super::schema::{OWN_COLUMNS, file_name, history_name, meta, quote};
use super::table::key_from_sql;
use super::{files, refused};

/// A reader of one database.
pub struct Reader {
    pub(super) conn: Connection,
    area: Area,
    path: PathBuf,
}

/// A page of rows.
#[derive(Default)]
pub struct Page {
    /// The columns' names.
    pub columns: Arc<[Box<str>]>,
    /// The rows, without a hole.
    pub rows: Vec<Row>,
}

/// What is kept of a refused input.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedInput {
    /// The file it was written to.
    pub point: String,
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
    /// Bytes written.
    pub size_bytes: i64,
    /// The first of them, as text.
    pub input: String,
}

impl Reader {
    /// Opens the database of `area` in `directory`.
    ///
    /// # Errors
    /// It is not there or is no database.
    pub fn open(directory: &Path, area: Area) -> rusqlite::Result<Self> {
        let path = directory.join(file_name(area));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags)?;
        conn.busy_timeout(Duration::from_secs(2))?;
        conn.pragma_update(None, "cache_size", -64)?;
        conn.set_prepared_statement_cache_capacity(64);
        Ok(Self { conn, area, path })
    }

    /// The bytes of a file that is there.
    ///
    /// # Errors
    /// The database failed.
    pub fn content(&self, name: &KpiName) -> rusqlite::Result<Option<Vec<u8>>> {
        files::content(&self.conn, name.as_str())
    }

    /// The stream that new rows go to.
    ///
    /// # Errors
    /// The database failed.
    pub fn stream(&self) -> rusqlite::Result<StreamId> {
        let text = meta::<String>(&self.conn, "stream")?.unwrap_or_default();
        Ok(text.parse().unwrap_or_default())
    }

    /// Rows of `table` from `from` on: at most `limit` and [`MAX_ROWS`], and no more than about
    /// `max_bytes` but for the first. None when the stream has ended meanwhile.
    ///
    /// # Errors
    /// The database failed.
    pub fn page(
        &self,
        table: &TableId,
        from: Seq,
        limit: usize,
        max_bytes: usize,
    ) -> rusqlite::Result<Option<Page>> {
        let DataPoint::Kpi(area, name) = &table.point else {
            return Ok(None);
        };
        // One snapshot: a mint between the two statements would show another stream's rows.
        let snapshot = self.conn.unchecked_transaction()?;
        let sql_name = match table.stream == self.stream()? {
            true => name.as_str().to_owned(),
            false => history_name(table.stream, name),
        };
        if !self.has_table(&sql_name)? {
            return Ok(None);
        }
        let sql = format!(
            "SELECT * FROM {} WHERE _seq >= ?1 ORDER BY _seq LIMIT ?2",
            quote(&sql_name)
        );
        let mut statement = snapshot.prepare_cached(&sql)?;
        let limit = i64::try_from(limit.min(MAX_ROWS)).unwrap_or(0);
        let mut found = statement.query([from.max(1).cast_signed(), limit])?;
        let mut page = Page {
            columns: Arc::new([]),
            rows: Vec::new(),
        };
        let mut bytes = 0;
        while let Some(row) = found.next()? {
            if page.rows.is_empty() && *area == Area::Unencrypted {
                page.columns = columns_of(row);
            }
            let row = read_row(row, *area, page.columns.len())?;
            bytes += size_of(&row.payload);
            if bytes > max_bytes && !page.rows.is_empty() {
                break;
            }
            page.rows.push(row);
        }
        Ok(Some(page))
    }

    pub(super) fn has_table(&self, name: &str) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
            )?
            .query_row([name], |row| row.get(0))
    }

    /// What is acknowledged, trimmed and lost of a table.
    ///
    /// # Errors
    /// The database failed.
    pub fn marks(&self, table: &TableId) -> rusqlite::Result<Marks> {
        let DataPoint::Kpi(_, name) = &table.point else {
            return Ok(Marks::default());
        };
        marks::read(&self.conn, table.stream, name.as_str())
    }

    /// Rows of a name that were dropped before they were acknowledged, in every stream still held.
    ///
    /// # Errors
    /// The database failed.
    pub fn lost(&self, name: &KpiName) -> rusqlite::Result<u64> {
        marks::lost(&self.conn, name.as_str())
    }

    /// How full the database is, where `limit` bytes are what it may have.
    ///
    /// # Errors
    /// The database failed, or its disk does not say what is free.
    pub fn usage(&self, limit: u64) -> anyhow::Result<DatabaseUse> {
        let file = self.pages_bytes("page_count")?;
        let disk = nix::sys::statvfs::statvfs(&self.path)?;
        let room = disk.blocks_available().saturating_mul(disk.fragment_size());
        Ok(DatabaseUse {
            bytes: file.saturating_sub(self.free_bytes()?),
            limit: limit.min(file.saturating_add(room)),
        })
    }

    /// Bytes of the database that are free and used again.
    ///
    /// # Errors
    /// The database failed.
    pub fn free_bytes(&self) -> rusqlite::Result<u64> {
        self.pages_bytes("freelist_count")
    }

    /// Bytes of the pages that a pragma counts.
    fn pages_bytes(&self, count: &str) -> rusqlite::Result<u64> {
        let pragma = |name| -> rusqlite::Result<i64> {
            self.conn
                .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
        };
        Ok((pragma(count)? * pragma("page_size")?).cast_unsigned())
    }

    /// How many inputs were ever refused, and the last ones.
    ///
    /// # Errors
    /// The database failed.
    pub fn refused(&self) -> rusqlite::Result<(i64, Vec<RefusedInput>)> {
        let total = meta::<i64>(&self.conn, refused::TOTAL)?.unwrap_or(0);
        let mut statement = self.conn.prepare_cached(
            "SELECT name, timestamp, reason, size, input FROM \".refused\" ORDER BY id DESC",
        )?;
        let inputs = statement.query_map([], |row| {
            let input: Vec<u8> = row.get(4)?;
            Ok(RefusedInput {
                point: format!("{}/{}", self.area, row.get::<_, String>(0)?),
                time: Timestamp::from_micros(row.get(1)?),
                reason: row.get(2)?,
                size_bytes: row.get(3)?,
                input: String::from_utf8_lossy(&input).into_owned(),
            })
        })?;
        Ok((total, inputs.collect::<Result<_, _>>()?))
    }

    /// The files, removed ones included.
    ///
    /// # Errors
    /// The database failed.
    pub fn files(&self) -> rusqlite::Result<Vec<super::StoredFile>> {
        files::list(&self.conn, self.area)
    }

    /// The first and the last `_seq` held of a name's table, if it holds any.
    ///
    /// # Errors
    /// The database failed.
    pub fn extent(&self, name: &KpiName) -> rusqlite::Result<Option<(Seq, Seq)>> {
        let table = quote(name.as_str());
        let sql =
            format!("SELECT (SELECT min(_seq) FROM {table}), (SELECT max(_seq) FROM {table})");
        self.conn.prepare_cached(&sql)?.query_row([], |row| {
            let ends: (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(match ends {
                (Some(first), Some(last)) => Some((first.cast_unsigned(), last.cast_unsigned())),
                _ => None,
            })
        })
    }

    /// Bytes of the database and of its write-ahead log.
    pub fn disk_bytes(&self) -> (u64, u64) {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        (size(&self.path), size(&log_path(&self.path)))
    }
}

pub(super) fn columns_of(row: &SqlRow<'_>) -> Arc<[Box<str>]> {
    let statement: &rusqlite::Statement<'_> = row.as_ref();
    statement
        .column_names()
        .skip(OWN_COLUMNS)
        .map(Box::from)
        .collect()
}

pub(super) fn read_row(row: &SqlRow<'_>, area: Area, columns: usize) -> rusqlite::Result<Row> {
    let payload = match area {
        Area::Encrypted => Payload::Data(Base64Bytes(
            row.get_ref(OWN_COLUMNS)?
                .as_bytes_or_null()
                .ok()
                .flatten()
                .unwrap_or_default()
                .to_vec(),
        )),
        Area::Unencrypted => Payload::Values(
            (OWN_COLUMNS..OWN_COLUMNS + columns)
                .map(|at| row.get_ref(at).map(read_value))
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Row {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        time: Timestamp::from_micros(row.get(1)?),
        epoch: row.get::<_, i64>(2)?.cast_unsigned(),
        key: key_from_sql(row.get(3)?),
        payload,
    })
}

/// A value as SQLite holds it.
pub fn read_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            Value::Text(String::from_utf8_lossy(text).into())
        }
    }
}

/// About what a row takes in JSON.
pub(super) fn size_of(payload: &Payload) -> usize {
    const FRAME: usize = 120;
    FRAME
        + match payload {
            Payload::Data(data) => data.0.len() * 4 / 3,
            Payload::Values(values) => values
                .iter()
                .map(|v| match v {
                    Value::Text(text) => text.len() + 3,
                    _ => 12,
                })
                .sum(),
        }
}
