//! Opening the databases: made when they are not there, checked when they are, and set aside, never
//! silently replaced, when they are corrupt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use vmkpi::clock::Timestamp;
use vmkpi::name::Area;
use vmkpi::position::StreamId;

use super::database::Database;
use super::{StoredFile, files, log, marks, mint, schema};
use crate::config::Limits;

/// Small pages: a store changes two or three of them, and each goes through the log whole.
const PAGE_BYTES: i64 = 1024;

/// How long a writer waits for another program's lock before its stores fail with EAGAIN.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What the write-ahead log is cut back to after a long reader let it grow.
pub const WAL_BYTES: u64 = 16 << 20;

/// Pages in the log at which a commit copies them into the database: the more often a page was written
/// meanwhile, the fewer copies. With a batch more, as many as one page of SQLite's index of the log holds (4,062):
/// each connection maps it.
const CHECKPOINT_PAGES: i64 = 3900;

/// Opens both databases, in the order of [`Area::ALL`], as one store of one stream.
pub fn open_both(
    directory: &Path,
    limits: Limits,
) -> anyhow::Result<(Vec<Database>, Vec<StoredFile>, Vec<PathBuf>)> {
    let mut databases = Vec::new();
    let mut stored = Vec::new();
    for area in Area::ALL {
        let path = directory.join(schema::file_name(area));
        let conn = open_or_set_aside(&path, limits)
            .with_context(|| format!("cannot open {}", path.display()))?;
        stored.extend(files::list(&conn, area)?);
        let stream = stream_of(&conn)?;
        databases.push(Database::new(area, path, stream, limits, conn));
    }
    mint::unite(&mut databases)?;
    Ok((databases, stored, set_aside(directory)))
}

/// Every database that was ever set aside in `directory`.
pub fn set_aside(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.contains(".db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .collect();
    found.sort();
    found
}

fn open_or_set_aside(path: &Path, limits: Limits) -> anyhow::Result<Connection> {
    let opened = open_checked(path, limits);
    let Err(error) = opened else {
        return opened;
    };
    if !is_corrupt(&error) {
        return Err(error);
    }
    let aside = move_aside(path)?;
    tracing::error!(
        database = %path.display(), set_aside = %aside.display(), reason = format!("{error:#}"),
        "the database is corrupt: it was set aside and a new one, with a new stream, is begun; \
         rows that were not delivered are only in the one set aside"
    );
    open_checked(path, limits)
}

fn open_checked(path: &Path, limits: Limits) -> anyhow::Result<Connection> {
    let size = std::fs::metadata(path).map_or(0, |m| m.len());
    // SQLite itself would take the log up to the damage and say nothing.
    if let Some(damage) = log::damage(path)? {
        return Err(Corrupt(damage).into());
    }
    let conn = connect(path, limits)?;
    if size > limits.checked_bytes {
        check_ends(&conn)?;
    } else if size > 0 {
        check(&conn, "PRAGMA quick_check(1)")?;
    }
    begin_epoch(&conn)?;
    Ok(conn)
}

fn check(conn: &Connection, pragma: &str) -> anyhow::Result<()> {
    let verdict: String = conn.query_row(pragma, [], |row| row.get(0))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(Corrupt(verdict).into()),
    }
}

/// Where new rows go and old ones are taken from: of a database too large to be read through, the own
/// tables whole, and of each other table the first and the last rows. What lies between is noticed when it
/// is read.
fn check_ends(conn: &Connection) -> anyhow::Result<()> {
    const ROWS: usize = 100;
    for own in [".meta", ".marks", ".refused"] {
        check(conn, &format!("PRAGMA quick_check('{own}')"))?;
    }
    let tables = marks::list(conn)?;
    let stream = stream_of(conn)?;
    for (of, name) in tables {
        let table = schema::quote(&schema::sql_name(stream, of, &name));
        for order in ["ASC", "DESC"] {
            let sql = format!("SELECT * FROM {table} ORDER BY _seq {order} LIMIT {ROWS}");
            let mut statement = conn.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                for at in 0..row.as_ref().column_count() {
                    row.get_ref(at)?;
                }
            }
        }
    }
    Ok(())
}

/// Opens a database again after a write failed: no check of the whole file, as writers wait.
pub fn reopen(path: &Path, limits: Limits) -> anyhow::Result<Connection> {
    let conn = connect(path, limits)?;
    begin_epoch(&conn)?;
    Ok(conn)
}

/// Rows from now on are of a later epoch than every row and every mark before: what this program has
/// forgotten (the last mark sent) cannot be contradicted.
fn begin_epoch(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute("UPDATE \".files\" SET epoch = epoch + 1", [])?;
    Ok(())
}

fn connect(path: &Path, limits: Limits) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "cache_size", -256)?;
    let log = i64::try_from(WAL_BYTES.min(limits.log_bytes)).unwrap_or(i64::MAX);
    conn.pragma_update(None, "journal_size_limit", log)?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    let pages = i64::try_from(limits.database_bytes).unwrap_or(i64::MAX) / PAGE_BYTES;
    conn.pragma_update(None, "max_page_count", pages)?;
    let first = log::FIRST_BYTES;
    log::settle(
        &conn,
        path,
        if 4 * first <= limits.log_bytes {
            first
        } else {
            0
        },
    )?;
    schema::migrate(&mut conn)?;
    if schema::meta::<String>(&conn, "stream")?.is_none() {
        schema::set_meta(&conn, "stream", mint::new_stream()?.to_string())?;
    }
    Ok(conn)
}

fn stream_of(conn: &Connection) -> anyhow::Result<StreamId> {
    let text = schema::meta::<String>(conn, "stream")?.unwrap_or_default();
    Ok(text.parse()?)
}

/// What `quick_check` or the look through the log found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Corrupt(String);

fn is_corrupt(error: &anyhow::Error) -> bool {
    if error.is::<Corrupt>() {
        return true;
    }
    error
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code)
        .is_some_and(|code| matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn move_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let stamp = Timestamp::now().as_micros();
    let aside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{stamp}{suffix}"));
        PathBuf::from(name)
    };
    for suffix in ["-wal", "-shm", ""] {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let moved = std::fs::rename(&from, aside(suffix));
        match moved {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.with_context(|| format!("cannot set {} aside", path.display()))?,
        }
    }
    Ok(aside(""))
}
