//! One of the two databases as the writer holds it: a transaction at a time, and what a failed one
//! leaves behind.
//!
//! ```text
//! open ── begin ── apply each job ── commit ── open           tables keep what the jobs changed
//!            │            │             │
//!            └────────────┴── fails ────┴── roll back          tables are put back
//!                                            ├── locked, full; write or sync failed: open, and the
//!                                            │   next transaction takes the same place in the log
//!                                            └── corrupt, not rolled back: closed; opened anew
//!                                                before the next batch, each epoch one higher
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use rusqlite::{Connection, ErrorCode};
use vmkpi::name::{Area, KpiName};
use vmkpi::position::{RowKey, Seq, StreamId};

use super::files::Filing;
use super::keeper::Keeper;
use super::table::{Fault, State, Table, row_data};
use super::wal::Log;
use super::writer::Patience;
use super::{
    AckOutcome, Job, NameEffect, Point, RowData, StoreError, Stored, files, open, probe, refused,
};
use crate::config::Limits;

/// What a job came to.
pub enum Outcome {
    /// A row is stored.
    Stored(Stored),
    /// A file is removed; these were its bytes.
    Content(Vec<u8>),
    /// A file's permission bits are set.
    Changed,
    /// An input is kept under this id.
    Refused(i64),
    /// An acknowledgement was taken or left.
    Ack(AckOutcome),
    /// An acknowledgement names a row that this store never had: mint.
    Refuted,
    /// Nothing to tell.
    Done,
}

/// One database.
pub struct Database {
    /// Which.
    pub area: Area,
    /// Its file.
    pub path: PathBuf,
    /// The stream that new rows go to.
    pub stream: StreamId,
    /// The bounds.
    pub limits: Limits,
    /// How long the connection waits for another program's lock.
    patience: Patience,
    /// Absent after a failure that could not be rolled back, until it is opened anew.
    conn: Option<Connection>,
    /// The tables used so far.
    tables: HashMap<Arc<KpiName>, Table>,
    /// The tables that the open transaction has changed, as they were before; absent: made by it.
    touched: HashMap<Arc<KpiName>, Option<State>>,
    /// What `.files` is to say of the files that the open transaction has stored: only the last is
    /// written.
    filings: HashMap<Arc<KpiName>, Filing>,
    /// What retention has to do.
    pub keeper: Keeper,
    /// The write-ahead log.
    pub log: Log,
    /// Random bits for the rows of the open transaction. Never kept longer: a machine that is cloned
    /// must not give two rows one key.
    keys: Vec<u8>,
}

impl Database {
    /// A database that has just been opened.
    pub fn new(
        area: Area,
        path: PathBuf,
        stream: StreamId,
        limits: Limits,
        conn: Connection,
    ) -> Self {
        Self {
            area,
            log: Log::new(&path),
            path,
            stream,
            limits,
            patience: Patience::Full,
            keeper: Keeper::default(),
            conn: Some(conn),
            tables: HashMap::new(),
            touched: HashMap::new(),
            filings: HashMap::new(),
            keys: Vec::new(),
        }
    }

    /// The connection.
    ///
    /// # Errors
    /// The database was closed by a failure and has not been opened anew.
    pub fn conn(&self) -> Result<&Connection, StoreError> {
        self.conn.as_ref().ok_or(StoreError::Failed {
            area: self.area,
            reason: "the database is closed".into(),
        })
    }

    /// Carries out `jobs` in one transaction.
    ///
    /// # Errors
    /// The transaction is lost, and none of them is done.
    pub fn run(
        &mut self,
        jobs: &[Job],
        patience: Patience,
    ) -> Result<Vec<Result<Outcome, StoreError>>, Failure> {
        self.transaction(patience, |db| {
            let mut outcomes = Vec::with_capacity(jobs.len());
            db.draw_keys(jobs.len())?;
            for job in jobs {
                match db.apply(job) {
                    Ok(outcome) => outcomes.push(Ok(outcome)),
                    Err(Fault::Refused(error)) => outcomes.push(Err(error)),
                    Err(Fault::Sql(error)) => return Err(error),
                }
            }
            Ok(outcomes)
        })
    }

