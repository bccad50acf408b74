//! Changes of names and attributes: unlink, rename, truncate by name.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::name::Area;

use super::tree::{Ino, Name, ROOT, area_of};
use super::{Attr, Done, Fh, OpenMode, Partition};
use crate::store::{Job, Point, StoreError, csv_errno};

/// What `setattr` is asked to change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The size in bytes.
    pub size: Option<u64>,
    /// Mode or owner.
    pub owner_or_mode: bool,
}

/// Told the attributes after a change.
pub type Changed = Box<dyn FnOnce(Result<Attr, Errno>) + Send>;

impl Partition {
    /// Removes a file: its series ends for readers, its rows stay. EPERM outside the two directories,
    /// ENOENT, or what the store fails with.
    pub fn unlink(&self, parent: Ino, name: &OsStr, done: Done) {
        let Some(area) = area_of(parent) else {
            return done(Err(Errno::EPERM));
        };
        let mut state = self.lock();
        let Some(ino) = name.to_str().and_then(|n| state.tree.find(area, n)) else {
            drop(state);
            return done(Err(Errno::ENOENT));
        };
        let stored = state
            .tree
            .node(ino)
            .is_ok_and(|n| n.stored || n.pending > 0);
        let point = state.tree.node(ino).ok().and_then(|n| n.point());
        let Some(point) = point.filter(|_| stored) else {
            if state.tree.node(ino).is_ok_and(|n| n.handles == 0) {
                state.set_scratch(ino, Arc::default());
            }
            state.tree.unlink(ino);
            drop(state);
            return done(Ok(()));
        };
        drop(state);
        let partition = self.clone();
        self.store.submit(Job::Remove {
            point,
            done: Box::new(move |result| match result {
                Ok(_) | Err(StoreError::NotFound(_)) => {
                    partition.lock().tree.unlink(ino);
                    done(Ok(()));
                }
                Err(error) => done(Err(error.errno())),
            }),
        });
    }

    /// Renames a file within its directory; onto a KPI's name, that is a store of its bytes. EXDEV
    /// between the directories, EPERM at the top, EINVAL for other flags than RENAME_NOREPLACE.
    pub fn rename(
        &self,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
        no_replace: bool,
        done: Done,
    ) {
        match self.plan_rename((parent, name), (new_parent, new_name), no_replace) {
            Err(errno) => done(Err(errno)),
            Ok(None) => done(Ok(())),
            Ok(Some((ino, to))) => self.carry_out(ino, to, done),
        }
    }

    fn plan_rename(
        &self,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
        no_replace: bool,
    ) -> Result<Option<(Ino, Name)>, Errno> {
        if parent == ROOT || new_parent == ROOT {
            return Err(Errno::EPERM);
        }
        let area = area_of(parent).ok_or(Errno::ENOTDIR)?;
        if new_parent != parent {
            return Err(Errno::EXDEV);
        }
        let to = Name::new(new_name)?;
        let state = self.lock();
        let from = name.to_str().and_then(|n| state.tree.find(area, n));
        let ino = from.ok_or(Errno::ENOENT)?;
        match state.tree.find(area, to.as_str()) {
            Some(_) if no_replace => return Err(Errno::EEXIST),
            Some(target) if target == ino => return Ok(None),
            Some(_) => {}
            None => state.tree.check_new(area, &to)?,
        }
        Ok(Some((ino, to)))
    }

    fn carry_out(&self, ino: Ino, to: Name, done: Done) {
        let mut state = self.lock();
        let node = match state.tree.node(ino) {
            Ok(node) => node,
            Err(errno) => return done(Err(errno)),
        };
        let (area, from) = (node.area, node.point());
        let stored = node.stored || node.pending > 0;
        let scratch = Arc::clone(&node.scratch);
        match (from, &to) {
            (Some(from), Name::Kpi(name)) if stored => {
                drop(state);
                let name = Arc::clone(name);
                self.rename_stored(ino, from, Point { area, name }, done);
            }
            (Some(from), Name::Scratch(_)) if stored => {
                drop(state);
                self.rename_to_scratch(ino, from, to, done);
            }
            (None, Name::Kpi(name)) if !scratch.is_empty() => {
                drop(state);
                let name = Arc::clone(name);
                self.store_scratch(ino, Point { area, name }, scratch, done);
            }
            _ => {
                state.free_scratch(area, &to);
                state.tree.rename(ino, to);
                drop(state);
                done(Ok(()));
            }
        }
    }

