//! What the program counts about itself. Counters only grow while it runs; `status` shows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A request of the kernel's, by its FUSE name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation { $(#[doc = concat!("FUSE_", $name)] $variant),* }

        impl Operation {
            const NAMES: &[&str] = &[$($name),*];
        }
    };
}

operations! {
    Lookup = "LOOKUP", Forget = "FORGET", GetAttr = "GETATTR", SetAttr = "SETATTR", MkNod = "MKNOD",
    MkDir = "MKDIR", Unlink = "UNLINK", RmDir = "RMDIR", SymLink = "SYMLINK", Rename = "RENAME",
    Link = "LINK", Open = "OPEN", Read = "READ", Write = "WRITE", StatFs = "STATFS",
    Release = "RELEASE", FSync = "FSYNC", SetXAttr = "SETXATTR", GetXAttr = "GETXATTR",
    ListXAttr = "LISTXATTR", RemoveXAttr = "REMOVEXATTR", Flush = "FLUSH", OpenDir = "OPENDIR",
    ReadDir = "READDIR", ReleaseDir = "RELEASEDIR", FSyncDir = "FSYNCDIR",
    Create = "CREATE", ReadLink = "READLINK", Ioctl = "IOCTL",
}

/// The counters.
#[derive(Debug)]
pub struct Counters {
    requests: [AtomicU64; Operation::NAMES.len()],
    /// Rows stored.
    pub stores: AtomicU64,
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Transactions lost.
    pub failed_commits: AtomicU64,
    /// Acknowledged rows that retention took.
    pub rows_trimmed: AtomicU64,
    /// Rows that retention took before they were acknowledged.
    pub rows_lost: AtomicU64,
    /// Transactions refused as a log was at its limit.
    pub log_refusals: AtomicU64,
    /// Inputs refused.
    pub refused: AtomicU64,
    /// Rows sent over the link.
    pub rows_sent: AtomicU64,
    /// Lines of the host that were no message, too long, or of another session.
    pub bad_lines: AtomicU64,
    /// Link sessions begun.
    pub sessions: AtomicU64,
    /// Times that the link went over to another endpoint.
    pub endpoint_changes: AtomicU64,
    /// Endpoints of contexts that were refused, and attempts to use one that failed.
    pub endpoint_failures: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; Operation::NAMES.len()],
            stores: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failed_commits: AtomicU64::new(0),
            rows_trimmed: AtomicU64::new(0),
            rows_lost: AtomicU64::new(0),
            log_refusals: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            rows_sent: AtomicU64::new(0),
            bad_lines: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            endpoint_changes: AtomicU64::new(0),
            endpoint_failures: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Counts a request of the kernel's.
    pub fn request(&self, operation: Operation) {
        self.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The requests so far, by name, without those that never came.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        Operation::NAMES
            .iter()
            .zip(&self.requests)
            .map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}
