//! One guest, two hosts, a broker that loses, repeats and reorders, Consumers that confirm: whatever
//! happens on the way, each row is kept exactly once, and each window is the one that a run without
//! faults computes. Time is simulated; a run is determined by its seed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::consumer::{Verdict, first_cursor, judge};
use super::hole::{Hole, Step};
use super::producer::{Confirmation, Heard, Identity, Output, Producer, Source, Token};
use super::spool::{Spool, SpoolLimits};
use super::window::{Closed, Content, Windower};
use crate::clock::Timestamp;
use crate::descriptor::{Descriptor, Format, Spelling};
use crate::link::{GuestMessage, HostMessage, Payload, Row, TableId};
use crate::message::{Body, Event, Sample, SampleBody};
use crate::name::{DataPoint, Label};
use crate::position::{Nonce, Position, RowKey, StreamId};
use crate::value::Value;
use crate::when::When;

mod faults;
mod gaps;
mod limits;
mod pair;
mod respecified;
mod runs;
mod sealed;
mod site;
mod verdict;
#[cfg(feature = "when")]
mod when;

use site::Site;

/// splitmix64: a run must be the same for the same seed, on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

type InstanceId = (TableId, Label);

/// A message a Consumer has accepted, and where its cursor was.
type Kept = (Event, Position);

enum Wire {
    ToGuest(usize, HostMessage),
    ToHost(usize, GuestMessage),
    ToBroker(usize, u64, Token, Event),
    ToSite(usize, Event),
    Confirm(Confirmation),
    Puback(usize, u64, Token),
}

struct World {
    rng: Rng,
    now: u64,
    clock_offset: i64,
    guest: Spool,
    guest_up: bool,
    hosts: Vec<Option<Producer>>,
    /// A host's incarnation: what an earlier one sent to the broker is not acknowledged to it.
    lives: Vec<u64>,
    at: usize,
    both_until: u64,
    cut_until: u64,
    broker_down_until: u64,
    wires: BTreeMap<(u64, u64), Wire>,
    fifo: BTreeMap<(u8, usize), u64>,
    sites: Vec<Site>,
    named: bool,
    /// Hosts ask for rows at an interval.
    polled: bool,
    descriptor: Descriptor,
    stored: BTreeMap<TableId, Vec<Row>>,
    published: BTreeMap<InstanceId, BTreeSet<u64>>,
    /// The rows of the guest's history, as its writer knows it.
    ledger: Vec<(DataPoint, RowKey)>,
    snapshot: Option<Snapshot>,
    rules: Rules,
    /// Some runs end their stores before the faults: then only a mark tells that a row is missing.
    stores_end: u64,
    sent: u64,
}

const COLUMN: &str = "a";
/// Values are 0 to 99: true of most, of some, of few, of none; and undecided.
const PREDICATES: [&str; 5] = ["a >= 10", "a > 50 && a < 90", "a > 97", "a < 0", "b > 0"];
const QUIET: u64 = 120_000;
const END: u64 = QUIET + 1_500_000;

/// A descriptor of one to three specifiers; or `old` with one of them changed. Specifiers from the place
/// `when_from` on have a predicate.
fn describe(rng: &mut Rng, old: Option<&Descriptor>, when_from: Option<u64>) -> Descriptor {
    let mut text = "vm='v'\nprimary_site='s'\n".to_owned();
    for n in 0..=rng.below(3) {
        let interval = [0, 1000, 2000][rng.below(3) as usize];
        let (processed, point) = match old.and_then(|d| d.monitors.get(n as usize)) {
            Some(m) if m.point.is_kpi() => (m.format != Format::Raw, m.point.to_string()),
            _ if n == 0 => (false, "unencrypted/*".to_owned()),
            _ => (
                rng.one_in(2),
                ["unencrypted/*", "unencrypted/a"][rng.below(2) as usize].to_owned(),
            ),
        };
        let (delivery, function) = if processed {
            let delivery = [4000, 6000, 10_000, 14_000][rng.below(4) as usize];
            (
                delivery,
                ["sum", "max", "median", "last"][rng.below(4) as usize],
            )
        } else {
            ([0, 4000, 10_000][rng.below(3) as usize], "")
        };
        // The first specifier takes every row, so that the ledger can be held against it.
        let interval = if n == 0 { 0 } else { interval };
        text += &format!(
            "[[monitor]]\nid='m{n}'\npoint='{point}'\ninterval_ms={interval}\ndelivery_ms={delivery}\n"
        );
        if processed {
            text += &format!("format='processed'\nfunction='{function}'\n");
        }
        if when_from.is_some_and(|from| n >= from) {
            let predicate = PREDICATES[rng.below(PREDICATES.len() as u64) as usize];
            text += &format!("when='{predicate}'\n");
        }
    }
    let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
    Descriptor::parse(&text, Spelling::Toml, &no_file).unwrap()
}

