//! What the system says of the disk: SQLite tells a full disk (SQLITE_FULL) but neither a quota that is
//! used up nor a disk found full only when it is synced, and keeps the errno to itself. After a failed write a small
//! file beside the database asks again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;

/// The file's name in the state directory.
const NAME: &str = "probe";

/// Enough that no block that is already paid for has room for it.
const BYTES: usize = 64 << 10;

/// Why a file cannot be written and synced in `directory`; nothing if it can.
pub fn errno(directory: &Path) -> Option<Errno> {
    let path = directory.join(NAME);
    let written = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .and_then(|file| {
            file.write_all_at(&vec![0; BYTES], 0)?;
            file.sync_data()
        });
    // It may never have been there.
    let _ = std::fs::remove_file(&path);
    let error = written.err()?;
    Some(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_can_be_written_to_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(errno(directory.path()), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(errno(&directory.path().join("none")), Some(Errno::ENOENT));
    }
}
