//! A subscription with QoS 1 whose session survives a lost connection, so that what the broker held back
//! meanwhile still comes. It begins anew with each program, unless its [`Manner`] says that the session of an
//! earlier life goes on. What is subscribed to may change while it runs.
//!
//! Where whoever takes messages acknowledges them ([`Manner::manual`]), the broker sends no more than it may have
//! unacknowledged: not to acknowledge is to stop reading, while the connection lives on.
//!
//! ```text
//! connecting ──CONNACK──> connected ──(subscribed before in this session)──> listening
//!     ^                       └────────SUBSCRIBE, SUBACK───────────────────────┘   │
//!     └───────────── any error, after RETRY: what is not acknowledged comes again ─┘
//! ```

mod filters;

use std::collections::BTreeSet;
use std::time::Duration;

use rumqttc::{
    AckMode, AsyncClient, ConnectionError, DisconnectProperties, DisconnectReasonCode, Event,
    EventLoop, Incoming, ManualAck, MqttOptions, NetworkOptions, Outgoing, PubAck, Publish,
    PublishProperties, QoS, SessionMode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use filters::Shared;

use super::resumed::{NothingPending, OUTGOING};
use super::{Broker, BrokerUrl, Failure, Keeper, Kind};
use crate::topic::{KEPT_SECONDS, LEASE_TYPE as CONTENT_TYPE};

/// How long the broker keeps what it could not deliver, in seconds.
const SESSION_EXPIRY_SECONDS: u32 = 300;
/// The same of a session that is to go on in the next life of the program: a week, so that a weekend without it
/// costs nothing that the broker has room for.
const RESUMED_EXPIRY_SECONDS: u32 = 7 * 86_400;
/// The most messages that the broker sends before one of them is acknowledged by hand. With
/// [`MAX_PACKET_BYTES`] it bounds what a broker can make us hold.
pub const MAX_UNACKNOWLEDGED: u16 = 32;
/// Between two attempts to connect: short, so that a Consumer is back before a Producer that waits
/// longer after a broker's restart, and nothing is published to nobody.
const RETRY: Duration = Duration::from_millis(200);
/// A broker that accepts and then says nothing is tried anew after this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A dead connection is noticed within 1.5 times this, in seconds.
const KEEP_ALIVE_SECONDS: u16 = 10;
/// The largest packet accepted, in bytes; ours are split at 256 KiB ([`crate::message`]).
const MAX_PACKET_BYTES: u32 = 4 << 20;
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Steps that wait for whoever takes them; over it the broker is read no further.
const WAITING_STEPS: usize = 64;
/// Requests of ours that wait for the connection; over it, what we publish is refused.
const WAITING_REQUESTS: usize = 256;

/// What the subscription did.
#[derive(Debug)]
pub enum Step {
    /// A message came.
    Message(Publish),
    /// The subscription stands; again after each reconnection, and when what is wanted has changed.
    Listening,
    /// The broker does not let us read this filter; it is asked again on the next connection.
    Denied(String),
    /// The connection is lost or was never there, and why; it is tried again.
    Lost(Failure),
    /// Something that changes nothing for now.
    Notice(String),
}

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel has no random numbers.
    #[error("no random client id: {0}")]
    Random(getrandom::Error),
    /// The client refuses its own options.
    #[error("the MQTT client refuses its options: {0}")]
    Options(String),
}

/// Who subscribes.
#[derive(Clone, Debug)]
pub struct Session {
    name: String,
    id: String,
}

impl Session {
    /// A new random id that begins with `name`. Nobody can guess it to take it over, and it names no host.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn random(name: &str) -> Result<Self, StartError> {
        let random = getrandom::u64().map_err(StartError::Random)?;
        Ok(Self {
            name: name.to_owned(),
            id: format!("{name}-{random:016x}"),
        })
    }

    /// One that is the same in every life of the program, so that the broker keeps nothing for an earlier one.
    pub fn named(id: String) -> Self {
        Self {
            name: id.clone(),
            id,
        }
    }

    /// The client id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// How messages are taken.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// A message is acknowledged when [`Subscription::acknowledge`] says so, and not before.
    pub manual: bool,
    /// Messages come with their flag *retain* as it was published, and of branches that keep the last message of
    /// each topic what is kept comes first.
    pub as_published: bool,
    /// The session of an earlier life of the program goes on, and these are the filters it may hold: what is not
    /// wanted any more is let go.
    pub resumed: Option<BTreeSet<String>>,
}

/// What acknowledges a message, as long as the connection it came on lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    connection: u64,
    packet: u16,
}

/// A subscription that is kept up beside what is done with its messages: an attempt to connect that
/// were given up for each redrawn table would never succeed over a slow network.
pub struct Subscription {
    steps: mpsc::Receiver<Step>,
    filters: Shared,
    client: AsyncClient,
    /// Connections that were lost, of those whose steps have been taken.
    lost: u64,
    task: JoinHandle<()>,
}

