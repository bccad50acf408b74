//! What a reader knows of the Directory. Messages go in; what they change, or why they do not count, comes out.
//! Pure: whoever may publish to the broker is not trusted, and a clock reading comes with each message.

use std::collections::BTreeMap;

use super::entry::{Lease, Role, Side, Subject, Term};
use super::wire::{NoLease, Unverified, decode};
use super::{MAX_AHEAD_SECONDS, MAX_ENTRIES, MAX_LEASE_SECONDS, after};
use crate::clock::Timestamp;
use crate::name::{Label, PointPattern};
use crate::sign::{Keyring, Refusal};

/// What a message changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An entry that was not live is.
    New,
    /// An entry says something else than before.
    Changed,
    /// An entry goes on as it was.
    Renewed,
    /// A lease that has expired already: somebody was there.
    Expired,
    /// Whose entry it was has left.
    Left,
    /// The message was known, or it removes what is not there.
    Repeated,
}

/// Why a message does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// It is no lease by its form, or too long.
    Malformed,
    /// It speaks of another site or name than its topic, or its topic is not the Directory's.
    AnotherTopic,
    /// It ends before it begins, or lasts longer than a lease may.
    ImpossibleTerm,
    /// It was issued later than it is now, by far more than clocks differ.
    FromTheFuture,
    /// One that was issued later is known.
    Replayed,
    /// Its signature does not count.
    Signature(Refusal),
    /// More entries than are remembered.
    TooMany,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::AnotherTopic,
        Self::ImpossibleTerm,
        Self::FromTheFuture,
        Self::Replayed,
        Self::Signature(Refusal::Unsigned),
        Self::Signature(Refusal::Malformed),
        Self::Signature(Refusal::Algorithm),
        Self::Signature(Refusal::UnknownKey),
        Self::Signature(Refusal::Signature),
        Self::TooMany,
    ];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AnotherTopic => "another_topic",
            Self::ImpossibleTerm => "impossible_term",
            Self::FromTheFuture => "from_the_future",
            Self::Replayed => "replayed",
            Self::Signature(refusal) => refusal.as_str(),
            Self::TooMany => "too_many",
        }
    }
}

impl From<NoLease> for Refused {
    fn from(why: NoLease) -> Self {
        match why {
            NoLease::Malformed => Self::Malformed,
            NoLease::Elsewhere => Self::AnotherTopic,
            NoLease::Term => Self::ImpossibleTerm,
            NoLease::Signature(refusal) => Self::Signature(refusal),
        }
    }
}

/// How somebody stands in the Directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known.
    Unknown,
    /// Its lease lasts until then.
    Live(Timestamp),
    /// Its lease has expired then: it is dead, or cut off.
    Expired(Timestamp),
    /// It has said that it leaves, or somebody who may has removed it.
    Left,
}

/// What is asked for; what is absent is not asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The primary site.
    pub site: Option<Label>,
    /// The VM.
    pub vm: Option<Label>,
    /// The data points.
    pub point: Option<PointPattern>,
}

impl Query {
    /// Whether an entry is about what is asked for.
    pub fn matches(&self, lease: &Lease) -> bool {
        let fits = |asked: &Option<Label>, name: &Label| asked.as_ref().is_none_or(|a| a == name);
        if !fits(&self.site, &lease.subject.site) {
            return false;
        }
        if let Some(producer) = lease.producer() {
            let delivers = |point: &PointPattern| {
                let mut specifiers = producer.specifiers.iter();
                specifiers.any(|specifier| specifier.point.overlaps(point))
            };
            return fits(&self.vm, &lease.subject.name) && self.point.as_ref().is_none_or(delivers);
        }
        let Some(consumer) = lease.consumer() else {
            return false;
        };
        let takes = |take: &super::Take| {
            let vm = take.vm.as_ref().is_none_or(|vm| fits(&self.vm, vm));
            let points = self.point.as_ref().zip(take.point.as_ref());
            vm && points.is_none_or(|(asked, taken)| asked.overlaps(taken))
        };
        consumer.takes.is_empty() || consumer.takes.iter().any(takes)
    }
}

/// An entry, and what became of it.
#[derive(Clone, Debug)]
struct Known {
    lease: Lease,
    /// It was removed by who may.
    removed: bool,
    /// That it has expired was told.
    told: bool,
}

impl Known {
    fn standing(&self, now: Timestamp) -> Standing {
        let Term { expires_at, .. } = self.lease.term;
        match () {
            () if self.removed || self.lease.term.is_farewell() => Standing::Left,
            () if expires_at > now => Standing::Live(expires_at),
            () => Standing::Expired(expires_at),
        }
    }
}

