//! What the partition holds in memory, and the count of it: names, handles, bytes.

use std::collections::HashMap;
use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::clock::Timestamp;

use super::handle::Handle;
use super::tree::{Ino, Tree};
use super::{Attr, Fh, Partition};
use crate::config::Limits;

/// A call that waits until a name has changed.
pub type Deferred = Box<dyn FnOnce(&Partition) + Send>;

/// Names, handles and bytes.
pub struct State {
    /// The names.
    pub tree: Tree,
    /// The open handles.
    pub handles: HashMap<Fh, Handle>,
    pub next_handle: Fh,
    /// Bytes that are nowhere else: drafts, scratch files, and removed files that are open.
    pub buffered: usize,
    /// Copies of stored bytes, for those who have them open.
    cached: usize,
    limits: Limits,
    /// The files whose names are being changed in the store just now. The kernel lets one name of a
    /// directory change at a time, but not without closes in between: those wait here.
    moving: HashMap<Ino, Vec<Deferred>>,
}

impl State {
    pub fn new(tree: Tree, limits: Limits) -> Self {
        Self {
            tree,
            handles: HashMap::new(),
            next_handle: 1,
            buffered: 0,
            cached: 0,
            limits,
            moving: HashMap::new(),
        }
    }

    /// An open handle.
    ///
    /// # Errors
    /// EBADF: there is none of that number.
    pub fn handle(&mut self, fh: Fh) -> Result<&mut Handle, Errno> {
        self.handles.get_mut(&fh).ok_or(Errno::EBADF)
    }

    /// What `stat` shows: of a file with unsaved changes, the size of the draft that changed last.
    pub fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        let node = self.tree.node(ino)?;
        let draft = node.drafts.last().and_then(|fh| self.handles.get(fh));
        let (size, mtime) = match draft {
            Some(handle) => (handle.len() as u64, handle.touched),
            None => (node.file_size(), node.mtime),
        };
        Ok(Attr {
            ino,
            directory: false,
            size,
            mtime,
            ctime: node.ctime.max(mtime),
            mode: node.mode,
            links: u32::from(node.linked),
        })
    }

    /// The same for the kernel, which keeps what it is told until a write or [`Self::must_forget`].
    pub fn tell(&mut self, ino: Ino) -> Result<Attr, Errno> {
        self.tree.node_mut(ino)?.told = true;
        self.attr(ino)
    }

    /// The same, when it is told of a name: it may use the inode until it says that it has forgotten it.
    pub fn tell_name(&mut self, ino: Ino) -> Result<Attr, Errno> {
        self.tree.node_mut(ino)?.lookups += 1;
        self.tell(ino)
    }

    /// The kernel has forgotten by itself, as it does after a write.
    pub fn forgotten(&mut self, ino: Ino) {
        if let Ok(node) = self.tree.node_mut(ino) {
            node.told = false;
        }
    }

    /// Whether the kernel keeps attributes of a file that have just changed without a request.
    pub fn must_forget(&mut self, ino: Ino) -> Option<Ino> {
        let node = self.tree.node_mut(ino).ok()?;
        std::mem::take(&mut node.told).then_some(ino)
    }

    /// Changes a handle's draft and keeps count of the bytes in it.
    pub fn account<T>(&mut self, fh: Fh, work: impl FnOnce(&mut Handle) -> T) -> Result<T, Errno> {
        let handle = self.handles.get_mut(&fh).ok_or(Errno::EBADF)?;
        let before = handle.len();
        let result = work(handle);
        self.buffered = self.buffered + handle.len() - before;
        Ok(result)
    }

    /// Changes files and keeps count of the bytes that they hold.
    pub fn recount<T>(&mut self, inos: &[Ino], work: impl FnOnce(&mut Tree) -> T) -> T {
        let held = |tree: &Tree| {
            let nodes = inos.iter().filter_map(|ino| tree.node(*ino).ok());
            nodes.fold((0, 0), |sum, node| {
                let (own, copied) = node.held();
                (sum.0 + own, sum.1 + copied)
            })
        };
        let before = held(&self.tree);
        let result = work(&mut self.tree);
        let after = held(&self.tree);
        self.buffered = self.buffered + after.0 - before.0;
        self.cached = self.cached + after.1 - before.1;
        result
    }

    /// Sets a file's bytes.
    pub fn set_bytes(&mut self, ino: Ino, bytes: Option<Arc<Vec<u8>>>) {
        self.recount(&[ino], |tree| {
            if let Ok(node) = tree.node_mut(ino) {
                node.bytes = bytes;
            }
        });
    }

    /// Keeps a copy of a stored file's bytes as long as it is open and there is room.
    pub fn cache(&mut self, ino: Ino, bytes: &Arc<Vec<u8>>) {
        let open = self.tree.node(ino).is_ok_and(|node| node.handles > 0);
        self.set_bytes(ino, open.then(|| Arc::clone(bytes)));
        if self.cached > self.limits.buffered_bytes
            && self.tree.node(ino).is_ok_and(|n| n.held().1 > 0)
        {
            self.set_bytes(ino, None);
        }
    }

    /// A file has lost its name, or its last handle then: its bytes stay for those who have it open, if
    /// there is room.
    pub fn orphaned(&mut self, ino: Ino) {
        let Ok(node) = self.tree.node_mut(ino) else {
            return;
        };
        let had = node.stored || node.held() != (0, 0);
        let kept = node.bytes.is_some() || node.is_scratch() || !node.stored;
        if node.handles > 0 && kept && self.buffered <= self.limits.buffered_bytes {
            return;
        }
        node.lost |= had;
        self.set_bytes(ino, None);
    }

    /// Takes a file's name away.
    pub fn unlink(&mut self, ino: Ino) {
        self.recount(&[ino], |tree| tree.unlink(ino));
        self.orphaned(ino);
    }

    /// Sets a file's permission bits.
    pub fn set_mode(&mut self, ino: Ino, mode: u16) {
        if let Ok(node) = self.tree.node_mut(ino) {
            node.mode = Some(mode);
            node.ctime = Timestamp::now();
        }
    }

    /// A handle's draft has changed: it is the one that `stat` shows.
    pub fn drafted(&mut self, fh: Fh, ino: Ino) {
        if let Ok(node) = self.tree.node_mut(ino)
            && node.drafts.last() != Some(&fh)
        {
            node.drafts.retain(|other| *other != fh);
            node.drafts.push(fh);
        }
        if let Ok(handle) = self.handle(fh) {
            handle.touched = Timestamp::now();
        }
    }

    /// Drops a handle's draft: it sees the last store again.
    pub fn drop_draft(&mut self, fh: Fh, ino: Ino) {
        let _ = self.account(fh, Handle::drop_draft);
        if let Ok(node) = self.tree.node_mut(ino) {
            node.drafts.retain(|other| *other != fh);
        }
    }

    /// The calls that wait for this handle's file, while its name is being changed.
    pub fn queue_of(&mut self, fh: Fh) -> Option<&mut Vec<Deferred>> {
        let ino = self.handles.get(&fh)?.ino;
        self.moving.get_mut(&ino)
    }

    /// The names of these files are being changed: closes wait.
    pub fn begin_move(&mut self, inos: &[Ino]) {
        for ino in inos {
            self.moving.entry(*ino).or_default();
        }
    }

    /// They are changed; returns what has waited.
    pub fn end_move(&mut self, inos: &[Ino]) -> Vec<Deferred> {
        let queues = inos.iter().filter_map(|ino| self.moving.remove(ino));
        queues.flatten().collect()
    }
}
