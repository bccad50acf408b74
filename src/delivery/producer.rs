//! The producer: one VM's part of a host. Lines of the guest, acknowledgements of the broker and
//! confirmations of Consumers go in; lines for the guest and messages for the broker come out.
//! Nothing here does I/O or reads a clock; `now_ms` is any monotonic clock in milliseconds.
//!
//! ```text
//!              connected()              hello                     rows, marks, gaps
//!  (no link) ─────────────> greeting ──────────> subscribed ──────────────┐
//!      ^                       ^                    │    ^                │
//!      │ disconnected()        │ needs_hello():     │    └────────────────┘
//!      └───────────────────────┴── silent, rehello ─┘
//! ```
//! Tables, cursors and windows outlive a session; `hello` tells which of them the guest still backs.
//!
//! | module | job |
//! | --- | --- |
//! | [`session`] | greetings: who is there |
//! | [`lines`], [`polling`] | what the guest says, pushed or asked for |
//! | [`table`], [`instance`] | what is known of a table; a specifier applied to it, and its cursors |
//! | [`publish`], [`outbox`] | from windows to messages, and which of them are on their way |
//! | [`hearing`] | what the broker and Consumers say of them |
//! | [`repair`] | rows that are read and published again |
//! | [`counters`] | what has happened, and what waits |

mod counters;
mod hearing;
mod instance;
mod lines;
mod outbox;
mod polling;
mod publish;
mod repair;
mod session;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::skew::Skew;
use crate::clock::Timestamp;
use crate::descriptor::{Descriptor, Monitor};
use crate::link::{Databases, GuestMessage, MAX_LINE_BYTES, TableId, VERSION};
use crate::name::{DataPoint, Label, PointPattern};
use crate::position::Mark;
use hearing::named;
use instance::Origin;
use outbox::Outbox;
use polling::Polling;
use repair::Asker;
use session::Session;
use table::{Held, Table};

pub use counters::{Backlog, Counters};
pub use hearing::{Confirmation, Heard};
pub use outbox::{MAX_OUTSTANDING_BYTES, MAX_OUTSTANDING_MESSAGES, Output, Publication, Token};
pub use publish::MAX_SAMPLE_BYTES;
pub use table::Latest;

/// The most tables of one VM that a host follows; more are counted and left alone.
pub const MAX_TABLES: usize = 5000;
/// The most tables taken from the lines of one `hello`, those of earlier streams included: the files that a
/// guest may have, over all streams that it keeps. Of them, [`MAX_TABLES`] are followed.
pub const MAX_HELLO_TABLES: usize = 40_000;
/// Bytes of samples that the open raw windows of one VM hold together; over it, they go out early.
pub const MAX_HELD_BYTES: usize = 4 << 20;
/// Bytes that all open windows of one VM hold together, raw and processed, with samples that a later row may
/// replace; over it, those of the table that grew are lost, and announced as a gap.
pub const MAX_WINDOW_BYTES: usize = 16 << 20;
/// Bytes of tables in one line for the guest: a line holds them with its frame and patterns.
const MAX_LIST_BYTES: usize = MAX_LINE_BYTES - (256 << 10);
/// The same hole is asked for again after this time, in milliseconds.
const RESUBSCRIBE_MS: u64 = 500;

/// Which of a descriptor's specifiers a producer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Those of KPIs: the other end is a guest.
    Kpi,
    /// Those of infrastructure: the other end is a [`crate::delivery::spool::Spool`].
    Infra,
}

/// What the hypervisor says a VM is; a guest whose store was made for another one mints a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The domain's UUID.
    pub uuid: Option<String>,
    /// The domain's generation id (libvirt `<genid/>`).
    pub genid: Option<String>,
}

/// One VM's producer.
#[derive(Clone, Debug)]
pub struct Producer {
    source: Source,
    identity: Identity,
    origin: Origin,
    monitors: Vec<Arc<Monitor>>,
    /// Whose word acknowledges; `None` is the broker's PUBACK.
    consumers: Vec<Option<Label>>,
    session: Option<Session>,
    heard_ms: u64,
    greeted_ms: u64,
    /// How rows come if they are not pushed.
    polling: Option<Polling>,
    tables: BTreeMap<TableId, Table>,
    /// What open windows hold, of all tables.
    held: Held,
    out: Outbox,
    next_query: u64,
    counters: Counters,
    skew: Skew,
    /// How full the guest's databases are, as it said last.
    databases: Databases,
}

/// A line that says something impossible.
struct Refused;

