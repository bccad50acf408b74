//! The thin adapter to the kernel: decodes a request, calls [`Partition`], replies, maybe later and
//! from the store's thread. A store costs four requests in steady state (OPEN, WRITE, FLUSH, RELEASE);
//! everything here that looks like a detail keeps it at four: FUSE_ATOMIC_O_TRUNC, long entry and
//! attribute times, xattrs answered with ENOSYS once, direct I/O.

mod attr;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::Access;
use crate::counters::{Counters, Operation};
use crate::fs::{Attr, Change, OpenMode, Partition};
use attr::Owner;

/// Names and attributes change through the kernel, so it may keep them; of the few that do not
/// (a store sets the time, a dropped draft the size) it is told.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// The largest write in one request. The request buffer grows to what is used of it.
const MAX_WRITE_BYTES: u32 = 256 << 10;

const GENERATION: Generation = Generation(0);

/// The kernel's view of a partition.
pub struct Adapter {
    partition: Partition,
    counters: Arc<Counters>,
    owner: Owner,
    device: Device,
}

/// The kernel's end of the partition, known once it is mounted.
pub type Device = Arc<OnceLock<OwnedFd>>;

/// A request that is dealt with. At its end, and when no other request waits, what has gathered is
/// committed.
struct Turn<'a>(&'a Adapter);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let adapter = self.0;
        adapter
            .partition
            .store()
            .end_turn(|| adapter.has_requests());
    }
}

impl Adapter {
    /// An adapter for `partition`; `everyone` tells whether every user may use the mount.
    pub fn new(
        partition: Partition,
        counters: Arc<Counters>,
        access: Access,
        everyone: bool,
    ) -> Self {
        Self {
            partition,
            counters,
            owner: Owner::new(access, everyone),
            device: Device::default(),
        }
    }

    /// Where the mount puts the kernel's end.
    pub fn device(&self) -> Device {
        Arc::clone(&self.device)
    }

    fn turn(&self, operation: Operation) -> Turn<'_> {
        self.counters.request(operation);
        self.partition.store().begin_turn();
        Turn(self)
    }

    /// Whether the kernel has more requests for us.
    fn has_requests(&self) -> bool {
        let Some(device) = self.device.get() else {
            return false;
        };
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

fn ended(reply: ReplyEmpty) -> crate::fs::Done {
    Box::new(|result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    })
}

fn open_mode(flags: i32) -> OpenMode {
    let flag = |flag: OFlag| flags & flag.bits() != 0;
    OpenMode {
        write: OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY,
        truncate: flag(OFlag::O_TRUNC),
        exclusive: flag(OFlag::O_EXCL),
    }
}

/// Never FOPEN_NOFLUSH: the flush is the store.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ATOMIC_O_TRUNC;
        if config.add_capabilities(wanted).is_err() {
            return Err(io::Error::other("the kernel has no FUSE_ATOMIC_O_TRUNC"));
        }
        // Refused only when larger than the buffer, which it is not.
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turn(Operation::Lookup);
        match self.partition.lookup(parent.0, name) {
            Ok(attr) => {
                reply.entry(&LONG, &self.owner.attr(attr), GENERATION);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let _turn = self.turn(Operation::Forget);
        self.partition.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turn(Operation::GetAttr);
        match self.partition.getattr(ino.0) {
            Ok(attr) => reply.attr(&LONG, &self.owner.attr(attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _turn = self.turn(Operation::SetAttr);
        if !self.owner.keeps(uid, gid) {
            return reply.error(Errno::EPERM);
        }
        let change = Change {
            size,
            mode: mode.and_then(|mode| self.owner.new_mode(ino.0, mode)),
        };
        let owner = self.owner;
        let done = Box::new(move |result: Result<(Attr, bool), _>| match result {
            Ok((attr, keep)) => {
                let ttl = if keep { LONG } else { Duration::ZERO };
                reply.attr(&ttl, &owner.attr(attr));
            }
            Err(error) => reply.error(errno(error)),
        });
        self.partition
            .setattr(ino.0, fh.map(|fh| fh.0), change, done);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turn(Operation::Open);
        match self.partition.open(ino.0, open_mode(flags.0)) {
            Ok(fh) => reply.opened(FileHandle(fh), OPENED),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _turn = self.turn(Operation::Create);
        match self.partition.create(parent.0, name, open_mode(flags)) {
            Ok((attr, fh)) => {
                let attr = self.owner.attr(attr);
                reply.created(&LONG, &attr, GENERATION, FileHandle(fh), OPENED);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.turn(Operation::Read);
        let mut reply = Some(reply);
        let sent = self.partition.read(fh.0, offset, size as usize, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        if let (Err(error), Some(reply)) = (sent, reply) {
            reply.error(errno(error));
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.turn(Operation::Write);
        // The kernel's idea of the end may be another handle's: O_APPEND means this handle's end.
        let append = flags.0 & OFlag::O_APPEND.bits() != 0;
        match self
            .partition
            .write(fh.0, (!append).then_some(offset), data)
        {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Operation::Flush);
        self.partition.save(fh.0, ended(reply));
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Operation::FSync);
        self.partition.save(fh.0, ended(reply));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Operation::Release);
        self.partition.release(fh.0);
        reply.ok();
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Operation::Unlink);
        self.partition.unlink(parent.0, name, ended(reply));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Operation::Rename);
        if flags.intersects(!RenameFlags::RENAME_NOREPLACE) {
            return reply.error(Errno::EINVAL);
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (from, to) = ((parent.0, name), (newparent.0, newname));
        self.partition.rename(from, to, no_replace, ended(reply));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turn(Operation::OpenDir);
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _turn = self.turn(Operation::ReadDir);
        let listed = self.partition.readdir(ino.0, offset, |entry| {
            let kind = match entry.directory {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            reply.add(INodeNo(entry.ino), entry.offset, kind, entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Operation::ReleaseDir);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // A name is on disk before the call that made it returns.
        let _turn = self.turn(Operation::FSyncDir);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _turn = self.turn(Operation::StatFs);
        attr::statfs(&self.partition, reply);
    }

    // What is not offered: one constant errno each, listed in docs/SEMANTICS.md.

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.turn(Operation::MkNod);
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.turn(Operation::MkDir);
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Operation::RmDir);
        reply.error(Errno::EPERM);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        let _turn = self.turn(Operation::SymLink);
        reply.error(Errno::EPERM);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let _turn = self.turn(Operation::Link);
        reply.error(Errno::EPERM);
    }

    fn readlink(&self, _req: &Request, _ino: INodeNo, reply: ReplyData) {
        let _turn = self.turn(Operation::ReadLink);
        reply.error(Errno::EINVAL);
    }

    // ENOSYS makes the kernel answer EOPNOTSUPP by itself from then on, without asking again: getxattr
    // would otherwise be a fifth request of every store. So does fuser with all that is not here: fallocate
    // and tmpfile are refused, lseek and copy_file_range are done by the kernel.

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Operation::SetXAttr);
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        let _turn = self.turn(Operation::GetXAttr);
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        let _turn = self.turn(Operation::ListXAttr);
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Operation::RemoveXAttr);
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Asked each time by whoever wonders whether it is a terminal: Python's open does.
        let _turn = self.turn(Operation::Ioctl);
        reply.error(Errno::ENOTTY);
    }
}
