//! The database file: opened by one collect at a time, brought to the newest schema, synced at each commit.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

/// Migrations, by `user_version`; only ever added to. The first is what `schemas/collect.sql` documents.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../schemas/collect.sql"),
    include_str!("../../../schemas/collect.2.sql"),
];
/// How long another program may lock the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the write-ahead log shrinks to after a checkpoint, in bytes.
const LOG_BYTES: u32 = 64 << 20;
/// Page cache, in KiB (negative means KiB; SQLite, PRAGMA cache_size).
const CACHE_KIB: i32 = -65_536;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another collect has it.
    #[error("{0}: another vmkpi collect uses it; each needs a database of its own")]
    Taken(PathBuf),
    /// The lock beside it cannot be made.
    #[error("{0}: {1}")]
    Lock(PathBuf, std::io::Error),
    /// A later version made it.
    #[error("{0}: schema {1}, and this version knows up to {known}; use the newer vmkpi", known = MIGRATIONS.len())]
    Newer(PathBuf, usize),
    /// An earlier version made it, and nobody has brought it to this one.
    #[error("{0}: schema {1}; run vmkpi collect on it once, which brings it to schema {known}", known = MIGRATIONS.len())]
    Older(PathBuf, usize),
    /// It is no database of ours.
    #[error("{0}: a database of something else than vmkpi collect")]
    Foreign(PathBuf),
    /// There is none.
    #[error("{0}: there is no such database; vmkpi collect --db makes it")]
    None(PathBuf),
    /// SQLite says so.
    #[error("{0}: {1}")]
    Sqlite(PathBuf, rusqlite::Error),
}

/// A database that is ours until this is dropped.
#[derive(Debug)]
pub struct Database {
    pub connection: Connection,
    /// Random, made with the database.
    pub id: String,
    /// Held as long as the database is used.
    pub lock: File,
}

impl Database {
    /// Opens it for writing, and makes it if need be, readable by nobody else.
    ///
    /// # Errors
    /// Another collect has it, it is not ours, or SQLite cannot open it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let lock = lock(path)?;
        let (connection, id) = open(path).map_err(|error| match error {
            Unusable::Sqlite(error) => OpenError::Sqlite(path.to_owned(), error),
            Unusable::Newer(version) => OpenError::Newer(path.to_owned(), version),
            Unusable::Foreign => OpenError::Foreign(path.to_owned()),
        })?;
        Ok(Self {
            connection,
            id,
            lock,
        })
    }
}

enum Unusable {
    Sqlite(rusqlite::Error),
    Newer(usize),
    Foreign,
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A lock beside the database: SQLite's own are held for a transaction only.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|error| OpenError::Lock(name.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Taken(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Lock(name, error)),
    }
}

fn open(path: &Path) -> Result<(Connection, String), Unusable> {
    // SQLite gives a new file the modes of the umask; this one is its owner's.
    drop(
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(path),
    );
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection)?;
    let id = database_id(&connection)?;
    Ok((connection, id))
}

fn migrate(connection: &mut Connection) -> Result<(), Unusable> {
    let version: usize = connection.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if version > MIGRATIONS.len() {
        return Err(Unusable::Newer(version));
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'about' OR ?1 = 0";
    let known: u64 = connection.query_row(tables, [version], |r| r.get(0))?;
    let any: u64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if known == 0 && version > 0 || version == 0 && any > 0 {
        return Err(Unusable::Foreign);
    }
    let transaction = connection.transaction()?;
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number + 1)?;
    }
    transaction.commit()?;
    Ok(())
}

fn database_id(connection: &Connection) -> rusqlite::Result<String> {
    let sql = "SELECT value FROM about WHERE name = 'id'";
    if let Some(id) = connection.query_row(sql, [], |r| r.get(0)).optional()? {
        return Ok(id);
    }
    let sql = "INSERT INTO about SELECT 'id', lower(hex(randomblob(8))) RETURNING value";
    connection.query_row(sql, [], |r| r.get(0))
}

/// A number that `about` holds; 0 without one.
///
/// # Errors
/// SQLite says so.
pub fn number(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT value FROM about WHERE name = ?";
    let found = connection.query_row(sql, [name], |r| r.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

/// Keeps a number in `about`.
///
/// # Errors
/// SQLite says so.
pub fn set_number(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO about VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value";
    connection
        .prepare_cached(sql)?
        .execute(params![name, value])?;
    Ok(())
}

/// Opens a database for reading, beside a collect that writes to it or without one.
///
/// # Errors
/// It is not there, or none of ours.
pub fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::None(path.to_owned()));
    }
    let fail = |error| OpenError::Sqlite(path.to_owned(), error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Writable to SQLite, as a reader of a log needs the index beside it; to us it is not.
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(fail)?;
    let version: usize = connection
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(fail)?;
    match version {
        0 => Err(OpenError::Foreign(path.to_owned())),
        version if version > MIGRATIONS.len() => Err(OpenError::Newer(path.to_owned(), version)),
        version if version < MIGRATIONS.len() => Err(OpenError::Older(path.to_owned(), version)),
        _ => Ok(connection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_database_is_one_collects_at_a_time_and_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kpi.db");
        let first = Database::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Database::open(&path), Err(OpenError::Taken(_))));
        let id = first.id.clone();
        drop(first);
        assert_eq!(Database::open(&path).unwrap().id, id);
        open_to_read(&path).unwrap();
        assert!(matches!(
            open_to_read(&dir.path().join("no")),
            Err(OpenError::None(_))
        ));
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_to_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch("INSERT INTO vm VALUES (1, 'acme', 'shop'); PRAGMA user_version = 1")
            .unwrap();
        assert!(matches!(open_to_read(&path), Err(OpenError::Older(..))));
        drop(old);
        let schema = |path: &Path| {
            let connection = open_to_read(path).unwrap();
            let sql = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_schema ORDER BY name)";
            connection
                .query_row(sql, [], |r| r.get::<_, String>(0))
                .unwrap()
        };
        let opened = Database::open(&path).unwrap();
        let sql = "SELECT count(*) FROM vm";
        let kept: u64 = opened.connection.query_row(sql, [], |r| r.get(0)).unwrap();
        assert_eq!(kept, 1);
        let new = dir.path().join("new.db");
        drop(Database::open(&new).unwrap());
        assert_eq!(schema(&path), schema(&new));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE a (b)").unwrap();
        assert!(matches!(Database::open(&path), Err(OpenError::Foreign(_))));
        other
            .execute_batch("DROP TABLE a; PRAGMA user_version = 99")
            .unwrap();
        assert!(matches!(
            Database::open(&path),
            Err(OpenError::Newer(_, 99))
        ));
        std::fs::write(dir.path().join("text.db"), "x".repeat(5000)).unwrap();
        let text = Database::open(&dir.path().join("text.db"));
        assert!(matches!(text, Err(OpenError::Sqlite(..))), "{text:?}");
    }
}
