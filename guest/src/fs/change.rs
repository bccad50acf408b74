//! Changes of attributes, and unlink.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;

use super::tree::{FIRST_FILE, Ino, Node, area_of};
use super::{Attr, Done, Fh, OpenMode, Partition};
use crate::store::{Job, StoreError};

/// What `setattr` is asked to change. Owner and times are not among it: see `docs/SEMANTICS.md`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The size in bytes.
    pub size: Option<u64>,
    /// The permission bits.
    pub mode: Option<u16>,
}

/// Told the attributes after a change, and whether the kernel may keep them. The reply to a GETATTR that a
/// store overtakes is dropped by the kernel; the reply to a SETATTR is not.
pub type Changed = Box<dyn FnOnce(Result<(Attr, bool), Errno>) + Send>;

impl Partition {
    /// Removes a file: its series ends for readers, its rows stay; who has it open goes on with it. EPERM
    /// outside the two directories, ENOENT, or what the store fails with.
    pub fn unlink(&self, parent: Ino, name: &OsStr, done: Done) {
        let Some(area) = area_of(parent) else {
            return done(Err(Errno::EPERM));
        };
        let mut state = self.lock();
        let Some(ino) = name.to_str().and_then(|n| state.tree.find(area, n)) else {
            drop(state);
            return done(Err(Errno::ENOENT));
        };
        let node = state.tree.node(ino);
        let point = node.ok().filter(|n| n.in_store()).and_then(Node::point);
        let Some(point) = point else {
            state.unlink(ino);
            drop(state);
            return done(Ok(()));
        };
        state.begin_move(&[ino]);
        drop(state);
        let partition = self.clone();
        self.store.submit(Job::Remove {
            point,
            done: Box::new(move |result| {
                let result = match result {
                    Ok(bytes) => Ok(Some(Arc::new(bytes))),
                    // Its only store has failed meanwhile.
                    Err(StoreError::NotFound(_)) => Ok(None),
                    Err(error) => Err(error.errno()),
                };
                let mut state = partition.lock();
                let result = result.map(|bytes| {
                    state.set_bytes(ino, bytes);
                    state.unlink(ino);
                });
                let deferred = state.end_move(&[ino]);
                drop(state);
                done(result);
                partition.go_on(deferred);
            }),
        });
    }

    /// Lets the calls go on that have waited for a name.
    pub(super) fn go_on(&self, deferred: Vec<super::state::Deferred>) {
        for call in deferred {
            call(self);
        }
    }

    /// Changes mode and size of a file: the size through a handle as a write, by name alone as a write and
    /// a close. EPERM for the directories and the key.
    pub fn setattr(&self, ino: Ino, fh: Option<Fh>, change: Change, done: Changed) {
        if ino < FIRST_FILE {
            return done(match (change.size, change.mode) {
                (None, None) => self.getattr(ino).map(|attr| (attr, true)),
                _ => Err(Errno::EPERM),
            });
        }
        let Some(mode) = change.mode else {
            return self.resize(ino, fh, change.size, done);
        };
        let partition = self.clone();
        self.chmod(
            ino,
            mode,
            Box::new(move |changed| match changed {
                Ok(()) => partition.resize(ino, fh, change.size, done),
                Err(errno) => done(Err(errno)),
            }),
        );
    }

    fn chmod(&self, ino: Ino, mode: u16, done: Done) {
        let state = self.lock();
        let point = match state.tree.node(ino) {
            Ok(node) => node.point().filter(|_| node.in_store()),
            Err(errno) => return done(Err(errno)),
        };
        drop(state);
        let Some(point) = point else {
            self.lock().set_mode(ino, mode);
            return done(Ok(()));
        };
        let partition = self.clone();
        self.store.submit(Job::Mode {
            point,
            mode: Some(mode),
            done: Box::new(move |result| {
                if result.is_ok() {
                    partition.lock().set_mode(ino, mode);
                }
                done(result.map_err(|error| error.errno()));
            }),
        });
    }

    fn resize(&self, ino: Ino, fh: Option<Fh>, size: Option<u64>, done: Changed) {
        let Some(size) = size else {
            return done(self.changed(ino, fh));
        };
        if let Some(fh) = fh {
            let cut = self.truncate(fh, size);
            return done(cut.and_then(|()| self.changed(ino, Some(fh))));
        }
        let mode = OpenMode {
            write: true,
            ..OpenMode::default()
        };
        let fh = match self.open(ino, mode) {
            Ok(fh) => fh,
            Err(errno) => return done(Err(errno)),
        };
        if let Err(errno) = self.truncate(fh, size) {
            self.abandon(fh);
            return done(Err(errno));
        }
        let partition = self.clone();
        self.save(
            fh,
            Box::new(move |result| {
                partition.release(fh);
                done(result.and_then(|()| partition.changed(ino, None)));
            }),
        );
    }

    /// The attributes after a change.
    fn changed(&self, ino: Ino, fh: Option<Fh>) -> Result<(Attr, bool), Errno> {
        let mut state = self.lock();
        let attr = state.tell(ino)?;
        let node = state.tree.node(ino)?;
        // Other closes and releases could change them before the reply is sent.
        Ok((
            attr,
            node.pending == 0 && (fh.is_some() || node.drafts.is_empty()),
        ))
    }

    /// Closes a handle whose change has failed, without a store.
    fn abandon(&self, fh: Fh) {
        let mut state = self.lock();
        if let Ok(ino) = state.handle(fh).map(|h| h.ino) {
            state.drop_draft(fh, ino);
        }
        drop(state);
        self.release(fh);
    }
}
