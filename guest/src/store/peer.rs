//! What the host on the other end of the link may ask of the store: to list it, to acknowledge rows,
//! to promise that nothing earlier will follow. Whatever it claims is checked against the rows' keys.

use std::sync::Arc;

use rusqlite::{Connection, params};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::head::AckVerdict;
use vmkpi::link::{Have, TableId, TableInfo};
use vmkpi::name::{DataPoint, KpiName};
use vmkpi::position::{Mark, Position, RowKey, Seq, StreamId};

use super::database::{Database, Outcome};
use super::schema::{history_name, meta, quote, set_meta};
use super::table::{key_to_sql, read_marks, read_row_mark};
use super::writer::Patience;
use super::{AckOutcome, HostClaim, Inventory, StoreError, TableMark, mint, retention};

/// Answers a host's `hello`; mints first where the host's memory or the VM's identity refutes the store.
///
/// # Errors
/// A database failed.
pub fn hello(databases: &mut [Database], claim: &HostClaim) -> Result<Inventory, StoreError> {
    let mut minted = None;
    if let Some(reason) = refuted(databases, claim)? {
        let stream = mint::mint(databases)?;
        tracing::warn!(%stream, reason, "a new stream is begun");
        minted = Some(reason);
    }
    remember_vm(databases, claim)?;
    Ok(Inventory {
        minted,
        ..inventory(databases)?
    })
}

fn refuted(databases: &mut [Database], claim: &HostClaim) -> Result<Option<String>, StoreError> {
    if let Some(db) = databases.first() {
        let told = |key| read(db, |conn| meta::<String>(conn, key));
        for (key, now, what) in [
            ("vm_uuid", &claim.uuid, "the VM has another UUID"),
            ("vm_genid", &claim.genid, "the VM has another generation id"),
        ] {
            if let (Some(before), Some(now)) = (told(key)?, now)
                && before != *now
            {
                return Ok(Some(what.into()));
            }
        }
    }
    for have in &claim.have {
        if refutes(databases, have)? {
            let Have { table, highest } = have;
            return Ok(Some(format!(
                "the host has read a row {} of {} that is not in this store",
                highest.seq, table.point
            )));
        }
    }
    Ok(None)
}

fn refutes(databases: &mut [Database], have: &Have) -> Result<bool, StoreError> {
    let DataPoint::Kpi(area, name) = &have.table.point else {
        return Ok(false);
    };
    let Some(db) = databases.iter_mut().find(|db| db.area == *area) else {
        return Ok(false);
    };
    if have.table.stream != db.stream || have.highest.seq == 0 {
        return Ok(false);
    }
    let name = Arc::new(name.clone());
    db.look(|db| {
        if !db.touch(&name)? {
            return Ok(true);
        }
        let head = db.table_mut(&name).map(|t| t.state.head.clone());
        let conn = db.connection()?;
        Ok(head.is_none_or(|head| head.refutes(have.highest, key_of(conn, &name))))
    })
}

fn key_of<'a>(conn: &'a Connection, name: &'a KpiName) -> impl Fn(Seq) -> Option<RowKey> + 'a {
    |seq| {
        read_row_mark(conn, name.as_str(), Some(seq))
            .ok()
            .flatten()
            .and_then(|mark| mark.key)
    }
}

fn remember_vm(databases: &mut [Database], claim: &HostClaim) -> Result<(), StoreError> {
    let Some(db) = databases.first_mut() else {
        return Ok(());
    };
    for (key, now) in [("vm_uuid", &claim.uuid), ("vm_genid", &claim.genid)] {
        let Some(now) = now else { continue };
        if read(db, |conn| meta::<String>(conn, key))?.as_ref() != Some(now) {
            db.transaction(Patience::Full, |db| set_meta(db.connection()?, key, now))
                .map_err(|failure| failure.error)?;
        }
    }
    Ok(())
}

fn read<T>(
    db: &Database,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    work(db.conn()?).map_err(|error| StoreError::Failed {
        area: db.area,
        reason: error.to_string(),
    })
}

/// Lists every table of every stream still held.
///
/// # Errors
/// A database failed.
pub fn inventory(databases: &[Database]) -> Result<Inventory, StoreError> {
    let mut tables = Vec::new();
    let mut stream = StreamId::default();
    for db in databases {
        stream = db.stream;
        tables.extend(read(db, |conn| list_tables(conn, db))?);
    }
    Ok(Inventory {
        stream,
        tables,
        minted: None,
    })
}

