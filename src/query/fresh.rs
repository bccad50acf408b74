//! Whether a question is asked now, and for the first time. A pure decision: the host keeps what was heard.

/// How far a question's `issued` may be from the host's clock, in microseconds: five minutes.
pub const MAX_AGE_US: u64 = 300_000_000;

/// Why a question that is signed as it should be does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It is older than [`MAX_AGE_US`].
    Old,
    /// It is further ahead of the host's clock than that.
    Ahead,
    /// It is no newer than one that was heard: sent again, or overtaken.
    Repeated,
}

/// Judges a question that was issued at `issued`, in microseconds since 1970, heard at `now`, after one of the same
/// Consumer to the same VM that was issued at `last` (0: none was heard).
///
/// # Errors
/// It does not count, and why.
///
/// ```
/// use vmkpi::query::{Late, MAX_AGE_US, judge};
/// let now = 1_795_194_000_000_000;
/// assert_eq!(judge(now, now, now - 1), Ok(()));
/// assert_eq!(judge(now, now, now), Err(Late::Repeated));
/// assert_eq!(judge(now - MAX_AGE_US - 1, now, 0), Err(Late::Old));
/// ```
pub fn judge(issued: u64, now: u64, last: u64) -> Result<(), Late> {
    if issued.saturating_add(MAX_AGE_US) < now {
        return Err(Late::Old);
    }
    if issued > now.saturating_add(MAX_AGE_US) {
        return Err(Late::Ahead);
    }
    match issued > last {
        true => Ok(()),
        false => Err(Late::Repeated),
    }
}
