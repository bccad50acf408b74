//! The whole program from start to signal. Each step undoes nothing: what a start that fails leaves
//! behind, the next start finds and takes over.
//!
//! ```text
//! lock ──> take over ──> store ──> link ──> mount ──> poller ──> READY ── SIGHUP ──> reload
//!                                                                  │ SIGTERM, SIGINT, unmounted
//!                        exit <── store <── link <── unmount <── poller <── STOPPING
//! ```

mod service;
mod signals;

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use nix::sys::stat::{Mode, umask};
use vmkpi::logging::LogLevel;
use vmkpi::notify::Notifier;

use crate::logging;
use crate::settings::{CATALOGUE, Settings, Sources};
use crate::store::{Job, Store};
use service::Service;
use signals::{Event, Signals};

/// Runs until SIGTERM, SIGINT or an unmount. SIGHUP reads the settings anew from `sources`.
///
/// # Errors
/// A name or key in the settings is unknown, the state directory is in use or cannot be made, a database
/// cannot be opened, the link's socket cannot be made, or the mount is refused.
pub fn run(sources: &Sources, settings: &Settings, level: &LogLevel) -> anyhow::Result<()> {
    close_inherited();
    let config = settings.run_config()?;
    // Before any thread starts, so that all of them inherit it.
    let signals = Signals::block()?;
    umask(Mode::from_bits_truncate(0o077));
    let notifier = Notifier::from_environment();
    let _lock = lock_state(&config.state)?;
    let service = Service::start(&config)?;
    notifier.ready(&format!("mounted at {}", config.mount.display()));
    let mut reloader = Reloader {
        sources,
        settings: settings.clone(),
        level,
    };
    let unmounted = watch(&service, &signals, &notifier, &mut reloader)?;
    notifier.stopping();
    service.stop(unmounted);
    Ok(())
}

/// Closes what whoever started the program has left open: a daemon holds no files of others, and the
/// commands that it runs inherit none. Called before anything is opened.
fn close_inherited() {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The directory that was just read is among them, and closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// Waits for the end and says whether somebody unmounted the partition.
fn watch(
    service: &Service,
    signals: &Signals,
    notifier: &Notifier,
    reloader: &mut Reloader<'_>,
) -> anyhow::Result<bool> {
    let mut heart = Heart::new();
    loop {
        match signals.wait(service.ended(), heart.left(notifier))? {
            Event::Unmounted => return Ok(true),
            Event::Stop(signal) => {
                tracing::info!(signal, "going down");
                return Ok(false);
            }
            Event::Reload => reloader.reload(service),
            Event::Timeout => heart.beat(notifier, service.store()),
        }
    }
}

/// Feeds the watchdog as long as the store's thread answers: without it no store returns.
struct Heart {
    answered: Arc<AtomicBool>,
    last: Instant,
}

impl Heart {
    fn new() -> Self {
        Self {
            answered: Arc::new(AtomicBool::new(true)),
            last: Instant::now(),
        }
    }

    /// Milliseconds until the next beat, if anybody listens.
    fn left(&self, notifier: &Notifier) -> Option<u64> {
        let left = notifier.watchdog()?.saturating_sub(self.last.elapsed());
        u64::try_from(left.as_millis()).ok()
    }

    fn beat(&mut self, notifier: &Notifier, store: &Store) {
        self.last = Instant::now();
        if self.answered.swap(false, Ordering::AcqRel) {
            notifier.alive();
            let answered = Arc::clone(&self.answered);
            store.submit(Job::Barrier {
                done: Box::new(move |_| answered.store(true, Ordering::Release)),
            });
        }
    }
}

/// SIGHUP: what can change in a program that runs.
struct Reloader<'a> {
    sources: &'a Sources,
    settings: Settings,
    level: &'a LogLevel,
}

impl Reloader<'_> {
    fn reload(&mut self, service: &Service) {
        let loaded = match CATALOGUE.load(self.sources) {
            Ok(loaded) => loaded.settings,
            Err(problems) => {
                tracing::error!(%problems, "the configuration is not read anew: correct it, and send SIGHUP again");
                return;
            }
        };
        let changed = CATALOGUE.changed(&loaded, &self.settings);
        for setting in changed.iter().filter(|setting| !setting.reloads) {
            tracing::warn!(key = setting.key, "changed; it counts after a restart");
        }
        if let Ok(filter) = logging::filter(&loaded.log_level) {
            self.level.set(filter);
        }
        self.settings.log_level.clone_from(&loaded.log_level);
        if self.settings.polls != loaded.polls {
            service.replace_polls(loaded.polls.clone());
            self.settings.polls.clone_from(&loaded.polls);
        }
        self.reload_context(service, &loaded);
        tracing::info!("the configuration was read anew");
    }
}

impl Reloader<'_> {
    /// The directories are read anew even if no setting is another: they are what changes.
    fn reload_context(&mut self, service: &Service, loaded: &Settings) {
        match loaded.run_config().map(|config| config.context) {
            Ok(Some(context)) => service.reload_context(context),
            Ok(None) => {}
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "the context's settings are not read anew: correct them, and send SIGHUP again"
                );
                return;
            }
        }
        // What counts after a restart is compared with what runs.
        let (mount, classes) = (
            self.settings.context.mount.take(),
            std::mem::take(&mut self.settings.context.classes),
        );
        self.settings.context = loaded.context.clone();
        self.settings.context.mount = mount;
        self.settings.context.classes = classes;
    }
}

fn lock_state(state: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("cannot make {}", state.display()))?;
    let path = state.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "{} is in use by another vmkpi-guest: stop it, or choose another --state",
            state.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