    /// Write-then-rename: the scratch file's bytes become a row.
    fn store_scratch(&self, ino: Ino, point: Point, bytes: Arc<Vec<u8>>, done: Done) {
        let row = match crate::store::row_data(point.area, &bytes, self.limits.columns) {
            Ok(row) => row,
            Err(error) => {
                let errno = csv_errno(&error);
                return self.store.submit(Job::Refuse {
                    point,
                    bytes,
                    reason: error.to_string(),
                    withdraw: None,
                    done: Box::new(move |_| done(Err(errno))),
                });
            }
        };
        let (partition, to) = (self.clone(), Name::Kpi(Arc::clone(&point.name)));
        self.store.submit(Job::Store {
            point,
            bytes,
            row,
            withdraw: None,
            done: Box::new(move |result| match result {
                Ok(stored) => {
                    let mut state = partition.lock();
                    state.set_scratch(ino, Arc::default());
                    state.tree.rename(ino, to);
                    state.tree.stored(ino, stored.size, stored.time);
                    drop(state);
                    done(Ok(()));
                }
                Err(error) => done(Err(error.errno())),
            }),
        });
    }

    fn rename_stored(&self, ino: Ino, from: Point, to: Point, done: Done) {
        let (partition, name) = (self.clone(), Name::Kpi(Arc::clone(&to.name)));
        self.store.submit(Job::Rename {
            from,
            to,
            done: Box::new(move |result| {
                let mut state = partition.lock();
                let result = match result {
                    Ok(stored) => {
                        state.tree.rename(ino, name);
                        state.tree.stored(ino, stored.size, stored.time);
                        Ok(())
                    }
                    // Its only store has failed meanwhile: a file without bytes is renamed.
                    Err(StoreError::NotFound(_)) => {
                        state.tree.rename(ino, name);
                        Ok(())
                    }
                    Err(error) => Err(error.errno()),
                };
                drop(state);
                done(result);
            }),
        });
    }

    fn rename_to_scratch(&self, ino: Ino, from: Point, to: Name, done: Done) {
        let (partition, area) = (self.clone(), from.area);
        self.store.submit(Job::Remove {
            point: from,
            done: Box::new(move |result| {
                let bytes = match result {
                    Ok(bytes) => bytes,
                    Err(StoreError::NotFound(_)) => Vec::new(),
                    Err(error) => return done(Err(error.errno())),
                };
                let mut state = partition.lock();
                state.free_scratch(area, &to);
                state.tree.rename(ino, to);
                state.set_scratch(ino, Arc::new(bytes));
                drop(state);
                done(Ok(()));
            }),
        });
    }

    /// Changes a file's size: through a handle, as a write; by name alone, as a write and a close. Times
    /// are the store's and stay as they are; mode and owner cannot be changed (EPERM).
    pub fn setattr(&self, ino: Ino, fh: Option<Fh>, change: Change, done: Changed) {
        if change.owner_or_mode || ino == ROOT || area_of(ino).is_some() {
            return done(Err(Errno::EPERM));
        }
        let Some(size) = change.size else {
            return done(self.getattr(ino, fh));
        };
        if let Some(fh) = fh {
            let cut = self.truncate(fh, size);
            return done(cut.and_then(|()| self.getattr(ino, Some(fh))));
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
            self.release(fh);
            return done(Err(errno));
        }
        let partition = self.clone();
        self.save(
            fh,
            Box::new(move |result| done(result.and_then(|()| partition.getattr(ino, None)))),
        );
        self.release(fh);
    }

    fn truncate(&self, fh: Fh, size: u64) -> Result<(), Errno> {
        if size > 0 {
            self.load(fh)?;
        }
        let limits = self.limits;
        let mut state = self.lock();
        let held = state
            .buffered
            .saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        if held > limits.buffered_bytes && size <= limits.store_bytes as u64 {
            return Err(Errno::ENOSPC);
        }
        state.account(fh, |handle| match handle.writable {
            true => handle.truncate(size, limits.store_bytes),
            false => Err(Errno::EBADF),
        })?
    }
}

impl super::State {
    /// A scratch file is about to be replaced: its bytes no longer count.
    fn free_scratch(&mut self, area: Area, name: &Name) {
        if let Name::Scratch(name) = name
            && let Some(ino) = self.tree.find(area, name)
        {
            self.set_scratch(ino, Arc::default());
        }
    }
}
