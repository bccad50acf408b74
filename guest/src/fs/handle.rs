//! An open file: what was written through it and is not yet stored. Pure: no disk, no kernel.

use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::clock::Timestamp;

use super::tree::Ino;

/// Tells whoever waits for a store.
pub type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// An open file. What is written through it is a draft of its own until it is stored; without one, it sees
/// the bytes of the last store.
pub struct Handle {
    /// The file.
    pub ino: Ino,
    /// Whether it may be written to.
    pub writable: bool,
    /// The bytes as this handle sees them, if they are not the file's.
    draft: Option<Arc<Vec<u8>>>,
    /// When the draft last changed.
    pub touched: Timestamp,
    /// Whether there are changes that no store was tried for.
    pub changed: bool,
    /// Whether the last try failed: a close or fsync tries again, the end of the handle does not.
    pub unsaved: bool,
    /// Whether a write went over the limit: what is held is not what was written.
    pub cut: bool,
    /// The id under which this handle's bytes were refused, until they are stored.
    pub refused: Option<i64>,
    /// Stores handed over and not yet done.
    pub pending: u32,
    /// Closers who wait for them.
    pub waiting: Vec<Done>,
}

impl Handle {
    /// A handle just opened; one that truncates begins with an empty draft.
    pub fn new(ino: Ino, writable: bool, truncate: bool) -> Self {
        Self {
            ino,
            writable,
            draft: truncate.then(Arc::default),
            touched: Timestamp::default(),
            changed: false,
            unsaved: false,
            cut: false,
            refused: None,
            pending: 0,
            waiting: Vec::new(),
        }
    }

    /// The draft, if there is one.
    pub fn draft(&self) -> Option<&Arc<Vec<u8>>> {
        self.draft.as_ref()
    }

    /// Begins a draft with the file's bytes.
    pub fn begin(&mut self, bytes: Arc<Vec<u8>>) {
        self.draft.get_or_insert(bytes);
    }

    /// Lets the draft go.
    pub fn drop_draft(&mut self) {
        self.draft = None;
        (self.changed, self.unsaved, self.cut) = (false, false, false);
    }

    /// Bytes of the draft.
    pub fn len(&self) -> usize {
        self.draft.as_ref().map_or(0, |b| b.len())
    }

    /// Writes at `offset`, or at the end, and says what is written. Holes are NULs, as in any file.
    ///
    /// # Errors
    /// EFBIG over `limit`.
    pub fn write(&mut self, offset: Option<u64>, data: &[u8], limit: usize) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        let length = self.len();
        let at = match offset {
            None => length,
            Some(offset) => usize::try_from(offset).map_err(|_| self.over())?,
        };
        let end = at.checked_add(data.len()).filter(|end| *end <= limit);
        let end = end.ok_or_else(|| self.over())?;
        self.changed = true;
        let bytes = Arc::make_mut(self.draft.get_or_insert_default());
        if at == length {
            bytes.extend_from_slice(data);
            return Ok(());
        }
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(data);
        Ok(())
    }

    /// Cuts or extends.
    pub fn truncate(&mut self, size: usize) {
        if size == 0 {
            // Whoever begins anew has nothing over the limit any more.
            self.cut = false;
            self.draft.get_or_insert_default();
        }
        if size != self.len() {
            self.changed = true;
            Arc::make_mut(self.draft.get_or_insert_default()).resize(size, 0);
        }
    }

    fn over(&mut self) -> Errno {
        self.cut = true;
        self.changed = true;
        Errno::EFBIG
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_write_over_the_limit_is_remembered_until_the_file_is_begun_anew() {
        let mut handle = Handle::new(16, true, true);
        handle.write(Some(0), b"12345678", 8).unwrap();
        assert_eq!(handle.write(None, b"9", 8), Err(Errno::EFBIG));
        assert_eq!(handle.write(Some(u64::MAX), b"9", 8), Err(Errno::EFBIG));
        assert!(handle.cut);
        handle.truncate(0);
        assert!(!handle.cut);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_file_would(
            steps in prop::collection::vec(
                (prop::option::of(0u64..40), prop::collection::vec(any::<u8>(), 0..20), any::<bool>()), 0..20)
        ) {
            let mut handle = Handle::new(16, true, true);
            let mut plain: Vec<u8> = Vec::new();
            for (offset, data, cut) in steps {
                if cut {
                    handle.truncate(data.len());
                    plain.resize(data.len(), 0);
                }
                let at = offset.map_or(plain.len(), |o| o as usize);
                if handle.write(offset, &data, 64).is_ok() && !data.is_empty() {
                    if plain.len() < at + data.len() { plain.resize(at + data.len(), 0); }
                    plain[at..at + data.len()].copy_from_slice(&data);
                }
                if !data.is_empty() {
                    prop_assert_eq!(handle.draft().map_or(&[][..], |b| b), &plain[..]);
                }
            }
        }
    }
}
