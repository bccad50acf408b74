//! What an entry says: of whom, for how long, and what is delivered or taken.

use serde::{Deserialize, Serialize};

use super::{MAX_LEASE_SECONDS, MAX_POINTS, MAX_POINTS_BYTES, after};
use crate::clock::Timestamp;
use crate::descriptor::{Descriptor, Format, Monitor};
use crate::name::{DataPoint, Label, PointPattern};
use crate::sign::VerifyingKey;
use crate::topic::Branch;

/// The two sides of the Directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// VMs that deliver.
    Producer,
    /// Those who take what is delivered.
    Consumer,
}

impl Side {
    /// Its branch of the topic tree.
    pub fn branch(self) -> Branch {
        match self {
            Self::Producer => Branch::Producers,
            Self::Consumer => Branch::Consumers,
        }
    }

    /// The side of a topic, if it is the Directory's.
    pub fn of(topic: &str) -> Option<Self> {
        match Branch::of(topic)? {
            Branch::Producers => Some(Self::Producer),
            Branch::Consumers => Some(Self::Consumer),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }

    /// The attribute that names an entry.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Producer => "vm",
            Self::Consumer => "consumer",
        }
    }
}

/// Whose entry it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Producer or Consumer.
    pub side: Side,
    /// The primary site.
    pub site: Label,
    /// The VM by its descriptor, or the Consumer's name.
    pub name: Label,
}

impl Subject {
    /// Where its lease is.
    pub fn topic(&self) -> String {
        self.side.branch().topic(&self.site, &[&self.name])
    }
}

/// From when to when an entry counts, by the clock of who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it was said; of two the later one counts.
    pub issued: Timestamp,
    /// When it ends unless it is renewed. In a farewell the same as `issued`.
    pub expires_at: Timestamp,
}

impl Term {
    /// So many seconds from now on.
    pub fn lasting(now: Timestamp, seconds: f64) -> Self {
        Self {
            issued: now,
            expires_at: after(now, seconds),
        }
    }

    /// The last word: who says it leaves now.
    pub fn farewell(now: Timestamp) -> Self {
        Self::lasting(now, 0.0)
    }

    /// Whether it is the last word.
    pub fn is_farewell(self) -> bool {
        self.issued == self.expires_at
    }

    /// Whether a lease can be so: it does not end before it begins, nor later than any may.
    pub(super) fn is_possible(self) -> bool {
        let latest = after(self.issued, MAX_LEASE_SECONDS as f64);
        (self.issued..=latest).contains(&self.expires_at)
    }
}

/// What a VM delivers by one monitoring specifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specifier {
    /// Its id in the descriptor, and in topics.
    pub id: Label,
    /// The data points it is about.
    pub point: PointPattern,
    /// How often they are sampled, in milliseconds; 0 is every row.
    pub interval_ms: u64,
    /// How often samples are delivered, in milliseconds; 0 is as soon as available.
    pub delivery_ms: u64,
    /// In what form.
    pub format: Format,
    /// Whether it is encrypted for the primary site.
    pub seal: bool,
}

impl Specifier {
    /// The topic filter of what it delivers, and of `asked` alone where that is narrower; `None` where it delivers
    /// nothing of that. It may let other points pass, and misses none that appears later.
    pub fn filter(&self, of: &Subject, asked: Option<&PointPattern>) -> Option<String> {
        let mut points = self.point.topic_filter();
        if let Some(asked) = asked {
            if !self.point.overlaps(asked) {
                return None;
            }
            let narrower = asked.topic_filter();
            if breadth(&narrower) < breadth(&points) {
                points = narrower;
            }
        }
        let below = Branch::Data.topic(&of.site, &[&of.name, &self.id]);
        Some(format!("{below}/{points}"))
    }
}

/// Of two filters that overlap the one with the smaller breadth is the narrower.
fn breadth(filter: &str) -> (bool, std::cmp::Reverse<usize>) {
    let levels = filter.split('/').count();
    (filter.ends_with('#'), std::cmp::Reverse(levels))
}

impl From<&Monitor> for Specifier {
    fn from(monitor: &Monitor) -> Self {
        Self {
            id: monitor.id.clone(),
            point: monitor.point.clone(),
            interval_ms: monitor.interval_ms,
            delivery_ms: monitor.delivery_ms,
            format: monitor.format,
            seal: monitor.seal,
        }
    }
}

/// A Consumer whose confirmations a Producer waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmer {
    /// Its name.
    pub name: Label,
    /// Its public key.
    pub key: VerifyingKey,
}

/// What a Producer says of a VM. Nothing of it is about the host that the VM is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The service that the VM is part of.
    pub service: Option<Label>,
    /// The descriptor's revision.
    pub revision: Box<str>,
    /// What is delivered.
    pub specifiers: Vec<Specifier>,
    /// The data points that there are, as far as they are known: at most [`MAX_POINTS`].
    pub points: Vec<DataPoint>,
    /// How many more there are.
    pub more_points: u64,
    /// Whose confirmations are waited for.
    pub confirm: Vec<Confirmer>,
}

impl ProducerEntry {
    /// What `descriptor` says, with these points of those that there are.
    pub fn new<'a>(
        descriptor: &Descriptor,
        points: impl IntoIterator<Item = &'a DataPoint>,
    ) -> Self {
        let (mut listed, mut more, mut bytes) = (Vec::new(), 0, 0);
        for point in points {
            bytes += point.to_string().len();
            match listed.len() < MAX_POINTS && bytes <= MAX_POINTS_BYTES {
                true => listed.push(point.clone()),
                false => more += 1,
            }
        }
        let confirm = descriptor.confirm.iter().filter_map(|confirm| {
            // The descriptor was checked: its key is one.
            let key = VerifyingKey::from_bytes(confirm.key).ok()?;
            let name = confirm.name.clone();
            Some(Confirmer { name, key })
        });
        Self {
            service: descriptor.service.clone(),
            revision: descriptor.revision().into(),
            specifiers: descriptor.monitors.iter().map(Specifier::from).collect(),
            points: listed,
            more_points: more,
            confirm: confirm.collect(),
        }
    }
}

/// What a Consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It keeps what it takes.
    Collect,
    /// It hands it on to another broker.
    Relay,
    /// It shows it.
    Watch,
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Relay => "relay",
            Self::Watch => "watch",
        }
    }
}

/// What a Consumer takes: of one VM or all, these points or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Of this VM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Label>,
    /// These data points alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointPattern>,
}

/// What a Consumer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerEntry {
    /// What it does with what it takes.
    pub role: Role,
    /// What it takes.
    pub takes: Vec<Take>,
    /// Its public key, which its confirmations are signed with, and this entry.
    pub key: VerifyingKey,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Of a Producer.
    Producer(ProducerEntry),
    /// Of a Consumer.
    Consumer(ConsumerEntry),
}

/// An entry with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub subject: Subject,
    /// From when to when.
    pub term: Term,
    /// What it says.
    pub entry: Entry,
    /// The key that signed it, by its identifier; `None` where nobody's signature was asked for.
    pub signer: Option<Box<str>>,
}

impl Lease {
    /// What a Producer says; a Consumer's entry says none of it.
    pub fn producer(&self) -> Option<&ProducerEntry> {
        match &self.entry {
            Entry::Producer(entry) => Some(entry),
            Entry::Consumer(_) => None,
        }
    }

    /// What a Consumer says.
    pub fn consumer(&self) -> Option<&ConsumerEntry> {
        match &self.entry {
            Entry::Consumer(entry) => Some(entry),
            Entry::Producer(_) => None,
        }
    }
}