fn list_tables(conn: &Connection, db: &Database) -> rusqlite::Result<Vec<TableInfo>> {
    let mut statement = conn.prepare_cached("SELECT stream, name FROM \".marks\"")?;
    let found: Vec<(String, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut tables = Vec::with_capacity(found.len());
    for (stream, name) in found {
        let (Ok(stream), Ok(name)) = (stream.parse::<StreamId>(), name.parse::<KpiName>()) else {
            continue;
        };
        let table = match stream == db.stream {
            true => name.as_str().to_owned(),
            false => history_name(stream, &name),
        };
        let (moved, acked, trimmed) = read_marks(conn, stream, name.as_str())?;
        let first: Option<i64> = conn
            .prepare_cached(&format!("SELECT min(_seq) FROM {}", quote(&table)))?
            .query_row([], |row| row.get(0))?;
        let last = read_row_mark(conn, &table, None)?.unwrap_or(trimmed).seq;
        tables.push(TableInfo {
            table: TableId {
                stream,
                point: DataPoint::Kpi(db.area, name),
            },
            first: first.map_or(last + 1, i64::cast_unsigned),
            last,
            acked,
            moved,
        });
    }
    Ok(tables)
}

/// A mark for each of `tables` for which one can be given now.
///
/// # Errors
/// A database failed.
pub fn marks(databases: &mut [Database], tables: &[TableId]) -> Result<Vec<TableMark>, StoreError> {
    let now = Timestamp::now();
    let mut marks = Vec::with_capacity(tables.len());
    for table in tables {
        let DataPoint::Kpi(area, name) = &table.point else {
            continue;
        };
        if let Some(db) = databases.iter_mut().find(|db| db.area == *area) {
            marks.extend(mark(db, table, name, now)?);
        }
    }
    Ok(marks)
}

fn mark(
    db: &mut Database,
    table: &TableId,
    name: &KpiName,
    now: Timestamp,
) -> Result<Option<TableMark>, StoreError> {
    if table.stream != db.stream {
        return read(db, |conn| history_mark(conn, table, name, now));
    }
    let name = Arc::new(name.clone());
    db.look(|db| {
        db.touch(&name)?;
        Ok(db.table_mut(&name).and_then(|found| {
            let (epoch, time) = found.state.head.mark(now, true)?;
            Some(TableMark {
                table: table.clone(),
                position: found.state.last(),
                epoch,
                time,
                acked: found.state.head.acked,
            })
        }))
    })
}

/// Nothing will ever follow in an earlier stream: the promise is for the epoch after its last row's.
fn history_mark(
    conn: &Connection,
    table: &TableId,
    name: &KpiName,
    now: Timestamp,
) -> rusqlite::Result<Option<TableMark>> {
    let (_, acked, trimmed) = read_marks(conn, table.stream, name.as_str())?;
    if acked == Mark::default() {
        return Ok(None);
    }
    let history = history_name(table.stream, name);
    let last = read_row_mark(conn, &history, None)?.unwrap_or(trimmed);
    Ok(Some(TableMark {
        table: table.clone(),
        position: last.position(),
        epoch: last.epoch + 1,
        time: now,
        acked,
    }))
}

impl Database {
    /// Judges an acknowledgement and keeps what it comes to, within the open transaction.
    pub fn acknowledge(
        &mut self,
        table: &TableId,
        cursors: &[Position],
    ) -> rusqlite::Result<Outcome> {
        let DataPoint::Kpi(_, name) = &table.point else {
            return Ok(Outcome::Ack(AckOutcome::Ignored));
        };
        let name = Arc::new(name.clone());
        if table.stream != self.stream || !self.touch(&name)? {
            return Ok(Outcome::Ack(AckOutcome::Ignored));
        }
        let Some(mut head) = self.table_mut(&name).map(|t| t.state.head.clone()) else {
            return Ok(Outcome::Ack(AckOutcome::Ignored));
        };
        let (conn, retain, stream) = (self.connection()?, self.limits.retain_rows, self.stream);
        let through = match head.judge_ack(cursors, key_of(conn, &name)) {
            AckVerdict::Refuted => return Ok(Outcome::Refuted),
            AckVerdict::Nothing => return Ok(Outcome::Ack(AckOutcome::Acked(head.acked))),
            AckVerdict::Through(seq) => seq,
        };
        let Some(acked) = read_row_mark(conn, name.as_str(), Some(through))? else {
            return Ok(Outcome::Ack(AckOutcome::Acked(head.acked)));
        };
        head.acked = acked;
        retention::trim(conn, name.as_str(), &mut head, retain)?;
        write_marks(conn, stream, &name, head.acked, head.trimmed)?;
        if let Some(found) = self.table_mut(&name) {
            found.trimmed(head);
        }
        Ok(Outcome::Ack(AckOutcome::Acked(acked)))
    }
}

fn write_marks(
    conn: &Connection,
    stream: StreamId,
    name: &KpiName,
    acked: Mark,
    trimmed: Mark,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE \".marks\" SET acked_seq = ?3, acked_key = ?4, acked_epoch = ?5, \
         acked_timestamp = ?6, trimmed_seq = ?7, trimmed_key = ?8, trimmed_epoch = ?9, \
         trimmed_timestamp = ?10 WHERE stream = ?1 AND name = ?2",
    )?
    .execute(params![
        stream.to_string(),
        name.as_str(),
        acked.seq.cast_signed(),
        acked.key.map(key_to_sql),
        acked.epoch.cast_signed(),
        acked.time.as_micros(),
        trimmed.seq.cast_signed(),
        trimmed.key.map(key_to_sql),
        trimmed.epoch.cast_signed(),
        trimmed.time.as_micros(),
    ])?;
    Ok(())
}
