//! The actor's loop: waits for whatever comes next, hands it to a producer, and does what the
//! producers want done.
//!
//! ```text
//! link ──> KPI producer ──┐                    ┌──> publisher ──> broker
//!                         ├──> outbox (bounded)┤
//! sampling ──> lanes ─────┘                    └──< replies
//! ```
//! Back-pressure: while a producer has too much unacknowledged, its input is not read.

mod lanes;
mod leasing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::{
    Confirmation, Heard, Identity, Output, Producer, Publication, Source,
};
use vmkpi::link::{GuestMessage, TableId, VERSION};
use vmkpi::name::DataPoint;
use vmkpi::position::Nonce;
use vmkpi::tls::VmName;

use super::ages::Ages;
use super::answering::Answering;
use super::envelope::Envelopes;
use super::lease::Leaseholder;
use super::report::Report;
use super::{Shared, Spec};
use crate::consumers::{self, Ear, Word};
use crate::infra::Lane;
use crate::libvirt::State;
use crate::link::{Ask, Event, Expected, Fault, Histories, HistoryClient, Links};
use crate::outbox::{Left, Page, Ticket};
use crate::random;
use vmkpi::broker::publisher::{Job, Outcome, Reply, event_properties};

/// How often producers are ticked and a report is made.
const TICK: Duration = Duration::from_secs(1);
/// How long to wait before a message that the broker refused for now is handed in again.
const DEFER: Duration = Duration::from_secs(10);

pub(super) async fn run(
    spec: watch::Receiver<Spec>,
    shared: Shared,
    history: (HistoryClient, mpsc::Receiver<Ask>),
    left: Vec<Left>,
) {
    let mut actor = Actor::new(spec, shared, history);
    actor.take_over(&left);
    actor.run().await;
}

struct Actor {
    follow: watch::Receiver<Spec>,
    spec: Spec,
    shared: Shared,
    /// How far the outbox is on disk.
    committed: watch::Receiver<Ticket>,
    replies: (mpsc::UnboundedSender<Reply>, mpsc::UnboundedReceiver<Reply>),
    started: Instant,
    link: Links,
    link_open: bool,
    asked: mpsc::Receiver<Ask>,
    histories: Histories,
    kpi: Producer,
    ear: Ear,
    /// Whether Consumers are heard since the last tick, and were not before.
    heard_anew: bool,
    answering: Answering,
    /// What the KPI producer's messages carry. Another producer has another: it counts its tokens anew, and what
    /// the broker says of its predecessor's messages is not about its own.
    kpi_lane: u64,
    lanes: VecDeque<Lane>,
    pages: (mpsc::UnboundedSender<Page>, mpsc::UnboundedReceiver<Page>),
    /// When the domain was seen running, after it was not.
    running_since: std::time::Instant,
    /// Where in each second, or other stretch of time, this VM does what all VMs do: from 0 to 1.
    phase: f64,
    /// When statistics that have come are taken up.
    measure_at: Option<Instant>,
    /// When the figures were taken that were last measured, quick and detailed.
    measured: [Option<std::time::Instant>; 2],
    outbox: VecDeque<Job>,
    deferred: VecDeque<(Instant, Job)>,
    /// What went before the lanes and producers that are there now.
    past: Report,
    ages: Ages,
    envelopes: Envelopes,
    /// The VM's entry in the Directory, and what its messages carry.
    leaseholder: Leaseholder,
    lease_lane: u64,
}

