//! The link: one thread that speaks with one host at a time. What the host sends is taken to be hostile:
//! lines are bounded, answers are bounded by what the host reads, and lines of another session are dropped.
//!
//! ```text
//! no host ── connects ──> silent ── hello ──> greeted ── subscribe ──> pushing rows and marks
//!    ^                      ^                    │                       │
//!    └── hangs up, replaced ┴──── rehello ───────┴── a key was refuted ──┘
//! ```
//!
//! Where the host is, the context may say ([`course`]); an endpoint that it names is tried beside the one in force
//! ([`prospect`]).
//!
//! | module | job |
//! | --- | --- |
//! | [`server`] | the thread: waits, hears, sends, and follows the context |
//! | [`session`], [`lines`] | what is said, without a socket |
//! | [`transport`], [`dial`], [`resolve`] | how a connection comes about |
//! | [`connection`] | bytes in and out of one |

mod connection;
mod course;
mod dial;
mod lines;
mod prospect;
mod resolve;
mod server;
mod session;
mod transport;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::link::{HOST_SILENCE_MS, LinkUrl};
use vmkpi::tls::MutualFiles;

use crate::context::guidance::Guide;
use crate::counters::Counters;
use crate::feed::Feed;
use crate::protection::Policy;
use crate::store::Store;
use server::Server;

/// What the image says of the link.
#[derive(Clone, Debug, Default)]
pub struct LinkConfig {
    /// Where the host is, unless the context says otherwise.
    pub url: LinkUrl,
    /// What to show a host on a network, and whom to believe there.
    pub files: Option<MutualFiles>,
    /// What is not delivered from everywhere.
    pub policy: Policy,
}

/// What `status` shows of the link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LinkState {
    /// Whether a host is connected.
    pub connected: bool,
    /// How many tables it has subscribed to.
    pub subscribed_tables: usize,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The last message of it.
    pub last_message: Option<Timestamp>,
    /// The version of the link that the host speaks, where it is another than ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_version: Option<u32>,
    /// Why there is no connection, if the link itself is the reason.
    pub problem: Option<String>,
    /// The endpoint in force.
    pub endpoint: String,
    /// Whether the context names it, and not the image.
    pub of_context: bool,
    /// The endpoint that should be in force, and is not yet.
    pub wanted: Option<Wanted>,
    /// What is not delivered from here.
    pub held: Option<Held>,
}

/// An endpoint that should be in force, and is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Where it is; what the context says, if that cannot be gone by.
    pub endpoint: String,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not in force; absent while it is tried for the first time.
    pub problem: Option<String>,
}

/// Points that are held, as the VM runs where the policy does not allow them to be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub points: Vec<String>,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

/// The running link.
pub struct Link {
    state: Arc<Mutex<LinkState>>,
    stop: Arc<AtomicBool>,
    feed: Arc<Feed>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Link {
    /// Opens the link and starts its thread, which follows what `guide` says from then on.
    ///
    /// # Errors
    /// A Unix socket cannot be made, or there are no certificates for a host on a network. A port or a host that is
    /// not there is waited for.
    pub fn start(
        config: LinkConfig,
        store: Store,
        feed: Arc<Feed>,
        counters: Arc<Counters>,
        guide: Arc<Guide>,
    ) -> anyhow::Result<Self> {
        let silence = Duration::from_millis(HOST_SILENCE_MS);
        Self::start_patient(config, (store, feed, counters), guide, silence)
    }

    /// The same, with a host that is hung up on after another `silence`.
    fn start_patient(
        config: LinkConfig,
        (store, feed, counters): (Store, Arc<Feed>, Arc<Counters>),
        guide: Arc<Guide>,
        silence: Duration,
    ) -> anyhow::Result<Self> {
        let state = Arc::new(Mutex::new(LinkState::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let parts = (store, Arc::clone(&feed), counters, guide);
        let server = Server::new(config, parts, Arc::clone(&state), silence)?;
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || server.run(&stopping))?;
        Ok(Self {
            state,
            stop,
            feed,
            thread: Some(thread),
        })
    }

    /// What `status` shows.
    pub fn state(&self) -> LinkState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Hangs up and ends the thread.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.feed.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the link's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
