//! Renaming: onto a KPI's name it is a store of the file's bytes.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::name::KpiName;

use super::state::State;
use super::tree::{Ino, Name, Node, ROOT, area_of};
use super::{Done, Partition};
use crate::store::{Job, NameEffect, Point, StoreError, Stored, csv_errno};

/// A rename that may be tried.
struct Move {
    ino: Ino,
    to: Name,
    /// The file that has the name now.
    replaced: Option<Ino>,
}

impl Move {
    fn inos(&self) -> Vec<Ino> {
        std::iter::once(self.ino).chain(self.replaced).collect()
    }
}

/// What the store has done for a rename.
enum After {
    /// A row is stored under the new name; its bytes, if they are not in memory already.
    Stored(Stored, Option<Arc<Vec<u8>>>),
    /// The old name is gone; these were its bytes.
    Removed(Vec<u8>),
    /// Nothing: there was nothing to store.
    Nothing,
}

impl Partition {
    /// Renames a file within its directory; onto a KPI's name, that is a store of its bytes. EXDEV
    /// between the directories, EPERM at the top, and what a close of the same bytes would fail with.
    pub fn rename(
        &self,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
        no_replace: bool,
        done: Done,
    ) {
        let planned = self
            .plan_rename((parent, name), (new_parent, new_name), no_replace)
            .and_then(|planned| {
                // Who has the old file open goes on reading it.
                if let Some(replaced) = planned.as_ref().and_then(|m| m.replaced) {
                    self.load_if_open(replaced)?;
                }
                Ok(planned)
            });
        match planned {
            Err(errno) => done(Err(errno)),
            Ok(None) => done(Ok(())),
            Ok(Some(planned)) => self.carry_out(planned, done),
        }
    }

    fn plan_rename(
        &self,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
        no_replace: bool,
    ) -> Result<Option<Move>, Errno> {
        if parent == ROOT || new_parent == ROOT {
            return Err(Errno::EPERM);
        }
        let area = area_of(parent).ok_or(Errno::ENOTDIR)?;
        let state = self.lock();
        let from = name.to_str().and_then(|n| state.tree.find(area, n));
        let ino = from.ok_or(Errno::ENOENT)?;
        if new_parent != parent {
            return Err(Errno::EXDEV);
        }
        let to = Name::new(new_name)?;
        let replaced = state.tree.find(area, to.as_str());
        match replaced {
            Some(_) if no_replace => return Err(Errno::EEXIST),
            Some(target) if target == ino => return Ok(None),
            Some(_) => {}
            // One scratch file more and one less.
            None if matches!(to, Name::Scratch(_)) && state.tree.node(ino)?.is_scratch() => {}
            None => state.tree.check_new(area, &to)?,
        }
        Ok(Some(Move { ino, to, replaced }))
    }

    fn carry_out(&self, planned: Move, done: Done) {
        let mut state = self.lock();
        let node = match state.tree.node(planned.ino) {
            Ok(node) => node,
            Err(errno) => return done(Err(errno)),
        };
        let (area, from) = (node.area, node.point().filter(|_| node.in_store()));
        let scratch = node
            .bytes
            .clone()
            .filter(|b| node.is_scratch() && !b.is_empty());
        let mode = node.mode;
        let onto = |name: &Arc<KpiName>| Point {
            area,
            name: Arc::clone(name),
        };
        let to = planned.to.clone();
        match (from, scratch, &to) {
            (Some(from), _, Name::Kpi(name)) => {
                state.begin_move(&planned.inos());
                drop(state);
                self.rename_stored(planned, from, onto(name), done);
            }
            (Some(from), _, Name::Scratch(_)) => {
                state.begin_move(&planned.inos());
                drop(state);
                self.rename_to_scratch(planned, from, done);
            }
            (None, Some(bytes), Name::Kpi(name)) => {
                state.begin_move(&planned.inos());
                drop(state);
                self.store_scratch(planned, onto(name), mode, bytes, done);
            }
            _ => {
                let ino = planned.ino;
                let point = state.take_name(planned);
                let changed = state.must_forget(ino);
                drop(state);
                self.forget_attr(changed);
                self.set_stored_mode(point, mode, done);
            }
        }
    }