/// What a reader knows.
#[derive(Debug, Default)]
pub struct Directory {
    ring: Keyring,
    insecure: bool,
    /// By topic: of a message that removes, there is nothing else.
    entries: BTreeMap<String, Known>,
    /// The most of them.
    pub(super) limit: usize,
    refused: BTreeMap<&'static str, u64>,
    unverified: BTreeMap<&'static str, u64>,
}

impl Directory {
    /// A Directory of those whom these keys' owners vouch for. `insecure` takes what they do not, too.
    pub fn new(ring: Keyring, insecure: bool) -> Self {
        Self {
            ring,
            insecure,
            limit: MAX_ENTRIES,
            ..Self::default()
        }
    }

    /// From now on these keys' owners vouch. What was heard before stays: it was believed when it came.
    pub fn believe(&mut self, ring: Keyring) {
        self.ring = ring;
    }

    /// Takes a message on `topic`; an empty one removes what is there.
    ///
    /// # Errors
    /// It does not count, and why; that is counted.
    pub fn hear(&mut self, topic: &str, payload: &[u8], now: Timestamp) -> Result<Heard, Refused> {
        let heard = match (Side::of(topic), payload.is_empty()) {
            (None, _) => Err(Refused::AnotherTopic),
            (Some(_), true) => self.removed(topic, now),
            (Some(side), false) => self.leased(side, topic, payload, now),
        };
        heard.inspect_err(|why| *self.refused.entry(why.as_str()).or_default() += 1)
    }

    /// A message without content bears no signature: for who believes signatures it removes nobody. Who leaves says
    /// a signed farewell first.
    fn removed(&mut self, topic: &str, now: Timestamp) -> Result<Heard, Refused> {
        let Some(known) = self.entries.get_mut(topic) else {
            return Ok(Heard::Repeated);
        };
        match known.standing(now) {
            Standing::Left | Standing::Unknown => Ok(Heard::Repeated),
            _ if !self.insecure => Err(Refused::Signature(Refusal::Unsigned)),
            Standing::Live(_) | Standing::Expired(_) => {
                known.removed = true;
                Ok(Heard::Left)
            }
        }
    }

    fn leased(
        &mut self,
        side: Side,
        topic: &str,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<Heard, Refused> {
        let unverified = decode(side, topic, payload)?;
        let signer = match side {
            Side::Producer => self.vouched_producer(&unverified)?,
            Side::Consumer => Some(self.vouched_consumer(&unverified, now)?),
        };
        let mut lease = unverified.lease;
        lease.signer = signer;
        let term = lease.term;
        if term.issued > after(now, MAX_AHEAD_SECONDS as f64) {
            return Err(Refused::FromTheFuture);
        }
        let before = self.entries.get(topic);
        if let Some(before) = before {
            if before.lease == lease && !before.removed {
                return Ok(Heard::Repeated);
            }
            if term.issued <= before.lease.term.issued {
                return Err(Refused::Replayed);
            }
        }
        let was = before.map_or(Standing::Unknown, |known| known.standing(now));
        let same = before.is_some_and(|known| known.lease.entry == lease.entry);
        let known = Known {
            lease,
            removed: false,
            told: false,
        };
        let is = known.standing(now);
        if before.is_none() && self.entries.len() >= self.limit && !self.make_room(now) {
            return Err(Refused::TooMany);
        }
        self.entries.insert(topic.to_owned(), known);
        Ok(change(was, is, same))
    }

    /// Who signed a Producer's entry, if that was asked for.
    fn vouched_producer(&mut self, of: &Unverified<'_>) -> Result<Option<Box<str>>, Refused> {
        if self.ring.is_empty() && self.insecure {
            return Ok(None);
        }
        let signer = of.signer(&self.ring).map_err(Refused::from);
        self.tolerate(signer.map(Some), || Ok(None))
    }

    /// Who signed a Consumer's entry: always the key that it names. It is believed where that key is in the ring,
    /// or where a Producer who is believed waits for confirmations by it.
    fn vouched_consumer(
        &mut self,
        of: &Unverified<'_>,
        now: Timestamp,
    ) -> Result<Box<str>, Refused> {
        let Some(consumer) = of.lease.consumer() else {
            return Err(Refused::Malformed);
        };
        let key = consumer.key.clone();
        let own = of.signer(&Keyring::from_iter([key.clone()]))?;
        let trusted = self.ring.kids().any(|kid| kid == key.kid());
        if trusted || self.ring.is_empty() && self.insecure {
            return Ok(own);
        }
        let (site, name) = (&of.lease.subject.site, &of.lease.subject.name);
        let mut producers = self.live(Side::Producer, now);
        let named = producers.any(|lease| {
            let confirm = lease.producer().map_or(&[][..], |p| &p.confirm);
            let mut confirm = confirm.iter();
            lease.subject.site == *site && confirm.any(|c| c.name == *name && c.key == key)
        });
        drop(producers);
        match named {
            true => Ok(own),
            false => {
                let refused = Err(Refused::Signature(Refusal::UnknownKey));
                self.tolerate(refused, || Ok(own))
            }
        }
    }

    /// Lets what nobody vouches for pass where that was asked for, and counts it.
    fn tolerate<T>(
        &mut self,
        checked: Result<T, Refused>,
        instead: impl FnOnce() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        match checked {
            Err(why) if self.insecure => {
                *self.unverified.entry(why.as_str()).or_default() += 1;
                instead()
            }
            checked => checked,
        }
    }

    /// Forgets what nobody could replay any more. Whether there is room then.
    fn make_room(&mut self, now: Timestamp) -> bool {
        let lately = after(now, -(MAX_LEASE_SECONDS as f64));
        self.entries
            .retain(|_, known| known.lease.term.issued > lately);
        self.entries.len() < self.limit
    }

    fn live(&self, side: Side, now: Timestamp) -> impl Iterator<Item = &Lease> {
        let known = self.entries.values();
        known
            .filter(move |known| known.lease.subject.side == side)
            .filter(move |known| matches!(known.standing(now), Standing::Live(_)))
            .map(|known| &known.lease)
    }

    /// The live entries of a side that are about what is asked for, by site and name.
    pub fn find<'a>(
        &'a self,
        side: Side,
        query: &'a Query,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a Lease> {
        self.live(side, now).filter(|lease| query.matches(lease))
    }

