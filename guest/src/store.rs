//! The store: every row on disk before its writer is told so. What waits is committed in one transaction
//! (group commit), by the thread that serves the kernel where that is quick and by the store's own where
//! it is not ([`desk`]).
//!
//! ```text
//!             submit               BEGIN IMMEDIATE .. COMMIT             done
//! FUSE thread ──────> desk ──> writer: all that waits, one sync ──> reply to the closers
//! link thread ──────>                                          └──> feed ──> link thread
//! ```
//!
//! A batch that fails is rolled back whole, and each of its jobs is told why: a locked database (EAGAIN),
//! a full disk (ENOSPC), a quota (EDQUOT), a failed write or sync (EIO; the next batch writes the same place of
//! the log again, and no sync is tried twice; a batch that found the database full is, when rows could go).
//! `_seq` is assigned within the transaction, so a failed batch leaves no hole.

mod database;
mod desk;
mod files;
mod form;
mod history;
pub mod inspect;
mod keeper;
mod log;
mod marks;
mod mint;
mod open;
mod peer;
mod probe;
mod refused;
mod retention;
mod schema;
mod table;
mod wal;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use vmkpi::clock::Timestamp;
use vmkpi::link::{Have, TableId, TableInfo};
use vmkpi::name::{Area, KpiName};
use vmkpi::position::{Mark, Position, Seq, StreamId};

use crate::config::Limits;
use crate::counters::Counters;
use crate::csv::{Columns, CsvError};
use crate::feed::Feed;

use desk::Desk;
pub use files::StoredFile;
pub use history::Found;
pub use marks::{Gap, Kept, Marks};
pub use open::set_aside;
pub use retention::Reason;
pub use schema::quote;
pub use table::row_data;

/// A data point's name in one of the two directories.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// The directory.
    pub area: Area,
    /// The file's name.
    pub name: Arc<KpiName>,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.area, self.name)
    }
}

/// Why the store did not do what it was asked. One errno each: [`StoreError::errno`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another program holds the database's write lock.
    #[error("{0} is locked by another program")]
    Busy(Area),
    /// The log is at its limit: another program keeps a read transaction open.
    #[error("the log of {0} is at its limit, as another program keeps a read transaction open")]
    LogFull(Area),
    /// The disk or the database's limit is reached.
    #[error("there is no space for {0}")]
    Full(Area),
    /// The quota of whoever runs the program is used up.
    #[error("the disk quota is used up: there is no space for {0}")]
    Quota(Area),
    /// The table would have too many columns.
    #[error("{point} would have more than {limit} columns")]
    TooManyColumns {
        /// The table.
        point: Point,
        /// The limit.
        limit: usize,
    },
    /// The content to be stored under a new name is no CSV.
    #[error("{point}: {error}")]
    NotCsv {
        /// The name it was to be stored under.
        point: Point,
        /// Why.
        error: CsvError,
    },
    /// There is nothing stored under that name.
    #[error("{0} is not stored")]
    NotFound(Point),
    /// The database failed.
    #[error("{area} failed: {reason}")]
    Failed {
        /// The database.
        area: Area,
        /// What SQLite says.
        reason: String,
    },
    /// The program is going down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// What a program that wrote to the partition is told.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Busy(_) | Self::LogFull(_) => Errno::EAGAIN,
            Self::Full(_) => Errno::ENOSPC,
            Self::Quota(_) => Errno::EDQUOT,
            Self::TooManyColumns { .. } => Errno::EFBIG,
            Self::NotCsv { error, .. } => csv_errno(error),
            Self::NotFound(_) => Errno::ENOENT,
            Self::Failed { .. } | Self::Closed => Errno::EIO,
        }
    }
}

/// What a program that wrote such CSV is told.
pub fn csv_errno(error: &CsvError) -> Errno {
    match error {
        CsvError::TooManyColumns { .. } => Errno::EFBIG,
        _ => Errno::EINVAL,
    }
}

