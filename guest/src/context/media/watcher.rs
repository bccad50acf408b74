//! Follows the drives: which there are, and when one is to be looked at. The kernel's word that a medium changed wakes
//! it; its counters are what it goes by, so that a word that was missed costs a moment and nothing else.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::board::Board;
use super::source::Drive;
use super::spool::Spool;
use super::sysfs::{self, Folder, Polling};
use super::uevent::Uevents;
use super::worker::{Poke, Worker};
use super::{HURRY, HURRY_INTERVAL, MAX_DRIVES, MAX_WORKERS, MediaConfig};

/// How often drives are looked at that the kernel watches. It says when a medium comes, and nothing when one is taken
/// out (QEMU's drives report that to who opens them), or when the host's file is another one all at once.
const WATCHED_INTERVAL: Duration = Duration::from_secs(2);

/// How long the end waits for who works at a drive.
const END: Duration = Duration::from_secs(1);

/// What the watcher and who asks it share.
pub struct Signals {
    /// Rung for each of these.
    pub bell: EventFd,
    /// A medium is about to change.
    pub hurry: AtomicBool,
    /// It is the end.
    pub stop: AtomicBool,
}

/// A drive that is followed.
struct Followed {
    folder: Folder,
    polling: Option<Polling>,
    /// Whether the kernel asks it as often as is needed.
    watched: bool,
    /// What its counter was.
    changes: Option<u64>,
    poke: SyncSender<Poke>,
}

impl Followed {
    fn poke(&self, why: Poke) {
        // One that waits already is as good.
        let _ = self.poke.try_send(why);
    }

    fn ask_every(&mut self, interval: Duration) {
        self.watched = self
            .polling
            .as_mut()
            .is_some_and(|polling| polling.every(interval));
    }
}

/// The watcher.
pub struct Watcher {
    config: MediaConfig,
    spool: Spool,
    board: Arc<Board>,
    signals: Arc<Signals>,
    uevents: Option<Uevents>,
    drives: BTreeMap<String, Followed>,
    /// Threads that work at drives, those that hang included.
    workers: Arc<AtomicUsize>,
    hurry_until: Option<Instant>,
    /// When drives are looked at without a reason.
    routine: Instant,
    /// Whether it was said that there are too many drives.
    complained: bool,
}

impl Watcher {
    /// One that follows nothing yet.
    pub fn new(
        config: MediaConfig,
        spool: Spool,
        board: Arc<Board>,
        signals: Arc<Signals>,
    ) -> Self {
        let uevents = Uevents::listen().inspect_err(
            |error| tracing::debug!(%error, "no word of the kernel; drives are asked"),
        );
        Self {
            config,
            spool,
            board,
            signals,
            uevents: uevents.ok(),
            drives: BTreeMap::new(),
            workers: Arc::default(),
            hurry_until: None,
            routine: Instant::now(),
            complained: false,
        }
    }

