//! `vmkpi demo-keeper`: clears up after a demo that could not do so itself, because it was killed. It
//! reads the process ids of the demo's programs from a pipe; when the pipe closes, the demo is over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::super::Outcome;
use super::clear::clear;

/// How long the demo's programs may take to end after it.
const GRACE: Duration = Duration::from_secs(5);

/// What to clear.
#[derive(clap::Args)]
pub struct Args {
    /// The demo's folder.
    folder: PathBuf,
}

/// The demo's end of the pipe, and its folder.
pub struct Keeper {
    child: Child,
    folder: PathBuf,
}

impl Keeper {
    /// Makes the demo's folder and starts its keeper.
    ///
    /// # Errors
    /// Neither could be had.
    pub fn start(own: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vmkpi-demo-").tempdir()?;
        let child = Command::new(own)
            .arg("demo-keeper")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Signals for the demo are not for its keeper.
            .process_group(0)
            .spawn()
            .context("cannot start the demo's keeper")?;
        Ok(Self {
            child,
            folder: folder.keep(),
        })
    }

    /// Where everything of this demo is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One more program that may not outlive the demo.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn also(&mut self, pid: u32) -> Result<()> {
        let pipe = self
            .child
            .stdin
            .as_mut()
            .context("the demo's keeper is gone")?;
        Ok(writeln!(pipe, "{pid}")?)
    }

    /// Clears the folder, here, where it can be said what went wrong; then lets the keeper go.
    ///
    /// # Errors
    /// Something is left.
    pub fn end(mut self) -> Result<()> {
        let cleared = clear(&self.folder);
        drop(self.child.stdin.take());
        self.child.wait()?;
        cleared
    }
}

/// Waits for the demo's end, then clears what is left of it.
pub fn run(args: &Args) -> Outcome {
    let programs: Vec<OwnedFd> = BufReader::new(std::io::stdin())
        .lines()
        .map_while(std::io::Result::ok)
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect();
    let deadline = Instant::now() + GRACE;
    for program in &programs {
        if !ended(program, deadline.saturating_duration_since(Instant::now())) {
            // It may end right now.
            let _ = pidfd_send_signal(program, Signal::KILL);
            ended(program, GRACE);
        }
    }
    Ok(clear(&args.folder)?)
}

/// Whether the process ended within `limit`.
fn ended(program: &OwnedFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(program, PollFlags::IN)];
    let limit = Timespec::try_from(limit).ok();
    poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0)
}
