//! From a handle to the store: close, fsync, and the end of a handle.

use std::sync::Arc;

use nix::errno::Errno;

use super::tree::{Ino, Name};
use super::{Done, Fh, Partition, State};
use crate::store::{Job, Point, RowData, StoreError, Stored, csv_errno};

/// A store about to be tried.
struct Attempt {
    fh: Fh,
    ino: Ino,
    point: Point,
    bytes: Arc<Vec<u8>>,
    /// What is kept of an earlier try of the same handle.
    refused: Option<i64>,
    /// Whether anything was written since that try.
    changed: bool,
    cut: bool,
}

/// What a close or fsync finds.
enum Plan {
    /// Nothing to store.
    Nothing,
    /// A store that another close of the same handle has begun.
    Wait,
    /// It cannot be stored.
    Fail(Errno),
    /// It is tried.
    Try(Attempt),
}

impl State {
    fn plan(&mut self, fh: Fh) -> Plan {
        let Some(handle) = self.handles.get_mut(&fh) else {
            return Plan::Fail(Errno::EBADF);
        };
        if !handle.changed && !handle.unsaved {
            return match handle.pending {
                0 => Plan::Nothing,
                _ => Plan::Wait,
            };
        }
        let bytes = handle.bytes().cloned().unwrap_or_default();
        let (ino, cut) = (handle.ino, handle.cut);
        let Ok(node) = self.tree.node_mut(ino) else {
            return Plan::Fail(Errno::ESTALE);
        };
        let point = match (&node.name, node.point()) {
            // The name was removed or given to another file: there is nowhere to store it.
            (Name::Kpi(_), _) if !node.linked => {
                let settled = self.settle(fh);
                return settled.map_or(Plan::Nothing, |()| Plan::Fail(Errno::ESTALE));
            }
            (Name::Kpi(_), Some(point)) => point,
            _ => {
                let _ = self.settle(fh);
                if !cut {
                    self.set_scratch(ino, bytes);
                }
                return if cut {
                    Plan::Fail(Errno::EFBIG)
                } else {
                    Plan::Nothing
                };
            }
        };
        if bytes.is_empty() && !cut {
            let _ = self.settle(fh);
            return Plan::Nothing;
        }
        node.pending += 1;
        let changed = self.handles.get(&fh).is_some_and(|h| h.changed);
        let _ = self.settle(fh);
        let Some(handle) = self.handles.get_mut(&fh) else {
            return Plan::Nothing;
        };
        handle.pending += 1;
        Plan::Try(Attempt {
            fh,
            ino,
            point,
            bytes,
            refused: handle.refused.take(),
            changed,
            cut,
        })
    }

    /// The handle holds nothing that is not stored or given up.
    fn settle(&mut self, fh: Fh) -> Option<()> {
        self.account(fh, |handle| {
            handle.changed = false;
            handle.unsaved = false;
        })
        .ok()
    }

    /// A store has ended: returns who waits for it.
    fn ended(&mut self, fh: Fh, ino: Ino, failed: bool, refused: Option<i64>) -> Vec<Done> {
        if let Ok(node) = self.tree.node_mut(ino) {
            node.pending -= 1;
        }
        self.tree.forget(ino);
        let waiting = self.account(fh, |handle| {
            handle.pending -= 1;
            handle.unsaved |= failed;
            if failed {
                handle.refused = refused;
            }
            match handle.pending {
                0 => std::mem::take(&mut handle.waiting),
                _ => Vec::new(),
            }
        });
        waiting.unwrap_or_default()
    }
}

impl Partition {
    /// Stores what was written through a handle, for a close or an fsync. `done` is told when it is on
    /// disk: EINVAL or EFBIG when it is refused, and what [`StoreError::errno`] says when the store fails.
    pub fn save(&self, fh: Fh, done: Done) {
        let mut state = self.lock();
        match state.plan(fh) {
            Plan::Nothing => {
                drop(state);
                done(Ok(()));
            }
            Plan::Fail(errno) => {
                drop(state);
                done(Err(errno));
            }
            Plan::Wait => {
                if let Ok(handle) = state.handle(fh) {
                    handle.waiting.push(done);
                }
            }
            Plan::Try(attempt) => {
                drop(state);
                self.attempt(attempt, done);
            }
        }
    }

