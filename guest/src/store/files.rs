//! `.files`: what reading a file of the partition gives, kept apart from its rows.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use vmkpi::clock::Timestamp;
use vmkpi::name::{Area, KpiName};

use super::Point;

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

/// Every file ever stored.
pub fn list(conn: &Connection, area: Area) -> rusqlite::Result<Vec<StoredFile>> {
    let mut statement = conn.prepare(
        "SELECT name, removed, length(content), mtime, mode FROM \".files\" ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    let mut files = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        // A name that another program put there and that is none of ours is left alone.
        let Ok(name) = name.parse::<KpiName>() else {
            tracing::warn!(%area, name, "a stored name is no KPI name and is left alone");
            continue;
        };
        files.push(StoredFile {
            point: Point {
                area,
                name: Arc::new(name),
            },
            removed: row.get(1)?,
            size: row.get::<_, i64>(2)?.cast_unsigned(),
            mtime: Timestamp::from_micros(row.get(3)?),
            mode: row.get(4)?,
        });
    }
    Ok(files)
}

/// Sets a file's bytes and time; it is there again if it was removed.
pub fn update(
    conn: &Connection,
    file: i64,
    epoch: u64,
    mtime: Timestamp,
    content: &[u8],
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE \".files\" SET removed = 0, mtime = ?2, epoch = ?3, content = ?4 WHERE id = ?1",
    )?
    .execute(params![
        file,
        mtime.as_micros(),
        epoch.cast_signed(),
        content
    ])?;
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
    conn.prepare_cached("SELECT content FROM \".files\" WHERE name = ?1 AND removed = 0")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// Removes a file: its rows stay, its bytes go.
pub fn remove(conn: &Connection, name: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE \".files\" SET removed = 1, content = x'' WHERE name = ?1")?
        .execute([name])?;
    Ok(())
}
