//! The parts of a program that runs, from start to stop.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::config::RunConfig;
use crate::context::guidance::Guide;
use crate::context::{Context, ContextConfig};
use crate::counters::Counters;
use crate::feed::Feed;
use crate::fs::Partition;
use crate::fuse::Adapter;
use crate::link::Link;
use crate::mount;
use crate::poller::{Poll, Poller};
use crate::status::{Control, Live};
use crate::store::{Opened, Store};

/// How long the end waits for the kernel to let go of the partition after everything is on disk.
const FAREWELL: Duration = Duration::from_millis(500);

/// Everything that runs.
pub struct Service {
    mount: PathBuf,
    store: Store,
    partition: Partition,
    link: Arc<Mutex<Link>>,
    poller: Arc<Mutex<Poller>>,
    context: Option<Arc<Context>>,
    control: Control,
    /// Rung when the kernel has no more requests.
    ended: Arc<EventFd>,
}

impl Service {
    /// Opens the store, the link and the mount, and runs the commands.
    ///
    /// # Errors
    /// One of them refuses; those before it are closed again.
    pub fn start(config: &RunConfig) -> anyhow::Result<Self> {
        mount::take_over(&config.mount)?;
        let counters = Arc::new(Counters::default());
        let feed = Arc::new(Feed::new()?);
        // What the context says that the program itself goes by.
        let guide = Arc::new(Guide::new()?);
        let (store, partition) = open_store(config, &counters, &feed)?;
        let mut link = Link::start(
            config.link.clone(),
            store.clone(),
            feed,
            Arc::clone(&counters),
            Arc::clone(&guide),
        )?;
        let ended = match serve(config, &partition, &counters) {
            Ok(ended) => ended,
            Err(error) => {
                link.stop();
                store.close();
                return Err(error);
            }
        };
        let context = match start_context(config, guide) {
            Ok(context) => context,
            Err(error) => {
                link.stop();
                store.close();
                return Err(error);
            }
        };
        let link = Arc::new(Mutex::new(link));
        let poller = Poller::start(config.polls.clone(), partition.clone())?;
        let poller = Arc::new(Mutex::new(poller));
        let live = Live::new(
            config,
            counters,
            partition.clone(),
            Arc::clone(&link),
            Arc::clone(&poller),
            context.clone(),
        );
        let control = Control::start(&config.state, live);
        tracing::info!(mount = %config.mount.display(), link = %config.link.url, "the partition is mounted");
        Ok(Self {
            mount: config.mount.clone(),
            store,
            partition,
            link,
            poller,
            context,
            control,
            ended,
        })
    }

    /// Readable when the partition is no longer mounted.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Kills the commands that run, and runs these from now on.
    pub fn replace_polls(&self, polls: Vec<Poll>) {
        let mut poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        poller.stop();
        match Poller::start(polls, self.partition.clone()) {
            Ok(started) => *poller = started,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "no command is run any more");
            }
        }
    }

    /// Reads the context's directories anew, under these settings.
    pub fn reload_context(&self, config: ContextConfig) {
        if let Some(context) = &self.context {
            context.reload(config);
        }
    }

    /// Lets go of everything, in the order in which nothing is lost: first nobody writes any more, then
    /// what was written is on disk.
    pub fn stop(self, unmounted: bool) {
        self.poller
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop();
        if let Some(context) = &self.context {
            context.stop();
        }
        if unmounted {
            tracing::warn!("the partition was unmounted from outside");
        } else if let Err(error) = mount::detach(&self.mount) {
            let error = format!("{error:#}");
            tracing::error!(error, "the partition cannot be unmounted");
        }
        self.link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop();
        self.store.close();
        self.control.stop();
        say_farewell(&self.ended);
    }
}

/// Mounts the context partition, if there is to be one.
fn start_context(config: &RunConfig, guide: Arc<Guide>) -> anyhow::Result<Option<Arc<Context>>> {
    let Some(context) = &config.context else {
        return Ok(None);
    };
    let started = Context::start(context, &config.state, config.allow_other, guide)?;
    tracing::info!(mount = %context.mount.display(), "the context partition is mounted");
    Ok(Some(Arc::new(started)))
}

fn open_store(
    config: &RunConfig,
    counters: &Arc<Counters>,
    feed: &Arc<Feed>,
) -> anyhow::Result<(Store, Partition)> {
    let Opened {
        store,
        files,
        set_aside,
    } = Store::open(
        &config.state,
        config.limits,
        Arc::clone(counters),
        Arc::clone(feed),
    )?;
    if !set_aside.is_empty() {
        tracing::warn!(
            ?set_aside,
            "databases that were set aside as corrupt are still there"
        );
    }
    let partition = Partition::new(store.clone(), files, config.limits)
        .with_primary_key(config.primary_key.clone());
    Ok((store, partition))
}

/// Mounts, and answers the kernel on a thread of its own, which rings the bell that is returned when there
/// is no more to answer.
fn serve(
    config: &RunConfig,
    partition: &Partition,
    counters: &Arc<Counters>,
) -> anyhow::Result<Arc<EventFd>> {
    let adapter = |everyone| {
        Adapter::new(
            partition.clone(),
            Arc::clone(counters),
            config.access,
            everyone,
        )
    };
    let session = mount::mount(&config.mount, config.allow_other, adapter)?;
    let notifier = session.notifier();
    partition.watch(Box::new(move |ino| {
        // -1: no pages, whose locks could wait for us. The kernel may have forgotten the file already.
        let _ = notifier.inval_inode(fuser::INodeNo(ino), -1, 0);
    }));
    let ended = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?);
    let bell = Arc::clone(&ended);
    std::thread::Builder::new()
        .name("fuse".into())
        .spawn(move || {
            if let Err(error) = session.run()
                && !is_end(&error)
            {
                tracing::error!(%error, "the kernel's requests cannot be read");
            }
            let _ = bell.write(1);
        })?;
    Ok(ended)
}

/// A request that is being read while the mount goes ends with this instead of ENODEV.
fn is_end(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ECONNABORTED as i32)
}

/// Replies that are on their way are given a moment; files that stay open are not waited for.
fn say_farewell(ended: &EventFd) {
    let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(FAREWELL).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut fds, timeout);
}
