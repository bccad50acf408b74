//! The context partition's adapter to the kernel: a read-only file system over [`Inodes`]. Warm reads never come here:
//! names, also those that are not there, attributes and pages are the kernel's to keep, OPEN and FLUSH are answered with
//! ENOSYS once and not asked again, and what changed is taken back ([`Tree::forget`]) before a change counts as done.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use vmkpi::clock::Timestamp;
use vmkpi::context::MAX_NAME_BYTES;

use super::change::Entries;
use super::inodes::{Attr, Content, Inodes, Names, Stale};
use super::view::View;

/// The kernel keeps what it was told, and is told of each change.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Unit of `st_blocks`, whatever `st_blksize` says.
const BLOCK_BYTES: u64 = 512;

/// What one request may read, whatever it asks for.
const MAX_READ_BYTES: usize = 1 << 20;

/// The most open listings; ENFILE.
const MAX_LISTINGS: usize = 4096;

const NO_GENERATION: Generation = Generation(0);

/// What is shown, shared by the thread that answers the kernel and the one that changes it.
#[derive(Debug)]
pub struct Tree {
    inodes: Mutex<Inodes>,
}

impl Tree {
    /// An empty tree with the file of a generation.
    pub fn new(generation: u64) -> Self {
        Self {
            inodes: Mutex::new(Inodes::new(generation, Timestamp::now())),
        }
    }

    /// Its inodes.
    pub fn inodes(&self) -> MutexGuard<'_, Inodes> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows another view, and returns when the kernel has nothing of the last one any more but what is open. Not to be
    /// called by a thread that answers the kernel, which waits for requests that are on their way.
    pub fn show(&self, view: &View, entries: &Entries, notifier: &Notifier) {
        let stale = self.inodes().replace(view, entries, Timestamp::now());
        forget(&stale, notifier);
    }

    /// Shows another generation, likewise.
    pub fn count(&self, generation: u64, notifier: &Notifier) {
        let stale = self.inodes().set_generation(generation, Timestamp::now());
        forget(&stale, notifier);
    }
}

/// Takes back what the kernel keeps. It waits for look-ups in the directory, so none of them brings back what was.
fn forget(stale: &[Stale], notifier: &Notifier) {
    for stale in stale {
        let done = match stale {
            Stale::Name(parent, name) => notifier.inval_entry(INodeNo(*parent), OsStr::new(name)),
            // -1: attributes alone.
            Stale::Attributes(ino) => notifier.inval_inode(INodeNo(*ino), -1, 0),
        };
        // What the kernel does not know needs no taking back; a mount that has gone has nobody to tell.
        if let Err(error) = done
            && error.raw_os_error() != Some(nix::errno::Errno::ENODEV as i32)
        {
            tracing::debug!(?stale, %error, "the kernel did not forget");
        }
    }
}

/// The kernel's view of the tree.
#[derive(Debug)]
pub struct Adapter {
    tree: Arc<Tree>,
    listings: Mutex<Listings>,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Default)]
struct Listings {
    last: u64,
    open: HashMap<u64, Names>,
}

impl Adapter {
    /// An adapter for a tree. Everything belongs to whoever runs the program.
    pub fn new(tree: Arc<Tree>) -> Self {
        Self {
            tree,
            listings: Mutex::default(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }

    fn attr(&self, attr: Attr) -> FileAttr {
        let micros = u64::try_from(attr.since.as_micros()).unwrap_or(0);
        let since = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        let (kind, perm) = match attr.directory {
            true => (FileType::Directory, 0o555),
            false => (FileType::RegularFile, 0o444),
        };
        FileAttr {
            ino: INodeNo(attr.ino),
            size: attr.size,
            blocks: attr.size.div_ceil(BLOCK_BYTES),
            atime: since,
            mtime: since,
            ctime: since,
            crtime: since,
            kind,
            perm,
            nlink: attr.links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Number 0: a name that is not there, to be remembered.
    fn nothing(&self) -> FileAttr {
        self.attr(Attr {
            ino: 0,
            directory: false,
            size: 0,
            links: 0,
            since: Timestamp::default(),
        })
    }

    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of an open listing. From its beginning it is that of the moment, as rewinddir(3) wants it.
    fn listing(&self, ino: u64, handle: u64, offset: u64) -> Names {
        let mut listings = self.listings();
        let Some(names) = listings.open.get_mut(&handle) else {
            return Names::default();
        };
        if offset == 0 {
            *names = self.tree.inodes().names(ino).unwrap_or_default();
        }
        Arc::clone(names)
    }
}

fn read(content: Content, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
    let size = size.min(MAX_READ_BYTES);
    match content {
        Content::Layer(layer, extent) => layer.read(&extent, offset, size).map_err(|error| {
            tracing::error!(class = %layer.class, %error, "a layer cannot be read");
            Errno::EIO
        }),
        Content::Bytes(bytes) => {
            let from = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let to = from.saturating_add(size).min(bytes.len());
            Ok(bytes[from..to].to_vec())
        }
        Content::Gone(_) => Err(Errno::ESTALE),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Where the kernel has neither, it asks more often, and gets the same answers.
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS;
        let _ = config.add_capabilities(wanted);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // No name in a layer is not UTF-8.
        let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
        let found = self.tree.inodes().lookup(parent.0, name);
        match found {
            Ok(Some(attr)) => reply.entry(&LONG, &self.attr(attr), NO_GENERATION),
            Ok(None) => reply.entry(&LONG, &self.nothing(), NO_GENERATION),
            // In a directory that has gone itself: not to be remembered, nobody would take it back.
            Err(_) => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.tree.inodes().forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.tree.inodes().attr(ino.0);
        match attr {
            Some(attr) => reply.attr(&LONG, &self.attr(attr)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel does not ask again and keeps the pages: a number's content never changes. One that does not know
        // this answer has no page cache here.
        reply.error(Errno::ENOSYS);
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
        let content = self.tree.inodes().content(ino.0);
        let bytes = content
            .ok_or(Errno::ESTALE)
            .and_then(|content| read(content, offset, size as usize));
        match bytes {
            Ok(bytes) => reply.data(&bytes),
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
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Ok(names) = self.tree.inodes().names(ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let mut listings = self.listings();
        if listings.open.len() >= MAX_LISTINGS {
            return reply.error(Errno::ENFILE);
        }
        listings.last += 1;
        let handle = listings.last;
        listings.open.insert(handle, names);
        drop(listings);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = self.listing(ino.0, fh.0, offset);
        let parent = self.tree.inodes().parent(ino.0);
        let dots = [(ino.0, "."), (parent, "..")];
        let dots = dots.map(|(ino, name)| (ino, FileType::Directory, name));
        let named = names.iter().map(|name| {
            let kind = match name.directory {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            (name.ino, kind, name.name.as_str())
        });
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (ino, kind, name)) in (1..).zip(dots.into_iter().chain(named)).skip(from) {
            if reply.add(INodeNo(ino), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings().open.remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (bytes, files) = {
            let inodes = self.tree.inodes();
            (inodes.bytes(), inodes.count() as u64)
        };
        // All of it is used: there is no room for more.
        let name = u32::try_from(MAX_NAME_BYTES).unwrap_or(u32::MAX);
        reply.statfs(bytes.div_ceil(4096), 0, 0, files, 0, 4096, name, 4096);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Asked each time by whoever wonders whether it is a terminal: Python's open does.
        reply.error(Errno::ENOTTY);
    }

    // ENOSYS makes the kernel answer by itself from then on.

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}
