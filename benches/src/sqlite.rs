//! Rows straight into SQLite, as durable as the product's: the floor of what a commit costs here.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

/// A database with a table for each file, of the shape that the product's have.
pub struct Rows(Connection);

impl Rows {
    /// Opens or makes it in `dir`.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let conn = Connection::open(dir.join("rows.db"))?;
        conn.set_prepared_statement_cache_capacity(128);
        conn.pragma_update(None, "page_size", 1024)?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self(conn))
    }

    /// Commits one row to the table of file `n`.
    pub fn insert(&self, n: u64) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT INTO w{n} VALUES (NULL, 1700000000000000, 1, ?1, 12345, 0.75, 'web-00')"
        );
        let mut statement = match self.0.prepare_cached(&sql) {
            Ok(statement) => statement,
            Err(_) => {
                self.0.execute_batch(&format!(
                    "CREATE TABLE w{n} (_seq INTEGER PRIMARY KEY, _timestamp, _epoch, _key, users, load, name)"
                ))?;
                self.0.prepare_cached(&sql)?
            }
        };
        statement.execute(params![n.cast_signed()])?;
        Ok(())
    }
}

/// Commits of one row a second, one after the other, in the calling thread.
pub fn commits_per_second(dir: &Path, length: Duration) -> anyhow::Result<f64> {
    let rows = Rows::open(dir)?;
    rows.insert(0)?;
    let (began, mut commits) = (Instant::now(), 0_u32);
    while began.elapsed() < length {
        rows.insert(0)?;
        commits += 1;
    }
    Ok(f64::from(commits) / began.elapsed().as_secs_f64())
}
