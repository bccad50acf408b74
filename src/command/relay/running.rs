//! A running relay: two subscriptions, two publishers, and the spool between those that go up.
//!
//! ```text
//! from ──> gate ──> keeper (a thread) ──> spool ──> sending ──> publisher ──> to
//!   ^                  │ after the commit                          │ PUBACK: removed
//!   └── acknowledged <─┘                                           v
//! from <── publisher <── latest, in memory <── gate <──────────── to
//! ```

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rumqttc::Publish;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use vmkpi::broker::publisher::{Job, Outcome, Reply};
use vmkpi::broker::subscription::{
    MAX_UNACKNOWLEDGED, Manner, Receipt, Session, Step, Subscription,
};
use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::Token;
use vmkpi::directory::Registrar;
use vmkpi::name::Label;
use vmkpi::topic::{Branch, Direction};

use super::Plan;
use super::alive::{News, Vms};
use super::end::{End, FAREWELL};
use super::gate::{Passed, Refusal, Sites, judge, vm_of};
use super::hops::{self, Forwarded};
use super::keeper::{Keeper, Order, Said};
use super::latest::{Latest, Word};
use super::metrics::{Drop, Shared};
use super::sending::Sending;
use super::spool::{self, Part, SCHEMA};
use super::words::{branch_of, job_of, lease_of, message_of, register, say_refused};
use crate::command::database::Database;
use crate::command::stop::Stop;

/// Between two looks at what time brings.
const TICK: Duration = Duration::from_secs(1);
/// What is known of VMs is written down each so many looks.
const WRITE_TICKS: u64 = 15;
/// Messages that are taken and not yet kept; over it the broker is read no further. Twice what it may send, as after
/// a lost connection it sends them again.
const MAX_UNKEPT: usize = 2 * MAX_UNACKNOWLEDGED as usize;
/// The most messages on their way down; what waits may still be superseded.
const MAX_DOWN: usize = 64;

/// Relays until `stop` says so.
///
/// # Errors
/// The state cannot be used, or nobody can listen there.
pub(super) async fn run(plan: Plan, stop: &mut Stop) -> anyhow::Result<()> {
    let listen = plan.listen;
    let (mut relay, lock) = Relay::start(plan)?;
    let serving = match listen {
        Some(address) => Some(super::api::start(address, Arc::clone(&relay.shared)).await?),
        None => None,
    };
    let result = relay.follow(stop).await;
    if let Some(serving) = serving {
        serving.abort();
    }
    relay.end().await;
    drop(lock);
    result
}

struct Relay {
    sites: Sites,
    shared: Arc<Shared>,
    /// Nearer to the VMs.
    from: End,
    /// Nearer to the primary site.
    to: End,
    keeper: Keeper,
    hears: mpsc::UnboundedReceiver<Said>,
    /// Messages from below that are not on disk yet.
    unkept: usize,
    sending: Sending,
    /// Messages that were read from the spool and wait for the publisher.
    ready: VecDeque<Job>,
    latest: Latest,
    /// Messages on their way down.
    down: usize,
    /// Forwarded lately: up, and down.
    lately: [Forwarded; 2],
    /// Who registers as a Consumer at the broker nearer to the VMs.
    registrar: Option<Registrar>,
    ticks: u64,
}

impl Relay {
    fn start(plan: Plan) -> anyhow::Result<(Self, std::fs::File)> {
        let file = spool::file(&plan.state);
        let place = || file.display().to_string();
        let database = Database::open(&file, &SCHEMA)?;
        let filters = plan.sites.filters(Direction::Up);
        let before = spool::change_filters(&database.connection, &filters).with_context(place)?;
        let known = spool::vms(&database.connection).with_context(place)?;
        let (said, hears) = mpsc::unbounded_channel();
        let keeper =
            Keeper::start(database.connection, plan.max_bytes, said).with_context(place)?;
        let up = Manner {
            manual: true,
            as_published: true,
            resumed: Some(before),
        };
        let down = Manner {
            as_published: true,
            ..Manner::default()
        };
        let session = |way: &str| Session::named(format!("vmkpi-relay-{}-{way}", database.id));
        let from = Subscription::start_as(plan.from.clone(), session("up"), filters, &up)?;
        let filters = plan.sites.filters(Direction::Down);
        let to = Subscription::start_as(plan.to.clone(), session("down"), filters, &down)?;
        let (from, to) = (End::new(&plan.from, from), End::new(&plan.to, to));
        let shared = Shared::new(
            Arc::clone(&to.publisher.status),
            Arc::clone(&from.publisher.status),
            Arc::clone(&keeper.status),
            Vms::new(known),
        );
        let relay = Self {
            sites: plan.sites.clone(),
            shared: Arc::new(shared),
            from,
            to,
            keeper,
            hears,
            unkept: 0,
            sending: Sending::default(),
            ready: VecDeque::new(),
            latest: Latest::default(),
            down: 0,
            lately: <[Forwarded; 2]>::default(),
            registrar: plan.named.map(|named| register(named, &plan.sites)),
            ticks: 0,
        };
        relay.say_who(&plan.state);
        Ok((relay, database.lock))
    }