/// What may happen in a run, besides the faults of every run.
#[derive(Clone, Copy, Default)]
struct Rules {
    /// Consumers confirm; else the broker's word acknowledges.
    named: bool,
    /// The store is reverted, and the descriptor changes.
    harsh: bool,
    /// Specifiers have a `when`.
    predicates: bool,
    /// Consumers ask though nobody has named them, and messages to them are lost all the same.
    strangers: bool,
}

impl Rules {
    /// Where the first specifier is held against the ledger, it has none.
    fn when_from(self) -> Option<u64> {
        self.predicates.then_some(u64::from(self.harsh))
    }
}

/// A point in the guest's past, to be reverted to: its store, and its ledger then.
type Snapshot = (Spool, Vec<(DataPoint, RowKey)>);

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let named = rules.named;
        let mut rng = Rng(seed);
        let descriptor = describe(&mut rng, None, rules.when_from());
        let sites = 1 + rng.below(2);
        let sites = (0..sites).map(|n| Site {
            name: format!("c{n}").parse().unwrap(),
            cursors: BTreeMap::new(),
            keys: BTreeSet::new(),
            samples: Vec::new(),
            accepted: BTreeMap::new(),
            deaf_until: 0,
            issued: 0,
            always_named: named && !rules.harsh,
            holes: BTreeMap::new(),
            begun: BTreeMap::new(),
            given_up: BTreeMap::new(),
            heard: BTreeMap::new(),
        });
        let limits = SpoolLimits {
            rows: usize::MAX,
            acknowledged_rows: rng.below(50) as usize,
            page: 25,
        };
        let guest = Spool::new(StreamId(u128::from(rng.next())), limits);
        let mut world = Self {
            sites: sites.collect(),
            rng,
            now: 0,
            clock_offset: 0,
            guest,
            guest_up: true,
            hosts: vec![None, None],
            lives: vec![0, 0],
            at: 0,
            both_until: 0,
            cut_until: 0,
            broker_down_until: 0,
            wires: BTreeMap::new(),
            fifo: BTreeMap::new(),
            named,
            polled: false,
            descriptor,
            stored: BTreeMap::new(),
            published: BTreeMap::new(),
            ledger: Vec::new(),
            snapshot: None,
            rules,
            stores_end: if seed.is_multiple_of(2) {
                QUIET - 20_000
            } else {
                QUIET + 5000
            },
            sent: 0,
        };
        world.start_host(0);
        world
    }

    fn start_host(&mut self, host: usize) {
        let names = if self.named {
            self.sites.iter().map(|s| s.name.clone()).collect()
        } else {
            vec![]
        };
        let identity = Identity::default();
        let mut producer =
            Producer::with_consumers(Source::Kpi, identity, &self.descriptor, names, self.now);
        if self.polled {
            producer.poll_every(3000);
        }
        self.lives[host] += 1;
        self.hosts[host] = Some(producer);
        self.connect(host);
    }

    fn connect(&mut self, host: usize) {
        let nonce = Nonce(u128::from(self.rng.next()));
        let now = self.now;
        if let Some(producer) = &mut self.hosts[host] {
            producer.connected(nonce, now);
        }
    }

    fn clock(&self) -> Timestamp {
        let ms = i64::try_from(self.now).unwrap() + self.clock_offset + 1_000_000_000;
        Timestamp::from_micros(ms * 1000)
    }

    fn reachable(&self, host: usize) -> bool {
        let active = self.at == host || self.now < self.both_until;
        active && self.guest_up && self.now >= self.cut_until
    }

    /// Puts something on its way: in order on each connection, unless `loose`.
    fn post(&mut self, lane: (u8, usize), latest: u64, loose: bool, wire: Wire) {
        let mut due = self.now + 1 + self.rng.below(latest);
        if !loose {
            let last = self.fifo.entry(lane).or_default();
            due = due.max(*last);
            *last = due;
        }
        self.sent += 1;
        self.wires.insert((due, self.sent), wire);
    }

    fn store(&mut self, point: &str) {
        if !self.guest_up {
            return;
        }
        let (point, now) = (point.parse().unwrap(), self.clock());
        let (key, value) = (
            RowKey(self.rng.next()),
            Value::Integer(self.rng.below(100) as i64),
        );
        let payload = Payload::Values(vec![value]);
        self.guest
            .append(&point, [COLUMN.into()].into(), payload, key, now);
        self.ledger.push((point, key));
        self.drain_guest();
    }

    /// Every row ever stored, as the guest's own tables have it (moved rows under their new number).
    fn note_stored(&mut self, rows: &crate::link::Rows) {
        let table = self.stored.entry(rows.table()).or_default();
        for row in &rows.rows {
            match table.iter().position(|r| r.seq == row.seq) {
                Some(at) => table[at] = row.clone(),
                None => table.push(row.clone()),
            }
        }
    }

    fn drain_guest(&mut self) {
        while let Some(message) = self.guest.poll() {
            if let GuestMessage::Rows(rows) = &message {
                self.note_stored(&rows.clone());
            }
            for host in 0..2 {
                if self.reachable(host) && !(self.now < QUIET && self.rng.one_in(60)) {
                    self.post((0, host), 20, false, Wire::ToHost(host, message.clone()));
                }
            }
        }
    }

    fn drain_host(&mut self, host: usize) {
        let (mut lines, mut messages) = (Vec::new(), Vec::new());
        if let Some(producer) = &mut self.hosts[host] {
            while let Some(output) = producer.poll() {
                match output {
                    // Left out, as each line draws from the dice and the seeds below stand for histories.
                    Output::Send(HostMessage::Ping { .. }) => {}
                    Output::Send(line) => lines.push(line),
                    Output::Publish(p) => messages.push(p),
                }
            }
        }
        for line in lines {
            if self.reachable(host) && !(self.now < QUIET && self.rng.one_in(60)) {
                self.post((1, host), 20, false, Wire::ToGuest(host, line));
            }
        }
        for p in messages {
            let wire = Wire::ToBroker(host, self.lives[host], p.token, *p.event);
            self.post((2, host), 60, false, wire);
        }
    }

    fn deliver(&mut self, wire: Wire) {
        let now = self.now;
        match wire {
            Wire::ToGuest(host, line) => {
                if self.reachable(host) {
                    let fresh = StreamId(u128::from(self.rng.next()));
                    self.guest.on_message(line, &mut || fresh);
                    self.drain_guest();
                }
            }
            Wire::ToHost(host, line) => {
                if self.reachable(host)
                    && let Some(p) = &mut self.hosts[host]
                {
                    p.on_message(line, now);
                    self.drain_host(host);
                }
            }
            Wire::ToBroker(host, life, token, event) => self.at_broker(host, life, token, event),
            Wire::ToSite(site, event) => {
                if now < self.sites[site].deaf_until {
                    return;
                }
                if let Some(confirmation) = self.sites[site].on(&event, now) {
                    let loose = self.rng.one_in(20);
                    self.post((4, site), 150, loose, Wire::Confirm(confirmation));
                }
            }
            Wire::Confirm(confirmation) => {
                for host in 0..2 {
                    if let Some(p) = &mut self.hosts[host] {
                        p.on_confirm(&confirmation, now);
                        self.drain_host(host);
                    }
                }
            }
            Wire::Puback(host, life, token) => {
                if self.lives[host] == life
                    && let Some(p) = &mut self.hosts[host]
                {
                    p.on_puback(token, now);
                    self.drain_host(host);
                }
            }
        }
    }

    fn at_broker(&mut self, host: usize, life: u64, token: Token, event: Event) {
        if self.now < self.broker_down_until {
            // QoS 1: a host that is still there sends it again; the order may suffer.
            if self.lives[host] == life && self.hosts[host].is_some() {
                self.post(
                    (2, host),
                    3000,
                    true,
                    Wire::ToBroker(host, life, token, event),
                );
            }
            return;
        }
        let id = (
            TableId {
                stream: event.stream,
                point: event.point.clone(),
            },
            event.specifier.clone(),
        );
        self.published
            .entry(id)
            .or_default()
            .extend(event.after.seq + 1..=event.through.seq);
        let faulty = self.now < QUIET;
        for site in 0..self.sites.len() {
            // In PUBACK mode nobody asks again, so only a Consumer that confirms may lose messages.
            let lossy = self.named || self.rules.strangers;
            if lossy && faulty && self.rng.one_in(25) {
                continue;
            }
            for _ in 0..=u64::from(faulty && self.rng.one_in(20)) {
                let loose = faulty && self.rng.one_in(15);
                self.post(
                    (3, site),
                    if loose { 800 } else { 60 },
                    loose,
                    Wire::ToSite(site, event.clone()),
                );
            }
        }
        self.post(
            (5, host),
            60,
            self.rng.0.is_multiple_of(7),
            Wire::Puback(host, life, token),
        );
    }
}

fn simulate(seed: u64, named: bool, harsh: bool) {
    simulate_by(
        seed,
        Rules {
            named,
            harsh,
            ..Rules::default()
        },
    );
}

fn simulate_by(seed: u64, rules: Rules) {
    let mut world = World::new(seed, rules);
    world.run();
    world.check();
}

fn simulate_polled(seed: u64, harsh: bool) {
    let mut world = World::new(
        seed,
        Rules {
            named: true,
            harsh,
            ..Rules::default()
        },
    );
    world.polled = true;
    world.start_host(0);
    world.run();
    world.check();
}
