//! The link's thread: waits for whatever comes first, hears, answers, sends. What the context says is followed in
//! [`following`].

mod following;

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmkpi::clock::Timestamp;
use vmkpi::link::{Budget, HostMessage, LinkUrl};
use vmkpi::tls::MutualFiles;

use super::connection::Connection;
use super::course::Configured;
use super::prospect::Prospect;
use super::session::Session;
use super::transport::Transport;
use super::{LinkConfig, LinkState};
use crate::context::guidance::Guide;
use crate::counters::Counters;
use crate::feed::Feed;
use crate::protection::Policy;
use crate::store::Store;

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

/// What the link's thread has.
pub struct Server {
    /// The endpoint in force.
    url: LinkUrl,
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
    guide: Arc<Guide>,
    configured: Configured,
    files: Option<MutualFiles>,
    policy: Policy,
    /// The endpoint that is tried beside the one in force.
    prospect: Option<Prospect>,
}

impl Server {
    /// Opens the configured endpoint.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn new(
        config: LinkConfig,
        (store, feed, counters, guide): (Store, Arc<Feed>, Arc<Counters>, Arc<Guide>),
        state: Arc<Mutex<LinkState>>,
        silence: Duration,
    ) -> anyhow::Result<Self> {
        let LinkConfig { url, files, policy } = config;
        let mut server = Self {
            transport: Transport::open(&url, files.as_ref())?,
            session: Session::new(store, Arc::clone(&feed), Arc::clone(&counters)),
            connection: None,
            feed,
            counters,
            state,
            next_marks: Instant::now(),
            silence,
            heard: Instant::now(),
            listening: Budget::new(LISTENING.1, LISTENING.0, Instant::now()),
            guide,
            configured: Configured {
                url: url.clone(),
                has_certificates: files.is_some(),
            },
            url,
            files,
            policy,
            prospect: None,
        };
        let endpoint = server.url.to_string();
        server.note(|state| state.endpoint = endpoint);
        // What is held must not be given to a host that connects before the context has come.
        server.follow();
        Ok(server)
    }

    /// Runs until it is told to stop.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            self.wait();
            if self.guide.heard() {
                self.follow();
            }
            self.try_prospect();
            self.accept();
            let alive = self.turn();
            if !alive {
                self.guide.hang_up();
                self.hang_up();
            }
        }
        self.hang_up();
        if let Some(prospect) = self.prospect.take() {
            prospect.close();
        }
        self.transport.close();
    }

    /// Sleeps until something is there to do.
    fn wait(&self) {
        let mut fds = vec![
            PollFd::new(self.feed.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.guide.as_fd(), PollFlags::POLLIN),
        ];
        let door = self.transport.waits_on(self.connection.is_some());
        let connection = self.connection.as_ref();
        let connection = connection.and_then(|c| c.waits_on(self.listens_to(c)));
        let prospect = self.prospect.as_ref().map(Prospect::waits_on);
        let all = door
            .into_iter()
            .chain(connection)
            .chain(prospect.into_iter().flatten());
        fds.extend(all.map(|(fd, events)| PollFd::new(fd, events)));
        let timeout = PollTimeout::try_from(self.patience()).unwrap_or(PollTimeout::ZERO);
        // Interrupted or not: the turn that follows looks at everything.
        let _ = poll(&mut fds, timeout);
    }

    /// How long there is nothing to do unless somebody says so.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let until = |due: Option<Instant>| due.map(|due| due.saturating_duration_since(now));
        let prospect = until(self.prospect.as_ref().and_then(Prospect::due)).unwrap_or(IDLE);
        let Some(connection) = &self.connection else {
            let door = until(self.transport.due()).unwrap_or(IDLE);
            return IDLE.min(door).min(prospect);
        };
        let waits = connection.has_more() || connection.unheard;
        if (waits && self.listens_to(connection)) || self.session.has_more(connection.unsent()) {
            return Duration::ZERO;
        }
        let rest = self.rests_until().unwrap_or(self.next_marks);
        IDLE.min(self.next_marks.saturating_duration_since(now))
            .min(rest.saturating_duration_since(now))
            .min(prospect)
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
                self.connect(connection);
            }
            Ok(None) => {}
            Err(error) => self.note(|state| state.problem = Some(error.to_string())),
        }
    }

    fn connect(&mut self, connection: Connection) {
        self.connection = Some(connection);
        self.heard = Instant::now();
        self.note(|state| {
            state.problem = None;
            state.connected = true;
            state.since = Some(Timestamp::now());
        });
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
        let was_idle = connection.is_idle_port();
        if listens && !connection.unheard && !connection.receive() {
            return false;
        }
        if connection.is_idle_port() {
            self.session.end();
            if !was_idle {
                // The VM may have moved: another context may be about to come.
                self.guide.hang_up();
            }
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
        let (tables, other) = (self.session.subscribed(), self.session.other_version());
        self.note(|state| {
            state.subscribed_tables = tables;
            state.other_version = other;
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
        if heard {
            self.transport.proven();
        }
        let now = Instant::now();
        let spent = now.duration_since(begun).as_secs_f64();
        self.listening.spend(spent, now);
        heard
    }

    fn hang_up(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        self.session.end();
        let problem = connection.problem.take();
        connection.close();
        self.note(|state| {
            state.connected = false;
            state.subscribed_tables = 0;
            state.other_version = None;
            state.since = None;
            state.problem = problem;
        });
    }

    fn note(&self, change: impl FnOnce(&mut LinkState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