    fn say_who(&self, state: &Path) {
        let sites: Vec<&str> = self.sites.names().iter().map(Label::as_str).collect();
        let waiting = self.keeper.status.rows.load(Relaxed);
        tracing::info!(
            from = %self.from.broker, to = %self.to.broker, sites = sites.join(","),
            state = %state.display(), waiting, "relaying"
        );
    }

    async fn follow(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let up = self.to.publisher.jobs.clone();
        let down = self.from.publisher.jobs.clone();
        loop {
            self.read_on();
            tokio::select! {
                () = stop.wait() => return Ok(()),
                _ = tick.tick() => self.look(),
                Some(said) = self.hears.recv() => self.hear(said),
                step = self.from.subscription.step(), if self.unkept < MAX_UNKEPT => {
                    self.take_from(step.context("the subscription has ended")?);
                }
                step = self.to.subscription.step() => {
                    self.take_to(step.context("the subscription has ended")?);
                }
                Some(reply) = self.to.replies.recv() => self.went_up(&reply),
                Some(reply) = self.from.replies.recv() => self.went_down(&reply),
                Ok(permit) = up.reserve(), if !self.ready.is_empty() => {
                    if let Some(job) = self.ready.pop_front() {
                        permit.send(job);
                    }
                }
                Ok(permit) = down.reserve(),
                    if self.down < MAX_DOWN && !self.latest.is_empty() =>
                {
                    if let Some(word) = self.latest.take() {
                        self.down += 1;
                        permit.send(job_of(word, self.from.reply.clone()));
                    }
                }
            }
        }
    }

    /// Asks for more of the spool, if there is room for it.
    fn read_on(&mut self) {
        if let Some(reading) = self.sending.want(Instant::now()) {
            self.keeper.order(Order::Read(reading));
        }
    }

    /// What the broker nearer to the VMs says.
    fn take_from(&mut self, step: Step) {
        let Step::Message(publish) = step else {
            if let (Step::Listening, Some(registrar)) = (&step, &mut self.registrar) {
                registrar.again();
            }
            self.from.note(step);
            self.shared.up.listening.store(self.from.listening, Relaxed);
            return;
        };
        let receipt = self.from.subscription.receipt(&publish);
        let passed = self.judge(&publish, Direction::Up);
        if let Some(passed) = &passed {
            self.note_vm(passed, &publish);
        }
        let message = passed.map(|passed| message_of(passed, publish));
        self.unkept += 1;
        self.keeper.order(Order::Keep(message, receipt));
    }

    fn note_vm(&self, passed: &Passed, publish: &Publish) {
        let Some((site, vm)) = vm_of(&passed.topic) else {
            return;
        };
        let mut vms = self.shared.vms();
        vms.heard(site, vm, Timestamp::now());
        if passed.branch == Branch::Producers {
            vms.leased(site, vm, &publish.payload);
        }
    }

    /// What the broker nearer to the primary site says.
    fn take_to(&mut self, step: Step) {
        let Step::Message(publish) = step else {
            self.to.note(step);
            self.shared.down.listening.store(self.to.listening, Relaxed);
            return;
        };
        let Some(passed) = self.judge(&publish, Direction::Down) else {
            return;
        };
        let properties = publish.properties.unwrap_or_default();
        let (superseded, crowded) = self.latest.add(Word {
            branch: passed.branch,
            topic: passed.topic,
            payload: publish.payload,
            retain: publish.retain,
            properties: hops::forwarded(properties, passed.hops),
        });
        self.shared.down.drop(Drop::Superseded, superseded);
        self.shared.down.drop(Drop::Crowded, crowded);
    }

