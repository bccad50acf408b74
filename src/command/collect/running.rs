//! A running collect: the broker on one side, the writer on the other, and confirmations back.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use rumqttc::Publish;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use vmkpi::broker::Broker;
use vmkpi::broker::subscription::{Session, Step, Subscription};
use vmkpi::clock::Timestamp;
use vmkpi::directory::registrar::Message;
use vmkpi::directory::{DEFAULT_LEASE_SECONDS, Heard, Registrar, Role};
use vmkpi::message::data_filter;

use super::Plan;
use super::api;
use super::confirming::Confirmer;
use super::keeper::{Keeper, Rules};
use super::keys::{self, Keys};
use super::metrics::Shared;
use super::writer::{Said, Writer};
use crate::command::database::{Database, number};
use crate::command::directory::producers;
use crate::command::directory::reader::Reader;
use crate::command::print::Console;
use crate::command::stop::Stop;
use crate::command::watch::denied;
use crate::command::watch::intake::Intake;

/// How long what is to be confirmed is gathered: as long as a host waits between two acknowledgements to a guest.
const GATHER: Duration = Duration::from_millis(100);

/// Collects until `stop` says so.
///
/// # Errors
/// The database or the broker cannot be used at all.
pub(super) async fn run(plan: Plan, console: &mut Console, stop: &mut Stop) -> anyhow::Result<()> {
    let database = Database::open(&plan.db, &super::SCHEMA)?;
    let session = Session::named(format!("vmkpi-collect-{}", database.id));
    let rules = Rules {
        asks: plan.named.is_some(),
        restored: plan.restored,
    };
    let last = number(&database.connection, "issued").context(plan.db.display().to_string())?;
    let registrar = plan.named.as_ref().map(|(name, key)| {
        let (name, key) = (name.clone(), Arc::clone(key));
        let lease = DEFAULT_LEASE_SECONDS;
        // Everything is taken: of the site that is named, or of each that is heard of.
        let mut registrar = Registrar::new(name, Role::Collect, Vec::new(), key, lease);
        plan.site.iter().for_each(|site| registrar.join(site));
        registrar
    });
    let confirmer = plan
        .named
        .map(|(name, key)| Confirmer::new(name, key, last));
    let issued = confirmer
        .as_ref()
        .map_or_else(|| Arc::new(AtomicU64::new(last)), Confirmer::issued);
    let (said, hears) = mpsc::unbounded_channel();
    let keeper = Keeper::new(database.connection, rules).context(plan.db.display().to_string())?;
    let writer = Writer::start(keeper, plan.limits, issued, said)?;
    let site = plan.site.as_ref();
    let filters = [data_filter(site, None), producers(site, None)];
    let subscription = Subscription::start(plan.broker.clone(), session, filters.into())?;
    let shared = Arc::new(Shared::new(Arc::clone(&writer.status)));
    let serving = match plan.listen {
        Some(address) => Some(api::start(address, &plan.db, Arc::clone(&shared), console).await?),
        None => None,
    };
    let mut keys = plan.keys;
    let trust = keys.take();
    let mut collect = Collect {
        broker: plan.broker,
        reader: Reader::new(&trust),
        registrar,
        intake: Intake::new(None, trust),
        keys,
        writer,
        confirmer,
        trouble: None,
        ever: false,
        shared,
    };
    collect.say_who(console);
    let result = collect.follow(subscription, hears, console, stop).await;
    if let Some(serving) = serving {
        serving.abort();
    }
    collect.intake.report(console);
    collect.reader.report(console);
    collect.writer.end();
    drop(database.lock);
    result
}

struct Collect {
    broker: Broker,
    /// Who delivers.
    reader: Reader,
    /// How we are found, if we have a name.
    registrar: Option<Registrar>,
    intake: Intake,
    keys: Keys,
    writer: Writer,
    confirmer: Option<Confirmer>,
    /// Why nothing comes, as said last.
    trouble: Option<String>,
    /// Whether the subscription ever stood.
    ever: bool,
    shared: Arc<Shared>,
}

impl Collect {
    fn say_who(&self, console: &mut Console) {
        match &self.confirmer {
            Some(confirmer) => console.say(&confirmer.to_string()),
            None => console.say(
                "without --name and --sign-key-file nothing is confirmed: guests do not wait for this collect, and what \
                 it misses is noted as a gap",
            ),
        }
    }

