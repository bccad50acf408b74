//! The ledger of a soak: every message that a subscriber got, in order, against what was stored. It trusts
//! nothing but coverage: each message accounts for the rows (`after`, `through`] of its instance.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use vmkpi::message::{Body, Event};
use vmkpi::name::DataPoint;

use super::descriptors::{FLIP, History};
use super::oracle::{self, Rows};
use crate::mqtt::Received;

/// What is known of a VM.
#[derive(Default)]
pub struct Vm {
    /// The descriptors it has had.
    pub history: History,
    /// Its rows, by point.
    pub tables: HashMap<String, Rows>,
    /// The last row of each of its points.
    pub last: HashMap<String, u64>,
    /// The numbers of the stores that were confirmed.
    pub stored: HashSet<u64>,
    /// The numbers of the stores that were begun.
    pub attempted: HashSet<u64>,
    /// Whether its rows may go before they are acknowledged.
    pub forgets: bool,
}

/// A specifier's match on a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Instance {
    vm: String,
    point: String,
    specifier: String,
    stream: String,
}

/// How far an instance has come.
struct Cursor {
    at: u64,
    moved: Instant,
    /// Rows that no message accounts for, and those that a gap does.
    missing: u64,
    lost: u64,
    /// Rows that nobody had ordered, as the specifier was away.
    away: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Figures {
    /// Messages received, and those of them that said nothing new.
    pub messages: usize,
    /// Those that said nothing new.
    pub repetitions: usize,
    /// Messages of which what they say was computed anew.
    pub computed: usize,
    /// Those of which it could not be, as rows were gone.
    pub unknown: usize,
    /// Confirmed stores that arrived.
    pub stores: usize,
    /// Rows announced as lost, each specifier counted.
    pub lost: u64,
    /// Rows that no message accounts for, as the broker that was killed took it along.
    pub missing: u64,
    /// Rows stored while a specifier was away.
    pub away: u64,
    /// Streams of infrastructure measurements.
    pub residences: usize,
}

/// The judge of one run.
pub struct Judge<'a> {
    vms: &'a BTreeMap<String, Vm>,
    /// When a broker was killed, which may take along what it has acknowledged.
    kills: &'a [Instant],
    cursors: HashMap<Instance, Cursor>,
    /// What arrived of each VM's every row: the number of the store, and the keys.
    arrived: HashMap<String, HashSet<u64>>,
    keys: HashMap<String, HashSet<u64>>,
    figures: Figures,
}

impl<'a> Judge<'a> {
    /// A judge who has seen nothing.
    pub fn new(vms: &'a BTreeMap<String, Vm>, kills: &'a [Instant]) -> Self {
        Self {
            vms,
            kills,
            cursors: HashMap::new(),
            arrived: HashMap::new(),
            keys: HashMap::new(),
            figures: Figures::default(),
        }
    }

    /// Judges everything that came.
    ///
    /// # Errors
    /// Something is missing, came twice, or is wrong.
    pub fn judge(mut self, messages: &[Received]) -> Result<Figures> {
        for message in messages {
            let event = Event::decode(&message.payload)?;
            let told = || format!("{}", String::from_utf8_lossy(&message.payload));
            self.take(&event, message.at).with_context(told)?;
        }
        self.figures.messages = messages.len();
        self.check_ends()?;
        self.check_stores()?;
        let streams: HashSet<_> = self.cursors.keys().filter(|i| i.is_infra()).collect();
        let streams: HashSet<_> = streams.into_iter().map(|i| &i.stream).collect();
        self.figures.residences = streams.len();
        Ok(self.figures)
    }

    fn take(&mut self, event: &Event, at: Instant) -> Result<()> {
        let vm = self.vms.get(event.vm.as_str()).context("no such VM")?;
        let id = event.specifier.as_str();
        let monitor = vm.history.monitor(&event.revision, id);
        let monitor = monitor.context("no such specifier in this revision")?;
        if let Some(rows) = vm.tables.get(&event.point.to_string()) {
            match oracle::check(monitor, event, rows)? {
                true => self.figures.computed += 1,
                false => self.figures.unknown += 1,
            }
        }
        if let Some(from) = self.advance(event, at, vm)? {
            self.keep(event, from)?;
        }
        Ok(())
    }

