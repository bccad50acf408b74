//! Watches the CD-ROM drives for contexts: each medium whose label is a class's becomes a layer.
//!
//! ```text
//! uevents, counters ──> watcher ── pokes ──> worker, one a drive ── found ──> board ──> MediaEvent, status
//!                          ^                    │
//!                        hurry                  └── drive ──> spool ──> vmkpi::iso9660 ──> Layer
//! ```
//!
//! | room | job |
//! | --- | --- |
//! | `watcher` | which drives there are, and when to look at one |
//! | `worker` | what a drive holds, and when to try again |
//! | `spool` | from a medium to a layer |
//! | `board` | what was handed over, and what `status` says |
//! | `source`, `tray`, `sysfs`, `uevent` | the kernel |
//!
//! No drive is kept open, locked or mounted: the host may change a medium at any time. A layer is whole or none, and
//! stays what it is when its medium is gone.

mod board;
mod source;
mod spool;
mod sysfs;
mod tray;
mod uevent;
mod watcher;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use vmkpi::context::Class;

use crate::context::layer::Layer;
use board::Board;
use spool::Spool;
use watcher::{Signals, Watcher};

/// The most drives that are looked at; each has a thread, and up to one medium on disk.
pub const MAX_DRIVES: usize = 16;

/// The most threads, those included that hang at drives that are gone.
const MAX_WORKERS: usize = 2 * MAX_DRIVES;

/// How long a change that was announced is waited for.
const HURRY: Duration = Duration::from_secs(2);

/// How often drives are asked meanwhile: a migration's gap is to be filled within 150 ms of resuming.
const HURRY_INTERVAL: Duration = Duration::from_millis(20);

/// What a drive holds has changed.
#[derive(Clone, Debug)]
pub struct MediaEvent {
    /// Whose context it is.
    pub class: Class,
    /// The drive by its kernel name, such as `sr0`.
    pub drive: String,
    /// The layer; `None`: the medium is gone.
    pub layer: Option<Arc<Layer>>,
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// Where the kernel lists block devices: `/sys/class/block`.
    pub sys: PathBuf,
    /// Where their nodes are: `/dev`.
    pub dev: PathBuf,
    /// Where media are copied to before they are read. It is made if it is not there.
    pub spool: PathBuf,
    /// How often a drive is asked whether its medium changed, where nothing suggests that it will; 20 ms or more, less
    /// counts as that.
    pub poll_interval: Duration,
}

/// What `status` says of a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveStatus {
    /// Its kernel name.
    pub drive: String,
    /// The label of the medium in it; `None`: there is none, or none that can be read.
    pub label: Option<String>,
    /// The class, if a layer of this medium is in force.
    pub class: Option<Class>,
    /// Why the medium, though there, gives no layer, and what to do.
    pub problem: Option<String>,
    /// How often a medium was read in full.
    pub read: u64,
    /// How often a medium was refused or could not be read.
    pub failed: u64,
}

/// The running watcher.
pub struct Media {
    board: Arc<Board>,
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

impl Media {
    /// Begins to watch. What the drives hold now comes as events too; [`Media::settled`] waits for them.
    ///
    /// # Errors
    /// The spool cannot be made, or the system has no thread or descriptor left. No drive, or one that cannot be read,
    /// is no error: [`Media::status`] says so.
    pub fn start(config: &MediaConfig, events: Sender<MediaEvent>) -> anyhow::Result<Self> {
        let spool = Spool::open(&config.spool)
            .with_context(|| format!("cannot use {} for media", config.spool.display()))?;
        let board = Arc::new(Board::new(events));
        let signals = Arc::new(Signals {
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            hurry: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let config = MediaConfig {
            poll_interval: config.poll_interval.max(HURRY_INTERVAL),
            ..config.clone()
        };
        let watcher = Watcher::new(config, spool, Arc::clone(&board), Arc::clone(&signals));
        let thread = std::thread::Builder::new()
            .name("media".into())
            .spawn(move || watcher.run())?;
        Ok(Self {
            board,
            signals,
            thread: Some(thread),
        })
    }

    /// A medium is about to change, as after the host has hung up: looks now, and often for two seconds.
    pub fn hurry(&self) {
        self.signals.hurry.store(true, Ordering::Release);
        let _ = self.signals.bell.write(1);
    }

    /// Waits until each drive that is there was looked at once. Says whether it was so before `timeout` was over.
    pub fn settled(&self, timeout: Duration) -> bool {
        self.board.settled(timeout)
    }

    /// What `status` says of the drives.
    pub fn status(&self) -> Vec<DriveStatus> {
        self.board.status()
    }

    /// Lets go of the drives. Layers that were handed over stay. One that hangs is not waited for.
    pub fn stop(&mut self) {
        self.signals.stop.store(true, Ordering::Release);
        let _ = self.signals.bell.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the media watcher's thread panicked");
        }
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
