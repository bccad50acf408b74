//! The VM's entry in the Directory: when it is said, renewed, changed and taken back. Pure; what is to be published
//! comes out as messages, and what the broker said of the last one goes in.
//!
//! ```text
//!        the VM runs here                  a third of the lease is over, it changed, the connection is new
//! none ──────────────────> held <────────────────────────────────────────────────────────────┐
//!   ^                       │ └──────────────────────────────────────────────────────────────┘
//!   ├── it stopped: a farewell, and the broker's copy is removed
//!   └── it runs elsewhere, or nobody knows: the next host's lease takes the place, or this one expires
//! ```

use std::sync::Arc;

use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::Token;
use vmkpi::descriptor::Descriptor;
use vmkpi::directory::{Entry, ProducerEntry, Side, Subject, Term, encode};
use vmkpi::name::DataPoint;

use super::{Signer, Spec};
use crate::libvirt::{Ended, State};

/// What becomes of entries, as labels.
pub const BECAME: [&str; 3] = ["published", "removed", "refused"];
/// How long to wait after the broker has refused one, in milliseconds.
const REFUSED_MS: u64 = 10_000;

/// What is to become of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The VM is this host's: its entry is kept up.
    Held,
    /// It may arrive, or leave: what is said stays said, and nothing new is.
    Kept,
    /// It has stopped, or delivers no more: the entry is taken back.
    Removed,
    /// It is another host's now, or nobody knows: nothing is said.
    Let,
}

impl Fate {
    /// What becomes of the entry of a VM that is so.
    pub fn of(spec: &Spec) -> Self {
        let domain = &spec.domain;
        let ended = match (spec.leaving, domain.state) {
            (true, _) => spec.ended,
            (false, State::Off) => domain.ended,
            (false, _) if domain.in_transit => return Self::Kept,
            (false, _) => return Self::Held,
        };
        match ended {
            Some(Ended::Stopped) => Self::Removed,
            Some(Ended::Migrated) | None => Self::Let,
        }
    }
}

/// What the entry was made of.
#[derive(Clone, Debug)]
struct Said {
    descriptor: Arc<Descriptor>,
    points: Vec<DataPoint>,
    entry: Entry,
    connects: u64,
    due_ms: u64,
}

/// A message to publish, retained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: String,
    /// What; nothing removes what the broker has.
    pub payload: Vec<u8>,
    /// What the broker's word about it will carry.
    pub token: Token,
}

/// What time it is, and how often the broker was connected to.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The wall clock.
    pub now: Timestamp,
    /// A monotonic clock, in milliseconds.
    pub now_ms: u64,
    /// Connections to the broker that were opened; it may have forgotten what was said on an earlier one.
    pub connects: u64,
}

/// One VM's entry.
#[derive(Debug)]
pub struct Leaseholder {
    signer: Signer,
    lease_seconds: u64,
    said: Option<Said>,
    /// The message of which the broker has said nothing yet: no other is made meanwhile.
    waiting: Option<Token>,
    tokens: u64,
    issued: Timestamp,
    /// What became of entries, as [`BECAME`] has it.
    pub counts: [u64; 3],
    /// When the broker last took one.
    pub taken: Option<Timestamp>,
}

impl Leaseholder {
    /// Nothing is said yet.
    pub fn new(signer: Signer, lease_seconds: u64) -> Self {
        Self {
            signer,
            lease_seconds,
            said: None,
            waiting: None,
            tokens: 0,
            issued: Timestamp::default(),
            counts: [0; 3],
            taken: None,
        }
    }

    /// What is to be published now. `points` are those that there are, in order.
    pub fn step(
        &mut self,
        fate: Fate,
        descriptor: &Arc<Descriptor>,
        points: Vec<DataPoint>,
        at: Moment,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        match fate {
            Fate::Removed => self.remove(at, &mut messages),
            Fate::Let => self.said = None,
            Fate::Kept if self.said.is_none() => {}
            Fate::Held | Fate::Kept => {
                let renamed = |said: &Said| subject(&said.descriptor) != subject(descriptor);
                if self.said.as_ref().is_some_and(renamed) {
                    self.remove(at, &mut messages);
                }
                if self.waiting.is_none() && self.is_due(descriptor, &points, at) {
                    messages.push(self.say(descriptor, points, at));
                }
            }
        }
        messages
    }

    fn is_due(&self, descriptor: &Arc<Descriptor>, points: &[DataPoint], at: Moment) -> bool {
        self.said.as_ref().is_none_or(|said| {
            let same = Arc::ptr_eq(&said.descriptor, descriptor) || said.descriptor == *descriptor;
            !same
                || said.points != points
                || said.connects != at.connects
                || at.now_ms >= said.due_ms
        })
    }

    fn say(&mut self, descriptor: &Arc<Descriptor>, points: Vec<DataPoint>, at: Moment) -> Message {
        let entry = Entry::Producer(ProducerEntry::new(descriptor, &points));
        let term = Term::lasting(self.issue(at.now), self.lease_seconds as f64);
        let subject = subject(descriptor);
        let payload = encode(&subject, term, &entry, self.signer.borrow().as_deref());
        self.said = Some(Said {
            descriptor: Arc::clone(descriptor),
            points,
            entry,
            connects: at.connects,
            due_ms: at.now_ms + self.lease_seconds * 1000 / 3,
        });
        let message = self.message(subject.topic(), payload);
        self.waiting = Some(message.token);
        message
    }

    /// A farewell, which is signed, and then nothing: what is empty bears no signature.
    fn remove(&mut self, at: Moment, messages: &mut Vec<Message>) {
        let Some(said) = self.said.take() else { return };
        let subject = subject(&said.descriptor);
        let term = Term::farewell(self.issue(at.now));
        let payload = encode(&subject, term, &said.entry, self.signer.borrow().as_deref());
        messages.push(self.message(subject.topic(), payload));
        messages.push(self.message(subject.topic(), Vec::new()));
        self.waiting = None;
        self.counts[1] += 1;
    }

    fn message(&mut self, topic: String, payload: Vec<u8>) -> Message {
        self.tokens += 1;
        let token = Token(self.tokens);
        Message {
            topic,
            payload,
            token,
        }
    }

    /// Later than whatever was issued before, whatever the clock says.
    fn issue(&mut self, now: Timestamp) -> Timestamp {
        let next = Timestamp::from_micros(self.issued.as_micros() + 1);
        self.issued = now.max(next);
        self.issued
    }

    /// What the broker said of a message: whether it took it.
    pub fn settled(&mut self, token: Token, taken: bool, at: Moment) {
        if self.waiting != Some(token) {
            return;
        }
        self.waiting = None;
        self.counts[if taken { 0 } else { 2 }] += 1;
        match (&mut self.said, taken) {
            (_, true) => self.taken = Some(at.now),
            (Some(said), false) => {
                // As it is now; when it changes, it is said at once.
                said.due_ms = at.now_ms + REFUSED_MS;
            }
            (None, false) => {}
        }
    }
}

fn subject(descriptor: &Descriptor) -> Subject {
    Subject {
        side: Side::Producer,
        site: descriptor.primary_site.clone(),
        name: descriptor.vm.clone(),
    }
}

#[cfg(test)]
mod tests;
