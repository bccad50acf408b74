//! Room that is kept for a full disk: a file that is given up then, so that what has arrived can still be removed.
//! SQLite needs room for that, too, and a spool that cannot forget would be full for ever.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// How large it is, in bytes: twice what the write-ahead log grows to before it is moved into the database, and
/// some more.
pub const RESERVE_BYTES: u64 = 32 << 20;
/// What is written at once where the file system cannot allocate.
const PIECE: usize = 1 << 20;

/// The file, if there is room for it.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// That of a state directory; it is not there yet.
    pub fn new(state: &Path) -> Self {
        Self {
            path: state.join("relay.reserve"),
            held: false,
        }
    }

    /// Whether the room is kept.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Keeps the room, if it is not kept already.
    ///
    /// # Errors
    /// There is none; then nothing of it is kept.
    pub fn take(&mut self) -> std::io::Result<()> {
        if self.held {
            return Ok(());
        }
        let made = self.make();
        match &made {
            Ok(()) => self.held = true,
            Err(_) => self.release(),
        }
        made
    }

    /// Gives the room up.
    pub fn release(&mut self) {
        self.held = false;
        // Where it cannot be removed there is nothing to gain.
        let _ = std::fs::remove_file(&self.path);
    }

    fn make(&self) -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.path)?;
        if fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES).is_err() {
            fill(&mut file)?;
        }
        file.sync_all()
    }
}

/// No zeros: a file system that compresses would keep no room for them.
fn fill(file: &mut File) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    for _ in 0..RESERVE_BYTES / PIECE as u64 {
        getrandom::fill(&mut piece).map_err(std::io::Error::other)?;
        file.write_all(&piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_room_is_really_taken_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(dir.path());
        assert!(!reserve.is_held());
        reserve.take().unwrap();
        let file = dir.path().join("relay.reserve");
        assert!(reserve.is_held() && file.metadata().unwrap().blocks() * 512 >= RESERVE_BYTES);
        reserve.take().unwrap();
        reserve.release();
        assert!(!reserve.is_held() && !file.exists());
        let mut file = File::create(&file).unwrap();
        fill(&mut file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), RESERVE_BYTES);
        let mut nowhere = Reserve::new(Path::new("/nonexistent"));
        assert!(nowhere.take().is_err() && !nowhere.is_held());
    }
}
