//! [`Disk`] as a mounted file system, and the switch that cuts its power.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::disk::{Disk, Ino};
use super::seed::Seed;

/// The kernel alone changes anything here, so it may remember.
const LONG: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

#[derive(Default)]
struct Powered {
    disk: Disk,
    /// Changes and syncs left until the power fails by itself.
    left: Option<u64>,
    off: bool,
    /// Whether syncs fail, and how many have.
    broken: bool,
    failed: u64,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Powered>>);

/// A mounted disk.
pub struct Lossy {
    shared: Shared,
    mount: PathBuf,
    // Never joined: it ends with the last program that has something open here.
    _session: BackgroundSession,
}

impl Lossy {
    /// Mounts `disk`. With `left` its power fails by itself at that change or sync.
    pub fn mount(disk: Disk, mount: &Path, left: Option<u64>) -> Self {
        let powered = Powered {
            disk,
            left,
            ..Powered::default()
        };
        let shared = Shared(Arc::new(Mutex::new(powered)));
        let session = fuser::spawn_mount(shared.clone(), mount, &Config::default()).unwrap();
        Self {
            shared,
            mount: mount.into(),
            _session: session,
        }
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.shared.lock().off
    }

    /// Has every sync fail, or succeed again.
    pub fn break_syncs(&self, broken: bool) {
        self.shared.lock().broken = broken;
    }

    /// How many syncs have failed.
    pub fn failed_syncs(&self) -> u64 {
        self.shared.lock().failed
    }

    /// Cuts the power, if it is not off yet: from now on everything fails. Says what is on the disk.
    pub fn cut(&self, seed: &mut Seed) -> Disk {
        let mut powered = self.shared.lock();
        powered.off = true;
        powered.disk.after_power_cut(seed)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Powered> {
        self.0.lock().unwrap()
    }

    /// Does something that changes the disk or syncs it, while there is power.
    fn act<T>(&self, act: impl FnOnce(&mut Disk) -> Option<T>) -> Result<T, Errno> {
        let mut powered = self.lock();
        if let Some(left) = &mut powered.left {
            *left = left.saturating_sub(1);
            powered.off |= *left == 0;
        }
        if powered.off {
            return Err(Errno::EIO);
        }
        act(&mut powered.disk).ok_or(Errno::ENOENT)
    }

    fn sync(&self, ino: Ino) -> Result<(), Errno> {
        let mut powered = self.lock();
        if powered.broken {
            powered.failed += 1;
            powered.disk.file(ino).ok_or(Errno::ENOENT)?.fail_to_sync();
            return Err(Errno::EIO);
        }
        drop(powered);
        self.act(|disk| {
            disk.file(ino)?.sync();
            Some(())
        })
    }

    fn look<T>(&self, look: impl FnOnce(&mut Disk) -> Option<T>) -> Result<T, Errno> {
        let mut powered = self.lock();
        if powered.off {
            return Err(Errno::EIO);
        }
        look(&mut powered.disk).ok_or(Errno::ENOENT)
    }
}

fn attr(ino: Ino, disk: &mut Disk) -> Option<FileAttr> {
    let (kind, size) = match ino {
        1 => (FileType::Directory, 0),
        _ => {
            let file = disk.file(ino)?;
            let kind = match file.socket {
                true => FileType::Socket,
                false => FileType::RegularFile,
            };
            (kind, file.live.len() as u64)
        }
    };
    Some(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attr) => reply.entry(&LONG, &attr, GENERATION),
        Err(error) => reply.error(error),
    }
}

fn ended(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Shared {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.look(|disk| attr(*disk.names.get(name)?, disk)));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|disk| attr(ino.0, disk)) {
            Ok(attr) => reply.attr(&LONG, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = match size {
            Some(size) => self.act(|disk| {
                disk.file(ino.0)?.resize(size as usize);
                attr(ino.0, disk)
            }),
            None => self.look(|disk| attr(ino.0, disk)),
        };
        match done {
            Ok(attr) => reply.attr(&LONG, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.act(|disk| attr(disk.create(name, true), disk)));
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        ended(reply, self.act(|disk| disk.remove(name).then_some(())));
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        ended(
            reply,
            self.act(|disk| disk.rename(name, newname).then_some(())),
        );
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
        match self.act(|disk| attr(disk.create(name, false), disk)) {
            Ok(attr) => reply.created(&LONG, &attr, GENERATION, FileHandle(0), OPENED),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.look(|_| Some(())) {
            Ok(()) => reply.opened(FileHandle(0), OPENED),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.look(|disk| {
            let bytes = &disk.file(ino.0)?.live;
            let from = (offset as usize).min(bytes.len());
            Some(bytes[from..(from + size as usize).min(bytes.len())].to_vec())
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = self.act(|disk| {
            disk.file(ino.0)?.write(offset as usize, data);
            Some(())
        });
        match done {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        ended(reply, self.sync(ino.0));
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.act(|disk| {
            disk.sync_names();
            Some(())
        });
        ended(reply, done);
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = self.look(|disk| Some(disk.names.clone()));
        for (at, (name, ino)) in names
            .into_iter()
            .flatten()
            .enumerate()
            .skip(offset as usize)
        {
            if reply.add(INodeNo(ino), at as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