impl Producer {
    /// A producer that has heard nothing yet. Its guest is acknowledged by the Consumers that the
    /// descriptor names; where it names none, by the broker's PUBACK.
    pub fn new(source: Source, identity: Identity, descriptor: &Descriptor, now_ms: u64) -> Self {
        Self::with_consumers(source, identity, descriptor, descriptor.consumers(), now_ms)
    }

    /// From the next session on, the guest is asked for rows each `every_ms` milliseconds, instead of
    /// pushing them.
    pub fn poll_every(&mut self, every_ms: u64) {
        self.polling = Some(Polling::new(every_ms));
    }

    /// A producer whose guest is acknowledged by these Consumers and by nothing else.
    pub fn with_consumers(
        source: Source,
        identity: Identity,
        descriptor: &Descriptor,
        consumers: Vec<Label>,
        now_ms: u64,
    ) -> Self {
        Self {
            source,
            identity,
            origin: origin(descriptor),
            monitors: monitors(descriptor, source),
            consumers: named(consumers),
            session: None,
            heard_ms: now_ms,
            greeted_ms: now_ms,
            polling: None,
            tables: BTreeMap::new(),
            held: Held::default(),
            out: Outbox::default(),
            next_query: 0,
            counters: Counters::default(),
            skew: Skew::default(),
            databases: Databases::default(),
        }
    }

    /// Takes a line of the guest's.
    pub fn on_message(&mut self, message: GuestMessage, now_ms: u64) {
        let Some(session) = &mut self.session else {
            return;
        };
        if message.nonce() != session.nonce {
            self.counters.lines_stale += 1;
            return;
        }
        self.heard_ms = now_ms;
        let greeted = session.greeted;
        let taken = match message {
            GuestMessage::Hello {
                version,
                tables,
                stream,
                more,
                ..
            } if version == VERSION => self.on_hello_line(stream, tables, more, now_ms),
            GuestMessage::Alive { databases, .. } if greeted => {
                self.databases = databases.unwrap_or_default();
                Ok(())
            }
            GuestMessage::Polled { id, more, .. } if greeted => self.on_polled(id, more, now_ms),
            // A repair that gets no answer is given up after a while.
            GuestMessage::Failed { .. } if greeted => Ok(()),
            GuestMessage::Rehello { .. } => {
                session.over = true;
                Ok(())
            }
            GuestMessage::Rows(rows) if greeted => self.on_rows(&rows, now_ms),
            GuestMessage::Mark {
                table,
                position,
                epoch,
                time,
                acked,
                ..
            } if greeted => {
                let end = Mark {
                    seq: position.seq,
                    key: position.key,
                    epoch,
                    time,
                };
                self.on_mark(&table, end, acked, now_ms)
            }
            GuestMessage::Gap {
                table,
                after,
                through,
                reason,
                ..
            } if greeted => self.on_gap(&table, after, through, &reason, now_ms),
            _ => Err(Refused),
        };
        if taken.is_err() {
            self.counters.lines_refused += 1;
        }
    }

    /// Takes over a changed descriptor without losing a row: a specifier that stays keeps its
    /// cursors, a changed one begins its windows anew after what it has published.
    pub fn adopt(&mut self, descriptor: &Descriptor, now_ms: u64) {
        self.origin = origin(descriptor);
        self.monitors = monitors(descriptor, self.source);
        let monitors = self.monitors.clone();
        for table in self.tables.values_mut() {
            table.respecify(&monitors);
        }
        let known: Vec<_> = self
            .tables
            .iter()
            .map(|(id, t)| (id.clone(), t.acked))
            .collect();
        for (id, acked) in known {
            self.know(&id, acked, now_ms);
        }
        self.subscribe(now_ms);
    }

    /// How full the guest's databases are, as it said last; empty where it does not say.
    pub fn databases(&self) -> Databases {
        self.databases
    }

    /// Call it about each second.
    pub fn tick(&mut self, now_ms: u64) {
        self.ping(now_ms);
        self.poll_if_due(now_ms);
        let nonce = self.session.as_ref().map(|s| s.nonce);
        let mut next_query = self.next_query;
        let ids: Vec<_> = self.tables.keys().cloned().collect();
        for id in ids {
            let Some(mut hands) = self.hands(&id, now_ms) else {
                continue;
            };
            hands.acknowledge();
            let (instances, mut scope) = hands.split();
            for instance in instances.iter_mut() {
                instance.heartbeat(&mut scope);
                for at in 0..instance.cursors.len() {
                    let published = instance.live.published.seq;
                    let cursor = &mut instance.cursors[at];
                    let (impatient, from) =
                        (cursor.out_of_patience(published, now_ms), cursor.position);
                    if impatient && let Some(nonce) = nonce {
                        cursor.repair = None;
                        let mut asker = Asker {
                            nonce,
                            next_query: &mut next_query,
                        };
                        instance.begin_repair(at, from, &mut asker, &mut scope);
                    }
                    instance.abandon_repair(at, now_ms);
                }
            }
        }
        self.next_query = next_query;
        for table in self.tables.values_mut() {
            table.look(now_ms);
        }
    }

