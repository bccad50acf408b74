//! What a run of the guest program is told: where things are, and a limit on everything. The settings'
//! names, sources and help are in [`crate::settings`].

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::context::ContextConfig;
use crate::link::LinkConfig;
use crate::poller::Poll;

/// The bounds that keep a writer's mistake from becoming the machine's problem. What happens when one
/// is reached stands beside it; docs/SEMANTICS.md says the same to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one store; EFBIG. At most [`MAX_STORE_BYTES`].
    pub store_bytes: usize,
    /// Columns of one table; EFBIG.
    pub columns: usize,
    /// Names with a table or a file, removed ones included, in each directory; ENOSPC.
    pub files: usize,
    /// Scratch files (names with a leading dot) in each directory; ENOSPC.
    pub scratch_files: usize,
    /// Bytes that are written and not yet stored, and of scratch files, together; ENOSPC.
    pub buffered_bytes: usize,
    /// Open handles; ENFILE.
    pub handles: usize,
    /// Rows kept of each table; older ones go when they are acknowledged.
    pub retain_rows: u64,
    /// Bytes of rows kept of each table; likewise.
    pub retain_bytes: u64,
    /// How long rows are kept; likewise. Rows of a table that no host ever asked for go in any case.
    pub retain_age: Duration,
    /// Whether the bounds above count for rows that nobody has acknowledged, too, and such rows go
    /// before a writer is told ENOSPC. Each loss is counted and becomes a gap.
    pub drop_unacknowledged: bool,
    /// Bytes of each database; acknowledged rows go, then ENOSPC.
    pub database_bytes: u64,
    /// Bytes of each database's write-ahead log, which another program's long read keeps from being
    /// cut back; EAGAIN until it ends. One batch may go beyond.
    pub log_bytes: u64,
    /// Databases up to so many bytes are read through at start; of larger ones, the ends of each table.
    pub checked_bytes: u64,
}

/// One store must fit, in base64 and with its frame, into one line of the link.
pub const MAX_STORE_BYTES: usize = 1 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            store_bytes: MAX_STORE_BYTES,
            // SQLite's own limit is 2,000.
            columns: 1_000,
            // All of them are told in one line of the link.
            files: 2_000,
            scratch_files: 256,
            buffered_bytes: 64 << 20,
            handles: 4_096,
            retain_rows: 100_000,
            retain_bytes: 64 << 20,
            // A file stored each second and asked for by nobody: some 35 MB.
            retain_age: Duration::from_secs(7 * 24 * 3600),
            drop_unacknowledged: false,
            database_bytes: 4 << 30,
            log_bytes: 256 << 20,
            // Reading more through would take seconds.
            checked_bytes: 1 << 30,
        }
    }
}

/// Who may use the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AllowOther {
    /// Every user; where the system forbids that to an ordinary user (`user_allow_other` in
    /// /etc/fuse.conf), its owner alone, with a warning.
    #[default]
    Auto,
    /// Every user, or fail.
    All,
    /// The user who runs the program.
    Owner,
}

impl AllowOther {
    /// The value as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::All => "all",
            Self::Owner => "owner",
        }
    }
}

impl FromStr for AllowOther {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::All, Self::Owner]
            .into_iter()
            .find(|value| value.as_str() == text)
            .ok_or_else(|| format!("{text:?} is none of auto, all, owner"))
    }
}

/// Whom the partition's files belong to, and what may be done with those whose mode nobody has changed.
/// The kernel enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user to whom everything belongs.
    pub uid: u32,
    /// The group to which everything belongs.
    pub gid: u32,
    /// Permission bits of files; without those of group and others where only the owner may use the mount.
    pub file_mode: u16,
    /// Permission bits of the three directories, likewise.
    pub directory_mode: u16,
}

impl Default for Access {
    /// The user who runs the program; everyone who may use the mount may read and write.
    fn default() -> Self {
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            file_mode: 0o666,
            directory_mode: 0o777,
        }
    }
}

/// A run of the guest program.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Where to mount the partition.
    pub mount: PathBuf,
    /// Where the databases are.
    pub state: PathBuf,
    /// Where the host is, what to show it, and what is not delivered from everywhere.
    pub link: LinkConfig,
    /// Who may use the partition.
    pub allow_other: AllowOther,
    /// Whose the files are, and their permissions.
    pub access: Access,
    /// The bounds.
    pub limits: Limits,
    /// The owner's public key in PEM, shown at the top of the partition.
    pub primary_key: Option<Arc<[u8]>>,
    /// The commands run for applications that cannot write themselves.
    pub polls: Vec<Poll>,
    /// The context partition, if there is one.
    pub context: Option<ContextConfig>,
}
