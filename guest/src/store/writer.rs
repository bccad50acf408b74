//! The writer: commits a batch in one transaction for each database and tells everyone. Waiting for a
//! fuller batch has lost whenever it was measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use vmkpi::link::TableId;
use vmkpi::name::{Area, DataPoint, KpiName};
use vmkpi::position::StreamId;

use super::database::{Database, Failure, Outcome};
use super::retention::Taken;
use super::{AckOutcome, Job, StoreError, mint, peer};
use crate::complaint::Complaint;
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
    /// Of each database, about commits that fail.
    complaints: Vec<Complaint>,
    /// About rows that were dropped unacknowledged.
    losses: Complaint,
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
            losses: Complaint::default(),
            complaints: databases.iter().map(|_| Complaint::default()).collect(),
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

    /// Whether retention has something to do.
    pub fn is_untidy(&self) -> bool {
        self.databases.iter().any(|db| db.keeper.is_due())
    }

    /// A bounded piece of what retention has to do; `idle`: nothing waits.
    pub fn keep(&mut self, idle: bool) {
        for db in &mut self.databases {
            match db.keep(idle) {
                Ok(taken) => count(&self.counters, &mut self.losses, taken, db.area),
                // Whoever stores is told of the same trouble, and it is tried again.
                Err(failure) => tracing::debug!(error = %failure.error, "retention has to wait"),
            }
        }
    }

    /// Does a batch. What is not done comes back: without patience, jobs that would have to wait for a
    /// lock or for room, and those that are not about rows or begin a new stream, which may take long.
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
        let done = self.attempt(place, &jobs, patience);
        let db = &mut self.databases[place];
        match done {
            Ok(outcomes) => {
                if let Some(times) = self.complaints[place].over() {
                    tracing::warn!(database = %db.area, times, "commits work again");
                }
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                if self.feed.is_watched() {
                    self.feed
                        .committed(db.ends(jobs.iter().filter_map(stored_name)));
                }
                self.finish_all(jobs, outcomes, patience)
            }
            Err(failure) if patience == Patience::None && passes(&failure.error) => jobs,
            Err(failure) if failure.alone && jobs.len() > 1 => jobs
                .into_iter()
                .flat_map(|job| self.commit(place, vec![job], patience))
                .collect(),
            Err(failure) => {
                self.lose(place, jobs, &failure.error);
                Vec::new()
            }
        }
    }

    fn lose(&mut self, place: usize, jobs: Vec<Job>, error: &StoreError) {
        self.counters.failed_commits.fetch_add(1, Ordering::Relaxed);
        if matches!(error, StoreError::LogFull(_)) {
            self.counters.log_refusals.fetch_add(1, Ordering::Relaxed);
        }
        // Said once, then counted: a disk that stays broken fails each batch.
        if let Some(times) = self.complaints[place].again(Instant::now()) {
            complain(error, times);
        }
        for job in jobs {
            job.fail(error);
        }
    }

    /// Carries out `jobs`; where there is no room for them, once more when there is.
    fn attempt(
        &mut self,
        place: usize,
        jobs: &[Job],
        patience: Patience,
    ) -> Result<Vec<Result<Outcome, StoreError>>, Failure> {
        let db = &mut self.databases[place];
        let done = db.run(jobs, patience);
        let full = |f: &Failure| matches!(f.error, StoreError::Full(_));
        if patience == Patience::None || !done.as_ref().is_err_and(full) {
            return done;
        }
        let need: usize = jobs.iter().map(size_of_job).sum();
        match db.make_room(need as u64) {
            Ok(taken) if taken.rows > 0 => {
                count(&self.counters, &mut self.losses, taken, db.area);
                db.run(jobs, patience)
            }
            _ => done,
        }
    }

    /// Tells what came of each job. A new stream takes long to begin: without patience, an acknowledgement
    /// that asks for one, and has changed nothing, comes back.
    fn finish_all(
        &mut self,
        jobs: Vec<Job>,
        outcomes: Vec<Result<Outcome, StoreError>>,
        patience: Patience,
    ) -> Vec<Job> {
        let mut left = Vec::new();
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            match (patience, &outcome) {
                (Patience::None, Ok(Outcome::Refuted)) => left.push(job),
                _ => self.finish(job, outcome),
            }
        }
        left
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
            (Job::Wanted { done, .. }, Outcome::Done) => done(Ok(())),
            (Job::Ack { table, done, .. }, Outcome::Refuted) => {
                done(self.mint_for(&table).map(AckOutcome::Minted));
            }
            (job, _) => job.fail(&StoreError::Closed),
        }
    }

    fn close(&mut self) {
        for db in &mut self.databases {
            if let Err(failure) = db.settle() {
                tracing::debug!(error = %failure.error, "bytes of rows are counted again at the next start");
            }
        }
        self.databases.clear();
        self.closed = true;
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
            Job::Close => self.close(),
            Job::Ack { done, .. } => done(Ok(AckOutcome::Ignored)),
            other => other.fail(&StoreError::Closed),
        }
    }
}

/// Whether whoever waits may find it otherwise.
fn passes(error: &StoreError) -> bool {
    use StoreError::{Busy, Full, LogFull};
    matches!(error, Busy(_) | Full(_) | LogFull(_))
}

/// The database whose transaction a job belongs in.
fn area_of(job: &Job) -> Option<Area> {
    match job {
        Job::Store { point, .. }
        | Job::Remove { point, .. }
        | Job::Mode { point, .. }
        | Job::Refuse { point, .. } => Some(point.area),
        Job::Rename { to, .. } => Some(to.area),
        Job::Wanted { area, .. } => Some(*area),
        Job::Ack { table, .. } => match &table.point {
            DataPoint::Kpi(area, _) => Some(*area),
            DataPoint::Infra(..) => None,
        },
        _ => None,
    }
}

/// Bytes that a job writes, about.
fn size_of_job(job: &Job) -> usize {
    // The row, the file, and the pages around them.
    match job {
        Job::Store { bytes, .. } | Job::Refuse { bytes, .. } => 2 * bytes.len() + 4096,
        _ => 4096,
    }
}

fn complain(error: &StoreError, times: u64) {
    if matches!(error, StoreError::Failed { .. }) {
        tracing::error!(%error, times, "commits fail");
    } else {
        tracing::warn!(%error, times, "commits fail");
    }
}

fn count(counters: &Counters, losses: &mut Complaint, taken: Taken, area: Area) {
    let add = |counter: &AtomicU64, rows| counter.fetch_add(rows, Ordering::Relaxed);
    add(&counters.rows_trimmed, taken.rows - taken.lost);
    add(&counters.rows_lost, taken.lost);
    let missed = taken.lost - taken.unasked;
    // Rows that nobody ever asked for go day by day: that is no news.
    if missed > 0
        && let Some(times) = losses.again(Instant::now())
    {
        tracing::warn!(
            database = %area, rows = missed, times,
            "retention dropped rows that nobody has acknowledged; hosts are told of the gap"
        );
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
