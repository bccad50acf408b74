//! What ends a program that would run for ever: a signal from its user, or the time it was given.

use std::future::pending;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, getppid};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Between two looks whether the parent is still there.
const LOOK: Duration = Duration::from_millis(250);

/// Waits for SIGINT, SIGTERM and SIGHUP, from the moment it is made.
pub struct Stop {
    signals: [Signal; 3],
    deadline: Option<tokio::time::Instant>,
    /// The process that started this one, if its end ends this one too.
    parent: Option<Pid>,
}

impl Stop {
    /// Ends at a signal, or after `seconds`.
    ///
    /// # Errors
    /// The signals cannot be waited for.
    pub fn new(seconds: Option<f64>) -> io::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        let mut stop = Self {
            signals: [interrupt?, terminate?, hangup?],
            deadline: None,
            parent: None,
        };
        stop.after(seconds);
        Ok(stop)
    }

    /// From now on also ends when the process that started this one has ended.
    pub fn with_parent(&mut self) {
        self.parent = getppid();
    }

    /// From now on also ends after `seconds`.
    pub fn after(&mut self, seconds: Option<f64>) {
        self.deadline = seconds
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
            .and_then(|after| tokio::time::Instant::now().checked_add(after));
    }

    /// Returns when it is time to end. Cancel-safe.
    pub async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        let parent = self.parent;
        let orphaned = async move {
            // Whose parent has ended gets another one (getppid(2)).
            while parent.is_none() || getppid() == parent {
                tokio::time::sleep(LOOK).await;
            }
        };
        let at = self.deadline;
        let deadline = async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = orphaned => {}
            () = deadline => {}
        }
    }
}

/// A number of seconds on the command line.
///
/// # Errors
/// Not a number above 0.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err("a number of seconds above 0 is needed".into()),
    }
}
