//! The link: one thread that speaks with one host at a time. What the host sends is taken to be hostile:
//! lines are bounded, answers are bounded by what the host reads, and lines of another session are dropped.
//!
//! ```text
//! no host ── connects ──> silent ── hello ──> greeted ── subscribe ──> pushing rows and marks
//!    ^                      ^                    │                       │
//!    └── hangs up, replaced ┴──── rehello ───────┴── a key was refuted ──┘
//! ```

mod lines;
mod session;
mod transport;

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::link::{Budget, HOST_SILENCE_MS, HostMessage, LinkUrl};

use crate::counters::Counters;
use crate::feed::Feed;
use crate::store::Store;
use session::Session;
use transport::{Connection, Transport};

/// How often marks are sent.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the thread sleeps at the most while there is nothing to wait on.
const IDLE: Duration = Duration::from_millis(250);

/// Messages of the host handled before rows are sent again.
const MESSAGES_PER_TURN: usize = 64;

/// Bytes waiting to be sent above which the host is not listened to: it reads what it asked for first.
const DEAF_ABOVE_BYTES: usize = 1 << 20;

/// The part of the time that may go into what the host says, and the seconds of it at once. Whatever a host sends,
/// stores have the rest: over it, the host is not listened to for a while.
const LISTENING: (f64, f64) = (0.5, 1.0);

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
    /// Why there is no connection, if the link itself is the reason.
    pub problem: Option<String>,
}