    /// Write-then-rename: the scratch file's bytes become a row.
    fn store_scratch(
        &self,
        planned: Move,
        point: Point,
        mode: Option<u16>,
        bytes: Arc<Vec<u8>>,
        done: Done,
    ) {
        let partition = self.clone();
        let row = match crate::store::row_data(point.area, &bytes, self.limits.columns) {
            Ok(row) => row,
            Err(error) => {
                let errno = csv_errno(&error);
                return self.store.submit(Job::Refuse {
                    point,
                    bytes,
                    reason: error.to_string(),
                    withdraw: None,
                    done: Box::new(move |_| partition.moved(planned, Err(errno), done)),
                });
            }
        };
        self.store.submit(Job::Store {
            point,
            bytes: Arc::clone(&bytes),
            row,
            name: NameEffect::ContentAndMode(mode),
            withdraw: None,
            done: Box::new(move |result| {
                let after = result.map(|stored| After::Stored(stored, Some(bytes)));
                partition.moved(planned, after.map_err(|e| e.errno()), done);
            }),
        });
    }

    fn rename_stored(&self, planned: Move, from: Point, to: Point, done: Done) {
        let partition = self.clone();
        self.store.submit(Job::Rename {
            from,
            to,
            done: Box::new(move |result| {
                let after = match result {
                    Ok(stored) => Ok(After::Stored(stored, None)),
                    // Its only store has failed meanwhile: a file without bytes is renamed.
                    Err(StoreError::NotFound(_)) => Ok(After::Nothing),
                    Err(error) => Err(error.errno()),
                };
                partition.moved(planned, after, done);
            }),
        });
    }

    fn rename_to_scratch(&self, planned: Move, from: Point, done: Done) {
        let partition = self.clone();
        self.store.submit(Job::Remove {
            point: from,
            done: Box::new(move |result| {
                let after = match result {
                    Ok(bytes) => Ok(After::Removed(bytes)),
                    Err(StoreError::NotFound(_)) => Ok(After::Nothing),
                    Err(error) => Err(error.errno()),
                };
                partition.moved(planned, after, done);
            }),
        });
    }

    /// The store is done with a rename: now the name is changed here.
    fn moved(&self, planned: Move, after: Result<After, Errno>, done: Done) {
        let (ino, inos) = (planned.ino, planned.inos());
        let mut state = self.lock();
        let result = after.map(|after| {
            state.take_name(planned);
            match after {
                After::Stored(stored, bytes) => {
                    state.tree.stored(ino, stored.size, stored.time);
                    if let Some(bytes) = bytes {
                        state.cache(ino, &bytes);
                    }
                }
                After::Removed(bytes) => state.set_bytes(ino, Some(Arc::new(bytes))),
                After::Nothing => {}
            }
            state.must_forget(ino)
        });
        let deferred = state.end_move(&inos);
        drop(state);
        self.forget_attr(result.ok().flatten());
        done(result.map(|_| ()));
        self.go_on(deferred);
    }

    /// The mode of a file without bytes goes with it onto a name whose last store stays.
    fn set_stored_mode(&self, point: Option<Point>, mode: Option<u16>, done: Done) {
        match point {
            None => done(Ok(())),
            Some(point) => self.store.submit(Job::Mode {
                point,
                mode,
                // The name has changed: that a restart forgets the mode is no failure of the rename.
                done: Box::new(move |_| done(Ok(()))),
            }),
        }
    }
}

impl State {
    /// Gives a file its new name. Returns the name if it is stored, with another mode than the file's.
    fn take_name(&mut self, planned: Move) -> Option<Point> {
        let (ino, inos) = (planned.ino, planned.inos());
        let replaced = planned.replaced.and_then(|old| self.tree.node(old).ok());
        let mode = replaced.and_then(|node| node.mode);
        if !matches!(planned.to, Name::Scratch(_))
            && self.tree.node(ino).is_ok_and(Node::is_scratch)
        {
            // From now on it has the bytes of the name's last store.
            self.set_bytes(ino, None);
        }
        self.recount(&inos, |tree| tree.rename(ino, planned.to));
        if let Some(old) = planned.replaced {
            self.orphaned(old);
        }
        let node = self.tree.node(ino).ok()?;
        node.point().filter(|_| node.stored && node.mode != mode)
    }
}
