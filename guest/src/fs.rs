//! The KPI partition as a file system, without a kernel: what a request means, and which errno it
//! has. Every call names inodes and handles by number, as the kernel does; calls that end on disk take
//! a closure, which the store's thread calls when they have.
//!
//! A handle on its way to the store:
//!
//! ```text
//!            write, truncate                 flush, fsync
//!   clean ───────────────────> changed ──────────────────────> pending ── stored ──> clean
//!     ^                           ^                               │
//!     └───────── nothing in it ───┤                               ├─ not CSV ─> unsaved, input kept
//!                                 └── write ── unsaved <──────────┴─ store failed
//!                                                └── flush, fsync: tried again; release: not
//! ```

mod change;
mod handle;
mod save;
pub mod tree;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use vmkpi::clock::Timestamp;
use vmkpi::name::Area;

use crate::config::Limits;
use crate::store::inspect::Reader;
use crate::store::{Point, Store, StoredFile};
use handle::Handle;
use tree::{Ino, Name, Node, PRIMARY_KEY, PRIMARY_KEY_NAME, ROOT, Tree, area_ino, area_of};

pub use change::Change;
pub use handle::Done;

/// An open handle's number.
pub type Fh = u64;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenMode {
    /// For writing.
    pub write: bool,
    /// Beginning with nothing in it.
    pub truncate: bool,
    /// It must not be there.
    pub exclusive: bool,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// Whether it is a directory.
    pub directory: bool,
    /// Bytes.
    pub size: u64,
    /// The time of the last store.
    pub mtime: Timestamp,
    /// Whether nothing is under way that changes it: the kernel may keep it.
    pub stable: bool,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub ino: Ino,
    /// Where a listing that ended here goes on.
    pub offset: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// The name.
    pub name: String,
}

/// The partition. Clones are the same one.
#[derive(Clone)]
pub struct Partition {
    state: Arc<Mutex<State>>,
    readers: Arc<Mutex<[Option<Reader>; 2]>>,
    store: Store,
    limits: Limits,
    born: Timestamp,
    /// The owner's public key, as applications read it.
    primary_key: Option<Arc<[u8]>>,
}

struct State {
    tree: Tree,
    handles: HashMap<Fh, Handle>,
    next_handle: Fh,
    /// Bytes held in handles and scratch files, against [`Limits::buffered_bytes`].
    buffered: usize,
}

impl State {
    fn handle(&mut self, fh: Fh) -> Result<&mut Handle, Errno> {
        self.handles.get_mut(&fh).ok_or(Errno::EBADF)
    }

    /// Changes a handle and keeps count of the bytes it holds.
    fn account<T>(&mut self, fh: Fh, work: impl FnOnce(&mut Handle) -> T) -> Result<T, Errno> {
        let handle = self.handles.get_mut(&fh).ok_or(Errno::EBADF)?;
        let before = handle.held();
        let result = work(handle);
        self.buffered = self.buffered + handle.held() - before;
        Ok(result)
    }

    /// Replaces a scratch file's bytes and keeps count of them.
    fn set_scratch(&mut self, ino: Ino, bytes: Arc<Vec<u8>>) {
        if let Ok(node) = self.tree.node_mut(ino) {
            self.buffered = self.buffered + bytes.len() - node.scratch.len();
            node.scratch = bytes;
            node.mtime = Timestamp::now();
        }
    }
}

