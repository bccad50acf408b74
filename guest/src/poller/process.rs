//! One run of a command: a process group of its own, two pipes, a deadline.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::Poll;
use super::state::Failure;

/// Where commands without a slash are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of standard error is kept; the rest is read and dropped.
const SAID_BYTES: usize = 512;

/// How often a command that has closed its output is looked after.
const EXIT_CHECK: Duration = Duration::from_millis(20);

/// How long a command that was killed may take to end.
const REAP: Duration = Duration::from_secs(1);

/// Bytes read of one pipe in one step, so that a flood starves no other command.
const READ_BYTES: usize = 256 << 10;

/// A process and what it has printed so far.
pub(super) struct Running {
    child: Child,
    group: Pid,
    deadline: Instant,
    timeout: Duration,
    output: Pipe,
    said: Pipe,
}

/// One end of a pipe, until it ends.
#[derive(Default)]
struct Pipe {
    end: Option<Box<dyn ReadEnd>>,
    bytes: Vec<u8>,
}

trait ReadEnd: Read + AsFd + Send {}
impl<T: Read + AsFd + Send> ReadEnd for T {}

/// How a run goes on.
pub(super) enum Step {
    /// It runs.
    Goes,
    /// It has ended: what it printed, or why that does not count.
    Ended(Result<Vec<u8>, Failure>),
}

impl Running {
    /// Starts the command: no shell, no input, the least of an environment, none of our descriptors or
    /// blocked signals (all that is opened is close-on-exec, and std starts children with an empty mask).
    pub(super) fn start(poll: &Poll, now: Instant) -> Result<Self, Failure> {
        let account = poll
            .account()
            .map_err(|e| Failure::Start(format!("{e:#}")))?;
        let mut command = Command::new(&poll.command[0]);
        command
            .args(&poll.command[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("VMKPI_POINT", poll.point.to_string())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = account {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command
            .spawn()
            .map_err(|error| Failure::Start(format!("{}: {error}", poll.command[0])))?;
        let pipes = (
            child.stdout.take().map(Pipe::new),
            child.stderr.take().map(Pipe::new),
        );
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        Ok(Self {
            child,
            group,
            deadline: now + poll.timeout,
            timeout: poll.timeout,
            output: pipes.0.unwrap_or_default(),
            said: pipes.1.unwrap_or_default(),
        })
    }

    /// The pipes that are still open.
    pub(super) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.output, &self.said]
            .into_iter()
            .filter_map(|pipe| pipe.end.as_ref().map(|end| end.as_fd()))
    }

    /// When it is to be looked after, whatever its pipes say.
    pub(super) fn wake(&self) -> Instant {
        match self.pipes().next() {
            Some(_) => self.deadline,
            None => self.deadline.min(Instant::now() + EXIT_CHECK),
        }
    }

    /// Takes what there is to read, and sees whether the command is done: when both its pipes and the
    /// process have ended, or it has to be killed.
    pub(super) fn step(&mut self, now: Instant, limit: usize) -> Step {
        // One byte over the limit tells that there is more.
        self.output.take(limit + 1);
        self.said.take(SAID_BYTES);
        if self.output.bytes.len() > limit {
            self.end();
            // The store refuses it, and keeps its beginning to be looked at.
            return Step::Ended(Ok(std::mem::take(&mut self.output.bytes)));
        }
        if self.pipes().next().is_none() && self.exited() {
            let status = self.end();
            return Step::Ended(self.result(status));
        }
        if now >= self.deadline {
            self.end();
            return Step::Ended(Err(Failure::Timeout(self.timeout)));
        }
        Step::Goes
    }

    /// Kills it at once.
    pub(super) fn kill(mut self) {
        self.end();
    }

    /// Whether the process has ended, without reaping it: its number stays its own until the group is
    /// killed.
    fn exited(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(
            waitid(Id::Pid(self.group), flags),
            Ok(WaitStatus::StillAlive)
        )
    }

    /// Kills what is left of the group, and reaps the process. One that the kernel does not let go of (it
    /// waits for a device or a network file system) is left behind: the other commands go on.
    fn end(&mut self) -> Option<ExitStatus> {
        let _ = killpg(self.group, Signal::SIGKILL);
        let until = Instant::now() + REAP;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) => {
                    tracing::warn!(
                        pid = self.child.id(),
                        "a poll's command was killed and does not end"
                    );
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    fn result(&mut self, status: Option<ExitStatus>) -> Result<Vec<u8>, Failure> {
        let status = match status {
            Some(status) if status.success() => return Ok(std::mem::take(&mut self.output.bytes)),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
            },
            None => "it ended in an unknown way".into(),
        };
        let said = String::from_utf8_lossy(&self.said.bytes);
        let said = said.lines().find(|line| !line.trim().is_empty());
        Err(Failure::Exit {
            status,
            said: said.unwrap_or_default().trim().escape_debug().to_string(),
        })
    }
}

impl Pipe {
    fn new(end: impl ReadEnd + 'static) -> Self {
        // A pipe that would block is read no further than it has to be.
        let _ = fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Self {
            end: Some(Box::new(end)),
            bytes: Vec::new(),
        }
    }

    /// Reads what there is; keeps the first `keep` bytes.
    fn take(&mut self, keep: usize) {
        let mut buffer = [0; 4096];
        let mut read = 0;
        while let Some(end) = &mut self.end
            && read < READ_BYTES
        {
            match end.read(&mut buffer) {
                Ok(0) => self.end = None,
                Ok(n) => {
                    read += n;
                    let room = keep.saturating_sub(self.bytes.len()).min(n);
                    self.bytes.extend_from_slice(&buffer[..room]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.end = None,
            }
        }
    }
}
