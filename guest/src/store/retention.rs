//! Which rows go: acknowledged ones beyond the number kept. Rows that nobody has acknowledged are never
//! dropped; when the database is full their writer gets ENOSPC.

use rusqlite::Connection;
use vmkpi::delivery::head::TableHead;

use super::files;
use super::schema::quote;
use super::table::read_row_mark;

/// Rows taken in one transaction at the most: stores wait for it.
const CHUNK: u64 = 1000;

/// Trims the table and notes it in `head`; whoever calls writes the marks.
pub fn trim(
    conn: &Connection,
    name: &str,
    head: &mut TableHead,
    retain_rows: u64,
) -> rusqlite::Result<()> {
    let through = head
        .acked
        .seq
        .min(head.last.saturating_sub(retain_rows))
        .min(head.trimmed.seq + CHUNK);
    if through <= head.trimmed.seq {
        return Ok(());
    }
    let Some(mark) = read_row_mark(conn, name, Some(through))? else {
        return Ok(());
    };
    if through == head.last {
        files::settle(conn, name)?;
    }
    conn.prepare_cached(&format!("DELETE FROM {} WHERE _seq <= ?1", quote(name)))?
        .execute([through.cast_signed()])?;
    head.trimmed = mark;
    Ok(())
}
