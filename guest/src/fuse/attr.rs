//! Attributes as the kernel wants them: whose the files are, their modes, and the disk's room.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyStatfs};
use vmkpi::clock::Timestamp;
use vmkpi::name::MAX_NAME_BYTES;

use crate::config::Access;
use crate::fs::tree::{FIRST_FILE, Ino, PRIMARY_KEY};
use crate::fs::{Attr, Partition};

/// Unit of `st_blocks`, whatever `st_blksize` says.
const BLOCK_BYTES: u64 = 512;

/// Permission bits. Set-user-id, set-group-id and sticky are cleared, as POSIX allows: nothing here is
/// executed.
const PERMISSIONS: u16 = 0o777;

/// To whom everything belongs.
#[derive(Clone, Copy)]
pub struct Owner {
    access: Access,
}

impl Owner {
    /// The owner that `access` names; where not everyone may use the mount, modes say so.
    pub fn new(mut access: Access, everyone: bool) -> Self {
        let mask = if everyone { PERMISSIONS } else { 0o700 };
        access.file_mode &= mask;
        access.directory_mode &= mask;
        Self { access }
    }

    /// Whether a `chown` to these changes nothing.
    pub fn keeps(&self, uid: Option<u32>, gid: Option<u32>) -> bool {
        uid.is_none_or(|uid| uid == self.access.uid) && gid.is_none_or(|gid| gid == self.access.gid)
    }

    /// The permission bits that a `chmod` asks for, if they are others than a directory has for good.
    pub fn new_mode(&self, ino: Ino, mode: u32) -> Option<u16> {
        let directory = ino < FIRST_FILE && ino != PRIMARY_KEY;
        let wanted = u16::try_from(mode & u32::from(PERMISSIONS)).ok()?;
        (!directory || wanted != self.access.directory_mode).then_some(wanted)
    }

    /// Attributes as the kernel wants them.
    pub fn attr(&self, attr: Attr) -> FileAttr {
        let (kind, standard) = match attr.directory {
            true => (FileType::Directory, self.access.directory_mode),
            false => (FileType::RegularFile, self.access.file_mode),
        };
        let (mtime, ctime) = (system_time(attr.mtime), system_time(attr.ctime));
        FileAttr {
            ino: INodeNo(attr.ino),
            size: attr.size,
            blocks: attr.size.div_ceil(BLOCK_BYTES),
            atime: mtime,
            mtime,
            ctime,
            crtime: mtime,
            kind,
            perm: attr.mode.unwrap_or(standard),
            nlink: attr.links,
            uid: self.access.uid,
            gid: self.access.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let micros = u64::try_from(time.as_micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

/// The room of the disk that the store is on, and the names that can still be made.
pub fn statfs(partition: &Partition, reply: ReplyStatfs) {
    let Ok(disk) = nix::sys::statvfs::statvfs(partition.store().directory()) else {
        return reply.error(Errno::EIO);
    };
    let (taken, names) = partition.names();
    reply.statfs(
        disk.blocks(),
        disk.blocks_free(),
        disk.blocks_available(),
        names as u64,
        names.saturating_sub(taken) as u64,
        u32::try_from(disk.fragment_size()).unwrap_or(4096),
        u32::try_from(MAX_NAME_BYTES).unwrap_or(u32::MAX),
        u32::try_from(disk.fragment_size()).unwrap_or(4096),
    );
}
