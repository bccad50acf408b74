//! The whole program from start to signal. Each step undoes nothing: what a start that fails leaves
//! behind, the next start finds and takes over.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use crate::config::RunConfig;
use crate::counters::Counters;
use crate::feed::Feed;
use crate::fs::Partition;
use crate::fuse::Adapter;
use crate::link::Link;
use crate::mount;
use crate::status::{Control, Live};
use crate::store::{Opened, Store};

/// How long the end waits for the kernel to let go of the partition after everything is on disk.
const FAREWELL: Duration = Duration::from_millis(500);

/// Runs until SIGTERM, SIGINT or an unmount.
///
/// # Errors
/// The state directory is in use or cannot be made, a database cannot be opened, the link's socket
/// cannot be made, or the mount is refused.
pub fn run(config: &RunConfig) -> anyhow::Result<()> {
    // Before any thread starts, so that all of them inherit it.
    let signals = block_signals()?;
    umask(Mode::from_bits_truncate(0o077));
    let _lock = lock_state(&config.state)?;
    mount::take_over(&config.mount)?;
    let counters = Arc::new(Counters::default());
    let feed = Arc::new(Feed::new()?);
    let opened = Store::open(
        &config.state,
        config.limits,
        Arc::clone(&counters),
        Arc::clone(&feed),
    )?;
    let Opened {
        store,
        files,
        set_aside,
    } = opened;
    if !set_aside.is_empty() {
        tracing::warn!(
            ?set_aside,
            "databases that were set aside as corrupt are still there"
        );
    }
    let partition = Partition::new(store.clone(), files, config.limits);
    let mut link = Link::start(&config.link, store.clone(), feed, Arc::clone(&counters))?;
    let adapter = |everyone| {
        Adapter::new(
            partition.clone(),
            Arc::clone(&counters),
            config.access,
            everyone,
        )
    };
    let session = match mount::mount(&config.mount, config.allow_other, adapter) {
        Ok(session) => session,
        Err(error) => {
            link.stop();
            store.close();
            return Err(error);
        }
    };
    let notifier = session.notifier();
    partition.watch(Box::new(move |ino| {
        // -1: no pages, whose locks could wait for us. The kernel may have forgotten the file already.
        let _ = notifier.inval_inode(fuser::INodeNo(ino), -1, 0);
    }));
    let ended = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?);
    serve(session, Arc::clone(&ended))?;
    let link = Arc::new(std::sync::Mutex::new(link));
    let live = Live::new(config, counters, partition, Arc::clone(&link));
    let control = Control::start(&config.state, live);
    tracing::info!(mount = %config.mount.display(), link = %config.link, "the partition is mounted");
    let unmounted = wait(&signals, &ended)?;
    if unmounted {
        tracing::warn!("the partition was unmounted from outside");
    } else if let Err(error) = mount::detach(&config.mount) {
        tracing::error!(
            error = format!("{error:#}"),
            "the partition cannot be unmounted"
        );
    }
    link.lock().unwrap_or_else(PoisonError::into_inner).stop();
    store.close();
    control.stop();
    say_farewell(&ended);
    Ok(())
}

fn block_signals() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?)
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

/// Answers the kernel on a thread of its own and rings `ended` when there is no more to answer.
fn serve(session: fuser::Session<Adapter>, ended: Arc<EventFd>) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("fuse".into())
        .spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the kernel's requests cannot be read");
            }
            let _ = ended.write(1);
        })?;
    Ok(())
}

/// Waits for a signal or for the end of the mount; says whether it was the latter.
fn wait(signals: &SignalFd, ended: &EventFd) -> anyhow::Result<bool> {
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno).context("cannot wait"),
        }
        if fds[1].any() == Some(true) {
            return Ok(true);
        }
        if let Some(signal) = signals.read_signal()? {
            tracing::info!(signal = signal.ssi_signo, "going down");
            return Ok(false);
        }
    }
}

/// Replies that are on their way are given a moment; files that stay open are not waited for.
fn say_farewell(ended: &EventFd) {
    let until = Instant::now() + FAREWELL;
    let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    let left = until.saturating_duration_since(Instant::now());
    let _ = poll(
        &mut fds,
        PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
    );
}