impl Actor {
    fn new(
        mut follow: watch::Receiver<Spec>,
        shared: Shared,
        (history, asked): (HistoryClient, mpsc::Receiver<Ask>),
    ) -> Self {
        let spec = follow.borrow_and_update().clone();
        let signer = shared.signer.clone();
        let (lease_seconds, lease_lane) = (shared.lease_seconds, shared.outbox.next_lane());
        let mut actor = Self {
            link: Links::new(shared.limits),
            asked,
            histories: Histories::default(),
            kpi: kpi_producer(&spec, &shared, 0),
            ear: shared.consumers.listen(&spec.descriptor),
            heard_anew: false,
            kpi_lane: shared.outbox.next_lane(),
            answering: Answering::new(history, follow.clone(), &shared),
            follow,
            committed: shared.outbox.committed.clone(),
            shared,
            replies: mpsc::unbounded_channel(),
            started: Instant::now(),
            link_open: false,
            lanes: VecDeque::new(),
            pages: mpsc::unbounded_channel(),
            running_since: std::time::Instant::now(),
            phase: random::fraction(),
            measure_at: None,
            measured: [None; 2],
            outbox: VecDeque::new(),
            deferred: VecDeque::new(),
            past: Report::default(),
            ages: Ages::default(),
            envelopes: Envelopes::new(signer.clone()),
            leaseholder: Leaseholder::new(signer, lease_seconds),
            lease_lane,
            spec,
        };
        actor.reside();
        actor.aim();
        actor
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(mut self) {
        let mut tick = interval_at(Instant::now() + TICK.mul_f64(self.phase), TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let jobs = self.shared.publisher.jobs.clone();
        // Before any message of the VM: who looks it up misses none.
        self.lease();
        loop {
            self.pump();
            if self.is_over() {
                return;
            }
            let disk = self.lanes.iter().any(Lane::awaits_disk);
            let reads = self.kpi.accepts_input() && self.outbox.is_empty();
            let answered = self.kpi.is_subscribed();
            tokio::select! {
                changed = self.follow.changed() => match changed {
                    Ok(()) => self.respecify(),
                    Err(_) => return,
                },
                event = self.link.next(reads, answered) => self.on_link(event),
                Some(ask) = self.asked.recv() => self.on_ask(ask),
                Some(reply) = self.replies.1.recv() => self.on_replies(reply),
                word = self.ear.hear() => self.on_word(word),
                Some(page) = self.pages.1.recv() => self.on_page(page),
                Ok(()) = self.committed.changed(), if disk => {}
                permit = jobs.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(job) = self.outbox.pop_front() {
                        permit.send(job);
                    },
                    Err(_) => return,
                },
                Ok(()) = self.shared.sampling.changed() => self.measure_soon(),
                () = at(self.measure_at), if self.measure_at.is_some() => self.measure(),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    /// Gone, and everything has been said.
    fn is_over(&self) -> bool {
        self.spec.leaving && self.lanes.is_empty() && self.outbox.is_empty()
    }

    /// Takes over what the daemon says the VM is now.
    fn respecify(&mut self) {
        let spec = self.follow.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.spec, spec);
        let now_ms = self.now_ms();
        if before.domain.genid != self.spec.domain.genid {
            self.replace_kpi();
        }
        if before.descriptor != self.spec.descriptor {
            self.kpi.adopt(&self.spec.descriptor, now_ms);
            self.kpi.heed(self.spec.descriptor.consumers(), now_ms);
            self.ear = self.shared.consumers.listen(&self.spec.descriptor);
            // Who asked may have no right to any more, and what was to be left open may be to be sealed.
            self.answering.stop();
            for lane in &mut self.lanes {
                lane.adopt(&self.spec.descriptor, now_ms);
            }
        }
        let running = |spec: &Spec| spec.domain.state == State::Running;
        let goes_on = running(&self.spec) && !running(&before);
        if goes_on {
            self.running_since = std::time::Instant::now();
        }
        self.reside();
        self.aim();
        self.lease();
        if goes_on && self.link_open && !self.kpi.is_subscribed() {
            // A guest that has migrated here was greeted before it ran here, which nobody may have heard.
            self.greet();
        }
        if self.spec.leaving {
            // What the KPI producer still wants is the next host's: the guest keeps it.
            self.forget_messages(self.kpi_lane);
        }
    }

    /// The VM has gone back to an earlier state, or is a copy: its guest begins another history, and the producer
    /// of the one before has nothing to say any more.
    fn replace_kpi(&mut self) {
        self.past.count(self.kpi.counters());
        self.past.guest_rows += self.kpi.counters().rows;
        self.forget_messages(self.kpi_lane);
        self.kpi = kpi_producer(&self.spec, &self.shared, self.now_ms());
        self.kpi_lane = self.shared.outbox.next_lane();
        self.link.hang_up();
        self.link_open = false;
        self.histories.disconnected();
    }

    /// Nobody waits for the messages of this lane any more: those that are not handed over are not published.
    fn forget_messages(&mut self, lane: u64) {
        self.outbox.retain(|job| job.lane != lane);
        self.deferred.retain(|(_, job)| job.lane != lane);
        self.ages.forget(lane);
        self.envelopes.forget(lane);
    }

    /// Points the link to where the VM's socket is now, and lets its guest come in.
    fn aim(&mut self) {
        let wanted = self
            .spec
            .descriptor
            .monitors
            .iter()
            .any(|m| m.point.is_kpi());
        let link = self
            .spec
            .link
            .clone()
            .filter(|_| wanted && !self.spec.leaving);
        let domain = &self.spec.domain;
        self.link.identify(&domain.uuid, domain.genid.as_deref());
        let running = domain.state != State::Off && !self.spec.leaving;
        let closed = self.link.set_endpoint(link);
        if self.let_in(wanted && running) || closed {
            self.link_open = false;
            self.kpi.disconnected();
            self.histories.disconnected();
        }
    }

    /// Lets the guest come in over the network, as the VM that its descriptor says it is, or not any more. Whether a
    /// line that was open had to be closed.
    fn let_in(&mut self, wanted: bool) -> bool {
        let descriptor = &self.spec.descriptor;
        let name = VmName {
            site: descriptor.primary_site.clone(),
            vm: descriptor.vm.clone(),
        };
        let name = Some(name).filter(|_| wanted && self.shared.door.address().is_some());
        if self.link.expected().map(Expected::name) == name.as_ref() {
            return false;
        }
        // Whoever came in under another name is that one no more.
        let closed = self.link.expect_guest(None);
        let expected = name.map(|name| self.shared.door.expect(name));
        self.link.expect_guest(expected);
        closed
    }

    fn on_link(&mut self, event: Event) {
        match event {
            Event::Up => {
                self.link_open = true;
                self.past.connects += 1;
                let (domain, by) = (&self.spec.domain.name, self.link.connected_by());
                tracing::debug!(%domain, by, "the link is open");
                self.greet();
            }
            Event::Message(message) => self.on_message(message),
            Event::Refused(fault) | Event::Aside(fault) => self.fault(fault),
            Event::Down(fault) => {
                self.link_open = false;
                self.kpi.disconnected();
                self.histories.disconnected();
                self.fault(fault);
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        let domain = &self.spec.domain.name;
        match fault {
            Fault::Banned | Fault::Deaf => {
                tracing::warn!(%domain, reason = fault.as_str(), "the guest went over its limits; its link is closed for a while");
            }
            Fault::Connect => tracing::trace!(%domain, "no guest on the link yet"),
            _ => tracing::debug!(%domain, reason = fault.as_str(), "link"),
        }
        self.past.faults[fault as usize] += 1;
    }

    fn greet(&mut self) {
        let nonce = Nonce(random::u128());
        self.link.expect(nonce);
        self.histories.disconnected();
        let now_ms = self.now_ms();
        self.kpi.connected(nonce, now_ms);
    }

    fn on_ask(&mut self, ask: Ask) {
        let session = self.link.nonce().filter(|_| self.kpi.is_subscribed());
        if let Some(line) = self.histories.ask(ask, session, Instant::now()) {
            self.link.send(&line);
        }
    }

    /// A guest of another version of the link is refused, with words once.
    fn note_version(&mut self, version: u32) {
        let other = (version != VERSION).then_some(version);
        let known = std::mem::replace(&mut self.past.link_other_version, other);
        if other.is_some() && other != known {
            tracing::warn!(
                domain = %self.spec.domain.name, version, ours = VERSION,
                "the guest speaks another version of the link: update the older of vmkpi-guest and vmkpi-host; rows wait in the guest"
            );
        }
    }

    /// The guest said something impossible.
    fn impossible(&mut self) {
        let down = self.link.impossible();
        self.fault(Fault::Impossible);
        if let Some(down) = down {
            self.on_link(down);
        }
    }

    fn on_message(&mut self, message: GuestMessage) {
        let message = match message {
            GuestMessage::History(page) => {
                if !self.histories.answered(page) {
                    self.impossible();
                }
                return;
            }
            GuestMessage::Failed { id, ref reason, .. } => {
                self.histories.failed(id, reason);
                message
            }
            message => message,
        };
        let (now_ms, refused) = (self.now_ms(), self.kpi.counters().lines_refused);
        if matches!(message, GuestMessage::Rows(_)) {
            self.past.rows_time = Some(Timestamp::now().as_seconds_f64());
        }
        match &message {
            GuestMessage::Mark { time, .. } => {
                self.kpi.observe_clock(*time, Timestamp::now(), now_ms);
            }
            GuestMessage::Hello { version, .. } => self.note_version(*version),
            _ => {}
        }
        let answers = matches!(message, GuestMessage::Hello { .. });
        self.kpi.on_message(message, now_ms);
        if answers {
            let (domain, by) = (&self.spec.domain.name, self.link.connected_by());
            tracing::debug!(%domain, by, "the guest has answered the greeting");
        }
        if self.kpi.counters().lines_refused > refused {
            self.impossible();
        }
        if self.kpi.needs_hello(now_ms) {
            self.greet();
        }
    }

    fn on_replies(&mut self, first: Reply) {
        self.on_reply(first);
        while let Ok(reply) = self.replies.1.try_recv() {
            self.on_reply(reply);
        }
    }

    fn on_word(&mut self, word: Word) {
        match word {
            Word::Confirmed(confirmation) => self.on_confirmation(confirmation),
            // In the next tick, which each VM has at a moment of its own: all of a host are told at once.
            Word::Listening => self.heard_anew = true,
            // The next host's, which has the link.
            Word::Asked(_) if self.spec.leaving => {}
            Word::Asked(asked) => self.answering.begin(asked, &self.spec.descriptor),
        }
    }

    /// Hands what a Consumer confirms to the producer that it is about.
    fn on_confirmation(&mut self, word: consumers::Confirmation) {
        let now_ms = self.now_ms();
        for confirmed in word.confirmed {
            let confirmation = Confirmation {
                consumer: word.consumer.clone(),
                issued: word.issued,
                specifier: confirmed.specifier,
                through: confirmed.through,
                want_from: confirmed.want_from,
                table: TableId {
                    stream: confirmed.stream,
                    point: confirmed.point,
                },
            };
            let mut producers: Vec<&mut Producer> = match confirmation.table.point {
                DataPoint::Kpi(..) => vec![&mut self.kpi],
                DataPoint::Infra(..) => self.lanes.iter_mut().map(Lane::producer_mut).collect(),
            };
            let heard = producers
                .iter_mut()
                .map(|producer| producer.on_confirm(&confirmation, now_ms))
                .find(|heard| *heard != Heard::Unknown);
            let heard = heard.unwrap_or(Heard::Unknown);
            self.shared.consumers.status.count(heard);
            if heard == Heard::Taken {
                self.past.confirmed_time = Some(Timestamp::now().as_seconds_f64());
            }
        }
    }

    fn on_page(&mut self, page: Page) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == page.lane) {
            lane.on_page(page);
        }
    }

    fn on_reply(&mut self, reply: Reply) {
        if reply.lane == self.lease_lane {
            let taken = matches!(reply.outcome, Outcome::Acknowledged);
            return self.leased(reply.token, taken);
        }
        let now_ms = self.now_ms();
        if !matches!(reply.outcome, Outcome::Deferred(_)) {
            self.ages.settled(reply.lane, reply.token);
        }
        let producer = match reply.lane {
            id if id == self.kpi_lane => Some(&mut self.kpi),
            id => self
                .lanes
                .iter_mut()
                .find(|lane| lane.id == id)
                .map(Lane::producer_mut),
        };
        let Some(producer) = producer else { return };
        match reply.outcome {
            Outcome::Acknowledged => {
                producer.on_puback(reply.token, now_ms);
                self.past.acknowledged_time = Some(Timestamp::now().as_seconds_f64());
            }
            Outcome::Refused => producer.on_refused(reply.token, now_ms),
            Outcome::Deferred(job) => self.deferred.push_back((Instant::now() + DEFER, *job)),
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.kpi.tick(now_ms);
        if std::mem::take(&mut self.heard_anew) && !self.spec.leaving {
            self.kpi.on_listening(now_ms);
        }
        self.histories.expire(Instant::now());
        self.envelopes.tick();
        self.answering.tick();
        if self.link_open && self.kpi.needs_hello(now_ms) {
            self.greet();
        }
        for lane in &mut self.lanes {
            lane.tick(Timestamp::now(), now_ms);
        }
        while let Some(at) = self.lanes.iter().position(|lane| lane.is_over(now_ms)) {
            self.drop_lane(at);
        }
        while self
            .deferred
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            self.outbox
                .extend(self.deferred.pop_front().map(|(_, job)| job));
        }
        self.lease();
        self.report();
    }

    /// Does what the producers want done.
    fn pump(&mut self) {
        let (now_ms, time) = (self.now_ms(), Timestamp::now().as_seconds_f64());
        let (outbox, ages, replies) = (&mut self.outbox, &mut self.ages, &self.replies.0);
        let envelopes = &mut self.envelopes;
        let due = envelopes.take_due();
        let mut publish = |lane, publication: Publication| match envelopes.encode(&publication) {
            Ok(payload) => {
                ages.made(lane, publication.token, time);
                outbox.push_back(job(lane, &publication, payload, replies));
            }
            Err(error) => envelopes.keep(lane, publication, &error),
        };
        for (lane, publication) in due {
            publish(lane, publication);
        }
        while let Some(output) = self.kpi.poll() {
            match output {
                Output::Send(message) => self.link.send(&message),
                Output::Publish(_) if self.spec.leaving => {}
                Output::Publish(publication) => publish(self.kpi_lane, publication),
            }
        }
        for lane in &mut self.lanes {
            lane.pump(now_ms, &mut |id, publication| publish(id, publication));
        }
    }

    fn report(&mut self) {
        if self.spec.leaving {
            return;
        }
        let now_ms = self.now_ms();
        let mut report = self.past.clone();
        let descriptor = &self.spec.descriptor;
        report.identity = Some((descriptor.primary_site.clone(), descriptor.vm.clone()));
        report.has_link = self.link.has_endpoint();
        report.link_open = self.link_open;
        report.link_by = self.link.connected_by().map(Arc::from);
        report.link_problem = self.link.problem().map(Arc::from);
        report.link_up = self.link_open && self.kpi.is_subscribed();
        report.received_bytes = self.link.received_bytes();
        report.count(self.kpi.counters());
        report.in_flight = self.kpi.outstanding();
        report.clock_skew_ms = self.kpi.clock_skew_ms();
        (report.leases, report.leased_time) = (
            self.leaseholder.counts,
            self.leaseholder.taken.map(Timestamp::as_seconds_f64),
        );
        report.sealed = self.envelopes.sealed;
        report.seal_failures = self.envelopes.failures;
        report.guest_rows += self.kpi.counters().rows;
        report.backlog = self.kpi.backlog(now_ms);
        for lane in &self.lanes {
            report.count(lane.producer().counters());
            report.in_flight += lane.producer().outstanding();
            let kept = lane.kept();
            report.kept += kept.batches;
            report.trimmed += kept.trimmed;
            report.kept_oldest_ms = report.kept_oldest_ms.max(lane.oldest_ms(now_ms));
            report.streams += 1;
        }
        report.oldest_time = self.ages.oldest();
        self.ages
            .samples(report.samples, Timestamp::now().as_seconds_f64());
        report.samples_time = self.ages.sampled;
        if self
            .ages
            .is_heard(report.link_up, std::time::Instant::now())
        {
            report.take_kpis(&self.kpi);
            report.databases = self.kpi.databases();
        }
        self.shared.reports.put(&self.spec.domain.uuid, report);
    }
}

/// Waits until `instant`; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn kpi_producer(spec: &Spec, shared: &Shared, now_ms: u64) -> Producer {
    let identity = Identity {
        uuid: Some(spec.domain.uuid.to_string()),
        genid: spec.domain.genid.clone(),
    };
    let mut producer = Producer::new(Source::Kpi, identity, &spec.descriptor, now_ms);
    if let Some(interval) = shared.poll_interval {
        producer.poll_every(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
    }
    producer
}

fn job(
    lane: u64,
    publication: &Publication,
    payload: Bytes,
    reply: &mpsc::UnboundedSender<Reply>,
) -> Job {
    Job {
        topic: publication.event.topic(),
        payload,
        retain: false,
        properties: event_properties(),
        lane,
        token: publication.token,
        reply: reply.clone(),
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if !self.spec.leaving {
            self.shared.reports.remove(&self.spec.domain.uuid);
        }
        tracing::debug!(domain = %Arc::clone(&self.spec.domain.name), "the VM's actor ended");
    }
}

#[cfg(test)]
mod tests;