    /// Follows until it is told to stop.
    pub fn run(mut self) {
        let mut scanned = false;
        while !self.signals.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            self.scan();
            if !std::mem::replace(&mut scanned, true) {
                self.board.scanned();
            }
            self.heed(now);
            self.check(now);
            self.wait(now);
        }
        self.end();
    }

    /// Takes up drives that have come, and lets go of those that are gone.
    fn scan(&mut self) {
        let mut there = sysfs::drives(&self.config.sys, MAX_DRIVES + 1);
        if there.len() > MAX_DRIVES {
            there.truncate(MAX_DRIVES);
            self.complain(&format!(
                "more than {MAX_DRIVES} drives: the others are not looked at"
            ));
        }
        let gone: Vec<_> = self
            .drives
            .keys()
            .filter(|drive| !there.contains(drive))
            .cloned()
            .collect();
        for drive in gone {
            self.drives.remove(&drive);
            self.board.remove(&drive);
        }
        for drive in there {
            if !self.drives.contains_key(&drive) {
                self.take_up(drive);
            }
        }
    }

    fn complain(&mut self, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!("{what}");
        }
    }

    fn take_up(&mut self, drive: String) {
        if self.workers.load(Ordering::Acquire) >= MAX_WORKERS {
            return self.complain("too many drives hang: no more are looked at until they answer");
        }
        let folder = Folder::of(&self.config.sys, &drive);
        let mut followed = Followed {
            polling: Polling::of(&folder),
            watched: false,
            changes: folder.changes(),
            folder: folder.clone(),
            poke: match self.employ(&drive, folder) {
                Ok(poke) => poke,
                Err(error) => return self.complain(&format!("no thread for {drive}: {error}")),
            },
        };
        followed.ask_every(self.interval());
        self.drives.insert(drive, followed);
    }

    /// Starts a thread for a drive; it looks at once.
    fn employ(&self, drive: &str, folder: Folder) -> std::io::Result<SyncSender<Poke>> {
        let (poke, pokes) = sync_channel(1);
        let worker = Worker {
            number: self.board.add(drive),
            source: Drive {
                node: self.config.dev.join(drive),
                folder,
            },
            drive: drive.to_owned(),
            spool: self.spool.clone(),
            board: Arc::clone(&self.board),
        };
        let workers = Arc::clone(&self.workers);
        workers.fetch_add(1, Ordering::AcqRel);
        let body = move || {
            let _counted = Counted(workers);
            worker.run(&pokes);
        };
        let thread = std::thread::Builder::new().name(format!("medium-{drive}"));
        thread
            .spawn(body)
            .inspect_err(|_| self.board.remove(drive))?;
        Ok(poke)
    }

    /// How often drives are asked now.
    fn interval(&self) -> Duration {
        match self.hurry_until {
            Some(_) => HURRY_INTERVAL.min(self.config.poll_interval),
            None => self.config.poll_interval,
        }
    }

    /// Begins and ends to hurry.
    fn heed(&mut self, now: Instant) {
        if self.signals.hurry.swap(false, Ordering::AcqRel) {
            self.hurry(now);
            // Without the kernel's word: it gives none where only the host's file is another one.
            self.drives
                .values()
                .for_each(|drive| drive.poke(Poke::Changed));
        }
        if self.hurry_until.is_some_and(|until| now >= until) {
            self.hurry_until = None;
            let interval = self.interval();
            for drive in self.drives.values_mut() {
                drive.ask_every(interval);
                drive.poke(Poke::Changed);
            }
        }
    }

    fn hurry(&mut self, now: Instant) {
        tracing::debug!("drives are asked often for a while");
        let began = self.hurry_until.replace(now + HURRY).is_none();
        if began {
            self.routine = now;
            let interval = self.interval();
            self.drives
                .values_mut()
                .for_each(|drive| drive.ask_every(interval));
        }
    }

    /// Has looked at what has changed, and at everything when it is time.
    fn check(&mut self, now: Instant) {
        let (mut changed, routine) = (false, now >= self.routine);
        if routine {
            self.routine = now + self.tick();
        }
        let said = self.uevents.as_ref().map(Uevents::take).unwrap_or_default();
        for (name, drive) in &mut self.drives {
            let changes = drive.folder.changes();
            let counted = std::mem::replace(&mut drive.changes, changes) != changes;
            if counted
                || said
                    .iter()
                    .any(|event| event.media_change && event.drive == *name)
            {
                changed = true;
                drive.poke(Poke::Changed);
            } else if routine {
                drive.poke(Poke::Routine);
            }
        }
        if changed {
            // One change seldom comes alone: a tray is opened, then closed.
            self.hurry(now);
        }
    }

    /// How long nothing is looked at without a reason.
    fn tick(&self) -> Duration {
        match self.uevents.is_some() && self.drives.values().all(|drive| drive.watched) {
            true => WATCHED_INTERVAL,
            false => self.interval(),
        }
    }

    fn wait(&self, now: Instant) {
        let until = self
            .hurry_until
            .map_or(self.routine, |until| until.min(self.routine));
        let tick = until.saturating_duration_since(now).min(self.tick());
        // One more, as what is left of a millisecond is not waited for otherwise.
        let milliseconds = u16::try_from(tick.as_millis() + 1).unwrap_or(u16::MAX);
        let mut fds = vec![PollFd::new(self.signals.bell.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.uevents
                .iter()
                .map(|uevents| PollFd::new(uevents.as_fd(), PollFlags::POLLIN)),
        );
        // A signal is for another thread.
        let _ = poll(&mut fds, PollTimeout::from(milliseconds));
        let _ = self.signals.bell.read();
    }

    /// Lets go of the drives. Who hangs at one is not waited for.
    fn end(mut self) {
        self.drives.clear();
        let deadline = Instant::now() + END;
        while self.workers.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            let mut bell = [PollFd::new(self.signals.bell.as_fd(), PollFlags::empty())];
            let _ = poll(&mut bell, PollTimeout::from(5_u8));
        }
    }
}

/// Counts a thread down when it ends, however it ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
