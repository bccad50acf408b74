//! The write-ahead log of a database. SQLite cuts it back after each checkpoint, but not while another
//! program keeps a read transaction open: its snapshot needs what is in there. At a limit stores are refused
//! (EAGAIN, after the wait that a locked database gets), and go on with the first one after the reader has
//! left.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::StoreError;
use super::database::{Database, Failure};
use super::log::log_path;
use super::open::WAL_BYTES;
use super::writer::Patience;
use crate::complaint::Complaint;

/// Part of the limit above which the log is complained about.
const COMPLAIN_ABOVE: u64 = 4;

/// A database's log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// Open as long as the connection is, to ask where its end is: `stat` would ask for its times as well, and
    /// Linux then writes new ones with each commit (a third of the rate of one writer).
    file: Option<File>,
    complaint: Complaint,
}

impl Log {
    /// The log of the database at `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: log_path(path),
            file: None,
            complaint: Complaint::default(),
        }
    }

    /// The database is opened anew, and so is its log.
    pub fn reopen(&mut self) {
        self.file = None;
    }

    fn bytes(&mut self) -> u64 {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let end = self.file.as_mut().map(|file| file.seek(SeekFrom::End(0)));
        end.and_then(Result::ok).unwrap_or(0)
    }
}

impl Database {
    /// Whether a transaction may add to the log; waits for a reader to leave, but not for long.
    ///
    /// # Errors
    /// The log is at its limit.
    pub fn check_log(&mut self) -> Result<(), Failure> {
        if self.log.bytes() < self.limits.log_bytes || self.checkpoint() {
            return Ok(());
        }
        Err(Failure {
            error: StoreError::LogFull(self.area),
            alone: false,
        })
    }

    /// Cuts a log that has grown back as soon as that can be, and says so while it cannot.
    pub fn tend_log(&mut self, now: Instant) {
        let path = self.log.path.display().to_string();
        let bytes = match self.log.bytes() {
            large if large > self.limits.log_bytes.min(WAL_BYTES) => {
                self.checkpoint_at_once();
                self.log.bytes()
            }
            small => small,
        };
        if bytes <= self.limits.log_bytes / COMPLAIN_ABOVE {
            if self.log.complaint.over().is_some() {
                tracing::warn!(log = path, "the log is cut back");
            }
        } else if let Some(times) = self.log.complaint.again(now) {
            tracing::warn!(
                log = path,
                bytes,
                limit = self.limits.log_bytes,
                times,
                "the log grows as another program keeps a read transaction open: find it with `fuser -v` \
                 on the database and end it; at the limit stores are refused with EAGAIN"
            );
        }
    }

    /// Copies the log into the database and cuts it back; whether it was.
    pub fn checkpoint(&self) -> bool {
        let Ok(conn) = self.connection() else {
            return false;
        };
        let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i64>(0)
        });
        busy.is_ok_and(|busy| busy == 0)
    }

    /// The same, unless another program's lock is in the way.
    pub fn checkpoint_at_once(&mut self) {
        let before = self.patience();
        if self.be(Patience::None).is_ok() {
            self.checkpoint();
        }
        // Fails for no connection that is open.
        let _ = self.be(before);
    }
}