    fn attempt(&self, attempt: Attempt, done: Done) {
        let limit = self.limits.store_bytes;
        if attempt.cut {
            let reason = format!("more than {limit} bytes were written");
            return self.refuse(attempt, reason, Errno::EFBIG, done);
        }
        let row = crate::store::row_data(attempt.point.area, &attempt.bytes, self.limits.columns);
        match row {
            Ok(row) => self.submit(attempt, row, done),
            Err(error) => {
                let errno = csv_errno(&error);
                self.refuse(attempt, error.to_string(), errno, done);
            }
        }
    }

    fn submit(&self, attempt: Attempt, row: RowData, done: Done) {
        let partition = self.clone();
        self.store.submit(Job::Store {
            point: attempt.point.clone(),
            bytes: Arc::clone(&attempt.bytes),
            row,
            withdraw: attempt.refused,
            done: Box::new(move |result| partition.stored(attempt, result, done)),
        });
    }

    fn stored(&self, attempt: Attempt, result: Result<Stored, StoreError>, done: Done) {
        let Attempt { fh, ino, .. } = attempt;
        let result = match result {
            Ok(stored) => {
                let mut state = self.lock();
                state.tree.stored(ino, stored.size, stored.time);
                let waiting = state.ended(fh, ino, false, None);
                drop(state);
                return tell(done, waiting, Ok(()));
            }
            Err(error @ StoreError::TooManyColumns { .. }) => {
                return self.refuse(attempt, error.to_string(), error.errno(), done);
            }
            Err(error) => Err(error.errno()),
        };
        let waiting = self.lock().ended(fh, ino, true, attempt.refused);
        tell(done, waiting, result);
    }

    /// Keeps an input that cannot be stored before its closer is told so.
    fn refuse(&self, attempt: Attempt, reason: String, errno: Errno, done: Done) {
        let Attempt { fh, ino, .. } = attempt;
        if !attempt.changed && attempt.refused.is_some() {
            // The same bytes as at the last close: they are kept already.
            let waiting = self.lock().ended(fh, ino, true, attempt.refused);
            return tell(done, waiting, Err(errno));
        }
        tracing::warn!(point = %attempt.point, reason, "an input was refused");
        let partition = self.clone();
        self.store.submit(Job::Refuse {
            point: attempt.point,
            bytes: attempt.bytes,
            reason,
            withdraw: attempt.refused,
            done: Box::new(move |kept| {
                let waiting = partition.lock().ended(fh, ino, true, kept.ok());
                tell(done, waiting, Err(errno));
            }),
        });
    }

    /// The last descriptor of a handle is gone. What no close has tried to store is stored now, with
    /// nobody to tell; what a close has failed to store is not tried again.
    pub fn release(&self, fh: Fh) {
        let untried = self.lock().handles.get(&fh).is_some_and(|h| h.changed);
        if untried {
            self.save(fh, Box::new(|_| {}));
        }
        let mut state = self.lock();
        let _ = state.settle(fh);
        let Some(handle) = state.handles.remove(&fh) else {
            return;
        };
        if let Ok(node) = state.tree.node_mut(handle.ino) {
            node.handles -= 1;
            node.writers -= u32::from(handle.writable);
        }
        if let Ok(node) = state.tree.node(handle.ino)
            && !node.linked
            && node.handles == 0
        {
            state.set_scratch(handle.ino, Arc::default());
        }
        state.tree.forget(handle.ino);
    }
}

fn tell(done: Done, waiting: Vec<Done>, result: Result<(), Errno>) {
    done(result);
    for done in waiting {
        done(result);
    }
}