/// Called once, on the writer's thread, when a job is done for good or has failed.
pub type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// What was stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// The row's number.
    pub seq: Seq,
    /// The row's time, which is the file's too.
    pub time: Timestamp,
    /// Bytes of the file.
    pub size: u64,
}

/// What a row is made of.
#[derive(Clone, Debug)]
pub enum RowData {
    /// Typed columns.
    Columns(Columns),
    /// The file's bytes as they are.
    Bytes,
}

/// What a store does to the file's name besides adding the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameEffect {
    /// Nothing: the file was removed or replaced since it was opened. Rows outlive names.
    Nothing,
    /// The name has these bytes.
    Content,
    /// The name has these bytes, and the permission bits of a file that is new under it.
    ContentAndMode(Option<u16>),
}

/// Something for the writer to do.
pub enum Job {
    /// One row, and mostly the file's new bytes.
    Store {
        /// Where.
        point: Point,
        /// The file's bytes.
        bytes: Arc<Vec<u8>>,
        /// The row made of them.
        row: RowData,
        /// What becomes of the name.
        name: NameEffect,
        /// A refused input of the same handle that this store supersedes.
        withdraw: Option<i64>,
        /// Told when the row is on disk.
        done: Done<Stored>,
    },
    /// Stores the bytes of `from` under `to` and removes `from`, in one transaction.
    Rename {
        /// The old name.
        from: Point,
        /// The new name, in the same directory.
        to: Point,
        /// Told when both are on disk.
        done: Done<Stored>,
    },
    /// Removes a file; its rows stay.
    Remove {
        /// Which.
        point: Point,
        /// Told the file's last bytes.
        done: Done<Vec<u8>>,
    },
    /// Sets the permission bits of a file.
    Mode {
        /// Which.
        point: Point,
        /// The bits; none: those of the mount.
        mode: Option<u16>,
        /// Told when they are on disk.
        done: Done<()>,
    },
    /// Keeps an input that was refused.
    Refuse {
        /// The file it was written to.
        point: Point,
        /// The input.
        bytes: Arc<Vec<u8>>,
        /// Why it was refused.
        reason: String,
        /// A refused input of the same handle that this one takes the place of.
        withdraw: Option<i64>,
        /// Told the id it is kept under.
        done: Done<i64>,
    },
    /// A host's `hello`: verifies what it has, mints where that is refuted, lists the tables.
    Hello {
        /// What the host says.
        claim: HostClaim,
        /// Told the streams and tables.
        done: Done<Inventory>,
    },
    /// A host's `ack`.
    Ack {
        /// The table.
        table: TableId,
        /// The cursors, the lowest of which is acknowledged.
        cursors: Vec<Position>,
        /// Told what came of it.
        done: Done<AckOutcome>,
    },
    /// A host has subscribed to these tables of the current stream: rows of them are asked for.
    Wanted {
        /// The directory.
        area: Area,
        /// Which.
        names: Vec<KpiName>,
        /// Told when that is on disk.
        done: Done<()>,
    },
    /// Marks for these tables.
    Marks {
        /// Which.
        tables: Vec<TableId>,
        /// Told a mark for each table for which one can be given now.
        done: Done<Vec<TableMark>>,
    },
    /// Lists the tables.
    Tables {
        /// Told the streams and tables.
        done: Done<Inventory>,
    },
    /// Nothing; done when all that was submitted before is.
    Barrier {
        /// Told when it is reached.
        done: Done<()>,
    },
    /// The last job: closes the databases.
    Close,
}

/// What a host says about the VM and about what it has read.
#[derive(Clone, Debug, Default)]
pub struct HostClaim {
    /// The VM's UUID.
    pub uuid: Option<String>,
    /// The VM's generation id.
    pub genid: Option<String>,
    /// The highest row of each table that it has ever read.
    pub have: Vec<Have>,
}

/// The tables of the store.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The stream that new rows go to.
    pub stream: StreamId,
    /// Every table of every stream still held.
    pub tables: Vec<TableInfo>,
    /// Why a new stream was begun just now.
    pub minted: Option<String>,
}

