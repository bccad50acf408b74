//! The outbox's database: streams and their batches, `outbox.db` in the state directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{Batch, Left, Record};

/// Migrations, by `user_version`; only ever added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE stream (
        id INTEGER PRIMARY KEY,         -- the lane; never used twice
        stream TEXT NOT NULL UNIQUE,    -- its random id
        uuid TEXT NOT NULL,             -- the VM
        name TEXT NOT NULL,             -- the domain's name on this host, for the log
        descriptor TEXT NOT NULL,       -- JSON, as it was last
        shapes TEXT NOT NULL,           -- JSON: points and columns that rows name by number
        heads TEXT NOT NULL             -- JSON: what is acknowledged and trimmed of each point
    ) STRICT;
    CREATE TABLE batch (
        lane INTEGER NOT NULL,
        number INTEGER NOT NULL,        -- 1, 2, 3, ... in each stream
        body BLOB NOT NULL,             -- rows; see codec.rs
        PRIMARY KEY (lane, number)
    ) STRICT, WITHOUT ROWID;
"];

/// How long another program may lock the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// A later version made it.
    #[error(
        "{0}: format {1}, and this vmkpi-host knows up to {2}: use the newer vmkpi-host, which delivers what is in it; it was left as it is"
    )]
    Newer(PathBuf, usize, usize),
    /// SQLite says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// The open database.
pub(super) struct Store {
    connection: Connection,
}

impl Store {
    /// Opens it; one that cannot be read is set aside and a new one made.
    ///
    /// # Errors
    /// A later version made it, or SQLite cannot open it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        match Self::try_open(path) {
            Err(OpenError::Sqlite(error)) if is_corrupt(&error) => {
                let aside = path.with_extension("db.corrupt");
                tracing::error!(
                    database = %path.display(), set_aside = %aside.display(), %error,
                    "the outbox is corrupt: it was set aside and a new one begun; \
                     measurements that were not delivered are only in the one set aside"
                );
                for suffix in ["", "-wal", "-shm"] {
                    let with = |p: &Path| format!("{}{suffix}", p.display());
                    let _ = std::fs::rename(with(path), with(&aside));
                }
                Self::try_open(path)
            }
            other => other,
        }
    }

    fn try_open(path: &Path) -> Result<Self, OpenError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // Before anything is changed: a newer one is left as it is.
        let version: usize = connection.pragma_query_value(None, "user_version", |r| r.get(0))?;
        if version > MIGRATIONS.len() {
            return Err(OpenError::Newer(path.to_owned(), version, MIGRATIONS.len()));
        }
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
        let transaction = connection.transaction()?;
        for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", number + 1)?;
        }
        transaction.commit()?;
        Ok(Self { connection })
    }

    /// Every stream, the oldest first, with the number and size of each of its batches.
    pub fn streams(&self) -> rusqlite::Result<Vec<Left>> {
        let sql =
            "SELECT id, stream, uuid, name, descriptor, shapes, heads FROM stream ORDER BY id";
        let mut all = self.connection.prepare(sql)?;
        let records = all.query_map([], |row| {
            Ok(Record {
                lane: row.get(0)?,
                stream: row.get(1)?,
                uuid: row.get(2)?,
                name: row.get(3)?,
                descriptor: row.get(4)?,
                shapes: row.get(5)?,
                heads: row.get(6)?,
            })
        })?;
        let sql = "SELECT number, length(body) FROM batch WHERE lane = ? ORDER BY number";
        let mut sizes = self.connection.prepare(sql)?;
        let mut streams = Vec::new();
        for record in records {
            let record = record?;
            let found = sizes.query_map([record.lane], |row| Ok((row.get(0)?, row.get(1)?)))?;
            streams.push((record, found.collect::<Result<_, _>>()?));
        }
        Ok(streams)
    }

    /// At most `limit` batches of a stream from `from` on.
    pub fn read(&self, lane: u64, from: u64, limit: usize) -> rusqlite::Result<Vec<Batch>> {
        let sql =
            "SELECT number, body FROM batch WHERE lane = ? AND number >= ? ORDER BY number LIMIT ?";
        let mut page = self.connection.prepare_cached(sql)?;
        let found = page.query_map(params![lane, from, limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        found.collect()
    }

    /// Runs `work` in one transaction, synced to disk.
    pub fn commit(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        work(&transaction)?;
        transaction.commit()
    }

    /// Bytes on disk, the log left out.
    pub fn size_bytes(&self) -> rusqlite::Result<u64> {
        let get = |name| {
            self.connection
                .pragma_query_value(None, name, |row| row.get::<_, u64>(0))
        };
        Ok(get("page_count")? * get("page_size")?)
    }

    /// Gives unused pages back to the file system, some at a time.
    pub fn shrink(&self) -> rusqlite::Result<()> {
        let sql = "PRAGMA incremental_vacuum(1000)";
        self.connection.query_row(sql, [], |_| Ok(())).optional()?;
        Ok(())
    }
}

/// Begins a stream, or takes over a changed record of it.
pub(super) fn put_stream(to: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    let sql = "INSERT INTO stream (id, stream, uuid, name, descriptor, shapes, heads) \
               VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
               descriptor = excluded.descriptor, shapes = excluded.shapes, heads = excluded.heads";
    to.prepare_cached(sql)?.execute(params![
        record.lane,
        record.stream,
        record.uuid,
        record.name,
        record.descriptor,
        record.shapes,
        record.heads,
    ])?;
    Ok(())
}

/// Adds a batch.
pub(super) fn put_batch(to: &Transaction<'_>, lane: u64, batch: &Batch) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO batch (lane, number, body) VALUES (?, ?, ?)";
    to.prepare_cached(sql)?
        .execute(params![lane, batch.0, batch.1])?;
    Ok(())
}

/// Notes what is acknowledged and trimmed, and lets the batches through `through` go.
pub(super) fn settle(
    to: &Transaction<'_>,
    lane: u64,
    heads: &str,
    through: u64,
) -> rusqlite::Result<()> {
    to.prepare_cached("UPDATE stream SET heads = ? WHERE id = ?")?
        .execute(params![heads, lane])?;
    to.prepare_cached("DELETE FROM batch WHERE lane = ? AND number <= ?")?
        .execute(params![lane, through])?;
    Ok(())
}

/// Everything of the stream was delivered, or is given up.
pub(super) fn end(to: &Transaction<'_>, lane: u64) -> rusqlite::Result<()> {
    to.prepare_cached("DELETE FROM batch WHERE lane = ?")?
        .execute([lane])?;
    to.prepare_cached("DELETE FROM stream WHERE id = ?")?
        .execute([lane])?;
    Ok(())
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_of_a_newer_version_is_refused_by_name_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.db");
        drop(Store::open(&path).unwrap());
        let db = Connection::open(&path).unwrap();
        let newer = MIGRATIONS.len() + 1;
        db.pragma_update(None, "user_version", newer).unwrap();
        drop(db);
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path).map(|_| ()).unwrap_err().to_string();
        for said in [
            path.to_str().unwrap(),
            &format!("format {newer}"),
            "use the newer vmkpi-host",
        ] {
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_new_outbox_gives_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("outbox.db")).unwrap();
        let mode: i64 = store
            .connection
            .pragma_query_value(None, "auto_vacuum", |row| row.get(0))
            .unwrap();
        assert_eq!(mode, 2, "incremental");
    }
}
