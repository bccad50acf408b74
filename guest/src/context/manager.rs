//! The thread behind the tree: what comes and goes becomes a change, and a change takes its steps in order.
//!
//! ```text
//! medium, directory ──> stack ──> view ──> guidance ──> new view shown ──> kernel forgets ──> generation ──> hooks
//! ```
//!
//! Guidance comes first: what may not be delivered from here waits for no disk, and the link is on its way to where the
//! host is while the rest is done.
//!
//! After a start, what was there before it is waited for as long as a layer lingers: a restart changes nothing, and a
//! change that is none is neither counted nor told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fuser::Notifier;
use vmkpi::clock::Timestamp;
use vmkpi::context::{Class, ENDPOINT_FILE, GENERATION_FILE, LEGISLATION_FILE};

use super::change::{Change, Entries, diff, everything};
use super::directory;
use super::fs::Tree;
use super::guidance::{Guidance, Guide};
use super::hooks::{Hooks, Job};
use super::media::MediaEvent;
use super::memory::{Counted, Memory, Shown};
use super::report::LayerStatus;
use super::stack::{Source, Stack, has_all};
use super::view::View;
use super::{ContextConfig, rules};

/// The longest endpoint or legislation, in bytes; longer ones are none.
const MAX_GUIDANCE_BYTES: u64 = 4096;

/// What happens to the manager.
#[derive(Debug)]
pub(super) enum Event {
    /// A drive's medium came or went.
    Media(MediaEvent),
    /// Directories are read again under these settings.
    Reload(Box<ContextConfig>),
    /// All is read again, and the hooks run; the number of their run is sent.
    Apply(Sender<u64>),
    /// The end.
    Stop,
}

/// What others see of it.
#[derive(Debug, Default)]
pub(super) struct Public {
    pub view: Arc<View>,
    pub layers: Vec<LayerStatus>,
    pub shown: Shown,
    pub starting: bool,
    pub problems: Vec<String>,
}

/// [`Public`], shared.
pub(super) type Shared = Arc<Mutex<Public>>;

/// Its lock.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Public> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the manager works with.
pub(super) struct Parts {
    pub config: ContextConfig,
    pub spool: PathBuf,
    pub tree: Arc<Tree>,
    pub notifier: Notifier,
    pub memory: Memory,
    pub shown: Shown,
    pub hooks: Arc<Mutex<Hooks>>,
    pub guide: Arc<Guide>,
    pub shared: Shared,
}

/// The manager.
pub(super) struct Manager {
    parts: Parts,
    stack: Stack,
    view: Arc<View>,
    /// What is shown.
    entries: Entries,
    /// What was shown when a change was counted last.
    counted: Entries,
    /// Until when which classes are waited for.
    expected: Option<(Instant, Vec<Class>)>,
    /// What is wrong by where it is.
    problems: BTreeMap<Source, Vec<String>>,
}

impl Manager {
    /// A manager that has read the directories, and has these media.
    pub(super) fn begin(parts: Parts, media: impl Iterator<Item = MediaEvent>) -> Self {
        let told = parts.memory.told().unwrap_or_default();
        let until = Instant::now() + parts.config.linger;
        let mut manager = Self {
            stack: Stack::new(parts.config.classes.clone(), parts.config.linger),
            view: Arc::default(),
            entries: told.entries.clone(),
            counted: told.entries,
            expected: Some((until, told.classes)),
            problems: BTreeMap::new(),
            parts,
        };
        manager.read_directories();
        media.for_each(|event| manager.media(event));
        manager.update();
        manager
    }