impl Partition {
    /// The partition over a store that holds `files`.
    pub fn new(store: Store, files: Vec<StoredFile>, limits: Limits) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                tree: Tree::new(limits, files),
                handles: HashMap::new(),
                next_handle: 1,
                buffered: 0,
            })),
            readers: Arc::default(),
            store,
            limits,
            born: Timestamp::now(),
            primary_key: None,
        }
    }

    /// Shows the owner's public key at the top.
    #[must_use]
    pub fn with_primary_key(self, primary_key: Option<Arc<[u8]>>) -> Self {
        Self {
            primary_key,
            ..self
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The limits it keeps.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry `name` of a directory.
    ///
    /// # Errors
    /// ENOENT; ENAMETOOLONG; ENOTDIR.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr, Errno> {
        if parent == ROOT {
            if name == PRIMARY_KEY_NAME {
                return self.key_attr().ok_or(Errno::ENOENT);
            }
            let area = Area::ALL.into_iter().find(|area| name == area.as_str());
            return area
                .map(|a| self.directory(area_ino(a)))
                .ok_or(Errno::ENOENT);
        }
        let area = area_of(parent).ok_or(Errno::ENOTDIR)?;
        if name.len() > vmkpi::name::MAX_NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        let state = self.lock();
        let found = name.to_str().and_then(|name| state.tree.find(area, name));
        let ino = found.ok_or(Errno::ENOENT)?;
        Ok(attr(ino, state.tree.node(ino)?))
    }

    /// What `stat` shows; through a handle with changes, those.
    ///
    /// # Errors
    /// ESTALE: the file is gone.
    pub fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<Attr, Errno> {
        if ino == ROOT || area_of(ino).is_some() {
            return Ok(self.directory(ino));
        }
        if ino == PRIMARY_KEY {
            return self.key_attr().ok_or(Errno::ESTALE);
        }
        let state = self.lock();
        let mut attr = attr(ino, state.tree.node(ino)?);
        if let Some(handle) = fh.and_then(|fh| state.handles.get(&fh))
            && handle.changed
        {
            attr.size = handle.len() as u64;
        }
        Ok(attr)
    }

    fn directory(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            directory: true,
            size: 0,
            mtime: self.born,
            stable: true,
        }
    }

    fn key_attr(&self) -> Option<Attr> {
        self.primary_key.as_ref().map(|key| Attr {
            ino: PRIMARY_KEY,
            directory: false,
            size: key.len() as u64,
            mtime: self.born,
            stable: true,
        })
    }

    /// A handle on the owner's public key.
    fn open_key(&self, mode: OpenMode) -> Result<Fh, Errno> {
        let key = self.primary_key.as_ref().ok_or(Errno::ESTALE)?;
        if mode.write || mode.truncate {
            return Err(Errno::EACCES);
        }
        let mut state = self.lock();
        if state.handles.len() >= self.limits.handles {
            return Err(Errno::ENFILE);
        }
        let mut handle = Handle::new(PRIMARY_KEY, false, false);
        handle.load(Arc::new(key.to_vec()));
        let fh = state.next_handle;
        state.next_handle += 1;
        state.handles.insert(fh, handle);
        Ok(fh)
    }

    /// Calls `each` with the entries of a directory that come after `offset`, until it says stop.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn readdir(
        &self,
        ino: Ino,
        offset: u64,
        mut each: impl FnMut(Entry) -> bool,
    ) -> Result<(), Errno> {
        let area = area_of(ino);
        if ino != ROOT && area.is_none() {
            return Err(Errno::ENOTDIR);
        }
        // Inodes only grow and are never used again, so they are the places in a listing too.
        let fixed = [(1, ino, "."), (2, ROOT, "..")];
        for (place, ino, name) in fixed.into_iter().filter(|(place, ..)| *place > offset) {
            if each(entry(ino, place, true, name)) {
                return Ok(());
            }
        }
        let Some(area) = area else {
            for area in Area::ALL {
                let ino = area_ino(area);
                if ino + 2 > offset && each(entry(ino, ino + 2, true, area.as_str())) {
                    return Ok(());
                }
            }
            let place = PRIMARY_KEY + 2;
            if self.primary_key.is_some() && place > offset {
                each(entry(PRIMARY_KEY, place, false, PRIMARY_KEY_NAME));
            }
            return Ok(());
        };
        let state = self.lock();
        for (ino, node) in state.tree.list(area, offset) {
            if each(entry(ino, ino, false, node.name.as_str())) {
                break;
            }
        }
        Ok(())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// ENFILE over the limit; EISDIR; ESTALE; EACCES to write the owner's key.
    pub fn open(&self, ino: Ino, mode: OpenMode) -> Result<Fh, Errno> {
        if ino == ROOT || area_of(ino).is_some() {
            return Err(Errno::EISDIR);
        }
        if ino == PRIMARY_KEY {
            return self.open_key(mode);
        }
        let mut state = self.lock();
        self.open_in(&mut state, ino, mode)
    }

    fn open_in(&self, state: &mut State, ino: Ino, mode: OpenMode) -> Result<Fh, Errno> {
        if state.handles.len() >= self.limits.handles {
            return Err(Errno::ENFILE);
        }
        let node = state.tree.node_mut(ino)?;
        node.handles += 1;
        node.writers += u32::from(mode.write);
        let fh = state.next_handle;
        state.next_handle += 1;
        let handle = Handle::new(ino, mode.write, mode.truncate && mode.write);
        state.handles.insert(fh, handle);
        Ok(fh)
    }

    /// Makes and opens a file, or opens it if it is there.
    ///
    /// # Errors
    /// EPERM outside the two directories; EINVAL, ENAMETOOLONG, EEXIST for the name; ENOSPC when there
    /// are too many files; ENFILE.
    pub fn create(&self, parent: Ino, name: &OsStr, mode: OpenMode) -> Result<(Attr, Fh), Errno> {
        let area = area_of(parent).ok_or(Errno::EPERM)?;
        let name = Name::new(name)?;
        let mut state = self.lock();
        let ino = match state.tree.find(area, name.as_str()) {
            Some(_) if mode.exclusive => return Err(Errno::EEXIST),
            Some(ino) => ino,
            None => state.tree.create(area, name)?,
        };
        let opened = self.open_in(&mut state, ino, mode);
        let attr = attr(ino, state.tree.node(ino)?);
        match opened {
            Ok(fh) => Ok((attr, fh)),
            Err(error) => {
                if !state.tree.node(ino)?.stored {
                    state.tree.unlink(ino);
                }
                Err(error)
            }
        }
    }

    /// The bytes of a handle from `offset` on, at most `size` of them.
    ///
    /// # Errors
    /// EIO: the store cannot be read; EBADF.
    pub fn read<T>(
        &self,
        fh: Fh,
        offset: u64,
        size: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Errno> {
        self.load(fh)?;
        let bytes = self.lock().handle(fh)?.bytes().cloned().unwrap_or_default();
        let from = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
        let to = from.saturating_add(size).min(bytes.len());
        Ok(take(&bytes[from..to]))
    }

    /// Writes through a handle, at `offset` or at the end.
    ///
    /// # Errors
    /// EFBIG over the limit of a store; ENOSPC when too much is written and not stored; EBADF.
    pub fn write(&self, fh: Fh, offset: Option<u64>, data: &[u8]) -> Result<(), Errno> {
        self.load(fh)?;
        let limit = self.limits.store_bytes;
        let mut state = self.lock();
        let grows = state.handle(fh)?.held() + data.len();
        if state.buffered + grows > self.limits.buffered_bytes {
            return Err(Errno::ENOSPC);
        }
        state.account(fh, |handle| match handle.writable {
            true => handle.write(offset, data, limit),
            false => Err(Errno::EBADF),
        })?
    }

    /// Reads what the file holds into a handle that has not looked yet.
    fn load(&self, fh: Fh) -> Result<(), Errno> {
        let (point, stored, scratch) = {
            let mut state = self.lock();
            let handle = state.handle(fh)?;
            if handle.bytes().is_some() {
                return Ok(());
            }
            let ino = handle.ino;
            // Also when the file has been replaced since: a reader then sees its successor's bytes.
            let node = state.tree.node(ino)?;
            (node.point(), node.stored, Arc::clone(&node.scratch))
        };
        let bytes = match point {
            Some(point) if stored => Arc::new(self.content(&point)?),
            Some(_) => Arc::default(),
            None => scratch,
        };
        self.lock().handle(fh)?.load(bytes);
        Ok(())
    }

    /// The bytes of a file's last store.
    fn content(&self, point: &Point) -> Result<Vec<u8>, Errno> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut readers[usize::from(point.area == Area::Unencrypted)];
        let read = (|| {
            if slot.is_none() {
                *slot = Some(Reader::open(self.store.directory(), point.area)?);
            }
            match slot {
                Some(reader) => reader.content(&point.name),
                None => Ok(None),
            }
        })();
        read.map(Option::unwrap_or_default).map_err(|error| {
            tracing::error!(%point, %error, "the last bytes cannot be read");
            *slot = None;
            Errno::EIO
        })
    }

    /// How many files there are, and how many bytes wait to be stored.
    pub fn usage(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.tree.count(), state.handles.len(), state.buffered)
    }
}

fn attr(ino: Ino, node: &Node) -> Attr {
    let scratch = matches!(node.name, Name::Scratch(_));
    Attr {
        ino,
        directory: false,
        size: match scratch {
            true => node.scratch.len() as u64,
            false => node.size,
        },
        mtime: node.mtime,
        stable: !scratch && node.writers == 0 && node.pending == 0,
    }
}

fn entry(ino: Ino, offset: u64, directory: bool, name: &str) -> Entry {
    Entry {
        ino,
        offset,
        directory,
        name: name.into(),
    }
}
