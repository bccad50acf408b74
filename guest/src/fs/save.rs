//! From a handle to the store: close, fsync, and the end of a handle.

use std::sync::Arc;

use nix::errno::Errno;

use super::state::State;
use super::tree::{Ino, PRIMARY_KEY};
use super::{Done, Fh, Partition};
use crate::store::{Job, NameEffect, Point, RowData, StoreError, Stored, csv_errno};

/// A store about to be tried.
struct Attempt {
    fh: Fh,
    ino: Ino,
    point: Point,
    name: NameEffect,
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
        let (Some(handle), tree) = (self.handles.get_mut(&fh), &mut self.tree) else {
            return Plan::Fail(Errno::EBADF);
        };
        let ino = handle.ino;
        // It is no file of the tree, and nobody writes it.
        if ino == PRIMARY_KEY {
            return Plan::Nothing;
        }
        let Ok(node) = tree.node_mut(ino) else {
            return Plan::Fail(Errno::ESTALE);
        };
        let Some(point) = node.point() else {
            return self.keep_scratch(fh, ino);
        };
        if !handle.changed && !handle.unsaved {
            return match handle.pending {
                0 => Plan::Nothing,
                _ => Plan::Wait,
            };
        }
        let changed = std::mem::take(&mut handle.changed);
        handle.unsaved = false;
        let bytes = handle.draft().cloned().unwrap_or_default();
        if bytes.is_empty() && !handle.cut {
            // The draft stays: what is written to it later begins with nothing.
            return Plan::Nothing;
        }
        let name = match (node.linked, node.stored) {
            (false, _) => NameEffect::Nothing,
            (true, true) => NameEffect::Content,
            (true, false) => NameEffect::ContentAndMode(node.mode),
        };
        node.pending += 1;
        handle.pending += 1;
        Plan::Try(Attempt {
            fh,
            ino,
            point,
            name,
            bytes,
            refused: handle.refused.take(),
            changed,
            cut: handle.cut,
        })
    }

    /// What was written to a scratch file becomes its bytes.
    fn keep_scratch(&mut self, fh: Fh, ino: Ino) -> Plan {
        let Ok(handle) = self.handle(fh) else {
            return Plan::Fail(Errno::EBADF);
        };
        (handle.changed, handle.unsaved) = (false, handle.cut);
        if handle.cut {
            return Plan::Fail(Errno::EFBIG);
        }
        if let Some(bytes) = handle.draft().cloned() {
            let touched = handle.touched;
            self.drop_draft(fh, ino);
            self.set_bytes(ino, Some(bytes));
            if let Ok(node) = self.tree.node_mut(ino) {
                node.mtime = touched;
            }
        }
        Plan::Nothing
    }

    /// A handle has gone: the last one takes along what is in memory for it alone.
    fn closed(&mut self, ino: Ino) {
        let Ok(node) = self.tree.node_mut(ino) else {
            return;
        };
        node.handles -= 1;
        match (node.handles, node.linked, node.is_scratch()) {
            (0, false, _) => self.orphaned(ino),
            (0, true, false) => self.set_bytes(ino, None),
            _ => {}
        }
    }

    /// A row is on disk: the file has these bytes, for those at least who have it open.
    fn stored(&mut self, attempt: &Attempt, stored: Stored) {
        let (ino, bytes) = (attempt.ino, &attempt.bytes);
        self.tree.stored(ino, stored.size, stored.time);
        match self.tree.node(ino).map(|n| (n.linked, n.handles > 0)) {
            Ok((true, _)) => self.cache(ino, bytes),
            Ok((false, true)) => {
                self.set_bytes(ino, Some(Arc::clone(bytes)));
                self.orphaned(ino);
            }
            _ => {}
        }
    }

    /// A store has ended: returns who waits for it.
    fn ended(&mut self, fh: Fh, ino: Ino, failed: bool, refused: Option<i64>) -> Vec<Done> {
        if let Ok(node) = self.tree.node_mut(ino) {
            node.pending -= 1;
        }
        self.tree.forget(ino);
        let Ok(handle) = self.handle(fh) else {
            return Vec::new();
        };
        handle.pending -= 1;
        handle.unsaved |= failed;
        if failed {
            handle.refused = refused;
        }
        if handle.pending > 0 {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut handle.waiting);
        if !handle.changed && !handle.unsaved {
            self.drop_draft(fh, ino);
        }
        waiting
    }
}

