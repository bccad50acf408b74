//! Where the bytes of media come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use vmkpi::iso9660::ReadAt;

use super::sysfs::Folder;
use super::tray;

/// A drive.
pub trait Source {
    /// What is open while a medium is read.
    type Medium: ReadAt;

    /// Opens the medium; `None`: there is none. Bytes that were read before may be others now.
    ///
    /// # Errors
    /// The drive cannot be opened.
    fn open(&self) -> io::Result<Option<Self::Medium>>;

    /// How often the medium changed; `None`: the kernel does not count.
    fn changes(&self) -> Option<u64>;
}

/// A drive of this machine.
#[derive(Debug)]
pub struct Drive {
    /// Its node.
    pub node: PathBuf,
    /// What the kernel shows of it.
    pub folder: Folder,
}

impl Source for Drive {
    type Medium = File;

    /// Without O_NONBLOCK the kernel would close the tray and lock it, and the host could not change the medium. The
    /// kernel asks the drive whether the medium changed, and forgets what it has read of another one.
    fn open(&self) -> io::Result<Option<File>> {
        let opened = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.node);
        match opened {
            Ok(file) if tray::is_empty(&file) => Ok(None),
            Ok(file) => Ok(Some(file)),
            Err(error) if error.raw_os_error() == Some(Errno::ENOMEDIUM as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn changes(&self) -> Option<u64> {
        self.folder.changes()
    }
}