impl Subscription {
    /// Begins to subscribe to `filters`.
    ///
    /// # Errors
    /// The options contradict each other.
    pub fn start(
        broker: Broker,
        session: Session,
        filters: BTreeSet<String>,
    ) -> Result<Self, StartError> {
        Self::start_as(broker, session, filters, &Manner::default())
    }

    /// The same, in a manner of its own.
    ///
    /// # Errors
    /// The options contradict each other.
    pub fn start_as(
        broker: Broker,
        session: Session,
        filters: BTreeSet<String>,
        manner: &Manner,
    ) -> Result<Self, StartError> {
        let filters = Shared::new(filters, manner);
        let subscriber = Subscriber::new(broker, session, filters.clone(), manner)?;
        let client = subscriber.client.clone();
        let (sender, steps) = mpsc::channel(WAITING_STEPS);
        let task = tokio::spawn(subscriber.run(sender));
        Ok(Self {
            steps,
            filters,
            client,
            lost: 0,
            task,
        })
    }

    /// The next thing that happens; `None` when the subscription has ended. Cancel-safe.
    pub async fn step(&mut self) -> Option<Step> {
        let step = self.steps.recv().await;
        self.lost += u64::from(matches!(step, Some(Step::Lost(_))));
        step
    }

    /// What acknowledges a message that was the last step; nothing if it needs no acknowledgement.
    pub fn receipt(&self, publish: &Publish) -> Option<Receipt> {
        (publish.qos != QoS::AtMostOnce).then_some(Receipt {
            connection: self.lost,
            packet: publish.pkid,
        })
    }

    /// Acknowledges a message of a [manual](Manner::manual) subscription, in the order in which they came. Whether
    /// it could: not, if its connection is lost, and then it comes again.
    pub fn acknowledge(&self, receipt: Receipt) -> bool {
        // Under the lock, as in another connection the number is another message's.
        let shared = self.filters.lock();
        let ack = ManualAck::PubAck(PubAck::new(receipt.packet, None));
        shared.connected
            && shared.lost == receipt.connection
            && self.client.try_manual_ack(ack).is_ok()
    }

    /// From now on exactly these filters are subscribed to.
    pub fn want(&self, filters: BTreeSet<String>) {
        let mut shared = self.filters.lock();
        shared.wanted = filters;
        if shared.connected {
            shared.reconcile(&self.client);
        }
    }

    /// Publishes with QoS 1 on the same connection. Whether it could be queued: whoever publishes what can
    /// be said again later need not wait.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) -> bool {
        let options = rumqttc::PublishOptions::at_least_once();
        self.client.try_publish(topic, payload, options).is_ok()
    }

    /// The same, and the broker keeps it for who comes later, until another one comes on the topic; an empty one
    /// takes back what is there. A lease that nobody renews is let go after a day.
    pub fn publish_retained(&self, topic: &str, payload: Vec<u8>) -> bool {
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(KEPT_SECONDS),
            content_type: Some(CONTENT_TYPE.to_owned()),
            ..PublishProperties::default()
        };
        let options = rumqttc::PublishOptions::at_least_once();
        let options = options.retained().properties(properties);
        self.client.try_publish(topic, payload, options).is_ok()
    }

    /// Ends the session, so that the broker keeps nothing for us. What was published before is sent first. One that
    /// goes on is only left.
    pub async fn end(self) {
        drop(self.steps);
        // That it panicked has been said on standard error.
        let _ = self.task.await;
    }
}

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none; what it is made with is read first.
    Apart,
    /// It is being made.
    Connecting,
    /// The broker has accepted it.
    Connected,
}

/// One session, over reconnections.
struct Subscriber {
    client: AsyncClient,
    events: EventLoop,
    keeper: Keeper,
    /// What our client ids begin with.
    name: String,
    phase: Phase,
    waiting: bool,
    filters: Shared,
    /// Whether the session goes on when the program has ended.
    resumes: bool,
}

impl Subscriber {
    fn new(
        broker: Broker,
        session: Session,
        filters: Shared,
        manner: &Manner,
    ) -> Result<Self, StartError> {
        let (client, events) = AsyncClient::builder(options(session.id, broker.url(), manner))
            .capacity(WAITING_REQUESTS)
            .try_build()
            .map_err(|error| StartError::Options(error.to_string()))?;
        Ok(Self {
            client,
            events,
            keeper: Keeper::new(broker),
            name: session.name,
            phase: Phase::Apart,
            waiting: false,
            filters,
            resumes: manner.resumed.is_some(),
        })
    }

