//! The state directory: the daemon's own, and one daemon's at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened.
    #[error("state directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon uses it.
    #[error("state directory {0}: another vmkpi-host uses it")]
    Taken(PathBuf),
}

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    _lock: File,
}

impl StateDir {
    /// Makes the directory if need be, readable by nobody else, and locks it. With `passable` others may pass through it to
    /// what they know the name of, and every file in it is closed to them for that.
    ///
    /// # Errors
    /// It cannot be made, or another daemon has it.
    pub fn open(path: &Path, passable: bool) -> Result<Self, StateError> {
        let fail = |source| StateError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(fail)?;
        if passable {
            // What is made from now on is closed, too.
            umask(Mode::S_IRWXG | Mode::S_IRWXO);
            close_files(path).map_err(fail)?;
        }
        let mode = if passable { 0o711 } else { 0o700 };
        std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fail)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Taken(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(fail(source)),
        }
    }
}

/// Closes the files in a directory to others; directories in it are others' to see to.
fn close_files(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::set_permissions(entry.path(), Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_private_and_one_daemons_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let held = StateDir::open(&path, false).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(
            StateDir::open(&path, false),
            Err(StateError::Taken(_))
        ));
        drop(held);
        StateDir::open(&path, false).unwrap();
    }

    #[test]
    fn a_state_directory_that_others_pass_through_has_files_that_are_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("a"), dir.path().join("a/outbox.db"));
        drop(StateDir::open(&path, false).unwrap());
        std::fs::write(&old, "").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        let _held = StateDir::open(&path, true).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        std::fs::write(path.join("new"), "").unwrap();
        assert_eq!((mode(&path), mode(&old)), (0o711, 0o600));
        assert_eq!(mode(&path.join("new")), 0o600);
    }
}
