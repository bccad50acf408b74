//! The KPI partition as a file system, without a kernel: what a request means, and which errno it
//! has. Every call names inodes and handles by number, as the kernel does; calls that end on disk take
//! a closure, which the store's thread calls when they have.
//!
//! A handle on its way to the store:
//!
//! ```text
//!          write, truncate                flush, fsync
//!   clean ─────────────────> changed ──────────────────────> pending ── stored ──> clean
//!                               ^                               ├─ not CSV ─> unsaved, input kept
//!                               └── write ── unsaved <──────────┴─ store failed
//!                                               └── flush, fsync: tried again; release: not
//! ```
//!
//! A clean handle sees the bytes of the last store, whoever made it; any other sees a draft of its own.

mod change;
mod handle;
mod io;
mod node;
mod rename;
mod save;
mod state;
pub mod tree;

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use vmkpi::clock::Timestamp;
use vmkpi::name::{Area, MAX_NAME_BYTES};

use crate::config::Limits;
use crate::store::inspect::Reader;
use crate::store::{Store, StoredFile};
use handle::Handle;
use state::State;
use tree::{Ino, Name, PRIMARY_KEY, PRIMARY_KEY_NAME, Place, ROOT, Tree, area_ino, area_of};

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
    /// The time of the last store, or of the last write that is not yet stored.
    pub mtime: Timestamp,
    /// The time of the last change of anything.
    pub ctime: Timestamp,
    /// Permission bits, if they are not the mount's.
    pub mode: Option<u16>,
    /// Names that lead to it.
    pub links: u32,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub ino: Ino,
    /// Where a listing that ended here goes on.
    pub offset: Place,
    /// Whether it is a directory.
    pub directory: bool,
    /// The name.
    pub name: String,
}

/// Told the inode of a file whose attributes have changed without a request of the kernel's.
pub type Watcher = Box<dyn Fn(Ino) + Send + Sync>;

/// The partition. Clones are the same one.
#[derive(Clone)]
pub struct Partition {
    state: Arc<Mutex<State>>,
    readers: Arc<Mutex<[Option<Reader>; 2]>>,
    watcher: Arc<OnceLock<Watcher>>,
    store: Store,
    limits: Limits,
    born: Timestamp,
    /// The owner's public key, as applications read it.
    primary_key: Option<Arc<[u8]>>,
}

impl Partition {
    /// The partition over a store that holds `files`.
    pub fn new(store: Store, files: Vec<StoredFile>, limits: Limits) -> Self {
        let state = State::new(Tree::new(limits, files), limits);
        Self {
            state: Arc::new(Mutex::new(state)),
            readers: Arc::default(),
            watcher: Arc::default(),
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

    /// From now on `watcher` is told what the kernel must ask for again. Only the first one counts.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    /// Called without the lock, as the kernel may ask at once.
    fn forget_attr(&self, changed: Option<Ino>) {
        if let (Some(ino), Some(watcher)) = (changed, self.watcher.get()) {
            watcher(ino);
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
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
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
        let mut state = self.lock();
        let found = name.to_str().and_then(|name| state.tree.find(area, name));
        state.tell_name(found.ok_or(Errno::ENOENT)?)
    }

    /// What `stat` shows.
    ///
    /// # Errors
    /// ESTALE: the file is gone.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        if ino == ROOT || area_of(ino).is_some() {
            return Ok(self.directory(ino));
        }
        if ino == PRIMARY_KEY {
            return self.key_attr().ok_or(Errno::ESTALE);
        }
        self.lock().tell(ino)
    }

    fn directory(&self, ino: Ino) -> Attr {
        let changed = area_of(ino).map_or(self.born, |area| self.lock().tree.changed(area));
        Attr {
            ino,
            directory: true,
            size: 0,
            mtime: changed,
            ctime: changed,
            mode: None,
            links: match ino {
                ROOT => 2 + Area::ALL.len() as u32,
                _ => 2,
            },
        }
    }

    fn key_attr(&self) -> Option<Attr> {
        self.primary_key.as_ref().map(|key| Attr {
            ino: PRIMARY_KEY,
            directory: false,
            size: key.len() as u64,
            mtime: self.born,
            ctime: self.born,
            mode: Some(0o444),
            links: 1,
        })
    }

    /// A handle on the owner's public key.
    fn open_key(&self, mode: OpenMode) -> Result<Fh, Errno> {
        if self.primary_key.is_none() {
            return Err(Errno::ESTALE);
        }
        if mode.write || mode.truncate {
            return Err(Errno::EACCES);
        }
        let mut state = self.lock();
        if state.handles.len() >= self.limits.handles {
            return Err(Errno::ENFILE);
        }
        let fh = state.next_handle;
        state.next_handle += 1;
        state
            .handles
            .insert(fh, Handle::new(PRIMARY_KEY, false, false));
        Ok(fh)
    }

    /// Calls `each` with the entries of a directory that come after `offset`, until it says stop.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn readdir(
        &self,
        ino: Ino,
        offset: Place,
        mut each: impl FnMut(Entry) -> bool,
    ) -> Result<(), Errno> {
        let area = area_of(ino);
        if ino != ROOT && area.is_none() {
            return Err(Errno::ENOTDIR);
        }
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
        for (place, ino, node) in state.tree.list(area, offset) {
            if each(entry(ino, place, false, node.name.as_str())) {
                break;
            }
        }
        Ok(())
    }

    /// The kernel has forgotten that it was told of a file so many times.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        let mut state = self.lock();
        if let Ok(node) = state.tree.node_mut(ino) {
            node.lookups = node.lookups.saturating_sub(lookups);
            state.tree.forget(ino);
        }
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
        if state.tree.node(ino)?.lost && !mode.truncate {
            return Err(Errno::ESTALE);
        }
        state.tree.open(ino)?;
        let fh = state.next_handle;
        state.next_handle += 1;
        let handle = Handle::new(ino, mode.write, mode.truncate);
        state.handles.insert(fh, handle);
        if mode.truncate {
            state.drafted(fh, ino);
            state.forgotten(ino);
        }
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
        if state.handles.len() >= self.limits.handles {
            return Err(Errno::ENFILE);
        }
        let ino = match state.tree.find(area, name.as_str()) {
            Some(_) if mode.exclusive => return Err(Errno::EEXIST),
            Some(ino) => ino,
            None => state.tree.create(area, name)?,
        };
        let fh = self.open_in(&mut state, ino, mode)?;
        Ok((state.tell_name(ino)?, fh))
    }

    /// How many files there are, how many handles, and how many bytes are held that are not in the store.
    pub fn usage(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.tree.count(), state.handles.len(), state.buffered)
    }

    /// Names that are taken, and names there can be.
    pub fn names(&self) -> (usize, usize) {
        let each = self.limits.files + self.limits.scratch_files;
        (self.lock().tree.taken(), Area::ALL.len() * each)
    }
}

fn entry(ino: Ino, offset: Place, directory: bool, name: &str) -> Entry {
    Entry {
        ino,
        offset,
        directory,
        name: name.into(),
    }
}