    /// What to do next; drain it after each call.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.next()
    }

    /// Whether more rows may come. While not, stop reading the link: they stay in the guest.
    pub fn accepts_input(&self) -> bool {
        self.out.has_room()
    }

    /// Messages that the broker has not acknowledged.
    pub fn outstanding(&self) -> usize {
        self.out.outstanding()
    }

    /// Bytes of samples in open raw windows; at most [`MAX_HELD_BYTES`].
    pub fn held_bytes(&self) -> usize {
        self.held.raw
    }

    /// Bytes in open windows; at most [`MAX_WINDOW_BYTES`].
    pub fn window_bytes(&self) -> usize {
        self.held.all
    }

    /// The guest said that it is `guest`; that arrived at `host` by the host's clock.
    pub fn observe_clock(&mut self, guest: Timestamp, host: Timestamp, now_ms: u64) {
        self.skew.observe(guest, host, now_ms);
    }

    /// The guest's clock minus the host's as measured, in milliseconds, at most 24 days either way.
    pub fn clock_skew_ms(&self) -> Option<i32> {
        let measured = self.skew.milliseconds()?;
        Some(i32::try_from(measured).unwrap_or(if measured < 0 { i32::MIN } else { i32::MAX }))
    }

    /// What has happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The data points that are followed, those of earlier streams included.
    pub fn points(&self) -> impl Iterator<Item = &DataPoint> {
        let points = self.tables.keys().map(|id| &id.point);
        points.filter(|point| self.follows(point))
    }

    /// The newest row of each point.
    pub fn latest(&self) -> impl Iterator<Item = (&DataPoint, &Latest)> {
        self.tables
            .iter()
            .filter_map(|(id, table)| Some((&id.point, table.latest.as_ref()?)))
    }

    /// Whether a specifier has this point sealed: then nobody here shows what it holds.
    pub fn is_sealed(&self, point: &DataPoint) -> bool {
        let seals = |m: &Arc<Monitor>| m.seal && m.point.matches(point);
        self.monitors.iter().any(seals)
    }

    /// What is subscribed to.
    fn patterns(&self) -> Vec<PointPattern> {
        self.monitors.iter().map(|m| m.point.clone()).collect()
    }

    fn follows(&self, point: &DataPoint) -> bool {
        self.monitors.iter().any(|m| m.point.matches(point))
    }

    /// A table with what publishing from it needs.
    fn hands(&mut self, id: &TableId, now_ms: u64) -> Option<table::Hands<'_>> {
        let clock_skew_ms = self.clock_skew_ms();
        let (id, table) = match self.tables.get_key_value(id) {
            Some((key, _)) => {
                let key = key.clone();
                (key, self.tables.get_mut(id)?)
            }
            None => return None,
        };
        Some(table::Hands {
            nonce: self.session.as_ref().filter(|s| s.greeted).map(|s| s.nonce),
            id,
            instances: &mut table.instances,
            acked: table.acked,
            moved: table.moved,
            sent: &mut table.sent,
            sent_ms: &mut table.sent_ms,
            origin: &self.origin,
            out: &mut self.out,
            counters: &mut self.counters,
            clock_skew_ms,
            now_ms,
        })
    }
}

/// Whether a table fits into a list that has `room` left, and takes it.
fn fits(id: &TableId, room: &mut usize) -> bool {
    let left = room.checked_sub(id.line_bytes());
    *room = left.unwrap_or(0);
    left.is_some()
}

fn origin(descriptor: &Descriptor) -> Origin {
    Origin {
        site: descriptor.primary_site.clone(),
        vm: descriptor.vm.clone(),
        revision: descriptor.revision().into(),
        primary_key: descriptor.primary_key.as_deref().map(Into::into),
    }
}

fn monitors(descriptor: &Descriptor, source: Source) -> Vec<Arc<Monitor>> {
    let ours = |m: &&Monitor| m.point.is_kpi() == (source == Source::Kpi);
    descriptor
        .monitors
        .iter()
        .filter(ours)
        .cloned()
        .map(Arc::new)
        .collect()
}