    /// Works until it is told to stop, or nobody is there any more to tell it anything.
    pub(super) fn run(mut self, events: &Receiver<Event>) {
        loop {
            match self.wait(events) {
                Ok(Event::Media(event)) => self.media(event),
                Ok(Event::Reload(config)) => self.reload(*config),
                Ok(Event::Apply(reply)) => {
                    let _ = reply.send(self.apply());
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            self.update();
        }
    }

    /// Reads and tells everything, whatever is still waited for. Returns the number of the hooks' run.
    fn apply(&mut self) -> u64 {
        if let Some((until, _)) = &mut self.expected {
            *until = Instant::now();
        }
        self.read_directories();
        self.update();
        self.tell(everything(&self.entries))
    }

    fn wait(&self, events: &Receiver<Event>) -> Result<Event, RecvTimeoutError> {
        let expected = self.expected.as_ref().map(|(until, _)| *until);
        let next = self.stack.deadline().into_iter().chain(expected).min();
        match next {
            Some(until) => events.recv_timeout(until.saturating_duration_since(Instant::now())),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn media(&mut self, event: MediaEvent) {
        let source = Source::Drive(event.drive);
        match event.layer {
            Some(layer) => self.put(source, layer, Vec::new()),
            None => {
                self.problems.remove(&source);
                self.stack.take(&source, &event.class, Instant::now());
            }
        }
    }

    fn put(&mut self, source: Source, layer: Arc<super::layer::Layer>, mut problems: Vec<String>) {
        if layer.files.contains_key(GENERATION_FILE) || layer.directories.contains(GENERATION_FILE)
        {
            problems.push(format!(
                "{GENERATION_FILE} of class {} in {source} is not shown: the name is taken",
                layer.class
            ));
        }
        let at = (Instant::now(), Timestamp::now());
        if let Err(problem) = self.stack.put(source.clone(), layer, at) {
            problems.push(problem);
        }
        for problem in &problems {
            tracing::warn!("{problem}");
        }
        self.problems.insert(source, problems);
    }

    fn reload(&mut self, config: ContextConfig) {
        let now = Instant::now();
        for (class, directory) in &self.parts.config.directories {
            if config.directories.get(class) != Some(directory) {
                let source = Source::Directory(directory.clone());
                self.problems.remove(&source);
                self.stack.take(&source, class, now);
            }
        }
        self.stack.set_linger(config.linger);
        self.hooks().set_rules(rules(&config));
        self.parts.config = config;
        self.read_directories();
    }

    /// Reads all directories. One that has gone has no layer any more; one that cannot be read keeps the one it had.
    fn read_directories(&mut self) {
        for (class, directory) in self.parts.config.directories.clone() {
            let source = Source::Directory(directory.clone());
            if !directory.exists() {
                let problem = format!(
                    "the context of class {class} is missing: there is no {}; make it, or take it out of context.directories",
                    directory.display()
                );
                tracing::warn!("{problem}");
                self.problems.insert(source.clone(), vec![problem]);
                self.stack.take(&source, &class, Instant::now());
                continue;
            }
            match directory::read(&class, &directory, &self.parts.spool) {
                Ok(reading) => {
                    let said = |why| format!("in {}: {why}", directory.display());
                    let skipped = reading.skipped.into_iter().map(said).collect();
                    self.put(source, Arc::new(reading.layer), skipped);
                }
                Err(error) => {
                    let problem = format!("{error:#}; what was read of it before stays");
                    tracing::error!("{problem}");
                    self.problems.insert(source, vec![problem]);
                }
            }
        }
    }

    /// Shows what is there now, and counts it if it is something else.
    fn update(&mut self) {
        let now = Instant::now();
        self.stack.tick(now);
        self.view = Arc::new(View::new(self.stack.layers()));
        self.entries = self.view.entries(&self.entries, Timestamp::now());
        let there = self.stack.classes();
        let settled = self
            .expected
            .take_if(|(until, classes)| now >= *until || has_all(&there, classes));
        let changes = match self.expected {
            None => diff(&self.counted, &self.entries),
            Some(_) => Vec::new(),
        };
        if settled.is_some() || !changes.is_empty() {
            self.guide();
        }
        let parts = &self.parts;
        parts.tree.show(&self.view, &self.entries, &parts.notifier);
        if !changes.is_empty() {
            self.count(changes);
        }
        self.publish();
    }

    fn count(&mut self, changes: Vec<Change>) {
        let parts = &mut self.parts;
        parts.shown.count(&changes, Timestamp::now());
        let generation = parts.shown.generation;
        // Before it is seen: it never goes back.
        if let Err(error) = parts.memory.keep_shown(&parts.shown) {
            tracing::error!(%error, "the context's generation cannot be remembered; after a restart it begins with an older one");
        }
        parts.tree.count(generation, &parts.notifier);
        tracing::info!(generation, paths = changes.len(), "the context has changed");
        self.counted = self.entries.clone();
        self.publish();
        self.tell(changes);
    }

    fn tell(&self, changes: Vec<Change>) -> u64 {
        self.hooks().submit(Job {
            generation: self.parts.shown.generation,
            changes,
            entries: self.entries.clone(),
            classes: self.stack.classes(),
        })
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.parts
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn guide(&self) {
        let text = |path| {
            let bytes = self.view.read(path, MAX_GUIDANCE_BYTES);
            let bytes = bytes
                .inspect_err(|error| tracing::error!(path, %error, "the context cannot be read"));
            bytes
                .ok()
                .flatten()
                .and_then(|bytes| String::from_utf8(bytes).ok())
        };
        self.parts.guide.set(Guidance {
            endpoint: text(ENDPOINT_FILE),
            legislation: text(LEGISLATION_FILE),
        });
    }

    fn publish(&self) {
        let mut public = lock(&self.parts.shared);
        public.view = Arc::clone(&self.view);
        public.layers = self.stack.held().iter().map(LayerStatus::of).collect();
        public.shown = self.parts.shown.clone();
        public.starting = self.expected.is_some();
        public.problems = self.problems.values().flatten().cloned().collect();
    }
}

/// The last changes.
pub(super) fn history(shared: &Shared) -> Vec<Counted> {
    lock(shared).shown.history.clone()
}
