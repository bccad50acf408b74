//! The shape of a database, and how an older one becomes the newest: migrations, append-only, one
//! transaction, under `user_version`. schemas/store.sql documents the result and a test compares.

use rusqlite::Connection;
use vmkpi::name::{Area, KpiName};
use vmkpi::position::StreamId;

/// "vkpi", so that `file` and a person can tell what the database is.
pub const APPLICATION_ID: i32 = 0x766b_7069;

/// Each brings a database from the version of its index to the next.
const MIGRATIONS: &[&str] = &[
    r#"
CREATE TABLE ".meta" (
    key TEXT NOT NULL PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;
CREATE TABLE ".files" (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    removed INTEGER NOT NULL DEFAULT 0,
    mtime INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    content BLOB NOT NULL
);
CREATE TABLE ".marks" (
    stream TEXT NOT NULL,
    name TEXT NOT NULL,
    moved INTEGER NOT NULL DEFAULT 0,
    acked_seq INTEGER NOT NULL DEFAULT 0,
    acked_key INTEGER,
    acked_epoch INTEGER NOT NULL DEFAULT 0,
    acked_timestamp INTEGER NOT NULL DEFAULT 0,
    trimmed_seq INTEGER NOT NULL DEFAULT 0,
    trimmed_key INTEGER,
    trimmed_epoch INTEGER NOT NULL DEFAULT 0,
    trimmed_timestamp INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, name)
) WITHOUT ROWID;
CREATE TABLE ".refused" (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    reason TEXT NOT NULL,
    size INTEGER NOT NULL,
    input BLOB NOT NULL
);
"#,
    // While the last row of a file gives its bytes back, how: see form.rs.
    r#"
ALTER TABLE ".files" ADD COLUMN form BLOB;
"#,
    RETENTION,
    // Permission bits after a chmod.
    r#"
ALTER TABLE ".files" ADD COLUMN mode INTEGER;
"#,
];

/// What retention goes by; and ids of refused inputs that are never given twice, as a handle may hold one
/// for long.
const RETENTION: &str = r#"
ALTER TABLE ".marks" ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ".marks" ADD COLUMN sized_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ".marks" ADD COLUMN wanted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ".marks" ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ".marks" ADD COLUMN lost_reason TEXT;
UPDATE ".marks" SET wanted = 1 WHERE acked_seq > 0;
CREATE TABLE ".refused-new" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    reason TEXT NOT NULL,
    size INTEGER NOT NULL,
    input BLOB NOT NULL
);
INSERT INTO ".refused-new" SELECT id, name, timestamp, reason, size, input FROM ".refused";
DROP TABLE ".refused";
ALTER TABLE ".refused-new" RENAME TO ".refused";
"#;

/// A database that a newer program has written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database has format {found}, and this program knows formats up to {known}: use a newer vmkpi-guest"
)]
pub struct TooNew {
    found: usize,
    known: usize,
}

/// Brings the database to the newest format; a new one gets a stream of its own.
///
/// # Errors
/// SQLite fails, or the database is too new.
pub fn migrate(conn: &mut Connection) -> anyhow::Result<()> {
    let found: u32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let found = found as usize;
    if found > MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        return Err(TooNew { found, known }.into());
    }
    if found == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for migration in &MIGRATIONS[found..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    transaction.commit()?;
    Ok(())
}

/// An SQLite identifier, quoted.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table that holds what was acknowledged of `name` in the earlier stream `stream`.
pub fn history_name(stream: StreamId, name: &KpiName) -> String {
    format!(".stream-{stream}/{name}")
}

/// The table that holds the rows of `name` in `stream`, where `current` is the stream of new rows.
pub fn sql_name(current: StreamId, stream: StreamId, name: &KpiName) -> String {
    match stream == current {
        true => name.as_str().to_owned(),
        false => history_name(stream, name),
    }
}

/// The statement that makes a KPI's table. Columns have no declared type, so a value keeps its own.
pub fn create_table<'a>(table: &str, columns: impl IntoIterator<Item = &'a str>) -> String {
    let mut sql = format!(
        "CREATE TABLE {} (\n    _seq INTEGER PRIMARY KEY,\n    _timestamp INTEGER NOT NULL,\n    \
         _epoch INTEGER NOT NULL,\n    _key INTEGER NOT NULL",
        quote(table)
    );
    for column in columns {
        sql.push_str(",\n    ");
        sql.push_str(&quote(column));
    }
    sql.push_str("\n)");
    sql
}

/// How many columns of every table are vmkpi's own: `_seq`, `_timestamp`, `_epoch`, `_key`.
pub const OWN_COLUMNS: usize = 4;

/// The only column of a table of encrypted rows.
pub const DATA_COLUMN: &str = "data";

/// The database's file name.
pub fn file_name(area: Area) -> String {
    format!("{area}.db")
}

/// A value of `.meta`.
///
/// # Errors
/// SQLite fails.
pub fn meta<T: rusqlite::types::FromSql>(
    conn: &Connection,
    key: &str,
) -> rusqlite::Result<Option<T>> {
    use rusqlite::OptionalExtension as _;
    conn.prepare_cached("SELECT value FROM \".meta\" WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// Sets a value of `.meta`.
///
/// # Errors
/// SQLite fails.
pub fn set_meta(conn: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO \".meta\" (key, value) VALUES (?1, ?2)")?
        .execute(rusqlite::params![key, value])?;
    Ok(())
}
