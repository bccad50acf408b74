//! Hooks: executables of the image, never of a layer, that are told what changed, one after the other.
//!
//! ```text
//!          change                    run                    the last has ended
//! idle ────────────> waiting ─────────────────> running ───────────────────────> idle
//!                    ^    │ change: joined         │ change
//!                    └────┘                        └────────> waits until this run is over
//! ```
//!
//! A thread of its own runs them, so that neither the tree nor the link waits for a hook. What they were told is
//! remembered when a run is over: a program that dies before runs them again.

mod find;
mod process;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

use super::change::{Change, Entries, join};
use super::memory::{Memory, Told};

pub use find::MAX_HOOKS;

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The generation.
    pub generation: u64,
    /// What changed since the last run.
    pub changes: Vec<Change>,
    /// The tree now.
    pub entries: Entries,
    /// The classes of its layers.
    pub classes: Vec<Class>,
}

impl Job {
    /// This one and a later one as one.
    fn then(self, next: Self) -> Self {
        Self {
            changes: join(self.changes, next.changes),
            ..next
        }
    }
}

/// Where hooks are, and how they are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Their directory.
    pub directory: PathBuf,
    /// When one is killed.
    pub timeout: Duration,
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub hook: String,
    /// The generation that it was told.
    pub generation: u64,
    /// When it was started.
    pub started: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether it ended with 0.
    pub ok: bool,
    /// How it ended, in words.
    pub result: String,
    /// The last lines that it printed.
    pub output: Vec<String>,
}

/// What `status` shows of the hooks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HooksStatus {
    /// Where they are.
    pub directory: PathBuf,
    /// The one that runs.
    pub running: Option<String>,
    /// Whether a change waits for its run, or for its run's next hook.
    pub waiting: bool,
    /// Runs so far.
    pub runs: u64,
    /// The number of the last change or `apply` that all hooks have been told of.
    pub told: u64,
    /// How each ended in the last run.
    pub outcomes: Vec<Outcome>,
    /// What is in the directory and is not run, and why.
    pub refused: Vec<String>,
}

/// The thread that runs hooks.
#[derive(Debug)]
pub struct Hooks {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    next: Option<Job>,
    submitted: u64,
    status: HooksStatus,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hooks {
    /// Starts the thread. `mount` is where layers are, none of which is run; `spool` takes what hooks are told.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(rules: Rules, mount: &Path, spool: &Path, memory: Memory) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                rules,
                next: None,
                submitted: 0,
                status: HooksStatus::default(),
            }),
            bell: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let runner = Runner {
            shared: Arc::clone(&shared),
            mount: mount.to_owned(),
            spool: spool.to_owned(),
            memory,
        };
        let thread = std::thread::Builder::new()
            .name("context-hooks".into())
            .spawn(move || runner.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Has a change told. Returns its number, which [`HooksStatus::told`] reaches when it was.
    pub fn submit(&self, job: Job) -> u64 {
        let mut state = self.shared.state();
        state.submitted += 1;
        state.next = Some(match state.next.take() {
            Some(waiting) => waiting.then(job),
            None => job,
        });
        self.shared.bell.notify_all();
        state.submitted
    }

    /// Other rules from the next run on.
    pub fn set_rules(&self, rules: Rules) {
        self.shared.state().rules = rules;
    }

    /// What `status` shows.
    pub fn status(&self) -> HooksStatus {
        let state = self.shared.state();
        // Between two hooks of a run none runs, and the run is not over.
        let between = state.status.running.is_none() && state.status.told < state.submitted;
        HooksStatus {
            directory: state.rules.directory.clone(),
            waiting: state.next.is_some() || between,
            ..state.status.clone()
        }
    }

    /// Kills the hook that runs, and ends. It is run again at the next start.
    pub fn stop(&mut self) {
        {
            // Under the lock, or the thread could miss the bell.
            let _state = self.shared.state();
            self.shared.stop.store(true, Ordering::Release);
            self.shared.bell.notify_all();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Runner {
    shared: Arc<Shared>,
    mount: PathBuf,
    spool: PathBuf,
    memory: Memory,
}

impl Runner {
    fn run(&self) {
        while let Some((job, number, rules)) = self.next() {
            if !self.tell(&job, &rules) {
                return;
            }
            let told = Told {
                generation: job.generation,
                classes: job.classes,
                entries: job.entries,
            };
            if let Err(error) = self.memory.keep_told(&told) {
                tracing::error!(%error, "what the hooks were told cannot be remembered: a restart runs them again");
            }
            let mut state = self.shared.state();
            state.status.told = number;
            state.status.runs += 1;
        }
    }

    /// Waits for something to tell; `None` at the end.
    fn next(&self) -> Option<(Job, u64, Rules)> {
        let mut state = self.shared.state();
        loop {
            if self.stopped() {
                return None;
            }
            if let Some(job) = state.next.take() {
                return Some((job, state.submitted, state.rules.clone()));
            }
            state = self
                .shared
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Runs all hooks; false when it was told to end before.
    fn tell(&self, job: &Job, rules: &Rules) -> bool {
        let found = find::find(&rules.directory, &self.mount);
        for refused in &found.refused {
            tracing::warn!("{refused}");
        }
        {
            let mut state = self.shared.state();
            state.status.refused = found.refused;
            state.status.outcomes.clear();
        }
        for hook in found.hooks {
            self.shared.state().status.running = Some(name(&hook));
            let outcome = self.run_one(&hook, job, rules);
            let mut state = self.shared.state();
            state.status.running = None;
            let Some(outcome) = outcome else {
                return false;
            };
            state.status.outcomes.push(outcome);
        }
        !self.stopped()
    }

    fn run_one(&self, hook: &Path, job: &Job, rules: &Rules) -> Option<Outcome> {
        let started = Timestamp::now();
        let clock = std::time::Instant::now();
        let told = process::Told {
            mount: &self.mount,
            generation: job.generation,
            changes: &job.changes,
            spool: &self.spool,
        };
        let ended = process::run(hook, &told, rules.timeout, || self.stopped())?;
        let outcome = Outcome {
            hook: name(hook),
            generation: job.generation,
            started,
            duration_ms: u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX),
            ok: ended.ok,
            result: ended.result,
            output: ended.output,
        };
        if !outcome.ok {
            let last = outcome.output.last().map_or("", String::as_str);
            tracing::error!(
                hook = outcome.hook,
                result = outcome.result,
                last,
                "a hook failed"
            );
        }
        Some(outcome)
    }
}

fn name(hook: &Path) -> String {
    let name = hook.file_name().unwrap_or_default();
    name.to_string_lossy().escape_debug().to_string()
}
