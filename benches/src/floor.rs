//! The floor: a FUSE file system with the same two directories that stores nothing. It is configured
//! as the partition is (FUSE_ATOMIC_O_TRUNC, long times, no xattrs, direct I/O), so what remains of
//! the product's time above it is the product's own. With a database it is the straightforward design
//! beside it: each flush inserts a row and commits it before it is answered.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::sqlite::Rows;

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

const LONG: Duration = Duration::from_secs(24 * 3600);
const ROOT: u64 = 1;
const DIRECTORY: u64 = 2;

/// Every name that was created, and its inode; all live in one directory.
struct Floor {
    names: Mutex<HashMap<OsString, u64>>,
    rows: Option<Mutex<Rows>>,
}

/// Mounts the floor at `mount` and serves it until the process is killed or the mount goes. With
/// `commit`, each flush is a row in a database in that folder.
pub fn serve(mount: &Path, commit: Option<&Path>) -> anyhow::Result<()> {
    let floor = Floor {
        names: Mutex::default(),
        rows: commit.map(Rows::open).transpose()?.map(Mutex::new),
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("vmkpi-floor".into())];
    Session::new(floor, mount, &config)?.spawn()?.join()?;
    Ok(())
}

fn attr(ino: u64) -> FileAttr {
    let directory = ino <= DIRECTORY;
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Floor {
    fn inode(&self, name: &OsStr, create: bool) -> Option<u64> {
        let mut names = self.names.lock().ok()?;
        let next = DIRECTORY + 1 + names.len() as u64;
        match names.get(name) {
            Some(ino) => Some(*ino),
            None if create => {
                names.insert(name.to_owned(), next);
                Some(next)
            }
            None => None,
        }
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config
            .add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC)
            .map_err(|_| io::Error::other("the kernel has no FUSE_ATOMIC_O_TRUNC"))
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match parent.0 {
            ROOT => (name == "unencrypted").then_some(DIRECTORY),
            _ => self.inode(name, false),
        };
        match ino {
            Some(ino) => reply.entry(&LONG, &attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LONG, &attr(ino.0));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.inode(name, true) {
            Some(ino) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&LONG, &attr(ino), Generation(0), FileHandle(0), flags);
            }
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let Some(rows) = &self.rows else {
            return reply.ok();
        };
        match rows.lock().map(|rows| rows.insert(ino.0)) {
            Ok(Ok(())) => reply.ok(),
            _ => reply.error(Errno::EIO),
        }
    }
}