    /// Runs `work` in a transaction, syncs it, and puts everything back when it fails.
    pub fn transaction<T>(
        &mut self,
        patience: Patience,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        self.reopen()?;
        self.be(patience)?;
        self.check_log()?;
        let done = self.attempt(work);
        if let Err(error) = &done {
            self.roll_back(error);
        }
        self.touched.clear();
        self.filings.clear();
        self.keys.clear();
        done.map_err(|error| self.failure(&error))
    }

    /// Reads outside a transaction.
    ///
    /// # Errors
    /// The database failed.
    pub fn look<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.reopen()
            .and_then(|()| self.be(Patience::Full))
            .map_err(|failure| failure.error)?;
        let found = work(self);
        self.touched.clear();
        found.map_err(|error| self.failure(&error).error)
    }

    /// How long another program's lock is waited for.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// From now on another program's lock is waited for so long.
    ///
    /// # Errors
    /// The database was closed by a failure and has not been opened anew.
    pub fn be(&mut self, patience: Patience) -> Result<(), Failure> {
        if self.patience == patience {
            return Ok(());
        }
        let at_most = match patience {
            Patience::None => Duration::ZERO,
            Patience::Full => open::BUSY_TIMEOUT,
        };
        let set = self.connection().and_then(|c| c.busy_timeout(at_most));
        set.map_err(|error| self.failure(&error))?;
        self.patience = patience;
        Ok(())
    }

    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.sql("BEGIN IMMEDIATE")?;
        let value = work(self)?;
        self.write_filings()?;
        self.note_sizes()?;
        self.sql("COMMIT")?;
        Ok(value)
    }

    fn sql(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection()?.prepare_cached(sql)?.raw_execute()?;
        Ok(())
    }

    /// Like [`Self::conn`], for use within a transaction, which has made sure of it.
    pub fn connection(&self) -> rusqlite::Result<&Connection> {
        self.conn.as_ref().ok_or(rusqlite::Error::InvalidQuery)
    }

    fn roll_back(&mut self, error: &rusqlite::Error) {
        for (name, before) in self.touched.drain() {
            match before {
                None => {
                    self.tables.remove(&name);
                }
                Some(state) => {
                    if let Some(table) = self.tables.get_mut(&name) {
                        table.put_back(state);
                    }
                }
            }
        }
        let keep = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DiskFull
                    // The next transaction writes the log's same place again. Opened anew, SQLite would
                    // take what it finds there for committed, although the disk may not have it.
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::TooBig
            )
        );
        let rolled_back = self
            .conn
            .as_ref()
            .is_some_and(|conn| conn.is_autocommit() || conn.execute_batch("ROLLBACK").is_ok());
        if !keep || !rolled_back {
            // What the connection holds is not known: the ends of the tables are read anew.
            self.conn = None;
            self.tables.clear();
        }
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        if self.conn.is_some() {
            return Ok(());
        }
        let opened = open::reopen(&self.path, self.limits);
        match opened {
            Ok(conn) => {
                tracing::warn!(database = %self.path.display(), "opened anew after a failure");
                self.conn = Some(conn);
                self.patience = Patience::Full;
                self.log.reopen();
                Ok(())
            }
            Err(error) => Err(match error.downcast_ref::<rusqlite::Error>() {
                Some(error) => self.failure(error),
                None => Failure {
                    error: StoreError::Failed {
                        area: self.area,
                        reason: format!("{error:#}"),
                    },
                    alone: false,
                },
            }),
        }
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        let (told, alone) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (StoreError::Busy(self.area), false)
            }
            Some(ErrorCode::DiskFull) => (StoreError::Full(self.area), false),
            Some(ErrorCode::SystemIoFailure) => (self.io_failure(error), false),
            code => (
                StoreError::Failed {
                    area: self.area,
                    reason: error.to_string(),
                },
                matches!(
                    code,
                    Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::Unknown)
                ),
            ),
        };
        Failure { error: told, alone }
    }

    /// A write or sync that failed, by what the system says of the disk now.
    fn io_failure(&self, error: &rusqlite::Error) -> StoreError {
        match self.path.parent().and_then(probe::errno) {
            Some(Errno::EDQUOT) => StoreError::Quota(self.area),
            Some(Errno::ENOSPC) => StoreError::Full(self.area),
            _ => StoreError::Failed {
                area: self.area,
                reason: error.to_string(),
            },
        }
    }

    fn draw_keys(&mut self, rows: usize) -> rusqlite::Result<()> {
        self.keys.resize(rows * size_of::<u64>(), 0);
        getrandom::fill(&mut self.keys)
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
    }

    fn next_key(&mut self) -> RowKey {
        let at = self.keys.len().saturating_sub(size_of::<u64>());
        let bytes = self.keys.split_off(at);
        RowKey(bytes.iter().fold(0, |key, b| key << 8 | u64::from(*b)))
    }

    fn apply(&mut self, job: &Job) -> Result<Outcome, Fault> {
        match job {
            Job::Store {
                point,
                bytes,
                row,
                name,
                withdraw,
                ..
            } => {
                if let Some(id) = withdraw {
                    refused::withdraw(self.connection()?, *id)?;
                }
                self.add_row(point, bytes, row, *name).map(Outcome::Stored)
            }
            Job::Rename { from, to, .. } => {
                let bytes = self.remove_file(from)?;
                let mode = files::mode(self.connection()?, from.name.as_str())?;
                let row = row_data(self.area, &bytes, self.limits.columns);
                let row = row.map_err(|error| {
                    Fault::Refused(StoreError::NotCsv {
                        point: to.clone(),
                        error,
                    })
                })?;
                let name = NameEffect::ContentAndMode(mode);
                self.add_row(to, &Arc::new(bytes), &row, name)
                    .map(Outcome::Stored)
            }
            Job::Remove { point, .. } => self.remove_file(point).map(Outcome::Content),
            Job::Mode { point, mode, .. } => {
                files::set_mode(self.connection()?, point.name.as_str(), *mode)?;
                Ok(Outcome::Changed)
            }
            Job::Refuse {
                point,
                bytes,
                reason,
                withdraw,
                ..
            } => {
                let conn = self.connection()?;
                if let Some(id) = withdraw {
                    refused::withdraw(conn, *id)?;
                }
                let id = refused::keep(conn, point.name.as_str(), reason, bytes)?;
                Ok(Outcome::Refused(id))
            }
            Job::Ack { table, cursors, .. } => Ok(self.acknowledge(table, cursors)?),
            Job::Wanted { names, .. } => Ok(self.want(names)?),
            _ => Err(Fault::Sql(rusqlite::Error::InvalidQuery)),
        }
    }

    fn add_row(
        &mut self,
        point: &Point,
        bytes: &Arc<Vec<u8>>,
        row: &RowData,
        name: NameEffect,
    ) -> Result<Stored, Fault> {
        let key = self.next_key();
        let limit = self.limits.columns;
        let exists = self.touch(&point.name)?;
        if name == NameEffect::Nothing {
            // The name's bytes are those of its last row, which this one will not be.
            self.write_filings()?;
            files::settle(self.connection()?, point.name.as_str())?;
        }
        let conn = self.conn.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
        if !exists {
            let table = Table::create(conn, self.stream, point, row)?;
            self.tables.insert(Arc::clone(&point.name), table);
        }
        let table = self
            .tables
            .get_mut(&point.name)
            .ok_or(rusqlite::Error::InvalidQuery)?;
        if exists && let RowData::Columns(columns) = row {
            table.widen(conn, point, columns, limit)?;
        }
        let stamp = table.insert(conn, point, key, row, bytes)?;
        if let NameEffect::ContentAndMode(mode) = name {
            files::set_mode(conn, point.name.as_str(), mode)?;
        }
        if name == NameEffect::Nothing {
            table.unfile();
            files::set_epoch(conn, table.file, stamp.epoch)?;
            if !exists {
                files::remove(conn, point.name.as_str())?;
            }
        } else if let Some(filing) = table.file(row, bytes, stamp) {
            self.filings.insert(Arc::clone(&point.name), filing);
        }
        Ok(Stored {
            seq: stamp.seq,
            time: stamp.time,
            size: bytes.len() as u64,
        })
    }

    /// Loads the table if there is one and remembers how it was; says whether there is one.
    pub fn touch(&mut self, name: &Arc<KpiName>) -> rusqlite::Result<bool> {
        if !self.tables.contains_key(name) {
            let conn = self.conn.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
            match Table::load(conn, self.stream, name)? {
                Some(table) => {
                    self.tables.insert(Arc::clone(name), table);
                }
                None => {
                    self.touched.entry(Arc::clone(name)).or_insert(None);
                    return Ok(false);
                }
            }
        }
        if let Some(table) = self.tables.get(name) {
            let state = table.state.clone();
            self.touched.entry(Arc::clone(name)).or_insert(Some(state));
        }
        Ok(true)
    }

    /// The tables with rows whose bytes are not written down.
    pub fn unsettled(&self) -> Vec<Arc<KpiName>> {
        let fresh = |(_, table): &(&Arc<KpiName>, &Table)| table.state.kept.fresh > 0;
        let tables = self.tables.iter().filter(fresh);
        tables.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The tables that the open transaction has changed.
    pub fn touched_names(&self) -> impl Iterator<Item = &Arc<KpiName>> {
        self.touched.keys()
    }

    /// The table, after [`Self::touch`].
    pub fn table_mut(&mut self, name: &KpiName) -> Option<&mut Table> {
        self.tables.get_mut(name)
    }

    /// Forgets what is known of the tables: a mint has changed them all.
    pub fn forget_tables(&mut self) {
        self.tables.clear();
        self.touched.clear();
    }

    fn remove_file(&mut self, point: &Point) -> Result<Vec<u8>, Fault> {
        self.write_filings()?;
        let conn = self.connection()?;
        let name = point.name.as_str();
        let Some(bytes) = files::content(conn, name)? else {
            return Err(Fault::Refused(StoreError::NotFound(point.clone())));
        };
        files::remove(conn, name)?;
        if let Some(table) = self.tables.get_mut(&point.name) {
            table.unfile();
        }
        Ok(bytes)
    }

    fn write_filings(&mut self) -> rusqlite::Result<()> {
        let conn = self.conn.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
        for (name, filing) in self.filings.drain() {
            if let Some(table) = self.tables.get(&name) {
                files::update(conn, table.file, table.state.head.epoch, &filing)?;
            }
        }
        Ok(())
    }

    /// The last row of each table that rows were added to; for [`crate::feed::Feed`].
    pub fn ends<'a>(
        &'a self,
        names: impl Iterator<Item = &'a Arc<KpiName>> + 'a,
    ) -> impl Iterator<Item = (Point, Seq)> + 'a {
        names.filter_map(|name| {
            let table = self.tables.get(name)?;
            let point = Point {
                area: self.area,
                name: Arc::clone(name),
            };
            Some((point, table.state.head.last))
        })
    }
}

/// A transaction that was lost.
pub struct Failure {
    /// What its jobs are told.
    pub error: StoreError,
    /// Whether one job may be to blame, so that the others deserve a transaction of their own.
    pub alone: bool,
}
