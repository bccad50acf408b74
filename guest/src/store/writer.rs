//! The writer: commits a batch in one transaction for each database and tells everyone. Waiting for a
//! fuller batch has lost whenever it was measured.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use vmkpi::link::TableId;
use vmkpi::name::{Area, DataPoint, KpiName};
use vmkpi::position::StreamId;

use super::database::{Database, Outcome};
use super::{AckOutcome, Job, StoreError, mint, peer};
use crate::counters::Counters;
use crate::feed::Feed;

/// Whether a batch waits for a database that another program has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: its jobs are given back.
    None,
    /// As long as the busy time-out; then its jobs fail.
    Full,
}

/// What owns the databases.
pub struct Writer {
    databases: Vec<Database>,
    counters: Arc<Counters>,
    feed: Arc<Feed>,
    stream: Arc<Mutex<StreamId>>,
    closed: bool,
}

impl Writer {
    /// A writer for both databases.
    pub fn new(
        databases: Vec<Database>,
        counters: Arc<Counters>,
        feed: Arc<Feed>,
        stream: Arc<Mutex<StreamId>>,
    ) -> Self {
        Self {
            databases,
            counters,
            feed,
            stream,
            closed: false,
        }
    }

    /// Whether [`Job::Close`] was done.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Does a batch. What is not done comes back: without patience, jobs of a locked database and
    /// those that are not about rows, which may take long.
    pub fn work(&mut self, batch: Vec<Job>, patience: Patience) -> Vec<Job> {
        let mut rows: Vec<Vec<Job>> = self.databases.iter().map(|_| Vec::new()).collect();
        let mut others = Vec::new();
        for job in batch {
            let place = area_of(&job).and_then(|a| self.databases.iter().position(|d| d.area == a));
            match place {
                Some(place) => rows[place].push(job),
                None => others.push(job),
            }
        }
        let mut left = Vec::new();
        for (place, jobs) in rows.into_iter().enumerate() {
            if !jobs.is_empty() {
                left.extend(self.commit(place, jobs, patience));
            }
        }
        if patience == Patience::None {
            left.extend(others);
            return left;
        }
        for job in others {
            self.answer(job);
        }
        left
    }

    fn commit(&mut self, place: usize, jobs: Vec<Job>, patience: Patience) -> Vec<Job> {
        let Some(db) = self.databases.get_mut(place) else {
            return Vec::new();
        };
        match db.run(&jobs, patience) {
            Ok(outcomes) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                if self.feed.is_watched() {
                    self.feed
                        .committed(db.ends(jobs.iter().filter_map(stored_name)));
                }
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    self.finish(job, outcome);
                }
                Vec::new()
            }
            Err(failure)
                if patience == Patience::None && matches!(failure.error, StoreError::Busy(_)) =>
            {
                jobs
            }
            Err(failure) if failure.alone && jobs.len() > 1 => jobs
                .into_iter()
                .flat_map(|job| self.commit(place, vec![job], patience))
                .collect(),
            Err(failure) => {
                self.lose(jobs, &failure.error);
                Vec::new()
            }
        }
    }

    fn lose(&self, jobs: Vec<Job>, error: &StoreError) {
        self.counters.failed_commits.fetch_add(1, Ordering::Relaxed);
        if matches!(error, StoreError::Failed { .. }) {
            tracing::error!(%error, jobs = jobs.len(), "a commit failed");
        } else {
            tracing::warn!(%error, jobs = jobs.len(), "a commit failed");
        }
        for job in jobs {
            job.fail(error);
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
            Job::Close => {
                self.databases.clear();
                self.closed = true;
            }
            Job::Ack { done, .. } => done(Ok(AckOutcome::Ignored)),
            other => other.fail(&StoreError::Closed),
        }
    }
}

/// The database whose transaction a job belongs in.
fn area_of(job: &Job) -> Option<Area> {
    match job {
        Job::Store { point, .. } | Job::Remove { point, .. } | Job::Refuse { point, .. } => {
            Some(point.area)
        }
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
