//! What the broker has acknowledged lately. A broker that stops may take along what it had
//! acknowledged and not yet delivered; so after a connection broke, the messages of its last moments are
//! sent once more. Whoever has them drops them by their coverage, as QoS 1 asks of everyone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Job;

/// How long before the last acknowledgement a message may have been acknowledged, to be sent again.
const SPAN: Duration = Duration::from_secs(1);
/// How old the last acknowledgement may be when the connection breaks: about what noticing takes.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);
/// The most messages remembered; over it, the oldest goes.
const MAX_MESSAGES: usize = 4096;
/// The same, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// Acknowledged messages with their serial numbers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    messages: VecDeque<(Instant, u64, Job)>,
    bytes: usize,
}

impl Recent {
    /// Remembers a message that was acknowledged at `now`.
    pub(super) fn add(&mut self, now: Instant, serial: u64, job: Job) {
        self.bytes += job.payload.len();
        self.messages.push_back((now, serial, job));
        while self.messages.front().is_some_and(|(at, _, _)| {
            *at + SPAN < now || self.messages.len() > MAX_MESSAGES || self.bytes > MAX_BYTES
        }) {
            if let Some((_, _, job)) = self.messages.pop_front() {
                self.bytes -= job.payload.len();
            }
        }
    }

    /// The connection broke at `now`: what is to be sent again. Nobody waits for its acknowledgement.
    pub(super) fn take(&mut self, now: Instant) -> impl Iterator<Item = (u64, Job)> {
        let last = self.messages.back().map(|(at, _, _)| *at);
        let stale = last.is_none_or(|at| at + NOTICED_WITHIN < now);
        self.bytes = 0;
        let messages = std::mem::take(&mut self.messages);
        messages
            .into_iter()
            .filter(move |_| !stale)
            .map(|(_, serial, job)| {
                let reply = mpsc::unbounded_channel().0;
                (serial, Job { reply, ..job })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::publisher::Properties;
    use crate::delivery::producer::Token;
    use bytes::Bytes;

    fn job(bytes: usize) -> Job {
        Job {
            topic: "t".into(),
            payload: Bytes::from(vec![0; bytes]),
            retain: false,
            properties: Properties::default(),
            lane: 0,
            token: Token(1),
            reply: mpsc::unbounded_channel().0,
        }
    }

    fn serials(recent: &mut Recent, now: Instant) -> Vec<u64> {
        recent.take(now).map(|(serial, _)| serial).collect()
    }

    #[test]
    fn the_last_moments_before_the_last_acknowledgement_are_remembered() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut recent = Recent::default();
        for (serial, ms) in [(1, 0), (2, 900), (3, 1500)] {
            recent.add(at(ms), serial, job(1));
        }
        assert_eq!(
            serials(&mut recent, at(11_000)),
            [2, 3],
            "noticed ten seconds later"
        );
        assert!(serials(&mut recent, at(11_000)).is_empty(), "once");
        recent.add(at(20_000), 4, job(1));
        assert!(
            serials(&mut recent, at(60_000)).is_empty(),
            "delivered long ago"
        );
    }

    #[test]
    fn it_holds_a_bounded_number_of_messages_and_bytes() {
        let now = Instant::now();
        let mut recent = Recent::default();
        for serial in 0..10 {
            recent.add(now, serial, job(MAX_BYTES / 4));
        }
        assert_eq!(serials(&mut recent, now).len(), 4);
        for serial in 0..2 * MAX_MESSAGES as u64 {
            recent.add(now, serial, job(0));
        }
        assert_eq!(serials(&mut recent, now).len(), MAX_MESSAGES);
    }
}
