//! What a run of the guest program is told: where things are, and a limit on everything.

use std::path::PathBuf;
use std::time::Duration;

use vmkpi::link::LinkUrl;

/// The bounds that keep a writer's mistake from becoming the machine's problem. What happens when one
/// is reached stands beside it; docs/SEMANTICS.md says the same to users.
#[derive(Clone, Copy, Debug)]
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

/// A length of time: a number with `s`, `m`, `h` or `d` behind it, or of seconds.
///
/// # Errors
/// It is none, or too long.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(format!("{text:?} is no time such as 90s, 12h or 7d")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no time such as 90s, 12h or 7d"))
}

/// Who may use the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
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

/// A run of the guest program.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Where to mount the partition.
    pub mount: PathBuf,
    /// Where the databases are.
    pub state: PathBuf,
    /// Where the host is.
    pub link: LinkUrl,
    /// Who may use the partition.
    pub allow_other: AllowOther,
    /// The bounds.
    pub limits: Limits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit_or_are_seconds() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("2m", 120),
            ("12h", 43_200),
            ("7d", 604_800),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "d",
            "-1s",
            "1.5h",
            "7 d",
            "1w",
            "99999999999999999999s",
            "213503982334602d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