    async fn follow(
        &mut self,
        mut subscription: Subscription,
        mut hears: mpsc::UnboundedReceiver<Said>,
        console: &mut Console,
        stop: &mut Stop,
    ) -> anyhow::Result<()> {
        let mut gather = interval(GATHER);
        gather.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(keys::LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                () = stop.wait() => break Ok(()),
                _ = look.tick() => self.keys.begin(),
                Some(trust) = self.keys.read_again(console) => {
                    self.reader.believe(&trust);
                    self.intake.believe(trust);
                }
                Some(said) = hears.recv() => self.hear(said, console),
                _ = gather.tick() => {
                    self.shared.note_intake(self.intake.counts());
                    self.confirm(&subscription);
                    self.register(&subscription);
                }
                step = subscription.step() => {
                    let step = step.context("the subscription has ended")?;
                    if let Err(error) = self.take(step, console).await {
                        break Err(error);
                    }
                }
            }
        };
        self.confirm(&subscription);
        if let Some(registrar) = &mut self.registrar {
            say(registrar.farewell(Timestamp::now()), &subscription);
        }
        subscription.end().await;
        result
    }

    async fn take(&mut self, step: Step, console: &mut Console) -> anyhow::Result<()> {
        match step {
            Step::Message(publish) if Reader::is_entry(&publish) => {
                self.take_entry(&publish, console);
            }
            Step::Message(publish) => self.take_message(&publish, console).await,
            Step::Listening => {
                let was = self.shared.connected.swap(true, Relaxed);
                self.ever = true;
                if let Some(registrar) = &mut self.registrar {
                    registrar.again();
                }
                if self.trouble.take().is_some() || !was {
                    console.say(&format!("connected to {}", self.broker));
                }
            }
            Step::Denied(filter) if Reader::is_filter(&filter) => console.say(&format!(
                "{}: the broker does not let us read {filter}: whose lease expires is not known",
                self.broker
            )),
            Step::Denied(filter) => return Err(denied(&self.broker, &filter)),
            Step::Notice(text) => console.say(&format!("{}: {text}", self.broker)),
            Step::Lost(reason) => {
                self.shared.connected.store(false, Relaxed);
                self.shared.count_broker_error(reason.kind);
                if reason.kind.needs_somebody() && !self.ever {
                    anyhow::bail!("{}: {reason}", self.broker);
                }
                // Said once for each trouble, not for each attempt.
                if self.trouble.as_ref() != Some(&reason.message) {
                    console.say(&format!(
                        "{}: {}; trying again",
                        self.broker, reason.message
                    ));
                }
                self.trouble = Some(reason.message);
            }
        }
        Ok(())
    }

    async fn take_message(&mut self, publish: &Publish, console: &mut Console) {
        let read = self.intake.read(publish, console);
        let Some(event) = read else { return };
        if let Some(registrar) = &mut self.registrar {
            registrar.join(&event.site);
        }
        let bytes = publish.payload.len();
        let room = match self.confirmer {
            // What finds no room is asked for again; the broker must not wait for a full disk.
            Some(_) => self.writer.try_room(bytes),
            // Nobody sends it again: the broker waits, and keeps it as long as it does.
            None => self.writer.room(bytes).await,
        };
        if !room.is_some_and(|room| self.writer.put(event, room)) {
            self.shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Who delivers has changed: it is written down, and we are found at its site from now on.
    fn take_entry(&mut self, publish: &Publish, console: &mut Console) {
        let Some((topic, heard)) = self.reader.take(publish, Timestamp::now(), console) else {
            return;
        };
        let lease = self.reader.directory.lease(&topic);
        if let Some(lease) = lease.filter(|_| heard != Heard::Repeated) {
            let left = heard == Heard::Left || lease.term.is_farewell();
            self.shared.leases().note(lease, left);
            if let Some(registrar) = &mut self.registrar {
                registrar.join(&lease.subject.site);
            }
        }
    }

    /// Says that we are here, where that is to be said again.
    fn register(&mut self, subscription: &Subscription) {
        self.shared.note_entries(self.reader.directory.refused());
        if let Some(registrar) = &mut self.registrar {
            say(registrar.due(Timestamp::now()), subscription);
        }
    }

    fn hear(&mut self, said: Said, console: &mut Console) {
        match said {
            Said::Kept(kept) => {
                if let Some(confirmer) = &mut self.confirmer {
                    confirmer.add(kept.stands);
                }
            }
            Said::Failing(error) => console.say(&format!(
                "nothing can be kept, so nothing is confirmed until it can: {error}"
            )),
            Said::Recovered => console.say("messages are kept again"),
        }
    }

    fn confirm(&mut self, subscription: &Subscription) {
        let Some(confirmer) = &mut self.confirmer else {
            return;
        };
        for (topic, payload) in confirmer.flush(Timestamp::now()) {
            let count = match subscription.publish(&topic, payload) {
                true => &self.shared.confirmations,
                false => &self.shared.unsaid,
            };
            count.fetch_add(1, Relaxed);
        }
    }
}

/// Publishes entries of our own. One that cannot be queued expires, and is said again with the next connection.
fn say(messages: Vec<Message>, subscription: &Subscription) {
    for (topic, payload) in messages {
        subscription.publish_retained(&topic, payload);
    }
}
