//! The context partition: configuration that is offered to the VM while it runs, layer over layer, as one read-only
//! tree (the papers' Flexible File System).
//!
//! ```text
//! CD-ROM ──> media ──┐
//!                    ├─ layers ─> stack ──> view ──> inodes ──> fs ──> kernel
//! directory ─────────┘           priority,  merged   versions   adapter
//!                                lingering  tree       │
//!                                      │               └─> generation ──> hooks
//!                                      └─> guidance (link)
//! ```
//!
//! | module | room |
//! | --- | --- |
//! | [`layer`], [`directory`], [`media`] | layers, and where they come from |
//! | [`stack`] | which there are, in which order (pure) |
//! | [`view`], [`change`] | one tree of them, and what is other in the next (pure) |
//! | [`inodes`] | the tree as the kernel knows it (pure) |
//! | [`fs`] | the adapter to the kernel |
//! | [`manager`](self) | the thread that takes a change through its steps |
//! | [`memory`] | what is remembered over a restart |
//! | [`hooks`] | the image's programs that follow a change |
//! | [`guidance`] | what the program itself goes by |
//! | [`report`], [`command`] | what it says about itself, and `vmkpi-guest context` |

pub mod change;
pub mod command;
pub mod directory;
pub mod fs;
pub mod guidance;
pub mod hooks;
pub mod inodes;
pub mod layer;
mod manager;
pub mod media;
pub mod memory;
pub mod report;
pub mod stack;
pub mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use vmkpi::context::Class;

use crate::config::AllowOther;
use crate::mount;
use fs::{Adapter, Tree};
use guidance::Guide;
use hooks::{Hooks, Rules};
use manager::{Event, Manager, Parts, Public, Shared, history, lock};
use media::{Media, MediaConfig, MediaEvent};
use memory::Memory;
use report::{Answer, ContextStatus};
use view::Holder;

/// Where in the state directory it keeps what it has.
const DIRECTORY: &str = "context";

/// How long a start waits for the first look into the drives: one that hangs keeps nobody from the rest.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How long `apply` waits for the manager, which may be reading a medium.
const PATIENCE: Duration = Duration::from_secs(30);

/// The context partition of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextConfig {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The classes whose layers are shown, the highest first.
    pub classes: Vec<Class>,
    /// Layers from the image itself.
    pub directories: BTreeMap<Class, PathBuf>,
    /// Where the hooks are.
    pub hooks: PathBuf,
    /// When a hook is killed.
    pub hook_timeout: Duration,
    /// How long a layer is shown that has gone.
    pub linger: Duration,
    /// How often a drive is asked for its medium where nothing says that it changed.
    pub poll_interval: Duration,
    /// Where the kernel lists block devices.
    pub sys: PathBuf,
    /// Where their nodes are.
    pub dev: PathBuf,
}

impl ContextConfig {
    fn media(&self, spool: &Path) -> MediaConfig {
        MediaConfig {
            sys: self.sys.clone(),
            dev: self.dev.clone(),
            spool: spool.to_owned(),
            poll_interval: self.poll_interval,
        }
    }
}

fn rules(config: &ContextConfig) -> Rules {
    Rules {
        directory: config.hooks.clone(),
        timeout: config.hook_timeout,
    }
}

/// A context partition that is mounted.
pub struct Context {
    mount: PathBuf,
    tree: Arc<Tree>,
    hooks: Arc<Mutex<Hooks>>,
    shared: Shared,
    mounted: Arc<AtomicBool>,
    media: Arc<Mutex<Media>>,
    events: Sender<Event>,
    manager: Mutex<Option<JoinHandle<()>>>,
}

impl Context {
    /// Mounts it, with the layers of the image in it.
    ///
    /// # Errors
    /// It cannot be mounted, or the state directory cannot be written.
    pub fn start(
        config: &ContextConfig,
        state: &Path,
        allow_other: AllowOther,
        guide: Arc<Guide>,
    ) -> anyhow::Result<Self> {
        mount::take_over(&config.mount)?;
        let spool = state.join(DIRECTORY);
        let at = || format!("cannot use {}", spool.display());
        let memory = Memory::open(&spool).with_context(at)?;
        let mut shown = memory.shown();
        // Whichever of the two files is left.
        let told = memory.told().map_or(0, |told| told.generation);
        shown.generation = shown.generation.max(told);
        let tree = Arc::new(Tree::new(shown.generation));
        let hooks = Hooks::start(rules(config), &config.mount, &spool, memory.clone())?;
        let hooks = Arc::new(Mutex::new(hooks));
        let mounted = Arc::new(AtomicBool::new(true));
        let notifier = serve(config, allow_other, &tree, &mounted)?;
        let shared: Shared = Arc::new(Mutex::new(Public::default()));
        let (media, drives) = watch(&config.media(&spool), &guide)?;
        let parts = Parts {
            config: config.clone(),
            spool,
            tree: Arc::clone(&tree),
            notifier,
            memory,
            shown,
            hooks: Arc::clone(&hooks),
            guide,
            shared: Arc::clone(&shared),
        };
        let manager = Manager::begin(parts, drives.try_iter());
        let (events, thread) = work(manager, drives)?;
        Ok(Self {
            mount: config.mount.clone(),
            tree,
            hooks,
            shared,
            mounted,
            media,
            events,
            manager: Mutex::new(Some(thread)),
        })
    }

