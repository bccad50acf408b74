//! `.refused`: inputs that could not be stored, with the reason, so that bad input loses nothing.
//! Bounded: the last [`KEPT`] of them, the first [`KEPT_BYTES`] bytes of each, [`TOTAL_BYTES`] together,
//! and a count of all.

use rusqlite::{Connection, params};
use vmkpi::clock::Timestamp;

use super::schema::{meta, set_meta};

/// How many inputs are kept in each database.
pub const KEPT: i64 = 100;

/// How many bytes of each.
pub const KEPT_BYTES: usize = 4096;

/// How many bytes of inputs and reasons together; the newest is kept in any case.
const TOTAL_BYTES: i64 = 256 << 10;

/// How many characters of a reason.
const REASON_CHARS: usize = 500;

/// The key in `.meta` that counts every refused input.
pub const TOTAL: &str = "refused_total";

/// Keeps an input and returns its id; the oldest one goes when there are too many.
pub fn keep(conn: &Connection, name: &str, reason: &str, bytes: &[u8]) -> rusqlite::Result<i64> {
    let total = meta::<i64>(conn, TOTAL)?.unwrap_or(0);
    conn.prepare_cached(
        "INSERT INTO \".refused\" (name, timestamp, reason, size, input) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        name,
        Timestamp::now().as_micros(),
        reason.chars().take(REASON_CHARS).collect::<String>(),
        i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        &bytes[..bytes.len().min(KEPT_BYTES)],
    ])?;
    let id = conn.last_insert_rowid();
    conn.prepare_cached(
        "DELETE FROM \".refused\" WHERE id <> ?1 AND id NOT IN (SELECT id FROM (SELECT id, \
         row_number() OVER newest AS place, \
         sum(length(input) + length(name) + length(reason)) OVER newest AS bytes \
         FROM \".refused\" WINDOW newest AS (ORDER BY id DESC)) WHERE place <= ?2 AND bytes <= ?3)",
    )?
    .execute([id, KEPT, TOTAL_BYTES])?;
    set_meta(conn, TOTAL, total + 1)?;
    Ok(id)
}

/// Takes an input back: its handle went on and was stored, or was refused with more in it.
pub fn withdraw(conn: &Connection, id: i64) -> rusqlite::Result<()> {
    let total = meta::<i64>(conn, TOTAL)?.unwrap_or(0);
    conn.prepare_cached("DELETE FROM \".refused\" WHERE id = ?1")?
        .execute([id])?;
    set_meta(conn, TOTAL, (total - 1).max(0))?;
    Ok(())
}
