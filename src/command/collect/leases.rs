//! What the Directory says of Producers, on its way to the database: the last word on each VM, written down once a
//! second. It may be lost: the broker has it, or the Producer says it again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, params};
use vmkpi::clock::Timestamp;
use vmkpi::directory::Lease;

/// What has ended so long ago is forgotten, in microseconds: 30 days.
const FORGOTTEN_US: i64 = 30 * 86_400 * 1_000_000;

/// What is to be written down of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// When it was said, in microseconds since 1970.
    issued: i64,
    /// When it ends.
    expires: i64,
    /// It was taken back.
    left: bool,
}

/// Leases by site and VM; as many as a Directory remembers, at most.
#[derive(Debug, Default)]
pub struct Leases(Mutex<BTreeMap<(String, String), Row>>);

impl Leases {
    /// Takes the last word on a VM; `left` where it was taken back.
    pub fn note(&self, lease: &Lease, left: bool) {
        let of = (
            lease.subject.site.to_string(),
            lease.subject.name.to_string(),
        );
        let row = Row {
            issued: lease.term.issued.as_micros(),
            expires: lease.term.expires_at.as_micros(),
            left,
        };
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(of, row);
    }

    /// Writes down what came since this was done before, in one transaction.
    ///
    /// # Errors
    /// SQLite says so; nothing is written down, and it is tried again.
    pub fn write(&self, connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = std::mem::take(&mut *waiting);
        drop(waiting);
        if rows.is_empty() {
            return Ok(());
        }
        let written = write(connection, &rows, now);
        if written.is_err() {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (of, row) in rows {
                // What came meanwhile is newer.
                waiting.entry(of).or_insert(row);
            }
        }
        written
    }
}

fn write(
    connection: &Connection,
    rows: &BTreeMap<(String, String), Row>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for ((site, vm), row) in rows {
        let sql = "INSERT INTO lease VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET \
                   issued = excluded.issued, expires = excluded.expires, removed = excluded.removed";
        let values = params![site, vm, row.issued, row.expires, row.left];
        transaction.prepare_cached(sql)?.execute(values)?;
    }
    let forgotten = now.as_micros() - FORGOTTEN_US;
    transaction.execute("DELETE FROM lease WHERE expires < ?", [forgotten])?;
    transaction.commit()
}