/// The running link.
pub struct Link {
    state: Arc<Mutex<LinkState>>,
    stop: Arc<AtomicBool>,
    feed: Arc<Feed>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Link {
    /// Opens the link and starts its thread.
    ///
    /// # Errors
    /// A Unix socket cannot be made. A port that is not there is waited for.
    pub fn start(
        url: &LinkUrl,
        store: Store,
        feed: Arc<Feed>,
        counters: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let silence = Duration::from_millis(HOST_SILENCE_MS);
        Self::start_patient(url, store, feed, counters, silence)
    }

    /// The same, with a host that is hung up on after another `silence`.
    fn start_patient(
        url: &LinkUrl,
        store: Store,
        feed: Arc<Feed>,
        counters: Arc<Counters>,
        silence: Duration,
    ) -> anyhow::Result<Self> {
        let transport = Transport::open(url)?;
        let state = Arc::new(Mutex::new(LinkState::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let server = Server {
            transport,
            session: Session::new(store, Arc::clone(&feed), Arc::clone(&counters)),
            connection: None,
            feed: Arc::clone(&feed),
            counters,
            state: Arc::clone(&state),
            next_marks: Instant::now(),
            silence,
            heard: Instant::now(),
            listening: Budget::new(LISTENING.1, LISTENING.0, Instant::now()),
        };
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

struct Server {
    transport: Transport,
    session: Session,
    connection: Option<Connection>,
    feed: Arc<Feed>,
    counters: Arc<Counters>,
    state: Arc<Mutex<LinkState>>,
    next_marks: Instant,
    /// How long a host may say nothing.
    silence: Duration,
    /// When it last said something, or was not listened to.
    heard: Instant,
    /// Seconds that go into what the host says.
    listening: Budget,
}

impl Server {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            self.wait();
            self.accept();
            let alive = self.turn();
            if !alive {
                self.hang_up();
            }
        }
        self.transport.close();
    }

    /// Sleeps until something is there to do.
    fn wait(&self) {
        let mut fds = vec![PollFd::new(self.feed.as_fd(), PollFlags::POLLIN)];
        if let Some(listener) = self.transport.listener() {
            fds.push(PollFd::new(listener, PollFlags::POLLIN));
        }
        if let Some(connection) = &self.connection {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, self.listens_to(connection));
            events.set(PollFlags::POLLOUT, connection.unsent() > 0);
            // A port without a reader hangs up for as long as there is none, and a host that is not listened to
            // may have: polling either would spin.
            if !connection.is_idle_port() && !events.is_empty() {
                fds.push(PollFd::new(connection.as_fd(), events));
            }
        }
        let timeout = PollTimeout::try_from(self.patience()).unwrap_or(PollTimeout::ZERO);
        // Interrupted or not: the turn that follows looks at everything.
        let _ = poll(&mut fds, timeout);
    }

    /// How long there is nothing to do unless somebody says so.
    fn patience(&self) -> Duration {
        let Some(connection) = &self.connection else {
            return IDLE;
        };
        let waits = connection.has_more() || connection.unheard;
        if (waits && self.listens_to(connection)) || self.session.has_more(connection.unsent()) {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let rest = self.rests_until().unwrap_or(self.next_marks);
        IDLE.min(self.next_marks.saturating_duration_since(now))
            .min(rest.saturating_duration_since(now))
    }

    /// Until when the host is not listened to, for what it has cost.
    fn rests_until(&self) -> Option<Instant> {
        let until = self
            .listening
            .in_debt_until()
            .max(self.session.rests_until());
        until.filter(|until| *until > Instant::now())
    }

    /// What was heard is answered before more is taken in: neither side of it can pile up.
    fn listens_to(&self, connection: &Connection) -> bool {
        connection.unsent() < DEAF_ABOVE_BYTES
            && !self.session.is_full()
            && self.rests_until().is_none()
    }

    fn accept(&mut self) {
        match self.transport.accept(self.connection.is_some()) {
            Ok(Some(connection)) => {
                if self.connection.is_some() {
                    tracing::debug!("another host has connected: the newest is spoken with");
                }
                self.hang_up();
                self.connection = Some(connection);
                self.heard = Instant::now();
                self.note(|state| {
                    state.problem = None;
                    state.connected = true;
                    state.since = Some(Timestamp::now());
                });
            }
            Ok(None) => {}
            Err(error) => self.note(|state| state.problem = Some(error.to_string())),
        }
    }

    /// One turn: hear, answer, push, promise, send. Says whether the host is still there.
    fn turn(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else {
            return true;
        };
        let alive = self.converse(&mut connection);
        self.connection = Some(connection);
        alive
    }

    fn converse(&mut self, connection: &mut Connection) -> bool {
        let now = Instant::now();
        let listens = self.listens_to(connection);
        if listens && !connection.unheard && !connection.receive() {
            return false;
        }
        if connection.is_idle_port() {
            self.session.end();
        }
        let heard = listens && self.hear(connection);
        if heard || !listens || connection.is_idle_port() {
            self.heard = now;
        } else if now.duration_since(self.heard) > self.silence {
            tracing::info!("the host has said nothing for long and is hung up on");
            return false;
        }
        self.session.push(&mut connection.out);
        if now >= self.next_marks {
            self.session.promise(&mut connection.out);
            self.next_marks = now + MARK_INTERVAL;
        }
        let alive = connection.send();
        let tables = self.session.subscribed();
        self.note(|state| {
            state.subscribed_tables = tables;
            if heard {
                state.last_message = Some(Timestamp::now());
            }
        });
        alive
    }

    /// Hears what has arrived; says whether any of it was meant.
    fn hear(&mut self, connection: &mut Connection) -> bool {
        let begun = Instant::now();
        let mut heard = false;
        connection.unheard = true;
        for _ in 0..MESSAGES_PER_TURN {
            if connection.unsent() >= DEAF_ABOVE_BYTES || self.session.is_full() {
                break;
            }
            match connection.reader.next_message::<HostMessage>() {
                None => {
                    connection.unheard = false;
                    break;
                }
                Some(Ok(message)) => heard |= self.session.hear(message, &mut connection.out),
                Some(Err(error)) => {
                    // Said once for each connection: a flood of nonsense must not become one of log lines.
                    if !std::mem::replace(&mut connection.complained, true) {
                        tracing::warn!(%error, "the host sends what is no message");
                    }
                    self.counters.bad_lines.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.session.settle(&mut connection.out);
        let now = Instant::now();
        let spent = now.duration_since(begun).as_secs_f64();
        self.listening.spend(spent, now);
        heard
    }

    fn hang_up(&mut self) {
        if self.connection.take().is_some() {
            self.session.end();
            self.note(|state| {
                *state = LinkState {
                    last_message: state.last_message,
                    ..LinkState::default()
                };
            });
        }
    }

    fn note(&self, change: impl FnOnce(&mut LinkState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests;
