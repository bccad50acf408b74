//! The writer: takes a job, drains what waits, commits it in one transaction for each database, and
//! tells everyone. Waiting for a fuller batch has lost whenever it was measured: the next batch fills
//! itself while this one syncs.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use vmkpi::link::TableId;
use vmkpi::name::{Area, DataPoint, KpiName};
use vmkpi::position::StreamId;

use super::database::{Database, Outcome};
use super::{AckOutcome, Job, StoreError, mint, peer};
use crate::counters::Counters;
use crate::feed::Feed;

/// Jobs in one transaction at the most, so that the first of a flood does not wait for the last.
const MAX_BATCH: usize = 256;

/// The thread that owns the databases.
pub struct Writer {
    databases: Vec<Database>,
    queue: Receiver<Job>,
    counters: Arc<Counters>,
    feed: Arc<Feed>,
    stream: Arc<Mutex<StreamId>>,
}

impl Writer {
    /// A writer for both databases.
    pub fn new(
        databases: Vec<Database>,
        queue: Receiver<Job>,
        counters: Arc<Counters>,
        feed: Arc<Feed>,
        stream: Arc<Mutex<StreamId>>,
    ) -> Self {
        Self {
            databases,
            queue,
            counters,
            feed,
            stream,
        }
    }

    /// Works until [`Job::Close`], or until nobody can submit any more.
    pub fn run(mut self) {
        while let Ok(first) = self.queue.recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(next) = self.queue.try_recv()
            {
                batch.push(next);
            }
            if !self.work(batch) {
                break;
            }
        }
        // Whatever was submitted after the end is told so; later submissions find the queue gone.
        while let Ok(late) = self.queue.try_recv() {
            late.fail(&StoreError::Closed);
        }
    }

    /// Does a batch; says whether to go on.
    fn work(&mut self, batch: Vec<Job>) -> bool {
        let mut rows: Vec<Vec<Job>> = self.databases.iter().map(|_| Vec::new()).collect();
        let mut others = Vec::new();
        let mut closing = false;
        for job in batch {
            let place = area_of(&job).and_then(|a| self.databases.iter().position(|d| d.area == a));
            match (place, job) {
                (_, Job::Close) => closing = true,
                (Some(place), job) => rows[place].push(job),
                (None, job) => others.push(job),
            }
        }
        for (place, jobs) in rows.into_iter().enumerate() {
            if !jobs.is_empty() {
                self.commit(place, jobs);
            }
        }
        for job in others {
            self.answer(job);
        }
        !closing
    }

    fn commit(&mut self, place: usize, jobs: Vec<Job>) {
        let db = &mut self.databases[place];
        match db.run(&jobs) {
            Ok(outcomes) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                if self.feed.is_watched() {
                    self.feed
                        .committed(db.ends(jobs.iter().filter_map(stored_name)));
                }
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    self.finish(job, outcome);
                }
            }
            Err(failure) if failure.alone && jobs.len() > 1 => {
                for job in jobs {
                    self.commit(place, vec![job]);
                }
            }
            Err(failure) => {
                self.counters.failed_commits.fetch_add(1, Ordering::Relaxed);
                if matches!(failure.error, StoreError::Failed { .. }) {
                    tracing::error!(error = %failure.error, jobs = jobs.len(), "a commit failed");
                } else {
                    tracing::warn!(error = %failure.error, jobs = jobs.len(), "a commit failed");
                }
                for job in jobs {
                    job.fail(&failure.error);
                }
            }
        }
    }

    fn finish(&mut self, job: Job, outcome: Result<Outcome, StoreError>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return job.fail(&error),
        };
        match (job, outcome) {
            (Job::Store { done, .. } | Job::Rename { done, .. }, Outcome::Stored(stored)) => {
                self.counters.stores.fetch_add(1, Ordering::Relaxed);
                done(Ok(stored));
            }
            (Job::Remove { done, .. }, Outcome::Content(bytes)) => done(Ok(bytes)),
            (Job::Mode { done, .. }, Outcome::Changed) => done(Ok(())),
            (Job::Refuse { done, .. }, Outcome::Refused(id)) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                done(Ok(id));
            }
            (Job::Ack { done, .. }, Outcome::Ack(outcome)) => done(Ok(outcome)),
            (Job::Ack { table, done, .. }, Outcome::Refuted) => {
                done(self.mint_for(&table).map(AckOutcome::Minted));
            }
            (job, _) => job.fail(&StoreError::Closed),
        }
    }

    fn mint_for(&mut self, table: &TableId) -> Result<String, StoreError> {
        let reason = format!(
            "a row of {} was acknowledged that is not in this store",
            table.point
        );
        let stream = mint::mint(&mut self.databases)?;
        tracing::warn!(%stream, reason, "a new stream is begun");
        self.note_stream();
        Ok(reason)
    }

    fn note_stream(&self) {
        if let Some(db) = self.databases.first() {
            *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = db.stream;
        }
    }

    fn answer(&mut self, job: Job) {
        match job {
            Job::Hello { claim, done } => {
                let answer = peer::hello(&mut self.databases, &claim);
                self.note_stream();
                done(answer);
            }
            Job::Tables { done } => done(peer::inventory(&self.databases)),
            Job::Marks { tables, done } => done(peer::marks(&mut self.databases, &tables)),
            Job::Barrier { done } => done(Ok(())),
            Job::Ack { done, .. } => done(Ok(AckOutcome::Ignored)),
            other => other.fail(&StoreError::Closed),
        }
    }
}

/// The database whose transaction a job belongs in.
fn area_of(job: &Job) -> Option<Area> {
    match job {
        Job::Store { point, .. }
        | Job::Remove { point, .. }
        | Job::Mode { point, .. }
        | Job::Refuse { point, .. } => Some(point.area),
        Job::Rename { to, .. } => Some(to.area),
        Job::Ack { table, .. } => match &table.point {
            DataPoint::Kpi(area, _) => Some(*area),
            DataPoint::Infra(..) => None,
        },
        _ => None,
    }
}

/// The table that a job adds a row to.
fn stored_name(job: &Job) -> Option<&Arc<KpiName>> {
    match job {
        Job::Store { point, .. } => Some(&point.name),
        Job::Rename { to, .. } => Some(&to.name),
        _ => None,
    }
}
