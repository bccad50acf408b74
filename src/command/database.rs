//! A command's database file: opened by one program at a time, brought to the newest schema, synced at each commit.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

/// Whose database it is, and how it came to be.
#[derive(Debug)]
pub struct Schema {
    /// The program, as `vmkpi collect`.
    pub program: &'static str,
    /// Migrations, by `user_version`; only ever added to. Each has a table `about` (name, value).
    pub migrations: &'static [&'static str],
}

/// How long another program may lock the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the write-ahead log shrinks to after a checkpoint, in bytes.
const LOG_BYTES: u32 = 64 << 20;
/// Page cache, in KiB (negative means KiB; SQLite, PRAGMA cache_size).
const CACHE_KIB: i32 = -65_536;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another one has it.
    #[error("{0}: another {1} uses it; each needs a database of its own")]
    Taken(PathBuf, &'static str),
    /// The lock beside it cannot be made.
    #[error("{0}: {1}")]
    Lock(PathBuf, std::io::Error),
    /// A later version made it.
    #[error("{0}: schema {1}, and this version knows up to {2}; use the newer vmkpi")]
    Newer(PathBuf, usize, usize),
    /// An earlier version made it, and nobody has brought it to this one.
    #[error("{0}: schema {1}; run {2} on it once, which brings it to schema {3}")]
    Older(PathBuf, usize, &'static str, usize),
    /// It is no database of ours.
    #[error("{0}: a database of something else than {1}")]
    Foreign(PathBuf, &'static str),
    /// There is none.
    #[error("{0}: there is no such database; {1} makes it")]
    None(PathBuf, &'static str),
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
    /// Another one has it, it is not ours, or SQLite cannot open it.
    pub fn open(path: &Path, schema: &Schema) -> Result<Self, OpenError> {
        let lock = lock(path, schema)?;
        let (connection, id) = open(path, schema.migrations).map_err(|error| match error {
            Unusable::Sqlite(error) => OpenError::Sqlite(path.to_owned(), error),
            Unusable::Newer(version) => {
                OpenError::Newer(path.to_owned(), version, schema.migrations.len())
            }
            Unusable::Foreign => OpenError::Foreign(path.to_owned(), schema.program),
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
fn lock(path: &Path, schema: &Schema) -> Result<File, OpenError> {
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
        Err(TryLockError::WouldBlock) => Err(OpenError::Taken(path.to_owned(), schema.program)),
        Err(TryLockError::Error(error)) => Err(OpenError::Lock(name, error)),
    }
}

fn open(path: &Path, migrations: &[&str]) -> Result<(Connection, String), Unusable> {
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
    migrate(&mut connection, migrations)?;
    let id = database_id(&connection)?;
    Ok((connection, id))
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Unusable> {
    let version: usize = connection.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if version > migrations.len() {
        return Err(Unusable::Newer(version));
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'about' OR ?1 = 0";
    let known: u64 = connection.query_row(tables, [version], |r| r.get(0))?;
    let any: u64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if known == 0 && version > 0 || version == 0 && any > 0 {
        return Err(Unusable::Foreign);
    }
    let transaction = connection.transaction()?;
    for (number, migration) in migrations.iter().enumerate().skip(version) {
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

/// Opens a database for reading, beside the program that writes to it or without one.
///
/// # Errors
/// It is not there, or none of ours.
pub fn open_to_read(path: &Path, schema: &Schema) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::None(path.to_owned(), schema.program));
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
        0 => Err(OpenError::Foreign(path.to_owned(), schema.program)),
        version if version > schema.migrations.len() => Err(OpenError::Newer(
            path.to_owned(),
            version,
            schema.migrations.len(),
        )),
        version if version < schema.migrations.len() => Err(OpenError::Older(
            path.to_owned(),
            version,
            schema.program,
            schema.migrations.len(),
        )),
        _ => Ok(connection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::collect::SCHEMA;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_database_is_one_programs_at_a_time_and_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kpi.db");
        let first = Database::open(&path, &SCHEMA).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(
            Database::open(&path, &SCHEMA),
            Err(OpenError::Taken(..))
        ));
        let id = first.id.clone();
        drop(first);
        assert_eq!(Database::open(&path, &SCHEMA).unwrap().id, id);
        open_to_read(&path, &SCHEMA).unwrap();
        assert!(matches!(
            open_to_read(&dir.path().join("no"), &SCHEMA),
            Err(OpenError::None(..))
        ));
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_to_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMA.migrations[0]).unwrap();
        old.execute_batch("INSERT INTO vm VALUES (1, 'acme', 'shop'); PRAGMA user_version = 1")
            .unwrap();
        assert!(matches!(
            open_to_read(&path, &SCHEMA),
            Err(OpenError::Older(..))
        ));
        drop(old);
        let schema = |path: &Path| {
            let connection = open_to_read(path, &SCHEMA).unwrap();
            let sql = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_schema ORDER BY name)";
            connection
                .query_row(sql, [], |r| r.get::<_, String>(0))
                .unwrap()
        };
        let opened = Database::open(&path, &SCHEMA).unwrap();
        let sql = "SELECT count(*) FROM vm";
        let kept: u64 = opened.connection.query_row(sql, [], |r| r.get(0)).unwrap();
        assert_eq!(kept, 1);
        let new = dir.path().join("new.db");
        drop(Database::open(&new, &SCHEMA).unwrap());
        assert_eq!(schema(&path), schema(&new));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE a (b)").unwrap();
        assert!(matches!(
            Database::open(&path, &SCHEMA),
            Err(OpenError::Foreign(..))
        ));
        other
            .execute_batch("DROP TABLE a; PRAGMA user_version = 99")
            .unwrap();
        assert!(matches!(
            Database::open(&path, &SCHEMA),
            Err(OpenError::Newer(_, 99, _))
        ));
        std::fs::write(dir.path().join("text.db"), "x".repeat(5000)).unwrap();
        let text = Database::open(&dir.path().join("text.db"), &SCHEMA);
        assert!(matches!(text, Err(OpenError::Sqlite(..))), "{text:?}");
    }
}
