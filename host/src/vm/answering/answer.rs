//! One answer, from its first page to its last.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use vmkpi::broker::publisher::{Job, Outcome, Properties, Reply};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::Token;
use vmkpi::link::{self, HistoryPage, HistoryPosition, HistoryQuery};
use vmkpi::query::{Answer, Body, MAX_ANSWER_BYTES, MAX_PAGES, Page, Reason};
use vmkpi::seal::SealingKey;
use vmkpi::topic::Branch;

use super::Means;
use super::pages::{room, split};
use crate::consumers::Asked;
use crate::libvirt::State;
use crate::link::HistoryError;

/// How long an answer may take in all.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a link that is down may take to come back: as long as a daemon or a VM that has just come needs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(200);
/// How long saying why there is no answer may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Pages of the guest without a row that are passed over before who asks is told where to go on.
const MAX_EMPTY: usize = 32;

/// What answers one question.
pub(super) struct Answerer {
    means: Means,
    asked: Asked,
    /// What it is sealed to, PEM.
    seal_to: Option<String>,
    topic: String,
    replies: (mpsc::UnboundedSender<Reply>, mpsc::UnboundedReceiver<Reply>),
    /// The number of the next page.
    page: u32,
    /// Where the next page goes on from.
    after: Option<HistoryPosition>,
    rows_left: usize,
    bytes: usize,
}

impl Answerer {
    pub(super) fn new(means: Means, asked: Asked, seal_to: Option<String>) -> Self {
        Self {
            topic: asked.subject.topic(Branch::Answer),
            after: asked.question.after,
            rows_left: asked.question.limit as usize,
            means,
            asked,
            seal_to,
            replies: mpsc::unbounded_channel(),
            page: 0,
            bytes: 0,
        }
    }

    /// Answers.
    pub(super) async fn run(mut self) {
        let outcome = timeout(DEADLINE, self.answer()).await;
        match outcome.unwrap_or(Err(Reason::TimedOut)) {
            Ok(()) => self.means.consumers.status.questions.answer(),
            Err(reason) => self.refuse(reason).await,
        }
    }

    /// Says why there is no answer, or no more of it.
    pub(super) async fn refuse(mut self, reason: Reason) {
        self.means.consumers.status.questions.fail(reason);
        // Who has not got the VM, or not yet, leaves the word to the host that has.
        if reason == Reason::Unreachable && !self.is_here() {
            return;
        }
        let _ = timeout(LAST_WORDS, self.publish(Body::Failed(reason), 0)).await;
    }

    fn is_here(&self) -> bool {
        let spec = self.means.follow.borrow();
        !spec.leaving && spec.domain.state == State::Running
    }

    async fn answer(&mut self) -> Result<(), Reason> {
        let key = self.seal_to.as_deref().map(SealingKey::fast_from_pem);
        let key = key.transpose().map_err(|error| {
            tracing::error!(%error, "an answer cannot be sealed, and so there is none");
            Reason::Unsealed
        })?;
        let (mut place, mut empty) = (self.after, 0);
        loop {
            let found = self.fetch(place).await?;
            if found.unknown && found.next.is_none() && self.asked.question.after.is_none() {
                return Err(Reason::UnknownPoint);
            }
            place = found.next;
            empty += usize::from(found.rows.is_empty());
            self.rows_left = self.rows_left.saturating_sub(found.rows.len());
            let ended = place.is_none() || self.rows_left == 0 || empty > MAX_EMPTY;
            if found.rows.is_empty() && found.trimmed.is_none() && !ended {
                continue;
            }
            if self.publish_all(&found, key.as_ref(), ended).await? {
                return Ok(());
            }
        }
    }

    /// Publishes what a guest's page comes to; `ended`: the answer ends with it. Whether it has.
    async fn publish_all(
        &mut self,
        found: &HistoryPage,
        key: Option<&SealingKey>,
        ended: bool,
    ) -> Result<bool, Reason> {
        let pages = split(found, self.after, room(key.is_some()));
        let count = pages.len();
        for (n, page) in pages.into_iter().enumerate() {
            let full = self.bytes >= MAX_ANSWER_BYTES || self.page + 1 >= MAX_PAGES;
            let last = full || (ended && n + 1 == count);
            self.after = page.next;
            let (rows, body) = (page.samples.len(), Body::Page(Page { last, ..page }));
            let body = self.seal(body, key)?;
            self.publish(body, rows).await?;
            if last {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn seal(&self, body: Body, key: Option<&SealingKey>) -> Result<Body, Reason> {
        let Some(key) = key else {
            return Ok(body);
        };
        let sealed = self.message(body).seal(&self.asked.subject.vm, key);
        sealed.map(|answer| answer.body).map_err(|error| {
            tracing::error!(%error, "an answer cannot be sealed, and so there is none");
            Reason::Unsealed
        })
    }

    fn message(&self, body: Body) -> Answer {
        Answer {
            id: self.asked.question.id,
            page: self.page,
            body,
        }
    }

    /// Publishes the next page, and waits until the broker has it.
    async fn publish(&mut self, body: Body, rows: usize) -> Result<(), Reason> {
        let now = Timestamp::now().as_micros().unsigned_abs();
        let signer = self.means.signer.borrow().clone();
        let payload = self
            .message(body)
            .encode(&self.asked.subject, now, signer.as_deref());
        let bytes = payload.len();
        let job = Job {
            topic: self.topic.clone(),
            payload: Bytes::from(payload),
            retain: false,
            properties: Properties {
                payload_format_indicator: Some(1),
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
            lane: 0,
            token: Token(u64::from(self.page)),
            reply: self.replies.0.clone(),
        };
        self.page += 1;
        self.bytes += bytes;
        let sent = self.means.publisher.jobs.send(job).await;
        sent.map_err(|_| Reason::Failed)?;
        match self.replies.1.recv().await.map(|reply| reply.outcome) {
            Some(Outcome::Acknowledged) => {
                let questions = &self.means.consumers.status.questions;
                questions.page(rows, bytes);
                Ok(())
            }
            // The publisher has said why; who asks hears nothing, and asks again.
            Some(Outcome::Refused | Outcome::Deferred(_)) | None => Err(Reason::Failed),
        }
    }

    /// A page of the guest's from `after` on. A link that is down is waited for a little.
    async fn fetch(&self, after: Option<HistoryPosition>) -> Result<HistoryPage, Reason> {
        let question = &self.asked.question;
        let (from, to) = question.span();
        let query = HistoryQuery {
            point: question.point.clone(),
            from,
            to,
            after,
            limit: self.rows_left.clamp(1, link::MAX_ROWS),
        };
        let begun = Instant::now();
        loop {
            let error = match self.means.history.page(query.clone()).await {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            let passes = matches!(error, HistoryError::NoLink | HistoryError::Busy);
            if !passes || begun.elapsed() > PATIENCE {
                tracing::debug!(vm = %self.asked.subject.vm, %error, "a question for history cannot be answered");
                return Err(reason(&error));
            }
            sleep(LOOK).await;
        }
    }
}

fn reason(error: &HistoryError) -> Reason {
    match error {
        HistoryError::NoLink => Reason::Unreachable,
        HistoryError::Busy => Reason::Busy,
        HistoryError::TimedOut => Reason::TimedOut,
        HistoryError::Failed(_) | HistoryError::Impossible => Reason::Failed,
    }
}