/// What came of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// The table is acknowledged so far.
    Acked(Mark),
    /// There is no such table, or a cursor is without a key: nothing changed.
    Ignored,
    /// A key was refuted: a new stream was begun.
    Minted(String),
}

/// The promise that nothing earlier will follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMark {
    /// The table.
    pub table: TableId,
    /// Its last row.
    pub position: Position,
    /// The epoch the promise is for.
    pub epoch: u64,
    /// Rows that follow are at or after this time, or in a later epoch.
    pub time: Timestamp,
    /// The last acknowledged row.
    pub acked: Mark,
}

/// A handle to the store; clones share one writer.
#[derive(Clone)]
pub struct Store {
    desk: Arc<Desk>,
    directory: PathBuf,
    database_bytes: u64,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    stream: Arc<Mutex<StreamId>>,
}

/// A store that has just been opened.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The files of the partition, removed ones included.
    pub files: Vec<StoredFile>,
    /// Databases that were set aside as corrupt, now or earlier.
    pub set_aside: Vec<PathBuf>,
}

impl Store {
    /// Opens the databases in `directory` and starts the writer.
    ///
    /// # Errors
    /// A database cannot be opened or made. One that is corrupt is set aside instead.
    pub fn open(
        directory: &Path,
        limits: Limits,
        counters: Arc<Counters>,
        feed: Arc<Feed>,
    ) -> anyhow::Result<Opened> {
        let (databases, files, set_aside) = open::open_both(directory, limits)?;
        let stream = Arc::new(Mutex::new(databases[0].stream));
        let writer = writer::Writer::new(databases, counters, feed, Arc::clone(&stream));
        let desk = Arc::new(Desk::new(writer));
        let theirs = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || theirs.run())?;
        let store = Self {
            desk,
            directory: directory.into(),
            database_bytes: limits.database_bytes,
            writer: Arc::new(Mutex::new(Some(thread))),
            stream,
        };
        Ok(Opened {
            store,
            files,
            set_aside,
        })
    }

    /// Where the databases are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What each database may have in bytes.
    pub fn database_bytes(&self) -> u64 {
        self.database_bytes
    }

    /// The stream that new rows go to.
    pub fn stream(&self) -> StreamId {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over a job. Its `done` is called in any case.
    pub fn submit(&self, job: Job) {
        self.desk.submit(job);
    }

    /// The thread that serves the kernel has taken a request: what it submits from now on waits for
    /// [`Self::end_turn`].
    pub fn begin_turn(&self) {
        self.desk.begin_turn();
    }

    /// It has dealt with it; `more` says whether another request waits. Without one, what has gathered
    /// is committed before this returns.
    pub fn end_turn(&self, more: impl FnOnce() -> bool) {
        self.desk.end_turn(more);
    }

    /// Hands over the job that `make` builds and waits for its end.
    ///
    /// # Errors
    /// What the job fails with.
    pub fn ask<T: Send + 'static>(
        &self,
        make: impl FnOnce(Done<T>) -> Job,
    ) -> Result<T, StoreError> {
        let (tell, told) = channel();
        self.submit(make(Box::new(move |result| {
            // Whoever asked may have gone.
            let _ = tell.send(result);
        })));
        told.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Waits until everything submitted so far is done, and closes the databases.
    pub fn close(&self) {
        self.submit(Job::Close);
        let thread = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

impl Job {
    /// Ends the job with an error.
    fn fail(self, error: &StoreError) {
        let error = error.clone();
        match self {
            Self::Store { done, .. } | Self::Rename { done, .. } => done(Err(error)),
            Self::Remove { done, .. } => done(Err(error)),
            Self::Refuse { done, .. } => done(Err(error)),
            Self::Hello { done, .. } | Self::Tables { done } => done(Err(error)),
            Self::Ack { done, .. } => done(Err(error)),
            Self::Marks { done, .. } => done(Err(error)),
            Self::Mode { done, .. } | Self::Barrier { done } | Self::Wanted { done, .. } => {
                done(Err(error));
            }
            Self::Close => {}
        }
    }
}
