//! Reading, writing and cutting through a handle.

use std::sync::{Arc, PoisonError};

use nix::errno::Errno;
use vmkpi::name::Area;

use super::tree::{Ino, PRIMARY_KEY};
use super::{Fh, Partition};
use crate::store::Point;
use crate::store::inspect::Reader;

/// How a draft changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    /// Bytes are written. The kernel forgets the size by itself.
    Write,
    /// It is cut or extended. The kernel knows the size, or keeps the one it knows where the call fails.
    Cut,
    /// It begins with nothing.
    Anew,
}

impl Partition {
    /// The bytes of a handle from `offset` on, at most `size` of them.
    ///
    /// # Errors
    /// EIO: the store cannot be read; ESTALE: the file was removed and its bytes had to be let go; EBADF.
    pub fn read<T>(
        &self,
        fh: Fh,
        offset: u64,
        size: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Errno> {
        let bytes = self.view(fh)?;
        let from = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
        let to = from.saturating_add(size).min(bytes.len());
        Ok(take(&bytes[from..to]))
    }

    /// Writes through a handle, at `offset` or at the end.
    ///
    /// # Errors
    /// EFBIG over the limit of a store; ENOSPC when too much is written and not stored; EBADF; as
    /// [`Self::read`], when the handle has not written yet.
    pub fn write(&self, fh: Fh, offset: Option<u64>, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() && self.lock().handle(fh)?.writable {
            return Ok(());
        }
        let limit = self.limits.store_bytes;
        self.edit(fh, Edit::Write, data.len(), |handle| {
            handle.write(offset, data, limit)
        })
    }

    /// Cuts or extends a file through a handle.
    ///
    /// # Errors
    /// EFBIG over the limit of a store, which changes nothing: the kernel keeps what it knows of the size. As
    /// [`Self::write`].
    pub(super) fn truncate(&self, fh: Fh, size: u64) -> Result<(), Errno> {
        let limit = self.limits.store_bytes;
        let size = usize::try_from(size).ok().filter(|size| *size <= limit);
        let size = size.ok_or(Errno::EFBIG)?;
        if size == 0 && self.is_empty(fh)? {
            return Ok(());
        }
        let edit = if size == 0 { Edit::Anew } else { Edit::Cut };
        self.edit(fh, edit, size, |handle| {
            handle.truncate(size);
            Ok(())
        })
    }

    /// Whether a handle without a draft has an empty file.
    fn is_empty(&self, fh: Fh) -> Result<bool, Errno> {
        let mut state = self.lock();
        let handle = state.handle(fh)?;
        if !handle.writable {
            return Err(Errno::EBADF);
        }
        let (ino, clean) = (handle.ino, handle.draft().is_none());
        Ok(clean && state.tree.node(ino)?.file_size() == 0)
    }

    /// Changes a handle's draft, which begins with the file's bytes, or with nothing. `grows` is how many
    /// bytes it may grow by.
    fn edit(
        &self,
        fh: Fh,
        edit: Edit,
        grows: usize,
        work: impl FnOnce(&mut super::handle::Handle) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let anew = edit == Edit::Anew;
        let (ino, new) = self.begin(fh, grows, anew)?;
        let mut state = self.lock();
        let done = state.account(fh, work)?;
        if edit == Edit::Write && done.is_ok() {
            state.forgotten(ino);
        }
        // An empty write, or a cut to the size it has, makes no draft.
        match new && !anew && !state.handle(fh)?.changed {
            true => state.drop_draft(fh, ino),
            false => state.drafted(fh, ino),
        }
        done
    }

    /// Makes sure that a handle has a draft and room to grow; says of which file, and whether it had none.
    fn begin(&self, fh: Fh, grows: usize, anew: bool) -> Result<(Ino, bool), Errno> {
        let (ino, new) = {
            let mut state = self.lock();
            let handle = state.handle(fh)?;
            if !handle.writable {
                return Err(Errno::EBADF);
            }
            (handle.ino, handle.draft().is_none())
        };
        let base = match new && !anew {
            true => self.bytes_of(ino)?,
            false => Arc::default(),
        };
        let mut state = self.lock();
        if state.buffered + base.len() + grows > self.limits.buffered_bytes {
            return Err(Errno::ENOSPC);
        }
        state.account(fh, |handle| handle.begin(base))?;
        Ok((ino, new))
    }

    /// What a handle sees: its draft, or the bytes of the last store.
    fn view(&self, fh: Fh) -> Result<Arc<Vec<u8>>, Errno> {
        let ino = {
            let mut state = self.lock();
            let handle = state.handle(fh)?;
            if let Some(draft) = handle.draft() {
                return Ok(Arc::clone(draft));
            }
            handle.ino
        };
        if ino == PRIMARY_KEY {
            let key = self.primary_key.as_deref().unwrap_or_default();
            return Ok(Arc::new(key.to_vec()));
        }
        self.bytes_of(ino)
    }

    /// A file's bytes, but for drafts. Those of a stored file are kept while it is open.
    pub(super) fn bytes_of(&self, ino: Ino) -> Result<Arc<Vec<u8>>, Errno> {
        let point = {
            let state = self.lock();
            let node = state.tree.node(ino)?;
            match (&node.bytes, node.point()) {
                (Some(bytes), _) => return Ok(Arc::clone(bytes)),
                _ if node.lost => return Err(Errno::ESTALE),
                (None, Some(point)) if node.stored && node.linked => point,
                _ => return Ok(Arc::default()),
            }
        };
        let bytes = Arc::new(self.content(&point)?);
        let mut state = self.lock();
        // A store or a rename may have ended meanwhile: what that has set is newer.
        if state
            .tree
            .node(ino)
            .is_ok_and(|n| n.linked && n.bytes.is_none())
        {
            state.cache(ino, &bytes);
        }
        Ok(bytes)
    }

    /// Reads the bytes of a file that is about to lose its name, for those who have it open.
    pub(super) fn load_if_open(&self, ino: Ino) -> Result<(), Errno> {
        let open = self
            .lock()
            .tree
            .node(ino)
            .is_ok_and(|node| node.handles > 0);
        if open {
            let bytes = self.bytes_of(ino)?;
            let mut state = self.lock();
            if state
                .tree
                .node(ino)
                .is_ok_and(|n| n.linked && n.bytes.is_none())
            {
                state.set_bytes(ino, Some(bytes));
            }
        }
        Ok(())
    }

    /// The bytes of a name's last store.
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
}
