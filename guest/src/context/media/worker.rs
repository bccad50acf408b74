//! Who works at one drive, in a thread of its own: a drive that hangs holds up nobody.
//!
//! ```text
//!            poked, or time for another try          nothing, no class's, refused, a layer
//! waiting ──────────────────────────────────> looking ─────────────────────────────────────> waiting (until it changes)
//!                                               │ unreadable, or changed while it was read
//!                                               └───────────────────────────────────────────> waiting (and tries again)
//! ```

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use vmkpi::context::Class;
use vmkpi::iso9660::Descriptor;

use super::board::{Board, Outcome};
use super::source::Source;
use super::spool::{Failure, Held, Sector, Spool, held};

/// When a drive that could not be read is tried again; twice as long after each failure.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// But never longer than this.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Why to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poke {
    /// Something happened at the drive.
    Changed,
    /// It is time.
    Routine,
}

/// Who works at a drive.
pub struct Worker<S> {
    /// The drive's name.
    pub drive: String,
    /// This worker's number on the board.
    pub number: u64,
    /// The drive.
    pub source: S,
    /// Where media are copied to.
    pub spool: Spool,
    /// Where it says what it found.
    pub board: Arc<Board>,
}

impl<S: Source> Worker<S> {
    /// Works until nobody pokes any more, or the drive is another's.
    pub fn run(self, pokes: &Receiver<Poke>) {
        let (mut watch, mut retry) = (Watch::default(), Retry::default());
        loop {
            if !self.board.begin(&self.drive, self.number) {
                return;
            }
            let begun = Instant::now();
            let outcome = watch.look(&self.source, &self.spool);
            if !matches!(outcome, Outcome::Same) {
                tracing::debug!(drive = %self.drive, took = ?begun.elapsed(), "the drive has another medium, or none");
            }
            retry.note(matches!(outcome, Outcome::Again { .. }), Instant::now());
            if !self.board.end(&self.drive, self.number, outcome) || !retry.wait(pokes) {
                return;
            }
        }
    }
}

/// When to try again.
#[derive(Default)]
struct Retry {
    failures: u32,
    due: Option<Instant>,
}

impl Retry {
    fn note(&mut self, failed: bool, now: Instant) {
        self.failures = if failed { self.failures + 1 } else { 0 };
        self.due = failed.then(|| now + delay(self.failures));
    }

    /// Waits for a reason to look. False: there is nobody any more.
    fn wait(&self, pokes: &Receiver<Poke>) -> bool {
        loop {
            let poked = match self.due {
                None => pokes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => pokes.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match poked {
                Err(RecvTimeoutError::Disconnected) => return false,
                // What could not be read is not asked more often for being looked after by nobody else.
                Ok(Poke::Routine) if self.due.is_some() => {}
                Ok(_) | Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }
}

/// How long to wait after so many failures.
fn delay(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LAST_RETRY)
}

/// What is known of a drive.
#[derive(Default)]
pub struct Watch {
    /// What it held, and how often it had changed; absent: that is to be found out.
    known: Option<(Option<u64>, Held)>,
}

impl Watch {
    /// Looks, and reads the medium if it is another one.
    pub fn look<S: Source>(&mut self, source: &S, spool: &Spool) -> Outcome {
        let (held, medium) = match held(source) {
            Ok(held) => held,
            Err(error) => {
                self.known = None;
                let problem = format!("cannot read the drive: {error}");
                return Outcome::Again {
                    label: None,
                    problem,
                };
            }
        };
        // Only now: opening the drive makes the kernel count.
        let seen = (source.changes(), held);
        if self.known.as_ref() == Some(&seen) {
            return Outcome::Same;
        }
        let outcome = match (&seen.1, medium) {
            (Held::Medium(sector), Some(medium)) => read(source, (medium, seen.0), spool, sector),
            _ => Outcome::Empty,
        };
        let again = matches!(outcome, Outcome::Again { .. });
        self.known = (!again).then_some(seen);
        outcome
    }
}

/// What a medium with this descriptor is.
fn read<S: Source>(
    source: &S,
    medium: (S::Medium, Option<u64>),
    spool: &Spool,
    sector: &Sector,
) -> Outcome {
    // That of a damaged one too, so that it can be said whose it is.
    let Some(label) = Descriptor::label_of(sector) else {
        return Outcome::Foreign(None);
    };
    let Some(class) = Class::of_label(&label) else {
        return Outcome::Foreign(Some(label));
    };
    match spool.take(source, medium, &class, sector) {
        Ok(taken) => Outcome::Layer {
            label,
            taken: Box::new(taken),
        },
        Err(failure @ Failure::Refused(_)) => Outcome::Refused {
            label,
            problem: failure.to_string(),
        },
        Err(failure @ Failure::Again(_)) => Outcome::Again {
            label: Some(label),
            problem: failure.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn a_drive_that_fails_is_tried_less_and_less_often() {
        let delays: Vec<_> = (1..12).map(|n| delay(n).as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert!(delays.is_sorted() && delays[10] == LAST_RETRY.as_millis());
        assert_eq!(delay(u32::MAX), LAST_RETRY);
    }

    #[test]
    fn a_routine_poke_does_not_hasten_another_try() {
        let (poke, pokes) = sync_channel(1);
        let mut retry = Retry::default();
        retry.note(true, Instant::now());
        poke.send(Poke::Routine).unwrap();
        let begin = Instant::now();
        assert!(retry.wait(&pokes));
        assert!(begin.elapsed() >= FIRST_RETRY - Duration::from_millis(20));
        retry.note(false, Instant::now());
        poke.send(Poke::Routine).unwrap();
        assert!(retry.wait(&pokes), "there is nothing to wait for");
        drop(poke);
        assert!(!retry.wait(&pokes));
    }
}
