//! The publisher's loop. rumqttc's event loop is driven by a task of its own, so that it is never
//! cancelled in the middle; each connection gets a new one, and what is unacknowledged is in
//! [`Publishing::kept`], not in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use rumqttc::{
    PubAckReason, Publish, PublishNotice, PublishNoticeError, PublishOptions, PublishResult, QoS,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::connection::{Connection, SessionError};
use super::denied::Denied;
use super::recent::Recent;
use super::{Job, MAX_IN_FLIGHT, Outcome, Refusal, Reply, Status};
use crate::broker::{Broker, Keeper, Kind};

/// The most messages kept until they are acknowledged; a host's producer has at most 64 of them.
const MAX_KEPT: usize = 4096;
/// The same, in bytes.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// After a RE-connection nothing is published for so long. Whoever lost us to the same outage is
/// coming back too, and without a session of its own it has no subscription yet: the broker would
/// acknowledge what nobody gets, and without a named Consumer nobody asks for it again.
const SETTLE: Duration = Duration::from_secs(1);
/// Waiting before the next attempt to connect: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// What a packet may need besides what rumqttc counts: the packet id.
const PACKET_ID_BYTES: usize = 2;
/// So many connections in a row that the broker ended for what we sent, without an
/// acknowledgement, and messages are sent one at a time to find the one it cannot stand ...
const SUSPECT_AFTER: u32 = 2;
/// ... and so many, and that one is given up: it would end every connection for ever.
const REFUSE_AFTER: u32 = 4;