impl Partition {
    /// Stores what was written through a handle, for a close or an fsync. `done` is told when it is on
    /// disk: EINVAL or EFBIG when it is refused, and what [`StoreError::errno`] says when the store fails.
    pub fn save(&self, fh: Fh, done: Done) {
        let mut state = self.lock();
        if let Some(queue) = state.queue_of(fh) {
            return queue.push(Box::new(move |partition| partition.save(fh, done)));
        }
        match state.plan(fh) {
            Plan::Nothing => {
                drop(state);
                self.tell(fh, done, Vec::new(), Ok(()));
            }
            Plan::Fail(errno) => {
                drop(state);
                self.tell(fh, done, Vec::new(), Err(errno));
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
            name: attempt.name,
            withdraw: attempt.refused,
            done: Box::new(move |result| partition.stored(attempt, result, done)),
        });
    }

    fn stored(&self, attempt: Attempt, result: Result<Stored, StoreError>, done: Done) {
        let Attempt { fh, ino, .. } = attempt;
        let result = match result {
            Ok(stored) => {
                let mut state = self.lock();
                state.stored(&attempt, stored);
                let waiting = state.ended(fh, ino, false, None);
                let changed = state.must_forget(ino);
                drop(state);
                self.forget_attr(changed);
                return answer(done, waiting, Ok(()));
            }
            Err(error @ StoreError::TooManyColumns { .. }) => {
                return self.refuse(attempt, error.to_string(), error.errno(), done);
            }
            Err(error) => Err(error.errno()),
        };
        let waiting = self.lock().ended(fh, ino, true, attempt.refused);
        self.tell(fh, done, waiting, result);
    }

    /// Keeps an input that cannot be stored before its closer is told so.
    fn refuse(&self, attempt: Attempt, reason: String, errno: Errno, done: Done) {
        let Attempt { fh, ino, .. } = attempt;
        if !attempt.changed && attempt.refused.is_some() {
            // The same bytes as at the last close: they are kept already.
            let waiting = self.lock().ended(fh, ino, true, attempt.refused);
            return self.tell(fh, done, waiting, Err(errno));
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
                partition.tell(fh, done, waiting, Err(errno));
            }),
        });
    }

    /// The last descriptor of a handle is gone. What no close has tried to store is stored now, with
    /// nobody to tell; what a close has failed to store is not tried again.
    pub fn release(&self, fh: Fh) {
        let mut state = self.lock();
        if let Some(queue) = state.queue_of(fh) {
            return queue.push(Box::new(move |partition| partition.release(fh)));
        }
        if state.handles.get(&fh).is_some_and(|h| h.changed) {
            drop(state);
            self.save(fh, Box::new(|_| {}));
            state = self.lock();
        }
        let Some(ino) = state.handles.get(&fh).map(|h| h.ino) else {
            return;
        };
        let drafted = state.handle(fh).is_ok_and(|h| h.draft().is_some());
        state.drop_draft(fh, ino);
        state.handles.remove(&fh);
        state.closed(ino);
        let changed = drafted.then(|| state.must_forget(ino)).flatten();
        state.tree.forget(ino);
        drop(state);
        self.forget_attr(changed);
    }

    /// Answers a close or fsync. A draft that is left goes with its handle, of which the kernel tells us after
    /// the last close has returned: what it was told of a draft's size must not outlive that close.
    fn tell(&self, fh: Fh, done: Done, waiting: Vec<Done>, result: Result<(), Errno>) {
        let mut state = self.lock();
        let ino = state.handles.get(&fh).map(|handle| handle.ino);
        let drafted = |ino: &Ino| state.tree.node(*ino).is_ok_and(|n| !n.drafts.is_empty());
        let changed = ino.filter(drafted).and_then(|ino| state.must_forget(ino));
        drop(state);
        self.forget_attr(changed);
        answer(done, waiting, result);
    }
}

fn answer(done: Done, waiting: Vec<Done>, result: Result<(), Errno>) {
    done(result);
    for done in waiting {
        done(result);
    }
}
