//! The MQTT side of `watch`: a session with QoS 1 that survives a lost connection, so that what the
//! broker held back meanwhile still comes.
//!
//! ```text
//! connecting ──CONNACK──> connected ──(subscribed before in this session)──> listening
//!     ^                       └────────SUBSCRIBE, SUBACK───────────────────────┘   │
//!     └───────────── any error, after RETRY: what is not acknowledged comes again ─┘
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rumqttc::{
    AsyncClient, BrokerSessionResumePolicy, DisconnectProperties, DisconnectReasonCode, Event,
    EventLoop, Incoming, MqttOptions, NetworkOptions, Publish, QoS, RetainForwardRule, SessionMode,
    SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use vmkpi::broker::{Broker, BrokerUrl, Failure, Keeper};

/// How long the broker keeps what it could not deliver, in seconds.
const SESSION_EXPIRY_SECONDS: u32 = 300;
/// Between two attempts to connect: short, so that a Consumer is back before a Producer that waits
/// longer after a broker's restart, and nothing is published to nobody.
const RETRY: Duration = Duration::from_millis(200);
/// A broker that accepts and then says nothing is tried anew after this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A dead connection is noticed within 1.5 times this, in seconds.
const KEEP_ALIVE_SECONDS: u16 = 10;
/// The largest packet accepted, in bytes; ours are split at 256 KiB (`vmkpi::message`).
const MAX_PACKET_BYTES: u32 = 4 << 20;
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the subscription did.
#[derive(Debug)]
pub enum Step {
    /// A message came.
    Message(Publish),
    /// The subscription stands; again after each reconnection.
    Listening,
    /// The connection is lost or was never there, and why; it is tried again.
    Lost(Failure),
    /// Something that changes nothing for now.
    Notice(String),
}

/// Steps that wait for whoever shows them; over it the broker is read no further.
const WAITING_STEPS: usize = 64;

/// A subscription that is kept up beside what is done with its messages: an attempt to connect that
/// were given up for each redrawn table would never succeed over a slow network.
pub struct Subscription {
    steps: mpsc::Receiver<Result<Step>>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// Begins to subscribe to `filter`.
    ///
    /// # Errors
    /// There are no random numbers, or the options contradict each other.
    pub fn start(broker: Broker, filter: String) -> Result<Self> {
        let subscriber = Subscriber::new(broker, filter)?;
        let (sender, steps) = mpsc::channel(WAITING_STEPS);
        let task = tokio::spawn(subscriber.run(sender));
        Ok(Self { steps, task })
    }

    /// The next thing that happens. Cancel-safe.
    ///
    /// # Errors
    /// The broker refuses what we subscribe to.
    pub async fn step(&mut self) -> Result<Step> {
        let step = self.steps.recv().await;
        step.unwrap_or_else(|| Err(anyhow!("the subscription has ended")))
    }

    /// Ends the session, so that the broker keeps nothing for us.
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
    filter: String,
    phase: Phase,
    /// Whether this session's subscription was confirmed.
    subscribed: bool,
    waiting: bool,
}

impl Subscriber {
    fn new(broker: Broker, filter: String) -> Result<Self> {
        let (client, events) = AsyncClient::builder(options(broker.url())?)
            .try_build()
            .context("the MQTT client refuses its options")?;
        Ok(Self {
            client,
            events,
            keeper: Keeper::new(broker),
            filter,
            phase: Phase::Apart,
            subscribed: false,
            waiting: false,
        })
    }

    /// Passes on what happens until nobody wants it any more, then ends the session.
    async fn run(mut self, steps: mpsc::Sender<Result<Step>>) {
        loop {
            let step = tokio::select! {
                () = steps.closed() => break,
                step = self.step() => step,
            };
            let over = step.is_err();
            if steps.send(step).await.is_err() || over {
                break;
            }
        }
        self.end().await;
    }

    async fn step(&mut self) -> Result<Step> {
        if self.waiting {
            tokio::time::sleep(RETRY).await;
            self.waiting = false;
        }
        if self.phase == Phase::Apart {
            match self.prepare() {
                Ok(None) => {}
                Ok(Some(notice)) => return Ok(Step::Notice(notice)),
                Err(failure) => return Ok(self.lost(failure)),
            }
        }
        self.follow().await
    }

    /// Follows the connection until something happens.
    async fn follow(&mut self) -> Result<Step> {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    return Ok(Step::Message(publish));
                }
                Ok(Event::Incoming(Incoming::ConnAck(ack))) => {
                    self.phase = Phase::Connected;
                    self.subscribed &= ack.session_present;
                    if self.subscribed {
                        return Ok(Step::Listening);
                    }
                    self.subscribe()?;
                }
                Ok(Event::Incoming(Incoming::SubAck(ack))) => {
                    if !matches!(ack.return_codes[..], [SubscribeReasonCode::Success(_)]) {
                        bail!(
                            "{}: the broker refuses the subscription {:?}; its ACL must allow reading that",
                            self.keeper.broker(),
                            self.filter
                        );
                    }
                    self.subscribed = true;
                    return Ok(Step::Listening);
                }
                Ok(_) => {}
                Err(error) => {
                    let connected = self.phase == Phase::Connected;
                    let failure = Failure::of(&error, self.keeper.broker(), connected);
                    return Ok(self.lost(failure));
                }
            }
        }
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
        Step::Lost(failure)
    }

    fn subscribe(&self) -> Result<()> {
        let mut filter = SubscribeFilter::new(&self.filter, QoS::AtLeastOnce);
        // Samples are never retained; one that is would be stale.
        filter.retain_forward_rule = RetainForwardRule::Never;
        self.client
            .try_subscribe_many([filter])
            .context("the subscription cannot be sent")
    }

    async fn end(mut self) {
        let farewell = DisconnectProperties {
            session_expiry_interval: Some(0),
            reason_string: None,
            user_properties: vec![],
            server_reference: None,
        };
        let reason = DisconnectReasonCode::NormalDisconnection;
        if self.waiting
            || self
                .client
                .try_disconnect_now_with_properties(reason, farewell)
                .is_err()
        {
            return;
        }
        let drained = async { while self.events.poll().await.is_ok() {} };
        // A broker that does not answer lets the session expire by itself.
        let _ = tokio::time::timeout(FAREWELL, drained).await;
    }
}

fn options(broker: &BrokerUrl) -> Result<MqttOptions> {
    let random = getrandom::u64().map_err(|e| anyhow!("no random client id: {e}"))?;
    // Names no host and nobody else's session.
    let id = format!("vmkpi-watch-{random:016x}");
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let mut options = MqttOptions::new(id, (broker.host.as_str(), broker.port));
    options
        .set_keep_alive(KEEP_ALIVE_SECONDS)
        .set_session_mode(SessionMode::Persistent)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_SECONDS))
        // A connection may be lost between the broker's CONNACK and our reading it.
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_receive_maximum(Some(u16::MAX))
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_connect_timeout(CONNECT_TIMEOUT)
        .set_network_options(network);
    Ok(options)
}
