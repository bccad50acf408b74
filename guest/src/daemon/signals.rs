//! Signals as something to wait for.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the program waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT.
    Stop(u32),
    /// SIGHUP.
    Reload,
    /// The partition is no longer mounted.
    Unmounted,
    /// None of these in time.
    Timeout,
}

/// The blocked signals.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks them in this thread and in those that it starts.
    ///
    /// # Errors
    /// The kernel has no descriptor for them.
    pub fn block() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for a signal, for `ended` to be rung, or for so many milliseconds.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn wait(&self, ended: BorrowedFd<'_>, timeout_ms: Option<u64>) -> anyhow::Result<Event> {
        let timeout = timeout_ms.map_or(PollTimeout::NONE, |ms| {
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        loop {
            let mut fds = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(ended, PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(Event::Timeout),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).context("cannot wait"),
            }
            if fds[1].any() == Some(true) {
                return Ok(Event::Unmounted);
            }
            if let Some(signal) = self.0.read_signal()? {
                return Ok(match signal.ssi_signo {
                    hangup if hangup == Signal::SIGHUP as u32 => Event::Reload,
                    stop => Event::Stop(stop),
                });
            }
        }
    }
}
