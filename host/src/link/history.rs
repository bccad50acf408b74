//! Asking a guest for rows of an earlier time: a page at a time, with a deadline, beside live rows. Whoever asks
//! goes on with the page's `next`, so nothing piles up here, and a guest that leads in circles costs its asker's
//! patience and nobody else's.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vmkpi::link::{HistoryPage, HistoryQuery, HostMessage};
use vmkpi::position::Nonce;

/// Questions to one guest at a time.
const MAX_WAITING: usize = 8;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Ids begin here: those of the producer's own questions stay below.
const FIRST_ID: u64 = 1 << 48;

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The VM has no link now, or it broke. Ask again when it has one.
    #[error("the VM's link is down: ask again when it is up")]
    NoLink,
    /// Too many are asking.
    #[error("the VM is asked for {MAX_WAITING} pages already: ask again when one has come")]
    Busy,
    /// No answer in time.
    #[error("the guest has not answered within {} s", DEADLINE.as_secs())]
    TimedOut,
    /// The guest cannot answer.
    #[error("the guest cannot answer: {0}")]
    Failed(String),
    /// The answer is none to the question.
    #[error("the guest's answer is none to the question")]
    Impossible,
}

/// A question, and where the answer goes.
#[derive(Debug)]
pub struct Ask {
    query: HistoryQuery,
    reply: oneshot::Sender<Result<HistoryPage, HistoryError>>,
}

/// Asks one VM. Clones ask the same.
#[derive(Clone, Debug)]
pub struct HistoryClient(mpsc::Sender<Ask>);

impl HistoryClient {
    /// A client, and what it asks.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(MAX_WAITING);
        (Self(asks), asked)
    }

    /// One page. Go on with `query.after` set to the page's `next`, until there is none; a page without rows may
    /// have a `next`. Rows that were moved when the guest began a new stream may come again, with the same key.
    ///
    /// # Errors
    /// See [`HistoryError`]. None of them loses the place: the same query may be asked again.
    pub async fn page(&self, query: HistoryQuery) -> Result<HistoryPage, HistoryError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { query, reply };
        self.0.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => HistoryError::Busy,
            mpsc::error::TrySendError::Closed(_) => HistoryError::NoLink,
        })?;
        answer.await.unwrap_or(Err(HistoryError::NoLink))
    }
}

/// What a VM's guest was asked and has not answered yet.
#[derive(Debug)]
pub struct Histories {
    waiting: BTreeMap<u64, (Ask, Instant)>,
    next_id: u64,
}

impl Default for Histories {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_id: FIRST_ID,
        }
    }
}

impl Histories {
    /// Takes a question; returns the line for the guest, if it is asked. `session` is there when the guest has
    /// answered its `hello`.
    pub fn ask(&mut self, ask: Ask, session: Option<Nonce>, now: Instant) -> Option<HostMessage> {
        let refusal = match session {
            None => HistoryError::NoLink,
            Some(_) if self.waiting.len() >= MAX_WAITING => HistoryError::Busy,
            Some(nonce) => {
                let (id, query) = (self.next_id, ask.query.clone());
                self.next_id += 1;
                self.waiting.insert(id, (ask, now));
                return Some(HostMessage::History { nonce, id, query });
            }
        };
        // Whoever asked may have gone, here and below.
        let _ = ask.reply.send(Err(refusal));
        None
    }

    /// Takes an answer. Whether it can be one; one that came too late is.
    pub fn answered(&mut self, page: HistoryPage) -> bool {
        let Some((ask, _)) = self.waiting.remove(&page.id) else {
            return (FIRST_ID..self.next_id).contains(&page.id);
        };
        let possible = ask.query.admits(&page);
        let answer = if possible {
            Ok(page)
        } else {
            Err(HistoryError::Impossible)
        };
        let _ = ask.reply.send(answer);
        possible
    }

    /// The guest cannot answer.
    pub fn failed(&mut self, id: u64, reason: &str) {
        if let Some((ask, _)) = self.waiting.remove(&id) {
            let reason = reason.chars().take(200).collect();
            let _ = ask.reply.send(Err(HistoryError::Failed(reason)));
        }
    }

    /// The session is over.
    pub fn disconnected(&mut self) {
        for (_, (ask, _)) in std::mem::take(&mut self.waiting) {
            let _ = ask.reply.send(Err(HistoryError::NoLink));
        }
    }

    /// Gives up what has waited too long. Call it about each second.
    pub fn expire(&mut self, now: Instant) {
        let late = |(_, asked): &mut (Ask, Instant)| now.duration_since(*asked) >= DEADLINE;
        let late: Vec<_> = self
            .waiting
            .extract_if(.., |_, waiting| late(waiting))
            .collect();
        for (_, (ask, _)) in late {
            let _ = ask.reply.send(Err(HistoryError::TimedOut));
        }
    }
}
