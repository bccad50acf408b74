//! What is known of a command: for `status`, and for a log that says each change once.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use vmkpi::clock::Timestamp;

use super::Poll;
use crate::settings::units::duration;

/// Why a run stored nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It cannot be started.
    Start(String),
    /// It ended with another status than 0, or by a signal; and the first it said to standard error.
    Exit { status: String, said: String },
    /// It was killed at its timeout.
    Timeout(Duration),
    /// The close failed.
    Store(Errno),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(why) => write!(f, "it cannot be started: {why}"),
            Self::Exit { status, said } if said.is_empty() => write!(f, "{status}"),
            Self::Exit { status, said } => write!(f, "{status}: {said}"),
            Self::Timeout(after) => write!(f, "killed after {}", duration(*after)),
            Self::Store(Errno::EINVAL) => {
                f.write_str("what it printed is no CSV (EINVAL); it is among the refused inputs")
            }
            Self::Store(Errno::EFBIG) => {
                f.write_str("it printed more than a store may have (EFBIG); its beginning is among the refused inputs")
            }
            Self::Store(errno) => write!(f, "what it printed was not stored: {errno}"),
        }
    }
}

/// What `status` shows of a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PollStatus {
    /// Where its output goes.
    pub point: String,
    /// The command.
    pub command: Vec<String>,
    /// How often it is run.
    pub interval_ms: u64,
    /// Whether it runs just now.
    pub running: bool,
    /// Runs begun.
    pub runs: u64,
    /// Rows stored.
    pub stored: u64,
    /// Runs that failed, timeouts included.
    pub failures: u64,
    /// Runs killed at their timeout.
    pub timeouts: u64,
    /// Ticks at which the run before was not done yet.
    pub missed: u64,
    /// When the last run began.
    pub last_run: Option<Timestamp>,
    /// How long the last run took that is done.
    pub last_run_ms: Option<u64>,
    /// Why the last run that is done stored nothing.
    pub error: Option<String>,
}

/// A command's status, and what is needed to keep it.
pub(super) struct State {
    pub(super) status: PollStatus,
    /// Whether a run, or the store of its output, is under way.
    pub(super) busy: bool,
    begun: Instant,
    failed: Option<std::mem::Discriminant<Failure>>,
}

impl State {
    pub(super) fn new(poll: Poll) -> Self {
        Self {
            status: PollStatus {
                point: poll.point.to_string(),
                command: poll.command,
                interval_ms: u64::try_from(poll.interval.as_millis()).unwrap_or(u64::MAX),
                ..PollStatus::default()
            },
            busy: false,
            begun: Instant::now(),
            failed: None,
        }
    }

    /// A run begins, after `missed` ticks at which none could.
    pub(super) fn begin(&mut self, missed: u64) {
        self.busy = true;
        self.begun = Instant::now();
        self.status.running = true;
        self.status.runs += 1;
        self.status.missed += missed;
        self.status.last_run = Some(Timestamp::now());
    }

    /// A run has ended: whether it stored a row, or why not.
    pub(super) fn finish(&mut self, result: Result<bool, Failure>) {
        self.busy = false;
        let status = &mut self.status;
        status.running = false;
        status.last_run_ms = u64::try_from(self.begun.elapsed().as_millis()).ok();
        let failed = result.as_ref().err().map(std::mem::discriminant);
        let changed = std::mem::replace(&mut self.failed, failed) != failed;
        status.error = match result {
            Ok(stored) => {
                status.stored += u64::from(stored);
                if changed {
                    tracing::info!(point = status.point, "the poll's command works again");
                }
                None
            }
            Err(failure) => {
                status.failures += 1;
                status.timeouts += u64::from(matches!(failure, Failure::Timeout(_)));
                if changed {
                    tracing::warn!(point = status.point, command = ?status.command, %failure, "a poll fails");
                }
                Some(failure.to_string())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_failures_and_timeouts_are_counted() {
        let poll = Poll {
            point: crate::store::Point {
                area: vmkpi::name::Area::Unencrypted,
                name: std::sync::Arc::new("q".parse().unwrap()),
            },
            command: vec!["x".into()],
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            user: None,
        };
        let mut state = State::new(poll);
        state.begin(0);
        assert!(state.status.running && state.busy);
        state.finish(Err(Failure::Timeout(Duration::from_secs(1))));
        assert_eq!(state.status.error.as_deref(), Some("killed after 1s"));
        state.begin(2);
        state.finish(Ok(true));
        state.begin(0);
        state.finish(Ok(false));
        let PollStatus {
            runs,
            stored,
            failures,
            timeouts,
            missed,
            error,
            ..
        } = state.status;
        assert_eq!((runs, stored, failures, timeouts, missed), (3, 1, 1, 1, 2));
        assert_eq!(error, None);
    }
}
