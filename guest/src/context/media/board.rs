//! What is known of the drives, by all who work at them: which layers were handed over, and what `status` says.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmkpi::context::Class;
use vmkpi::iso9660::TreeDigest;

use super::spool::Taken;
use super::{DriveStatus, MediaEvent};

/// A look at a drive that takes longer is told: it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a look at a drive found.
pub enum Outcome {
    /// What was there before.
    Same,
    /// No medium.
    Empty,
    /// A medium that is no context, by its label.
    Foreign(Option<String>),
    /// A context.
    Layer {
        /// Its label.
        label: String,
        /// What it holds.
        taken: Box<Taken>,
    },
    /// A context that gives no layer as long as it is there.
    Refused {
        /// Its label.
        label: String,
        /// Why.
        problem: String,
    },
    /// Nothing that can be told now; what was handed over before counts on.
    Again {
        /// The label, if it was read.
        label: Option<String>,
        /// Why.
        problem: String,
    },
}

/// A drive on the board.
struct Entry {
    /// Who works at it. A drive that went and came has another one.
    worker: u64,
    status: DriveStatus,
    /// The layer that was handed over last.
    offered: Option<(Class, TreeDigest)>,
    /// Whether it was looked at once.
    looked: bool,
    /// Since when it is looked at.
    busy: Option<Instant>,
}

/// The board.
pub struct Board {
    state: Mutex<State>,
    looked: Condvar,
}

struct State {
    events: Sender<MediaEvent>,
    drives: BTreeMap<String, Entry>,
    /// Whether the drives that were there at the start are on it.
    scanned: bool,
    next_worker: u64,
}

impl Board {
    /// An empty one.
    pub fn new(events: Sender<MediaEvent>) -> Self {
        Self {
            state: Mutex::new(State {
                events,
                drives: BTreeMap::new(),
                scanned: false,
                next_worker: 0,
            }),
            looked: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A drive is there. Returns the number of who works at it.
    pub fn add(&self, drive: &str) -> u64 {
        let mut state = self.state();
        state.next_worker += 1;
        let worker = state.next_worker;
        let status = DriveStatus {
            drive: drive.to_owned(),
            ..DriveStatus::default()
        };
        let entry = Entry {
            worker,
            status,
            offered: None,
            looked: false,
            busy: None,
        };
        state.drives.insert(drive.to_owned(), entry);
        worker
    }

    /// A drive is gone, and its layer with it; who works at it, if it hangs, says no more.
    pub fn remove(&self, drive: &str) {
        let mut state = self.state();
        if let Some(mut entry) = state.drives.remove(drive) {
            entry.withdraw(&state.events);
        }
        self.looked.notify_all();
    }

    /// The drives of the start are on it.
    pub fn scanned(&self) {
        self.state().scanned = true;
        self.looked.notify_all();
    }

    /// A look begins. Says whether the drive is still whose who looks.
    pub fn begin(&self, drive: &str, worker: u64) -> bool {
        let mut state = self.state();
        let entry = state
            .drives
            .get_mut(drive)
            .filter(|entry| entry.worker == worker);
        entry.is_some_and(|entry| {
            entry.busy = Some(Instant::now());
            true
        })
    }

    /// A look ends. Says whether the drive is still whose who looked.
    pub fn end(&self, drive: &str, worker: u64, outcome: Outcome) -> bool {
        let mut state = self.state();
        let State { events, drives, .. } = &mut *state;
        let Some(entry) = drives.get_mut(drive).filter(|entry| entry.worker == worker) else {
            return false;
        };
        entry.busy = None;
        entry.looked = true;
        entry.take(outcome, events);
        self.looked.notify_all();
        true
    }

    /// Waits until each drive was looked at once. Says whether it was so before `timeout` was over.
    pub fn settled(&self, timeout: Duration) -> bool {
        let open =
            |state: &mut State| !state.scanned || state.drives.values().any(|entry| !entry.looked);
        let waited = self.looked.wait_timeout_while(self.state(), timeout, open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What `status` says.
    pub fn status(&self) -> Vec<DriveStatus> {
        self.state().drives.values().map(Entry::status).collect()
    }
}

impl Entry {
    fn status(&self) -> DriveStatus {
        let mut status = self.status.clone();
        let hangs = self
            .busy
            .map(|since| since.elapsed())
            .filter(|busy| *busy > PATIENCE);
        if let Some(busy) = hangs {
            status.problem = Some(format!(
                "the drive has not answered for {} s: look at its image on the host",
                busy.as_secs()
            ));
        }
        status
    }

    fn take(&mut self, outcome: Outcome, events: &Sender<MediaEvent>) {
        match outcome {
            Outcome::Same => {}
            Outcome::Empty => {
                self.withdraw(events);
                self.say(None, None);
            }
            Outcome::Foreign(label) => {
                self.withdraw(events);
                self.say(label, None);
            }
            Outcome::Layer { label, taken } => {
                self.status.read += 1;
                self.offer(*taken, events);
                self.say(Some(label), None);
            }
            Outcome::Refused { label, problem } => {
                self.status.failed += 1;
                self.withdraw(events);
                self.say(Some(label), Some(problem));
            }
            Outcome::Again { label, problem } => {
                self.status.failed += 1;
                let label = label.or_else(|| self.status.label.clone());
                self.say(label, Some(problem));
            }
        }
    }

    /// Hands a layer over, unless it is the one that was handed over last.
    fn offer(&mut self, taken: Taken, events: &Sender<MediaEvent>) {
        let offered = (taken.layer.class.clone(), taken.tree);
        if self.offered.as_ref() == Some(&offered) {
            return;
        }
        if self
            .offered
            .as_ref()
            .is_some_and(|(class, _)| *class != offered.0)
        {
            self.withdraw(events);
        }
        tracing::info!(drive = %self.status.drive, class = %offered.0, tree = %offered.1, "a context is there");
        self.status.class = Some(offered.0.clone());
        let event = MediaEvent {
            class: offered.0.clone(),
            drive: self.status.drive.clone(),
            layer: Some(Arc::new(taken.layer)),
        };
        self.offered = Some(offered);
        // Nobody listens at the end of the program.
        let _ = events.send(event);
    }

    fn withdraw(&mut self, events: &Sender<MediaEvent>) {
        self.status.class = None;
        let Some((class, _)) = self.offered.take() else {
            return;
        };
        tracing::info!(drive = %self.status.drive, %class, "a context is gone");
        let _ = events.send(MediaEvent {
            class,
            drive: self.status.drive.clone(),
            layer: None,
        });
    }

    /// Notes what the drive holds, and says what is wrong with it, once.
    fn say(&mut self, label: Option<String>, problem: Option<String>) {
        self.status.label = label;
        if self.status.problem == problem {
            return;
        }
        let (drive, label) = (
            &self.status.drive,
            self.status.label.as_deref().unwrap_or("-"),
        );
        match &problem {
            Some(problem) => tracing::warn!(%drive, label, %problem, "a medium gives no context"),
            None => tracing::info!(%drive, label, "the drive is well again"),
        }
        self.status.problem = problem;
    }
}