/// Publishes until every sender of jobs is gone.
pub(super) async fn run(broker: Broker, jobs: mpsc::Receiver<Job>, status: Arc<Status>) {
    let mut publishing = Publishing {
        keeper: Keeper::new(broker),
        jobs,
        status,
        kept: BTreeMap::new(),
        kept_bytes: 0,
        recent: Recent::default(),
        denied: Denied::default(),
        next_serial: 0,
        max_packet_bytes: usize::MAX,
        strikes: 0,
        done: false,
    };
    let (mut wait, mut said) = (BACKOFF.0, None);
    loop {
        let connects = publishing.status.connects();
        let Err(error) = publishing.session().await else {
            return;
        };
        let connected = publishing.status.connects() > connects;
        let broker = publishing.keeper.broker();
        let failure = error.failure(broker, connected);
        publishing.status.failed(failure.kind);
        if connected {
            tracing::warn!(%broker, error = %failure, "the broker's connection broke");
            (wait, said) = (BACKOFF.0, None);
        } else if said.as_ref() != Some(&failure) {
            // Once for each trouble, not for each attempt.
            tracing::warn!(%broker, error = %failure, "no broker; trying again");
            said = Some(failure);
        }
        if publishing.done && publishing.kept.is_empty() {
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// Random, so that it names neither host nor VM, and nobody can guess it to take it over; another one for each
/// connection, so that who has learnt it ends one connection and no second.
fn client_id() -> String {
    let random = getrandom::u64().expect("the kernel has random numbers once it has started");
    format!("vmkpi-{random:016x}")
}

struct Publishing {
    keeper: Keeper,
    jobs: mpsc::Receiver<Job>,
    status: Arc<Status>,
    /// What is not acknowledged, in the order it came.
    kept: BTreeMap<u64, Job>,
    kept_bytes: usize,
    /// What was acknowledged lately.
    recent: Recent,
    /// Topics that the broker does not let us publish on.
    denied: Denied,
    next_serial: u64,
    max_packet_bytes: usize,
    /// Connections in a row that the broker ended for what we sent.
    strikes: u32,
    /// Every sender of jobs is gone.
    done: bool,
}

impl Publishing {
    /// One connection, from first to last: an error when it broke, `Ok` when there is nothing left to
    /// publish.
    async fn session(&mut self) -> Result<(), SessionError> {
        let mut connection = self.connect().await?;
        let again = self.status.connects() > 0;
        self.status.connects.fetch_add(1, Ordering::Relaxed);
        self.status.connected.store(true, Ordering::Relaxed);
        tracing::info!(broker = %self.keeper.broker(), unacknowledged = self.kept.len(), "broker connected");
        let result = self.publish(&mut connection, again).await;
        self.status.connected.store(false, Ordering::Relaxed);
        match &result {
            Ok(()) => connection.goodbye().await,
            Err(error) => {
                self.judge(error, &connection);
                for (serial, job) in self.recent.take(Instant::now()) {
                    self.kept_bytes += job.payload.len();
                    self.kept.insert(serial, job);
                }
            }
        }
        result
    }

    async fn connect(&mut self) -> Result<Connection, SessionError> {
        let renewal = self.keeper.renew();
        let renewal = renewal.map_err(|error| SessionError::Entry(error.into()))?;
        let broker = self.keeper.broker();
        if let Some(error) = &renewal.broken {
            self.status.failed(Kind::Files);
            if renewal.news {
                tracing::warn!(%broker, %error, "what was read before is used");
            }
        }
        let next = self.kept.keys().next().copied().unwrap_or(self.next_serial);
        let connection = Connection::open(&client_id(), broker, renewal.entry, next).await?;
        self.max_packet_bytes = connection.max_packet_bytes;
        Ok(connection)
    }

    async fn publish(
        &mut self,
        connection: &mut Connection,
        again: bool,
    ) -> Result<(), SessionError> {
        if again {
            tokio::select! {
                error = connection.driver.end() => return Err(error),
                () = sleep(SETTLE) => {}
            }
            let repeated = self.kept.len() as u64;
            self.status.repeated.fetch_add(repeated, Ordering::Relaxed);
        }
        let mut notices = FuturesUnordered::new();
        loop {
            while notices.len() < self.window() {
                match self.send_next(connection) {
                    Some((serial, notice)) => notices.push(wait_for(serial, notice)),
                    None => break,
                }
            }
            if self.done && self.kept.is_empty() {
                return Ok(());
            }
            tokio::select! {
                error = connection.driver.end() => {
                    // What the broker said last has come, and may not have been looked at yet.
                    while let Some(Some((serial, result))) = notices.next().now_or_never() {
                        self.settle(serial, result, connection);
                    }
                    return Err(error);
                }
                Some((serial, result)) = notices.next(), if !notices.is_empty() => {
                    self.settle(serial, result, connection);
                }
                job = self.jobs.recv(), if !self.done && self.has_room() => match job {
                    Some(job) => self.keep(job),
                    None => self.done = true,
                },
            }
        }
    }

    fn window(&self) -> usize {
        match self.strikes {
            SUSPECT_AFTER.. => 1,
            _ => MAX_IN_FLIGHT,
        }
    }

    fn has_room(&self) -> bool {
        self.kept.len() < MAX_KEPT && self.kept_bytes < MAX_KEPT_BYTES
    }

    fn keep(&mut self, job: Job) {
        self.kept_bytes += job.payload.len();
        self.kept.insert(self.next_serial, job);
        self.next_serial += 1;
        self.count_kept();
    }

    fn count_kept(&self) {
        let kept = self.kept.len() as u64;
        self.status.kept.store(kept, Ordering::Relaxed);
    }

    fn take(&mut self, serial: u64) -> Option<Job> {
        let job = self.kept.remove(&serial)?;
        self.kept_bytes -= job.payload.len();
        self.count_kept();
        Some(job)
    }

    /// Sends the next message that this connection has not seen.
    fn send_next(&mut self, connection: &mut Connection) -> Option<(u64, PublishNotice)> {
        loop {
            let (&serial, job) = self.kept.range(connection.next..).next()?;
            connection.next = serial + 1;
            let size = size_of_packet(job);
            if size > self.max_packet_bytes {
                let max = self.max_packet_bytes;
                tracing::error!(topic = %job.topic, size, max, "a message is larger than the broker takes; it is given up");
                self.refuse(serial, Refusal::TooLarge);
                continue;
            }
            let options = PublishOptions::at_least_once()
                .retain(job.retain)
                .properties(job.properties.clone());
            match connection.client.try_publish_tracked(
                job.topic.as_str(),
                job.payload.clone(),
                options,
            ) {
                Ok(notice) => return Some((serial, notice)),
                Err(rumqttc::ClientError::InvalidRequest(_)) => {
                    tracing::error!(topic = %job.topic, "no topic MQTT could carry; the message is given up");
                    self.refuse(serial, Refusal::Topic);
                }
                Err(error) => {
                    // The queue is longer than the window, so only a connection that is ending
                    // refuses; the message is sent on the next one.
                    tracing::debug!(%error, "not queued");
                    connection.next = serial;
                    return None;
                }
            }
        }
    }

    fn refuse(&mut self, serial: u64, reason: Refusal) {
        self.count_refused(reason);
        if let Some(job) = self.take(serial) {
            reply(job, |_| Outcome::Refused);
        }
    }

    fn count_refused(&self, reason: Refusal) {
        self.status.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn settle(
        &mut self,
        serial: u64,
        result: Result<PublishResult, PublishNoticeError>,
        connection: &mut Connection,
    ) {
        let reason = match result {
            Ok(PublishResult::Qos1(ack)) => ack.reason,
            Err(PublishNoticeError::V5PubAck(reason)) => reason,
            // The connection is ending; the message stays and is sent on the next one.
            _ => return,
        };
        connection.acknowledged = true;
        self.strikes = 0;
        let Some(job) = self.take(serial) else { return };
        match reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                if self.denied.is_over(&job.topic) {
                    tracing::info!(topic = %job.topic, "the broker takes messages on this topic again");
                }
                // A lease is said anew after each connection; an old one is not worth repeating.
                if !job.retain {
                    self.recent.add(Instant::now(), serial, job.clone());
                }
                reply(job, |_| Outcome::Acknowledged);
            }
            PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
                tracing::error!(topic = %job.topic, ?reason, "the broker refuses a message for good; it is given up");
                self.count_refused(Refusal::Broker);
                reply(job, |_| Outcome::Refused);
            }
            reason => {
                self.status.deferred.fetch_add(1, Ordering::Relaxed);
                if self.denied.is_news(&job.topic) {
                    tracing::warn!(topic = %job.topic, ?reason, "the broker refuses messages on this topic; they are kept and tried again. Its ACL must let us write there");
                }
                reply(job, |job| Outcome::Deferred(Box::new(job)));
            }
        }
    }

    /// Whether a message of ours may be what ended the connection, and which.
    fn judge(&mut self, error: &SessionError, connection: &Connection) {
        let sent = self
            .kept
            .keys()
            .next()
            .is_some_and(|s| *s < connection.next);
        if connection.acknowledged || !sent || !error.blames_us() {
            self.strikes = 0;
            return;
        }
        self.strikes += 1;
        if self.strikes < REFUSE_AFTER {
            return;
        }
        // Alone in flight, it ended connection after connection.
        if let Some((&serial, job)) = self.kept.first_key_value() {
            tracing::error!(topic = %job.topic, size = job.payload.len(), %error, "a message ends every connection; it is given up");
            self.refuse(serial, Refusal::EndsConnection);
        }
        self.strikes = SUSPECT_AFTER;
    }
}

/// What the broker's limit counts, in bytes.
fn size_of_packet(job: &Job) -> usize {
    let properties = Some(job.properties.clone());
    let packet = Publish::new(
        job.topic.as_str(),
        QoS::AtLeastOnce,
        job.payload.clone(),
        properties,
    );
    packet.size() + PACKET_ID_BYTES
}

async fn wait_for(
    serial: u64,
    notice: PublishNotice,
) -> (u64, Result<PublishResult, PublishNoticeError>) {
    (serial, notice.wait_async().await)
}

fn reply(job: Job, outcome: impl FnOnce(Job) -> Outcome) {
    let (to, lane, token) = (job.reply.clone(), job.lane, job.token);
    let outcome = outcome(job);
    // Nobody there: the VM has left, and nobody counts on it any more.
    let _ = to.send(Reply {
        lane,
        token,
        outcome,
    });
}
