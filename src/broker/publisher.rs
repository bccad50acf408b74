//! The publisher: one connection to the broker for everything a program publishes with QoS 1. A message is
//! handed in as a [`Job`] and comes back as a [`Reply`] when the broker has acknowledged it. Until then the publisher keeps it,
//! and sends it again on every new connection: rumqttc's own session is thrown away with each one.
//!
//! ```text
//!            CONNACK                     1 s, if it is a re-connection
//! connecting ───────> connected ───────────────────────────────────────> publishing
//!     ^                   │                                                  │
//!     └── backoff ────────┴───────── error, keep-alive, closed ──────────────┘
//! ```
//! Nothing is on disk here: while there is no broker the window stays full, and whoever hands in messages keeps
//! what it has: a host's rows stay in the guests, a relay's messages in its spool.

mod connection;
mod denied;
mod publishing;
mod recent;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Broker, Kind};
use crate::delivery::producer::Token;
use crate::message::CONTENT_TYPE;
use crate::topic::{KEPT_SECONDS, LEASE_TYPE};

pub use rumqttc::PublishProperties as Properties;

/// For the log's filter: rumqttc warns of every refused message. What it has to say is returned to us too,
/// and said once.
pub const QUIET: &str = "rumqttc=off";

/// Messages that wait in the channel to the publisher, over those it keeps.
const CHANNEL: usize = 64;
/// The most messages sent and not yet acknowledged; the broker may allow fewer.
const MAX_IN_FLIGHT: usize = 1000;

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Whether the broker is to keep it for those who come later.
    pub retain: bool,
    /// What is said beside it.
    pub properties: Properties,
    /// Which of the sender's producers it is of.
    pub lane: u64,
    /// What the producer calls it.
    pub token: Token,
    /// Where to say what became of it.
    pub reply: mpsc::UnboundedSender<Reply>,
}

/// What is said beside a message of ours ([`crate::message`]): it is JSON, and what kind of.
pub fn event_properties() -> Properties {
    Properties {
        payload_format_indicator: Some(1),
        content_type: Some(CONTENT_TYPE.to_owned()),
        ..Properties::default()
    }
}

/// What is said beside a lease ([`crate::directory`]), which the broker keeps, and lets go after a day.
pub fn lease_properties() -> Properties {
    Properties {
        message_expiry_interval: Some(KEPT_SECONDS),
        content_type: Some(LEASE_TYPE.to_owned()),
        ..event_properties()
    }
}

/// What became of a message.
#[derive(Debug)]
pub struct Reply {
    /// Which of the sender's producers it was of.
    pub lane: u64,
    /// What the producer calls it.
    pub token: Token,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Debug)]
pub enum Outcome {
    /// The broker has acknowledged it.
    Acknowledged,
    /// It can never be delivered: too large, or of a form the broker refuses.
    Refused,
    /// The broker refuses it for now, for want of permission or room; hand it in again later.
    Deferred(Box<Job>),
}

/// Why a message can never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is larger than the broker takes.
    TooLarge,
    /// MQTT has no such topic.
    Topic,
    /// The broker refuses it for good.
    Broker,
    /// It ended one connection after the other.
    EndsConnection,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::TooLarge,
        Self::Topic,
        Self::Broker,
        Self::EndsConnection,
    ];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Topic => "topic",
            Self::Broker => "broker",
            Self::EndsConnection => "ends_connection",
        }
    }
}

/// What the publisher does, for the exporter.
#[derive(Debug, Default)]
pub struct Status {
    connected: AtomicBool,
    connects: AtomicU64,
    failures: [AtomicU64; Kind::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    kept: AtomicU64,
    repeated: AtomicU64,
    deferred: AtomicU64,
}

impl Status {
    /// Whether the broker is connected.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Connections that were opened.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Connections that failed or broke, and renewals that did.
    pub fn failures(&self, kind: Kind) -> u64 {
        self.failures[kind as usize].load(Ordering::Relaxed)
    }

    fn failed(&self, kind: Kind) {
        self.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Messages that can never be delivered.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Messages that are kept until they are acknowledged.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Messages sent again on another connection.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Messages the broker refused for now.
    pub fn deferred(&self) -> u64 {
        self.deferred.load(Ordering::Relaxed)
    }
}

/// A handle to the running publisher.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// Hands in messages; waits while the publisher has as many as it keeps.
    pub jobs: mpsc::Sender<Job>,
    /// What it does.
    pub status: Arc<Status>,
}

impl Publisher {
    /// Starts to publish to `broker`. It runs until every handle is dropped, then says goodbye to
    /// the broker and ends.
    pub fn start(broker: Broker) -> (Self, JoinHandle<()>) {
        let (jobs, inbox) = mpsc::channel(CHANNEL);
        let status = Arc::new(Status::default());
        let task = tokio::spawn(publishing::run(broker, inbox, Arc::clone(&status)));
        (Self { jobs, status }, task)
    }
}