    /// Reads the directories again, under other settings; the mount and the classes stay as they are.
    pub fn reload(&self, config: ContextConfig) {
        let _ = self.events.send(Event::Reload(Box::new(config)));
    }

    /// Reads everything again and runs all hooks, as after a first start. Returns the number of their run.
    ///
    /// # Errors
    /// It is not done in time.
    pub fn apply(&self) -> anyhow::Result<u64> {
        self.media().hurry();
        let (reply, answer) = channel();
        let _ = self.events.send(Event::Apply(reply));
        answer
            .recv_timeout(PATIENCE)
            .context("the context was not read in time; look at the log")
    }

    /// The layers that have a path.
    pub fn holders(&self, path: &str) -> Vec<Holder> {
        let view = Arc::clone(&lock(&self.shared).view);
        view.holders(path)
    }

    /// What it says about itself.
    pub fn status(&self) -> ContextStatus {
        let hooks = self.hooks().status();
        let drives = self.media().status();
        let public = lock(&self.shared);
        let files = |view: &view::View| {
            let nodes = view.nodes().values();
            nodes
                .filter(|placed| placed.node != view::Node::Directory)
                .count()
        };
        ContextStatus {
            mount: self.mount.clone(),
            mounted: self.mounted.load(Ordering::Relaxed),
            generation: public.shown.generation,
            starting: public.starting,
            layers: public.layers.clone(),
            drives,
            files: files(&public.view),
            hooks,
            cut_off: self.tree.inodes().cut_off(),
            problems: public.problems.clone(),
        }
    }

    /// Answers a request of `vmkpi-guest context`.
    pub fn answer(&self, request: &str) -> Answer {
        match request.split_once(' ') {
            Some(("where", path)) => Answer::Where(self.holders(path)),
            None if request == "context" => Answer::Context(Box::new(self.status())),
            None if request == "changes" => Answer::Changes(history(&self.shared)),
            None if request == "apply" => match self.apply() {
                Ok(number) => Answer::Apply(number),
                Err(error) => Answer::Refused(format!("{error:#}")),
            },
            _ => Answer::Refused(format!(
                "{:?} is no request",
                request.escape_debug().to_string()
            )),
        }
    }

    /// Kills the hook that runs, and unmounts. What is open stays open until the program ends.
    pub fn stop(&self) {
        self.media().stop();
        let _ = self.events.send(Event::Stop);
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = manager.take() {
            let _ = thread.join();
        }
        self.hooks().stop();
        if self.mounted.load(Ordering::Relaxed)
            && let Err(error) = mount::detach(&self.mount)
        {
            let error = format!("{error:#}");
            tracing::error!(error, "the context partition cannot be unmounted");
        }
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the drives, and returns when they were looked into once. A host that hangs up makes them be looked into often.
fn watch(
    config: &MediaConfig,
    guide: &Guide,
) -> anyhow::Result<(Arc<Mutex<Media>>, Receiver<MediaEvent>)> {
    let (sender, events) = channel();
    let media = Media::start(config, sender)?;
    if !media.settled(FIRST_LOOK) {
        tracing::warn!("a drive does not answer; its context comes when it does");
    }
    let media = Arc::new(Mutex::new(media));
    let hurried = Arc::downgrade(&media);
    guide.on_hang_up(move || {
        if let Some(media) = hurried.upgrade() {
            let media = media.lock().unwrap_or_else(PoisonError::into_inner);
            media.hurry();
        }
    });
    Ok((media, events))
}

/// Starts the manager's thread, and one that hands it what happens to drives.
fn work(
    manager: Manager,
    drives: Receiver<MediaEvent>,
) -> anyhow::Result<(Sender<Event>, JoinHandle<()>)> {
    let (events, received) = channel();
    let thread = std::thread::Builder::new()
        .name("context".into())
        .spawn(move || manager.run(&received))?;
    let to_manager = events.clone();
    std::thread::Builder::new()
        .name("context-media".into())
        // Ends with the watcher, or the manager.
        .spawn(move || {
            for event in drives {
                if to_manager.send(Event::Media(event)).is_err() {
                    return;
                }
            }
        })?;
    Ok((events, thread))
}

/// Mounts, and answers the kernel on a thread of its own.
fn serve(
    config: &ContextConfig,
    allow_other: AllowOther,
    tree: &Arc<Tree>,
    mounted: &Arc<AtomicBool>,
) -> anyhow::Result<fuser::Notifier> {
    let session = mount::mount_read_only(&config.mount, allow_other, || {
        Adapter::new(Arc::clone(tree))
    })?;
    let notifier = session.notifier();
    let mounted = Arc::clone(mounted);
    std::thread::Builder::new()
        .name("context-fuse".into())
        .spawn(move || {
            let ended = session.run();
            mounted.store(false, Ordering::Relaxed);
            tracing::info!(?ended, "the context partition is no longer mounted");
        })?;
    Ok(notifier)
}