    /// Whether a message crosses; what does not is counted, and said once for each kind.
    fn judge(&mut self, publish: &Publish, direction: Direction) -> Option<Passed> {
        let way = self.shared.way(direction);
        way.received.fetch_add(1, Relaxed);
        let none = vmkpi::broker::publisher::Properties::default();
        let properties = publish.properties.as_ref().unwrap_or(&none);
        let (topic, payload) = (&publish.topic, &publish.payload);
        let (retain, sites) = (publish.retain, &self.sites);
        let judged = judge(topic, retain, payload.len(), properties, sites, direction);
        let lately = &mut self.lately[direction as usize];
        let judged = judged.and_then(|passed| {
            match lately.comes_back(&passed.topic, payload, passed.hops - 1) {
                true => Err(Refusal::Loop),
                false => Ok(passed),
            }
        });
        match judged {
            Ok(passed) => {
                lately.add(&passed.topic, payload, passed.hops);
                Some(passed)
            }
            Err(why) => {
                if way.refuse(why) {
                    say_refused(why, topic);
                }
                None
            }
        }
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Kept(receipts) => self.acknowledge(receipts),
            Said::Part(part) => self.send(part),
            Said::Full => tracing::error!(
                limit = "--spool.max-bytes",
                "the spool is full: nothing is taken until the next broker takes something; the broker we read from keeps it meanwhile"
            ),
            Said::Room => tracing::info!("the spool has room again"),
            Said::Failing(error) => tracing::error!(
                error,
                "nothing can be kept, so nothing is taken; the broker we read from keeps it meanwhile"
            ),
            Said::Recovered => tracing::info!("messages are kept again"),
        }
    }

    fn acknowledge(&mut self, receipts: Vec<Option<Receipt>>) {
        self.unkept = self.unkept.saturating_sub(receipts.len());
        for receipt in receipts.into_iter().flatten() {
            // Where it cannot be said the message comes again, and is forwarded twice.
            self.from.subscription.acknowledge(receipt);
        }
        self.sending.news();
    }

    fn send(&mut self, part: Part) {
        self.sending.take(&part, Instant::now());
        let now = Timestamp::now();
        for row in part.rows {
            let waited = now.as_micros().saturating_sub(row.kept.as_micros()) / 1_000_000;
            let properties = hops::decode(&row.message.properties);
            let waited = u64::try_from(waited).unwrap_or(0);
            let Some(properties) = hops::aged(properties, waited) else {
                self.shared.up.drop(Drop::Expired, 1);
                self.arrived(row.id);
                continue;
            };
            self.ready.push_back(Job {
                topic: row.message.topic,
                payload: row.message.payload,
                retain: row.message.retain,
                properties,
                lane: 0,
                token: Token(row.id.unsigned_abs()),
                reply: self.to.reply.clone(),
            });
        }
    }

    /// What the next broker says of a message of the spool.
    fn went_up(&mut self, reply: &Reply) {
        let id = i64::try_from(reply.token.0).unwrap_or(i64::MAX);
        match reply.outcome {
            Outcome::Acknowledged => {
                let Some(topic) = self.arrived(id) else {
                    return;
                };
                self.sending.open(&topic);
                if let Some(branch) = Branch::of(&topic) {
                    self.shared.forward(branch);
                }
                if let Some((site, vm)) = vm_of(&topic) {
                    self.shared.vms().forwarded(site, vm, Timestamp::now());
                }
            }
            // Counted and said by the publisher.
            Outcome::Refused => drop(self.arrived(id)),
            Outcome::Deferred(_) => self.sending.deny(id, Instant::now()),
        }
    }

    /// A message need not be kept any more: its topic, if it was on its way.
    fn arrived(&mut self, id: i64) -> Option<String> {
        let sent = self.sending.done(id)?;
        self.keeper.order(Order::Remove(id));
        Some(sent.topic)
    }

    fn went_down(&mut self, reply: &Reply) {
        self.down = self.down.saturating_sub(1);
        match reply.outcome {
            Outcome::Acknowledged => {
                if let Some(branch) = branch_of(reply.lane) {
                    self.shared.forward(branch);
                }
            }
            Outcome::Refused => {}
            // Whoever said it says it again.
            Outcome::Deferred(_) => self.shared.down.drop(Drop::Denied, 1),
        }
    }

    fn look(&mut self) {
        self.ticks += 1;
        if let Some(registrar) = &mut self.registrar {
            let due = registrar.due(Timestamp::now());
            for message in due {
                self.latest.add(lease_of(message));
            }
        }
        // Where reading has failed it is tried again.
        self.sending.news();
        let waiting = (self.latest.len() + self.down) as u64;
        self.shared.waiting.store(waiting, Relaxed);
        self.shared
            .denied
            .store(self.sending.denied() as u64, Relaxed);
        let news = self.shared.vms().look(Timestamp::now());
        for news in news {
            match news {
                News::Silent((site, vm)) => tracing::warn!(
                    site,
                    vm,
                    "nothing comes of this VM: its Producer is dead or cut off"
                ),
                News::Back((site, vm)) => {
                    tracing::info!(site, vm, "messages of this VM come again");
                }
            }
        }
        if self.ticks.is_multiple_of(WRITE_TICKS) {
            self.write_vms();
        }
    }

    fn write_vms(&self) {
        let vms = self.shared.vms();
        let vms = vms.iter().map(|(name, vm)| (name.clone(), *vm)).collect();
        self.keeper.order(Order::Vms(vms));
    }

    /// Lets what is on its way arrive, for a moment; the rest is in the spool.
    async fn end(mut self) {
        let arrive = async {
            while !self.sending.is_empty() && self.ready.is_empty() {
                match self.to.replies.recv().await {
                    Some(reply) => self.went_up(&reply),
                    None => return,
                }
            }
        };
        let _ = timeout(FAREWELL, arrive).await;
        let farewell = self
            .registrar
            .as_mut()
            .map(|r| r.farewell(Timestamp::now()));
        for message in farewell.into_iter().flatten() {
            let job = job_of(lease_of(message), self.from.reply.clone());
            // One that finds no room ends by itself.
            let _ = self.from.publisher.jobs.try_send(job);
        }
        self.write_vms();
        self.keeper.end();
        tokio::join!(self.from.end(), self.to.end());
    }
}