    /// The topic filters of what the live Producers deliver of what is asked for: nothing else comes by them but
    /// other points of the same specifier, and no point that appears later is missed.
    pub fn filters(&self, query: &Query, now: Timestamp) -> std::collections::BTreeSet<String> {
        let found = self.find(Side::Producer, query, now);
        let filters = found.flat_map(|lease| {
            let specifiers = lease.producer().map_or(&[][..], |p| &p.specifiers);
            let point = query.point.as_ref();
            let filters = specifiers.iter();
            filters.filter_map(move |specifier| specifier.filter(&lease.subject, point))
        });
        filters.collect()
    }

    /// How somebody stands.
    pub fn standing(&self, of: &Subject, now: Timestamp) -> Standing {
        let known = self.entries.get(&of.topic());
        known.map_or(Standing::Unknown, |known| known.standing(now))
    }

    /// What is known of somebody, live or not.
    pub fn lease(&self, topic: &str) -> Option<&Lease> {
        self.entries.get(topic).map(|known| &known.lease)
    }

    /// Everybody whose lease has expired since this was asked before; each lapse is told once.
    pub fn lapsed(&mut self, now: Timestamp) -> Vec<Lease> {
        let mut lapsed = Vec::new();
        for known in self.entries.values_mut().filter(|known| !known.told) {
            if matches!(known.standing(now), Standing::Expired(_)) {
                known.told = true;
                lapsed.push(known.lease.clone());
            }
        }
        lapsed
    }

    /// Every site that an entry is of.
    pub fn sites(&self) -> std::collections::BTreeSet<Label> {
        let entries = self.entries.values();
        entries
            .map(|known| known.lease.subject.site.clone())
            .collect()
    }

    /// What did not count, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(why, count)| (*why, *count))
    }

    /// What nobody who is believed vouches for, and was taken all the same, by reason.
    pub fn unverified(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.unverified.iter().map(|(why, count)| (*why, *count))
    }
}

/// What a lease changed that counts.
fn change(was: Standing, is: Standing, same: bool) -> Heard {
    match (was, is) {
        (_, Standing::Left) => match was {
            Standing::Live(_) | Standing::Expired(_) => Heard::Left,
            _ => Heard::Repeated,
        },
        (_, Standing::Expired(_) | Standing::Unknown) => Heard::Expired,
        (Standing::Live(_), Standing::Live(_)) if same => Heard::Renewed,
        (Standing::Live(_), Standing::Live(_)) => Heard::Changed,
        (_, Standing::Live(_)) => Heard::New,
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