    /// Passes on what happens until nobody wants it any more, then ends the session.
    async fn run(mut self, steps: mpsc::Sender<Step>) {
        'session: loop {
            let happened = tokio::select! {
                () = steps.closed() => break,
                happened = self.step() => happened,
            };
            for step in happened {
                if steps.send(step).await.is_err() {
                    break 'session;
                }
            }
        }
        self.end().await;
    }

    async fn step(&mut self) -> Vec<Step> {
        if self.waiting {
            tokio::time::sleep(RETRY).await;
            self.waiting = false;
        }
        if self.phase == Phase::Apart {
            match self.prepare() {
                Ok(None) => {}
                Ok(Some(notice)) => return vec![Step::Notice(notice)],
                Err(failure) => return vec![self.lost(failure)],
            }
        }
        match self.events.poll().await {
            Ok(event) => self.take(event),
            Err(error) => {
                // The broker knows of more than we do, and we of nothing: both begin anew.
                if matches!(error, ConnectionError::SessionStateMismatch { .. }) {
                    self.events.options.set_clean_start(true);
                }
                let connected = self.phase == Phase::Connected;
                let failure = Failure::of(&error, self.keeper.broker(), connected);
                if failure.kind == Kind::TakenOver && !self.resumes {
                    self.become_another();
                }
                vec![self.lost(failure)]
            }
        }
    }

    /// Somebody knows our client id: with another one he cannot end our next connection too. What the broker held for
    /// us is his to read then, as far as its ACL lets him, or gone. A session that is to go on has no other id.
    fn become_another(&mut self) {
        let Ok(other) = Session::random(&self.name) else {
            return;
        };
        let options = &mut self.events.options;
        options.set_client_id(other.id).set_clean_start(true);
    }

    fn take(&mut self, event: Event) -> Vec<Step> {
        let mut filters = self.filters.lock();
        let mut steps = Vec::new();
        match event {
            Event::Incoming(Incoming::Publish(publish)) => return vec![Step::Message(publish)],
            Event::Incoming(Incoming::ConnAck(ack)) => {
                (self.phase, filters.connected) = (Phase::Connected, true);
                self.events.options.set_clean_start(false);
                if !ack.session_present {
                    filters.forget();
                }
            }
            Event::Outgoing(Outgoing::Subscribe(packet)) => {
                if let Some(chunk) = filters.queued.pop_front() {
                    filters.sent.insert(packet, chunk);
                }
                return steps;
            }
            Event::Incoming(Incoming::SubAck(ack)) => {
                let denied = filters.answered(ack.pkid, &ack.return_codes);
                steps.extend(denied.into_iter().map(Step::Denied));
            }
            // What did not fit into the queue of requests is tried again.
            Event::Incoming(Incoming::PingResp) => {
                filters.reconcile(&self.client);
                return steps;
            }
            _ => return steps,
        }
        filters.reconcile(&self.client);
        steps.extend(filters.stands().then_some(Step::Listening));
        steps
    }

    /// Reads what the next connection is made with; what there is to say of it.
    fn prepare(&mut self) -> Result<Option<String>, Failure> {
        let renewal = self.keeper.renew()?;
        renewal.entry.apply(&mut self.events.options);
        self.phase = Phase::Connecting;
        let broken = renewal.broken.filter(|_| renewal.news);
        Ok(broken.map(|error| format!("{error}; what was read before is used")))
    }

    fn lost(&mut self, failure: Failure) -> Step {
        (self.waiting, self.phase) = (true, Phase::Apart);
        let mut filters = self.filters.lock();
        filters.connected = false;
        filters.lost += 1;
        filters.unanswered();
        Step::Lost(failure)
    }

    async fn end(mut self) {
        let reason = DisconnectReasonCode::NormalDisconnection;
        let client = &self.client;
        let left = match self.resumes {
            true => client.try_disconnect(),
            false => client.try_disconnect_with_properties_timeout(reason, forgotten(), FAREWELL),
        };
        if self.waiting || left.is_err() {
            return;
        }
        let drained = async { while self.events.poll().await.is_ok() {} };
        // A broker that does not answer lets the session expire by itself.
        let _ = tokio::time::timeout(FAREWELL, drained).await;
    }
}

/// A farewell after which the broker keeps nothing.
fn forgotten() -> DisconnectProperties {
    DisconnectProperties {
        session_expiry_interval: Some(0),
        reason_string: None,
        user_properties: vec![],
        server_reference: None,
    }
}

fn options(id: String, broker: &BrokerUrl, manner: &Manner) -> MqttOptions {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let mut options = MqttOptions::new(id, (broker.host.as_str(), broker.port));
    options
        .set_keep_alive(KEEP_ALIVE_SECONDS)
        .set_session_mode(SessionMode::Persistent)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_SECONDS))
        // Until the first CONNACK was read; one that was lost on its way began a session all the same.
        .set_clean_start(true)
        .set_receive_maximum(Some(u16::MAX))
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_connect_timeout(CONNECT_TIMEOUT)
        .set_network_options(network);
    if manner.manual {
        options
            .set_ack_mode(AckMode::Manual)
            .set_receive_maximum(Some(MAX_UNACKNOWLEDGED))
            .set_read_batch_size(usize::from(MAX_UNACKNOWLEDGED));
    }
    if manner.resumed.is_some() {
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(RESUMED_EXPIRY_SECONDS))
            .set_outgoing_inflight_upper_limit(OUTGOING)
            .set_session_store(NothingPending {
                expiry_seconds: RESUMED_EXPIRY_SECONDS,
                manual: manner.manual,
            });
    }
    options
}
