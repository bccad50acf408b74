//! `.files`: what reading a file of the partition gives. While the last row gives the bytes back, that
//! is a [`Form`] which a store need not touch; otherwise, and before the last row goes, the bytes themselves.

use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, params};
use vmkpi::clock::Timestamp;
use vmkpi::name::{Area, KpiName};
use vmkpi::value::Value;

use super::Point;
use super::form::Form;
use super::inspect::read_value;
use super::schema::{DATA_COLUMN, quote};

/// A file as the store knows it at start.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Its directory and name.
    pub point: Point,
    /// Whether it was removed: its rows stay, and its name is still taken in another case.
    pub removed: bool,
    /// Bytes of its last store.
    pub size: u64,
    /// When that was.
    pub mtime: Timestamp,
    /// Its permission bits, if they were ever changed.
    pub mode: Option<u16>,
}

/// What `.files` holds of a file.
struct Filed {
    form: Option<Form>,
    content: Vec<u8>,
    mtime: Timestamp,
}

/// A file's last bytes, and when they were stored.
struct Last {
    bytes: Vec<u8>,
    time: Timestamp,
}

/// Every file ever stored.
pub fn list(conn: &Connection, area: Area) -> rusqlite::Result<Vec<StoredFile>> {
    let mut statement =
        conn.prepare("SELECT name, removed, mtime, mode FROM \".files\" ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut files = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        // A name that another program put there and that is none of ours is left alone.
        let Ok(name) = name.parse::<KpiName>() else {
            tracing::warn!(%area, name, "a stored name is no KPI name and is left alone");
            continue;
        };
        let removed: bool = row.get(1)?;
        let mtime = Timestamp::from_micros(row.get(2)?);
        let last = last(conn, name.as_str())?;
        files.push(StoredFile {
            point: Point {
                area,
                name: Arc::new(name),
            },
            removed,
            size: last.as_ref().map_or(0, |last| last.bytes.len() as u64),
            mtime: last.map_or(mtime, |last| last.time),
            mode: row.get(3)?,
        });
    }
    Ok(files)
}

/// What `.files` is to say of a file after a store.
pub struct Filing {
    /// The form, when the last row gives the bytes back.
    pub form: Option<Form>,
    /// The bytes, needed where there is no form.
    pub bytes: Arc<Vec<u8>>,
    /// When the file was stored.
    pub mtime: Timestamp,
}

/// Sets what a file gives; it is there again if it was removed.
pub fn update(conn: &Connection, file: i64, epoch: u64, filing: &Filing) -> rusqlite::Result<()> {
    let content: &[u8] = match &filing.form {
        Some(_) => &[],
        None => &filing.bytes,
    };
    conn.prepare_cached(
        "UPDATE \".files\" SET removed = 0, mtime = ?2, epoch = ?3, content = ?4, form = ?5 WHERE id = ?1",
    )?
    .execute(params![
        file,
        filing.mtime.as_micros(),
        epoch.cast_signed(),
        content,
        filing.form.as_ref().map(Form::as_bytes),
    ])?;
    Ok(())
}

/// Keeps a file's bytes apart from its rows, because the last of them is about to go, or to be another's.
pub fn settle(conn: &Connection, name: &str) -> rusqlite::Result<()> {
    let Some(filed) = filed(conn, name)?.filter(|filed| filed.form.is_some()) else {
        return Ok(());
    };
    let last = of_row(conn, name, filed)?;
    conn.prepare_cached(
        "UPDATE \".files\" SET mtime = ?2, content = ?3, form = NULL WHERE name = ?1",
    )?
    .execute(params![name, last.time.as_micros(), last.bytes])?;
    Ok(())
}

/// Sets a file's permission bits; none: those of the mount.
pub fn set_mode(conn: &Connection, name: &str, mode: Option<u16>) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE \".files\" SET mode = ?2 WHERE name = ?1")?
        .execute(params![name, mode])?;
    Ok(())
}

/// A file's permission bits, if they were ever changed.
pub fn mode(conn: &Connection, name: &str) -> rusqlite::Result<Option<u16>> {
    conn.prepare_cached("SELECT mode FROM \".files\" WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
        .map(Option::flatten)
}

/// Notes the epoch of a row that was added without touching its file's name.
pub fn set_epoch(conn: &Connection, file: i64, epoch: u64) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE \".files\" SET epoch = ?2 WHERE id = ?1")?
        .execute(params![file, epoch.cast_signed()])?;
    Ok(())
}

/// The bytes of a file that is there.
pub fn content(conn: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(last(conn, name)?.map(|last| last.bytes))
}

fn last(conn: &Connection, name: &str) -> rusqlite::Result<Option<Last>> {
    // One snapshot: between two statements another store may change form and row.
    let snapshot = conn.is_autocommit().then(|| conn.unchecked_transaction());
    let snapshot = snapshot.transpose()?;
    let found = filed(conn, name)?;
    let last = found.map(|filed| of_row(conn, name, filed)).transpose()?;
    drop(snapshot);
    Ok(last)
}

/// What `.files` says of a file that is there.
fn filed(conn: &Connection, name: &str) -> rusqlite::Result<Option<Filed>> {
    conn.prepare_cached(
        "SELECT form, content, mtime FROM \".files\" WHERE name = ?1 AND removed = 0",
    )?
    .query_row([name], |row| {
        Ok(Filed {
            form: row.get::<_, Option<Vec<u8>>>(0)?.map(Form::stored),
            content: row.get(1)?,
            mtime: Timestamp::from_micros(row.get(2)?),
        })
    })
    .optional()
}

fn of_row(conn: &Connection, name: &str, filed: Filed) -> rusqlite::Result<Last> {
    let Some(form) = filed.form else {
        return Ok(Last {
            bytes: filed.content,
            time: filed.mtime,
        });
    };
    let labels = match form.is_all() {
        true => vec![DATA_COLUMN.into()],
        false => labels_of(&form)?,
    };
    let columns: String = labels.iter().map(|l| format!(", {}", quote(l))).collect();
    let sql = format!(
        "SELECT _timestamp{columns} FROM {} ORDER BY _seq DESC LIMIT 1",
        quote(name)
    );
    conn.prepare_cached(&sql)?.query_row([], |row| {
        let bytes = match form.is_all() {
            true => row.get(1)?,
            false => {
                let values: Result<Vec<Value>, _> = (1..=labels.len())
                    .map(|at| row.get_ref(at).map(read_value))
                    .collect();
                form.fill(&values?)
            }
        };
        Ok(Last {
            bytes,
            time: Timestamp::from_micros(row.get(0)?),
        })
    })
}

fn labels_of(form: &Form) -> rusqlite::Result<Vec<Box<str>>> {
    crate::csv::parse(&form.sample(), usize::MAX)
        .map(|columns| columns.labels)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(e)))
}

/// Removes a file: its rows stay, its bytes go.
pub fn remove(conn: &Connection, name: &str) -> rusqlite::Result<()> {
    settle(conn, name)?;
    conn.prepare_cached("UPDATE \".files\" SET removed = 1, content = x'' WHERE name = ?1")?
        .execute([name])?;
    Ok(())
}