    /// Moves the cursor. `Some`: what follows it is new.
    fn advance(&mut self, event: &Event, at: Instant, vm: &Vm) -> Result<Option<u64>> {
        let instance = Instance::of(event);
        let (after, through) = (event.after.seq, event.through.seq);
        ensure!(after <= through, "it ends before it begins");
        // Who is there from the beginning misses nothing of it; the rest begins where it begins.
        let first = if instance.specifier == FLIP { after } else { 0 };
        let cursor = self.cursors.entry(instance.clone()).or_insert(Cursor {
            at: first,
            moved: at,
            missing: 0,
            lost: 0,
            away: 0,
        });
        let (from, moved) = (cursor.at, cursor.moved);
        // What the last message of a kind said, even a repetition, reached us: nothing was lost before it.
        cursor.moved = at;
        if after > from {
            let killed = self.kills.iter().any(|kill| moved <= *kill && *kill <= at);
            let away = instance.specifier == FLIP && vm.history.was_away(FLIP);
            ensure!(killed || away, "rows {} to {after} are missing", from + 1);
            match away {
                true => cursor.away += after - from,
                false => cursor.missing += after - from,
            }
        }
        if through <= from {
            self.figures.repetitions += 1;
            return Ok(None);
        }
        if let Body::Gap(reason) = &event.body {
            ensure!(
                vm.forgets && reason.starts_with("retention_"),
                "a gap for {reason} where nothing goes"
            );
            cursor.lost += through - from.max(after);
        }
        cursor.at = through;
        Ok(Some(from))
    }

    /// Notes rows that were delivered by a specifier of every row.
    fn keep(&mut self, event: &Event, from: u64) -> Result<()> {
        let Body::Raw(samples) = &event.body else {
            return Ok(());
        };
        let every = ["every-row", "every-blob"].contains(&event.specifier.as_str());
        for sample in samples.iter().filter(|s| every && s.seq > from) {
            let vm = event.vm.to_string();
            let n = oracle::number_of(sample)?;
            let keys = self.keys.entry(vm.clone()).or_default();
            ensure!(keys.insert(sample.key.0), "row {sample:?} came twice");
            let arrived = self.arrived.entry(vm).or_default();
            ensure!(arrived.insert(n), "store {n} came twice");
        }
        Ok(())
    }

    /// Every instance that is always there has come to the end of its table.
    fn check_ends(&mut self) -> Result<()> {
        let mut streams: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
        for (instance, cursor) in &self.cursors {
            self.figures.lost += cursor.lost;
            self.figures.missing += cursor.missing;
            self.figures.away += cursor.away;
            if instance.is_infra() || instance.specifier == FLIP {
                continue;
            }
            let last = self.vms[&instance.vm].last.get(&instance.point);
            let last = last.with_context(|| format!("{instance:?}: no such table"))?;
            ensure!(
                cursor.at == *last,
                "{instance:?}: came to {} of {last}",
                cursor.at
            );
            let of_table = streams.entry((&instance.vm, &instance.point)).or_default();
            of_table.insert(&instance.stream);
        }
        for (name, vm) in self.vms {
            for point in vm.last.keys() {
                let found = streams.get(&(name.as_str(), point.as_str()));
                ensure!(
                    found.is_some_and(|streams| streams.len() == 1),
                    "{name} {point} came in streams {found:?}"
                );
            }
        }
        Ok(())
    }

    /// Every confirmed store has arrived, and nothing that was never begun.
    fn check_stores(&mut self) -> Result<()> {
        for (name, vm) in self.vms {
            let arrived = self.arrived.get(name).context("nothing arrived")?;
            ensure!(
                arrived.is_subset(&vm.attempted),
                "{name}: something arrived that was never stored"
            );
            let mut missing: Vec<_> = vm.stored.difference(arrived).collect();
            missing.sort();
            let rows = self.cursors.iter().filter(|(instance, _)| {
                instance.vm == *name && instance.specifier.starts_with("every-")
            });
            let known: u64 = rows.map(|(_, c)| c.missing + c.lost).sum();
            if missing.len() as u64 > known {
                bail!("{name}: stores {missing:?} are missing, {known} rows are announced");
            }
            self.figures.stores += vm.stored.len() - missing.len();
        }
        Ok(())
    }
}

impl Instance {
    fn of(event: &Event) -> Self {
        Self {
            vm: event.vm.to_string(),
            point: event.point.to_string(),
            specifier: event.specifier.to_string(),
            stream: event.stream.to_string(),
        }
    }

    fn is_infra(&self) -> bool {
        let point: Result<DataPoint, _> = self.point.parse();
        point.is_ok_and(|point| !matches!(point, DataPoint::Kpi(..)))
    }
}
