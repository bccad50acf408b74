//! A new stream, when the store is found to have gone back in time (a snapshot was reverted, a disk
//! restored, a machine cloned). Acknowledged rows stay behind in tables named `.stream-HEX/NAME`; all
//! others move, from `_seq` 1, in order, with their keys.

use rusqlite::{Connection, params};
use vmkpi::name::{Area, KpiName};
use vmkpi::position::StreamId;

use super::StoreError;
use super::database::Database;
use super::schema::{create_table, history_name, meta, quote, set_meta};
use super::table::read_columns;
use super::writer::Patience;
use super::{files, marks};

/// How many earlier streams are kept, for consumers that are still behind in one.
const KEPT_STREAMS: usize = 8;

/// The key in `.meta` that lists the earlier streams, oldest first, separated by blanks.
pub(super) const HISTORY: &str = "earlier_streams";

/// 128 random bits.
pub fn new_stream() -> anyhow::Result<StreamId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(StreamId(u128::from_ne_bytes(bytes)))
}

/// Both databases are one store of one stream. They differ when one was set aside, restored by itself,
/// or when a mint was cut off in the middle: then a new one is minted for both.
pub fn unite(databases: &mut [Database]) -> anyhow::Result<()> {
    let first = databases.first().map(|db| db.stream);
    if databases.iter().all(|db| Some(db.stream) == first) {
        return Ok(());
    }
    if let Some(stream) = first
        && databases.iter().all(|db| is_empty(db).unwrap_or(false))
    {
        // Both are new, and nobody has read anything of either.
        for db in databases {
            set_meta(db.connection()?, "stream", stream.to_string())?;
            db.stream = stream;
        }
        return Ok(());
    }
    let stream = mint(databases)?;
    tracing::warn!(%stream, "the databases were of two streams: both begin a new one");
    Ok(())
}

fn is_empty(db: &Database) -> rusqlite::Result<bool> {
    db.connection()?
        .query_row("SELECT NOT EXISTS (SELECT 1 FROM \".files\")", [], |r| {
            r.get(0)
        })
}

/// Begins a new stream in both databases. Cut off between the two, [`unite`] begins yet another.
///
/// # Errors
/// A database failed; it still has its earlier stream.
pub fn mint(databases: &mut [Database]) -> Result<StreamId, StoreError> {
    let stream = new_stream().map_err(|error| StoreError::Failed {
        area: Area::Unencrypted,
        reason: error.to_string(),
    })?;
    for db in databases {
        let old = db.stream;
        db.transaction(Patience::Full, |db| {
            move_rows(db.connection()?, old, stream)
        })
        .map_err(|failure| failure.error)?;
        db.forget_tables();
        db.stream = stream;
    }
    Ok(stream)
}

fn move_rows(conn: &Connection, old: StreamId, new: StreamId) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("SELECT name FROM \".files\" ORDER BY id")?;
    let names: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for name in names {
        if let Ok(name) = name.parse::<KpiName>() {
            move_table(conn, old, new, &name)?;
        }
    }
    set_meta(conn, "stream", new.to_string())?;
    remember(conn, old)
}

fn move_table(
    conn: &Connection,
    old: StreamId,
    new: StreamId,
    name: &KpiName,
) -> rusqlite::Result<()> {
    let before = marks::read(conn, old, name.as_str())?;
    files::settle(conn, name.as_str())?;
    let columns = read_columns(conn, name.as_str())?;
    let table = quote(name.as_str());
    let history = history_name(old, name);
    // Rows that were dropped are no rows of the new stream: their gap stays in the old one.
    let through = before.acked.seq.max(before.trimmed.seq).cast_signed();
    let past = quote(&history);
    conn.execute_batch(&format!("ALTER TABLE {table} RENAME TO {past}"))?;
    conn.execute_batch(&create_table(
        name.as_str(),
        columns.iter().map(String::as_str),
    ))?;
    let own: String = columns.iter().map(|c| format!(", {}", quote(c))).collect();
    let moved = conn.execute(
        &format!(
            "INSERT INTO {table} (_seq, _timestamp, _epoch, _key{own}) \
             SELECT _seq - ?1, _timestamp, _epoch, _key{own} FROM {past} WHERE _seq > ?1 ORDER BY _seq"
        ),
        [through],
    )?;
    conn.execute(&format!("DELETE FROM {past} WHERE _seq > ?1"), [through])?;
    if through == 0 {
        conn.execute_batch(&format!("DROP TABLE {past}"))?;
        conn.execute(
            "DELETE FROM \".marks\" WHERE stream = ?1 AND name = ?2",
            params![old.to_string(), name.as_str()],
        )?;
    }
    // What rows weigh is measured again in both.
    conn.execute(
        "UPDATE \".marks\" SET bytes = 0, sized_seq = 0 WHERE stream = ?1 AND name = ?2",
        params![old.to_string(), name.as_str()],
    )?;
    conn.execute(
        "INSERT INTO \".marks\" (stream, name, moved, wanted) VALUES (?1, ?2, ?3, ?4)",
        params![
            new.to_string(),
            name.as_str(),
            i64::try_from(moved).unwrap_or(i64::MAX),
            before.kept.wanted
        ],
    )?;
    Ok(())
}

/// Adds `old` to the earlier streams and drops those beyond [`KEPT_STREAMS`].
fn remember(conn: &Connection, old: StreamId) -> rusqlite::Result<()> {
    let mut streams: Vec<String> = meta::<String>(conn, HISTORY)?
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    streams.push(old.to_string());
    while streams.len() > KEPT_STREAMS {
        let oldest = streams.remove(0);
        let mut statement = conn.prepare("SELECT name FROM \".marks\" WHERE stream = ?1")?;
        let names: Vec<String> = statement
            .query_map([&oldest], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for name in names {
            let table = quote(&format!(".stream-{oldest}/{name}"));
            conn.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
        conn.execute("DELETE FROM \".marks\" WHERE stream = ?1", [&oldest])?;
    }
    set_meta(conn, HISTORY, streams.join(" "))
}
