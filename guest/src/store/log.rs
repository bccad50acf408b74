//! SQLite's write-ahead log, as far as its own recovery does not look after it: damage in the middle, and
//! what a failed sync has left (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).
//!
//! ```text
//! header | frame | frame, commit | frame, commit | frame ...      each frame continues the checksum before
//! ```
//! Recovery ends at the first frame whose checksum is wrong. That is right for a tail that the power cut short.
//! But whoever continued the checksum of a commit had synced that commit first: a wrong frame before such a
//! place was on the disk and has changed since.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::Connection;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// Where salts and checksum are: in the header, which is summed as far as the checksum, and in a frame's,
/// which is summed as far as the salts, and its page.
const HEADER_SALTS_AT: usize = 16;
const HEADER_SUM_AT: usize = 24;
const FRAME_SALTS_AT: usize = 8;
const FRAME_SUM_AT: usize = 16;

/// The first word; its last bit says that checksums are made of big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// What the log has from the start: a commit that lengthens it waits for the file system's own journal, too
/// (a third of the rate of one writer). Room for the pages at which it is begun anew, and a large batch.
pub const FIRST_BYTES: u64 = 4600 << 10;

/// Both halves of a checksum.
type Sum = (u32, u32);

/// What is wrong with the log of the database at `path`, if it is more than a tail that was cut off.
///
/// # Errors
/// The log cannot be read.
pub fn damage(path: &Path) -> anyhow::Result<Option<String>> {
    let log = log_path(path);
    let at = || format!("cannot read {}", log.display());
    match File::open(&log) {
        Ok(file) => look_through(BufReader::with_capacity(64 << 10, file)).with_context(at),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(at),
    }
}

/// The log of the database at `path`.
pub fn log_path(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

fn look_through(mut log: impl Read) -> std::io::Result<Option<String>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut log, &mut header)? {
        return Ok(None);
    }
    let big = word(&header, 0) & 1 == 1;
    let page = word(&header, 8) as usize;
    if word(&header, 0) & !1 != MAGIC || !page.is_power_of_two() || !(512..=65_536).contains(&page)
    {
        return Ok(None);
    }
    let mut before = sum_at(&header, HEADER_SUM_AT);
    let mut wrong = (checksum(big, (0, 0), &header[..HEADER_SUM_AT]) != before).then_some(0);
    // Frames with other salts are of an earlier round of the log. A header that has changed says nothing.
    let mut salts = wrong.is_none().then(|| sum_at(&header, HEADER_SALTS_AT));
    let mut after_commit = false;
    let mut frame = vec![0; FRAME_HEADER_BYTES + page];
    for number in 1_u64.. {
        if !fill(&mut log, &mut frame)? {
            break;
        }
        let sum = checksum(big, before, &frame[..FRAME_SALTS_AT]);
        let sum = checksum(big, sum, &frame[FRAME_HEADER_BYTES..]);
        before = sum_at(&frame, FRAME_SUM_AT);
        let of_this_round = sum_at(&frame, FRAME_SALTS_AT);
        let of_this_round = *salts.get_or_insert(of_this_round) == of_this_round;
        match (of_this_round && sum == before, wrong) {
            (false, None) => wrong = Some(number),
            (true, Some(first)) if after_commit => {
                return Ok(Some(format!(
                    "frame {first} of the write-ahead log has changed"
                )));
            }
            _ => {}
        }
        after_commit = of_this_round && word(&frame, 4) != 0;
    }
    Ok(None)
}

/// Reads as much as fits; false at the end.
fn fill(log: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |word, b| word << 8 | u32::from(*b))
}

fn sum_at(bytes: &[u8], at: usize) -> Sum {
    (word(bytes, at), word(bytes, at + 4))
}

fn checksum(big: bool, (mut a, mut b): Sum, bytes: &[u8]) -> Sum {
    for pair in bytes.chunks_exact(8) {
        let (mut x, mut y) = sum_at(pair, 0);
        if !big {
            (x, y) = (x.swap_bytes(), y.swap_bytes());
        }
        a = a.wrapping_add(x).wrapping_add(b);
        b = b.wrapping_add(y).wrapping_add(a);
    }
    (a, b)
}

/// Puts the log on the disk as SQLite has just found it. A sync that failed has left pages that read well,
/// count as written and are not on the disk (so does Linux); what is added behind them would go with them
/// when the power fails. So the same bytes are written again, while nobody else may write. Then it is
/// lengthened to `length` with what SQLite takes for the rest of an earlier round, if there is room.
///
/// # Errors
/// The log cannot be written, or another program holds the lock for too long.
pub fn settle(conn: &Connection, path: &Path, length: u64) -> anyhow::Result<()> {
    let log = log_path(path);
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let settled = match File::options().read(true).write(true).open(&log) {
        Ok(file) => rewrite(&file).and_then(|()| lengthen(&file, length)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    conn.execute_batch("ROLLBACK")?;
    settled.with_context(|| format!("cannot write {}", log.display()))
}

fn rewrite(file: &File) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let length = file.read_at(&mut bytes, at)?;
        if length == 0 {
            return file.sync_data();
        }
        file.write_all_at(&bytes[..length], at)?;
        at += length as u64;
    }
}

fn lengthen(file: &File, to: u64) -> std::io::Result<()> {
    let from = file.metadata()?.len();
    let zeros = [0; 16 << 10];
    let mut at = from;
    while at < to {
        let length = zeros.len().min(usize::try_from(to - at).unwrap_or(0));
        // A disk that is nearly full needs its room for rows.
        if file.write_all_at(&zeros[..length], at).is_err() {
            file.set_len(from)?;
            break;
        }
        at += length as u64;
    }
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is a failed test")]
mod tests {
    use super::*;

    /// A real log of three commits, and how long it is.
    fn log(folder: &Path) -> (PathBuf, Connection) {
        let path = folder.join("x.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (v)")
            .unwrap();
        for _ in 0..3 {
            conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        }
        (path, conn)
    }

    #[test]
    fn what_an_earlier_round_has_left_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let (path, conn) = log(folder.path());
        let length = std::fs::metadata(log_path(&path)).unwrap().len();
        for _ in 0..2 {
            // Starts the next round at the log's beginning.
            conn.execute_batch("PRAGMA wal_checkpoint; INSERT INTO t VALUES (2)")
                .unwrap();
            assert_eq!(std::fs::metadata(log_path(&path)).unwrap().len(), length);
            assert_eq!(damage(&path).unwrap(), None);
        }
    }

    #[test]
    fn every_changed_byte_that_later_commits_stand_on_is_found_and_a_torn_tail_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _conn) = log(folder.path());
        assert_eq!(damage(&path).unwrap(), None);
        let whole = std::fs::read(log_path(&path)).unwrap();
        let frame = FRAME_HEADER_BYTES + word(&whole, 8) as usize;
        let last = whole.len() - frame;
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let found = look_through(&bytes[..]).unwrap();
            // A changed checksum makes the next frame wrong, too.
            if at >= 12 && at < last - 2 * frame {
                assert!(found.is_some(), "{at}");
            }
            assert!(at < last || found.is_none(), "{at}: {found:?}");
            assert_eq!(look_through(&whole[..at]).unwrap(), None, "cut at {at}");
        }
    }
}
