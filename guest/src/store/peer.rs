//! What the host on the other end of the link may ask of the store: to list it, to acknowledge rows,
//! to promise that nothing earlier will follow. Whatever it claims is checked against the rows' keys.

use std::sync::Arc;

use rusqlite::Connection;
use vmkpi::clock::Timestamp;
use vmkpi::delivery::head::{AckVerdict, Stamp, TableHead};
use vmkpi::link::{Have, TableId, TableInfo};
use vmkpi::name::{DataPoint, KpiName};
use vmkpi::position::{Position, RowKey, Seq, StreamId};

use super::database::{Database, Outcome};
use super::marks::{self, Marks};
use super::schema::{history_name, meta, quote, set_meta, sql_name};
use super::table::read_row_mark;
use super::writer::Patience;
use super::{AckOutcome, HostClaim, Inventory, StoreError, TableMark, mint};

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
    let found = marks::list(conn)?;
    let mut tables = Vec::with_capacity(found.len());
    for (stream, name) in found {
        let table = sql_name(db.stream, stream, &name);
        let Marks {
            moved,
            acked,
            trimmed,
            ..
        } = marks::read(conn, stream, name.as_str())?;
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
    let Marks { acked, trimmed, .. } = marks::read(conn, table.stream, name.as_str())?;
    if acked.seq == 0 && trimmed.seq == 0 {
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
        if table.stream != self.stream {
            return self.acknowledge_earlier(table.stream, &name, cursors);
        }
        if !self.touch(&name)? {
            return Ok(Outcome::Ack(AckOutcome::Ignored));
        }
        let Some(mut state) = self.table_mut(&name).map(|t| t.state.clone()) else {
            return Ok(Outcome::Ack(AckOutcome::Ignored));
        };
        let conn = self.connection()?;
        let head = &mut state.head;
        let through = match head.judge_ack(cursors, key_of(conn, &name)) {
            AckVerdict::Refuted => return Ok(Outcome::Refuted),
            AckVerdict::Nothing => return Ok(Outcome::Ack(AckOutcome::Acked(head.acked))),
            AckVerdict::Through(seq) => seq,
        };
        let row = read_row_mark(conn, name.as_str(), Some(through))?;
        let Some(acked) = head.mark_at(through, row) else {
            // A row within a gap: the gap is confirmed whole.
            return Ok(Outcome::Ack(AckOutcome::Acked(head.acked)));
        };
        head.acked = acked;
        state.kept.wanted = true;
        state.kept.settle(state.head.last);
        marks::write(conn, self.stream, name.as_str(), &state.head, &state.kept)?;
        if let Some(found) = self.table_mut(&name) {
            found.set_state(state);
        }
        Ok(Outcome::Ack(AckOutcome::Acked(acked)))
    }

    /// Of an earlier stream only acknowledged rows are kept: what is left to acknowledge is a gap.
    fn acknowledge_earlier(
        &mut self,
        stream: StreamId,
        name: &KpiName,
        cursors: &[Position],
    ) -> rusqlite::Result<Outcome> {
        let conn = self.connection()?;
        let found = marks::read(conn, stream, name.as_str())?;
        let Some(gap) = found.gap() else {
            return Ok(Outcome::Ack(AckOutcome::Ignored));
        };
        let last = Stamp {
            seq: gap.through.seq,
            time: gap.through.time,
            epoch: gap.through.epoch,
        };
        let mut head = TableHead::restored(last, found.acked, found.trimmed, found.moved);
        if head.judge_ack(cursors, |_| None) != AckVerdict::Through(gap.through.seq) {
            return Ok(Outcome::Ack(AckOutcome::Acked(found.acked)));
        }
        head.acked = gap.through;
        marks::write(conn, stream, name.as_str(), &head, &found.kept)?;
        Ok(Outcome::Ack(AckOutcome::Acked(gap.through)))
    }

    /// Notes that a host has asked for these tables, within the open transaction.
    pub fn want(&mut self, names: &[KpiName]) -> rusqlite::Result<Outcome> {
        for name in names {
            let name = Arc::new(name.clone());
            if !self.touch(&name)? {
                continue;
            }
            let Some(table) = self.table_mut(&name).filter(|t| !t.state.kept.wanted) else {
                continue;
            };
            table.state.kept.wanted = true;
            self.write_sizes(&name)?;
        }
        Ok(Outcome::Done)
    }
}
