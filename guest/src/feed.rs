//! From the writer to the link: which tables have new rows, and a bell. The writer never waits for the
//! link, and what piles up is one number for each table.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use vmkpi::position::Seq;

use crate::store::Point;

/// How the link wants to hear of new rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Watch {
    /// Not at all.
    Off,
    /// They are noted, and looked up when a host asks.
    Quiet,
    /// At once.
    Bell,
}

/// The feed.
pub struct Feed {
    watch: AtomicU8,
    ends: Mutex<HashMap<Point, Seq>>,
    bell: EventFd,
}

impl Feed {
    /// A feed that nobody watches yet.
    ///
    /// # Errors
    /// The kernel gives no event descriptor.
    pub fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            watch: AtomicU8::new(Watch::Off as u8),
            ends: Mutex::default(),
            bell: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Whether anyone wants to know.
    pub fn is_watched(&self) -> bool {
        self.watch.load(Ordering::Acquire) != Watch::Off as u8
    }

    /// Says how anyone wants to know. What came before is forgotten.
    pub fn watch(&self, watch: Watch) {
        self.watch.store(watch as u8, Ordering::Release);
        self.lock().clear();
    }

    /// Notes the last rows of tables and rings the bell.
    pub fn committed(&self, ends: impl Iterator<Item = (Point, Seq)>) {
        let mut held = self.lock();
        let silent = held.is_empty();
        held.extend(ends);
        drop(held);
        if silent && self.watch.load(Ordering::Acquire) == Watch::Bell as u8 {
            self.ring();
        }
    }

    /// Rings the bell.
    pub fn ring(&self) {
        // Full only after 2^64 rings, and then it rings already.
        let _ = self.bell.write(1);
    }

    /// What was noted since the last call.
    pub fn take(&self) -> HashMap<Point, Seq> {
        let _ = self.bell.read();
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Point, Seq>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Feed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
